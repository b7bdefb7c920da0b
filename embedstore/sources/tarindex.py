"""What is in a tar, and where: headers only, grouped into samples exactly as the webdataset library groups them."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple, TypeAlias

from embedstore.errors import SourceError
from embedstore.sources.images import IMAGE_EXTENSIONS
from embedstore.sources.places import border

_BLOCK_BYTES = 512

# webdataset's own expressions (its tariterators.py), letter for letter: which members are metadata, and where a name's
# key ends and its suffix begins (at the first dot after the last slash).
_META = re.compile(r"__[^/]*__($|/)")
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Member(NamedTuple):
    """One regular file in a tar: its bytes are ``[offset, offset + length)`` of the tar."""

    name: str
    offset: int
    length: int


Sample: TypeAlias = dict[str, Member]  # by lower-cased suffix, in the order of the tar


def members(file: IO[bytes], shard: str) -> Iterator[Member]:
    """Yield the regular members of an uncompressed tar, reading its headers only.

    The caller may move ``file``'s position between two members.

    Raises
    ------
    SourceError
        ``shard`` is not a tar, is compressed, or is damaged or cut short. tarfile itself would end quietly at a
        damaged header, or at the end of a file cut between two members, and rows would be missing.
    """
    _refuse_compressed(file, shard)
    with border(f"{shard} as a tar (is it whole?)"):
        # UTF-8 whatever the locale: keys must not depend on the machine that lists them.
        tar = tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    while True:
        with border(f"{shard} as a tar (is it whole?)"):
            header = tar.next()
            # tarfile remembers every header otherwise: gigabytes for millions.
            tar.members.clear()  # type: ignore[attr-defined]
        if header is None:
            break
        if header.isreg():
            if header.issparse():
                raise SourceError(
                    f"{shard}: {header.name!r} is stored as a sparse file; write the tar without --sparse"
                )
            yield Member(header.name, header.offset_data, header.size)
    _check_end(file, shard, tar.offset)


def _refuse_compressed(file: IO[bytes], shard: str) -> None:
    with border(shard):
        file.seek(0)
        head = file.read(6)
        file.seek(0)
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            raise SourceError(
                f"{shard} is compressed with {kind}. Images are read by their place in the tar, so decompress it"
                " first (images hardly shrink anyway)"
            )


def _check_end(file: IO[bytes], shard: str, offset: int) -> None:
    with border(shard):
        file.seek(offset)
        block = file.read(_BLOCK_BYTES)
    if len(block) == _BLOCK_BYTES and not block.strip(b"\0"):
        return
    if not block:
        raise SourceError(
            f"{shard} ends at byte {offset} without the zero blocks that close a tar: it was probably cut short. Copy"
            " it again; if you know that it is whole, `truncate -s +1024` on a copy adds them"
        )
    raise SourceError(f"{shard} is damaged at byte {offset}: no tar header there. Copy it again")


def samples(found: Iterable[Member], shard: str) -> Iterator[tuple[str, Sample]]:
    """Group consecutive members with the same key, as ``webdataset.group_by_keys`` does.

    Skipped, as there: metadata (``__x__`` at the top, and what lies below it) and members without a key or a dot.

    Raises
    ------
    SourceError
        One sample has the same suffix twice.
    """
    current: str | None = None
    sample: Sample = {}
    for member in found:
        match = _KEY_AND_SUFFIX.match(member.name)
        if match is None or _META.match(member.name):
            continue
        key, suffix = match[1], match[2].lower()
        if key != current:
            if current is not None and _valid(sample):
                yield current, sample
            current, sample = key, {}
        if suffix in sample or suffix in ("__key__", "__url__"):  # names that webdataset keeps for itself
            raise SourceError(f"{shard}: sample {key!r} has .{suffix} twice; every suffix of a sample must differ")
        sample[suffix] = member
    if current is not None and _valid(sample):
        yield current, sample


def _valid(sample: Sample) -> bool:
    """False for a sample that webdataset drops as marked bad."""
    return "__bad__" not in sample or sample["__bad__"].length == 0


def image_member(sample: Sample) -> Member | None:
    """Choose the member that is the sample's image; None where it has none.

    The first of IMAGE_EXTENSIONS that is there; ``seg.png`` and the like (several dots) only where no plain one is.
    """
    for extension in IMAGE_EXTENSIONS:
        if extension in sample:
            return sample[extension]
    for extension in IMAGE_EXTENSIONS:
        for suffix, member in sample.items():
            if suffix.endswith(f".{extension}"):
                return member
    return None
