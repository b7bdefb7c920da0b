"""Whether a store keeps every promise of docs/format.md; what does not, by node and block.

What no checksum can see is one whole chunk of features in another's place: each is sound by itself. Chunks of the row
list cannot be swapped unseen, nor can features of blocks that hold a failed image in different rows;
:func:`embedstore.extract.reembed.embed_again` finds the others, by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import zarr

from embedstore.store import images, layout, results, splits, texts
from embedstore.store.damage import DAMAGE, Problem, Survey, survey
from embedstore.store.embedded import check_images, undeclared
from embedstore.store.promises import (
    check_model,
    check_result,
    check_rows,
    check_texts,
    refuse_other_fields,
    split_model,
)

_CHECKS = {
    splits.KIND: check_rows,
    "model": check_model,
    images.KIND: check_images,
    texts.KIND: check_texts,
    results.KIND: check_result,
}


def verify(
    root: zarr.Group,
    models: Sequence[str] = (),
    dataset: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Problem]:
    """See :meth:`embedstore.Store.verify`."""
    found = survey(root, lambda path: _wanted(path, models, dataset))
    yield from found.problems
    for path, node in found.nodes.items():
        if node is not None and _kind_at(path) == images.KIND and not dict(node.attrs).get(layout.ATTRIBUTE):
            yield from undeclared(found, path)
    nodes = [(path, kind, content) for path, node in found.nodes.items() for kind, content in _declared(found, path)]
    total = sum(_count(content) for _, kind, content in nodes if kind == splits.KIND)
    total += sum(_count(_rows_of(found, path) or {}) for path, kind, _ in nodes if kind == images.KIND)
    tick = partial(_tick, progress, total)
    said: set[str] = set()
    for path, kind, content in nodes:
        expected = _kind_at(path)
        if kind != expected:
            if expected is not None or kind in _CHECKS:
                yield Problem(path, f"it says that it is {kind!r}, and here belongs {expected or 'nothing of ours'}")
            continue
        try:
            refuse_other_fields(kind, content)
            for problem in _CHECKS[kind](found, path, content, tick):
                # A row list that is missing is missed by every model.
                if problem.block is not None or (key := f"{problem.where}: {problem.what}") not in said:
                    said |= {key} if problem.block is None else set()
                    yield problem
        except DAMAGE as error:
            found.nodes[path] = None  # so that what builds on it does not say it again
            yield Problem(path, f"its attributes are not what the format says: {type(error).__name__}: {error}")


def repair(root: zarr.Group, problems: Iterable[Problem]) -> dict[str, list[tuple[int, int, int]]]:
    """See :meth:`embedstore.Store.forget_damaged`."""
    forgotten: dict[str, set[tuple[int, int, int]]] = {}
    for problem in problems:
        if problem.mends and problem.block is not None:
            forgotten.setdefault(problem.where.rpartition("/")[0], set()).add(problem.block)
    for path, blocks in forgotten.items():
        status = layout.array_at(root, f"{path}/status")
        for _, start, stop in blocks:
            layout.erase(status, start, stop)
    return {path: sorted(blocks) for path, blocks in sorted(forgotten.items())}


def _tick(progress: Callable[[int, int], None] | None, total: int, rows: int) -> None:
    if progress is not None:
        progress(rows, total)


def _count(content: dict[str, Any]) -> int:
    rows = content.get("rows")
    return rows if isinstance(rows, int) else 0


# Which node is what -------------------------------------------------------------------------------------------------


def _kind_at(path: str) -> str | None:
    """The kind of node that the format puts there, if any."""
    parts = path.split("/")
    if parts[0] == "datasets":
        return splits.KIND if len(parts) == 3 else None
    if parts[0] == "results":
        return results.KIND if len(parts) >= 5 else None
    if parts[0] != "models":
        return None
    model, below = split_model(path)
    if not below:
        return "model" if model else None
    return {"images": images.KIND, "texts": texts.KIND}.get(below[0]) if len(below) == 3 else None


def _declared(found: Survey, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and content of a node that declares itself complete. One that does not is half-written: absent."""
    node = found.nodes[path]
    content: Any = None if node is None else dict(node.attrs).get(layout.ATTRIBUTE)
    if content:
        yield str(content.get("kind")), content


def _wanted(path: str, models: Sequence[str], dataset: str | None) -> bool:
    """Whether a path is of these models and that data set, or above or beside them."""
    kind, _, rest = path.partition("/")
    below: list[str] = []
    if kind == "models":
        model, below = split_model(path)
        if models and model not in models and (below or not any(name.startswith(f"{model}/") for name in models)):
            return False
    elif kind == "results":
        if models and not any(f"{rest}/".startswith(f"{name}/") or name.startswith(rest) for name in models):
            return False
        return dataset is None or len(rest.split("/")) < 4 or f"/{dataset}/" in f"/{rest}/"
    elif kind == "datasets":
        below = [kind, *rest.split("/")]
    return dataset is None or len(below) < 2 or below[1] in (dataset, "")


def _rows_of(found: Survey, path: str) -> dict[str, Any] | None:
    _, below = split_model(path)
    return found.content("/".join(["datasets", *below[1:]]), splits.KIND)
