"""The rows of one split of one data set: which images there are, in which order, independent of any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import StoreCorrupt, UsageError
from embedstore.records import Failure, IntArray, Rows, Shard
from embedstore.store import changes, layout

KIND = "rows"
# Dtype and fill value of every array of a row list.
_FORMS: dict[str, tuple[Any, Any]] = {
    "key": (str, ""),
    "label": ("int32", -1),
    "shard": ("int32", -1),
    "offset": ("int64", -1),
    "length": ("int64", -1),
}
_ROWS_AT_ONCE = 16_384  # written or read back together, but at least a block


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
        self._near: tuple[int, Rows] | None = None  # the first row of the part that was read last, and that part

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
        place = self.part(row, row + 1)
        shard = self.shards[int(place.shard[0])] if place.shard[0] >= 0 else None
        name = shard.name if shard and shard.size else None  # an attack's rows stand in no file
        return Failure(row, place.keys[0], name, int(place.offset[0]), stage, reason)

    def part(self, start: int, stop: int) -> Rows:
        """The rows ``[start, stop)``. The blocks they lie in, and no others, are kept until others are asked for.

        What is read is not compared with the fingerprint, which is of the whole list.
        """
        first, near = self._near or (0, None)
        if near is None or start < first or stop > first + len(near):
            first = start - start % self.block_rows
            near = self._read(first, min(-(-stop // self.block_rows) * self.block_rows, len(self)))
            self._near = first, near
        return near.part(start - first, stop - first)

    def row_list(self) -> Rows:
        """The whole list in memory, to read images with; StoreCorrupt if it is not the one that was stored."""
        rows = self._read(0, len(self))
        if rows.fingerprint() != self.fingerprint:
            raise _mixed(self.name)
        return rows

    def _read(self, start: int, stop: int) -> Rows:
        columns = {name: layout.read(array, slice(start, stop)) for name, array in self._columns.items()}
        return Rows(
            keys=columns["key"].tolist(),
            labels=columns["label"],
            shard=columns["shard"],
            offset=columns["offset"],
            length=columns["length"],
            shards=self.shards,
            class_names=self.class_names,
            source=self.source,
        )

    @cached_property
    def _columns(self) -> dict[str, zarr.Array[Any]]:
        path = f"datasets/{self.name}"
        return {name: layout.whole(layout.array_at(self._root, f"{path}/{name}"), len(self)) for name in _FORMS}


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
    """Store a row list; see :meth:`embedstore.Store.add_rows`. Blocks of a stored one that are damaged are mended."""
    layout.check_name("data set", dataset)
    layout.check_name("split", split)
    if block_rows < 1:
        raise UsageError(f"a block must have at least one row, not {block_rows}")
    check_keys(rows)
    path = f"datasets/{dataset}/{split}"
    there = stored_split(root, dataset, split)
    if there is None:
        group = layout.make_group(root, path)
        for name, (dtype, fill) in _FORMS.items():
            layout.create_array(
                group, name, shape=(len(rows),), chunks=(block_rows,), dtype=dtype, dimensions=("row",), fill_value=fill
            )
        _write(group, rows, block_rows, 0, rows.class_names)
        _check(root, dataset, split, rows)
        return
    if there.fingerprint == rows.fingerprint():
        _write_blocks(layout.group_at(root, path), rows, _differing(there, rows))
    merged = merge_rows(there, rows, extend=extend, replaceable=replaceable)
    if merged.fingerprint() != there.fingerprint:
        earlier = [*there.earlier, there.fingerprint]
        names = rows.class_names or there.class_names
        unchanged = _first_change(there, merged) // there.block_rows
        _write(layout.group_at(root, path), merged, there.block_rows, unchanged, names, earlier=earlier)
        _check(root, dataset, split, merged)
    elif there.class_names is None and rows.class_names is not None:
        # Names are no part of the rows; learning them later makes nothing that was embedded wrong.
        stored = layout.committed(root, path, KIND) or {}
        layout.commit(layout.group_at(root, path), **{**stored, "class_names": list(rows.class_names)})


def stored_split(root: zarr.Group, dataset: str, split: str) -> Split | None:
    """The row list of one split; None if none is complete."""
    content = None if "/" in dataset + split else layout.committed(root, f"datasets/{dataset}/{split}", KIND)
    return None if content is None else Split(root, dataset, split, content)


def _check(root: zarr.Group, dataset: str, split: str, rows: Rows) -> None:
    """Raise StoreCorrupt unless what has just been written is what can be read: another process may write, too."""
    there = stored_split(root, dataset, split)
    if there is None or len(there) != len(rows) or _differing(there, rows):
        raise _mixed(f"{dataset}/{split}")


def _differing(there: Split, rows: Rows) -> list[tuple[int, int]]:
    """``(start, stop)`` of each block that is stored otherwise than `rows` have it, or cannot be read."""

    def alike(start: int, stop: int) -> bool:
        try:
            return there.part(start, stop).same(rows.part(start, stop))
        except StoreCorrupt:
            return False

    # Many blocks at once, since behind a network each waits for its answer; single ones where something differs.
    suspects = [place for place in _spans(0, len(there), there.block_rows) if not alike(*place)]
    blocks = [(start, stop) for _, start, stop in there.blocks()]
    return [
        (start, stop)
        for first, last in suspects
        for start, stop in blocks
        if first <= start < last and not alike(start, stop)
    ]


def _spans(start: int, stop: int, block_rows: int) -> list[tuple[int, int]]:
    """The rows ``[start, stop)`` in runs of some blocks."""
    step = max(1, _ROWS_AT_ONCE // block_rows) * block_rows
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]


def _mixed(name: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the rows of {name} are not those of their fingerprint: damaged, or listed by two processes at once while the "
        "source was changing. Run `embedstore extract` again with the source as it was, which mends them, or extract "
        "under another --dataset name"
    )


def check_keys(rows: Rows) -> None:
    """Raise UsageError if a key is no text: a file's name that is not UTF-8."""
    keys = chain.from_iterable(rows.pieces("keys"))
    odd = [key for key in keys if not key.isprintable() and any("\ud800" <= c <= "\udfff" for c in key)]
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


def _columns(rows: Rows) -> dict[str, npt.NDArray[Any]]:
    keys = np.asarray(rows.keys, dtype=np.dtypes.StringDType())
    return {"key": keys, "label": rows.labels, "shard": rows.shard, "offset": rows.offset, "length": rows.length}


def _write_blocks(group: zarr.Group, rows: Rows, blocks: Sequence[tuple[int, int]]) -> None:
    arrays = {name: layout.for_writing(layout.array_at(group, name)) for name in (_FORMS if blocks else ())}
    for start, stop in blocks:
        for name, values in _columns(rows.part(start, stop)).items():
            size, length = arrays[name].chunks[0], arrays[name].shape[0]
            # To the end of a block: what is read to be completed may be damaged.
            beyond = min(-(-stop // size) * size, length) - stop
            rest = np.full(beyond, _FORMS[name][1], values.dtype)
            arrays[name][start : stop + beyond] = np.concatenate([values, rest])


def _write(
    group: zarr.Group, rows: Rows, block_rows: int, first_block: int, names: tuple[str, ...] | None, **more: Any
) -> None:
    """Write a row list's blocks from `first_block` on, and declare the list complete."""
    for name in _FORMS:
        layout.lengthen(layout.array_at(group, name), len(rows))
    # Not to the array's end: an extension that was killed may have left it longer.
    _write_blocks(group, rows, _spans(first_block * block_rows, len(rows), block_rows))
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
