"""The commands that make a report again, from the images to the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstore.records import Provenance, Result
from embedstore.report.attacked import ADVERSARIAL, CLEAN, LEFT_OUT
from embedstore.report.names import DEFAULT_METRICS, METHOD_ORDER, RowOrder, metric_set, options, row_order
from embedstore.report.table import setting, when

if TYPE_CHECKING:  # content.py imports modules that use this one
    from embedstore.report.attack_files import Crafted
    from embedstore.report.content import Content

# Stands for the directory of something that a store does not know the place of.
_SOMEWHERE = "PATH"

# What a variant says of the rows that were read, and the flag for it, with "{}" where that takes the variant's value.
_ROWS: dict[str, tuple[str, ...]] = {
    "train_split": ("--train-split", "{}"),
    "test_split": ("--test-split", "{}"),
    "left_out": ("--drop-duplicates",),
    LEFT_OUT: ("--without", "{}"),
}
_PROBE = "energy"  # what attack.json says of an attack on the linear probe of a store


@dataclass(frozen=True)
class Command:
    """One command line, and what it is for. ``parts`` are its words, quoted for a shell, a flag with its value."""

    purpose: str
    parts: tuple[str, ...]

    @property
    def line(self) -> str:
        """To paste into a shell."""
        return " ".join(self.parts)

    @property
    def has_gap(self) -> bool:
        """Whether something in it is left to the reader to fill in."""
        return any(_SOMEWHERE in part for part in self.parts)


def commands(content: Content, title: str | None = None, compare: str | None = None) -> list[Command]:
    """Extract what is known about, probe as the results in use were probed, report with this title and comparison."""
    return [*_extract(content), *_probe(content), _report(content, title, compare)]


def dataset_label(name: str) -> str:
    """``"cifar100"`` for ``"cifar100/test"``: the test split goes without saying; others are ``"name:split"``."""
    dataset, _, split = name.partition("/")
    return dataset if split in ("test", "") else f"{dataset}:{split}"


def _extract(content: Content) -> Iterable[Command]:
    """Ordinary splits; then the attacks on them; then what other models than the attacked one made of the images."""
    attacked = {attack.name: attack.model if attack.asked else None for attack in content.attacks}
    ordinary = [name for name in content.sources if name.partition("/")[0] not in attacked]
    yield from (command for name in ordinary for command in _embed(content, name, ""))
    yield from _attack(content)
    for name in content.sources:
        dataset, _, split = name.partition("/")
        if dataset in attacked and split in (CLEAN, ADVERSARIAL):  # the others come of the attack alone
            yield from _embed(content, name, attacked[dataset])


def _attack(content: Content) -> Iterable[Command]:
    trained: set[Command] = set()
    for attack in content.attacks:
        made = None if attack.model is None else content.models.get(attack.model)
        if attack.model is not None and attack.asked:
            if attack.kind == _PROBE and (needed := _trained(content, attack)) not in trained:
                trained.add(needed)
                yield needed
            spelled = f"{_SOMEWHERE}/{attack.model}" if made is None else _spelling(attack.model, made)
            flags = [("--store", content.location), ("--model", spelled), *attack.asked]
            yield _command(f"attack {attack.ood}", ("embedstore", "attack"), flags)


def _trained(content: Content, attack: Crafted) -> Command:
    """The probe that an attack aims at: that of the defaults with the least seed, or else the newest.

    Against the attacked images, which the attack needs in any case.
    """
    key = (attack.model, attack.id_dataset, "linear", None)
    found = [each for each in content.results if (each.model, each.id_dataset, each.method, each.absent) == key]
    best = max(found, key=lambda each: (not each.variant, -(setting(each)[0] or 0), when(each)), default=None)
    (run,) = [_Run((attack.model or "",), {"linear": ""}, (), "")] if best is None else _runs([best])
    variant = "" if best is None else best.variant
    rows = () if best is None else _rows(best, content.attacks)
    against = [dataset_label(attack.ood or "")]
    location = [("--store", content.location)]
    return _probing(run, location, attack.id_dataset or "", against, metric_set(variant), rows)


def _embed(content: Content, name: str, but: str | None) -> Iterable[Command]:
    """By every model that was tested on it, except for `but`."""
    dataset, split = name.split("/")
    source = content.sources[name]
    users = {result.model for result in content.results if f"images/{name}" in result.inputs} - {but}
    alike: dict[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], list[str]] = {}
    for model, provenance in content.models.items():
        if provenance is not None and model in users:
            templates = tuple(content.templates.get(model, {}).get(dataset, ()))
            alike.setdefault((_loaded(provenance), templates), []).append(_spelling(model, provenance))
    for (loaded, templates), models in alike.items():
        flags = [("--store", content.location), *_each("--model", models), ("--dataset", dataset)]
        flags += [("--split", split), *loaded]
        flags += _each("--templates", templates) if templates != ("plp",) else []
        yield _command(f"embed {name}", ("embedstore", "extract", source), flags)


def _loaded(made: Provenance) -> tuple[tuple[str, str], ...]:
    """How a model was loaded, as flags."""
    flags = [("--precision", made.precision), ("--dtype", made.dtype)]
    flags += [("--decode", made.decode)] if made.decode != "exact" else []
    return (*flags, *([("--defence", made.defence)] if made.defence else []))


def _spelling(model: str, provenance: Provenance) -> str:
    # `extract --defence jpeg:75` calls it MODEL+jpeg75.
    model = model.removesuffix(f"+{provenance.defence.replace(':', '')}") if provenance.defence else model
    return f"local-dir:{_SOMEWHERE}/{model}" if provenance.pretrained == "local" else model


@dataclass(frozen=True)
class _Run:
    """One `probe`: every model by every method, with every seed. What no method of it reads is empty."""

    models: tuple[str, ...]
    methods: Mapping[str, str]  # the variant of each
    seeds: tuple[int, ...]
    templates: str

    def joined(self, other: _Run) -> _Run | None:
        """One run that does what both do and nothing else; None where there is none."""
        if self.models != other.models or not set(self.methods).isdisjoint(other.methods):
            return None
        if self.seeds != other.seeds and self.seeds and other.seeds:
            return None
        if self.templates != other.templates and self.templates and other.templates:
            return None
        methods = {**self.methods, **other.methods}
        return _Run(self.models, methods, self.seeds or other.seeds, self.templates or other.templates)


def _probe(content: Content) -> Iterable[Command]:
    alike: dict[tuple[str, tuple[str, ...], str, tuple[tuple[str, ...], ...], bool], list[Result]] = {}
    for result in content.results:
        elsewhere = content.models.get(result.model) is None
        rows = _rows(result, content.attacks)
        key = (result.id_dataset, _ood_sets(result), metric_set(result.variant), rows, elsewhere)
        alike.setdefault(key, []).append(result)
    for (id_dataset, oods, metrics, rows, elsewhere), results in sorted(alike.items(), key=lambda pair: pair[0]):
        location = [("--store", _SOMEWHERE if elsewhere else content.location)]
        location += [("--results", content.location)] if elsewhere else []
        for run in _runs(results):
            yield _probing(run, location, id_dataset, oods, metrics, rows)


def _probing(
    run: _Run,
    location: Sequence[tuple[str, str]],
    id_dataset: str,
    oods: Sequence[str],
    metrics: str,
    rows: Sequence[tuple[str, ...]],
) -> Command:
    flags: list[tuple[str, ...]] = [*location, *_each("--model", run.models), ("--id", id_dataset)]
    flags += [*_each("--ood", oods), *rows, *([("--preset", metrics)] if metrics != DEFAULT_METRICS else [])]
    # Without a preset's name all methods run, unless some are named.
    whole = metrics == DEFAULT_METRICS and set(run.methods).issuperset(METHOD_ORDER)
    flags += [] if whole else _each("--method", list(run.methods))
    flags += _each("--option", [text for method in run.methods.items() for text in _options(*method)])
    flags += _each("--seed", [str(seed) for seed in run.seeds])
    # The prompts that go without saying are those of the default.
    said = metrics == DEFAULT_METRICS and run.templates == "plp"
    flags += [("--templates", run.templates)] if run.templates and not said else []
    return _command(f"probe {id_dataset}", ("embedstore", "probe"), flags)


def _runs(results: Iterable[Result]) -> list[_Run]:
    """The fewest runs (as far as taking them in order finds them) that make these results and no others."""
    seeds: dict[tuple[str, str, str], dict[str, set[int]]] = {}
    for result in results:
        seed, templates = setting(result)
        known = seeds.setdefault((result.method, result.variant, templates or ""), {}).setdefault(result.model, set())
        known |= set() if seed is None else {seed}
    found: list[_Run] = []
    for (method, variant, templates), by_model in sorted(seeds.items(), key=lambda pair: _place(*pair[0])):
        models: dict[tuple[int, ...], list[str]] = {}
        for model, known in sorted(by_model.items()):
            models.setdefault(tuple(sorted(known)), []).append(model)
        for numbers, names in models.items():
            run = _Run(tuple(names), {method: variant}, numbers, templates)
            wholes = ((index, other.joined(run)) for index, other in enumerate(found))
            index, whole = next(((i, both) for i, both in wholes if both is not None), (len(found), run))
            found[index : index + 1] = [whole]
    return found


def _place(method: str, variant: str, templates: str) -> tuple[RowOrder, str]:
    return (row_order(method, variant, ""), templates)


def _options(method: str, variant: str) -> list[str]:
    """The options of a variant as `probe` takes them: ``["knn.k=10"]``."""
    chosen = options(variant).items()
    return [f"{method}.{name}={_spelled(value)}" for name, value in chosen if name not in ("metrics", *_ROWS)]


def _rows(result: Result, attacks: Iterable[Crafted]) -> tuple[tuple[str, ...], ...]:
    """The flags that say which rows were read, where it is not all of train and test."""
    chosen = options(result.variant)
    if LEFT_OUT in chosen:  # how many; which ones they are, an attack's list of its targets may say
        files = (attack.targets_file for attack in attacks if attack.is_without_targets(result))
        chosen[LEFT_OUT] = str(next(filter(None, files), f"{_SOMEWHERE}/keys.txt"))
    return tuple(tuple(word.format(chosen[name]) for word in flag) for name, flag in _ROWS.items() if name in chosen)


def _spelled(value: str) -> str:
    """A variant has Python's None and True and joins tuples with "+", which large numbers have too."""
    if value in ("None", "True", "False"):
        return value.lower()
    try:
        float(value)
    except ValueError:
        return value.replace("+", ",")
    return value


