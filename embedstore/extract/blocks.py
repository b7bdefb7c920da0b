"""Embed blocks of a split in this process: decode ahead, encode, write behind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from embedstore.encoders.runtime import out_of_memory
from embedstore.errors import EmbedstoreError, ImageError, ModelUnavailable, NotAvailable, one_line
from embedstore.extract.loading import Batch, each_batch
from embedstore.extract.outcome import SPENT, Block, BlockReport
from embedstore.records import FAILED, OK, FloatArray
from embedstore.sources import Source
from embedstore.store import Split, Store, as_stored

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedstore.encoders import Encoder


@dataclass
class _Block:
    """One block while its batches come in."""

    place: Block
    status: npt.NDArray[np.uint8]
    columns: dict[str, FloatArray]
    reasons: dict[int, str] = field(default_factory=dict)  # by row of the block
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))


class BlockRunner:
    """Embeds the blocks that it is told to. One a device; loads nothing itself.

    Parameters
    ----------
    batch_size : int
        Images that go through the model at once. Batches are cut from each block's own rows, so that what a block
        holds does not depend on who embeds it.
    workers : int, optional
        Processes that read and decode; 0 decodes in this one. Chosen by the amount of work if not given.
    captions : str, optional
        Extension of the text that belongs to each image (``"txt"``); embedded beside it.
    stop_on_error : bool
        Raise ImageError at the first image that fails, instead of recording it.
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        source: Source,
        split: Split,
        *,
        batch_size: int = 64,
        workers: int | None = None,
        captions: str | None = None,
        stop_on_error: bool = False,
    ) -> None:
        model = encoder.provenance.name
        if captions is not None and not encoder.has_text:
            raise NotAvailable(f"{model} has no text tower, so it cannot embed captions")
        self.encoder, self.source, self.split = encoder, source, split
        self.batch_size, self.workers = batch_size, workers
        self.captions, self.stop_on_error = captions, stop_on_error
        self.writer = store.image_writer(
            model, split, projected=encoder.projection is None, captions=captions is not None
        )
        self._dtype = np.dtype(encoder.provenance.dtype)

    def run(
        self, blocks: Sequence[Block], progress: Callable[[int], None] = lambda rows: None
    ) -> Generator[BlockReport]:
        """Embed and write these blocks, in order; yield a report once a block is in the store.

        Out of GPU memory, the batch is halved for all that is left, and the block begun again.

        Parameters
        ----------
        progress : callable
            Called with the number of rows that have just gone through the model.

        Raises
        ------
        SourceError
            The source cannot be read; no fault of one image.
        UsageError
            A feature does not fit the storage dtype.
        ModelUnavailable
            There is not even memory for one image.
        """
        done, notes = 0, tuple[str, ...]()
        while done < len(blocks):
            try:
                for report in self._round(blocks[done:], progress):
                    done += 1
                    yield replace(report, notes=notes)
                    notes = ()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise ModelUnavailable(f"there is no memory for one image: {_first_line(error)}") from error
                self.batch_size //= 2
                notes += (f"out of memory with {self.batch_size * 2} images at once; going on with {self.batch_size}",)
            if notes:
                _empty_gpu_cache()  # only here: the exception held on to what did not fit

    def _round(self, blocks: Sequence[Block], progress: Callable[[int], None]) -> Iterator[BlockReport]:
        """Embed blocks while the one before is being written."""
        batches = [
            (start, min(start + self.batch_size, stop))
            for _, first, stop in blocks
            for start in range(first, stop, self.batch_size)
        ]
        decoded = each_batch(
            self.split,
            batches,
            self.source,
            self.encoder.preprocess,
            captions=self.captions,
            workers=self.workers,
            pin=self.encoder.device.startswith("cuda"),
        )
        with closing(decoded), ThreadPoolExecutor(1, thread_name_prefix="embedstore-write") as behind:
            writing: Future[BlockReport] | None = None
            for place in blocks:
                try:
                    block = self._embed(place, decoded, progress)
                except (RuntimeError, MemoryError) as error:
                    if writing is not None and out_of_memory(error):
                        yield writing.result()  # so that it is not begun again
                    raise
                if writing is not None:
                    yield writing.result()
                writing = behind.submit(self._write, block)
            if writing is not None:
                yield writing.result()

    def _embed(
        self, place: Block, decoded: Iterator[Batch | EmbedstoreError], progress: Callable[[int], None]
    ) -> _Block:
        """Take the block's batches from `decoded`, and embed them."""
        _, start, stop = place
        block = _Block(place, np.full(stop - start, FAILED, dtype=np.uint8), self._empty_columns(stop - start))
        at = 0
        while at < stop - start:
            began = time.perf_counter()
            batch = next(decoded)
            arrived = time.perf_counter()
            if isinstance(batch, EmbedstoreError):
                raise batch
            self._embed_batch(block, at, batch)
            block.seconds["read"] += batch.read_seconds
            block.seconds["decode"] += batch.decode_seconds
            block.seconds["wait" if batch.number else "start"] += arrived - began
            block.seconds["encode"] += time.perf_counter() - arrived
            if self.stop_on_error and block.reasons:
                row, reason = min(block.reasons.items())
                key = self.split.part(start + row, start + row + 1).keys[0]
                raise ImageError(f"{key!r} failed, and --on-error is stop: {reason}")
            at += len(batch.reasons)
            progress(len(batch.reasons))
        return block

    def _embed_batch(self, block: _Block, at: int, batch: Batch) -> None:
        """Put a batch, whose first row is row `at` of the block, into the block."""
        good = np.flatnonzero([reason is None for reason in batch.reasons])
        block.reasons.update({at + row: reason for row, reason in enumerate(batch.reasons) if reason is not None})
        if not len(good):
            return
        made = self.encoder.images(batch.on(self.encoder.device))
        vectors = {"features": made.features}
        if made.projected is not None:
            vectors["projected"] = made.projected
        finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in vectors.values()])
        if batch.captions is not None:
            vectors["captions"] = self._embed_captions(batch.captions)
        for row in good[~finite]:
            block.reasons[at + int(row)] = one_line("model", "the model's output is not finite")
        for name, values in vectors.items():
            block.columns[name][at + good[finite]] = as_stored(self._dtype, values[finite], name)
        block.status[at + good[finite]] = OK

    def _embed_captions(self, captions: Sequence[str | None]) -> FloatArray:
        vectors = np.full((len(captions), self.encoder.provenance.joint_dim), np.nan, dtype=np.float32)
        there = [row for row, text in enumerate(captions) if text is not None]
        if there:
            vectors[there] = self.encoder.texts([text for text in captions if text is not None])
        return vectors

    def _empty_columns(self, size: int) -> dict[str, FloatArray]:
        """All vectors that the split has, NaN: a failed row stays so."""
        made_by = self.encoder.provenance
        widths = {
            name: made_by.feature_dim if name == "features" else made_by.joint_dim for name in self.writer.columns
        }
        return {name: np.full((size, width), np.nan, dtype=self._dtype) for name, width in widths.items()}

    def _write(self, block: _Block) -> BlockReport:
        _, start, stop = block.place
        began = time.perf_counter()
        self.writer.write(start, stop, block.status, reasons=block.reasons, **block.columns)
        block.seconds["write"] = time.perf_counter() - began
        reasons = {start + row: reason for row, reason in sorted(block.reasons.items())}
        return BlockReport(block.place, int((block.status == OK).sum()), reasons, block.seconds)


def _empty_gpu_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
