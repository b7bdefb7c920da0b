"""What `probe` found, kept beside the features it was found from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from embedstore.records import FloatArray, Result
from embedstore.store import layout

KIND = "result"
_PLAIN = (
    "model",
    "id_dataset",
    "method",
    "params",
    "inputs",
    "id_accuracy",
    "metrics",
    "absent",
    "seconds",
    "created",
    "version",
)
_LATER = ("variant", "details")  # which earlier versions did not write; left out where they say nothing


def write(root: zarr.Group, result: Result) -> None:
    """Store one result; one with the same parameters and inputs is replaced."""
    layout.check_name("model", result.model)
    layout.check_name("data set", result.id_dataset)
    layout.check_name("method", result.method)
    method = layout.make_group(root, f"results/{result.model}/{result.id_dataset}/{result.method}")
    group = method.create_group(result.key(), overwrite=True)
    for name, values in result.scores.items():
        _write_whole(group, f"scores/{name}", np.asarray(values, dtype=np.float64), ("row",))
    for name, weights in result.weights.items():
        _write_whole(group, f"weights/{name}", np.asarray(weights), tuple(f"axis{i}" for i in range(np.ndim(weights))))
    later = [name for name in _LATER if getattr(result, name)]
    content = {name: _plain(getattr(result, name)) for name in (*_PLAIN, *later)}
    layout.commit(group, KIND, fingerprint=result.key(), notes=list(result.notes), **content)


def read_all(root: zarr.Group) -> Iterator[Result]:
    """Every complete result, oldest first. Scores and weights are read from the store only when looked up."""
    found = []
    for path, content in layout.find(root, "results", KIND):
        group = layout.group_at(root, f"results/{path}")
        found.append(
            Result(
                **{name: content[name] for name in _PLAIN},
                **{name: content[name] for name in _LATER if name in content},
                notes=tuple(content["notes"]),
                scores=_LazyArrays(group, "scores"),
                weights=_LazyArrays(group, "weights"),
            )
        )
    yield from sorted(found, key=lambda result: result.created)


class _LazyArrays(Mapping[str, FloatArray]):
    """The arrays below a group by their path; each is read when it is looked up."""

    def __init__(self, parent: zarr.Group, path: str) -> None:
        self._parent, self._path = parent, path

    def __getitem__(self, name: str) -> FloatArray:
        array = self._parent.get(f"{self._path}/{name}")
        if not isinstance(array, zarr.Array):
            raise KeyError(name)
        return layout.read(array)

    def __iter__(self) -> Iterator[str]:
        group = self._parent.get(self._path)
        if isinstance(group, zarr.Group):
            yield from sorted(name for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _write_whole(group: zarr.Group, path: str, values: FloatArray, dimensions: tuple[str, ...]) -> None:
    array = layout.create_array(
        group, path, shape=values.shape, chunks=values.shape, dtype=values.dtype, dimensions=dimensions
    )
    array[...] = values


def _plain(value: Any) -> Any:
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
