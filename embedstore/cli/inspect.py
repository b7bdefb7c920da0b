"""``embedstore ls``, ``info`` and ``verify``: what is in a store, and whether it is sound."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from embedstore import errors
from embedstore.cli.exits import CORRUPT, stoppable
from embedstore.cli.options import json_option, quiet_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.extract.reembed import Comparison
    from embedstore.store import Problem, Store

_models = click.option("--model", "models", multiple=True, metavar="MODEL", help="Only this one. Repeatable.")
_dataset = click.option("--dataset", metavar="NAME", help="Only this data set.")


@click.command("ls")
@store_option
@json_option
def list_store(location: str, as_json: bool) -> None:
    """List the models and data sets of a store, and how much of each is embedded.

    \b
    Example:
      embedstore ls --store clip.zarr
    """
    from embedstore.cli import console, overview
    from embedstore.store import Store

    rows = overview.inventory(Store.open(location))
    if as_json:
        click.echo(json.dumps(rows))
    else:
        overview.print_inventory(console.human(), rows)


@click.command()
@store_option
@_models
@_dataset
@click.option("--split", metavar="NAME", help="Only splits of this name.")
@click.option("--failures", is_flag=True, help="Print every image that failed: where it lies, at which stage, and why.")
@json_option
def info(
    location: str, models: tuple[str, ...], dataset: str | None, split: str | None, failures: bool, as_json: bool
) -> None:
    """Say what each model is and how much of each split it has embedded; with --failures, which images failed.

    --failures --json prints one JSON object a line, so that millions of them can be read one by one.

    \b
    Example:
      embedstore info --store clip.zarr --model ViT-B-32/openai --failures
    """
    from embedstore.cli import console, overview
    from embedstore.store import Store

    store = Store.open(location)
    names = overview.chosen(store, models)
    found = overview.embeddings(store, names, dataset, split)
    out = console.human()
    if failures:
        for images in found:
            for failure in images.failures():
                if as_json:
                    click.echo(json.dumps(overview.failure_json(images, failure)))
                else:
                    overview.print_failure(out, images, failure)
        return
    rows = [overview.describe_images(images) for images in found]
    made = [overview.describe_model(store, name) for name in names]
    if as_json:
        click.echo(json.dumps({"models": made, "images": rows}))
    else:
        overview.print_info(out, made, rows)


@click.command()
@store_option
@_models
@_dataset
@click.option("--repair", is_flag=True, help="Make damaged blocks of embeddings pending, so that extract redoes them.")
@click.option(
    "--re-embed",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also embed N random images of --source again, and compare. Needs one --model.",
)
@click.option("--source", metavar="SOURCE", help="With --re-embed: where the images are, as for extract.")
@click.option("--split", metavar="NAME", help="With --re-embed: the split's name. From the source if not given.")
@click.option("--name", help="With --re-embed: the model's name in the store, if it was extracted with --name.")
@click.option("--device", default="auto", show_default=True, help="With --re-embed: cpu, cuda, cuda:1 … or auto.")
@click.option(
    "--batch-size",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="With --re-embed: images that go through the model at once.",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="With --re-embed: of the random choice."
)
@json_option
@quiet_option
@click.pass_context
def verify(
    ctx: click.Context,
    location: str,
    models: tuple[str, ...],
    dataset: str | None,
    repair: bool,
    count: int | None,
    source: str | None,
    split: str | None,
    name: str | None,
    device: str,
    batch_size: int,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read every chunk of the store and check every promise of its format; exit with 5 if one is broken.

    With --repair, exactly the damaged blocks of embeddings become pending and the extract command that made them
    embeds them again; if that is all there was to mend, the exit code is 0.

    \b
    Example:
      embedstore verify --store clip.zarr --repair
    """
    from embedstore.cli import console
    from embedstore.store import Store

    if count is None and (source, split, name) != (None, None, None):
        raise errors.UsageError("--source, --split and --name are for --re-embed N; give that too")
    if count is not None and (source is None or len(models) != 1):
        raise errors.UsageError("--re-embed needs the --source of the images and one --model")
    out = console.human(quiet=quiet, as_json=as_json)
    compared = None
    with stoppable():
        store = Store.open(location, writable=repair)
        wanted = _known(store, (name,) if name is not None else models, dataset)
        problems = []
        with console.progress(out, "verify", unit="rows") as advance:
            for problem in store.verify(models=wanted, dataset=dataset, progress=advance):
                problems.append(problem)
                _print_problem(out, problem)
        mended = store.forget_damaged(problems) if repair else {}
        left = [problem for problem in problems if not (repair and problem.mends)]
        if count is not None and source is not None:
            compared = _compare(out, store, source, models[0], dataset, split, name, device, (count, seed, batch_size))
            left += compared.problems
        _print_verdict(out, store, problems, mended, left)
    if as_json:
        forgotten = [{"where": path, "blocks": blocks} for path, blocks in mended.items()]
        report: dict[str, Any] = {"problems": [asdict(one) for one in problems], "forgotten": forgotten}
        report |= {"left": len(left), "re_embedded": None if compared is None else asdict(compared)}
        click.echo(json.dumps(report))
    if left:
        ctx.exit(CORRUPT)


