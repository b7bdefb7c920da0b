"""Embed a split: the one stage that runs a model. Everything it makes goes into the store, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import EmbedstoreError, ModelUnavailable, NotAvailable, UsageError
from embedstore.extract.loading import Batch, Batches, load_batches
from embedstore.prompts import check_class_names, prompts, templates
from embedstore.records import FAILED, OK, FloatArray, Rows
from embedstore.sources import Source
from embedstore.store import DEFAULT_BLOCK_ROWS, ImageWriter, Split, Store

if TYPE_CHECKING:
    from embedstore.encoders import Encoder


@dataclass
class Outcome:
    """What became of the rows of one split. ``rows == ok + failed + pending``, always.

    ``embedded`` counts the images of this run only; ``failures`` are ``(key, reason)`` pairs of this run.
    """

    model: str
    name: str
    rows: int
    ok: int = 0
    failed: int = 0
    pending: int = 0
    embedded: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)


def list_rows(
    store: Store, source: Source, *, limit: int | None = None, block_rows: int = DEFAULT_BLOCK_ROWS
) -> tuple[Rows, Split]:
    """List a source's rows and fix them in the store, before any of them is embedded.

    Parameters
    ----------
    limit : int, optional
        Take only the first rows; the split then has that many.
    block_rows : int
        Rows a block, for a split that is not in the store yet.

    Raises
    ------
    SourceError
        If the source cannot be listed.
    FingerprintMismatch
        If the store holds other rows under this name.
    """
    rows = source.scan()
    if limit is not None:
        columns = {name: getattr(rows, name)[:limit] for name in ("keys", "labels", "shard", "offset", "length")}
        rows = replace(rows, **columns)
    return rows, store.add_rows(source.dataset, source.split, rows, block_rows=block_rows)


def embed_texts(
    store: Store, encoder: Encoder, class_set: str, class_names: Sequence[str], template_sets: Sequence[str]
) -> None:
    """Embed every class name in every template of each set, unless the store has them already.

    Raises
    ------
    UnknownName
        If there is no such template set.
    FingerprintMismatch
        If prompts of other names or templates are stored under these names.
    """
    check_class_names(class_names)
    model = encoder.provenance.name
    for name in template_sets:
        wording = templates(name)
        if store.has_texts(model, class_set, name, class_names, wording):
            continue
        lines = [line for lines in prompts(class_names, name) for line in lines]
        vectors = encoder.texts(lines).reshape(len(class_names), len(wording), -1)
        if not np.isfinite(vectors).all():
            raise ModelUnavailable(
                f"{model} gives text vectors that are not finite in this precision; use --precision fp32"
            )
        store.add_texts(model, class_set, name, names=class_names, templates=wording, vectors=vectors)


def embed_images(
    store: Store,
    encoder: Encoder,
    source: Source,
    rows: Rows,
    split: Split,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    captions: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Embed the blocks of a split that are not done yet, in order.

    Killed at any moment and run again, this gives the same bytes as an uninterrupted run: batches are cut from each
    block's own rows, and a block counts as done only once its last chunk is written.

    Parameters
    ----------
    rows, split
        From :func:`list_rows`.
    workers : int, optional
        Processes that read and decode; 0 decodes in this one. Chosen by the amount of work if not given.
    captions : str, optional
        Extension of the text that belongs to each image (``"txt"``); embedded beside it.
    progress : callable, optional
        Called with the rows finished since the last call, and all rows that this run has to do.

    Raises
    ------
    UsageError
        If a feature does not fit the storage dtype.
    """
    model = encoder.provenance.name
    if captions is not None and not encoder.has_text:
        raise NotAvailable(f"{model} has no text tower, so it cannot embed captions")
    writer = store.image_writer(model, split, projected=encoder.projection is None, captions=captions is not None)
    pending = writer.pending()
    outcome = Outcome(model, split.name, rows=len(split))
    began = time.perf_counter()
    batches = [
        (start, min(start + batch_size, stop)) for _, first, stop in pending for start in range(first, stop, batch_size)
    ]
    loader = load_batches(Batches(source, rows, encoder.preprocess, batches, captions), workers)
    decoded = iter(loader)
    to_do = sum(stop - start for _, start, stop in pending)

    def advance(done: int) -> None:
        (progress or _silent)(done, to_do)

    for _, start, stop in pending:
        _embed_block(encoder, writer, rows, start, stop, decoded, outcome, advance)
    outcome.seconds = time.perf_counter() - began
    status = store.images(model, split.dataset, split.split).status
    outcome.ok, outcome.failed = int((status == OK).sum()), int((status == FAILED).sum())
    outcome.pending = len(split) - outcome.ok - outcome.failed
    return outcome


