"""Run classifiers and OOD scores on cached features. No model and no image is touched.

Each method is a function from a :class:`Study` to a :class:`Finding`; ``METHODS`` is the list of them. A method that
lacks something (labels, prompts, a train split) raises :class:`NotAvailable`, and the result says why it is absent
while the others run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.labels import pseudo_labels, zero_shot_logits
from embedstore.metrics import accuracy, ood_metrics
from embedstore.prompts import duplicates
from embedstore.records import FAILED, FloatArray, IntArray, Result
from embedstore.store import Images, Store

# The recipe's batch sizes (protocol of the paper's code): 256 on CIFAR, 8,192 on ImageNet.
_LARGE_TRAINING_SET, _BATCH, _LARGE_BATCH = 500_000, 256, 8192


@dataclass(frozen=True)
class Finding:
    """What a method computes: ``scores[score][set]`` is (M,) over the finished rows of ``"name/split"``.

    ``predicted`` is the (M,) class of each ID test row by the classifier behind the method, where there is one.
    """

    scores: Mapping[str, Mapping[str, FloatArray]]
    params: Mapping[str, Any] = field(default_factory=dict)
    predicted: npt.NDArray[Any] | None = None
    weights: Mapping[str, FloatArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Study:
    """One model, one ID data set, some OOD sets: everything a method may look at, read when first asked for.

    Parameters
    ----------
    id_name : str
        Trains on its ``train`` split and tests on its ``test`` split.
    ood_names : sequence of str
        ``"name"`` (its test split) or ``"name:split"``.

    Raises
    ------
    UsageError
        If an OOD set is the ID data set itself, or the ID splits' labels are indices into different class names.
    UnknownName, NotAvailable
        If the store lacks the model, or the model has not embedded the ID test split or any of the OOD sets.
    """

    def __init__(
        self, store: Store, model: str, id_name: str, ood_names: Sequence[str], *, seed: int = 0, templates: str = "plp"
    ) -> None:
        self.store, self.model, self.id_name = store, model, id_name
        self.seed, self.templates = seed, templates
        store.provenance(model)
        self.test = _finished(store, model, id_name, "test")
        _check_labels_agree(self)
        self.ood: dict[str, Images] = {}
        self.missing: list[str] = []
        for name in ood_names:
            dataset, _, split = name.partition(":")
            split = split or "test"
            if dataset == id_name and split in ("train", "test"):
                raise UsageError(f"{dataset}/{split} is the in-distribution data; an OOD set must be another one")
            store.rows(dataset, split)
            try:
                self.ood[f"{dataset}/{split}"] = _finished(store, model, dataset, split)
            except NotAvailable as error:
                self.missing.append(str(error))
        if not self.ood:
            raise NotAvailable(" ".join(self.missing) or "no OOD set was given; name at least one with --ood")

    @property
    def tested(self) -> dict[str, Images]:
        """The ID test split and every OOD set, by ``"name/split"``."""
        return {self.test.name: self.test, **self.ood}

    @cached_property
    def train(self) -> Images:
        """The ID train split."""
        if "train" not in self.store.datasets()[self.id_name]:
            raise NotAvailable(f"{self.id_name} has no train split in the store")
        return _finished(self.store, self.model, self.id_name, "train")

    @cached_property
    def train_features(self) -> FloatArray:
        """(M, Dp) float32."""
        return self.train.embedded()

    @cached_property
    def train_labels(self) -> IntArray:
        """(M,) int32 of the finished rows, -1 where unknown."""
        return self.train.labels[self.train.ok]

    @cached_property
    def test_features(self) -> dict[str, FloatArray]:
        """(M, Dp) float32 of each tested split."""
        return {name: images.embedded() for name, images in self.tested.items()}

    @cached_property
    def text(self) -> FloatArray:
        """(C, D) float32: the ID classes' prompts, ensembled."""
        return self.store.texts(self.model, self.id_name, self.templates)

    def labelled(self) -> tuple[FloatArray, IntArray]:
        """Train features and labels of the rows whose label is known; :class:`NotAvailable` if there is none."""
        known = self.train_labels >= 0
        if not known.any():
            raise NotAvailable(f"{self.train.name} has no labels")
        return self.train_features[known], self.train_labels[known].astype(np.int64)

    def fingerprints(self) -> dict[str, str]:
        """Of everything that a method may have read."""
        used = {"model": self.store.fingerprint(self.model)}
        splits = dict(self.tested)
        if self.model_has("train"):
            splits[self.train.name] = self.train
        used |= {f"images/{name}": images.fingerprint for name, images in splits.items()}
        if self.templates in self.store.class_sets(self.model).get(self.id_name, ()):
            text = self.store.text_info(self.model, self.id_name, self.templates)
            used[f"texts/{self.id_name}/{self.templates}"] = text["fingerprint"]
        return used

    def model_has(self, split: str) -> bool:
        """Whether the model has finished rows of this split of the ID data set."""
        try:
            _finished(self.store, self.model, self.id_name, split)
        except (NotAvailable, UnknownName):
            return False
        return True

    def notes(self) -> Iterator[str]:
        """Rows and sets that are not there."""
        splits = [*self.tested.values(), *([self.train] if self.model_has("train") else [])]
        for images in splits:
            finished, failed = int(images.ok.sum()), int((images.status == FAILED).sum())
            if finished < len(images):
                yield (
                    f"{images.name}: {finished:,} of {len(images):,} rows are used "
                    f"({len(images) - finished - failed:,} pending, {failed:,} failed)"
                )
        yield from self.missing
        if self.templates in self.store.class_sets(self.model).get(self.id_name, ()):
            names = self.store.text_info(self.model, self.id_name, self.templates)["names"]
            for name, classes in duplicates(names):
                yield f"classes {classes} are all called {name!r}: no image can be told to be any but the first of them"


