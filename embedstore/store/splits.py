"""The rows of one split of one data set: which images there are, in which order, independent of any model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import StoreCorrupt, UsageError
from embedstore.records import Failure, IntArray, Rows, Shard
from embedstore.store import changes, layout

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
    earlier : tuple of str
        The fingerprints that this list had before it was extended.
    source : str
    """

    def __init__(self, root: zarr.Group, dataset: str, split: str, content: dict[str, Any]) -> None:
        self.dataset, self.split = dataset, split
        self.block_rows: int = content["block_rows"]
        self.fingerprint: str = content["fingerprint"]
        self.earlier: tuple[str, ...] = tuple(content.get("earlier", ()))
        self.source: str = content["source"]
        self.shards = tuple(Shard(**shard) for shard in content["shards"])
        names = content["class_names"]
        self.class_names = None if names is None else tuple(names)
        self._rows: int = content["rows"]
        self._root = root
        self._placed: tuple[int, list[npt.NDArray[Any]]] = (-1, [])

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
        return layout.read_whole(layout.array_at(self._root, f"datasets/{self.name}/{name}"), len(self))

    def failure(self, row: int, text: str) -> Failure:
        """What the ledger says of a failed row; `text` is ``"STAGE: why"``."""
        stage, _, reason = text.partition(": ")
        block, at = divmod(row, self.block_rows)
        if self._placed[0] != block:  # one block at a time: there may be more keys than memory
            rows = slice(block * self.block_rows, min((block + 1) * self.block_rows, len(self)))
            self._placed = block, [layout.read(array, rows) for array in self._places]
        keys, shards, offsets = self._placed[1]
        name = self.shards[int(shards[at])].name if shards[at] >= 0 else None
        return Failure(row, str(keys[at]), name, int(offsets[at]), stage, reason)

    @cached_property
    def _places(self) -> list[zarr.Array[Any]]:
        path = f"datasets/{self.name}"
        names = ("key", "shard", "offset")
        return [layout.whole(layout.array_at(self._root, f"{path}/{name}"), len(self)) for name in names]

    def row_list(self) -> Rows:
        """The whole list in memory, to read images with; StoreCorrupt if it is not the one that was stored."""
        rows = Rows(
            keys=self.column("key").tolist(),
            labels=self.column("label"),
            shard=self.column("shard"),
            offset=self.column("offset"),
            length=self.column("length"),
            shards=self.shards,
            class_names=self.class_names,
            source=self.source,
        )
        if rows.fingerprint() != self.fingerprint:
            raise StoreCorrupt(
                f"the rows of {self.name} are not those of their fingerprint: damaged, or listed by two processes at "
                "once while the source was changing. Restore them, or extract under another --dataset name"
            )
        return rows


def write_rows(
    root: zarr.Group,
    dataset: str,
    split: str,
    rows: Rows,
    block_rows: int,
    *,
    extend: bool,
    replaceable: npt.NDArray[np.bool_] | None,
) -> None:
    """Store a row list; see :meth:`embedstore.Store.add_rows`."""
    layout.check_name("data set", dataset)
    layout.check_name("split", split)
    if block_rows < 1:
        raise UsageError(f"a block must have at least one row, not {block_rows}")
    check_keys(rows)
    path = f"datasets/{dataset}/{split}"
    stored = layout.committed(root, path, KIND)
    if stored is None:
        group = layout.make_group(root, path)
        for name, (_, dtype, fill) in _columns(rows).items():
            layout.create_array(
                group, name, shape=(len(rows),), chunks=(block_rows,), dtype=dtype, dimensions=("row",), fill_value=fill
            )
        _write(group, rows, block_rows, 0, rows.class_names)
        return
    there = Split(root, dataset, split, stored)
    merged = merge_rows(there, rows, extend=extend, replaceable=replaceable)
    if merged.fingerprint() != there.fingerprint:
        earlier = [*there.earlier, there.fingerprint]
        names = rows.class_names or there.class_names
        unchanged = _first_change(there, merged) // there.block_rows
        _write(layout.group_at(root, path), merged, there.block_rows, unchanged, names, earlier=earlier)
    elif there.class_names is None and rows.class_names is not None:
        # Names are no part of the rows; learning them later makes nothing that was embedded wrong.
        layout.commit(layout.group_at(root, path), **{**stored, "class_names": list(rows.class_names)})


def check_keys(rows: Rows) -> None:
    """Raise UsageError if a key is no text: a file's name that is not UTF-8."""
    odd = [key for key in rows.keys if not key.isprintable() and any("\ud800" <= c <= "\udfff" for c in key)]
    if odd:
        names = ", ".join(ascii(key) for key in odd[:3]) + (" …" if len(odd) > 3 else "")
        raise UsageError(
            f"the names of {len(odd):,} image(s) are not UTF-8, and cannot be stored: {names}; rename them"
        )


def merge_rows(stored: Split, rows: Rows, *, extend: bool, replaceable: npt.NDArray[np.bool_] | None) -> Rows:
    """See :meth:`embedstore.Store.merge_rows`."""
    changes.refuse_other_names(stored.name, stored.class_names, rows.class_names)
    if stored.fingerprint == rows.fingerprint():
        return rows
    return changes.merged(stored.name, stored.row_list(), rows, extend=extend, replaceable=replaceable)


def _first_change(stored: Split, rows: Rows) -> int:
    changed = np.flatnonzero(stored.column("length") != rows.length[: len(stored)])
    return int(changed[0]) if len(changed) else len(stored)


def _columns(rows: Rows) -> dict[str, tuple[npt.NDArray[Any], Any, Any]]:
    """Values, dtype and fill value of every array of a row list."""
    return {
        "key": (np.asarray(rows.keys, dtype=np.dtypes.StringDType()), str, ""),
        "label": (rows.labels, "int32", -1),
        "shard": (rows.shard, "int32", -1),
        "offset": (rows.offset, "int64", -1),
        "length": (rows.length, "int64", -1),
    }


def _write(
    group: zarr.Group, rows: Rows, block_rows: int, first_block: int, names: tuple[str, ...] | None, **more: Any
) -> None:
    """Write a row list's blocks from `first_block` on, and declare the list complete."""
    for name, (values, _, _) in _columns(rows).items():
        array = layout.for_writing(layout.array_at(group, name))
        layout.lengthen(array, len(rows))
        # Not to the array's end: an extension that was killed may have left it longer.
        array[first_block * block_rows : len(rows)] = values[first_block * block_rows :]
    layout.commit(
        group,
        KIND,
        fingerprint=rows.fingerprint(),
        rows=len(rows),
        block_rows=block_rows,
        class_names=None if names is None else list(names),
        shards=[asdict(shard) for shard in rows.shards],
        source=rows.source,
        **more,
    )
