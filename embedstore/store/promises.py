"""What the format promises of row lists, models, prompts and results: each check yields what is not so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import zarr

from embedstore.errors import StoreCorrupt
from embedstore.records import RECORDED_ONLY, FloatArray, Provenance, fingerprint
from embedstore.store import images, results, splits, texts
from embedstore.store.damage import Column, Form, Problem, Survey

Tick: TypeAlias = Callable[[int], None]
Found: TypeAlias = Iterator[Problem]
Block: TypeAlias = tuple[int, int, int]

# How far from 1 the length of a unit vector may be: what rounding to the stored type gives, with room to spare.
_LENGTH = {"float16": 4e-3, "float32": 1e-4}
_COLUMNS = {"key": "string", "label": "int32", "shard": "int32", "offset": "int64", "length": "int64"}
_FIELDS: dict[str, dict[str, Any]] = {
    splits.KIND: {
        "fingerprint": str,
        "rows": int,
        "block_rows": int,
        "class_names": list | None,
        "shards": list,
        "source": str,
    },
    "model": {"fingerprint": str, "provenance": dict},
    images.KIND: {"model": str, "rows": str, "versions": dict},
    texts.KIND: {"fingerprint": str, "names": list, "templates": list},
    results.KIND: {
        **dict.fromkeys(("fingerprint", "model", "id_dataset", "method", "created", "version"), str),
        **dict.fromkeys(("params", "inputs", "metrics"), dict),
        "id_accuracy": float | int | None,
        "absent": str | None,
        "notes": list,
        "seconds": float | int,
    },
}
_MENDED = "`embedstore extract` with the same source, unless it has changed, writes it again"
_BELOW_MODEL = ("images", "texts", "projection")


def refuse_other_fields(kind: str, content: dict[str, Any]) -> None:
    """Raise ValueError if a node lacks a field that its kind has, or if that is of another type."""
    for name, types in _FIELDS[kind].items():
        if name not in content:
            raise ValueError(f"there is no {name!r}")
        if not isinstance(content[name], types):
            raise ValueError(f"{name!r} is {content[name]!r}")


def split_model(path: str) -> tuple[str, list[str]]:
    """A path below ``models`` as the model's name and what follows it; no component of a name is like what follows."""
    parts = path.split("/")[1:]
    cut = next((at for at, part in enumerate(parts) if part in _BELOW_MODEL), len(parts))
    return "/".join(parts[:cut]), parts[cut:]


def needed(found: Survey, other: str, kind: str, why: list[Problem]) -> dict[str, Any] | None:
    """What the node `other` declares, without which another one means nothing; None, and a problem, if it does not."""
    content = found.content(other, kind)
    if content is None and not found.damaged(other):
        what = "is not declared complete" if other in found.nodes else "is missing"
        needing = {"model": "its embeddings", splits.KIND: "embeddings of it"}[kind]
        why.append(Problem(other, f"it {what}, though {needing} are there. Restore its zarr.json"))
    return content


def marks_of(made: dict[str, Any]) -> tuple[str, str]:
    """A model's fingerprint as it is stored, and as it follows from its provenance; where they differ, that is said."""
    return made["fingerprint"], _fingerprint_of(made["provenance"])


def _fingerprint_of(provenance: dict[str, Any]) -> str:
    """Of what is stored: a newer version's fields, too, were part of what it computed."""
    return fingerprint({name: value for name, value in provenance.items() if name not in RECORDED_ONLY})


# Rows ---------------------------------------------------------------------------------------------------------------


def check_rows(found: Survey, path: str, content: dict[str, Any], tick: Tick) -> Found:
    """Yield what is wrong with a row list, which is read once, block by block."""
    count, length = int(content["rows"]), int(content["block_rows"])
    if count < 0 or length < 1:
        raise ValueError(f"{count} rows in blocks of {length}")
    if not all(isinstance(name, str) for name in content["class_names"] or ()):
        raise ValueError("a class name is no text")
    names, shards = content["class_names"], content["shards"]
    limits = {
        "label": (-1, None if names is None else len(names)),
        "shard": (-1, len(shards)),
        "offset": (-1, None),
        "length": (-1, None),
    }
    digest, sound = hashlib.sha256(), True
    for name, dtype in _COLUMNS.items():
        problems: list[Problem] = []
        form = Form((count,), (length,), dtype, "" if name == "key" else -1, ("row",), grown=True)
        column = found.column(f"{path}/{name}", form, problems)
        if column is not None and name == "key":
            problems += _keys(column, f"{path}/key", count, length, digest, tick)
        elif column is not None:
            problems += _numbers(column, f"{path}/{name}", count, length, digest, limits[name])
        yield from problems
        sound = sound and column is not None and not problems
    digest.update(fingerprint(shards).encode())
    computed = digest.hexdigest()
    if sound and computed != content["fingerprint"]:
        found.computed[path] = computed
        stored = str(content["fingerprint"])[:12]
        yield Problem(path, f"the rows give the fingerprint {computed[:12]}, and {stored} is stored")


def blocks_of(count: int, length: int) -> Iterator[Block]:
    """Number, first row and last row + 1 of every block."""
    for block, start in enumerate(range(0, count, length)):
        yield block, start, min(start + length, count)


