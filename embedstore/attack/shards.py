"""What an attack leaves behind: WebDataset shards of images, and arrays beside them, one file of each a block.

    OUT/attack.json                what was done to what, written first
    OUT/adversarial/NNNNNN.tar     KEY.png, KEY.json, KEY.cls
    OUT/clean/NNNNNN.tar           the same images before, at the model's input size
    OUT/target/NNNNNN.tar          the image that each was to become like, where images were aimed at
    OUT/float/NNNNNN.npz           features before rounding, norms and traces; and the SHA-256 of the block's shards

The bytes depend on nothing but what was asked: no times, no users, no order of work.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from embedstore.errors import FingerprintMismatch, NotAvailable, StoreCorrupt, UsageError

DECLARATION = "attack.json"
FORMAT = 1
OF_BLOCKS = ("trace_steps", "shards")  # arrays that are of a block, and not of its images one by one


def member_key(key: str) -> str:
    """A key as it stands in the shards: percent-encoded where a WebDataset would take it apart, or lose it.

    Letters, digits, ``-_~`` and slashes stay, but for a slash at the beginning; dots, spaces and all else become
    ``%XX``. A folder's ``cat/0.png`` is ``cat/0%2Epng``. :func:`original_key` gives the key again.
    """
    quoted = quote(key, safe="/").replace(".", "%2E")
    for first, instead in (("/", "%2F"), ("__", "%5F_")):  # an absolute path; and what WebDatasets take for metadata
        if quoted.startswith(first):
            return instead + quoted.removeprefix(first)
    return quoted


def original_key(member: str) -> str:
    """The key that :func:`member_key` was given."""
    return unquote(member)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(3, H, W) uint8 as a PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")
    return file.getvalue()


def json_bytes(value: Any) -> bytes:
    """Indented JSON, the same for the same value; no NaN."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file that is there whole or not at all, whether the process dies or the power goes."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_shard(folder: Path, block: int, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> str:
    """Write ``folder/NNNNNN.tar`` with webdataset's ShardWriter, and return its SHA-256.

    Parameters
    ----------
    samples : iterable of (key, {extension: content})
        Keys as :func:`member_key` gives them.
    """
    from webdataset import ShardWriter

    def write(file: IO[bytes]) -> None:
        # Opened by us: webdataset would run a path that begins with "pipe:", and fill in a "%" in one.
        fixed = {"mtime": 0, "user": "", "group": "", "mode": 0o644, "encoder": False}
        whole = {"maxcount": sys.maxsize, "maxsize": sys.maxsize}  # or it would begin another file
        with ShardWriter("%06d.tar", start_shard=block, verbose=0, opener=lambda _: file, **whole, **fixed) as writer:
            for key, members in samples:
                writer.write({"__key__": key, **members})

    write_whole(folder / f"{block:06d}.tar", write)
    return _sha256(folder / f"{block:06d}.tar")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def declare(out: Path, content: Mapping[str, Any]) -> None:
    """Begin an attack in a folder, or find that the one there is the same.

    Raises
    ------
    UsageError
        Something else is in the way.
    FingerprintMismatch
        Another attack was begun there; the message names the first difference. ``versions`` may differ.
    """
    path = out / DECLARATION
    if path.is_file():
        stored = read_declaration(out)
        for name, (there, asked) in _differences(stored, content):
            raise FingerprintMismatch(
                f"{out} holds another attack: {name} is {there!r} there, and {asked!r} is asked for. Repeat the stored "
                f"setting, or give another --out"
            )
        return
    if out.exists() and (not out.is_dir() or {entry.name for entry in out.iterdir()} - {f"{DECLARATION}.partial"}):
        raise UsageError(f"{out} exists and holds no attack of ours; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(json_bytes(content)))


def read_declaration(out: Path) -> dict[str, Any]:
    """What ``attack.json`` says; NotAvailable where there is none, UsageError where it is not of our format."""
    path = out / DECLARATION
    if not path.is_file():
        raise NotAvailable(f"there is no attack in {out}: it has no {DECLARATION}; `embedstore attack` makes one")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"{path} is not of format {FORMAT}, which this version reads")
    return content


def _differences(
    stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterable[tuple[str, tuple[Any, Any]]]:
    for name in dict.fromkeys([*asked, *stored]):
        if prefix + name in ("versions", "fingerprint"):
            continue
        there, now = stored.get(name), asked.get(name)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            yield from _differences(there, now, f"{prefix}{name}.")
        elif there != now:
            yield prefix + name, (there, now)


@dataclass(frozen=True)
class Attacked:
    """A finished attack: what :func:`read_attack` finds in its folder. N is the number of images.

    Attributes
    ----------
    declaration : dict
        ``attack.json``.
    arrays : dict of str to array
        ``keys`` (N,) str, as in the shards; ``ood_row`` and ``target_row`` (N,) int64, rows of the store's splits, the
        latter -1 where nothing in particular was aimed at; ``labels`` (N,) int32; ``reasons`` (N,) str, why an image
        failed, or empty; ``trace_steps`` (T,); and the arrays of :class:`embedstore.attack.Perturbed` by their names,
        without pixels: snapshots as ``step-K``, and ``joint:NAME`` beside features where the head is not one matrix.
    """

    declaration: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.arrays["keys"])

    @property
    def failed(self) -> dict[str, str]:
        """``"STAGE: why"`` by the original key of each image that failed."""
        reasons = zip(self.arrays["keys"].tolist(), self.arrays["reasons"].tolist(), strict=True)
        return {original_key(key): reason for key, reason in reasons if reason}


def blocks_of(declaration: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """``(block, start, stop)`` of every block of an attack."""
    size, number = int(declaration["block_rows"]), int(declaration["num"])
    return [(block, start, min(start + size, number)) for block, start in enumerate(range(0, number, size))]


def is_done(out: Path, block: int, folders: Iterable[str]) -> bool:
    """Whether every file of a block is there, and holds what was written."""
    try:
        known = dict(line.split() for line in read_block(out, block)["shards"].tolist())
        return known == {folder: _sha256(out / folder / f"{block:06d}.tar") for folder in folders}
    except (NotAvailable, StoreCorrupt, FileNotFoundError):
        return False


def write_block(out: Path, block: int, arrays: Mapping[str, npt.NDArray[Any]], shards: Mapping[str, str]) -> None:
    """Write the arrays of one block, last of its files; `shards` has the SHA-256 of each folder's."""
    digests = np.array([f"{folder} {digest}" for folder, digest in sorted(shards.items())])
    whole: dict[str, Any] = {**arrays, "shards": digests}
    write_whole(_arrays_of(out, block), lambda file: np.savez(file, **whole))


def read_block(out: Path, block: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one block; NotAvailable where it is not done, StoreCorrupt where its file is damaged."""
    path = _arrays_of(out, block)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise NotAvailable(
            f"the attack in {out} is not finished: {path.name} is missing; run the same command again"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise StoreCorrupt(
            f"{path} is damaged ({error}); run the same attack again, it makes that block anew"
        ) from error


def _arrays_of(out: Path, block: int) -> Path:
    return out / "float" / f"{block:06d}.npz"


def read_attack(out: Path) -> Attacked:
    """Read all blocks of an attack; everything but the pixels, in memory.

    Raises
    ------
    NotAvailable
        There is none, or it is not finished.
    StoreCorrupt
        A file of arrays is damaged.
    UsageError
        It is not of our format.
    """
    declaration = read_declaration(out)
    parts = [read_block(out, block) for block, _, _ in blocks_of(declaration)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name not in OF_BLOCKS}
    return Attacked(declaration, {**whole, "trace_steps": parts[0]["trace_steps"]})