def _embed_block(
    encoder: Encoder,
    writer: ImageWriter,
    rows: Rows,
    start: int,
    stop: int,
    decoded: Iterator[Batch | EmbedstoreError],
    outcome: Outcome,
    progress: Callable[[int], None],
) -> None:
    """Embed and write rows ``[start, stop)``, taking their batches from `decoded`."""
    dtype = np.dtype(encoder.provenance.dtype)
    size, at = stop - start, 0
    status = np.full(size, FAILED, dtype=np.uint8)
    columns: dict[str, FloatArray] = {}
    while at < size:
        batch = next(decoded)
        if isinstance(batch, EmbedstoreError):
            raise batch
        good = np.flatnonzero([reason is None for reason in batch.reasons])
        made = _embed_batch(encoder, batch) if len(good) else {}
        finite = np.ones(len(good), dtype=bool)
        for name in ("features", "projected"):
            if name in made:
                finite &= np.isfinite(made[name]).all(axis=1)
        for position in good[~finite]:
            batch.reasons[position] = "the model's output is not finite"
        for name, values in made.items():
            column = columns.setdefault(name, np.full((size, values.shape[1]), np.nan, dtype=dtype))
            column[at + good[finite]] = _stored_as(dtype, values[finite], name)
        status[at + good[finite]] = OK
        outcome.failures += [
            (str(rows.keys[start + at + i]), reason) for i, reason in enumerate(batch.reasons) if reason is not None
        ]
        at += len(batch.reasons)
        progress(len(batch.reasons))
    writer.write(start, stop, status, **_complete(encoder, writer, columns, size))
    outcome.embedded += int((status == OK).sum())


def _embed_batch(encoder: Encoder, batch: Batch) -> dict[str, FloatArray]:
    """Columns of the batch's decodable rows, by name."""
    made = encoder.images(batch.pixels)
    columns: dict[str, FloatArray] = {"features": made.features}
    if made.projected is not None:
        columns["projected"] = made.projected
    if batch.captions is not None:
        columns["captions"] = np.full((len(made.features), encoder.provenance.joint_dim), np.nan, dtype=np.float32)
        there = [i for i, text in enumerate(batch.captions) if text is not None]
        if there:
            columns["captions"][there] = encoder.texts([text for text in batch.captions if text is not None])
    return columns


def _complete(
    encoder: Encoder, writer: ImageWriter, columns: dict[str, FloatArray], size: int
) -> dict[str, FloatArray | None]:
    """All columns that the split has: NaN where a block holds no decodable image at all."""
    widths = {"features": encoder.provenance.feature_dim}
    empty = {
        name: np.full((size, widths.get(name, encoder.provenance.joint_dim)), np.nan, encoder.provenance.dtype)
        for name in writer.columns
    }
    return {**empty, **columns}


def _stored_as(dtype: np.dtype[Any], values: FloatArray, name: str) -> FloatArray:
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    if largest > float(np.finfo(dtype).max):
        raise UsageError(
            f"{name} reach {largest:.4g}, which {dtype} cannot hold; use --dtype float32, with a --name of its own if "
            f"the store holds this model already"
        )
    return values.astype(dtype)


def _silent(rows: int, to_do: int) -> None:
    """Report no progress."""