def _known(store: Store, models: tuple[str, ...], dataset: str | None) -> list[str]:
    """Names of the models that somebody asked for; nobody's mistyped name is taken for a sound model."""
    from embedstore.cli import overview
    from embedstore.encoders import parse_model

    try:
        known = store.datasets()
        if dataset is not None and dataset not in known:
            raise errors.UnknownName("data set", dataset, known)
        return overview.chosen(store, models) if models else []
    except errors.StoreCorrupt:  # to say what is damaged is what we are here for
        return [name for model in models for name in (model, parse_model(model).name)]


def _compare(
    out: Console,
    store: Store,
    source: str,
    model: str,
    dataset: str | None,
    split: str | None,
    name: str | None,
    device: str,
    draw: tuple[int, int, int],
) -> Comparison:
    from embedstore.cli import console
    from embedstore.encoders import load_encoder, parse_model
    from embedstore.extract.reembed import embed_again
    from embedstore.sources import open_source

    images = open_source(source, dataset=dataset, split=split)
    stored = store.provenance(parse_model(model, name=name).name)
    out.print(f"Loading {model}", markup=False)
    settings = {"precision": stored.precision, "dtype": stored.dtype, "decode": stored.decode}
    encoder = load_encoder(model, device=device, name=name, defence=stored.defence, **settings)
    count, seed, batch_size = draw
    with console.progress(out, "re-embed") as advance:
        compared = embed_again(store, encoder, images, count, seed=seed, batch_size=batch_size, progress=advance)
    for problem in compared.problems:
        _print_problem(out, problem)
    out.print(
        f"{images.dataset}/{images.split} · {stored.name}: {compared.rows:,} images embedded again; smallest cosine "
        f"{compared.smallest_cosine:.6f}, largest difference {compared.largest_difference:.3g}",
        markup=False,
    )
    return compared


def _print_problem(out: Console, problem: Problem) -> None:
    from embedstore.cli.overview import plain

    block = "" if problem.block is None else ", block {} (rows {} to {})".format(*_inclusive(problem.block))
    out.print(plain(f"{problem.where}{block}: {problem.what}"), markup=False, soft_wrap=True)


def _inclusive(block: tuple[int, int, int]) -> tuple[int, int, int]:
    return block[0], block[1], block[2] - 1


def _print_verdict(
    out: Console,
    store: Store,
    problems: list[Problem],
    mended: dict[str, list[tuple[int, int, int]]],
    left: list[Problem],
) -> None:
    def line(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    leftovers = store.leftovers()
    if leftovers:
        line(
            f"{leftovers:,} temporary files of killed writers (*.partial) are harmless; delete them when nobody writes"
        )
    for path, blocks in mended.items():
        model, _, name = path.removeprefix("models/").partition("/images/")
        again = f"run the `embedstore extract` that made {name} by {model} again"
        line(f"{path}: {len(blocks):,} damaged blocks are pending now, and nothing else was touched; {again}")
    if left:
        mendable = {(one.where.rpartition("/")[0], one.block) for one in left if one.mends}
        more = f"; {len(mendable):,} blocks can be embedded again: run this with --repair" if mendable else ""
        line(f"{len(left):,} problems are left{more}")
    elif not problems:
        line("Sound: every chunk is whole, and every promise of the format is kept")
