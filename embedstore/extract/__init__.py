"""Embed a split: the one stage that runs a model. Everything it makes goes into the store, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedstore.errors import FingerprintMismatch, ModelUnavailable, TooManyFailures, WorkerLost
from embedstore.extract.blocks import BlockRunner
from embedstore.extract.outcome import MOST_FAILURES, Block, BlockReport, Outcome
from embedstore.prompts import check_class_names, prompts, templates
from embedstore.records import FAILED, OK, PENDING
from embedstore.sources import Source
from embedstore.store import DEFAULT_BLOCK_ROWS, ImageWriter, Split, Store

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedstore.encoders import Encoder

__all__ = ["BlockReport", "BlockRunner", "Outcome", "embed_blocks", "embed_images", "embed_texts", "list_rows"]

# The seam between what is to be done and who does it: "run these blocks, and say how many rows are through".
RunBlocks: TypeAlias = Callable[[Sequence[Block], Callable[[int], None]], Generator[BlockReport]]


def list_rows(
    store: Store,
    source: Source,
    *,
    limit: int | None = None,
    block_rows: int = DEFAULT_BLOCK_ROWS,
    extend: bool = False,
    retry_failed: bool = False,
) -> Split:
    """List a source's rows and fix them in the store, before any of them is embedded.

    Parameters
    ----------
    limit : int, optional
        Take only the first rows; the split then has that many.
    block_rows : int
        Rows a block, for a split that is not in the store yet.
    extend : bool
        Append rows that the stored split does not have.
    retry_failed : bool
        Images that no model has embedded may have been replaced by others of the same name.

    Raises
    ------
    SourceError
        If the source cannot be listed.
    FingerprintMismatch
        If the store holds other rows under this name.
    """
    rows = source.scan(limit)
    return store.add_rows(
        source.dataset, source.split, rows, block_rows=block_rows, extend=extend, retry_failed=retry_failed
    )


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
    split: Split,
    *,
    share: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    max_failures: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Outcome:
    """Embed the blocks of a split that are not done yet, in this process and in order.

    Killed at any moment and run again, this gives the same bytes as an uninterrupted run: batches are cut from each
    block's own rows, and a block counts as done only once its last chunk is written.

    Parameters
    ----------
    split
        From :func:`list_rows`.
    share, retry_failed, max_failures, progress
        See :func:`embed_blocks`.
    **options
        Of :class:`BlockRunner`: ``batch_size``, ``workers``, ``captions``, ``stop_on_error``.

    Raises
    ------
    EmbedstoreError
        See :func:`embed_blocks` and :meth:`BlockRunner.run`.
    """
    runner = BlockRunner(store, encoder, source, split, **options)
    return embed_blocks(
        store,
        runner.writer,
        runner.run,
        share=share,
        retry_failed=retry_failed,
        max_failures=max_failures,
        progress=progress,
    )


def embed_blocks(
    store: Store,
    writer: ImageWriter,
    run: RunBlocks,
    *,
    share: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    max_failures: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Let an engine embed the blocks of a split that are not done yet.

    Parameters
    ----------
    writer
        From :meth:`Store.image_writer`: of the model and the split that are meant.
    run : callable
        The engine: :meth:`BlockRunner.run`, or :func:`embedstore.extract.schedule.run_blocks` with a crew.
    share : (int, int)
        ``(3, 16)``: only the blocks whose number leaves 3 when divided by 16. Other processes do the others.
    retry_failed : bool
        Embed blocks that hold a failed image again, too.
    max_failures : int, optional
        How many rows of the split may have failed, in this run and before.
    progress : callable, optional
        Called with the rows finished since the last call, and all rows that this run has to do.

    Raises
    ------
    TooManyFailures
        More than `max_failures` rows failed. The blocks that are done, and their failures, are in the store.
    """
    split = writer.rows
    blocks = [one for one in writer.pending(retry_failed=retry_failed) if one[0] % share[1] == share[0]]
    to_do = sum(stop - start for _, start, stop in blocks)
    outcome = Outcome(writer.model, split.name, rows=len(split))
    status = writer.status()
    for _, start, stop in blocks:
        status[start:stop] = PENDING  # some may be done: of a block that is embedded again, or was short and has grown
    _count(outcome, status)
    _check_budget(outcome, max_failures)
    began = time.perf_counter()
    with closing(run(blocks, lambda rows: progress(rows, to_do) if progress is not None else None)) as reports:
        for report in reports:
            _add(outcome, report, split)
            _check_budget(outcome, max_failures)
    outcome.seconds = time.perf_counter() - began
    if outcome.tried != to_do:
        raise WorkerLost(f"only {outcome.tried:,} of {to_do:,} rows were done; run the same command again")
    # What the store says now, whoever wrote it: other shares may have been at work meanwhile.
    _count(outcome, store.images(writer.model, split.dataset, split.split).status)
    _check_budget(outcome, max_failures)
    return outcome


def _add(outcome: Outcome, report: BlockReport, split: Split) -> None:
    _, start, stop = report.block
    outcome.ok += report.ok
    outcome.failed += stop - start - report.ok
    outcome.pending -= stop - start
    outcome.tried += stop - start
    outcome.embedded += report.ok
    outcome.notes += report.notes
    for stage, seconds in report.seconds.items():
        outcome.spent[stage] += seconds
    for row, reason in report.reasons.items():
        if len(outcome.failures) < MOST_FAILURES:
            outcome.failures.append(split.failure(row, reason))


def _count(outcome: Outcome, status: npt.NDArray[np.uint8]) -> None:
    if len(status) != outcome.rows:
        raise FingerprintMismatch(f"{outcome.name} was extended while this run was at it; run the same command again")
    outcome.ok, outcome.failed, outcome.pending = (int((status == one).sum()) for one in (OK, FAILED, PENDING))
    assert outcome.rows == outcome.ok + outcome.failed + outcome.pending


def _check_budget(outcome: Outcome, most: int | None) -> None:
    if most is None or outcome.failed <= most:
        return
    last = outcome.failures[-1] if outcome.failures else None
    example = f" The last: {last.key!r}: {last.stage}: {last.reason}." if last is not None else ""
    raise TooManyFailures(
        f"{outcome.failed:,} of {outcome.rows:,} images of {outcome.name} failed, and {most:,} may.{example} See "
        "`embedstore info --store STORE --failures`; allow more with --max-failures, and the same command goes on "
        "from here"
    )
