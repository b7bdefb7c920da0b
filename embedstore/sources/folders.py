"""Images as files in a folder: one sub-folder per class, or flat."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain

import numpy as np

from embedstore.errors import ImageError, SourceError, UsageError, redact
from embedstore.records import Rows
from embedstore.sources.base import Payload
from embedstore.sources.classes import read_classes
from embedstore.sources.images import IMAGE_EXTENSIONS, MOST_BYTES, too_large
from embedstore.sources.listing import Listing
from embedstore.sources.naming import DEFAULT_SPLIT, check_name, choices, directory_names
from embedstore.sources.places import FileSystem, base_name, border, entries, locate, own_fault
from embedstore.sources.reading import files


class FolderSource:
    """A folder of image files; made by :func:`embedstore.sources.open_source`.

    Rows come in the order of ``torchvision.datasets.ImageFolder``: by class (sorted names), then by directory, then by
    file name. Its labels, too, are indices of the sorted names of sub-folders, unless class names are given. Unlike it,
    more formats count as images, and hidden files and folders (``.ipynb_checkpoints``, ``._x.jpg``) do not count.

    Parameters
    ----------
    spec : str
        What the user asked for; it names the file system.
    root : str
        The folder whose images are meant, as that file system calls it.
    dataset, split : str
    class_names : tuple of str, or None
        In label order. A sub-folder's label is the index of its name; there may be names without a sub-folder (a split
        need not have every class). Where no sub-folder's name occurs (they are called after WordNet ids), the names
        stand for the sub-folders in sorted order, one for each.
    """

    def __init__(
        self, spec: str, root: str, *, dataset: str, split: str, class_names: tuple[str, ...] | None = None
    ) -> None:
        self.dataset = dataset
        self.split = split
        self._spec = spec
        self._root = root.rstrip("/") or "/"
        self._class_names = class_names

    def __repr__(self) -> str:
        return f"<FolderSource {redact(self._root)}: {self.dataset}/{self.split}>"

    def scan(self, limit: int | None = None) -> Rows:
        """List one row per image file; nothing is opened. Of a local folder, one directory at a time is in memory.

        Raises
        ------
        SourceError
            There is no image, or a class's folder has none (its label would name nothing), or the class names given
            do not fit the sub-folders.
        UsageError
            Images lie both at the top and in sub-folders, so the layout is neither of the two.
        """
        fs, _ = locate(self._spec)
        fs.invalidate_cache()  # what was listed earlier in this process may be out of date
        return Listing(self._parts(fs), limit)

    def _parts(self, fs: FileSystem) -> Iterator[Rows]:
        shown = redact(self._root)
        below = _images_below(fs, self._root)
        first = next(below, None)
        if first is None:
            raise SourceError(f"{shown}: no images (looked for .{', .'.join(IMAGE_EXTENSIONS)}) and no .tar shards")
        if first[0] == "":
            nested = next((f"{other}/{name}" for other, names in below for name in names), None)
            if nested is not None:
                raise UsageError(
                    f"{shown} has images at the top ({min(first[1])!r}) and in sub-folders ({nested!r}): it is neither"
                    " one sub-folder per class nor flat. Move one kind elsewhere"
                )
            yield self._part(*first, {})
            return
        empty = {base_name(path) for path in entries(fs, self._root)[1]}
        label_of = _labels(sorted(empty), self._class_names, shown)
        for directory, sizes in chain([first], below):
            empty.discard(_class_folder(directory))
            yield self._part(directory, sizes, label_of)
        if empty:
            raise SourceError(
                f"{shown}: no images in class folder(s) {choices(empty)}."
                " Each sub-folder is a class; move away those that are not"
            )

    def _part(self, directory: str, sizes: dict[str, int], label_of: dict[str, int]) -> Rows:
        """The images right in one directory, by name."""
        names = sorted(sizes)
        return Rows(
            keys=[f"{directory}/{name}" if directory else name for name in names],
            labels=np.full(len(names), label_of.get(_class_folder(directory), -1), dtype=np.int32),
            shard=np.full(len(names), -1, dtype=np.int32),
            offset=np.zeros(len(names), dtype=np.int64),
            length=np.array([sizes[name] for name in names], dtype=np.int64),
            shards=(),
            class_names=self._class_names or (tuple(label_of) or None),
            source=redact(self._spec),
        )

    def read(self, rows: Rows, start: int, stop: int) -> Iterator[Payload]:
        """Yield each row's file; an ImageError for one that is gone, is locked or has another size than when listed.

        On object storage, as many files as a batch has are fetched at once.
        """
        fs, _ = locate(self._spec)
        wanted = range(*slice(start, stop).indices(len(rows)))
        refused = {row: reason for row in wanted if (reason := _refusal(rows.keys[row], int(rows.length[row])))}
        asked = [row for row in wanted if row not in refused]
        found = files(fs, [f"{self._root}/{rows.keys[row]}" for row in asked], [int(rows.length[row]) for row in asked])
        for row in wanted:
            if row in refused:
                yield ImageError(refused[row])
            else:
                yield self._image(fs, rows.keys[row], int(rows.length[row]), next(found))

    def _image(self, fs: FileSystem, key: str, length: int, data: bytes | OSError) -> Payload:
        if isinstance(data, OSError):
            self._check_root(fs)
            return ImageError(f"cannot read {key}: {own_fault(data)}")
        if len(data) != length:
            more = len(data) > length and fs.async_impl  # of a longer file, one byte more was fetched
            now = f"more than {length}" if more else str(len(data))
            return ImageError(f"{key} has changed since it was listed: {length} bytes then, {now} now")
        return data

    def _check_root(self, fs: FileSystem) -> None:
        """Raise SourceError where the whole folder cannot be had: an object store says of a file that it is forbidden,
        or not there, when the credentials have expired or the bucket is gone, and that is no fault of the images.
        """
        with border(redact(self._root)):
            fs.invalidate_cache()
            fs.info(self._root)

    def captions(self, rows: Rows, start: int, stop: int, extension: str) -> Iterator[str | None]:
        """Yield the text of each image's sibling with the same stem and ``.<extension>``.

        Bytes that are not UTF-8 become U+FFFD.
        """
        fs, _ = locate(self._spec)
        suffix = extension.removeprefix(".")
        names = [
            f"{os.path.splitext(rows.keys[row])[0]}.{suffix}" for row in range(*slice(start, stop).indices(len(rows)))
        ]
        for name in names:
            if not _inside(name):
                raise SourceError(f"caption {name!r} would lie outside of {redact(self._root)}; it is not read")
        found = files(fs, [f"{self._root}/{name}" for name in names], [-1] * len(names))
        for name, raw in zip(names, found, strict=True):
            if isinstance(raw, PermissionError):
                raise SourceError(f"cannot read {name}: {own_fault(raw)}")
            yield None if isinstance(raw, OSError) else raw.decode("utf-8", errors="replace")


def _inside(key: str) -> bool:
    """Whether a key stays inside its folder. Listed ones do; rows may come from a store that somebody else wrote."""
    return not (key.startswith("/") or {"", ".", ".."} & set(re.split(r"[/\\]", key)) or "\0" in key)


def _refusal(key: str, length: int) -> str | None:
    """Why a file is not even opened; None where it is."""
    if not _inside(key):
        return f"{key!r} would lie outside of the folder; it is not read"
    return None if length <= MOST_BYTES else f"{key}: {too_large(length)}"


def _labels(folders: list[str], names: tuple[str, ...] | None, shown: str) -> dict[str, int]:
    """The label of each class folder (given sorted), by its name or, where no name is known, by its position."""
    by_position = {folder: label for label, folder in enumerate(folders)}
    if names is None:
        return by_position
    times = Counter(names)
    unknown = [folder for folder in folders if folder not in times]
    if unknown and len(unknown) < len(folders):
        raise SourceError(
            f"{shown}: class folder(s) {choices(unknown)} do not occur among the {len(names)} class names given, but"
            " others do. Rename them or the classes, so that every folder's name occurs, or none"
        )
    if unknown and len(names) != len(folders):
        raise SourceError(
            f"{shown} has {len(folders)} class folders, but {len(names)} class names were given, and no folder's name"
            f" occurs among them (folders: {choices(folders)})"
        )
    if unknown:
        return by_position
    repeated = [folder for folder in folders if times[folder] > 1]
    if repeated:
        raise SourceError(
            f"{shown}: class name(s) {choices(repeated)} were given more than once, so the label of the folder is open"
        )
    label_of = {name: label for label, name in enumerate(names)}
    return {folder: label_of[folder] for folder in folders}


def _class_folder(directory: str) -> str:
    return directory.partition("/")[0]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_EXTENSIONS


def _images_below(fs: FileSystem, root: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Sizes by name of the images in each directory below a folder that has any; hidden ones left out.

    Directories are named by their path in the folder, and come by class, then by that path.
    """
    from fsspec.implementations.local import LocalFileSystem

    local = isinstance(fs, LocalFileSystem)
    with border(redact(root)):
        found = dict.fromkeys(_directories(root, "", ())) if local else _found(fs, root)
    for directory in sorted(found, key=lambda directory: (_class_folder(directory), directory)):
        with border(redact(root)):
            sizes = found[directory] or dict(_images_in(os.path.join(root, directory)))
        if sizes:
            yield directory, sizes


