"""How much of every split was embedded: ok, failed and pending rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedstore.errors import NotAvailable, StoreCorrupt, UnknownName
from embedstore.records import FAILED, OK, PENDING, Provenance, Result
from embedstore.report.lacks import Lack, some
from embedstore.report.summary import count
from embedstore.store import Store


@dataclass(frozen=True)
class State:
    """What one model has of one split, in rows; ``broken`` says why nothing can be counted, empty where it can."""

    model: str
    name: str
    ok: int = 0
    failed: int = 0
    pending: int = 0
    broken: str = ""

    @property
    def whole(self) -> bool:
        """Whether every row is embedded."""
        return not (self.failed or self.pending or self.broken)


@dataclass(frozen=True)
class StateRow:
    """The models that have the same of a split. ``models`` is empty where those are all of the report."""

    name: str
    values: tuple[str, ...]
    models: tuple[str, ...]
    whole: bool
    broken: str


STATE_COLUMNS = ("Rows", "Embedded", "Failed", "Pending")


def states(store: Store, results: Iterable[Result]) -> list[State]:
    """Of every model and every split that a result read, where the store holds the embeddings."""
    read = {(r.model, what.removeprefix("images/")) for r in results for what in r.inputs if what.startswith("images/")}
    found = []
    for model, name in sorted(read, key=lambda pair: (pair[1], pair[0])):
        dataset, _, split = name.partition("/")
        try:
            status = store.images(model, dataset, split).status
        except (UnknownName, NotAvailable):
            continue  # a store of results alone, as provenance says; or they were removed, as missing_states() does
        except StoreCorrupt as error:
            found.append(State(model, name, broken=str(error)))
            continue
        ok, failed, pending = (int(np.count_nonzero(np.equal(status, value))) for value in (OK, FAILED, PENDING))
        found.append(State(model, name, ok, failed, pending))
    return found


def missing_states(
    states: Iterable[State], results: Iterable[Result], models: Mapping[str, Provenance | None]
) -> list[Lack]:
    """Splits that results read and that cannot be counted, of models that the store knows: of others it knows none."""
    counted = {(state.model, state.name) for state in states}
    lost: dict[str, dict[str, set[str]]] = {}
    for result in results:
        for what in result.inputs:
            name = what.removeprefix("images/")
            known = models.get(result.model) is not None and (result.model, name) not in counted
            if name != what and known:
                lost.setdefault(result.id_dataset, {}).setdefault(result.model, set()).add(name)
    by_split: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for id_dataset, by_model in lost.items():
        for model, names in sorted(by_model.items()):
            by_split.setdefault((id_dataset, tuple(sorted(names))), []).append(model)
    why = "results are of embeddings that the store does not hold, or no longer"
    return [
        Lack(id_dataset, f"how many images of {some(names)} are embedded by {some(which)}", why)
        for (id_dataset, names), which in by_split.items()
    ]


def state_rows(states: Sequence[State]) -> list[StateRow]:
    """The table, under ``STATE_COLUMNS``: a row for each group of models that have the same of a split."""
    groups: dict[tuple[str, int, int, int, str], list[str]] = {}
    for state in states:
        key = (state.name, state.ok, state.failed, state.pending, state.broken)
        groups.setdefault(key, []).append(state.model)
    every = {state.model for state in states}
    rows = []
    for (name, ok, failed, pending, broken), models in groups.items():
        numbers = (ok + failed + pending, ok, failed, pending)
        rows.append(
            StateRow(
                name=name,
                values=tuple(f"{number:,}" for number in numbers) if not broken else ("?",) * len(numbers),
                models=() if set(models) == every else tuple(models),
                whole=not (failed or pending or broken),
                broken=broken,
            )
        )
    return rows


def warning(states: Sequence[State]) -> str:
    """What a reader must know before the numbers; empty where every row is embedded."""
    lacking = [state for state in states if not state.whole]
    if not lacking:
        return ""
    failed, pending = sum(state.failed for state in lacking), sum(state.pending for state in lacking)
    broken = sum(bool(state.broken) for state in lacking)
    said = [
        f"{count(number, 'image')} {what}"
        for number, what in ((failed, "failed"), (pending, "not embedded yet"))
        if number
    ]
    said += [f"embeddings that cannot be read: {broken}"] if broken else []
    splits = len({state.name for state in lacking})
    return f"Not everything is embedded: {', '.join(said)}, in {count(splits, 'split')}, counting each model by itself."
