"""Which worker embeds which blocks: the one loop behind every engine, and shares for batch queues.

An engine is a :class:`Crew`: some processes that each hold the model. They are given rounds of blocks, long ones first
and shorter ones towards the end, so that all of them end together. Where a process dies, its unfinished blocks go to
others; the first of them alone, because it may be what killed it. A block that has killed three processes while it was
alone is left out, and said.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from embedstore.errors import EmbedstoreError, UsageError, WorkerLost
from embedstore.extract.outcome import Block, BlockReport

_ATTEMPTS = 3


@dataclass(frozen=True)
class Idle:
    """A worker has loaded its model, or done the round that it was given, and wants another."""


@dataclass(frozen=True)
class Lost:
    """A worker is gone."""

    reason: str


Event: TypeAlias = "BlockReport | Idle | Lost | EmbedstoreError"


class Crew(Protocol):
    """Worker processes, numbered from 0; what differs between engines."""

    size: int

    def start(self, worker: int) -> None:
        """Start a worker, or start it again after it was lost; it reports Idle once its model is loaded."""
        ...

    def give(self, worker: int, blocks: Sequence[Block]) -> None:
        """Let an idle worker embed these; it reports each, and then Idle."""
        ...

    def events(self) -> Iterator[tuple[int, Event]]:
        """Wait until at least one worker has reported something."""
        ...

    def stop(self) -> None:
        """End all workers now. What they had begun and not finished is pending."""
        ...


class Rounds:
    """Blocks that are still to be handed out, and what is to be thought of those that were lost."""

    def __init__(self, blocks: Sequence[Block], workers: int) -> None:
        self._waiting = deque(blocks)
        self._again: deque[list[Block]] = deque()
        self._workers = workers
        self._deaths: dict[Block, int] = {}
        self.poisonous: dict[Block, str] = {}

    def __bool__(self) -> bool:
        return bool(self._again or self._waiting)

    def take(self) -> list[Block]:
        """The next round; empty if there is nothing left to hand out."""
        if self._again:
            return self._again.popleft()
        size = -(-len(self._waiting) // (2 * self._workers))
        return [self._waiting.popleft() for _ in range(size)]

    def lost(self, unfinished: Sequence[Block], reason: str) -> None:
        """Take back what a worker that died had not finished."""
        if len(unfinished) == 1:
            block = unfinished[0]
            self._deaths[block] = self._deaths.get(block, 0) + 1
            if self._deaths[block] == _ATTEMPTS:
                self.poisonous[block] = reason
                return
        self._again += [part for part in ([*unfinished[:1]], [*unfinished[1:]]) if part]


def run_blocks(crew: Crew, blocks: Sequence[Block], progress: Callable[[int], None]) -> Generator[BlockReport]:
    """Let a crew embed these blocks; yield a report for each, in the order in which they are done.

    Parameters
    ----------
    progress : callable
        Called with the rows of each block that is done.

    Raises
    ------
    EmbedstoreError
        Whatever a worker raises of these ends the run.
    WorkerLost
        A block killed three processes, after all others are done; or no worker could be started.
    """
    rounds = Rounds(blocks, crew.size)
    at_work: dict[int, list[Block]] = {}  # what each worker has not finished of its round
    idle: set[int] = set()
    failed_starts, notes = 0, tuple[str, ...]()
    try:
        for worker in range(min(crew.size, len(blocks))):
            crew.start(worker)
            at_work[worker] = []
        while True:
            for worker in sorted(idle):
                at_work[worker] = rounds.take()
                if at_work[worker]:
                    crew.give(worker, at_work[worker])
                    idle.discard(worker)
            if not rounds and not any(at_work.values()):
                break  # whoever is still starting (a cluster may have no place for it any more) is not needed
            for worker, event in crew.events():
                if isinstance(event, BlockReport):
                    at_work[worker].remove(event.block)
                    failed_starts = 0
                    progress(event.block[2] - event.block[1])
                    yield replace(event, notes=event.notes + notes)
                    notes = ()
                elif isinstance(event, Idle):
                    assert not at_work[worker], "a worker is idle before it has done its round"
                    idle.add(worker)
                elif isinstance(event, Lost):
                    failed_starts += not at_work[worker]
                    if failed_starts == _ATTEMPTS * crew.size:
                        raise WorkerLost(f"workers end before they embed anything: {event.reason}")
                    left = len(at_work[worker])
                    notes += (f"{event.reason}, with {left} block{'s' * (left != 1)} unfinished",)
                    rounds.lost(at_work[worker], event.reason)
                    at_work[worker] = []
                    idle.discard(worker)
                    if rounds:
                        crew.start(worker)
                    else:
                        del at_work[worker]
                else:
                    raise event
    finally:
        crew.stop()
    if rounds.poisonous:
        raise WorkerLost(_verdict(rounds.poisonous))


def storage_trouble(error: OSError) -> EmbedstoreError:
    """A full disk, a store that is away: no fault of the block, so its worker must not seem to have died of it."""
    return EmbedstoreError(f"{type(error).__name__}: {error}. What is done is in the store; the same command goes on")


def _verdict(poisonous: Mapping[Block, str]) -> str:
    (number, start, stop), reason = next(iter(poisonous.items()))
    more = f" (and {len(poisonous) - 1} more)" if len(poisonous) > 1 else ""
    return (
        f"block {number}{more}, rows {start} to {stop - 1}, ended its process {_ATTEMPTS} times and is left pending; "
        f"all others are done. The last time: {reason}. Look at these images, or run again with --workers 0 to see more"
    )


def share_of(text: str | None, environment: Mapping[str, str]) -> tuple[int, int, str | None]:
    """Which share of the blocks this process has to do: ``(index, of, where that was found)``.

    Parameters
    ----------
    text : str or None
        ``"3/16"``: the fourth of sixteen. None: what a batch queue says in the environment, or else everything.
    environment
        ``RANK`` and ``WORLD_SIZE`` (torchrun), or ``SLURM_PROCID`` and ``SLURM_NTASKS``.

    Raises
    ------
    UsageError
    """
    if text is not None:
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UsageError(f"--share {text} is not understood: 3/16 is the fourth of sixteen shares, 0/16 the first")
        return int(match[1]), int(match[2]), "--share"
    for index, of in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if environment.get(index) is None or environment.get(of) in (None, "1"):
            continue
        mine, all_of_them = environment[index], environment[of]
        if not re.fullmatch(r"[0-9]+/[0-9]+", f"{mine}/{all_of_them}") or int(mine) >= int(all_of_them):
            raise UsageError(f"{index}={mine} and {of}={all_of_them} are no share; give --share, or 0/1 for everything")
        return int(mine), int(all_of_them), f"{index} and {of}"
    return 0, 1, None
