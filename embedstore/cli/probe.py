"""``embedstore probe``: classify and detect from cached features, and keep what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedstore import errors
from embedstore.cli.options import json_option, quiet_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.benchmarks import Benchmark
    from embedstore.evaluate import Study
    from embedstore.records import IntArray, Result
    from embedstore.store import Store

Options = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Sets:
    """What is tested on what, as asked for or as a benchmark says; ``groups`` and ``notes`` are the benchmark's."""

    id_name: str
    ood_names: tuple[str, ...]
    train_split: str = "train"
    test_split: str = "test"
    templates: str | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    benchmark: Benchmark | None = None
    notes: tuple[str, ...] = ()


@click.command()
@store_option
@click.option("--model", "models", multiple=True, metavar="MODEL", help="All models of the store if not given.")
@click.option("--id", "id_name", metavar="NAME", help="The in-distribution data set.")
@click.option("--ood", "ood_names", multiple=True, metavar="NAME[:SPLIT]", help="An OOD set. Repeatable.")
@click.option("--benchmark", metavar="NAME|FILE", help="Takes --id and --ood from a benchmark, or from your TOML file.")
@click.option("--method", "methods", multiple=True, metavar="METHOD", help="All methods if not given. Repeatable.")
@click.option(
    "--preset", default="default", show_default=True, metavar="NAME", help="default, official, mcm or openood."
)
@click.option("--option", "given", multiple=True, metavar="METHOD.OPTION=VALUE", help="As knn.k=10. Repeatable.")
@click.option("--shots", multiple=True, type=click.IntRange(1), metavar="N", help="Also few-shot layers. Repeatable.")
@click.option("--templates", metavar="SET", help="The prompts that make class vectors; the preset's if not given.")
@click.option(
    "--seed", "seeds", multiple=True, type=click.IntRange(0, 2**32 - 1), help="The preset's if not given. Repeatable."
)
@click.option("--drop-duplicates", is_flag=True, help="Leave out images that another set holds, as `leaks` finds them.")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="Cosine of duplicates; as of `leaks`.")
@click.option("--recompute", is_flag=True, help="Compute what the store holds already, too.")
@click.option(
    "--without", metavar="FILE", help="Leave images of the ID train split out: a file of their keys, one a line."
)
@click.option("--train-split", metavar="NAME", help="The ID split to train on; train if not given.")
@click.option("--test-split", metavar="NAME", help="The ID split to test on; test if not given.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="For layers, k-NN."
)
@click.option("--results", metavar="PATH", help="Write results into this store instead.")
@json_option
@quiet_option
def probe(
    location: str,
    models: tuple[str, ...],
    id_name: str | None,
    ood_names: tuple[str, ...],
    benchmark: str | None,
    methods: tuple[str, ...],
    preset: str,
    given: tuple[str, ...],
    shots: tuple[int, ...],
    templates: str | None,
    seeds: tuple[int, ...],
    drop_duplicates: bool,
    threshold: float | None,
    recompute: bool,
    without: str | None,
    train_split: str | None,
    test_split: str | None,
    device: str,
    results: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify and detect from cached features alone: fit on NAME/train, test on NAME/test against each OOD set.

    What the store holds already is not computed again. `embedstore methods` lists methods, options, presets and
    benchmarks; docs/methods.md has the formulas.

    \b
    Examples:
      embedstore probe --store clip.zarr --id cifar10 --ood cifar100 --ood textures
      embedstore probe --store clip.zarr --benchmark imagenet --preset official
      embedstore probe --store clip.zarr --benchmark cifar10 --method plp --shots 1 --shots 4 --seed 0 --seed 1
    """
    from embedstore.cli import console, tables
    from embedstore.evaluate import METHODS, PRESETS, Study, run_methods
    from embedstore.store import Store

    _check_names(methods, preset, templates)
    if threshold is not None and not drop_duplicates:
        raise errors.UsageError("--threshold is that of duplicates: give --drop-duplicates too")
    _check_device(device)
    out = console.human(quiet=quiet, as_json=as_json)
    store = Store.open(location, writable=results is None)
    wanted = models_of(store, models)
    sets = _sets(store, id_name, ood_names, benchmark)
    prompts = templates or (sets.templates if preset == "default" else None) or PRESETS[preset].templates
    study_of = partial(
        Study,
        store,
        id_name=sets.id_name,
        ood_names=sets.ood_names,
        templates=prompts,
        train_split=train_split or sets.train_split,
        test_split=test_split or sets.test_split,
        device=device,
    )
    target = store if results is None else Store.create(results)
    known = [] if recompute else list(target.results())
    there = {id(result) for result in known}
    found: list[Result] = []
    notes = list(sets.notes)
    if sets.benchmark is not None:
        notes += _other_names(store, wanted, sets.benchmark, prompts)
    leave_out = {}
    if without is not None:
        leave_out = _rows_of_keys(store, sets.id_name, train_split or sets.train_split, without)
    if drop_duplicates:
        leave_out |= _duplicates(out, wanted, partial(study_of, without=leave_out), threshold)
    runs = _runs(methods or PRESETS[preset].methods or tuple(METHODS), _options(given), shots)
    for model in wanted:
        try:
            study = study_of(model=model, without=leave_out)
        except errors.NotAvailable as error:
            notes.append(str(error))
            continue
        each = (
            result
            for names, options in runs
            for result in run_methods(study, names, seeds=seeds, preset=preset, options=options, known=known)
        )
        notes += study.missing
        ran = []
        for result in console.each(out, each, model):
            ran.append(result)
            if result.absent is None and id(result) not in there:
                target.add_result(result)
        found += ran
        # Why one method is absent is worth keeping beside those that ran; a request that gave nothing is not.
        if any(result.absent is None for result in ran):
            for result in ran:
                if result.absent is not None:
                    target.add_result(result)
    if not found:
        raise errors.NotAvailable(" ".join(dict.fromkeys(notes)))
    tables.print_results(out, found, notes, sets.groups)
    ran_at_all = [result for result in found if result.absent is None]
    old = sum(id(result) in there for result in ran_at_all)
    if old:
        rest = "nothing was computed" if old == len(ran_at_all) else "the others are new"
        out.print(
            f"{old} of {len(ran_at_all)} results were in the store already, {rest}; --recompute computes all again."
        )
    if as_json:
        click.echo(json.dumps(tables.as_rows(found)))
    if all(result.absent is not None for result in found):
        raise errors.NotAvailable("no method could run; the notes say what each lacks")


def models_of(store: Store, asked: Sequence[str]) -> list[str]:
    """Names in the store of the models asked for, each once; all that it has where none is."""
    from embedstore.encoders import parse_model

    known = store.models()
    if not known:
        raise errors.NotAvailable("the store holds no model yet; run `embedstore extract` first")
    wanted = list(dict.fromkeys(model if model in known else parse_model(model).name for model in asked)) or known
    for model in wanted:
        store.provenance(model)
    return wanted


def _check_names(methods: Sequence[str], preset: str, templates: str | None) -> None:
    """Before anything is opened or computed."""
    from embedstore.evaluate import METHODS, PRESETS
    from embedstore.prompts import TEMPLATES

    for method in methods:
        if method not in METHODS:
            raise errors.UnknownName("method", method, METHODS)
    if preset not in PRESETS:
        raise errors.UnknownName("preset", preset, PRESETS)
    if templates is not None and templates not in TEMPLATES:
        raise errors.UnknownName("template set", templates, TEMPLATES)


def _check_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise errors.UsageError("--device cuda: torch finds no CUDA device here; leave it away to use the CPU")


def _options(given: Sequence[str]) -> Options:
    """``METHOD.OPTION=VALUE``, parsed by what the method says of its options."""
    from embedstore.evaluate import METHODS

    options: Options = {}
    for text in given:
        name, _, value = text.partition("=")
        method, _, option = name.partition(".")
        if not (method and option and value):
            raise errors.UsageError(f"--option {text}: it must read METHOD.OPTION=VALUE, as knn.k=10")
        if method not in METHODS:
            raise errors.UnknownName("method", method, METHODS)
        option = option.replace("-", "_")
        if option in options.get(method, {}):
            raise errors.UsageError(f"--option {text}: {method}.{option} is given twice; run probe once for each value")
        options.setdefault(method, {})[option] = METHODS[method].parse(method, option, value)
    return options


def _runs(methods: Sequence[str], options: Options, shots: Sequence[int]) -> list[tuple[Sequence[str], Options]]:
    """Methods with their options: once as they are, and once for each number of shots those that learn from few."""
    from embedstore.evaluate import METHODS

    unused = [name for name in options if name not in methods]
    if unused:
        raise errors.UsageError(f"--option is given for {unused[0]}, which does not run; add --method {unused[0]}")
    runs: list[tuple[Sequence[str], Options]] = [(methods, options)]
    learners = [name for name in methods if "shots" in METHODS[name].defaults()]
    if shots and not learners:
        able = [name for name, method in METHODS.items() if "shots" in method.defaults()]
        raise errors.UsageError(f"--shots needs a method that learns from few images: {', '.join(able)}")
    for count in dict.fromkeys(shots):
        others = [name for name in learners if options.get(name, {}).get("shots") != count]
        if others:
            runs.append((others, {name: {**options.get(name, {}), "shots": count} for name in others}))
    return runs


def _sets(store: Store, id_name: str | None, ood_names: tuple[str, ...], benchmark: str | None) -> _Sets:
    from embedstore.benchmarks import load_benchmark

    if benchmark is None:
        if id_name is None or not ood_names:
            raise errors.UsageError(
                "name the in-distribution data set with --id and OOD sets with --ood, or a --benchmark"
            )
        return _Sets(id_name, ood_names)
    if id_name is not None or ood_names:
        raise errors.UsageError("--benchmark says what is in distribution and what is not; leave --id and --ood away")
    chosen = load_benchmark(benchmark)
    notes = (*_differences(store, chosen), *(f"caution, {text}" for text in chosen.warnings))
    have = store.datasets()
    present = [one for one in chosen.ood if one.split in have.get(one.name, ())]
    if chosen.id.test not in have.get(chosen.id.name, ()) or not present:
        raise errors.NotAvailable("\n".join([f"{benchmark} cannot be run on what the store holds.", *notes]))
    groups = {name: [f"{one.name}/{one.split}" for one in sets] for name, sets in chosen.groups.items()}
    return _Sets(
        id_name=chosen.id.name,
        ood_names=tuple(f"{one.name}:{one.split}" for one in present),
        train_split=chosen.id.train,
        test_split=chosen.id.test,
        templates=chosen.id.templates,
        groups=groups if len(groups) > 1 or len(chosen.ood) > 1 else None,
        benchmark=chosen,
        notes=notes,
    )


def _differences(store: Store, benchmark: Benchmark) -> Iterator[str]:
    """What the store lacks for a benchmark, with where to get it, and what has another size."""
    from embedstore.benchmarks import missing, sizes

    have = store.datasets()
    for one in missing(benchmark, have):
        count = "" if one.size is None else f", {one.size:,} images"
        yield (
            f"{one.dataset}/{one.split} ({one.title}{count}) is not in the store. Where to get it: {one.where}. "
            f"Then: {one.command}"
        )
    there = [place for place in benchmark.expected if place[1] in have.get(place[0], ())]
    yield from sizes(benchmark, {place: len(store.rows(*place)) for place in there})


def _other_names(store: Store, models: Sequence[str], benchmark: Benchmark, prompts: str) -> list[str]:
    """Where the prompts were made of other class names than the benchmark's."""
    from embedstore.benchmarks import classes

    name = benchmark.id.name
    found = []
    for model in models:
        if prompts in store.class_sets(model).get(name, ()):
            found += classes(benchmark, store.text_info(model, name, prompts)["names"])
    return found


def _rows_of_keys(store: Store, dataset: str, split: str, file: str) -> dict[str, IntArray]:
    """The rows of a split whose keys a file lists."""
    import numpy as np

    try:
        # Not splitlines, which ends a line at letters that a key may hold.
        wanted = set(Path(file).read_text(encoding="utf-8-sig").split("\n")) - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"--without {file} cannot be read: {error}") from error
    _check_targets(Path(file), f"{dataset}/{split}")
    places = {key: row for row, key in enumerate(store.rows(dataset, split).keys.tolist())}
    unknown = sorted(wanted - places.keys())
    if unknown or not wanted:
        what = f"{len(unknown):,} of {len(wanted):,} keys are not, {unknown[0]!r} first" if unknown else "it is empty"
        raise errors.UsageError(f"--without {file} must list keys of {dataset}/{split}, one a line; {what}")
    return {f"{dataset}/{split}": np.array(sorted(places[key] for key in wanted), dtype=np.int64)}


