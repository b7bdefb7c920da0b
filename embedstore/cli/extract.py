"""``embedstore extract``: what to embed, by whom, and what may go wrong."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from embedstore import errors
from embedstore.cli.exits import SOME_FAILED, stoppable
from embedstore.cli.options import json_option, models_help, quiet_option, store_option, verbose_option

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.extract import BlockRunner, Outcome, RunBlocks
    from embedstore.store import Store


@click.command()
@click.argument("source")
@store_option
@click.option("--model", "models", required=True, multiple=True, metavar="MODEL", help=models_help)
@click.option("--name", help="The model's name in the store, instead of the one that follows from --model.")
@click.option("--dataset", help="Data set name. From the path if not given.")
@click.option("--split", help="Split name. From the path if not given.")
@click.option(
    "--classes",
    metavar="FILE",
    help="Class names in label order: JSON list, or one a line. Or imagenet:openai (first-synonym).",
)
@click.option(
    "--templates",
    multiple=True,
    default=("plp",),
    show_default=True,
    metavar="SET",
    help="Prompt templates: plp, mcm, simple or openai80. Repeatable.",
)
@click.option(
    "--captions",
    is_flag=False,
    flag_value="txt",
    metavar="[EXT]",
    help="Embed each image's own caption, KEY.EXT, too. --captions alone means --captions=txt.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first N rows; the split then has N rows.")
@click.option("--extend", is_flag=True, help="Append images that the stored split does not have, as new rows.")
@click.option(
    "--block-rows",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows a block, the unit of work and of resume. For a new split; a stored one keeps its own.",
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
    "--decode",
    default="exact",
    show_default=True,
    type=click.Choice(["exact", "fast"]),
    help="fast scales images with torch in place of Pillow; features agree, not to the bit. Give it a --name.",
)
@click.option(
    "--defence",
    metavar="KIND:STRENGTH",
    help="Send images through jpeg:QUALITY, blur:RADIUS or resize:SHARE first; the model is then MODEL+jpeg75.",
)
@click.option("--device", help="cpu, cuda, cuda:1 … or auto, the default: one process, on this device.")
@click.option("--devices", help="A process on each of these: all GPUs, some (0,1), or cpu:2 for two on the CPU.")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="Where processes run: on this machine, or in a Ray cluster.",
)
@click.option("--address", help="Of the Ray cluster. RAY_ADDRESS, or a Ray of its own here, if not given.")
@click.option(
    "--share",
    metavar="I/N",
    help="Do only every N-th block, from block I (0 to N-1). From RANK and WORLD_SIZE, or SLURM_PROCID and "
    "SLURM_NTASKS, if not given; 0/1 is everything.",
)
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
    help="Processes that read and decode, per device. Chosen by the amount of work if not given.",
)
@click.option(
    "--on-error",
    default="record",
    show_default=True,
    type=click.Choice(["record", "stop"]),
    help="What an image that fails does: it is recorded as failed, or the run stops.",
)
@click.option("--max-failures", metavar="N|P%", help="Stop with exit code 4 once more images than this failed.")
@click.option("--retry-failed", is_flag=True, help="Embed blocks that hold a failed image again.")
@click.option("--allow-commands", is_flag=True, help="Run the command of a pipe: source.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do, and after some real rows how long it takes.")
@click.option("--price-per-hour", type=click.FloatRange(min=0), help="With --dry-run: of one device; says the cost.")
@json_option
@verbose_option
@quiet_option
@click.pass_context
@stoppable()
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
    limit: int | None,
    extend: bool,
    block_rows: int,
    precision: str,
    dtype: str,
    decode: str,
    defence: str | None,
    device: str | None,
    devices: str | None,
    engine: str,
    address: str | None,
    share: str | None,
    batch_size: int,
    workers: int | None,
    on_error: str,
    max_failures: str | None,
    retry_failed: bool,
    allow_commands: bool,
    dry_run: bool,
    price_per_hour: float | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Embed the images of SOURCE, and the names of its classes as prompts, into the store.

    SOURCE is WebDataset tars ('train-{000..009}.tar', a quoted glob, a folder of tars), a folder of images (one
    sub-folder per class, or flat), or torchvision:CIFAR10; a path, or a URL such as s3://bucket/…. Run the same command
    again to resume: finished blocks are not redone.

    \b
    Example:
      embedstore extract 'cifar10/train-{000000..000004}.tar' --store clip.zarr --model ViT-B-32/openai
    """
    from embedstore.cli import console
    from embedstore.encoders import defended, load_encoder
    from embedstore.extract import BlockRunner, embed_texts, list_rows
    from embedstore.extract.engines import check_engine, choose_engine
    from embedstore.extract.local import device_of_this_process, devices_of
    from embedstore.extract.plan import make_plan
    from embedstore.extract.schedule import share_of
    from embedstore.prompts import TEMPLATES
    from embedstore.sources import open_source
    from embedstore.store import Store

    # What is misspelled is said before the first model runs, not after.
    for template_set in templates:
        if template_set not in TEMPLATES:
            raise errors.UnknownName("template set", template_set, TEMPLATES)
    for model in models:
        defended(model, defence, name=name)
    if name is not None and len(models) > 1:
        raise errors.UsageError("--name renames one model; give one --model with it")
    if device is not None and (devices is not None or engine == "ray"):
        raise errors.UsageError("--device is for one process in this one's place; leave it out with --devices or ray")
    if price_per_hour is not None and not dry_run:
        raise errors.UsageError("--price-per-hour is for --dry-run, which says what it would cost")
    check_engine(engine=engine, devices=devices, address=address)
    index, of, found_in = share_of(share, os.environ)
    allowed_failures(max_failures, 0)
    out = console.human(quiet=quiet, as_json=as_json)
    if found_in not in (None, "--share"):  # nobody asked for it in so many words, so it is said even with --quiet
        click.echo(f"Share {index} of {of}, from {found_in}; --share 0/1 is everything", err=True)
    # Processes load models of their own; the one here then embeds texts only, and must not take memory of a GPU.
    here = "cpu" if devices is not None or engine == "ray" else device_of_this_process(device or "auto", os.environ)
    if dry_run and devices is not None and engine == "local":
        here = devices_of(devices)[0]
    load = partial(
        load_encoder, device=here, precision=precision, dtype=dtype, decode=decode, defence=defence, name=name
    )
    listing: dict[str, Any] = {"limit": limit, "block_rows": block_rows, "extend": extend, "retry_failed": retry_failed}
    loading: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "captions": captions}
    made: list[Any] = []
    images = open_source(source, dataset=dataset, split=split, classes=classes, allow_commands=allow_commands)
    out.print(f"Loading {models[0]}", markup=False)
    # Rows are fixed for good once they are listed, so nothing is listed for a model that cannot be had.
    encoder = load(models[0])
    store = Store.find(location) if dry_run else Store.create(location)
    if store is None or dry_run:
        for model in models:
            encoder = encoder if model == models[0] else load(model)
            devices_here = devices if engine == "local" else None
            plan = make_plan(store, encoder, images, devices=devices_here, share=(index, of), **listing, **loading)
            made.append(plan)
            console.print_plan(out, made[-1], price_per_hour)
    else:
        stored = list_rows(store, images, **listing)
        names = stored.class_names
        out.print(f"{stored.name}: {len(stored):,} images, {len(names) if names else 'no'} class names")
        if found_in is not None:
            blocks = -(-len(stored) // stored.block_rows)
            mine = len(range(index, blocks, of))
            out.print(
                f"Share {index} of {of}, from {found_in}: {mine} of {blocks} blocks; the others are left to others"
            )
        for model in models:
            encoder = encoder if model == models[0] else load(model)
            store.add_model(encoder.provenance, encoder.projection)
            if names and encoder.has_text:
                embed_texts(store, encoder, stored.dataset, names, templates)
            runner = BlockRunner(store, encoder, images, stored, stop_on_error=on_error == "stop", **loading)
            run = choose_engine(runner, location, model, engine=engine, devices=devices, address=address)
            limits = {"retry_failed": retry_failed, "max_failures": allowed_failures(max_failures, len(stored))}
            made.append(embed_split(out, store, runner, run, verbose=verbose, share=(index, of), **limits))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in made]))
    if not dry_run and any(outcome.failed for outcome in made):
        ctx.exit(SOME_FAILED)


def embed_split(
    out: Console, store: Store, runner: BlockRunner, run: RunBlocks, *, verbose: bool = False, **options: Any
) -> Outcome:
    """Embed what is pending of a split, with progress and a summary; `options` are those of ``embed_blocks``."""
    from embedstore.cli import console
    from embedstore.extract import embed_blocks

    with console.progress(out, f"{runner.split.name} · {runner.writer.model}") as advance:
        outcome = embed_blocks(store, runner.writer, run, progress=advance, **options)
    console.print_outcome(out, outcome, verbose=verbose)
    return outcome


def allowed_failures(text: str | None, rows: int) -> int | None:
    """How many of so many rows may fail, from ``"100"`` or ``"0.5%"``; None for any number."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text)
    if match is None:
        raise errors.UsageError(f"--max-failures {text} is not understood; give a number of images, or 0.5%")
    return int(match[1]) if match[1] else int(rows * float(match[2]) / 100)
