"""Images in WebDataset shards: uncompressed tars whose members share a key."""

from __future__ import annotations

import contextlib
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import IO, Any

import numpy as np

from embedstore.errors import ImageError, SourceError, redact
from embedstore.records import Rows, Shard
from embedstore.sources.base import Payload
from embedstore.sources.classes import check_label
from embedstore.sources.images import IMAGE_EXTENSIONS, readable, too_large
from embedstore.sources.listing import PART_ROWS, Listing
from embedstore.sources.naming import choices
from embedstore.sources.places import FileSystem, base_name, border, locate
from embedstore.sources.reading import Fetch, ranges, size_of, spans
from embedstore.sources.tarindex import Member, Sample, image_member, members, samples

CAPTION_BYTES = 1 << 20  # a thousand times what any text tower reads
_LABEL_BYTES = 64  # a longer .cls is no integer; it is not worth reading to say so
_LABEL = re.compile(rb"\s*[+-]?[0-9]{1,10}\s*")


class TarSource:
    """WebDataset shards, in order; made by :func:`embedstore.sources.open_source`.

    Parameters
    ----------
    spec : str
        What the user asked for. It names the file system; where it holds secrets, only the redacted form is shown.
    paths : sequence of str
        The shards, as that file system calls them.
    dataset, split : str
    class_names : tuple of str, or None
    """

    def __init__(
        self, spec: str, paths: Sequence[str], *, dataset: str, split: str, class_names: tuple[str, ...] | None
    ) -> None:
        self.dataset = dataset
        self.split = split
        self._spec = spec
        self._paths = tuple(paths)
        self._class_names = class_names
        # Of the shard whose captions were asked for last: its path, the extension, and the texts by key.
        self._captions: tuple[str, str, dict[str, str]] | None = None
        self._sure: set[str] = set()  # remote shards that this process knows to be the ones that were listed
        self._by_name: dict[str, list[str]] | None = None

    def __repr__(self) -> str:
        return f"<TarSource {redact(self._spec)}: {self.dataset}/{self.split}, {len(self._paths)} shard(s)>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what this process knows; the captions can be many, and all of it is quickly made again."""
        return {**self.__dict__, "_captions": None, "_sure": set(), "_by_name": None}

    def scan(self, limit: int | None = None) -> Rows:
        """List one row per sample, image or not, from the shards' headers and their ``.cls`` members.

        Raises
        ------
        SourceError
            A shard is missing, compressed, damaged or cut short; a key or suffix repeats; a label is no integer or has
            no class name. The message names the shard, and the key where there is one.
        """
        rows = Listing(self._parts(), limit)
        if not len(rows):
            names = choices(shard.name for shard in rows.shards)
            raise SourceError(f"{rows.source}: no samples in {len(rows.shards)} shard(s): {names}")
        return rows

    def _parts(self) -> Iterator[Rows]:
        part = _Part(self._class_names, redact(self._spec))
        for path in self._paths:
            with self._open(path) as file:
                size = file.seek(0, 2)
                part.shards.append(Shard(self._name(path), size))
                for key, sample in samples(members(file, self._name(path)), self._name(path)):
                    part.add(key, sample, file)
                    if len(part.keys) == PART_ROWS:
                        yield part.taken()
        yield part.taken()

    def read(self, rows: Rows, start: int, stop: int) -> Iterator[Payload]:
        """Yield each row's image bytes; neighbouring images of a shard come in one read, at most 32 MB or one image."""
        for number, run in _runs(rows, start, stop):
            with self._checked(rows, number) as (fetch, _):
                for first, last, piece in spans(rows, run):
                    if last > rows.shards[number].size:
                        raise _beyond(rows, number, piece)
                    data = fetch(first, last) if first >= 0 else b""
                    for row in piece:
                        yield _image(rows, row, data, first)

    def captions(self, rows: Rows, start: int, stop: int, extension: str) -> Iterator[str | None]:
        """Yield the text of each row's ``KEY.<extension>`` member; each shard is gone through once for all of them.

        Bytes that are not UTF-8 become U+FFFD.
        """
        suffix = extension.lower().removeprefix(".")
        for number, run in _runs(rows, start, stop):
            with self._checked(rows, number) as (_, path):
                texts = self._texts(path, suffix)
                yield from (texts.get(rows.keys[row]) for row in run)

    def _files(self) -> FileSystem:
        return locate(self._spec)[0]

    def _name(self, path: str) -> str:
        return base_name(path)

    def _shown(self, path: str) -> str:
        return redact(path)

    def _open(self, path: str) -> IO[bytes]:
        fs = self._files()
        with border(self._shown(path)):
            file: IO[bytes] = fs.open(path, "rb")
            return file

    @contextlib.contextmanager
    def _checked(self, rows: Rows, number: int) -> Iterator[tuple[Fetch, str]]:
        """Open a shard that rows point into, making sure that it is still the one they were read from.

        A remote shard is asked for its size once by each process, for that costs as much as reading; others every time.
        """
        listed, path = rows.shards[number], self._path(rows, number)
        fs = self._files()
        with ranges(fs, path, self._shown(path)) as (fetch, size):
            if size is None and path in self._sure:
                size = listed.size
            if size is None:
                size = size_of(fs, path)
            if size != listed.size:
                raise SourceError(
                    f"{listed.name} has changed since it was listed: {listed.size} bytes then, {size} now. Restore it,"
                    " or scan again under another data set name"
                )
            self._sure.add(path)
            yield fetch, path

    def _path(self, rows: Rows, number: int) -> str:
        """Where a listed shard is, by its name: rows that grew list new shards last; a glob sorts them in between."""
        name = rows.shards[number].name
        if number < len(self._paths) and self._name(self._paths[number]) == name:
            return self._paths[number]
        if self._by_name is None:
            self._by_name = {}
            for path in self._paths:
                self._by_name.setdefault(self._name(path), []).append(path)
        found = self._by_name.get(name, [])
        if len(found) != 1:
            raise SourceError(
                f"the rows were listed from shard {number} = {name!r}, which {redact(self._spec)}"
                f" {'has several of' if found else 'does not have'}. Give the source that was scanned, or scan again"
                " under another data set name"
            )
        return found[0]

    def _texts(self, path: str, suffix: str) -> dict[str, str]:
        """Captions of one shard by key, read along with its headers: in a remote shard that is one pass over it."""
        if self._captions is None or self._captions[:2] != (path, suffix):
            name, texts = self._name(path), {}
            with self._open(path) as file:
                for key, sample in samples(members(file, name), name):
                    if suffix in sample:
                        texts[key] = _text(key, sample[suffix], file, name)
            self._captions = (path, suffix, texts)
        return self._captions[2]


