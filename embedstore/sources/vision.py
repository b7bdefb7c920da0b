"""Images from torchvision's data sets: ``torchvision:CIFAR10``, ``torchvision:DTD@/data``."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from embedstore.errors import ImageError, SourceError, UnknownName, UsageError, scrub
from embedstore.records import IntArray, Rows
from embedstore.sources.base import Payload
from embedstore.sources.classes import check_label, read_classes
from embedstore.sources.naming import DEFAULT_SPLIT, check_name, known_split, same_split
from embedstore.sources.places import FILE_ERRORS

PREFIX = "torchvision:"

# Those of torchvision's that give (image, class index) and need no more than a root and a split.
DATASETS = (
    "CIFAR10",
    "CIFAR100",
    "CLEVRClassification",
    "Caltech101",
    "Caltech256",
    "Country211",
    "DTD",
    "EuroSAT",
    "FER2013",
    "FGVCAircraft",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "GTSRB",
    "ImageNet",
    "Imagenette",
    "KMNIST",
    "LFWPeople",
    "MNIST",
    "OxfordIIITPet",
    "PCAM",
    "Places365",
    "QMNIST",
    "RenderedSST2",
    "SEMEION",
    "STL10",
    "SUN397",
    "SVHN",
    "StanfordCars",
    "USPS",
)

# Where torchvision's data sets keep labels as a plain column; without one, every image is decoded to learn its label.
_LABEL_COLUMNS = ("targets", "labels", "_labels", "y")
_SAMPLE_COLUMNS = ("samples", "_samples")


class VisionSource:
    """One split of a torchvision data set; made by :func:`embedstore.sources.open_source`.

    The torchvision object is made when it is first needed, in each process anew: pickling would copy the images.
    """

    def __init__(
        self, name: str, root: str, *, dataset: str, split: str, class_names: tuple[str, ...] | None = None
    ) -> None:
        self.dataset = dataset
        self.split = split
        self._name = name
        self._root = root
        self._class_names = class_names
        self._data: Any = None

    def __repr__(self) -> str:
        return f"<VisionSource {PREFIX}{self._name}: {self.dataset}/{self.split}>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the torchvision object behind; see the class."""
        return {**self.__dict__, "_data": None}

    def scan(self, limit: int | None = None) -> Rows:
        """List one row per image, keyed by its eight-digit index; downloads the data set if it is missing.

        Raises
        ------
        SourceError
            The data set is neither there nor to be had.
        UsageError
            It has no such split; the message lists those that it has.
        """
        data = self._loaded()
        labels = _labels(data)
        names = self._class_names or _class_names(data)
        for label in np.unique(labels):
            check_label(int(label), names, f"{PREFIX}{self._name}")
        n = len(labels)
        return Rows(
            keys=[f"{index:08d}" for index in range(n)],
            labels=labels,
            shard=np.full(n, -1, dtype=np.int32),
            offset=np.full(n, -1, dtype=np.int64),
            length=np.full(n, -1, dtype=np.int64),
            shards=(),
            class_names=names,
            source=f"{PREFIX}{self._name}",
        ).part(0, limit)

    def read(self, rows: Rows, start: int, stop: int) -> Iterator[Payload]:
        """Yield each row's image as torchvision gives it, untransformed."""
        data = self._loaded()
        keys = rows.keys[start:stop]
        if keys and len(data) <= int(keys[-1]):  # more is no contradiction: the rows may be the first ones of a scan
            raise SourceError(
                f"{PREFIX}{self._name} has {len(data)} images in split {self.split!r} now, but number {int(keys[-1])} "
                f"was listed"
            )
        for key in keys:
            yield self._image(data, key)

    def _image(self, data: Any, key: str) -> Payload:
        try:
            image: Payload = data[int(key)][0]
            image.load()  # type: ignore[union-attr]  # some data sets open the file and leave reading it for later
        # One damaged file must not stop the others, and what it makes torchvision raise is Pillow's business.
        except Exception as exc:
            # Without the folder: a record of failures must not differ between the machines that made it.
            text = scrub(str(exc)).replace(self._root + os.sep, "").replace(self._root, "")
            reason = f"{key}: {type(exc).__name__}: {text}"
            # Pillow, too, raises OSError for damaged images, but only the system's own errors have a number.
            if isinstance(exc, OSError) and exc.errno is not None and not isinstance(exc, FILE_ERRORS):
                raise SourceError(f"cannot read {PREFIX}{self._name}: {reason}") from exc
            return ImageError(reason)
        return image

    def captions(self, rows: Rows, start: int, stop: int, extension: str) -> Iterator[str | None]:
        """Raise UsageError: torchvision's classification data sets have no captions."""
        raise UsageError(f"{PREFIX}{self._name} has no captions; leave --captions out")

    def _loaded(self) -> Any:
        if self._data is None:
            self._data = _load(self._name, self._root, self.split)
        return self._data


