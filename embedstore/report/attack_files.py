"""What is known of an attack beside its results: ``attack.json``, if it lies on this machine, and the rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from embedstore.errors import EmbedstoreError
from embedstore.records import Result, rows_fingerprint
from embedstore.report.attacked import ADVERSARIAL, CLEAN, FLOAT, attacks
from embedstore.report.table import tested_split
from embedstore.store import Store

DECLARATION = "attack.json"
_TARGETS = "targets.txt"
_FORMAT = 1
# Of anything else, such as 1e999999999, a fraction may take for ever.
_NUMBER = re.compile(r"(?=.{1,40}\Z)[0-9]+(\.[0-9]+)?(e-?[0-9]{1,2})?(/[0-9]+)?")
_OPTIONS = ("steps", "lr", "smoothness", "init_scale", "budget", "optimizer")
# What --towards calls the kinds of aim that attack.json names; images go without saying.
_TOWARDS = {"prototypes": "prototype", "texts": "text", "energy": "probe"}
# The same kinds in words, with the ID split or the ID data set in the place of "{}".
_AIMS = {
    "images": "each towards the features of a target image of {split}",
    "prototypes": "each towards the mean feature (the prototype) of a class of {split}",
    "texts": "each towards the texts (the prompts) of a class of {dataset}",
    "energy": "to raise the energy of a linear probe of {dataset}",
}
_OPTIMIZERS = {"adam": "Adam", "pgd": "PGD"}


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
    aimed : mapping of ``"name/split"`` to str
        Fingerprints of the rows that were aimed at, of splits that have them all.
    unaimed : str
        Why `aimed` is empty, or may lack a split.
    """

    name: str
    folder: Path | None = None
    declared: Mapping[str, Any] | None = None
    targets: int | None = None
    paired: bool | None = None
    reason: str = "the store holds results alone, and does not know where the files of the attack are"
    aimed: Mapping[str, str] = field(default_factory=dict)
    unaimed: str = "its files are not at hand"

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

    @cached_property
    def budget(self) -> tuple[str, str, float] | None:
        """Optimizer, norm, and the most that a perturbation may have of it; None where there is no bound."""
        norm, _, size = (self._word("options", "budget") or "").partition("=")
        if _NUMBER.fullmatch(size) is None:
            return None
        try:
            return (self._word("options", "optimizer") or "", norm, float(Fraction(size)))
        except (ValueError, ZeroDivisionError, OverflowError):
            return None

    @property
    def but_budget(self) -> str | None:
        """The same of two attacks that differ in the size of the budget alone; None of one without a budget."""
        if self.budget is None or self.declared is None:
            return None
        options = dict(self._value("options"))
        how = {name: value for name, value in options.items() if name not in ("budget", "snapshots", "every")}
        if self._has_default_steps(how.get("lr")):
            del how["lr"]  # they follow the budget
        parts = ("model", "num", "seed", "aim", "ood", "target")
        return json.dumps([self.budget[:2], how, [self.declared.get(part) for part in parts]], sort_keys=True)

    @property
    def said(self) -> str:
        """What was done, in words; empty where it is not known."""
        if self.model is None or self.ood is None or self.steps is None:
            return ""
        optimizer = self._word("options", "optimizer") or "an unknown optimizer"
        size = self.budget
        bound = f"within {_norm(size[1])} {_size(size)}" if size else "without a budget"
        smooth = self._value("options", "smoothness")
        kept = f", smoothness {smooth:g}" if isinstance(smooth, int | float) and smooth else ""
        how = f"{self.steps:,} steps of {_OPTIMIZERS.get(optimizer, optimizer)}, {bound}{kept}"
        number = self._value("num")
        these = f"{number:,} images" if isinstance(number, int) else "Images"
        return f"{these} of {self.ood} were perturbed with the gradients of {self.model}, {self._aimed}: {how}."

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What `embedstore attack` was given, but for store and model; empty where that is not known."""
        target = [self._word("target", part) for part in ("dataset", "split")]
        if self.folder is None or self.ood is None or not all(target):
            return []
        options = self._value("options")
        options = options if isinstance(options, Mapping) else {}
        words = [
            ("towards", _TOWARDS.get(self.kind)),
            ("templates", self.templates),
        ]
        numbers = {name: self._value(name) for name in ("num", "seed", "block_rows")} | {
            name: options.get(name) for name in _OPTIONS
        }
        taken: list[tuple[str, object]] = [(name, word) for name, word in words if word]
        taken += [(name, value) for name, value in numbers.items() if isinstance(value, int | float | str)]
        steps = options.get("snapshots")
        taken += [("snapshot", step) for step in steps if isinstance(step, int)] if isinstance(steps, list) else []
        ood, aim = (":".join(str(part) for part in pair) for pair in (self.ood.split("/"), target))
        places = [("ood", ood), ("target", aim), ("out", str(self.folder)), ("dataset", self.name)]
        return [(f"--{name.replace('_', '-')}", str(value)) for name, value in (*places, *taken)]

    def is_without_targets(self, result: Result) -> bool:
        """Whether it left out the very train images that were aimed at, and no others."""
        left_out = {name: mark for name, mark in rows_left_out(result).items() if name != tested_split(result)}
        return bool(left_out) and all(self.aimed.get(name) == mark for name, mark in left_out.items())

    @property
    def kind(self) -> str:
        """Of what was aimed at, as ``attack.json`` has it: ``"texts"``; empty where that is not known."""
        return self._word("aim", "kind") or ""

    @property
    def templates(self) -> str | None:
        """The prompts that were aimed at."""
        return self._word("aim", "templates")

    @property
    def id_dataset(self) -> str | None:
        """That of the targets."""
        return self._word("target", "dataset")

    @property
    def targets_file(self) -> Path | None:
        """What `probe --without` takes."""
        return self.folder / _TARGETS if self.folder is not None and self.aimed else None

    @property
    def _aimed(self) -> str:
        """At what, in words."""
        dataset, split = (self._word("target", part) or "" for part in ("dataset", "split"))
        said = _AIMS.get(self.kind, "towards something that this version does not know")
        known = "/".join(filter(None, (dataset, split)))
        return said.format(dataset=dataset or "the ID data", split=known or "the ID data")

    def _has_default_steps(self, lr: object) -> bool:
        """Whether it is PGD with steps of 2.5 budgets by their number."""
        if self.budget is None or self.budget[0] != "pgd" or not self.steps or not isinstance(lr, int | float):
            return False
        return math.isclose(lr, 2.5 * self.budget[2] / self.steps, rel_tol=1e-9)

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
    results = list(results)
    oods = {ood for result in results for by_set in result.metrics.values() for ood in by_set}
    left_out = {name for result in results for name in rows_left_out(result)}
    return [_crafted(store, name, left_out) for name in attacks(oods)]


def rows_left_out(result: Result) -> dict[str, str]:
    """By ``"name/split"`` of the ID data set, the fingerprints of the rows that were left out."""
    own = f"without/{result.id_dataset}/"
    return {name.removeprefix("without/"): mark for name, mark in result.inputs.items() if name.startswith(own)}


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


def _crafted(store: Store, name: str, left_out: Iterable[str]) -> Crafted:
    if not all(store.holds(name, split) for split in (CLEAN, ADVERSARIAL)):
        return Crafted(name)
    try:
        rows = {split: store.rows(name, split) for split in (CLEAN, ADVERSARIAL)}
        paired = rows[CLEAN].keys.tolist() == rows[ADVERSARIAL].keys.tolist()
        source = rows[ADVERSARIAL].source
        made = store.rows(name, FLOAT).source if store.holds(name, FLOAT) else None
    except EmbedstoreError as error:
        return Crafted(name, reason=f"its row list cannot be read: {_first_sentence(error)}")
    if "://" in source:
        return Crafted(name, paired=paired, reason="its files are on another machine, and a report asks none for them")
    # Extracted are OUT/adversarial, or the shards in it.
    places = [*([Path(made)] if made else []), Path(source).parent, Path(source).parent.parent]
    folder = next((place for place in places if (place / DECLARATION).is_file()), None)
    if folder is None:
        looked = dict.fromkeys(str(place.absolute()) for place in places)
        return Crafted(name, paired=paired, reason=f"there is no {DECLARATION} in {' or '.join(looked)}")
    try:
        declared = json.loads((folder / DECLARATION).read_bytes())
    except (OSError, ValueError, RecursionError):
        declared = None
    if not isinstance(declared, dict) or declared.get("format") != _FORMAT:
        why = f"{DECLARATION} is damaged, or not of format {_FORMAT}, which this version reads"
        return Crafted(name, paired=paired, reason=why)
    aim = declared.get("aim")
    if isinstance(aim, dict) and str(aim.get("kind")) in _TOWARDS:
        return Crafted(name, folder, declared, 0, paired, "", unaimed="no images were aimed at")
    try:
        keys = _targets(folder / _TARGETS)
    except (OSError, ValueError) as error:
        why = f"its {_TARGETS} cannot be read: {_first_sentence(error)}"
        return Crafted(name, folder, declared, None, paired, "", unaimed=why)
    aimed = {split: mark for split in left_out if (mark := _rows_of(store, split, keys)) is not None}
    why = f"the store has no row list with all keys of its {_TARGETS}"
    return Crafted(name, folder, declared, len(keys), paired, "", aimed, why)


def _targets(file: Path) -> set[str]:
    # Lines end as the file's writer ends them: a key may have what Unicode takes for the end of a line.
    keys = set(file.read_text(encoding="utf-8-sig").split("\n")) - {""}
    if not keys:
        raise ValueError("it is empty")
    return keys


def _rows_of(store: Store, name: str, keys: set[str]) -> str | None:
    """The fingerprint of the rows with these keys; None where a split does not have them all."""
    try:
        rows = [row for row, key in enumerate(store.rows(*name.split("/", 1)).keys.tolist()) if key in keys]
    except EmbedstoreError:
        return None
    return rows_fingerprint(rows) if len(rows) == len(keys) else None


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].rstrip(".")
