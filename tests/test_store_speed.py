"""The short ways to write and read chunks do what Zarr itself does with the same arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from embedstore.errors import StoreCorrupt
from embedstore.store import chunks, layout

DTYPES = ["float16", "float32", "uint8", "int32", "int64"]


def array_in(store: Any, values: np.ndarray, size: int, fill: float) -> zarr.Array[Any]:
    """An array of the form that the format asks for, nothing written."""
    names = ["row", "feature"][: values.ndim]
    return layout.create_array(
        zarr.open_group(store, mode="a"),
        "x",
        shape=values.shape,
        chunks=(size, *values.shape[1:]),
        dtype=values.dtype,
        dimensions=names,
        fill_value=fill,
    )


def numbers(rows: int, dtype: str, width: int | None = None) -> np.ndarray:
    shape = (rows,) if width is None else (rows, width)
    return np.random.default_rng(rows).integers(1, 200, shape).astype(dtype)


def write_from(array: zarr.Array[Any], first: int, values: np.ndarray) -> None:
    size = array.chunks[0]
    for start in range(first, len(values), size):
        chunks.write_block(start, min(start + size, len(values)), [(array, values[start : start + size])])


@given(
    rows=st.integers(1, 11),
    size=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    width=st.sampled_from([None, 1, 3]),
    first=st.integers(0, 2),
)
def test_chunks_are_the_bytes_that_zarr_writes(rows: int, size: int, dtype: str, width: int | None, first: int) -> None:
    values = numbers(rows, dtype, width)
    fill = float("nan") if dtype.startswith("float") else 0
    ours, theirs = MemoryStore(), MemoryStore()
    write_from(array_in(ours, values, size, fill), first * size, values)
    array_in(theirs, values, size, fill)[first * size :] = values[first * size :]
    found, expected = ({key: value.to_bytes() for key, value in s._store_dict.items()} for s in (ours, theirs))
    assert found == expected


@pytest.mark.parametrize("kind", ["ours", "big-endian", "no checksum", "narrow chunks"])
def test_any_rows_are_read_as_zarr_reads_them(tmp_path: Path, kind: str) -> None:
    values = numbers(11, "float16", 4)
    if kind == "ours":
        array = array_in(tmp_path / "s", values, 3, float("nan"))
    else:
        array = zarr.create_array(
            tmp_path / "s",
            shape=values.shape,
            chunks=(3, 2 if kind == "narrow chunks" else 4),
            dtype="float16",
            serializer=BytesCodec(endian="big" if kind == "big-endian" else "little"),
            compressors=[] if kind == "no checksum" else [Crc32cCodec()],
            fill_value=float("nan"),
        )
    written = values.copy()
    for start in (0, 3, 9):  # the third chunk is missing
        chunks.write_block(start, min(start + 3, 11), [(array, values[start : start + 3])])
    written[6:9] = np.nan
    np.testing.assert_array_equal(array[:], written)
    for start in range(-2, 12):
        for stop in (*range(-2, 14), None):
            np.testing.assert_array_equal(layout.read(array, slice(start, stop)), written[start:stop])
    np.testing.assert_array_equal(layout.read(array, slice(1, 9, 2)), written[1:9:2])


@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer", "empty"])
@pytest.mark.parametrize("block", [0, 3])
def test_a_damaged_chunk_is_never_read(tmp_path: Path, damage: str, block: int) -> None:
    values = numbers(11, "int32")
    array = array_in(tmp_path / "s", values, 3, -1)
    write_from(array, 0, values)
    path = tmp_path / f"s/x/c/{block}"
    good = path.read_bytes()
    bad = {"flipped": bytes([good[0] ^ 1]) + good[1:], "shorter": good[:-1], "longer": good + b"x", "empty": b""}
    path.write_bytes(bad[damage])
    for rows in (slice(None), slice(block * 3, block * 3 + 1)):
        with pytest.raises(StoreCorrupt, match="array 'x' cannot be read"):
            layout.read(array, rows)


def test_values_of_another_shape_are_refused() -> None:
    array = array_in(MemoryStore(), numbers(4, "float32", 3), 2, 0)
    with pytest.raises(ValueError, match="shape"):
        chunks.write_block(0, 2, [(array, np.ones((2, 4), np.float32))])


def test_a_block_is_written_in_order_and_none_removes_its_chunk() -> None:
    class Noting(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.noted: list[str] = []

        async def set(self, key: str, value: Any, byte_range: tuple[int, int] | None = None) -> None:
            self.noted.append(f"set {key}")
            await super().set(key, value, byte_range)

        async def delete(self, key: str) -> None:
            self.noted.append(f"delete {key}")
            await super().delete(key)

    store, values = Noting(), numbers(3, "uint8")
    group = zarr.open_group(store, mode="a")
    made = [
        layout.create_array(group, name, shape=(3,), chunks=(2,), dtype=dtype, dimensions=["row"], fill_value=fill)
        for name, dtype, fill in (("b", "uint8", 0), ("text", str, ""), ("a", "uint8", 0))
    ]
    store.noted.clear()
    text = np.array(["é"], dtype=np.dtypes.StringDType())
    for reason in (text, None, None):
        chunks.write_block(2, 3, list(zip(made, (values[2:], reason, values[2:]), strict=True)))
    assert store.noted[:3] == ["set b/c/1", "set text/c/1", "set a/c/1"]
    assert store.noted[3:] == ["set b/c/1", "delete text/c/1", "set a/c/1"] * 2
    assert list(layout.read(made[1])) == ["", "", ""]
