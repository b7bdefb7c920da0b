"""Embed some stored images again and compare: the one check that sees wrong features which are well-formed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.errors import EmbedstoreError, FingerprintMismatch, NotAvailable
from embedstore.extract.loading import each_batch, stacked
from embedstore.records import FloatArray, IntArray, Rows
from embedstore.sources import Source
from embedstore.store import Images, Problem, Store

if TYPE_CHECKING:
    from embedstore.encoders import Encoder

# The same model on another device, in other batches, or with another version of a library stays above it.
MIN_COSINE = 0.999


@dataclass(frozen=True)
class Comparison:
    """What embedding some rows again has shown.

    Attributes
    ----------
    rows : int
        How many were compared.
    smallest_cosine : float
        Between what is stored of a row and what it gives now.
    largest_difference : float
        Of any one number, both rounded to the stored type.
    problems : tuple of Problem
        One for each row whose cosine is not above :data:`MIN_COSINE`, or that fails now. Whether the store or this
        machine is wrong cannot be told, so none of them is marked as mended by embedding it again.
    """

    rows: int
    smallest_cosine: float
    largest_difference: float
    problems: tuple[Problem, ...]


def embed_again(
    store: Store,
    encoder: Encoder,
    source: Source,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Embed `count` random rows that are stored as ok again, and compare.

    Parameters
    ----------
    count : int
        All of them if there are fewer.
    seed : int
        Of the choice.
    progress : callable, optional
        Called with the rows embedded since the last call, and all of them.

    Raises
    ------
    FingerprintMismatch
        The model or the source is not the one that the store was made with; the message names what differs.
    NotAvailable
        Nothing is embedded yet.
    StoreCorrupt
        A block that was drawn from cannot be read.
    SourceError
        The source cannot be read.
    """
    made_by = encoder.provenance
    difference = store.provenance(made_by.name).difference(made_by)
    if difference is not None:
        raise FingerprintMismatch(f"{made_by.name} is another model than the stored one; {difference} (stored, now)")
    images = store.images(made_by.name, source.dataset, source.split)
    # A split that was cut off with --limit has fewer rows than its source; appended ones are no difference here.
    rows = store.merge_rows(source.dataset, source.split, source.scan(), extend=True)
    good = np.flatnonzero(images.ok)
    if not len(good):
        raise NotAvailable(f"{images.name} has no image that {made_by.name} has embedded; run `embedstore extract`")
    drawn = np.sort(np.random.default_rng(seed).choice(good, min(count, len(good)), replace=False))
    problems: list[Problem] = []
    cosines, largest = [1.0], 0.0
    for row, now in _embedded(encoder, source, rows, drawn, batch_size):
        what = now if isinstance(now, str) else None
        for name, vector in now.items() if isinstance(now, dict) else ():
            stored = _row(images, name, row)
            cosines.append(_cosine(stored, vector))
            largest = max(largest, float(np.abs(stored - vector.astype(made_by.dtype).astype(np.float64)).max()))
            if not cosines[-1] > MIN_COSINE and what is None:
                what = f"its {name} have the cosine {cosines[-1]:.6f} with what it gives now"
        if what is not None:
            text = f"row {row} ({rows.keys[row]!r}) is stored as ok, and embedded again: {what}"
            problems.append(Problem(f"models/{made_by.name}/images/{images.name}", text, _block(images, row)))
        if progress is not None:
            progress(1, len(drawn))
    return Comparison(len(drawn), min(cosines), largest, tuple(problems))


def _embedded(
    encoder: Encoder, source: Source, rows: Rows, drawn: IntArray, batch_size: int
) -> Iterator[tuple[int, dict[str, FloatArray] | str]]:
    """Each row with its vectors by name, or with why it has none."""
    ones = [(int(row), int(row) + 1) for row in drawn]
    waiting: list[tuple[int, Any]] = []

    def embed() -> Iterator[tuple[int, dict[str, FloatArray] | str]]:
        if not waiting:
            return
        made = encoder.images(stacked([pixels[0] for _, pixels in waiting]))
        vectors = {"features": made.features, **({"projected": made.projected} if made.projected is not None else {})}
        for at, (row, _) in enumerate(waiting):
            yield row, {name: values[at] for name, values in vectors.items()}
        waiting.clear()

    for (row, _), batch in zip(ones, each_batch(rows, ones, source, encoder.preprocess), strict=True):
        if isinstance(batch, EmbedstoreError):
            raise batch
        if batch.pixels is None:
            yield row, str(batch.reasons[0])
            continue
        waiting.append((row, batch.on(encoder.device)))
        if len(waiting) == batch_size:
            yield from embed()
    yield from embed()


def _block(images: Images, row: int) -> tuple[int, int, int]:
    block = row // images.rows.block_rows
    start = block * images.rows.block_rows
    return block, start, min(start + images.rows.block_rows, len(images))


def _row(images: Images, name: str, row: int) -> FloatArray:
    stored: FloatArray = images.part(name, row, row + 1)[0].astype(np.float64)
    return stored


def _cosine(a: FloatArray, b: FloatArray) -> float:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else float(np.array_equal(a, b))