def run_methods(study: Study, methods: Sequence[str] | None = None) -> Iterator[Result]:
    """Run methods, one :class:`Result` each, in the order of ``METHODS``.

    Raises
    ------
    UnknownName
        If there is no such method.
    """
    for name in methods or ():
        if name not in METHODS:
            raise UnknownName("method", name, METHODS)
    inputs, notes = study.fingerprints(), tuple(study.notes())
    for name, method in METHODS.items():
        if methods and name not in methods:
            continue
        began = time.perf_counter()
        absent, finding = None, Finding(scores={})
        try:
            finding = method(study)
        except (NotAvailable, UsageError) as error:
            absent = str(error)
        yield Result(
            model=study.model,
            id_dataset=study.id_name,
            method=name,
            params={"seed": study.seed, "templates": study.templates, **finding.params},
            inputs=inputs,
            id_accuracy=_id_accuracy(study, finding),
            metrics=_metrics(study, finding),
            absent=absent,
            scores=_by_row(study, finding),
            weights=finding.weights,
            notes=notes + finding.notes,
            seconds=time.perf_counter() - began,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            version=version("embedstore"),
        )


# The methods ----------------------------------------------------------------------------------------------------------


def _knn(study: Study) -> Finding:
    from embedstore.scores import KNNClassifier, KNNDetector

    detector = KNNDetector(k=1).fit(study.train_features)
    predicted = None
    if (study.train_labels >= 0).any():
        classifier = KNNClassifier(k=20, temperature=0.02).fit(*study.labelled())
        predicted = classifier.predict(study.test_features[study.test.name])
    scores = {name: detector.score_samples(X) for name, X in study.test_features.items()}
    return Finding({"cosine": scores}, {"k": 1, "accuracy_k": 20, "accuracy_temperature": 0.02}, predicted)


def _mcm(study: Study) -> Finding:
    from embedstore.scores import msp

    logits = {
        name: zero_shot_logits(images.projected()[images.ok], study.text) for name, images in study.tested.items()
    }
    scores = {name: msp(values) for name, values in logits.items()}
    return Finding({"msp": scores}, {"temperature": 1.0}, logits[study.test.name].argmax(axis=1))


