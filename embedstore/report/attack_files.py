"""What is known of an attack beside its results: ``attack.json``, if it lies on this machine, and the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedstoreError
from embedstore.records import Result
from embedstore.report.attacked import ADVERSARIAL, CLEAN, FLOAT, attacks
from embedstore.store import Store

DECLARATION = "attack.json"
_FORMAT = 1
_OPTIONS = ("steps", "lr", "smoothness", "init_scale", "budget", "optimizer")
# What --towards calls the kinds of aim that attack.json names; images go without saying.
_TOWARDS = {"prototypes": "prototype", "texts": "text", "energy": "probe"}


@dataclass(frozen=True)
class Crafted:
    """An attack.

    Attributes
    ----------
    name : str
        The data set that it left.
    folder : Path or None
        Of its files; None where they are not at hand, and with it all that they say.
    declared : mapping
        ``attack.json``; empty without.
    targets : int or None
        Images that were aimed at, each counted once; 0 where something else was.
    paired : bool or None
        Whether the rows of the clean and of the adversarial split have the same keys; None where the store has no rows.
    reason : str
        Why there is no folder.
    """

    name: str
    folder: Path | None = None
    declared: Mapping[str, Any] | None = None
    targets: int | None = None
    paired: bool | None = None
    reason: str = "the store holds results alone, and does not know where the files of the attack are"

    @property
    def model(self) -> str | None:
        """The one that was attacked."""
        return self._word("model", "name")

    @property
    def ood(self) -> str | None:
        """``"name/split"`` of the images that were perturbed."""
        dataset, split = self._word("ood", "dataset"), self._word("ood", "split")
        return f"{dataset}/{split}" if dataset and split else None

    @property
    def steps(self) -> int | None:
        """How many were taken."""
        value = self._value("options", "steps")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def budget(self) -> tuple[str, str, float] | None:
        """Optimizer, norm, and the most that a perturbation may have of it; None where there is no bound."""
        norm, _, size = (self._word("options", "budget") or "").partition("=")
        try:
            return (self._word("options", "optimizer") or "", norm, float(Fraction(size)))
        except (ValueError, ZeroDivisionError, OverflowError):
            return None

    @property
    def but_budget(self) -> str | None:
        """The same of two attacks that differ in the size of the budget alone; None of one without a budget."""
        if self.budget is None or self.declared is None:
            return None
        size = ("budget", "lr", "snapshots", "every")  # PGD's steps are a share of the budget by default
        options = self._value("options")
        how = {name: value for name, value in dict(options).items() if name not in size}
        parts = ("model", "num", "seed", "aim", "ood", "target")
        return json.dumps([self.budget[:2], how, [self.declared.get(part) for part in parts]], sort_keys=True)

    @property
    def said(self) -> str:
        """What was done, in words; empty where it is not known."""
        if self.model is None or self.ood is None or self.steps is None:
            return ""
        aimed = [self._word("target", part) for part in ("dataset", "split")]
        towards = f" towards {'/'.join(part for part in aimed if part)}" if all(aimed) else ""
        size = self.budget
        bound = f"within {_norm(size[1])} {_size(size)}" if size else "without a budget"
        smooth = self._value("options", "smoothness")
        kept = f", smoothness {smooth:g}" if isinstance(smooth, int | float) and smooth else ""
        how = f"{self.steps:,} steps of {self._word('options', 'optimizer') or 'an unknown optimizer'}, {bound}{kept}"
        number = self._value("num")
        these = f"{number:,} images" if isinstance(number, int) else "Images"
        return f"{these} of {self.ood} were perturbed{towards}, with the gradients of {self.model}: {how}."

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What `embedstore attack` was given, but for store and model; empty where that is not known."""
        target = [self._word("target", part) for part in ("dataset", "split")]
        if self.folder is None or self.ood is None or not all(target):
            return []
        options = self._value("options")
        options = options if isinstance(options, Mapping) else {}
        towards = _TOWARDS.get(self._word("aim", "kind") or "")
        numbers = {"num": self._value("num"), "seed": self._value("seed")} | {
            name: options.get(name) for name in _OPTIONS
        }
        taken: list[tuple[str, object]] = [("towards", towards)] if towards else []
        taken += [(name, value) for name, value in numbers.items() if isinstance(value, int | float | str)]
        steps = options.get("snapshots")
        taken += [("snapshot", step) for step in steps if isinstance(step, int)] if isinstance(steps, list) else []
        ood, aim = (":".join(str(part) for part in pair) for pair in (self.ood.split("/"), target))
        places = [("ood", ood), ("target", aim), ("out", str(self.folder)), ("dataset", self.name)]
        return [(f"--{name.replace('_', '-')}", str(value)) for name, value in (*places, *taken)]

    def _value(self, *path: str) -> Any:
        found: Any = self.declared
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _word(self, *path: str) -> str | None:
        found = self._value(*path)
        return found if isinstance(found, str) and found else None


