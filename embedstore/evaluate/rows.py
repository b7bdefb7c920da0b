"""Arrays that may be larger than memory: gathered from blocks, in memory or in a temporary file."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable
from embedstore.records import FloatArray, IntArray

_BLOCK = 4096


def gathered(blocks: Iterable[FloatArray], shape: tuple[int, ...], dtype: npt.DTypeLike, in_memory: int) -> FloatArray:
    """Blocks of rows, one under the other.

    Parameters
    ----------
    blocks : iterable of (n, …) float
    shape : tuple of int
        Of all of them together.
    dtype : dtype
        Of the result where it lies in a file.
    in_memory : int
        A result that would take more bytes than this as float32 is a read-only map of a temporary file. The file has
        no name, and its space is free again once the array is gone.

    Returns
    -------
    array of `shape`
        float32, or `dtype` in a file.

    Raises
    ------
    NotAvailable
        There is no room for the file.
    """
    if 4 * math.prod(shape) <= in_memory:
        out: FloatArray = np.empty(shape, dtype=np.float32)
        _fill(out, blocks)
        return out
    with tempfile.TemporaryFile() as file:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            # Or a full disk would end the process with a signal when the map is written to.
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            raise NotAvailable(
                f"{size / 1e9:.1f} GB do not fit into memory, nor into {tempfile.gettempdir()} ({error.strerror}); "
                "set TMPDIR to a folder with more room"
            ) from error
        mapped: FloatArray = np.memmap(file, dtype=dtype, mode="w+", shape=shape)
    _fill(mapped, blocks)
    mapped.flags.writeable = False
    return mapped


def chosen(rows: FloatArray, index: IntArray, in_memory: int) -> FloatArray:
    """``rows[index]``, gathered."""
    parts = (rows[index[start : start + _BLOCK]] for start in range(0, len(index), _BLOCK))
    return gathered(parts, (len(index), *rows.shape[1:]), rows.dtype, in_memory)


def _fill(out: FloatArray, blocks: Iterable[FloatArray]) -> None:
    filled = 0
    for block in blocks:
        out[filled : filled + len(block)] = block
        filled += len(block)
