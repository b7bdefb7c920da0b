"""The rows of one split of one data set: which images there are, in which order, independent of any model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import FingerprintMismatch, UsageError
from embedstore.records import IntArray, Rows, Shard
from embedstore.store import layout

KIND = "rows"


class Split:
    """The stored row list of one split. Columns are read when first asked for.

    Attributes
    ----------
    dataset, split : str
    block_rows : int
        Rows a block (B): the unit of work and the chunk length of every array of the split.
    class_names : tuple of str, or None
    fingerprint : str
    source : str
    """

    def __init__(self, root: zarr.Group, dataset: str, split: str, content: dict[str, Any]) -> None:
        self.dataset, self.split = dataset, split
        self.block_rows: int = content["block_rows"]
        self.fingerprint: str = content["fingerprint"]
        self.source: str = content["source"]
        self.shards = tuple(Shard(**shard) for shard in content["shards"])
        names = content["class_names"]
        self.class_names = None if names is None else tuple(names)
        self._rows: int = content["rows"]
        self._root = root

    def __len__(self) -> int:
        return self._rows

    @property
    def name(self) -> str:
        """``dataset/split``."""
        return f"{self.dataset}/{self.split}"

    @cached_property
    def keys(self) -> npt.NDArray[Any]:
        """(N,) str: unique keys."""
        return self.column("key")

    @cached_property
    def labels(self) -> IntArray:
        """(N,) int32: class index, -1 where unknown."""
        return self.column("label")

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """``(block, start, stop)`` for every block, in order; the last one may be short."""
        for block, start in enumerate(range(0, len(self), self.block_rows)):
            yield block, start, min(start + self.block_rows, len(self))

    def column(self, name: str) -> npt.NDArray[Any]:
        """(N,): one array of the row list, by its name in the format."""
        return layout.read_whole(layout.array_at(self._root, f"datasets/{self.name}/{name}"))


def write_rows(root: zarr.Group, dataset: str, split: str, rows: Rows, block_rows: int) -> None:
    """Store a row list; see :meth:`embedstore.Store.add_rows`."""
    layout.check_name("data set", dataset)
    layout.check_name("split", split)
    if block_rows < 1:
        raise UsageError(f"a block must have at least one row, not {block_rows}")
    for key in rows.keys:
        if not key.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in key):
            raise UsageError(f"the name of image {key!r} is not UTF-8, and cannot be stored; rename it")
    path = f"datasets/{dataset}/{split}"
    stored = layout.committed(root, path, KIND)
    if stored is not None:
        _refuse_if_changed(Split(root, dataset, split, stored), stored, rows)
        if stored["class_names"] is None and rows.class_names is not None:
            # Names are no part of the rows; learning them later makes nothing that was embedded wrong.
            layout.commit(layout.group_at(root, path), **{**stored, "class_names": list(rows.class_names)})
        return
    group = root.require_group(path)
    columns: dict[str, tuple[npt.NDArray[Any], Any, Any]] = {
        "key": (np.asarray(rows.keys, dtype=np.dtypes.StringDType()), str, ""),
        "label": (rows.labels, "int32", -1),
        "shard": (rows.shard, "int32", -1),
        "offset": (rows.offset, "int64", -1),
        "length": (rows.length, "int64", -1),
    }
    for name, (values, dtype, fill) in columns.items():
        array = layout.create_array(
            group, name, shape=(len(rows),), chunks=(block_rows,), dtype=dtype, dimensions=("row",), fill_value=fill
        )
        array[:] = values
    layout.commit(
        group,
        KIND,
        fingerprint=rows.fingerprint(),
        rows=len(rows),
        block_rows=block_rows,
        class_names=None if rows.class_names is None else list(rows.class_names),
        shards=[asdict(shard) for shard in rows.shards],
        source=rows.source,
    )


def _refuse_if_changed(split: Split, stored: dict[str, Any], rows: Rows) -> None:
    name = split.name
    advice = "Extract it under another --dataset or --split name, or into another store"
    if stored["fingerprint"] != rows.fingerprint():
        shards = [asdict(shard) for shard in rows.shards]
        changed = [
            f"{old['name']} ({old['size']} bytes) is now {new['name']} ({new['size']} bytes)"
            for old, new in zip(stored["shards"], shards, strict=False)
            if old != new
        ]
        what = changed[0] if changed else _first_difference(split, rows)
        raise FingerprintMismatch(f"the rows of {name} changed since they were stored: {what}. {advice}")
    names = None if rows.class_names is None else list(rows.class_names)
    if stored["class_names"] is not None and names is not None and stored["class_names"] != names:
        raise FingerprintMismatch(
            f"the class names of {name} changed since they were stored: {stored['class_names']} then, {names} now. "
            f"{advice}"
        )


def _first_difference(split: Split, rows: Rows) -> str:
    if len(split) != len(rows):
        return f"{len(split)} rows then, {len(rows)} now"
    for key, stored_key in zip(rows.keys, split.keys, strict=True):
        if key != stored_key:
            return f"{stored_key!r} was where {key!r} is now"
    places = (("label", rows.labels), ("length", rows.length), ("offset", rows.offset), ("shard", rows.shard))
    for column, now in places:
        differs = np.flatnonzero(split.column(column) != now)
        if len(differs):
            row = differs[0]
            return f"the {column} of {rows.keys[row]!r} was {split.column(column)[row]}, and is {now[row]} now"
    return "their shards"
