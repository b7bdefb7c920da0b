"""Bytes by their place: ranges of one large file in few requests, many small files at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TypeAlias

from embedstore.errors import SourceError, redact
from embedstore.records import Rows
from embedstore.sources.images import readable
from embedstore.sources.places import FILE_ERRORS, FileSystem, base_name, border

# A request to an object store costs as much time as some hundred kilobytes do, so what lies between two images is read
# too where it is less than this.
_GAP_BYTES = 1 << 20
# What one read may hold in memory, unless a single image is larger.
_SPAN_BYTES = 32 << 20
_FILES_AT_ONCE = 64
# s3fs and botocore retry with back-off, each around the other: a server that takes connections and never answers would
# hold a read for half an hour. No read of one span takes this long, retries and all, on a line that is worth using.
_PATIENCE_SECONDS = 300.0

Fetch: TypeAlias = Callable[[int, int], bytes]  # the bytes [start, stop) of a file


def spans(rows: Rows, run: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Cut rows of one shard, in their order, into pieces that one read each can serve.

    Yields
    ------
    start, stop : int
        Bytes of the shard that hold the images of the piece; ``(-1, -1)`` where none of its rows has one to read.
    piece : list of int
        Row numbers.
    """
    start = stop = -1
    piece: list[int] = []
    for row in run:
        offset, end = int(rows.offset[row]), int(rows.offset[row]) + int(rows.length[row])
        if offset >= 0 and readable(int(rows.length[row])):
            if start >= 0 and not (stop <= offset <= stop + _GAP_BYTES and end - start <= _SPAN_BYTES):
                yield start, stop, piece
                start, piece = -1, []
            start = offset if start < 0 else start
            stop = end
        piece.append(row)
    if piece:
        yield start, stop, piece


def size_of(fs: FileSystem, path: str) -> int:
    """Bytes of a remote file now, whatever was listed earlier in this process."""
    with border(base_name(path)):
        fs.invalidate_cache(path.rpartition("/")[0])
        return int(fs.info(path, timeout=_PATIENCE_SECONDS)["size"])


@contextlib.contextmanager
def ranges(fs: FileSystem, path: str, shown: str) -> Iterator[tuple[Fetch, int | None]]:
    """Open a file for reading by range; give the function that does, and the file's size where opening told it.

    Object stores are asked for just the range, one request each. (Opened as a file, fsspec would ask for the size every
    time and read 50 MB ahead.)
    """
    if fs.async_impl:
        yield lambda start, stop: _whole(_asked(fs, path, start, stop), start, stop, shown), None
        return
    with border(shown):
        file: IO[bytes] = fs.open(path, "rb")
    with file:
        with border(shown):
            size = file.seek(0, 2)

        def fetch(start: int, stop: int) -> bytes:
            with border(shown):
                file.seek(start)
                return _whole(file.read(stop - start), start, stop, shown)

        yield fetch, size


def _asked(fs: FileSystem, path: str, start: int, stop: int) -> bytes:
    if start == stop:
        return b""  # HTTP has no empty range
    with border(base_name(path)):
        answer = fs.cat_ranges([path], [start], [stop], on_error="return", timeout=_PATIENCE_SECONDS)[0]
        if isinstance(answer, BaseException):
            raise answer
        return bytes(answer)


def _whole(data: bytes, start: int, stop: int, shown: str) -> bytes:
    if len(data) != stop - start:
        raise SourceError(f"{shown}: there should be {stop - start} bytes from {start} on, but {len(data)} came")
    return data


def files(fs: FileSystem, paths: Sequence[str], lengths: Sequence[int]) -> Iterator[bytes | OSError]:
    """Yield the content of each file, or the one of FILE_ERRORS that tells what is the matter with it alone.

    Parameters
    ----------
    lengths : sequence of int
        Bytes that each is expected to have; of one that is longer, one byte more comes. Negative: unknown.

    Raises
    ------
    SourceError
        Any other error; it names the file.
    """
    if not fs.async_impl:
        for path in paths:
            yield _one(fs, path)
        return
    for first, last in _portions(lengths):
        yield from _together(fs, paths[first:last], lengths[first:last])


def _portions(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Slices of few enough files, and of few enough bytes, to be in memory together."""
    first = total = 0
    for number, length in enumerate(lengths):
        if number > first and (total + length > _SPAN_BYTES or number - first == _FILES_AT_ONCE):
            yield first, number
            first, total = number, 0
        total += max(length, 0)
    if first < len(lengths):
        yield first, len(lengths)


def _together(fs: FileSystem, paths: Sequence[str], lengths: Sequence[int]) -> Iterator[bytes | OSError]:
    # By range, though the whole is wanted: asked for the whole, s3fs first asks how long it is.
    stops = [length + 1 if length >= 0 else None for length in lengths]
    with border("images"):
        answers = fs.cat_ranges(list(paths), [0] * len(paths), stops, on_error="return", timeout=_PATIENCE_SECONDS)
    for path, answer in zip(paths, answers, strict=True):
        # What else went wrong is tried again, alone: it may be a file that became empty, which has no range.
        yield answer if isinstance(answer, (bytes, *FILE_ERRORS)) else _one(fs, path)


def _one(fs: FileSystem, path: str) -> bytes | OSError:
    with border(redact(path)):
        try:
            with fs.open(path, "rb") as file:
                data: bytes = file.read()
        except FILE_ERRORS as exc:
            return exc
    return data
