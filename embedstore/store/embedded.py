"""What the format promises of a model's embeddings of one split, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import StoreCorrupt
from embedstore.records import FAILED, OK, PENDING
from embedstore.store import splits
from embedstore.store.damage import Column, Form, Problem, Survey
from embedstore.store.promises import Block, Found, Tick, blocks_of, marks_of, needed, not_unit, split_model

_NAN = float("nan")


def check_images(found: Survey, path: str, content: dict[str, Any], tick: Tick) -> Found:
    """Yield what is wrong with these embeddings; blocks that are pending may hold anything."""
    model, (_, dataset, split) = split_model(path)
    rows_at = f"datasets/{dataset}/{split}"
    problems: list[Problem] = []
    made = needed(found, f"models/{model}", "model", problems)
    rows = needed(found, rows_at, splits.KIND, problems)
    yield from problems
    if made is None or rows is None:
        return
    if content["rows"] in rows.get("earlier", ()):
        yield Problem(path, "it was being extended when that was stopped; run the same `embedstore extract` again")
        return
    for what, marks in (
        ("model", marks_of(made)),
        ("rows", (rows["fingerprint"], found.computed.get(rows_at, rows["fingerprint"]))),
    ):
        if content[what] not in marks:
            mark, other = str(content[what])[:12], str(marks[0])[:12]
            yield Problem(path, f"it belongs to another {what} fingerprint ({mark}, and {other} is in the store)")
            return
    problems = []
    columns = _columns(found, path, made, rows, problems)
    yield from problems
    if "status" not in columns:
        return
    for place in blocks_of(rows["rows"], rows["block_rows"]):
        yield from _block(columns, path, place, grown=bool(rows.get("earlier")))
        tick(place[2] - place[1])


def undeclared(found: Survey, path: str) -> Found:
    """Yield a problem if blocks are written of embeddings that nothing says are there: readers would not see them."""
    status = found.nodes.get(f"{path}/status")
    if isinstance(status, zarr.Array) and Column(status).begun():
        yield Problem(path, "it is not declared complete, though blocks are written. Restore its zarr.json")


def _columns(
    found: Survey, path: str, made: dict[str, Any], rows: dict[str, Any], problems: list[Problem]
) -> dict[str, Column]:
    """The arrays that are what they should be, by name."""
    made_by, count, length = made["provenance"], rows["rows"], rows["block_rows"]
    dtype = made_by["dtype"]

    def vectors(width: int, dimension: str) -> Form:
        return Form((count, width), (length, width), dtype, _NAN, ("row", dimension))

    # Status is listed first: while somebody embeds, the chunks of a block that is done are there when we look for them.
    forms = {
        "status": Form((count,), (length,), "uint8", 0, ("row",)),
        "failure": Form((count,), (length,), "string", "", ("row",)),
        "features": vectors(made_by["feature_dim"], "feature"),
        "projected": vectors(made_by["joint_dim"], "joint"),
        "captions": vectors(made_by["joint_dim"], "joint"),
    }
    required = {"status", "features"}
    if f"{path.partition('/images/')[0]}/projection" not in found.nodes:
        required.add("projected")
    columns = {}
    for name, form in forms.items():
        # A store of version 0.1 has no reasons, and captions are there where they were asked for.
        if name in required or f"{path}/{name}" in found.nodes:
            column = found.column(f"{path}/{name}", form, problems)
            if column is not None:
                columns[name] = column
    return columns


def _block(columns: dict[str, Column], path: str, place: Block, *, grown: bool) -> Found:
    if not columns["status"].has(place[0]):
        return
    try:
        status = columns["status"].read(*place)
    except StoreCorrupt as error:
        yield Problem(f"{path}/status", str(error), place, mends=True)
        return
    what = _wrong_status(status, grown)
    if what is not None:
        yield Problem(f"{path}/status", what, place, mends=True)
    if what is not None or not status.all():
        return  # a block that was short when its split was extended is pending again
    for name in sorted(set(columns) - {"status"}):
        what = _wrong(name, columns[name], status, place)
        if what is not None:
            yield Problem(f"{path}/{name}", what, place, mends=True)


def _wrong_status(status: npt.NDArray[np.uint8], grown: bool) -> str | None:
    unknown = np.setdiff1d(status, (PENDING, OK, FAILED))
    if len(unknown):
        return f"a row has the status {unknown[0]}"
    pending = int((status == PENDING).sum())
    behind = not status[len(status) - pending :].any()  # of rows that were appended
    if pending and not (grown and behind and pending < len(status)):
        return f"{pending} rows are pending in a block that was written"
    return None


def _wrong(name: str, column: Column, status: npt.NDArray[np.uint8], place: Block) -> str | None:
    """What is wrong with one block of one array, if anything."""
    try:
        if name == "failure":  # written only where it says something
            empty = np.full(len(status), "", dtype=object)
            return _wrong_reasons(column.read(*place) if column.has(place[0]) else empty, status, place[1])
        values = column.read(*place)
    except StoreCorrupt as error:
        return str(error)
    finite, nan = np.isfinite(values).all(axis=1), np.isnan(values).all(axis=1)
    bad = np.flatnonzero((status == FAILED) & ~nan)
    if len(bad):
        return f"row {place[1] + bad[0]} failed, and has numbers"
    bad = np.flatnonzero((status == OK) & ~finite & ~(nan & (name == "captions")))
    if len(bad):
        return f"row {place[1] + bad[0]} is ok, and has numbers that are not finite"
    return not_unit(str(values.dtype), values[finite]) if name == "captions" else None


def _wrong_reasons(reasons: npt.NDArray[Any], status: npt.NDArray[np.uint8], start: int) -> str | None:
    given = np.array([str(reason) != "" for reason in reasons], dtype=bool)
    bad = np.flatnonzero(given != (status == FAILED))
    if not len(bad):
        return None
    return f"row {start + bad[0]} is ok, and has a reason" if given[bad[0]] else f"row {start + bad[0]} has no reason"
