"""Embed a split: the one stage that runs a model. Everything it makes goes into the store, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import EmbedstoreError, ImageError, ModelUnavailable, NotAvailable, UsageError
from embedstore.prompts import check_class_names, prompts, templates
from embedstore.records import FAILED, OK, FloatArray, Rows
from embedstore.sources import Payload, Source, decode
from embedstore.store import DEFAULT_BLOCK_ROWS, ImageWriter, Split, Store

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.data import DataLoader

    from embedstore.encoders import Encoder

# Below this many images, starting worker processes costs more than they save.
_WORKERS_PAY_FROM = 1000


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
    progress: Callable[[int], None] | None = None,
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
        Called with the number of rows finished since the last call.

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
    loader = _loader(_Batches(source, rows, encoder.preprocess, batches, captions), encoder, workers)
    decoded = iter(loader)
    for _, start, stop in pending:
        _embed_block(encoder, writer, rows, start, stop, decoded, outcome, progress or _silent)
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
    decoded: Iterator[_Batch | EmbedstoreError],
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


def _embed_batch(encoder: Encoder, batch: _Batch) -> dict[str, FloatArray]:
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


def _silent(rows: int) -> None:
    """Report no progress."""


# Reading and decoding, here or in worker processes --------------------------------------------------------------------


@dataclass
class _Batch:
    """Consecutive rows, decoded: pixels (and captions) of the good ones; for every row None, or why it failed."""

    pixels: Any  # (G, 3, H, W) tensor of the G good rows; None where G = 0
    reasons: list[str | None]
    captions: list[str | None] | None


class _Batches:
    """A map-style torch data set whose items are whole batches, so that each is read from its shard in one sweep."""

    def __init__(
        self,
        source: Source,
        rows: Rows,
        preprocess: Callable[[Any], Any],
        batches: Sequence[tuple[int, int]],
        captions: str | None,
    ) -> None:
        self.source, self.rows, self.preprocess = source, rows, preprocess
        self.batches, self.captions = batches, captions

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> _Batch | EmbedstoreError:
        """One batch, or why there is none: if a worker raised, torch would make a traceback of its message."""
        try:
            return self._batch(*self.batches[index])
        except EmbedstoreError as error:
            return error

    def _batch(self, start: int, stop: int) -> _Batch:
        import torch

        pixels: list[Any] = []
        reasons: list[str | None] = []
        for payload in self.source.read(self.rows, start, stop):
            try:
                pixels.append(torch.as_tensor(self._prepared(payload)))
                reasons.append(None)
            except ImageError as error:
                reasons.append(str(error))
        captions = None
        if self.captions is not None:
            texts = self.source.captions(self.rows, start, stop, self.captions)
            captions = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
        return _Batch(torch.stack(pixels) if pixels else None, reasons, captions)

    def _prepared(self, payload: Payload) -> Any:
        image = decode(payload)
        try:
            return self.preprocess(image)
        except Exception as error:  # whatever a transform raises on an odd image is that image's failure, not the run's
            raise ImageError(f"cannot be pre-processed at {image.width} × {image.height} pixels: {error}") from error


def _end_with_parent(worker: int) -> None:
    """In a worker: end, without a word, when the process that wants its batches is gone, and be it killed.

    Torch's own watch is on the server process that forked the worker, and that lives as long as its workers do.
    """
    import multiprocessing
    import os
    import sys
    import threading

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # A batch is handed over in a thread of its own, which prints a traceback where nobody takes it any more.
        if not issubclass(kind, EOFError | ConnectionError):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report
    threading.Thread(target=wait, daemon=True).start()


def _loader(batches: _Batches, encoder: Encoder, workers: int | None) -> DataLoader[Any]:
    import multiprocessing
    import os

    from torch.utils.data import DataLoader

    images = sum(stop - start for start, stop in batches.batches)
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if images >= _WORKERS_PAY_FROM else 0
    if workers == 0 or images == 0:
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    # Workers are forked from a server process that has imported what they need and runs no threads. A fork of this
    # process would copy the locks of its threads (Zarr's event loop, torch's pool) as they happen to be.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["embedstore.extract", "torch", "torchvision.transforms", "PIL.Image"])
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=_end_with_parent,
    )