def _plp(study: Study) -> Finding:
    text = study.text
    labels = pseudo_labels(study.train.projected()[study.train.ok], text)
    names = study.store.text_info(study.model, study.id_name, study.templates)["names"]
    return _probe(study, study.train_features, labels, names, "no train image with their pseudo-label")


def _linear(study: Study) -> Finding:
    X, labels = study.labelled()
    names = study.train.class_names or [str(label) for label in range(int(labels.max()) + 1)]
    return _probe(study, X, labels, names, "no train image")


def _probe(study: Study, X: FloatArray, labels: IntArray, names: Sequence[str], what_is_empty: str) -> Finding:
    from embedstore.probes import LinearProbe
    from embedstore.scores import LOGIT_SCORES

    n_classes = len(names)
    batch_size = _LARGE_BATCH if len(X) >= _LARGE_TRAINING_SET else _BATCH
    probe = LinearProbe(n_classes=n_classes, batch_size=batch_size, seed=study.seed).fit(X, labels)
    logits = {name: probe.decision_function(features) for name, features in study.test_features.items()}
    scores = {score: {name: LOGIT_SCORES[score](z) for name, z in logits.items()} for score in ("msp", "energy")}
    empty = [names[index] for index in np.flatnonzero(np.bincount(labels, minlength=n_classes) == 0).tolist()]
    notes = (
        (f"{len(empty)} of {n_classes} classes have {what_is_empty}: {', '.join(map(repr, empty[:10]))}",)
        if empty
        else ()
    )
    weights: dict[str, FloatArray] = {
        "coef": probe.coef_,
        "intercept": probe.intercept_,
        "mean": probe.mean_,
        "scale": probe.scale_,
    }
    predicted = logits[study.test.name].argmax(axis=1)
    return Finding(scores, probe.get_params(), predicted, weights, notes)


def _mahalanobis(study: Study) -> Finding:
    return _distance(study, relative=False)


def _relative_mahalanobis(study: Study) -> Finding:
    return _distance(study, relative=True)


def _distance(study: Study, *, relative: bool) -> Finding:
    from embedstore.scores import MahalanobisDetector

    X, labels = study.labelled()
    if len(X) < 2:
        raise NotAvailable(f"{study.train.name} has a single labelled row, and a covariance needs a class with two")
    detector = MahalanobisDetector(relative=relative).fit(X, labels)
    scores = {name: detector.score_samples(X) for name, X in study.test_features.items()}
    predicted = detector.predict(study.test_features[study.test.name])
    return Finding({"distance": scores}, detector.get_params(), predicted)


METHODS: dict[str, Callable[[Study], Finding]] = {
    "knn": _knn,
    "mcm": _mcm,
    "plp": _plp,
    "linear": _linear,
    "mahalanobis": _mahalanobis,
    "relative-mahalanobis": _relative_mahalanobis,
}

# From findings to results ---------------------------------------------------------------------------------------------


def _id_accuracy(study: Study, finding: Finding) -> float | None:
    labels = study.test.labels[study.test.ok]
    if finding.predicted is None or not (labels >= 0).any():
        return None
    return accuracy(finding.predicted, labels)


def _metrics(study: Study, finding: Finding) -> dict[str, dict[str, dict[str, float]]]:
    return {
        score: {name: ood_metrics(by_set[study.test.name], by_set[name]) for name in study.ood}
        for score, by_set in finding.scores.items()
    }


def _by_row(study: Study, finding: Finding) -> dict[str, FloatArray]:
    """Scores of finished rows, spread over all rows of their split."""
    spread: dict[str, FloatArray] = {}
    for score, by_set in finding.scores.items():
        for name, values in by_set.items():
            images = study.tested[name]
            column = np.full(len(images), np.nan)
            column[images.ok] = values
            spread[f"{score}/{name}"] = column
    return spread


def _check_labels_agree(study: Study) -> None:
    if not study.model_has("train"):
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
