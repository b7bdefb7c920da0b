"""One model's embeddings of one split: written block by block, read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import FingerprintMismatch, NotAvailable, StoreCorrupt, StoreError, UsageError
from embedstore.records import FAILED, OK, PENDING, Failure, FloatArray, IntArray, Provenance, fingerprint
from embedstore.store import chunks, layout
from embedstore.store.splits import Split

KIND = "images"


def path_of(model: str, dataset: str, split: str) -> str:
    """Where in the store these embeddings lie."""
    return f"models/{model}/images/{dataset}/{split}"


def check_belongs(stored: dict[str, Any], model: str, mark: str, rows: Split) -> None:
    """Raise StoreCorrupt unless embeddings are of these rows and of the model with this fingerprint."""
    if stored["rows"] in rows.earlier:
        raise StoreCorrupt(
            f"{rows.name} was being extended when that was stopped; run the same `embedstore extract` again"
        )
    for what, now in (("model", mark), ("rows", rows.fingerprint)):
        if stored[what] != now:
            raise StoreCorrupt(f"the embeddings of {rows.name} by {model} belong to another {what} fingerprint")


class Images:
    """A model's embeddings of one split.

    Attributes
    ----------
    model, dataset, split : str
    """

    def __init__(self, root: zarr.Group, provenance: Provenance, rows: Split, content: dict[str, Any]) -> None:
        self.model, self.dataset, self.split = provenance.name, rows.dataset, rows.split
        self.provenance = provenance
        self.rows = rows
        self._content = content
        self._root = root

    @cached_property
    def _group(self) -> zarr.Group:
        return layout.group_at(self._root, path_of(self.model, self.dataset, self.split))

    @cached_property
    def features(self) -> zarr.Array[Any]:
        """Zarr array (N, Dp): before the projection, not normalised, NaN where a row was not (or not yet) embedded.

        Nothing is read until it is indexed; ``images.features[:]`` is numpy.
        """
        return layout.array_at(self._group, "features")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """``dataset/split``."""
        return self.rows.name

    @property
    def widths(self) -> dict[str, int]:
        """Numbers a row in ``features`` and, where they are there, in ``projected`` and ``captions``."""
        names = [name for name in ("features", "projected", "captions") if name in self._group]
        return {name: layout.array_at(self._group, name).shape[1] for name in names}

    def part(self, name: str, start: int, stop: int) -> FloatArray:
        """(stop - start, width): rows ``[start, stop)`` of one of the arrays of :attr:`widths`, as it is stored."""
        return layout.read(layout.array_at(self._group, name), slice(start, stop))

    @cached_property
    def status(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8: 0 pending, 1 ok, 2 failed."""
        path = path_of(self.model, self.dataset, self.split)
        return layout.read(layout.array_at(self._root, f"{path}/status"))

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: the rows that were embedded."""
        return np.equal(self.status, OK)

    def failures(self) -> Iterator[Failure]:
        """Every failed row, in order, with where it lies and why; one block at a time in memory."""
        failed = np.flatnonzero(np.equal(self.status, FAILED))
        for start in (np.unique(failed // self.rows.block_rows) * self.rows.block_rows).tolist():
            stop = min(start + self.rows.block_rows, len(self))
            reasons = self._reasons(start, stop)
            for row in failed[(failed >= start) & (failed < stop)].tolist():
                yield self.rows.failure(row, reasons[row - start])

    def _reasons(self, start: int, stop: int) -> list[str]:
        if "failure" not in self._group:
            return ["read: not recorded by the early version that wrote this"] * (stop - start)
        return [str(text) for text in layout.read(layout.array_at(self._group, "failure"), slice(start, stop))]

    @property
    def keys(self) -> npt.NDArray[Any]:
        """(N,) str."""
        return self.rows.keys

    @property
    def labels(self) -> IntArray:
        """(N,) int32, -1 where unknown."""
        return self.rows.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names in label order, or None."""
        return self.rows.class_names

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of model, rows, which of them are finished, and the libraries that embedded them."""
        made = {name: self._content[name] for name in ("model", "rows", "versions")}
        return fingerprint([made, self.status.tobytes().hex()])

    def embedded(self) -> FloatArray:
        """(M, Dp) float32: the features of the M rows that are ``ok``, in row order. Holds them all in memory."""
        return self.finite(layout.read(self.features)[self.ok].astype(np.float32))

    def projected(self, rows: slice = slice(None)) -> FloatArray:
        """(N, D) float32: the joint space, not normalised; NaN where a row was not embedded. Holds it in memory.

        Parameters
        ----------
        rows : slice
            Only these of the N rows.
        """
        if "projected" in self._group:
            return layout.read(layout.array_at(self._group, "projected"), rows).astype(np.float32)
        projection = layout.read(layout.array_at(self._root, f"models/{self.model}/projection"))
        joint: FloatArray = layout.read(self.features, rows).astype(np.float32) @ projection
        return joint

    def finite(self, features: FloatArray) -> FloatArray:
        """Features of finished rows, as they are; :class:`StoreCorrupt` if some are NaN, as those of a lost chunk."""
        if not np.isfinite(features).all():
            raise StoreCorrupt(f"features of {self.name} by {self.model} are missing in blocks that are marked done")
        return features

    def captions(self) -> FloatArray:
        """(N, D) float32: each image's own caption in the joint space, unit vectors; NaN where there is none.

        Raises
        ------
        NotAvailable
            If the split was extracted without captions.
        """
        if "captions" not in self._group:
            raise NotAvailable(f"{self.name} has no captions for {self.model}; extract it with --captions")
        return layout.read(layout.array_at(self._group, "captions")).astype(np.float32)


class ImageWriter:
    """Writes blocks of one model's embeddings of one split. A block's status chunk is written last."""

    def __init__(self, root: zarr.Group, provenance: Provenance, rows: Split) -> None:
        self.rows, self.model = rows, provenance.name
        self._root, self._path = root, path_of(provenance.name, rows.dataset, rows.split)
        group = layout.group_at(root, self._path)
        self._arrays = {
            name: layout.for_writing(layout.array_at(group, name), sparse=name == "failure")
            for name in layout.children(group, zarr.Array)
        }

    @property
    def columns(self) -> list[str]:
        """Names of the arrays of vectors."""
        return sorted(set(self._arrays) - {"status", "failure"})

    def status(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8, as it is now."""
        return layout.read(self._arrays["status"])

    def pending(self, *, retry_failed: bool = False) -> list[tuple[int, int, int]]:
        """``(block, start, stop)`` of the blocks that are not done, in order; also those with a failed row if asked."""
        # A finished row is never 0: a block whose chunk exists has no zero, one whose chunk is missing only zeros. One
        # that was short when its split was extended has both.
        again = (PENDING, FAILED) if retry_failed else (PENDING,)
        to_do = np.isin(self.status(), again)
        return [block for block in self.rows.blocks() if to_do[block[1] : block[2]].any()]

    def forget(self, start: int, stop: int) -> None:
        """Make the block of rows ``[start, stop)`` pending again."""
        layout.erase(self._arrays["status"], start, stop)

    def _refuse_if_extended(self) -> None:
        """A last block that is short would be written over rows that it does not know."""
        stored = layout.committed(self._root, self._path, KIND)
        if stored is None or stored["rows"] != self.rows.fingerprint:
            raise FingerprintMismatch(
                f"{self.rows.name} was extended while this run was at it; run the same command again"
            )

    def write(
        self,
        start: int,
        stop: int,
        status: npt.NDArray[np.uint8],
        *,
        reasons: Mapping[int, str] | None = None,
        **columns: FloatArray,
    ) -> None:
        """Write one block, rows ``[start, stop)``.

        Parameters
        ----------
        status : (stop - start,) uint8
            1 (ok) or 2 (failed) for every row.
        reasons : mapping of int to str
            For each failed row, counted from `start`: ``"STAGE: why"``.
        **columns : (stop - start, width) float
            ``features`` and, where the split has them, ``projected`` and ``captions``; NaN where the row failed.
        """
        reasons = reasons or {}
        if sorted(columns) != self.columns:
            raise StoreError(f"{self.rows.name} has the columns {self.columns}, but {sorted(columns)} were given")
        if not np.isin(status, (OK, FAILED)).all():
            raise StoreError("a finished block has no pending rows")
        if sorted(reasons) != np.flatnonzero(status == FAILED).tolist():
            raise StoreError("every failed row has a reason, and no other row has one")
        if stop - start < self.rows.block_rows:
            self._refuse_if_extended()
        if layout.read(self._arrays["status"], slice(start, stop)).all():
            self.forget(start, stop)  # a block that is done is not rewritten as such
        texts = None
        if reasons:
            texts = np.array([reasons.get(row, "") for row in range(stop - start)], dtype=np.dtypes.StringDType())
        written = [*columns.items(), ("failure", texts), ("status", status)]
        chunks.write_block(start, stop, [(self._arrays[name], values) for name, values in written])


