"""A location becomes the root group of a store; whatever else is there is refused, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.errors import ContainsArrayError

from embedstore.errors import StoreCorrupt, StoreNotFound, UsageError, redact, scrub
from embedstore.store import layout

Location: TypeAlias = str | Path | ZarrStore


def created(location: Location) -> zarr.Group:
    """The root of the store at a location, made if there is none. Raises as :meth:`embedstore.Store.create`."""
    if is_taken(location) and not Path(str(location), "zarr.json").exists():
        raise StoreNotFound(f"{_shown(location)} exists and is not an embedstore; give a new path")
    try:
        root = zarr.open_group(_zarr(location), mode="a", zarr_format=3)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise _unusable(location, error) from error
    if not dict(root.attrs):
        if layout.children(root, zarr.Group) or layout.children(root, zarr.Array):
            raise StoreNotFound(f"{_shown(location)} is a Zarr group that embedstore did not make; give a new path")
        root.update_attributes({layout.ATTRIBUTE: {"format": layout.FORMAT}})
    return _checked(root, location)


def opened(location: Location, *, writable: bool) -> zarr.Group:
    """The root of the store at a location. Raises as :meth:`embedstore.Store.open`."""
    try:
        root = zarr.open_group(_zarr(location), mode="r+" if writable else "r", zarr_format=3)
    except (FileNotFoundError, NotADirectoryError) as error:
        there = isinstance(location, Path | str) and Path(location).exists()
        what = "exists and is not an embedstore" if there else "does not exist; `embedstore extract` makes a store"
        raise StoreNotFound(f"{_shown(location)} {what}") from error
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise _unusable(location, error) from error
    return _checked(root, location)


def is_taken(location: Location) -> bool:
    """Whether something is there on disk: a file, or a folder that holds any."""
    if isinstance(location, ZarrStore) or "://" in str(location):
        return False
    path = Path(location)
    return path.is_file() or (path.is_dir() and _holds_files(path))


def _zarr(location: Location) -> str | ZarrStore:
    return location if isinstance(location, ZarrStore) else str(location)


def _holds_files(folder: Path) -> bool:
    """Whether there is anything but what a killed writer left before it had written the first file."""
    return any(not entry.name.endswith(".partial") for entry in folder.iterdir())


def _shown(location: object) -> str:
    return redact(str(location))


def _unusable(location: object, error: Exception) -> Exception:
    """What to say of a location that Zarr cannot open as a group."""
    if isinstance(error, ContainsArrayError):
        return StoreNotFound(f"{_shown(location)} is a Zarr array, not an embedstore; give a new path")
    if isinstance(error, json.JSONDecodeError | AttributeError):  # cut off; or JSON, and no object
        return StoreCorrupt(
            f"the metadata of {_shown(location)} cannot be read: {scrub(str(error))}. Restore its zarr.json"
        )
    return UsageError(f"{_shown(location)} cannot be opened as a store: {scrub(str(error))}")


def _checked(root: zarr.Group, location: object) -> zarr.Group:
    content: Any = dict(root.attrs).get(layout.ATTRIBUTE)
    if not isinstance(content, dict) or "format" not in content:
        raise StoreNotFound(
            f"{_shown(location)} is a Zarr group, but not an embedstore (no {layout.ATTRIBUTE!r} attribute); "
            "if `embedstore extract` was killed as it began, run it again"
        )
    if content["format"] != layout.FORMAT:
        raise StoreCorrupt(
            f"{_shown(location)} is an embedstore of format {content['format']!r}, this version reads format "
            f"{layout.FORMAT}; upgrade embedstore"
        )
    return root