def _check_targets(file: Path, name: str) -> None:
    """An attack's list of targets holds bare keys, which another split may have too: it must be a list of this one."""
    try:
        target = json.loads((file.parent / "attack.json").read_bytes())["target"]
        of = f"{target['dataset']}/{target['split']}"
    except (OSError, ValueError, KeyError, TypeError):
        return  # a list of somebody's own
    if file.name == "targets.txt" and of != name:
        raise errors.UsageError(f"--without {file} lists images of {of}, which the attack aimed at, and not of {name}")


def _duplicates(
    out: Console, models: Sequence[str], study_of: Callable[..., Study], threshold: float | None
) -> dict[str, IntArray]:
    """The first model that has a tested split decides on it for all, so that all see the same images."""
    from embedstore.evaluate import duplicates, rows_to_leave_out
    from embedstore.leaks import THRESHOLD

    rows: dict[str, IntArray] = {}
    decided: set[str] = set()
    for model in models:
        try:
            study = study_of(model=model)
        except errors.NotAvailable:
            continue  # the run over the models says so
        new = set(study.tested) - decided
        if not new:
            continue
        found = rows_to_leave_out(duplicates(study, threshold or THRESHOLD))
        rows |= {name: each for name, each in found.items() if name in new}
        decided |= new
        counts = ", ".join(f"{len(found.get(name, ())):,} of {name}" for name in sorted(new))
        out.print(f"duplicates by {model}, left out for all models: {counts}", markup=False, soft_wrap=True)
    return rows