def as_stored(dtype: npt.DTypeLike, values: FloatArray, name: str) -> FloatArray:
    """The values in the storage dtype; UsageError where they do not fit. NaN stays."""
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    if largest > float(np.finfo(np.dtype(dtype)).max):
        raise UsageError(
            f"{name} reach {largest:.4g}, which {np.dtype(dtype)} cannot hold; use --dtype float32, with a --name of "
            f"its own if the store holds this model already"
        )
    return values.astype(dtype)


def create(
    root: zarr.Group, provenance: Provenance, mark: str, rows: Split, *, projected: bool, captions: bool
) -> ImageWriter:
    """Create the arrays of a model's embeddings of one split, or find them as they are, and return their writer."""
    path = path_of(provenance.name, rows.dataset, rows.split)
    stored = layout.committed(root, path, KIND)
    if stored is None:
        group = layout.make_group(root, path)
        widths = {"features": provenance.feature_dim}
        if projected:
            widths["projected"] = provenance.joint_dim
        if captions:
            widths["captions"] = provenance.joint_dim
        for name in sorted(set(layout.children(group, zarr.Array)) - {"status", "failure", *widths}):
            del group[name]  # of a beginning that asked for something else and was killed
        for name, width in widths.items():
            layout.create_array(
                group,
                name,
                shape=(len(rows), width),
                chunks=(rows.block_rows, width),
                dtype=provenance.dtype,
                dimensions=("row", "feature" if name == "features" else "joint"),
                fill_value=float("nan"),
            )
        _over_rows(group, "failure", rows, str, "", sparse=True)
        _over_rows(group, "status", rows, "uint8", 0)
        layout.commit(group, KIND, model=mark, rows=rows.fingerprint, versions=dict(provenance.versions))
        return ImageWriter(root, provenance, rows)
    if stored["rows"] in rows.earlier:
        stored = lengthen(root, provenance.name, rows)
    for what, mine in (("model", mark), ("rows", rows.fingerprint)):
        if stored[what] != mine:
            raise FingerprintMismatch(
                f"the embeddings of {rows.name} by {provenance.name} belong to another {what} fingerprint "
                f"({stored[what][:12]} stored, {mine[:12]} now); extract into another store"
            )
    if captions != (f"{path}/captions" in root):
        raise FingerprintMismatch(
            f"{rows.name} was extracted by {provenance.name} {'without' if captions else 'with'} captions; repeat that "
            f"choice, or use another --dataset name"
        )
    if f"{path}/failure" not in root:  # written by an early version
        _over_rows(layout.group_at(root, path), "failure", rows, str, "", sparse=True)
    return ImageWriter(root, provenance, rows)


def lengthen(root: zarr.Group, model: str, rows: Split) -> dict[str, Any]:
    """Give a model's embeddings as many rows as their split has after it was extended; return what they declare."""
    path = path_of(model, rows.dataset, rows.split)
    group = layout.group_at(root, path)
    stored = layout.committed(root, path, KIND) or {}
    if stored["rows"] in rows.earlier:
        for name in layout.children(group, zarr.Array):
            layout.lengthen(layout.array_at(group, name), len(rows))
        stored |= {"rows": rows.fingerprint}
        layout.commit(group, **stored)
    return stored


def _over_rows(group: zarr.Group, name: str, rows: Split, dtype: Any, fill: Any, *, sparse: bool = False) -> None:
    layout.create_array(
        group,
        name,
        shape=(len(rows),),
        chunks=(rows.block_rows,),
        dtype=dtype,
        dimensions=("row",),
        fill_value=fill,
        sparse=sparse,
    )
