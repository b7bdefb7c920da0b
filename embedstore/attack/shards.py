"""What an attack leaves behind: WebDataset shards of images, and arrays beside them, one file of each a block.

    OUT/attack.json                what was done to what, written first
    OUT/adversarial/NNNNNN.tar     KEY.png, KEY.json, KEY.cls
    OUT/clean/NNNNNN.tar           the same images before, at the model's input size
    OUT/target/NNNNNN.tar          the image that each was to become like, where images were aimed at
    OUT/float/NNNNNN.npz           features before rounding, norms and traces
    OUT/done/NNNNNN.json           SHA-256 of each of these files, written last: the block is done

The bytes depend on nothing but what was asked: no times, no users, no order of work.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from embedstore.errors import FingerprintMismatch, NotAvailable, StoreCorrupt, UsageError
from embedstore.records import fingerprint

DECLARATION = "attack.json"
FORMAT = 1


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


def write_shard(folder: Path, block: int, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write ``folder/NNNNNN.tar`` with webdataset's ShardWriter.

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
    refuse_foreign(out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(json_bytes(content)))


def refuse_foreign(out: Path) -> None:
    """Raise UsageError if something other than an attack is in the way."""
    if not out.exists() or (out / DECLARATION).is_file():
        return
    if not out.is_dir() or {entry.name for entry in out.iterdir()} - {f"{DECLARATION}.partial"}:
        raise UsageError(f"{out} exists and holds no attack of ours; give a new folder")


def read_declaration(out: Path) -> dict[str, Any]:
    """What ``attack.json`` says.

    Raises
    ------
    NotAvailable
        There is none.
    StoreCorrupt
        It is damaged.
    UsageError
        It is not of our format.
    """
    path = out / DECLARATION
    if not path.is_file():
        raise NotAvailable(f"there is no attack in {out}: it has no {DECLARATION}; `embedstore attack` makes one")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreCorrupt(
            f"{path} is damaged: {error}. Restore it, for without it nobody knows what the images beside it are; or "
            f"attack into another folder"
        ) from error
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
        return _sums(out, block) == {folder: _sha256(out, folder, block) for folder in (*folders, "float")}
    except FileNotFoundError:
        return False


def was_declared(out: Path, block: int) -> bool:
    """Whether a block was done once."""
    return _path(out, "done", block).exists()


def write_block(out: Path, block: int, arrays: Mapping[str, npt.NDArray[Any]], folders: Iterable[str]) -> None:
    """Write the arrays of one block whose shards are in these folders, and declare it done."""
    whole: dict[str, Any] = dict(arrays)
    write_whole(_path(out, "float", block), lambda file: np.savez(file, **whole))
    sums = {folder: _sha256(out, folder, block) for folder in (*folders, "float")}
    write_whole(_path(out, "done", block), lambda file: file.write(json_bytes(dict(sorted(sums.items())))))


def read_block(out: Path, block: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one block; NotAvailable where it is not done, StoreCorrupt where its file is damaged."""
    path, sums = _path(out, "float", block), _sums(out, block)
    if sums is None or not path.is_file():
        raise NotAvailable(f"the attack in {out} is not finished: block {block} is missing; run the same command again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sums.get("float"):
        raise StoreCorrupt(f"{path} is damaged; run the same attack again, it makes that block anew")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)


def arrays_digest(out: Path) -> str:
    """SHA-256 (hex) of the arrays of all blocks of a finished attack: they differ where it was made twice otherwise."""
    blocks = blocks_of(read_declaration(out))
    return fingerprint([(_sums(out, block) or {}).get("float") for block, _, _ in blocks])


def _path(out: Path, folder: str, block: int) -> Path:
    return out / folder / f"{block:06d}.{ {'float': 'npz', 'done': 'json'}.get(folder, 'tar') }"


def _sha256(out: Path, folder: str, block: int) -> str:
    with _path(out, folder, block).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(out: Path, block: int) -> dict[str, Any] | None:
    """What :func:`write_block` declared; None where that is not there, or damaged."""
    try:
        found = json.loads(_path(out, "done", block).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_attack(out: Path) -> Attacked:
    """Read all blocks of an attack; everything but the pixels, in memory.

    Raises
    ------
    NotAvailable
        There is none, or it is not finished.
    StoreCorrupt
        A file is damaged.
    UsageError
        It is not of our format.
    """
    declaration = read_declaration(out)
    parts = [read_block(out, block) for block, _, _ in blocks_of(declaration)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "trace_steps"}
    return Attacked(declaration, {**whole, "trace_steps": parts[0]["trace_steps"]})
