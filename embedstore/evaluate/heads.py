"""Methods that need a linear layer on frozen features: probing, PLP, logistic regression, ViM, NNGuide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from embedstore.errors import NotAvailable, UnknownName, UsageError
from embedstore.evaluate.finding import Finding
from embedstore.evaluate.layers import (
    LARGE_TRAINING_SET,
    Recipe,
    class_names,
    enough,
    layers,
    pseudo_labels_of,
    training,
)
from embedstore.evaluate.study import Study
from embedstore.labels import agreement, class_agreement
from embedstore.probes import LinearProbe, LogisticProbe
from embedstore.records import FloatArray, IntArray


def plp(
    study: Study,
    seeds: Sequence[int],
    *,
    labels: str = "pseudo",
    threshold: float = 0.0,
    temperature: float | None = None,
    shots: int | None = None,
    balanced: bool = False,
    epochs: int = 100,
    batch_size: int = 0,
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    scores: tuple[str, ...] = ("msp", "energy"),
    logit_distance: bool | None = False,
) -> list[Finding]:
    """Pseudo-label probing (Adaloglou et al., arXiv 2303.05828)."""
    if labels == "true":
        raise UsageError(
            "plp trains on pseudo-labels ('pseudo' or 'soft'); the method that trains on true ones is linear"
        )
    recipe = Recipe(labels, threshold, temperature, shots, balanced, epochs, batch_size, lr, weight_decay)
    return _probed(study, seeds, recipe, scores, logit_distance)


def linear(
    study: Study,
    seeds: Sequence[int],
    *,
    shots: int | None = None,
    balanced: bool = False,
    epochs: int = 100,
    batch_size: int = 0,
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    scores: tuple[str, ...] = ("msp", "energy"),
    logit_distance: bool | None = False,
) -> list[Finding]:
    """A linear layer trained on the true labels, by the paper's recipe."""
    recipe = Recipe("true", 0.0, None, shots, balanced, epochs, batch_size, lr, weight_decay)
    return _probed(study, seeds, recipe, scores, logit_distance)


def logistic(
    study: Study,
    seeds: Sequence[int],
    *,
    labels: str = "true",
    l2: float | None = None,
    shots: int | None = None,
    scores: tuple[str, ...] = ("msp", "energy"),
) -> list[Finding]:
    """Logistic regression to convergence, its L2 penalty chosen on held-out training rows."""
    found = []
    for seed in seeds:
        rows, codes, soft = training(study, Recipe(labels, shots=shots), seed)
        if soft is not None:
            raise UsageError("logistic trains on 'true' or 'pseudo' labels; soft ones are for plp")
        names, scale = class_names(study, labels), study.feature_moments(labelled=labels == "true")
        probe = LogisticProbe(n_classes=len(names), l2=l2, seed=seed, device=study.device)
        probe.fit(rows, codes, moments=scale)
        logits = {name: probe.decision_function(features) for name, features in study.test_features.items()}
        counts = np.bincount(codes, minlength=len(names)).tolist()
        notes = _empty(study, labels, counts) + _short(shots, counts)
        details = {"l2": float(probe.l2_), "trained_on": counts}
        found.append(_finding(study, logits, scores, weights_of(probe), details, notes))
    return found


def vim(study: Study, seeds: Sequence[int], *, labels: str = "true", dim: int | None = None) -> list[Finding]:
    """Virtual-logit matching (Wang et al., arXiv 2203.10807) with a layer of the paper's recipe."""
    from embedstore.scores import ViMDetector

    enough(study, "a principal subspace", 2)
    found = []
    for layer in layers(study, seeds, Recipe(labels)):
        coef, intercept = raw_weights(layer.probe)
        detector = ViMDetector(coef, intercept, dim=dim).fit(study.train_features)
        found.append(_scored(study, "vim", detector, layer.probe))
    return found


def nnguide(study: Study, seeds: Sequence[int], *, labels: str = "true", k: int = 10) -> list[Finding]:
    """Nearest-neighbour guidance (Park et al., arXiv 2309.14888) of the energy of a layer of the paper's recipe."""
    from embedstore.scores import NNGuideDetector

    enough(study, f"k={k}", k)
    found = []
    for layer in layers(study, seeds, Recipe(labels)):
        coef, intercept = raw_weights(layer.probe)
        detector = NNGuideDetector(coef, intercept, k=k, device=study.device).fit(study.train_features)
        found.append(_scored(study, "guided-energy", detector, layer.probe))
    return found


# Shared ---------------------------------------------------------------------------------------------------------------


def raw_weights(probe: LinearProbe) -> tuple[FloatArray, FloatArray]:
    """(C, Dp) and (C,) float64: the layer on features as they are, the standardisation taken into the weights."""
    coef = probe.coef_.astype(np.float64) / probe.scale_
    return coef, probe.intercept_.astype(np.float64) - coef @ probe.mean_