class _Part:
    """Rows while they are collected, column by column, and all shards so far."""

    def __init__(self, class_names: tuple[str, ...] | None, source: str) -> None:
        self.class_names, self.source = class_names, source
        self.shards: list[Shard] = []
        self._begin()

    def _begin(self) -> None:
        self.keys: list[str] = []
        self.labels, self.shard = array("i"), array("i")
        self.offset, self.length = array("q"), array("q")

    def add(self, key: str, sample: Sample, file: IO[bytes]) -> None:
        image = image_member(sample)
        self.labels.append(_label(key, sample, file, self.shards[-1].name, self.class_names))
        self.keys.append(key)
        self.shard.append(len(self.shards) - 1)
        self.offset.append(-1 if image is None else image.offset)
        self.length.append(-1 if image is None else image.length)

    def taken(self) -> Rows:
        """What was collected; what follows begins anew."""
        rows = Rows(
            keys=self.keys,
            labels=np.array(self.labels, dtype=np.int32),
            shard=np.array(self.shard, dtype=np.int32),
            offset=np.array(self.offset, dtype=np.int64),
            length=np.array(self.length, dtype=np.int64),
            shards=tuple(self.shards),
            class_names=self.class_names,
            source=self.source,
        )
        self._begin()
        return rows


def _runs(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
    """Rows of a slice, in order, in runs that lie in the same shard."""
    wanted = range(*slice(start, stop).indices(len(rows)))
    for number, run in groupby(wanted, key=lambda row: int(rows.shard[row])):
        yield number, list(run)


def _bytes(file: IO[bytes], member: Member, shard: str) -> bytes:
    with border(shard):
        file.seek(member.offset)
        data = file.read(member.length)
    if len(data) != member.length:
        raise SourceError(f"{shard}: {member.name!r} should have {member.length} bytes, but {len(data)} came")
    return data


def _text(key: str, member: Member, file: IO[bytes], shard: str) -> str:
    if member.length > CAPTION_BYTES:
        raise SourceError(f"{shard}: caption of {key!r} has {member.length} bytes; at most {CAPTION_BYTES} are read")
    return _bytes(file, member, shard).decode("utf-8", errors="replace")


def _image(rows: Rows, row: int, data: bytes, start: int) -> Payload:
    """The image of one row, cut from bytes of its shard that begin at ``start``."""
    offset, length = int(rows.offset[row]), int(rows.length[row])
    if offset < 0:
        return ImageError(f"no image member in sample {rows.keys[row]!r} (looked for .{', .'.join(IMAGE_EXTENSIONS)})")
    if not readable(length):
        return ImageError(f"{rows.keys[row]}: {too_large(length)}")
    return data[offset - start : offset - start + length]


def _beyond(rows: Rows, number: int, piece: Sequence[int]) -> SourceError:
    shard = rows.shards[number]
    ends = {rows.keys[row]: int(rows.offset[row]) + int(rows.length[row]) for row in piece}
    key = next(key for key, end in ends.items() if end > shard.size)
    return SourceError(
        f"{shard.name}: the rows say that {key!r} ends at byte {ends[key]}, but the shard has {shard.size}"
    )


def _label(key: str, sample: Sample, file: IO[bytes], shard: str, class_names: tuple[str, ...] | None) -> int:
    member = sample.get("cls")
    if member is None:
        return -1
    too_long = member.length > _LABEL_BYTES
    text = _bytes(file, member._replace(length=_LABEL_BYTES) if too_long else member, shard)
    if too_long or not _LABEL.fullmatch(text):
        raise SourceError(f"{shard}: label of {key!r} must be an integer; its .cls says {text[:20]!r}")
    label = int(text)
    if not -1 <= label < 2**31:
        raise SourceError(f"{shard}: label of {key!r} must be -1 (unknown) or a class index; its .cls says {label}")
    check_label(label, class_names, f"{shard}: {key!r}")
    return label
