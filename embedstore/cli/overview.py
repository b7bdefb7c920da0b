"""What `ls` and `info` show: how much of each split every model has, and what the models are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from embedstore.cli.console import bytes_text
from embedstore.encoders import parse_model
from embedstore.errors import StoreCorrupt, UnknownName
from embedstore.records import FAILED, OK, Failure
from embedstore.store import Images, Split, Store

_AT_ONCE = 16  # splits whose status is read


def chosen(store: Store, models: Sequence[str]) -> list[str]:
    """Names in the store of the models that somebody asked for, in either spelling; all of them if nobody did."""
    known = store.models()
    names = list(dict.fromkeys(model if model in known else parse_model(model).name for model in models)) or known
    for name in names:
        store.provenance(name)
    return names


def plain(text: str) -> str:
    """Text that may come from anywhere, without control characters that a terminal would obey."""
    return text if text.isprintable() else repr(text)


def inventory(store: Store) -> list[dict[str, Any]]:
    """One row per data set and split, with what each model has of it."""
    splits = store.splits()
    models: dict[str, dict[str, Any]] = {rows.name: {} for rows in splits}
    # At once, because behind a network each waits for its answer.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for model in store.models():
            for name, have in pool.map(_completeness, store.each_images(model, splits)):
                models[name][model] = have
    return [
        {
            "dataset": rows.dataset,
            "split": rows.split,
            "rows": len(rows),
            "classes": len(rows.class_names) if rows.class_names else None,
            "models": models[rows.name],
        }
        for rows in splits
    ]


def print_inventory(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """The table of :func:`inventory`."""
    if not rows:
        console.print("Nothing has been extracted into this store yet.")
        return
    models = list(dict.fromkeys(model for row in rows for model in row["models"]))
    table = Table()
    for name in ("data set", "split"):
        table.add_column(name)
    for name in ("rows", "classes", *models):
        table.add_column(name, justify="right")
    for row in rows:
        cells = []
        for model in models:
            have = row["models"].get(model)
            text = "–" if have is None else f"{have['ok']:,}"
            if have and have["failed"]:
                text += f" ({have['failed']:,} failed)"
            if have and have["pending"]:
                text += f" ({have['pending']:,} pending)"
            cells.append(text)
        table.add_row(row["dataset"], row["split"], f"{row['rows']:,}", str(row["classes"] or "–"), *cells)
    console.print(table)
    problems = {have["problem"]: None for row in rows for have in row["models"].values() if "problem" in have}
    for problem in problems:
        console.print(f"note: {problem}", markup=False, soft_wrap=True)


def _completeness(begun: tuple[Split, Images | StoreCorrupt]) -> tuple[str, dict[str, Any]]:
    """The split, and how many rows are what; or why that cannot be read, so that the others are listed all the same."""
    rows, images = begun
    try:
        if isinstance(images, StoreCorrupt):
            raise images
        return rows.name, dict(_counts(images))
    except StoreCorrupt as error:
        return rows.name, {"ok": 0, "failed": 0, "pending": len(rows), "problem": str(error)}


def _counts(images: Images) -> dict[str, int]:
    status = images.status
    ok, failed = int((status == OK).sum()), int((status == FAILED).sum())
    return {"ok": ok, "failed": failed, "pending": len(status) - ok - failed}


def embeddings(store: Store, models: Sequence[str], dataset: str | None, split: str | None) -> Iterator[Images]:
    """What these models have embedded, or begun to, of a data set and split, or of all.

    Raises
    ------
    UnknownName
        There is no such data set or split.
    """
    known = store.datasets()
    if dataset is not None and dataset not in known:
        raise UnknownName("data set", dataset, known)
    splits = {name for key, names in known.items() if dataset in (None, key) for name in names}
    if split is not None and split not in splits:
        raise UnknownName("split", split, splits)
    for model in models:
        for of, name in store.embedded(model):
            if dataset in (None, of) and split in (None, name):
                yield store.images(model, of, name)


def describe_images(images: Images) -> dict[str, Any]:
    """One model's embeddings of one split, as JSON; bytes are those of the vectors and status when all is done."""
    counts, widths, dtype = _counts(images), images.widths, images.provenance.dtype
    rows = len(images)
    return {
        "model": images.model,
        "dataset": images.dataset,
        "split": images.split,
        "rows": rows,
        **counts,
        "done": 1.0 if not rows else (rows - counts["pending"]) / rows,
        "dtype": dtype,
        "widths": widths,
        "captions": "captions" in widths,
        "block_rows": images.rows.block_rows,
        "extended": len(images.rows.earlier),
        "bytes": rows * (sum(widths.values()) * np.dtype(dtype).itemsize + 1),
        "source": images.rows.source,
    }


def describe_model(store: Store, model: str) -> dict[str, Any]:
    """What made a model's embeddings, and the prompts that it embedded, as JSON."""
    return {**store.provenance(model).to_json(), "templates": store.class_sets(model)}


def print_info(console: Console, models: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]]) -> None:
    """The models, a few lines each, and the table of what they have embedded."""
    for made in models:
        size, widths = made["preprocess"].get("size", "?"), f"{made['feature_dim']} → {made['joint_dim']}"
        lines = [
            made["name"],
            f"  architecture {made['architecture']} · pretrained {made['pretrained']} · {made['precision']}",
            f"  image size {size} · weights {made['weights_sha256'][:12]} · {widths}",
            "  " + (" · ".join(f"{name} {version}" for name, version in made["versions"].items()) or "no versions"),
        ]
        for name, sets in made["templates"].items():
            lines.append(f"  prompts of {name}: {', '.join(sets)}")
        for line in lines:
            console.print(plain(line), markup=False, soft_wrap=True)
    table = Table()
    for name in ("model", "data set", "split"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "ok", "failed", "pending", "done", "dtype", "widths", "extended", "size"):
        table.add_column(name, justify="right")
    for one in images:
        counts = [f"{one[name]:,}" for name in ("rows", "ok", "failed", "pending")]
        widths = ", ".join(f"{name} {width}" for name, width in one["widths"].items())
        done = f"{np.floor(1000 * one['done']) / 10:.1f} %"  # rounded down: 100 % is all
        extended = f"{one['extended']}×" if one["extended"] else "–"
        cells = [*counts, done, one["dtype"], widths, extended, bytes_text(one["bytes"])]
        table.add_row(*(Text(plain(cell)) for cell in (one["model"], one["dataset"], one["split"], *cells)))
    console.print(table)


def failure_json(images: Images, failure: Failure) -> dict[str, Any]:
    """One failure, with whose it is."""
    return {"model": images.model, "dataset": images.dataset, "split": images.split, **vars(failure)}


def print_failure(console: Console, images: Images, failure: Failure) -> None:
    """One line; names of files may hold anything, and are quoted."""
    shard = "" if failure.shard is None else f" in {failure.shard!r}"
    place = f"{shard} at byte {failure.offset:,}" if failure.offset >= 0 else shard
    what = f"{plain(failure.stage)}: {plain(failure.reason)}"
    text = f"{images.name} · {images.model}: {failure.key!r}{place}: {what}"
    console.print(text, markup=False, soft_wrap=True)