def weights_of(probe: LinearProbe | LogisticProbe) -> dict[str, FloatArray]:
    """What is kept of a trained layer."""
    return {"coef": probe.coef_, "intercept": probe.intercept_, "mean": probe.mean_, "scale": probe.scale_}


def _probed(
    study: Study, seeds: Sequence[int], recipe: Recipe, scores: tuple[str, ...], logit_distance: bool | None
) -> list[Finding]:
    found = []
    for seed, layer in zip(seeds, layers(study, seeds, recipe), strict=True):
        logits = {name: layer.probe.decision_function(features) for name, features in study.test_features.items()}
        details: dict[str, Any] = {"trained_on": list(layer.rows)}
        if recipe.labels != "true":
            details |= _agreement(study)
        notes = _empty(study, recipe.labels, layer.rows) + _short(recipe.shots, layer.rows)
        finding = _finding(study, logits, scores, weights_of(layer.probe), details, notes)
        if logit_distance or (logit_distance is None and sum(layer.rows) < LARGE_TRAINING_SET):
            rows, codes, _ = training(study, recipe, seed)
            finding = _with_logit_distances(finding, logits, layer.probe.decision_function(rows), codes)
        found.append(finding)
    return found


def _finding(
    study: Study,
    logits: Mapping[str, FloatArray],
    names: tuple[str, ...],
    weights: Mapping[str, FloatArray],
    details: Mapping[str, Any],
    notes: tuple[str, ...],
) -> Finding:
    return Finding(logit_scores(logits, names), logits[study.test.name].argmax(axis=1), weights, details, notes)


def logit_scores(logits: Mapping[str, FloatArray], names: tuple[str, ...]) -> dict[str, dict[str, FloatArray]]:
    """Scores of logits by name; ``("all",)`` for all that there are."""
    from embedstore.scores import LOGIT_SCORES

    chosen = tuple(LOGIT_SCORES) if names == ("all",) else names
    for name in chosen:
        if name not in LOGIT_SCORES:
            raise UnknownName("score", name, LOGIT_SCORES)
    return {name: {split: LOGIT_SCORES[name](z) for split, z in logits.items()} for name in chosen}


def _with_logit_distances(
    finding: Finding, logits: Mapping[str, FloatArray], train: FloatArray, codes: IntArray
) -> Finding:
    """Mahalanobis distances of *logits*, which is what the released code computes for probes (protocol 5.3)."""
    from embedstore.scores import MahalanobisDetector

    more, notes = {}, finding.notes
    for name, relative in (("logit-distance", False), ("relative-logit-distance", True)):
        try:
            detector = MahalanobisDetector(relative=relative, covariance="class-mean", ridge=0.0).fit(train, codes)
        except NotAvailable as error:  # of more classes than features, say; the other scores need none
            notes += (f"no {name}: {error}",)
            continue
        more[name] = {split: detector.score_samples(z) for split, z in logits.items()}
    return replace(finding, scores={**finding.scores, **more}, notes=notes)


def _scored(study: Study, score: str, detector: Any, probe: LinearProbe) -> Finding:
    scores = {name: detector.score_samples(features) for name, features in study.test_features.items()}
    return Finding({score: scores}, probe.predict(study.test_features[study.test.name]))


def _agreement(study: Study) -> dict[str, Any]:
    """How many pseudo-labels are the true ones, in all and by class, where true labels are known."""
    known = study.train_labels >= 0
    names = study.text_info["names"]
    if not known.any() or study.train_labels.max() >= len(names):
        return {}
    pseudo, true = pseudo_labels_of(study)[known], study.train_labels[known]
    by_class = class_agreement(pseudo, true, len(names))
    each = [[name, None if np.isnan(value) else value] for name, value in zip(names, by_class.tolist(), strict=True)]
    return {"agreement": agreement(pseudo, true), "class_agreement": each}


def _short(shots: int | None, rows: Sequence[int]) -> tuple[str, ...]:
    few = [count for count in rows if shots is not None and count < shots]
    return (
        (f"{len(few)} of {len(rows)} classes have fewer than {shots} train images; all of them are used",)
        if few
        else ()
    )


def _empty(study: Study, labels: str, rows: Sequence[int]) -> tuple[str, ...]:
    names = class_names(study, labels)
    empty = [name for name, count in zip(names, rows, strict=True) if not count]
    what = "no train image" if labels == "true" else "no train image with their pseudo-label"
    shown = ", ".join(map(repr, empty[:10])) + (" …" if len(empty) > 10 else "")
    return (f"{len(empty)} of {len(names)} classes have {what}: {shown}",) if empty else ()
