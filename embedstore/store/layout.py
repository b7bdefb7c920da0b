"""How every node of a store is named, created, committed and read: with chunks.py the only file that spells out Zarr.

A node (group or array) of ours carries one attribute, ``embedstore``: an object with its ``kind`` and ``fingerprint``.
It is written last, in one atomic write of the node's metadata. A node without it is half-written, and half-written is
the same as absent. docs/format.md specifies the result.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import ContainsArrayError, ContainsGroupError, ZarrUserWarning
from zarr.storage import LocalStore

from embedstore.errors import StoreCorrupt, UsageError
from embedstore.store import chunks

FORMAT = 1
ATTRIBUTE = "embedstore"

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=-]*")
# A model's name may have several components, and colons ("timm:NAME"). Its node holds these, so none of them is one.
_MODEL_COMPONENT = re.compile(r"(?!(?:images|texts|projection)$)[A-Za-z0-9][A-Za-z0-9._+@=:-]*")


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a `kind` in the store, else raise :class:`UsageError`.

    A model's name may be several components joined by ``/``; every other name is one component.
    """
    if kind == "model":
        good = all(_MODEL_COMPONENT.fullmatch(part) for part in name.split("/"))
        rule = (
            "letters, digits and . _ + @ = : - only, beginning with one of the first two; not images, projection, texts"
        )
    else:
        good = _COMPONENT.fullmatch(name) is not None
        rule = "letters, digits and . _ + @ = - only, beginning with a letter or digit"
    if not good:
        raise UsageError(f"{name!r} cannot name a {kind} in the store: use {rule}")
    return name


def make_group(parent: zarr.Group, path: str) -> zarr.Group:
    """The group at `path`, made if it is not there; never before the groups it lies in.

    Zarr itself writes a new group and the groups around it at once. Killed in between, it would leave a group that no
    listing reaches, and take it for complete the next time.
    """
    group = parent
    for name in path.split("/"):
        try:
            group = group.require_group(name)
        except ContainsGroupError:  # another process has just come before
            group = group_at(group, name)
    return group


def create_array(
    parent: zarr.Group,
    name: str,
    *,
    shape: Sequence[int],
    chunks: Sequence[int],
    dtype: npt.DTypeLike,
    dimensions: Sequence[str],
    fill_value: Any = None,
    sparse: bool = False,
) -> zarr.Array[Any]:
    """Create an uncompressed array with a crc32c checksum on every chunk; replaces a half-written one.

    Chunks are written even where they equal the fill value, so that "never written" stays distinguishable; in a
    `sparse` array they are left out. An array of the same form that is already there is kept: another process may be
    writing to it.
    """
    # Zarr has no empty chunks; an empty array still needs a chunk shape.
    form = (
        tuple(shape),
        tuple(max(1, size) for size in chunks),
        np.dtypes.StringDType() if dtype is str else np.dtype(dtype),
    )
    there = node_at(parent, name)
    if isinstance(there, zarr.Array) and (there.shape, there.chunks, there.dtype) == form:
        return for_writing(there, sparse=sparse)
    try:
        return parent.create_array(
            name,
            shape=form[0],
            chunks=form[1],
            dtype=dtype,
            fill_value=fill_value,
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=tuple(dimensions),
            overwrite=there is not None,  # overwriting removes chunks: never those of somebody who has just come before
            config={"write_empty_chunks": not sparse},
        )
    except ContainsArrayError:
        return create_array(
            parent,
            name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            dimensions=dimensions,
            fill_value=fill_value,
            sparse=sparse,
        )


def for_writing(array: zarr.Array[Any], *, sparse: bool = False) -> zarr.Array[Any]:
    """The same array, with the choice of :func:`create_array`: it is not part of the stored metadata."""
    return array.with_config({"write_empty_chunks": not sparse})


def erase(array: zarr.Array[Any], start: int, stop: int) -> None:
    """Remove the chunks of rows ``[start, stop)``, which are whole chunks: they read as the fill value again."""
    for_writing(array, sparse=True)[start:stop] = array.fill_value


def lengthen(array: zarr.Array[Any], rows: int) -> None:
    """Give an array over rows that many; what is there stays as it is."""
    if array.shape[0] < rows:
        array.resize((rows, *array.shape[1:]))


def node_at(parent: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any] | None:
    """The group or array at `path`, or None; metadata that cannot be read raises :class:`StoreCorrupt`."""
    try:
        return parent.get(path)
    except (ValueError, TypeError) as error:  # JSON that is cut off, fields that Zarr does not accept
        raise StoreCorrupt(
            f"the metadata of {path!r} cannot be read: {error}. Restore its zarr.json, or remove that folder "
            "and extract again"
        ) from error


def commit(node: zarr.Group | zarr.Array[Any], kind: str, **content: Any) -> None:
    """Declare `node` complete: write its ``embedstore`` attribute. Must be the last write to it."""
    node.update_attributes({ATTRIBUTE: {"kind": kind, **content}})