def _found(fs: FileSystem, root: str) -> dict[str, dict[str, int]]:
    start, found = len(root.rstrip("/")) + 1, defaultdict[str, dict[str, int]](dict)
    for path, info in fs.find(root, detail=True).items():
        directory, _, name = path[start:].rpartition("/")
        if _is_image(name) and not any(part.startswith(".") for part in path[start:].split("/")):
            found[directory][name] = int(info["size"] or 0)
    return found


def _directories(directory: str, name: str, above: tuple[str, ...]) -> Iterator[str]:
    """A local folder and all below it, through symbolic links (fsspec's own walk does not), but not round in circles.

    By their paths in the first one, which is "".
    """
    real = os.path.realpath(directory)
    if real in above:
        return
    yield name
    with os.scandir(directory) as listing:
        for entry in listing:
            if entry.is_dir() and not entry.name.startswith("."):
                yield from _directories(entry.path, f"{name}/{entry.name}" if name else entry.name, (*above, real))


def _images_in(directory: str) -> Iterator[tuple[str, int]]:
    with os.scandir(directory) as listing:
        for entry in listing:
            if _is_image(entry.name) and not entry.name.startswith(".") and not entry.is_dir():
                # A dangling link is an image that cannot be had, not one that is not there.
                yield entry.name, entry.stat().st_size if entry.is_file() else -1


def open_folder(spec: str, root: str, *, dataset: str | None, split: str | None, classes: str | None) -> FolderSource:
    """Make a source of a folder that was found to be one; a split's own folder has been descended into already."""
    default_dataset, directory_split = directory_names(redact(root))
    return FolderSource(
        spec,
        root,
        dataset=check_name("data set", dataset) if dataset else default_dataset,
        split=check_name("split", split) if split else (directory_split or DEFAULT_SPLIT),
        class_names=read_classes(classes) if classes else None,
    )
