"""``embedstore attack``: make OOD images that a model takes for in-distribution ones, and put them into the store."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embedstore import errors
from embedstore.cli.attackable import (
    TOWARDS,
    aim_of,
    check_draw,
    check_folder,
    check_name_is_free,
    default_name,
    plain_model,
    side,
)
from embedstore.cli.attacked import MADE, means, next_commands, print_summary, watching
from embedstore.cli.exits import SOME_FAILED, stoppable
from embedstore.cli.options import json_option, quiet_option, store_option

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.attack import Attacked, Options, Side
    from embedstore.encoders import Encoder
    from embedstore.extract import Outcome
    from embedstore.records import Provenance
    from embedstore.store import Store


@click.command()
@store_option
@click.option("--model", required=True, metavar="MODEL", help="The model to fool, spelled as for extract.")
@click.option("--name", help="The model's name in the store, if it was extracted with --name.")
@click.option(
    "--ood", required=True, metavar="NAME[:SPLIT]", help="The images to perturb; of test if no split is named."
)
@click.option("--target", required=True, metavar="NAME[:SPLIT]", help="What they are to look like; of train likewise.")
@click.option("--out", required=True, metavar="DIR", help="Where the images go; the same folder again resumes.")
@click.option("--dataset", metavar="NAME", help="What to call them in the store. After --ood and --out if not given.")
@click.option("--num", default=1000, show_default=True, type=click.IntRange(min=1), help="How many images to perturb.")
@click.option(
    "--towards",
    default="image",
    show_default=True,
    type=click.Choice(list(TOWARDS)),
    help="Each drawn target's own features, its class's prototype or prompts, or the energy of a stored linear probe.",
)
@click.option(
    "--templates", default="plp", show_default=True, metavar="SET", help="The prompts that --towards text aims at."
)
@click.option(
    "--preset",
    type=click.Choice(["smooth", "patchy"]),
    help="The paper's two: --smoothness 5e3, or 0. smooth if not given, and patchy with --optimizer pgd.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Gradient steps; 250 if not given.")
@click.option("--lr", type=float, help="1e-3 for adam if not given; for pgd 2.5 / steps of the budget.")
@click.option("--smoothness", type=float, help="What roughness costs; the preset's if not given.")
@click.option("--init-scale", type=float, help="Deviation of the noise to begin with; 1e-3 if not given.")
@click.option(
    "--budget", metavar="NORM=SIZE", help="The most that may change, as linf=8/255 or l2=2.5. None by default."
)
@click.option(
    "--optimizer",
    default="adam",
    show_default=True,
    type=click.Choice(["adam", "pgd"]),
    help="pgd steps by the gradient's sign, within a budget.",
)
@click.option(
    "--snapshot", "snapshots", multiple=True, type=int, metavar="K", help="Keep features of step K. Repeatable."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of choice and noise.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Images at once.")
@click.option(
    "--block-rows",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images a shard, the unit of resume.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 … or auto.")
@click.option("--ood-source", metavar="SOURCE", help="Where the images of --ood are now, if they were moved.")
@click.option("--target-source", metavar="SOURCE", help="The same of --target.")
@json_option
@quiet_option
@click.pass_context
@stoppable()
def attack(
    ctx: click.Context,
    location: str,
    model: str,
    name: str | None,
    ood: str,
    target: str,
    out: str,
    dataset: str | None,
    num: int,
    towards: str,
    templates: str,
    preset: str | None,
    steps: int | None,
    lr: float | None,
    smoothness: float | None,
    init_scale: float | None,
    budget: str | None,
    optimizer: str,
    snapshots: tuple[int, ...],
    seed: int,
    batch_size: int,
    block_rows: int,
    device: str,
    ood_source: str | None,
    target_source: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Perturb OOD images until a model takes them for in-distribution ones, to measure how robust detection is.

    Both splits must be in the store, embedded by this model, and their images still be where they were extracted from.
    The images go into --out as WebDataset shards, their features into the store as NAME/clean, NAME/adversarial (what
    the files hold) and NAME/float (before rounding). Run the same command again to resume. docs/adversarial.md explains
    the method and its figures.

    \b
    Example:
      embedstore attack --store clip.zarr --model ViT-B-32/openai --ood cifar10 --target cifar100 --out smooth
    """
    from embedstore import attack as engine
    from embedstore.cli import console
    from embedstore.store import Store

    options = options_of(
        preset or ("patchy" if optimizer == "pgd" else "smooth"),
        steps=steps,
        lr=lr,
        smoothness=smoothness,
        init_scale=init_scale,
        budget=None if budget is None else engine.Budget.parse(budget),
        optimizer=optimizer,
        snapshots=snapshots,
    )
    to = console.human(quiet=quiet, as_json=as_json)
    store = Store.open(location, writable=True)
    stored = plain_model(store, model, name)
    check_folder(out)
    folder = Path(out).absolute()  # so that it is found from anywhere
    sides = side(store, ood, "test", ood_source, "--ood"), side(store, target, "train", target_source, "--target")
    dataset = dataset or default_name(sides[0].dataset, folder)
    check_name_is_free(store, dataset, folder, sides, snapshots)
    aim = aim_of(store, stored.name, sides[1], towards, templates)
    check_draw(store, stored.name, sides, num, seed, aim)
    to.print(f"Loading {model}", markup=False)
    encoder = _load(stored, model, name, device)
    measured = "energy" if aim.kind == "energy" else "similarity"
    with watching(to, f"{dataset} · {stored.name}", measured) as progress:
        found = engine.attack(
            store,
            encoder,
            *sides,
            folder,
            num=num,
            seed=seed,
            options=options,
            aim=aim,
            block_rows=block_rows,
            batch_size=batch_size,
            progress=progress,
        )
    targets = _write_targets(to, store, sides[1], found, folder)
    # First, since it knows another attack of this name where the images' keys and places are the same.
    before_rounding = engine.store_features(store, encoder.provenance, folder, dataset)
    outcomes = _embed(to, store, encoder, folder, dataset, block_rows)
    splits = [*(outcome.name for outcome in outcomes), *before_rounding]
    summary = {"dataset": dataset, "model": stored.name, "out": out, "splits": splits, "targets": targets}
    summary |= means(found)
    print_summary(to, summary, found)
    for text in next_commands(location, stored.name, sides[1], dataset, out, targets):
        to.print(f"  {text}", markup=False, soft_wrap=True)
    if as_json:
        failures = [{"key": key, "reason": reason} for key, reason in found.failed.items()]
        embedded = [asdict(outcome) for outcome in outcomes]
        click.echo(json.dumps({**summary, "failures": failures, "extracted": embedded}))
    if summary["failed"] or any(outcome.failed for outcome in outcomes):
        ctx.exit(SOME_FAILED)


