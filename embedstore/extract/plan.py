"""What a run would do, and how long it would take: nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import EmbedstoreError, NotAvailable, UnknownName
from embedstore.extract.loading import each_batch, worker_count
from embedstore.extract.local import devices_of
from embedstore.records import FAILED, PENDING, Rows
from embedstore.sources import Source
from embedstore.store import Store, check_keys

if TYPE_CHECKING:
    from embedstore.encoders import Encoder

_CALIBRATION_SECONDS = 10.0
_CALIBRATION_BATCHES = 32


@dataclass(frozen=True)
class Plan:
    """What is to be done for one model and split; sizes in bytes, None where a source does not tell them.

    ``images_per_second`` was measured on the first rows that are to do; ``seconds`` is what follows from it.
    """

    model: str
    name: str
    rows: int
    blocks: int
    blocks_to_do: int
    rows_to_do: int
    bytes_in: int | None
    bytes_out: int
    images_per_second: float | None
    seconds: float | None
    processes: int

    def cost(self, price_per_hour: float) -> float | None:
        """In the currency of the price, which is that of one device."""
        return None if self.seconds is None else self.seconds / 3600 * price_per_hour * self.processes


def make_plan(
    store: Store | None,
    encoder: Encoder,
    source: Source,
    *,
    block_rows: int,
    limit: int | None = None,
    extend: bool = False,
    retry_failed: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    captions: str | None = None,
    devices: str | None = None,
    share: tuple[int, int] = (0, 1),
) -> Plan:
    """Count what is to be done, and embed the first of it to see how fast that goes.

    Parameters
    ----------
    store : Store or None
        None where there is none yet.
    devices : str, optional
        What a run would be given; each is taken to be as fast as this process.
    share : (int, int)
        As for :func:`embedstore.extract.embed_blocks`.

    Raises
    ------
    EmbedstoreError
        As :func:`embedstore.extract.list_rows`.
    """
    processes = len(devices_of(devices)) if devices else 1
    rows = source.scan(limit)
    if store is None:
        check_keys(rows)
    else:
        rows = store.merge_rows(source.dataset, source.split, rows, extend=extend, retry_failed=retry_failed)
        if store.holds(source.dataset, source.split):
            block_rows = store.rows(source.dataset, source.split).block_rows
    if store is not None and encoder.provenance.name in store.models():
        store.check_model(encoder.provenance)
    done = _status(store, encoder.provenance.name, source)
    status = np.zeros(len(rows), dtype=np.uint8)
    status[: len(done)] = done
    blocks = [(start, min(start + block_rows, len(rows))) for start in range(0, len(rows), block_rows)]
    again = (FAILED,) if retry_failed else ()
    mine = blocks[share[0] :: share[1]]
    to_do = [(start, stop) for start, stop in mine if np.isin(status[start:stop], (PENDING, *again)).any()]
    count = sum(stop - start for start, stop in to_do)
    lengths = (rows.part(start, stop).length for start, stop in to_do)
    rate = _measure(encoder, source, rows, to_do, batch_size, workers, captions) if to_do else None
    return Plan(
        model=encoder.provenance.name,
        name=f"{source.dataset}/{source.split}",
        rows=len(rows),
        blocks=len(blocks),
        blocks_to_do=len(to_do),
        rows_to_do=count,
        bytes_in=sum(int(one[one > 0].sum()) for one in lengths) or None,
        bytes_out=count * _bytes_a_row(encoder, captions is not None),
        images_per_second=None if rate is None else rate * processes,
        seconds=None if rate is None else count / (rate * processes),
        processes=processes,
    )


def _status(store: Store | None, model: str, source: Source) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    if store is None:
        return np.zeros(0, dtype=np.uint8)
    try:
        return store.images(model, source.dataset, source.split).status
    except (NotAvailable, UnknownName):
        return np.zeros(0, dtype=np.uint8)


def _bytes_a_row(encoder: Encoder, captions: bool) -> int:
    made_by = encoder.provenance
    joint = made_by.joint_dim * (int(encoder.projection is None) + int(captions))
    return (made_by.feature_dim + joint) * np.dtype(made_by.dtype).itemsize + 1  # and its status


def _measure(
    encoder: Encoder,
    source: Source,
    rows: Rows,
    to_do: list[tuple[int, int]],
    batch_size: int,
    workers: int | None,
    captions: str | None,
) -> float:
    """Images a second over the first rows that are to do, without what starting takes."""
    batches = [
        (start, min(start + batch_size, last)) for first, last in to_do for start in range(first, last, batch_size)
    ]
    workers = worker_count(workers, sum(stop - start for start, stop in batches))
    first = batches[:_CALIBRATION_BATCHES]
    loader = each_batch(rows, first, source, encoder.preprocess, captions=captions, workers=workers)
    images, began = 0, time.perf_counter()
    for number, batch in enumerate(loader):
        if isinstance(batch, EmbedstoreError):
            raise batch
        if batch.pixels is not None:
            encoder.images(batch.on(encoder.device))
        if number == 0 and len(batches) > 1:
            began = time.perf_counter()  # the first one also waits for workers, and for kernels to be chosen
            continue
        images += len(batch.reasons)
        if time.perf_counter() - began > _CALIBRATION_SECONDS:
            break
    return images / (time.perf_counter() - began)
