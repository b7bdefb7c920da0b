"""What a method may look at: one model, one in-distribution (ID) data set, some OOD sets, read when first asked for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError
from embedstore.evaluate.rows import gathered
from embedstore.probes import moments
from embedstore.prompts import duplicates
from embedstore.records import FAILED, FloatArray, IntArray, Result, rows_fingerprint
from embedstore.store import Images, Store

# Training features that would take more bytes as float32 lie in a temporary file instead, as they are stored.
IN_MEMORY = 4 << 30
_BLOCKS = 16  # of a split, projected at once


class Study:
    """One model, one ID data set, some OOD sets: everything a method may look at, read when first asked for.

    Parameters
    ----------
    id_name : str
    ood_names : sequence of str
        ``"name"`` (its test split) or ``"name:split"``.
    templates : str
        The prompts that make class vectors.
    train_split, test_split : str
        The ID splits to train and to test on.
    without : mapping of ``"name/split"`` to (K,) int, optional
        Rows that are left out, as if they had not been embedded: of tested splits duplicates of other images, say; of
        the ID train split images that an attack aimed at.
    in_memory : int
        Training features that would take more bytes than this as float32 are laid out in a temporary file instead and
        read from there, as they are stored. Results are the same, bit for bit.
    device : str
        ``"cpu"`` or ``"cuda"``: where layers are trained and neighbours searched.

    Attributes
    ----------
    missing : list of str
        Why OOD sets that were asked for are not in ``ood``: the model has not embedded them.
    fitted : dict
        Where methods keep what others may use again, such as trained probes.
    stored : dict
        Results of the store that hold such a probe, by what it was trained on and how.

    Raises
    ------
    UsageError
        If an OOD set is the ID data set itself, or the ID splits are one, or their labels are indices into different
        class names.
    UnknownName, NotAvailable
        If the store lacks the model, or the model has not embedded the ID test split or any of the OOD sets.
    """

    def __init__(
        self,
        store: Store,
        model: str,
        id_name: str,
        ood_names: Sequence[str],
        *,
        templates: str = "plp",
        train_split: str = "train",
        test_split: str = "test",
        without: Mapping[str, IntArray] | None = None,
        in_memory: int = IN_MEMORY,
        device: str = "cpu",
    ) -> None:
        self.store, self.model, self.id_name = store, model, id_name
        self.templates, self.without, self.in_memory = templates, dict(without or {}), in_memory
        self.device = device
        self.fitted: dict[Hashable, Any] = {}
        self.stored: dict[Hashable, Result] = {}
        self.provenance = store.provenance(model)
        if train_split == test_split:
            raise UsageError(f"{id_name}/{test_split} cannot be both what is trained on and what is tested on")
        self.train_split, self.test_split = train_split, test_split
        self.test = _finished(store, model, id_name, test_split)
        _check_labels_agree(self)
        self.ood: dict[str, Images] = {}
        self.missing: list[str] = []
        for name in ood_names:
            dataset, _, split = name.partition(":")
            split = split or "test"
            if dataset == id_name and split in (train_split, test_split):
                raise UsageError(f"{dataset}/{split} is the in-distribution data; an OOD set must be another one")
            store.rows(dataset, split)
            try:
                self.ood[f"{dataset}/{split}"] = _finished(store, model, dataset, split)
            except NotAvailable as error:
                self.missing.append(str(error))
        if not self.ood:
            raise NotAvailable(" ".join(self.missing) or "no OOD set was given; name at least one with --ood")
        empty = [name for name, images in self.tested.items() if not self.used(images).any()]
        if self._leaves_nothing_to_train_on():
            empty.append(f"{id_name}/{train_split}")
        if empty:
            raise NotAvailable(f"every finished row of {', '.join(empty)} is to be left out; nothing is left")

    def _leaves_nothing_to_train_on(self) -> bool:
        left_out = self.without.get(f"{self.id_name}/{self.train_split}")
        if left_out is None or not len(left_out) or self.has_train:
            return False
        try:
            return bool(self.train.ok.any())
        except NotAvailable:
            return False

    @property
    def tested(self) -> dict[str, Images]:
        """The ID test split and every OOD set, by ``"name/split"``."""
        return {self.test.name: self.test, **self.ood}

    def used(self, images: Images) -> npt.NDArray[np.bool_]:
        """(N,) bool: the finished rows of a split, less those of ``without``."""
        rows = images.ok.copy()
        rows[np.asarray(self.without.get(images.name, []), dtype=np.int64)] = False
        return rows

    def rows_left_out(self, *, train: bool = False) -> int:
        """How many finished rows of the tested splits, or of the train split, ``without`` leaves out."""
        splits = self.tested.values() if not train else [self.train] if self.has_train else []
        return sum(int(images.ok.sum() - self.used(images).sum()) for images in splits)

    # Training -------------------------------------------------------------------------------------------------------

    @cached_property
    def train(self) -> Images:
        """The ID train split."""
        if not self.store.holds(self.id_name, self.train_split):
            raise NotAvailable(f"{self.id_name} has no {self.train_split} split in the store")
        return _finished(self.store, self.model, self.id_name, self.train_split)

    @cached_property
    def has_train(self) -> bool:
        """Whether the model has finished rows of the ID train split."""
        try:
            return bool(self.train_rows.any())
        except NotAvailable:
            return False

    @cached_property
    def train_rows(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: the rows of the ID train split that are finished and not left out."""
        return self.used(self.train)

    @cached_property
    def train_features(self) -> FloatArray:
        """(M, Dp) float32; where that is too large a read-only map of a temporary file, in the stored dtype."""
        return self._training(self.train_rows)

    @cached_property
    def train_labels(self) -> IntArray:
        """(M,) int32 of these rows, -1 where unknown."""
        return self.train.labels[self.train_rows]

    def labelled(self) -> tuple[FloatArray, IntArray]:
        """Train features and labels of the rows whose label is known; :class:`NotAvailable` if there is none."""
        known = self.train_labels >= 0
        if not known.any():
            raise NotAvailable(f"{self.train.name} has no labels")
        if known.all():
            return self.train_features, self.train_labels.astype(np.int64)
        return self._labelled_features, self.train_labels[known].astype(np.int64)

    @cached_property
    def _labelled_features(self) -> FloatArray:
        return self._training(self.train_rows & (self.train.labels >= 0))

    def feature_moments(self, *, labelled: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and deviation of every train feature, (Dp,) each; over the labelled rows alone if asked for."""
        if ("moments", labelled) not in self.fitted:
            self.fitted["moments", labelled] = moments(self.labelled()[0] if labelled else self.train_features)
        mean, scale = self.fitted["moments", labelled]
        return mean, scale

    def train_joint(self) -> Iterator[FloatArray]:
        """The train rows in the joint space, some blocks at a time: (n, D) float32."""
        rows = self.train.rows.block_rows * _BLOCKS
        for start in range(0, len(self.train), rows):
            part = slice(start, min(start + rows, len(self.train)))
            yield self.train.projected(part)[self.train_rows[part]]

    def train_joint_rows(self, index: IntArray) -> FloatArray:
        """(n, D) float32: some of the train rows, by ascending place among those that are used, in the joint space."""
        found, first = [], 0
        for part in self.train_joint():
            here = index[(index >= first) & (index < first + len(part))]
            found.append(part[here - first])
            first += len(part)
        return np.concatenate(found)

    def _training(self, rows: npt.NDArray[np.bool_]) -> FloatArray:
        """Features of these of the finished rows."""
        parts = (
            self.train.finite(self.train.part("features", start, stop)[rows[start:stop]])
            for _, start, stop in self.train.rows.blocks()
        )
        stored = self.train.features
        return gathered(parts, (int(rows.sum()), stored.shape[1]), stored.dtype, self.in_memory)

    # Testing --------------------------------------------------------------------------------------------------------

    @cached_property
    def test_features(self) -> dict[str, FloatArray]:
        """(M, Dp) float32 of each tested split."""
        return {name: images.embedded()[self.used(images)[images.ok]] for name, images in self.tested.items()}

    @cached_property
    def test_joint(self) -> dict[str, FloatArray]:
        """(M, D) float32 of each tested split."""
        return {name: images.projected()[self.used(images)] for name, images in self.tested.items()}

    @cached_property
    def test_labels(self) -> IntArray:
        """(M,) int32 of the ID test rows, -1 where unknown."""
        return self.test.labels[self.used(self.test)]

    def test_class_names(self, at_least: int) -> list[str]:
        """Names of the classes that ID test labels are indices into; numbers where nobody knows the names."""
        names = list(self.test.class_names or (self.train.class_names if self.has_train else None) or ())
        return names + [str(label) for label in range(len(names), at_least)]

    # Prompts --------------------------------------------------------------------------------------------------------

    @cached_property
    def text(self) -> FloatArray:
        """(C, D) float32: the ID classes' prompts, ensembled."""
        return self.store.texts(self.model, self.id_name, self.templates)

    @cached_property
    def text_info(self) -> dict[str, Any]:
        """``names`` (C) and ``templates`` (P) of the ID classes' prompts."""
        return self.store.text_info(self.model, self.id_name, self.templates)

    @property
    def class_names(self) -> list[str]:
        """Of the ID data set; class numbers where nobody knows the names."""
        if self.train.class_names is not None:
            return list(self.train.class_names)
        return [str(label) for label in range(int(self.train_labels.max()) + 1)]

    # What results say of it -----------------------------------------------------------------------------------------

    def fingerprints(self, *, train: bool = True, text: bool = True) -> dict[str, str]:
        """Of everything that a method may have read: the model, the tested splits, and if so the others."""
        used = {f"images/{name}": images.fingerprint for name, images in self.tested.items()}
        used |= self.training_fingerprints(train=train, text=text)
        return used | self._left_out_of(self.tested)

    def training_fingerprints(self, *, train: bool = True, text: bool = True) -> dict[str, str]:
        """Of everything but what is tested."""
        used = {"model": self.store.fingerprint(self.model)}
        if train and self.has_train:
            used[f"images/{self.train.name}"] = self.train.fingerprint
            used |= self._left_out_of([self.train.name])
        if text and self._has_text():
            used[f"texts/{self.id_name}/{self.templates}"] = self.text_info["fingerprint"]
        return used

    def _left_out_of(self, names: Iterable[str]) -> dict[str, str]:
        """A fingerprint of the rows that are left out of each of these splits, where there are any."""
        rows = {name: self.without.get(name, ()) for name in sorted(names)}
        return {f"without/{name}": rows_fingerprint(those) for name, those in rows.items() if len(those)}

    def notes(self) -> Iterator[str]:
        """Rows that are not there, and names that two classes share."""
        splits = [*self.tested.values(), *([self.train] if self.has_train else [])]
        for images in splits:
            finished, failed = int(images.ok.sum()), int((images.status == FAILED).sum())
            if finished < len(images):
                yield (
                    f"{images.name}: {finished:,} of {len(images):,} rows are used "
                    f"({len(images) - finished - failed:,} pending, {failed:,} failed)"
                )
            left_out = finished - int(self.used(images).sum())
            if left_out:
                why = "" if self.has_train and images is self.train else " as duplicates"
                yield f"{images.name}: {left_out:,} of {finished:,} finished rows are left out{why}"
        if self._has_text():
            for name, classes in duplicates(self.text_info["names"]):
                yield f"classes {classes} are all called {name!r}: no image can be told to be any but the first of them"

    def _has_text(self) -> bool:
        return self.templates in self.store.class_sets(self.model).get(self.id_name, ())


def _check_labels_agree(study: Study) -> None:
    if not study.has_train:
        return
    train, test = study.train.class_names, study.test.class_names
    if train is not None and test is not None and train != test:
        raise UsageError(
            f"{study.train.name} has the classes {_some(train)} and {study.test.name} {_some(test)}, so that a label "
            f"means another class in each; extract them with the same class names, under another --dataset name"
        )


def _some(names: Sequence[str], most: int = 5) -> str:
    return f"{len(names):,} ({', '.join(names[:most])}{' …' if len(names) > most else ''})"


def _finished(store: Store, model: str, dataset: str, split: str) -> Images:
    """Embeddings of a split with at least one finished row; :class:`NotAvailable` otherwise."""
    images = store.images(model, dataset, split)
    if not images.ok.any():
        raise NotAvailable(
            f"{images.name} has no finished rows for {model}; run `embedstore extract` again, or with --retry-failed "
            "if its images failed"
        )
    return images
