"""The command line: parse, call the library, print. Nothing else knows paths, flags or exit codes."""

from __future__ import annotations

import importlib
import json
import os
import shlex

import click

from embedstore import errors
from embedstore.cli.exits import STOPPED, Commands
from embedstore.cli.extract import extract
from embedstore.cli.inspect import info, list_store, verify
from embedstore.cli.options import json_option, quiet_option, store_option

# Threads that wait for each other must sleep, not spin, or decoding workers starve: on two busy cores extraction ran
# three times slower without this (docs/log.md). It is read once, when the OpenMP runtime is loaded, hence so early.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # People who come from other tools type underscores.
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
@click.version_option(package_name="embedstore", message="%(version)s")
def main() -> None:
    """Embed images once, then classify them and detect out-of-distribution images from the cached features.

    Every option is also read from the environment: --block-rows of extract from EMBEDSTORE_EXTRACT_BLOCK_ROWS (several
    values of a repeatable one are separated by spaces). Exit codes: 0 done, 1 failed, 2 usage, 3 done but some images
    failed, 4 more images failed than allowed, 5 store corrupt or written by another model, 75 stopped (run again to
    resume).
    """


def run_typed(*args: str) -> None:
    """Print one command as one would type it, then run it in this process. Recipes are made of these."""
    lines = [(" \\\n    " if arg.startswith("--") else " ") + shlex.quote(arg) for arg in args]
    click.echo("\n$ embedstore" + "".join(lines))
    if main(args=list(args), standalone_mode=False) == STOPPED:
        raise click.exceptions.Exit(STOPPED)  # or the recipe would go on with half of the data


for _command in (extract, list_store, info, verify):
    main.add_command(_command)


@main.command()
@store_option
@click.option("--model", "models", multiple=True, metavar="MODEL", help="All models of the store if not given.")
@click.option("--id", "id_name", required=True, metavar="NAME", help="The in-distribution data set.")
@click.option(
    "--ood",
    "ood_names",
    required=True,
    multiple=True,
    metavar="NAME[:SPLIT]",
    help="An OOD set's test split. Repeatable.",
)
@click.option("--method", "methods", multiple=True, metavar="METHOD", help="All methods if not given. Repeatable.")
@click.option(
    "--templates", default="plp", show_default=True, metavar="SET", help="The prompts that make class vectors."
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(0, 2**32 - 1),
    default=(0,),
    show_default=True,
    help="Of the linear probes. Repeatable.",
)
@click.option("--results", metavar="PATH", help="Write results into this store instead.")
@json_option
@quiet_option
def probe(
    location: str,
    models: tuple[str, ...],
    id_name: str,
    ood_names: tuple[str, ...],
    methods: tuple[str, ...],
    templates: str,
    seeds: tuple[int, ...],
    results: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Classify and detect from cached features alone: fit on NAME/train, test on NAME/test against each OOD set.

    Methods: knn, mcm, plp (pseudo-label probing), linear, mahalanobis, relative-mahalanobis.

    \b
    Example:
      embedstore probe --store clip.zarr --id cifar10 --ood cifar100 --ood textures
    """
    from embedstore.cli import console
    from embedstore.encoders import parse_model
    from embedstore.evaluate import METHODS, Study, run_methods
    from embedstore.prompts import TEMPLATES
    from embedstore.store import Store

    out = console.human(quiet=quiet, as_json=as_json)
    for method in methods:
        if method not in METHODS:
            raise errors.UnknownName("method", method, METHODS)
    if templates not in TEMPLATES:
        raise errors.UnknownName("template set", templates, TEMPLATES)
    store = Store.open(location, writable=results is None)
    known = store.models()
    if not known:
        raise errors.NotAvailable(f"{location} holds no model yet; run `embedstore extract` first")
    wanted = list(dict.fromkeys(model if model in known else parse_model(model).name for model in models)) or known
    for model in wanted:
        store.provenance(model)
    target = store if results is None else Store.create(results)
    found, refused = [], []
    for model in wanted:
        for seed in dict.fromkeys(seeds):
            try:
                study = Study(store, model, id_name, ood_names, seed=seed, templates=templates)
            except errors.NotAvailable as error:
                refused.append(str(error))
                break
            ran = list(console.each(out, run_methods(study, methods), f"{model} · seed {seed}"))
            found += ran
            # Why one method is absent is worth keeping beside those that ran; a request that gave nothing is not.
            for result in ran if any(result.absent is None for result in ran) else ():
                target.add_result(result)
    if not found:
        raise errors.NotAvailable(" ".join(refused))
    console.print_results(out, found, refused)
    if as_json:
        click.echo(json.dumps(console.as_rows(found)))
    if all(result.absent is not None for result in found):
        raise errors.NotAvailable("no method could run; the notes say what each lacks")


@main.command()
@store_option
@click.option("--out", required=True, metavar="DIR", help="Where report.html, results.csv and results.json go.")
@click.option("--title", help="The page's heading.")
@quiet_option
def report(location: str, out: str, title: str | None, quiet: bool) -> None:
    """Write what `probe` found as one HTML page, CSV and JSON, with R² over the models in the store.

    \b
    Example:
      embedstore report --store clip.zarr --out report
    """
    from embedstore.cli import console
    from embedstore.report import write_report
    from embedstore.store import Store

    page = write_report(Store.open(location), out, title=title)
    console.human(quiet=quiet).print(f"Report: {page}", soft_wrap=True, markup=False)


@main.command()
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Where data, models and store go.")
def demo(out: str) -> None:
    """The whole study in about a minute, offline: handwritten digits, miniature CLIPs, probes, a report.

    \b
    Example:
      embedstore demo --out demo
    """
    # The recipes stand beside the package in the repository and are installed as a part of it, unseen by type checkers.
    importlib.import_module("embedstore.pipelines.demo").main(out)