def options_of(preset: str, **given: Any) -> Options:
    """A preset's options, but for those that were given; None is not given."""
    from embedstore.attack import PRESETS

    return replace(PRESETS[preset], **{option: value for option, value in given.items() if value is not None})


def _load(stored: Provenance, spelled: str, name: str | None, device: str) -> Encoder:
    """The model as the store has it: in another precision, or behind another transform, it would be another model."""
    from embedstore.encoders import load_encoder

    settings = {"precision": stored.precision, "dtype": stored.dtype, "decode": stored.decode}
    try:
        return load_encoder(spelled, device=device, name=name, **settings)
    except errors.UnknownName as error:
        raise errors.ModelUnavailable(
            f"{error}\nThe store has a model of that name, but a name does not say where the weights are: give --model "
            f"as it was given to extract, and --name {stored.name} if that was given"
        ) from error


def _write_targets(to: Console, store: Store, target: Side, found: Attacked, out: Path) -> str | None:
    """``targets.txt``, for ``probe --without``: the images aimed at, each once. None where none was, or none can be."""
    if found.declaration["aim"]["kind"] != "images":
        return None
    import numpy as np

    keys = store.rows(target.dataset, target.split).keys[np.unique(found.arrays["target_row"])].tolist()
    odd = [key for key in keys if "\n" in key or "\r" in key]
    if odd:
        to.print(f"note: no targets.txt, since the key {odd[0]!r} is no line of a file", markup=False, soft_wrap=True)
        return None
    path = out / "targets.txt"
    path.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
    return str(path)


def _embed(to: Console, store: Store, encoder: Encoder, out: Path, dataset: str, block_rows: int) -> list[Outcome]:
    """Extract the shards, as ``embedstore extract`` would."""
    from embedstore.cli.extract import embed_split
    from embedstore.extract import BlockRunner, list_rows
    from embedstore.sources import open_source

    outcomes = []
    for split in MADE:
        source = open_source(str(out / split), dataset=dataset, split=split)
        runner = BlockRunner(store, encoder, source, list_rows(store, source, block_rows=block_rows))
        outcomes.append(embed_split(to, store, runner, runner.run))
    return outcomes
