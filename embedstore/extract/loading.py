"""Read and decode batches of a split, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedstore.errors import EmbedstoreError, ImageError
from embedstore.records import Rows
from embedstore.sources import Payload, Source, decode

if TYPE_CHECKING:
    from types import TracebackType

    from torch.utils.data import DataLoader

# Below this many images, starting worker processes costs more than they save.
_WORKERS_PAY_FROM = 1000


@dataclass
class Batch:
    """Consecutive rows, decoded: pixels (and captions) of the good ones; for every row None, or why it failed."""

    pixels: Any  # (G, 3, H, W) tensor of the G good rows; None where G = 0
    reasons: list[str | None]
    captions: list[str | None] | None


class Batches:
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

    def __getitem__(self, index: int) -> Batch | EmbedstoreError:
        """One batch, or why there is none: if a worker raised, torch would make a traceback of its message."""
        try:
            return self._batch(*self.batches[index])
        except EmbedstoreError as error:
            return error

    def _batch(self, start: int, stop: int) -> Batch:
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
        return Batch(torch.stack(pixels) if pixels else None, reasons, captions)

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


def load_batches(batches: Batches, workers: int | None) -> DataLoader[Any]:
    """Iterate over the batches in order; `workers` processes read ahead, none if 0, as many as pay off if None."""
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
