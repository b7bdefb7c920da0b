"""The command line: parse, call the library, print. Nothing else knows paths, flags or exit codes."""

from __future__ import annotations

import importlib
import json
import os
import shlex
from functools import partial

import click

from embedstore import errors
from embedstore.cli.exits import SOME_FAILED, STOPPED, Commands, stoppable

# Threads that wait for each other must sleep, not spin, or decoding workers starve: on two busy cores extraction ran
# three times slower without this (docs/log.md). It is read once, when the OpenMP runtime is loaded, hence so early.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

store_option = click.option("--store", "location", required=True, metavar="PATH", help="The feature store.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
models_help = "ARCH/TAG, ARCH//weights, hf-hub:ORG/REPO, local-dir:PATH or timm:NAME. Repeatable."


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
    failed, 5 store corrupt or written by another model, 75 stopped (run again to resume).
    """


def run_typed(*args: str) -> None:
    """Print one command as one would type it, then run it in this process. Recipes are made of these."""
    lines = [(" \\\n    " if arg.startswith("--") else " ") + shlex.quote(arg) for arg in args]
    click.echo("\n$ embedstore" + "".join(lines))
    if main(args=list(args), standalone_mode=False) == STOPPED:
        raise click.exceptions.Exit(STOPPED)  # or the recipe would go on with half of the data


@main.command()
@click.argument("source")
@store_option
@click.option("--model", "models", required=True, multiple=True, metavar="MODEL", help=models_help)
@click.option("--name", help="The model's name in the store, instead of the one that follows from --model.")
@click.option("--dataset", help="Data set name. From the path if not given.")
@click.option("--split", help="Split name. From the path if not given.")
@click.option("--classes", metavar="FILE", help="Class names in label order: JSON list, or one a line.")
@click.option(
    "--templates",
    multiple=True,
    default=("plp",),
    show_default=True,
    metavar="SET",
    help="Prompt templates: plp, simple or openai80. Repeatable.",
)
@click.option(
    "--captions",
    is_flag=False,
    flag_value="txt",
    metavar="[EXT]",
    help="Embed each image's own caption, KEY.EXT, too. --captions alone means --captions=txt.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 … or auto.")
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images that go through the model at once.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read and decode. Chosen by the amount of work if not given.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="What the model computes in.",
)
@click.option(
    "--dtype",
    default="float16",
    show_default=True,
    type=click.Choice(["float16", "float32"]),
    help="What features are stored as.",
)
@click.option(
    "--block-rows",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows a block, the unit of work and of resume. For a new split; a stored one keeps its own.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first N rows; the split then has N rows.")
@json_option
@quiet_option
@click.pass_context
def extract(
    ctx: click.Context,
    source: str,
    location: str,
    models: tuple[str, ...],
    name: str | None,
    dataset: str | None,
    split: str | None,
    classes: str | None,
    templates: tuple[str, ...],
    captions: str | None,
    device: str,
    batch_size: int,
    workers: int | None,
    precision: str,
    dtype: str,
    block_rows: int,
    limit: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Embed the images of SOURCE, and the names of its classes as prompts, into the store.

    SOURCE is WebDataset tars ('train-{000..009}.tar', a quoted glob, a folder of tars), a folder of images (one
    sub-folder per class, or flat), or torchvision:CIFAR10. Run the same command again to resume: finished blocks are
    not redone.

    \b
    Example:
      embedstore extract 'cifar10/train-{000000..000004}.tar' --store clip.zarr --model ViT-B-32/openai
    """
    from embedstore.cli import console
    from embedstore.encoders import load_encoder, parse_model
    from embedstore.extract import embed_images, embed_texts, list_rows
    from embedstore.prompts import TEMPLATES
    from embedstore.sources import open_source
    from embedstore.store import Store

    # What is misspelled is said before the first model runs, not after.
    for template_set in templates:
        if template_set not in TEMPLATES:
            raise errors.UnknownName("template set", template_set, TEMPLATES)
    for model in models:
        parse_model(model, name=name)
    if name is not None and len(models) > 1:
        raise errors.UsageError("--name renames one model; give one --model with it")
    out = console.human(quiet=quiet, as_json=as_json)
    with stoppable(ctx):
        images = open_source(source, dataset=dataset, split=split, classes=classes)
        load = partial(load_encoder, device=device, precision=precision, dtype=dtype, name=name)
        out.print(f"Loading {models[0]}", markup=False)
        # Rows are fixed for good once they are listed, so nothing is listed for a model that cannot be had.
        encoder = load(models[0])
        store = Store.create(location)
        rows, stored = list_rows(store, images, limit=limit, block_rows=block_rows)
        class_names = stored.class_names
        out.print(f"{stored.name}: {len(rows):,} images, {len(class_names) if class_names else 'no'} class names")
        outcomes = []
        for model in models:
            encoder = encoder if model == models[0] else load(model)
            store.add_model(encoder.provenance, encoder.projection)
            if class_names and encoder.has_text:
                embed_texts(store, encoder, stored.dataset, class_names, templates)
            with console.progress(out, f"{stored.name} · {encoder.provenance.name}") as advance:
                outcome = embed_images(
                    store,
                    encoder,
                    images,
                    rows,
                    stored,
                    batch_size=batch_size,
                    workers=workers,
                    captions=captions,
                    progress=advance,
                )
            console.print_outcome(out, outcome)
            outcomes.append(outcome)
    if as_json:
        click.echo(json.dumps([vars(outcome) for outcome in outcomes]))
    if any(outcome.failed for outcome in outcomes):
        ctx.exit(SOME_FAILED)


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


@main.command("ls")
@store_option
@json_option
def list_store(location: str, as_json: bool) -> None:
    """List the models and data sets of a store, and how much of each is embedded.

    \b
    Example:
      embedstore ls --store clip.zarr
    """
    from embedstore.cli import console
    from embedstore.store import Store

    rows = console.inventory(Store.open(location))
    if as_json:
        click.echo(json.dumps(rows))
    else:
        console.print_inventory(console.human(), rows)


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
