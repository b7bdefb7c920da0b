"""Read and decode batches of a split, in this process or in workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedstore.encoders.levels import Levels, levels
from embedstore.encoders.runtime import out_of_memory
from embedstore.errors import EmbedstoreError, ImageError, SourceError, one_line
from embedstore.records import Rows, Shard
from embedstore.sources import Payload, Source, decode
from embedstore.store import Split

if TYPE_CHECKING:
    from types import TracebackType


# Below this many images, starting worker processes costs more than they save.
_WORKERS_PAY_FROM = 4000

# Transforms scale the short side to the model's size and cut the rest off afterwards: 20,000 × 1 pixels, a file of some
# bytes, would become 6,720,000 × 336.
_MOST_ELONGATED = 500


@dataclass
class Batch:
    """Consecutive rows, decoded: pixels (and captions) of the good ones; for every row None, or why it failed.

    It pins its pixels when torch asks it to, so that they can be copied to a GPU behind its back.
    """

    pixels: Any  # (G, 3, H, W) of the G good rows: bytes, or a tensor or array as preprocess gives; None where G = 0
    reasons: list[str | None]
    captions: list[str | None] | None
    halves: Levels | None = None  # of the transform, if pixels are the bytes that the first one makes
    number: int = 0  # of the batches asked for
    read_seconds: float = 0.0
    decode_seconds: float = 0.0

    def on(self, device: str) -> Any:
        """(G, 3, H, W): what the model takes, on its device where the pixels came as bytes."""
        if self.halves is None:
            return self.pixels
        return self.halves.normalized(self.pixels.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by torch's loader, by this name."""
        if self.pixels is not None:
            self.pixels = self.pixels.pin_memory()
        return self


# A batch's number, and its rows without shards and names, of which there may be many more than rows.
Request: TypeAlias = tuple[int, Rows]


class Decoder:
    """A map-style torch data set whose items are whole batches, so that each is read from its shard in one sweep.

    What it is asked with are the rows themselves: whoever decodes holds those of its batches and no others.
    """

    def __init__(
        self, source: Source, shards: tuple[Shard, ...], preprocess: Callable[[Any], Any], captions: str | None
    ) -> None:
        self.source, self.shards, self.preprocess, self.captions = source, shards, preprocess, captions

    def __getitem__(self, request: Request) -> Batch | EmbedstoreError:
        """One batch, or why there is none: if a worker raised, torch would make a traceback of its message."""
        number, rows = request
        try:
            batch = self._batch(replace(rows, shards=self.shards))
            batch.number = number
            return batch
        except EmbedstoreError as error:
            return error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            # No fault of an image: with fewer decoders it would have been decoded.
            return SourceError(f"there is no memory to decode images ({error}); give fewer --workers")

    def _batch(self, rows: Rows) -> Batch:
        pixels: list[Any] = []
        reasons: list[str | None] = []
        read, began = 0.0, time.perf_counter()
        payloads = self.source.read(rows, 0, len(rows))
        for _ in range(len(rows)):
            asked = time.perf_counter()
            payload = next(payloads)
            read += time.perf_counter() - asked
            made = self._prepared(payload)
            reasons.append(made if isinstance(made, str) else None)
            if not isinstance(made, str):
                pixels.append(made)
        batch = Batch(stacked(pixels) if pixels else None, reasons, None)
        batch.read_seconds, batch.decode_seconds = read, time.perf_counter() - began - read
        if self.captions is not None:
            texts = self.source.captions(rows, 0, len(rows), self.captions)
            batch.captions = [text for text, reason in zip(texts, reasons, strict=True) if reason is None]
        return batch

    def _prepared(self, payload: Payload) -> Any:
        """What the model takes; or, as text, at which stage this image failed and why."""
        if isinstance(payload, ImageError):
            return one_line("read", str(payload))
        try:
            image = decode(payload)
        except ImageError as error:
            return one_line("decode", str(error))
        if max(image.size) > _MOST_ELONGATED * min(image.size):
            shape = f"{image.width} × {image.height} pixels, more than {_MOST_ELONGATED} times as long as wide"
            return one_line("preprocess", f"{shape}: scaling its short side would take gigabytes")
        try:
            return self.preprocess(image)
        except Exception as error:  # whatever a transform raises on an odd image is that image's failure, not the run's
            if out_of_memory(error):
                raise
            return one_line("preprocess", f"cannot be pre-processed at {image.width} × {image.height} pixels: {error}")


