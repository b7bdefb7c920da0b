"""How every node of a store is named, created, committed and read: the only file that spells out Zarr.

A node (group or array) of ours carries one attribute, ``embedstore``: an object with its ``kind`` and ``fingerprint``.
It is written last, in one atomic write of the node's metadata. A node without it is half-written, and half-written is
the same as absent. docs/format.md specifies the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from embedstore.errors import StoreCorrupt, UsageError

FORMAT = 1
ATTRIBUTE = "embedstore"

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=:-]*")
# A model's name may have several components and its node holds these, so they cannot be part of a name.
_RESERVED = {"images", "texts", "projection"}


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a `kind` in the store, else raise :class:`UsageError`.

    A model's name may be several components joined by ``/``; every other name is one component.
    """
    parts = name.split("/") if kind == "model" else [name]
    if all(_COMPONENT.fullmatch(part) and part not in _RESERVED for part in parts):
        return name
    raise UsageError(
        f"{name!r} cannot name a {kind} in the store: use letters, digits and . _ + @ = : - only, beginning with a "
        f"letter or digit{', and none of ' + ', '.join(sorted(_RESERVED)) if kind == 'model' else ''}"
    )


def create_array(
    parent: zarr.Group,
    name: str,
    *,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: npt.DTypeLike,
    dimensions: Sequence[str],
    fill_value: Any = None,
    attributes: dict[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Create an uncompressed array with a crc32c checksum on every chunk; replaces a half-written one.

    Chunks are written even where they equal the fill value, so that "never written" stays distinguishable.
    """
    return parent.create_array(
        name,
        shape=tuple(shape),
        # Zarr has no empty chunks; an empty array still needs a chunk shape.
        chunks=tuple(max(1, size) for size in chunks),
        dtype=dtype,
        fill_value=fill_value,
        compressors=[Crc32cCodec()],
        filters=None,
        dimension_names=tuple(dimensions),
        attributes=attributes,
        overwrite=True,
        config={"write_empty_chunks": True},
    )


def for_writing(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, writing every chunk it is given: the setting is not part of the stored metadata."""
    return array.with_config({"write_empty_chunks": True})


def commit(node: zarr.Group | zarr.Array[Any], kind: str, **content: Any) -> None:
    """Declare `node` complete: write its ``embedstore`` attribute. Must be the last write to it."""
    node.update_attributes({ATTRIBUTE: {"kind": kind, **content}})


def committed(parent: zarr.Group, path: str, kind: str) -> dict[str, Any] | None:
    """The ``embedstore`` attribute of the node at `path` if it is a complete `kind`, else None."""
    if not all(part.strip(".") for part in path.split("/")):
        return None  # "", "." and ".." name nothing, and Zarr would raise an error of its own
    node = parent.get(path)
    if node is None:
        return None
    content: Any = dict(node.attrs).get(ATTRIBUTE)
    return dict(content) if isinstance(content, dict) and content.get("kind") == kind else None


def find(parent: zarr.Group, path: str, kind: str, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    """Paths, relative to `path` and sorted, of the complete `kind` groups below it; does not look into `skip`."""
    top = parent.get(path)
    if not isinstance(top, zarr.Group):
        return
    for name in sorted(top.group_keys()):
        if name in skip:
            continue
        if committed(top, name, kind) is not None:
            yield name
        yield from (f"{name}/{below}" for below in find(top, name, kind, skip))


def group_at(parent: zarr.Group, path: str) -> zarr.Group:
    """The group at `path`, which the caller knows is there."""
    node = parent[path]
    if not isinstance(node, zarr.Group):
        raise StoreCorrupt(f"{node.path!r} should be a group and is an array; the store was changed by hand")
    return node


def array_at(parent: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array `name` of `parent`, which the format promises is there."""
    node = parent.get(name)
    if not isinstance(node, zarr.Array):
        raise StoreCorrupt(f"the store says that {parent.path!r} is complete, but its array {name!r} is missing")
    return node


def read(array: zarr.Array[Any], selection: slice = slice(None)) -> npt.NDArray[Any]:
    """Rows of `array` as numpy; a chunk whose checksum is wrong raises :class:`StoreCorrupt` naming the array."""
    try:
        return np.asarray(array[selection])
    except ValueError as error:  # zarr's crc32c codec has no exception type of its own
        raise StoreCorrupt(
            f"array {array.path!r} cannot be read: {error} A chunk was damaged on disk; embed that data set again"
        ) from error
