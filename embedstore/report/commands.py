"""The commands that make a report again, from the images to the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedstore.records import Provenance, Result
from embedstore.report.content import Content
from embedstore.report.table import METHOD_ORDER, setting

# Stands for the directory of something that a store does not know the place of.
_SOMEWHERE = "PATH"


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


def commands(content: Content) -> list[Command]:
    """Extract what is known about, probe as the results in use were probed, report."""
    return [*_extract(content), *_probe(content), _report(content)]


def dataset_label(name: str) -> str:
    """``"cifar100"`` for ``"cifar100/test"``: the test split goes without saying; others are ``"name:split"``."""
    dataset, _, split = name.partition("/")
    return dataset if split in ("test", "") else f"{dataset}:{split}"


def _extract(content: Content) -> Iterable[Command]:
    for name, source in content.sources.items():
        dataset, split = name.split("/")
        users = {result.model for result in content.results if f"images/{name}" in result.inputs}
        alike: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
        for model, provenance in content.models.items():
            if provenance is not None and model in users:
                templates = tuple(content.templates.get(model, {}).get(dataset, ()))
                settings = (provenance.precision, provenance.dtype, templates)
                alike.setdefault(settings, []).append(_spelling(model, provenance))
        for (precision, dtype, templates), models in alike.items():
            flags = [("--store", content.location), *_each("--model", models), ("--dataset", dataset)]
            flags += [("--split", split), ("--precision", precision), ("--dtype", dtype)]
            flags += _each("--templates", templates) if templates != ("plp",) else []
            yield _command(f"embed {name}", ("embedstore", "extract", source), flags)


def _spelling(model: str, provenance: Provenance) -> str:
    return f"local-dir:{_SOMEWHERE}/{model}" if provenance.pretrained == "local" else model


def _probe(content: Content) -> Iterable[Command]:
    # Results of one run share all but the model, the method and the seed, so that one command can make them again.
    alike: dict[tuple[str, tuple[str, ...], str, bool], dict[int | None, list[Result]]] = {}
    for result in content.results:
        seed, templates = setting(result)
        key = (result.id_dataset, _ood_sets(result), templates or "", content.models.get(result.model) is None)
        alike.setdefault(key, {}).setdefault(seed, []).append(result)
    for (id_dataset, oods, templates, elsewhere), by_seed in sorted(alike.items()):
        runs: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
        for seed, results in by_seed.items():
            models, methods = (tuple(sorted({getattr(r, name) for r in results})) for name in ("model", "method"))
            runs.setdefault((models, methods), []).extend([] if seed is None else [seed])
        for (models, methods), seeds in runs.items():
            flags = [("--store", _SOMEWHERE if elsewhere else content.location)]
            flags += [("--results", content.location)] if elsewhere else []
            flags += [*_each("--model", models), ("--id", id_dataset), *_each("--ood", oods)]
            flags += _each("--method", methods) if not set(methods).issuperset(METHOD_ORDER) else []
            flags += _each("--seed", [str(seed) for seed in sorted(seeds)])
            flags += [("--templates", templates)] if templates not in ("", "plp") else []
            yield _command(f"probe {id_dataset}", ("embedstore", "probe"), flags)


def _ood_sets(result: Result) -> tuple[str, ...]:
    """As `probe` takes them. From the inputs, because a method that could not run has no metrics."""
    own = {f"{result.id_dataset}/train", f"{result.id_dataset}/test"}
    read = {what.removeprefix("images/") for what in result.inputs if what.startswith("images/")}
    read |= {ood for by_set in result.metrics.values() for ood in by_set}
    return tuple(sorted(dataset_label(name) for name in read - own))


def _report(content: Content) -> Command:
    return _command("write this report", ("embedstore", "report"), [("--store", content.location), ("--out", "report")])


def _command(purpose: str, words: Iterable[str], flags: Iterable[tuple[str, str]]) -> Command:
    return Command(purpose, tuple(shlex.join(part) for part in [*((word,) for word in words), *flags]))


def _each(flag: str, values: Sequence[str]) -> list[tuple[str, str]]:
    return [(flag, value) for value in values]
