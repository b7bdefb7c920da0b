"""What extraction says of itself: a report a block, and what became of the whole split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from embedstore.records import Failure

# A block: its number, its first row, and the row behind its last.
Block: TypeAlias = tuple[int, int, int]

# How the time of extraction is spent. "start" is the wait for the first batch, until when workers start. Reading and
# decoding happen in the workers, writing behind the model's back.
SPENT = ("start", "read", "decode", "wait", "encode", "write")

# Of the failures of one run, this many are kept in memory; all of them are in the store.
MOST_FAILURES = 100


@dataclass(frozen=True)
class BlockReport:
    """One block is in the store.

    Attributes
    ----------
    block : (int, int, int)
        Its number, first row, and the row behind its last.
    ok : int
        Rows embedded; the others failed.
    reasons : dict of int to str
        ``"STAGE: why"`` by row of the split.
    seconds : dict of str to float
        By :data:`SPENT`.
    notes : tuple of str
        What a person should know: the batch was halved.
    """

    block: Block
    ok: int
    reasons: dict[int, str]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of the rows of one split. ``rows == ok + failed + pending``, always.

    ``tried`` and ``embedded`` count the images of this run only; ``failures`` are the first hundred of this run, all
    are in the store (:meth:`embedstore.store.Images.failures`). ``seconds`` is wall time, ``spent`` that of each stage.
    """

    model: str
    name: str
    rows: int
    ok: int = 0
    failed: int = 0
    pending: int = 0
    tried: int = 0
    embedded: int = 0
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def bottleneck(self) -> str | None:
        """Which of reading and decoding (``"input"``), the model and writing this run waited for most; None if idle."""
        waited = {
            "input": self.spent["wait"],
            "model": self.spent["encode"],
            "writing": self.spent["write"],
        }
        return max(waited, key=lambda name: waited[name]) if self.tried else None
