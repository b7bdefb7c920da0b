"""Every method of the study by name: a function of a :class:`Study` and options (docs/methods.md has the formulas)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError
from embedstore.evaluate import heads
from embedstore.evaluate.finding import Finding, Method
from embedstore.evaluate.heads import logit_scores
from embedstore.evaluate.layers import enough, labelled_rows
from embedstore.evaluate.study import Study
from embedstore.labels import zero_shot_logits
from embedstore.metrics import accuracy
from embedstore.records import FloatArray

_CALIBRATION = 10_000  # train rows that `combined` finds the scale of its two scores on


def knn(
    study: Study,
    *,
    k: int = 1,
    metric: str = "cosine",
    reduce: str = "mean",
    temperature: float = 0.02,
    accuracy_k: int = 20,
    accuracy_temperature: float = 0.02,
) -> Finding:
    """Similarity to the nearest ID training images, no labels; its accuracy by a vote of the 20 nearest."""
    from embedstore.scores import KNNClassifier, KNNDetector

    enough(study, f"k={k}", k)
    detector = KNNDetector(k, metric, reduce, temperature, device=study.device).fit(study.train_features)
    predicted = None
    if (study.train_labels >= 0).any():
        classifier = KNNClassifier(accuracy_k, accuracy_temperature, study.device).fit(*study.labelled())
        predicted = classifier.predict(study.test_features[study.test.name])
    score = "cosine" if metric == "cosine" else "distance"
    return Finding({score: _each(detector, study.test_features)}, predicted)


def mcm(study: Study, *, temperature: float = 1.0, template: int | None = None) -> Finding:
    """Maximum concept matching (Ming et al., arXiv 2211.13445): the largest softmax probability of the cosines."""
    from embedstore.scores import msp

    logits = _zero_shot(study, _text(study, template))
    scores = {name: msp(z, temperature) for name, z in logits.items()}
    return Finding({"msp": scores}, logits[study.test.name].argmax(axis=1))


def zero_shot(
    study: Study,
    *,
    template: int | None = None,
    scores: tuple[str, ...] = ("max-logit", "energy", "entropy", "gen"),
    scaled_scores: tuple[str, ...] = ("msp", "energy", "entropy"),
) -> Finding:
    """Other scores of the cosines, with and without the model's logit scale; the accuracy of every single template."""
    logits = _zero_shot(study, _text(study, template))
    found = logit_scores(logits, scores)
    scale = study.provenance.logit_scale
    notes = () if scale is not None else (f"{study.model} has no logit scale, so there are no scaled zero-shot scores",)
    if scale is not None:
        scaled = logit_scores({name: z * scale for name, z in logits.items()}, scaled_scores)
        found |= {f"scaled-{name}": by_set for name, by_set in scaled.items()}
    details = {"template_accuracy": _template_accuracies(study)} if (study.test_labels >= 0).any() else {}
    return Finding(found, logits[study.test.name].argmax(axis=1), details=details, notes=notes)