def _keys(column: Column, where: str, count: int, length: int, digest: Any, tick: Tick) -> Found:
    hashes = np.zeros(count, dtype=np.int64)  # eight bytes a row: the keys themselves need not fit into memory
    damaged = False
    for place in blocks_of(count, length):
        _, start, stop = place
        try:
            keys = column.read(*place).tolist()
        except StoreCorrupt as error:
            damaged = True
            yield Problem(where, f"{error}; {_MENDED}", place)
        else:
            hashes[start:stop] = [hash(key) for key in keys]
            for key in keys:
                raw = key.encode("utf-8", "surrogateescape")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        tick(stop - start)
    ordered = np.sort(hashes)
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if suspects and not damaged:
        yield from _duplicates(column, where, blocks_of(count, length), suspects)


def _duplicates(column: Column, where: str, blocks: Iterator[Block], suspects: set[int]) -> Found:
    first: dict[str, int] = {}
    for place in blocks:
        for row, key in enumerate(column.read(*place).tolist(), start=place[1]):
            if hash(key) in suspects and first.setdefault(key, row) != row:
                yield Problem(where, f"rows {first[key]} and {row} have the same key, {key!r}", place)


def _numbers(column: Column, where: str, count: int, length: int, digest: Any, limits: tuple[int, int | None]) -> Found:
    lowest, beyond = limits
    for place in blocks_of(count, length):
        try:
            values = column.read(*place)
        except StoreCorrupt as error:
            yield Problem(where, f"{error}; {_MENDED}", place)
            continue
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
        wrong = np.flatnonzero((values < lowest) | (values >= beyond if beyond is not None else False))
        if len(wrong):
            allowed = f"at least {lowest}" + ("" if beyond is None else f" and below {beyond}")
            yield Problem(where, f"row {place[1] + wrong[0]} is {values[wrong[0]]}, and should be {allowed}", place)


# Models, prompts, results -------------------------------------------------------------------------------------------


def check_model(found: Survey, path: str, content: dict[str, Any], tick: Tick) -> Found:
    """Yield what is wrong with a model."""
    provenance = content["provenance"]
    made_by = Provenance.from_json(provenance)
    if not isinstance(made_by.versions, dict):
        raise ValueError("its versions are no object")
    stored, computed = marks_of(content)
    if stored != computed:
        yield Problem(path, f"its provenance gives the fingerprint {computed[:12]}, and {str(stored)[:12]} is stored")
    elif made_by.name != path.partition("/")[2]:
        yield Problem(path, f"it is the model {made_by.name!r}, in another's place")
    if f"{path}/projection" in found.nodes:
        widths = (made_by.feature_dim, made_by.joint_dim)
        form = Form(widths, None, "float32", 0, ("feature", "joint"))
        yield from _whole(found, f"{path}/projection", form, _finite)


def check_texts(found: Survey, path: str, content: dict[str, Any], tick: Tick) -> Found:
    """Yield what is wrong with prompts."""
    model, _ = split_model(path)
    missing: list[Problem] = []
    made = needed(found, f"models/{model}", "model", missing)
    yield from missing
    if made is None:
        return
    names, templates = content["names"], content["templates"]
    words = {"names": names, "templates": templates}
    if content["fingerprint"] not in [fingerprint([mark, words]) for mark in marks_of(made)]:
        yield Problem(path, "its names and templates, and its model, do not give the fingerprint that is stored")
    shape = (len(names), len(templates), int(made["provenance"]["joint_dim"]))
    form = Form(shape, None, "float32", 0, ("class", "template", "joint"))
    yield from _whole(found, path, form, lambda values: _finite(values) or not_unit("float32", values))


def check_result(found: Survey, path: str, content: dict[str, Any], tick: Tick) -> Found:
    """Yield what is wrong with a result."""
    key = fingerprint({"params": content["params"], "inputs": content["inputs"]})[:12]
    place = "/".join(["results", content["model"], content["id_dataset"], content["method"], content["fingerprint"]])
    if content["fingerprint"] != key:
        yield Problem(path, f"its parameters and inputs give the key {key}, and {content['fingerprint']} is stored")
    elif place != path:
        yield Problem(path, f"it belongs at {place}")
    for below in found.below(path):
        node = found.nodes[below]
        if below.startswith((f"{path}/scores/", f"{path}/weights/")) and isinstance(node, zarr.Array):
            scores = below.startswith(f"{path}/scores/")
            dimensions = ("row",) if scores else tuple(f"axis{axis}" for axis in range(node.ndim))
            form = Form((None,) * len(dimensions), None, "float64" if scores else None, 0, dimensions)
            yield from _whole(found, below, form, lambda values: None)


def _whole(found: Survey, path: str, form: Form, check: Callable[[FloatArray], str | None]) -> Found:
    """Check an array that is one chunk."""
    problems: list[Problem] = []
    column = found.column(path, form, problems)
    yield from problems
    if column is None:
        return
    try:
        what = check(column.whole())
    except StoreCorrupt as error:
        what = str(error)
    if what is not None:
        yield Problem(path, f"{what}. Restore it, or remove that folder and run the command that made it again")


def _finite(values: FloatArray) -> str | None:
    return None if np.isfinite(values).all() else "it holds numbers that are not finite"


def not_unit(dtype: str, values: FloatArray) -> str | None:
    """What to say of vectors, (…, D), of which one is no unit vector."""
    lengths = np.linalg.norm(values.astype(np.float64), axis=-1)
    off = float(np.abs(lengths - 1).max(initial=0.0))
    return f"it holds vectors that are no unit vectors (off by {off:.3g})" if off > _LENGTH[dtype] else None
