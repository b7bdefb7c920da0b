"""Images as files in a folder: one sub-folder per class, or flat."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from embedstore.errors import ImageError, SourceError, UsageError, redact
from embedstore.records import Rows
from embedstore.sources.base import Payload
from embedstore.sources.classes import read_classes
from embedstore.sources.images import IMAGE_EXTENSIONS, MOST_BYTES, too_large
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

    def scan(self) -> Rows:
        """List one row per image file; nothing is opened.

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
        shown = redact(self._root)
        sizes = _images_below(fs, self._root)
        if not sizes:
            raise SourceError(f"{shown}: no images (looked for .{', .'.join(IMAGE_EXTENSIONS)}) and no .tar shards")
        top = [key for key in sizes if "/" not in key]
        if top and len(top) < len(sizes):
            nested = next(key for key in sizes if "/" in key)
            raise UsageError(
                f"{shown} has images at the top ({top[0]!r}) and in sub-folders ({nested!r}): it is neither one"
                " sub-folder per class nor flat. Move one kind elsewhere"
            )
        folders = [] if top else [base_name(path) for path in entries(fs, self._root)[1]]
        return self._rows(sizes, folders, shown)

    def _rows(self, sizes: dict[str, int], folders: list[str], shown: str) -> Rows:
        folder_of = {key: key.partition("/")[0] if folders else "" for key in sizes}
        empty = set(folders) - set(folder_of.values())
        if empty:
            raise SourceError(
                f"{shown}: no images in class folder(s) {choices(empty)}."
                " Each sub-folder is a class; move away those that are not"
            )
        names = self._class_names
        label_of = _labels(sorted(folders), names, shown)
        keys = sorted(sizes, key=lambda key: (folder_of[key], *_directory_and_name(key)))
        return Rows(
            keys=keys,
            labels=np.array([label_of.get(folder_of[key], -1) for key in keys], dtype=np.int32),
            shard=np.full(len(keys), -1, dtype=np.int32),
            offset=np.zeros(len(keys), dtype=np.int64),
            length=np.array([sizes[key] for key in keys], dtype=np.int64),
            shards=(),
            class_names=names or (tuple(label_of) or None),
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


def _directory_and_name(key: str) -> tuple[str, str]:
    directory, _, name = key.rpartition("/")
    return directory, name


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower().removeprefix(".") in IMAGE_EXTENSIONS


def _images_below(fs: FileSystem, root: str) -> dict[str, int]:
    """Sizes of all images in a folder and below it, by their path in it; hidden ones left out."""
    from fsspec.implementations.local import LocalFileSystem

    with border(redact(root)):
        if isinstance(fs, LocalFileSystem):
            return dict(_walk(root, "", ()))
        start = len(root.rstrip("/")) + 1
        found = {path[start:]: int(info["size"] or 0) for path, info in fs.find(root, detail=True).items()}
    return {
        key: size
        for key, size in found.items()
        if _is_image(key) and not any(part.startswith(".") for part in key.split("/"))
    }


def _walk(directory: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Walk a local folder through symbolic links (fsspec's own walk does not), but not round in circles."""
    real = os.path.realpath(directory)
    if real in above:
        return
    with os.scandir(directory) as listing:
        for entry in listing:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, real))
            elif _is_image(entry.name):
                # A dangling link is an image that cannot be had, not one that is not there.
                yield prefix + entry.name, entry.stat().st_size if entry.is_file() else -1


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
