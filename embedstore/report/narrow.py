"""A report on a part of what a store holds: some models, some methods, one benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from embedstore.benchmarks import Benchmark
from embedstore.errors import NotAvailable, UnknownName
from embedstore.records import Result
from embedstore.report.table import Note

_IMAGES = "images/"


@dataclass(frozen=True)
class Narrowing:
    """What a report is about; by default everything.

    Attributes
    ----------
    models, methods : tuple of str
        By their names in the store; all where empty.
    benchmark : Benchmark, optional
        Its ID set and splits, and of each result the OOD sets that are the benchmark's.
    asked : str
        The benchmark as somebody spelled it: a name, or a file's path.
    """

    models: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    benchmark: Benchmark | None = None
    asked: str = ""

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The benchmark's OOD sets by group (``"near"``: ``("cifar100/test", …)``), with those that have no results."""
        groups = {} if self.benchmark is None else self.benchmark.groups
        return {name: tuple(f"{ood.name}/{ood.split}" for ood in sets) for name, sets in groups.items()}

    @property
    def said(self) -> list[str]:
        """What it is narrowed to, in words; empty where it is everything."""
        chosen = (("model", self.models), ("method", self.methods))
        said = [f"the {kind}{'s' if len(names) > 1 else ''} {', '.join(names)}" for kind, names in chosen if names]
        return said if self.benchmark is None else [*said, f"the benchmark {self.benchmark.name}"]

    def keep(self, results: Iterable[Result]) -> list[Result]:
        """The results, and the parts of results, that the report is about; whether there are any or not."""
        some = [
            result
            for result in results
            if (not self.models or result.model in self.models) and (not self.methods or result.method in self.methods)
        ]
        if self.benchmark is None:
            return some
        return [part for result in some if (part := _part(result, self.benchmark)) is not None]

    def apply(self, results: Sequence[Result]) -> list[Result]:
        """:meth:`keep`, and complain where a name is unknown or nothing is left.

        Raises
        ------
        UnknownName
            No result is of that model or method; names those that there are.
        NotAvailable
            Nothing is left.
        """
        for kind, asked, known in (
            ("model", self.models, {result.model for result in results}),
            ("method", self.methods, {result.method for result in results}),
        ):
            for name in asked:
                if name not in known:
                    raise UnknownName(kind, name, known)
        kept = self.keep(results)
        if not kept:
            raise NotAvailable(f"of {len(results):,} results none is of {self._wish()}")
        return kept

    def notes(self, results: Iterable[Result]) -> list[Note]:
        """What the benchmark warns of, and which of its OOD sets have no results of which models."""
        if self.benchmark is None:
            return []
        benchmark, tested = self.benchmark, dict[str, set[str]]()
        for result in results:
            oods = {ood for by_set in result.metrics.values() for ood in by_set}
            tested.setdefault(result.model, set()).update(oods)
        found = [Note(benchmark.id.name, f"a caution of {benchmark.name}: {text}", ()) for text in benchmark.warnings]
        for group, sets in self.groups.items():
            for ood in sets:
                models = tuple(model for model, oods in sorted(tested.items()) if ood not in oods)
                text = f"the benchmark {benchmark.name} has {ood} too, in its group {group}: no results"
                found += [Note(benchmark.id.name, f"{text}, hence no mean over the group", models)] if models else []
        return found

    def _wish(self) -> str:
        wishes = [f"model {' or '.join(self.models)}"] if self.models else []
        wishes += [f"method {' or '.join(self.methods)}"] if self.methods else []
        if self.benchmark is not None:
            oods = ", ".join(ood for sets in self.groups.values() for ood in sets)
            wishes.append(
                f"the benchmark {self.benchmark.name} (fitted on {self.benchmark.id.name}/{self.benchmark.id.train}, "
                f"tested on {self.benchmark.id.name}/{self.benchmark.id.test} against {oods})"
            )
        return ", and ".join(wishes)


EVERYTHING = Narrowing()


def _part(result: Result, benchmark: Benchmark) -> Result | None:
    """What a result says about a benchmark; None where it says nothing.

    The images of other OOD sets are no longer among the inputs: what becomes of them is of no concern here.
    """
    own = {f"{benchmark.id.name}/{split}" for split in (benchmark.id.train, benchmark.id.test)}
    wanted = own | {f"{ood.name}/{ood.split}" for ood in benchmark.ood}
    oods = {ood for by_set in result.metrics.values() for ood in by_set}
    read = {what.removeprefix(_IMAGES) for what in result.inputs if what.startswith(_IMAGES)}
    other_splits = {name for name in read - oods - wanted if name.split("/")[0] == benchmark.id.name}
    if result.id_dataset != benchmark.id.name or other_splits:
        return None
    chosen = {
        score: {ood: values for ood, values in by_set.items() if ood in wanted}
        for score, by_set in result.metrics.items()
    }
    metrics = {score: by_set for score, by_set in chosen.items() if by_set}
    if not metrics and result.absent is None:
        return None
    aside = {_IMAGES + name for name in read - wanted}
    return replace(result, metrics=metrics, inputs={k: v for k, v in result.inputs.items() if k not in aside})