def combined(
    study: Study, *, k: int = 1, temperature: float = 1.0, scale: str = "z", text_weight: float = 0.5
) -> Finding:
    """Maximum concept matching and nearest neighbours, brought to one scale by the ID training images and added."""
    from embedstore.scores import KNNDetector, StandardizedSum, msp

    enough(study, f"k={k} and the image itself", k + 1)
    if not 0 <= text_weight <= 1:
        raise UsageError(f"text_weight lies in [0, 1], got {text_weight}")
    detector = KNNDetector(k=k, device=study.device).fit(study.train_features)
    # Evenly spaced: few enough to be compared with all of them, and more than a mean and a deviation need.
    spaced = slice(None, None, -(-len(study.train_features) // _CALIBRATION))
    image = detector.score_left_out(spaced)
    sample = np.arange(len(study.train_features))[spaced]
    text = msp(zero_shot_logits(study.train_joint_rows(sample), study.text), temperature)
    weights = (text_weight, 1 - text_weight)
    whole = StandardizedSum(weights=weights, scale=scale).fit(np.stack([text, image], axis=1))
    logits = _zero_shot(study, study.text)
    both = {
        name: np.stack([msp(logits[name], temperature), detector.score_samples(X)], axis=1)
        for name, X in study.test_features.items()
    }
    return Finding(
        {"sum": {name: whole.score_samples(pair) for name, pair in both.items()}},
        logits[study.test.name].argmax(axis=1),
    )


def mahalanobis(
    study: Study,
    *,
    labels: str = "true",
    covariance: str = "pooled",
    ridge: float = 1e-6,
    shrinkage: str | None = None,
    normalize: bool = False,
) -> Finding:
    """Distance to the nearest class mean (Lee et al., arXiv 1807.03888)."""
    return _distance(study, labels, covariance=covariance, ridge=ridge, shrinkage=shrinkage, normalize=normalize)


def relative_mahalanobis(
    study: Study,
    *,
    labels: str = "true",
    covariance: str = "pooled",
    ridge: float = 1e-6,
    shrinkage: str | None = None,
    normalize: bool = False,
) -> Finding:
    """The same less the distance to the mean of all training images (Ren et al., arXiv 2106.09022)."""
    return _distance(
        study, labels, relative=True, covariance=covariance, ridge=ridge, shrinkage=shrinkage, normalize=normalize
    )


def kmeans_mahalanobis(
    study: Study,
    seeds: Sequence[int],
    *,
    clusters: int = 10,
    covariance: str = "pooled",
    normalize: bool = False,
) -> list[Finding]:
    """Mahalanobis distance with k-means clusters as classes; no labels (Sehwag et al., arXiv 2103.12051)."""
    from embedstore.scores import KMeansMahalanobisDetector

    enough(study, f"clusters={clusters}", max(clusters, 2))
    found = []
    for seed in seeds:
        detector = KMeansMahalanobisDetector(clusters, covariance=covariance, normalize=normalize, seed=seed)
        found.append(Finding({"distance": _each(detector.fit(study.train_features), study.test_features)}))
    return found


def prototypes(study: Study, *, labels: str = "true") -> Finding:
    """Cosine to the nearest class mean."""
    from embedstore.scores import PrototypeDetector

    detector = PrototypeDetector().fit(*labelled_rows(study, labels))
    predicted = detector.predict(study.test_features[study.test.name])
    return Finding({"cosine": _each(detector, study.test_features)}, predicted)


def residual(study: Study, *, dim: int | None = None) -> Finding:
    """Length of a feature outside the principal subspace of the ID training features; no labels."""
    from embedstore.scores import ResidualDetector

    enough(study, "a principal subspace", 2)
    detector = ResidualDetector(dim=dim).fit(study.train_features)
    return Finding({"residual": _each(detector, study.test_features)})


# Shared ---------------------------------------------------------------------------------------------------------------


def _each(detector: Any, features: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: detector.score_samples(X) for name, X in features.items()}


def _text(study: Study, template: int | None) -> FloatArray:
    """(C, D): the ensemble, or the vectors of one template (counted from 0)."""
    if template is None:
        return study.text
    vectors = study.store.template_texts(study.model, study.id_name, study.templates)
    if not 0 <= template < vectors.shape[1]:
        raise UsageError(
            f"the template set {study.templates} has templates 0 to {vectors.shape[1] - 1}, not {template}"
        )
    return vectors[:, template]


def _zero_shot(study: Study, text: FloatArray) -> dict[str, npt.NDArray[np.float64]]:
    return {name: zero_shot_logits(joint, text) for name, joint in study.test_joint.items()}


def _template_accuracies(study: Study) -> list[list[Any]]:
    """``[template, accuracy]`` of every single template on the ID test images with a label."""
    joint, templates = study.test_joint[study.test.name], study.text_info["templates"]
    found = []
    for index, template in enumerate(templates):
        guessed = zero_shot_logits(joint, _text(study, index)).argmax(axis=1)
        found.append([template, accuracy(guessed, study.test_labels)])
    return found


def _distance(study: Study, labels: str, **how: Any) -> Finding:
    from embedstore.scores import MahalanobisDetector

    X, y = labelled_rows(study, labels)
    if len(X) < 2:
        raise NotAvailable(f"{study.train.name} has a single labelled row, and a covariance needs a class with two")
    detector = MahalanobisDetector(**how).fit(X, y)
    predicted = detector.predict(study.test_features[study.test.name])
    return Finding({"distance": _each(detector, study.test_features)}, predicted)


METHODS: Mapping[str, Method] = {
    "knn": Method(knn, "cosine similarity to the nearest ID training image; no labels"),
    "mcm": Method(mcm, "softmax over the cosines to the class names; no training images", train=False, text=True),
    "zero-shot": Method(zero_shot, "other scores of the same cosines", train=False, text=True),
    "combined": Method(combined, "mcm and knn brought to one scale and added; no labels", text=True),
    "plp": Method(heads.plp, "pseudo-label probing: a linear layer on pseudo-labels", text=True, seeded=True),
    "linear": Method(heads.linear, "a linear layer on true labels, by the paper's recipe", seeded=True),
    "logistic": Method(heads.logistic, "logistic regression to convergence, L2 chosen on held-out rows", seeded=True),
    "mahalanobis": Method(mahalanobis, "distance to the nearest class mean"),
    "relative-mahalanobis": Method(relative_mahalanobis, "the same less the distance to the mean of all"),
    "kmeans-mahalanobis": Method(
        kmeans_mahalanobis, "the same with k-means clusters as classes; no labels", seeded=True
    ),
    "prototypes": Method(prototypes, "cosine to the nearest class mean"),
    "residual": Method(residual, "what lies outside the principal subspace; no labels"),
    "vim": Method(heads.vim, "virtual-logit matching", seeded=True),
    "nnguide": Method(heads.nnguide, "energy of a linear layer, guided by nearest neighbours", seeded=True),
}