def end_with_parent(worker: int = 0) -> None:
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

    sys.excepthook = report_unless_alone
    threading.Thread(target=wait, daemon=True).start()


def report_unless_alone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print what a worker dies of, as Python does, but not that the process it works for is gone.

    That shows where a batch is handed over, in a thread of its own; or where the worker has just been forked for a
    process that was stopped meanwhile, and looks for a semaphore of its.
    """
    import sys
    from multiprocessing import synchronize

    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = trace.tb_frame.f_code.co_filename if trace is not None else ""
    no_semaphore = issubclass(kind, FileNotFoundError) and at == synchronize.__file__
    if not no_semaphore and not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, error.__traceback__)


def each_batch(
    rows: Rows | Split,
    batches: Sequence[tuple[int, int]],
    source: Source,
    preprocess: Callable[[Any], Any],
    *,
    captions: str | None = None,
    workers: int | None = 0,
    pin: bool = False,
) -> Generator[Batch | EmbedstoreError]:
    """Yield batches of `rows`, each from a row to another, in order; their pixels are bytes where `preprocess` allows.

    `workers` processes read ahead, none if 0, as many as pay off if None; each keeps at most two batches ready. `pin`
    puts them where a GPU copies from without waiting. Closing this ends the workers, whoever still holds it (a
    traceback does).
    """
    halves = levels(preprocess)
    decoder = Decoder(source, rows.shards, halves.to_bytes if halves else preprocess, captions)
    requests = (
        (number, replace(rows.part(*place), shards=(), class_names=None)) for number, place in enumerate(batches)
    )
    workers = worker_count(workers, sum(stop - start for start, stop in batches))
    loaded = _load_ahead(decoder, requests, workers, pin) if workers else _load(decoder, requests, pin)
    for batch in loaded:
        if isinstance(batch, Batch):
            batch.halves = halves
        yield batch


def stacked(pixels: list[Any]) -> Any:
    """One batch of equally sized images: a tensor of tensors, an array of arrays."""
    if isinstance(pixels[0], np.ndarray):
        return np.stack(pixels)
    import torch

    return torch.stack(pixels)


def worker_count(workers: int | None, images: int) -> int:
    """How many processes decode so many images, if nobody says; none for none."""
    import os

    if workers is None:
        return min(8, os.cpu_count() or 1) if images >= _WORKERS_PAY_FROM else 0
    return workers if images else 0


def _start_forkserver() -> None:
    """Start the server deaf to Ctrl-C, which reaches every process: while it imports, it would print where it was."""
    import signal
    import threading
    from multiprocessing import forkserver

    if threading.current_thread() is not threading.main_thread():
        return  # signals cannot be set here
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _load(decoder: Decoder, requests: Iterator[Request], pin: bool) -> Iterator[Batch | EmbedstoreError]:
    for request in requests:
        batch = decoder[request]
        yield batch.pin_memory() if pin and isinstance(batch, Batch) else batch


def _load_ahead(
    decoder: Decoder, requests: Iterator[Request], workers: int, pin: bool
) -> Iterator[Batch | EmbedstoreError]:
    import multiprocessing
    import warnings

    from torch.utils.data import DataLoader

    # Workers are forked from a server process that has imported what they need and runs no threads. A fork of this
    # process would copy the locks of its threads (Zarr's event loop, torch's pool) as they happen to be.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["embedstore.extract.forked", "torch", "torchvision.transforms", "PIL.Image"])
    _start_forkserver()
    with warnings.catch_warnings():
        # More workers than cores: the user's choice, and torch says so at length, twice.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return iter(
            DataLoader(
                decoder,  # type: ignore[arg-type]
                sampler=requests,
                batch_size=None,
                num_workers=workers,
                multiprocessing_context=context,
                worker_init_fn=end_with_parent,
                pin_memory=pin,
            )
        )