def crafted(store: Store, results: Iterable[Result]) -> list[Crafted]:
    """One for each attack whose images were tested, by name."""
    oods = {ood for result in results for by_set in result.metrics.values() for ood in by_set}
    return [_crafted(store, name) for name in attacks(oods)]


def across(budgets: Iterable[tuple[str, str, float]]) -> str:
    """What the axis of some budgets of one kind is called."""
    norms = {norm for _, norm, _ in budgets}
    return f"budget, {' and '.join(_norm(norm) for norm in sorted(norms))}{' · 255' if norms == {'linf'} else ''}"


def place(budget: tuple[str, str, float]) -> float:
    """Where it stands on that axis."""
    return 255 * budget[2] if budget[1] == "linf" else budget[2]


def _norm(name: str) -> str:
    return {"linf": "L∞", "l2": "L2"}.get(name, name)


def _size(budget: tuple[str, str, float]) -> str:
    return f"{place(budget):.3g}{'/255' if budget[1] == 'linf' else ''}"


def _crafted(store: Store, name: str) -> Crafted:
    splits = store.datasets().get(name, ())
    if not {CLEAN, ADVERSARIAL} <= set(splits):
        return Crafted(name)
    try:
        rows = {split: store.rows(name, split) for split in (CLEAN, ADVERSARIAL)}
        paired = rows[CLEAN].keys.tolist() == rows[ADVERSARIAL].keys.tolist()
        source = rows[ADVERSARIAL].source
        made = store.rows(name, FLOAT).source if FLOAT in splits else None
    except EmbedstoreError as error:
        return Crafted(name, reason=f"its row list cannot be read: {_first_sentence(error)}")
    if "://" in source:
        return Crafted(name, paired=paired, reason="its files are on another machine, and a report asks none for them")
    # Extracted are OUT/adversarial, or the shards in it.
    places = [*([Path(made)] if made else []), Path(source).parent, Path(source).parent.parent]
    folder = next((place for place in places if (place / DECLARATION).is_file()), None)
    if folder is None:
        return Crafted(name, paired=paired, reason=f"beside {source} there is no {DECLARATION}")
    try:
        declared = json.loads((folder / DECLARATION).read_bytes())
        targets = _targets(folder, declared)
    except (OSError, ValueError, RecursionError):
        declared = None
    if not isinstance(declared, dict) or declared.get("format") != _FORMAT:
        why = f"{DECLARATION} is damaged, or not of format {_FORMAT}, which this version reads"
        return Crafted(name, paired=paired, reason=why)
    return Crafted(name, folder, declared, targets, paired, "")


def _targets(folder: Path, declared: Any) -> int | None:
    aim = declared.get("aim") if isinstance(declared, dict) else None
    if isinstance(aim, dict) and str(aim.get("kind")) in _TOWARDS:
        return 0
    listed = folder / "targets.txt"
    return len(set(listed.read_text(encoding="utf-8").splitlines())) if listed.is_file() else None


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].rstrip(".")