def _ood_sets(result: Result) -> tuple[str, ...]:
    """As `probe` takes them. From the inputs, because a method that could not run has no metrics."""
    chosen = options(result.variant)
    splits = (chosen.get("train_split", "train"), chosen.get("test_split", "test"))
    own = {f"{result.id_dataset}/{split}" for split in splits}
    read = {what.removeprefix("images/") for what in result.inputs if what.startswith("images/")}
    read |= {ood for by_set in result.metrics.values() for ood in by_set}
    return tuple(sorted(dataset_label(name) for name in read - own))


def _report(content: Content, title: str | None, compare: str | None) -> Command:
    asked = content.narrowing
    flags = [("--store", content.location), ("--out", "report")]
    flags += [*_each("--model", asked.models), *_each("--method", asked.methods)]
    flags += [] if asked.benchmark is None else [("--benchmark", asked.asked or asked.benchmark.name)]
    flags += [("--title", title)] if title is not None else []
    flags += [("--compare", compare)] if compare is not None else []
    return _command("write this report", ("embedstore", "report"), flags)


def _command(purpose: str, words: Iterable[str], flags: Iterable[tuple[str, ...]]) -> Command:
    return Command(purpose, tuple(shlex.join(part) for part in [*((word,) for word in words), *flags]))


def _each(flag: str, values: Sequence[str]) -> list[tuple[str, str]]:
    return [(flag, value) for value in values]
