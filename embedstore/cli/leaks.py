"""``embedstore leaks``: images that ID train, ID test and OOD sets share."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from embedstore.cli.options import json_option, store_option
from embedstore.cli.probe import models_of

_MOST_SHOWN = 50


@click.command()
@store_option
@click.option("--model", help="Whose features are compared; the store's first model if not given.")
@click.option("--id", "id_name", required=True, metavar="NAME", help="The in-distribution data set.")
@click.option(
    "--ood", "ood_names", required=True, multiple=True, metavar="NAME[:SPLIT]", help="An OOD set. Repeatable."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Least cosine similarity of near duplicates, 0.95 if not given; it depends on the model.",
)
@click.option("--files", is_flag=True, help="Compare the image files' bytes too, read from where they were extracted.")
@json_option
def leaks(
    location: str,
    model: str | None,
    id_name: str,
    ood_names: tuple[str, ...],
    threshold: float | None,
    files: bool,
    as_json: bool,
) -> None:
    """Find images that ID train, ID test and OOD sets share: exact and near duplicates, by key.

    Look at some of the near ones before `embedstore probe --drop-duplicates` leaves them out.

    \b
    Example:
      embedstore leaks --store clip.zarr --id cifar10 --ood cifar100
    """
    from embedstore.cli import console
    from embedstore.evaluate import Study, duplicates, same_files
    from embedstore.leaks import THRESHOLD
    from embedstore.store import Store

    store = Store.open(location)
    study = Study(store, models_of(store, [model] if model else [])[0], id_name, ood_names)
    found = duplicates(study, threshold or THRESHOLD) + (same_files(study) if files else [])
    found.sort(key=lambda one: 2 if one.cosine is None else one.cosine, reverse=True)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
        return
    out = console.human()
    counts: dict[tuple[str, str, str], int] = {}
    for one in found:
        near = f"cosine of at least {threshold or THRESHOLD:g} by {study.model}"
        kind = "the same file" if one.cosine is None else "the same features" if one.exact else near
        counts[one.seen, one.tested, kind] = counts.get((one.seen, one.tested, kind), 0) + 1
    for (seen, tested, kind), count in counts.items():
        noun = "pair" if count == 1 else "pairs"
        out.print(f"{tested} and {seen}: {count:,} {noun}, {kind}", markup=False)
    for one in found[:_MOST_SHOWN]:
        how = "file" if one.cosine is None else f"{one.cosine:.4f}"
        out.print(
            f"  {how}  {one.tested} {one.tested_key!r} = {one.seen} {one.seen_key!r}", markup=False, soft_wrap=True
        )
    if len(found) > _MOST_SHOWN:
        out.print(f"  … and {len(found) - _MOST_SHOWN:,} more; --json lists all")
    if not found:
        compared = [study.train.name, *study.tested] if study.has_train else list(study.tested)
        out.print(f"{study.model} finds no duplicates between {', '.join(compared)}.")
    for note in study.missing:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
