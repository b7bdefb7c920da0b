"""Chunks of arrays over rows, written and read without what Zarr does for arrays of any form.

The format fixes one form for every array of numbers: a chunk is the bytes of a block's rows and their checksum. What
is of another form, or looks damaged, is left to Zarr.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

_CHECKSUM = 4  # bytes, at the end of each chunk
_READERS = 2  # files read at once: one is read while the checksum of another is computed


def write_block(start: int, stop: int, columns: Sequence[tuple[zarr.Array[Any], npt.NDArray[Any] | None]]) -> None:
    """Write rows ``[start, stop)`` of several arrays, which are a block: one after the other, in this order.

    Where there are no values, the chunk is removed. Files are written here. Whatever else there is Zarr writes, in a
    thread of its own; one hand-over does for all.
    """
    if all(_is_file(array, start, stop, values) for array, values in columns):
        for array, values in columns:
            _write_file(array, start // array.chunks[0], values)
        return

    async def each() -> None:
        for array, values in columns:
            await _write_chunk(array, start, stop, values)

    sync(each())


async def _write_chunk(array: zarr.Array[Any], start: int, stop: int, values: npt.NDArray[Any] | None) -> None:
    chunk = array.store_path / _chunk_key(array, start // array.chunks[0])
    if values is None:
        await chunk.delete()
    elif values.shape != (shape := (stop - start, *array.shape[1:])):  # Zarr would write a chunk of that shape
        raise ValueError(f"rows {start} to {stop} of {array.path!r} have the shape {shape}, not {values.shape}")
    elif _fixed(array) and _is_chunk(array, start, stop):
        await chunk.set(default_buffer_prototype().buffer.from_array_like(_encoded(array, values)))
    else:
        await array.async_array.setitem(slice(start, stop), values)


def _is_file(array: zarr.Array[Any], start: int, stop: int, values: npt.NDArray[Any] | None) -> bool:
    """Whether a chunk is a file of the one form, and these are its values."""
    if not isinstance(array.store, LocalStore) or array.store.read_only:
        return False
    fits = values is not None and values.shape == (stop - start, *array.shape[1:])
    return values is None or (fits and _fixed(array) and _is_chunk(array, start, stop))


def _write_file(array: zarr.Array[Any], block: int, values: npt.NDArray[Any] | None) -> None:
    """Write a chunk's file beside its place and move it, as Zarr does; remove it where there are no values."""
    path = _folder(array) / _chunk_key(array, block)
    if values is None:
        path.unlink(missing_ok=True)
        return
    encoded: Any = _encoded(array, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(encoded)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _folder(array: zarr.Array[Any]) -> Path:
    store: Any = array.store
    folder: Path = store.root / array.path
    return folder


def _chunk_key(array: zarr.Array[Any], block: int) -> str:
    return array.metadata.encode_chunk_key((block, *[0] * (array.ndim - 1)))


def _is_chunk(array: zarr.Array[Any], start: int, stop: int) -> bool:
    return start % array.chunks[0] == 0 and stop == min(start + array.chunks[0], array.shape[0])


def _fixed(array: zarr.Array[Any]) -> bool:
    """Whether a chunk is the bytes of its rows and their checksum: so in every array of numbers of ours."""
    codecs: Any = getattr(array.metadata, "codecs", ())
    endian = None if array.dtype.itemsize == 1 else "little"
    return (
        array.ndim > 0
        and array.dtype.kind in "iuf"
        and array.chunks[1:] == array.shape[1:]
        and tuple(codecs) == (BytesCodec(endian=endian), Crc32cCodec())
        and sys.byteorder == "little"
    )


def _encoded(array: zarr.Array[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A chunk as it is stored; what a short last block lacks is filled up."""
    encoded = np.empty(int(np.prod(array.chunks)) * array.dtype.itemsize + _CHECKSUM, dtype=np.uint8)
    rows = encoded[:-_CHECKSUM].view(array.dtype).reshape(array.chunks)
    rows[: len(values)] = values
    rows[len(values) :] = array.fill_value
    encoded[-_CHECKSUM:] = _checksum(encoded[:-_CHECKSUM])
    return encoded


def _checksum(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(google_crc32c.value(data).to_bytes(_CHECKSUM, "little"), dtype=np.uint8)


def read(array: zarr.Array[Any], selection: slice) -> npt.NDArray[Any]:
    """Rows of an array as numpy; ValueError for a chunk whose checksum is wrong."""
    if isinstance(array.store, LocalStore) and _fixed(array) and selection.step in (None, 1):
        start, stop, _ = selection.indices(array.shape[0])
        return _read_files(array, _folder(array), start, max(start, stop))
    return np.asarray(array[selection])


def _read_files(array: zarr.Array[Any], folder: Path, start: int, stop: int) -> npt.NDArray[Any]:
    """Rows ``[start, stop)`` of an array on disk, each chunk read right into its place: Zarr copies it twice."""
    found = np.empty((stop - start, *array.shape[1:]), dtype=array.dtype)
    size = array.chunks[0]

    def place(block: int) -> None:
        begin, end = max(start, block * size), min(stop, (block + 1) * size)
        rows = found[begin - start : end - start]
        chunk = rows if len(rows) == size else np.empty(array.chunks, dtype=array.dtype)
        if not _read_file(folder / _chunk_key(array, block), chunk, array.fill_value):
            rows[...] = array[begin:end]  # Zarr knows what to say of a damaged chunk
        elif chunk is not rows:
            rows[...] = chunk[begin - block * size : end - block * size]

    blocks = range(start // size, -(-stop // size))
    if len(blocks) == 1:
        place(blocks[0])
    elif blocks:
        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(place, blocks))
    return found


def _read_file(path: Path, chunk: npt.NDArray[Any], missing: Any) -> bool:
    """Fill `chunk` from its file; False where that cannot be read, is too short or long, or has another checksum."""
    data: Any = chunk.reshape(-1).view(np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            read = file.readinto(data)
            rest = file.read(_CHECKSUM + 1)
    except FileNotFoundError:
        chunk[...] = missing
        return True
    except OSError:
        return False
    return read == len(data) and rest == _checksum(data).tobytes()