def _load(name: str, root: str, split: str) -> Any:
    """Make the torchvision object, from files that are there or else by downloading them."""
    import torchvision.datasets

    make = getattr(torchvision.datasets, name)
    parameters = inspect.signature(make).parameters
    reasons = []
    for choice in _choices(name, parameters, split):
        arguments = {"root": root, **choice}
        try:
            return _make(make, {**arguments, **({"download": False} if "download" in parameters else {})})
        except ValueError as exc:  # how torchvision refuses the name of a split
            reasons.append(exc)
            continue
        # Missing files: each of the thirty classes says so in its own way.
        except Exception as exc:
            return _download(name, make, arguments, exc, "download" in parameters)
    raise UsageError(f"{PREFIX}{name} has no split {split!r}: {reasons[0]}") from reasons[0]


def _download(name: str, make: Any, arguments: dict[str, Any], missing: Exception, can: bool) -> Any:
    wanted = f"{PREFIX}{name} is not in {arguments['root']} (looked there first: {missing})"
    advice = f"put torchvision's files there, or give their root as {PREFIX}{name}@/its/root or in EMBEDSTORE_DATA"
    if not can:
        raise SourceError(f"{wanted}, and torchvision cannot download it: {advice}") from missing
    try:
        return _make(make, {**arguments, "download": True})
    # No network, a moved file, a full disk, a missing unpacker: anything at all.
    except Exception as exc:
        raise SourceError(f"{wanted}, and downloading failed: {type(exc).__name__}: {exc}; {advice}") from exc


def _make(make: Any, arguments: dict[str, Any]) -> Any:
    # torchvision reports downloads on stdout, which belongs to `--json`.
    with contextlib.redirect_stdout(sys.stderr):
        return make(**arguments)


def _choices(name: str, parameters: Any, split: str) -> list[dict[str, Any]]:
    """The ways to ask a constructor for a split, likeliest first."""
    if "train" in parameters:
        known = known_split(split)
        if known not in ("train", "test"):
            raise UsageError(f"{PREFIX}{name} has no split {split!r}; it has 'train' and 'test'")
        return [{"train": known == "train"}]
    if "split" not in parameters:
        return [{}]  # the data set is one piece, and the split only what to call it
    others = [other for other in ("val", "valid", "validation", "test", "train") if same_split(other, split)]
    return [{"split": other} for other in dict.fromkeys([split, *others])]


def _labels(data: Any) -> IntArray:
    """Class indices, (N,) int32, -1 where torchvision says None."""
    n = len(data)
    columns = [getattr(data, name, None) for name in _LABEL_COLUMNS]
    columns += [
        [s[1] for s in getattr(data, name)] for name in _SAMPLE_COLUMNS if isinstance(getattr(data, name, None), list)
    ]
    for column in columns:
        # Some columns that are called labels hold several numbers for each image (QMNIST's do).
        if column is not None and len(column) == n and all(np.ndim(value) == 0 for value in column[:1]):
            return np.array([-1 if value is None else int(value) for value in column], dtype=np.int32)
    return np.array([int(data[index][1]) for index in range(n)], dtype=np.int32)


def _class_names(data: Any) -> tuple[str, ...] | None:
    names = getattr(data, "classes", None) or getattr(data, "categories", None)
    if not names:
        return None
    # ImageNet gives a tuple of synonyms for each class.
    return tuple(name if isinstance(name, str) else str(name[0]) for name in names)


def open_vision(spec: str, *, dataset: str | None, split: str | None, classes: str | None) -> VisionSource:
    """Make a source of ``torchvision:NAME`` or ``torchvision:NAME@ROOT``; touches no file.

    Raises
    ------
    UnknownName
        No such data set, or one that does not give images with class indices.
    """
    name, _, root = spec.removeprefix(PREFIX).partition("@")
    if name not in DATASETS:
        raise UnknownName("torchvision data set", name, DATASETS)
    root = root or os.environ.get("EMBEDSTORE_DATA") or os.path.join("~", ".cache", "embedstore", "data")
    return VisionSource(
        name,
        os.path.abspath(os.path.expanduser(root)),
        dataset=check_name("data set", dataset) if dataset else name.lower(),
        split=check_name("split", split) if split else DEFAULT_SPLIT,
        class_names=read_classes(classes) if classes else None,
    )