def committed(parent: zarr.Group, path: str, kind: str) -> dict[str, Any] | None:
    """The ``embedstore`` attribute of the node at `path` if it is a complete `kind`, else None."""
    if not all(part.strip(".") for part in path.split("/")):
        return None  # "", "." and ".." name nothing, and Zarr would raise an error of its own
    node = node_at(parent, path)
    return None if node is None else _content(node, kind)


def _content(node: zarr.Group | zarr.Array[Any], kind: str) -> dict[str, Any] | None:
    content: Any = dict(node.attrs).get(ATTRIBUTE)
    return dict(content) if isinstance(content, dict) and content.get("kind") == kind else None


def began(parent: zarr.Group, path: str) -> datetime | None:
    """When a group's metadata was written, UTC, as far as files say: None where there are no files, or not this one.

    Embeddings hold no time, so that their bytes say what was embedded and not when; a copied file may have a newer one.
    """
    if not isinstance(parent.store, LocalStore):
        return None
    try:
        seconds = (parent.store.root / parent.path / path / "zarr.json").stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def find(
    parent: zarr.Group, path: str, kind: str, inside: frozenset[str] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths, relative to `path` and sorted, of the complete `kind` groups below it, with their attribute.

    One listing a level, and one read a node: a store may have thousands of splits, and lie behind a network. Below a
    complete group no other is looked for, unless `inside` names what such a group itself consists of; that is not
    searched, and the rest is.
    """
    top = node_at(parent, path)
    if isinstance(top, zarr.Group):
        yield from _below(top, path, kind, inside)


def _below(
    top: zarr.Group, path: str, kind: str, inside: frozenset[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    own = inside if inside and _content(top, kind) is not None else frozenset()
    try:
        groups = [(name, node) for name, node in _members(top) if isinstance(node, zarr.Group) and name not in own]
    except (ValueError, TypeError) as error:
        raise StoreCorrupt(f"metadata below {path!r} cannot be read: {error}. Restore the zarr.json files") from error
    for name, group in groups:
        content = _content(group, kind)
        if content is not None:
            yield name, content
        if content is None or inside is not None:
            yield from ((f"{name}/{below}", held) for below, held in _below(group, f"{path}/{name}", kind, inside))


def children(parent: zarr.Group, kind: type[zarr.Group] | type[zarr.Array[Any]]) -> list[str]:
    """Names of the groups or arrays right below a group, sorted."""
    return [name for name, node in _members(parent) if isinstance(node, kind)]


def _members(parent: zarr.Group) -> list[tuple[str, zarr.Group | zarr.Array[Any]]]:
    with warnings.catch_warnings():
        # Between the nodes lie temporary files of killed writers, and folders whose zarr.json was never written.
        warnings.simplefilter("ignore", ZarrUserWarning)
        return sorted(parent.members(), key=lambda member: member[0])


def group_at(parent: zarr.Group, path: str) -> zarr.Group:
    """The group at `path`, which the caller knows is there."""
    node = node_at(parent, path)
    if not isinstance(node, zarr.Group):
        raise StoreCorrupt(f"there should be a group at {path!r}; the store was changed by hand")
    return node


def array_at(parent: zarr.Group, name: str) -> zarr.Array[Any]:
    """The array `name` of `parent`, which the format promises is there."""
    node = node_at(parent, name)
    if not isinstance(node, zarr.Array):
        raise StoreCorrupt(f"the store says that {parent.path!r} is complete, but its array {name!r} is missing")
    return node


def read(array: zarr.Array[Any], selection: slice = slice(None)) -> npt.NDArray[Any]:
    """Rows of `array` as numpy; a chunk whose checksum is wrong raises :class:`StoreCorrupt` naming the array."""
    try:
        return chunks.read(array, selection)
    except ValueError as error:  # zarr's crc32c codec has no exception type of its own
        raise StoreCorrupt(
            f"array {array.path!r} cannot be read: {error} A chunk was damaged on disk; {_cure(array)}"
        ) from error


def _cure(array: zarr.Array[Any]) -> str:
    if array.path.startswith("datasets/"):
        return "`embedstore extract` with the same source, unless it has changed, writes it again"
    return "`embedstore verify --repair` says which, and makes `embedstore extract` embed that block again"


def read_whole(array: zarr.Array[Any], rows: int) -> npt.NDArray[Any]:
    """The first `rows` rows of an array that was written whole; a missing chunk raises :class:`StoreCorrupt` too."""
    return read(whole(array, rows), slice(rows))


def whole(array: zarr.Array[Any], rows: int) -> zarr.Array[Any]:
    """The array itself, if no chunk of its first `rows` rows is missing; else :class:`StoreCorrupt`."""
    chunks = -(-rows // array.chunks[0])
    if array.nchunks_initialized < chunks:
        missing = chunks - array.nchunks_initialized
        raise StoreCorrupt(f"{missing} of {chunks} chunks of {array.path!r} are missing; {_cure(array)}")
    return array
