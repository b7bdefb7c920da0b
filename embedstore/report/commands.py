"""The commands that make a report again, from the images to the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from embedstore.records import Provenance, Result
from embedstore.report.content import Content
from embedstore.report.table import METHOD_ORDER

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
        alike: dict[tuple[str, str], list[str]] = {}
        for model, provenance in content.models.items():
            if provenance is not None and model in users:
                setting = (provenance.precision, provenance.dtype)
                alike.setdefault(setting, []).append(_spelling(model, provenance))
        for (precision, dtype), models in alike.items():
            flags = [("--store", content.location), *_each("--model", models), ("--dataset", dataset)]
            flags += [("--split", split), ("--precision", precision), ("--dtype", dtype)]
            yield _command(f"embed {name}", ("embedstore", "extract", source), flags)


def _spelling(model: str, provenance: Provenance) -> str:
    return f"local-dir:{_SOMEWHERE}/{model}" if provenance.pretrained == "local" else model


def _probe(content: Content) -> Iterable[Command]:
    # Results of one run share all but the model and the method, so that is what one command can make again.
    alike: dict[tuple[str, tuple[str, ...], str, str, bool], list[Result]] = {}
    for result in content.results:
        elsewhere = content.models.get(result.model) is None
        setting = (str(result.params.get("seed", "")), str(result.params.get("templates", "")))
        alike.setdefault((result.id_dataset, _ood_sets(result), *setting, elsewhere), []).append(result)
    for (id_dataset, oods, seed, templates, elsewhere), results in sorted(alike.items(), key=lambda item: item[0]):
        flags = [("--store", _SOMEWHERE if elsewhere else content.location)]
        flags += [("--results", content.location)] if elsewhere else []
        flags += _each("--model", sorted({result.model for result in results}))
        flags += [("--id", id_dataset), *_each("--ood", oods)]
        methods = {result.method for result in results}
        if not methods.issuperset(METHOD_ORDER):
            flags += _each("--method", sorted(methods))
        flags += [("--seed", seed)] if seed else []
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
