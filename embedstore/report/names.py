"""What a table row is called, what it means, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

# The order in which a reader meets the methods, with what he needs in order to read a row and what the method had to
# know. The same order and names as in `embedstore probe`.
_METHODS = {
    "knn": "cosine similarity to the nearest ID training image, without labels. Its ID accuracy is by a vote of the "
    "20 nearest.",
    "mcm": "softmax over the cosines to the class names (maximum concept matching, pseudo-MSP). No training images.",
    "zero-shot": "other scores of the same cosines. No training images.",
    "combined": "mcm and knn, brought to one scale and added. No labels.",
    "plp": "pseudo-label probing: a linear layer trained on the labels that the text encoder gives to the training "
    "images. No true labels.",
    "linear": "a linear layer trained on the true labels.",
    "logistic": "logistic regression to convergence, its penalty chosen on held-out training images. True labels.",
    "mahalanobis": "distance to the nearest class mean, in units of the classes' covariance. True labels.",
    "relative-mahalanobis": "the same, less the distance to the mean of all training images. True labels.",
    "kmeans-mahalanobis": "distance to the nearest k-means cluster of the training images. No labels.",
    "prototypes": "cosine similarity to the nearest class mean. True labels.",
    "residual": "length of what lies outside the principal subspace of the training images. No labels.",
    "vim": "virtual-logit matching: the energy of a linear layer against the residual. True labels.",
    "nnguide": "the energy of a linear layer, weighted by its nearest training images. True labels.",
}
METHOD_ORDER = tuple(_METHODS)
_LOGITS = {
    "msp": "score: the largest softmax probability.",
    "energy": "score: the log-sum-exp of the logits.",
    "max-logit": "score: the largest logit.",
    "entropy": "score: the softmax's entropy, negated.",
    "perplexity": "score: the exponential of the softmax's entropy, negated.",
    "l1": "score: the sum of the logits, counted from the smallest.",
    "gen": "score: generalised entropy of the largest softmax probabilities, negated.",
}
_SCALED = "scaled-…"
GLOSSARY = {
    **_METHODS,
    "cosine": "score: the cosine similarity.",
    **_LOGITS,
    _SCALED: "score: that of the cosines times the model's logit scale.",
    "logit-distance": "score: Mahalanobis distance of the logits, not of the features, negated.",
    "relative-logit-distance": "score: the same, less the distance to the mean of all training images.",
    "distance": "score: the distance, negated.",
    "guided-energy": "score: the energy times the similarity to the nearest training images, weighted by theirs.",
    "sum": "score: the two scores added, each on the scale that it has on the training images.",
}
_SCORE_ORDER = (
    *("cosine", *_LOGITS, *(f"scaled-{name}" for name in _LOGITS)),
    *("logit-distance", "relative-logit-distance", "distance", "residual", "vim", "guided-energy", "sum"),
)

DEFAULT_METRICS = "default"  # what a variant that names no metric set was measured by

RowOrder = tuple[int, str, tuple[str | float, ...], str, int, str]


def named(method: str, variant: str) -> str:
    """A method with the options that are not its defaults: ``"knn (k=10)"``."""
    return f"{method} ({variant})" if variant else method


def label(*parts: str | None) -> str:
    """What a table row is called: ``"plp · energy"``; parts that are not there are left out."""
    return " · ".join(part for part in parts if part)


def options(variant: str) -> dict[str, str]:
    """The options of a variant by name: ``{"k": "10", "metric": "l2"}`` for ``"k=10, metric=l2"``."""
    pairs = (pair.partition("=") for pair in variant.split(", ") if pair)
    return {name: value for name, _, value in pairs}


def metric_set(variant: str) -> str:
    """The metric set by which a variant was measured."""
    return options(variant).get("metrics", DEFAULT_METRICS)


def row_order(method: str, variant: str, score: str) -> RowOrder:
    """Sort key of table rows; methods and scores that this version does not know come last, by name.

    The variants of a method follow its defaults, their numbers by size: ``shots=2`` before ``shots=16``.
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", variant)
    natural = tuple(float(part) if index % 2 else part for index, part in enumerate(parts))
    return (*_rank(method, METHOD_ORDER), natural, variant, *_rank(score, _SCORE_ORDER))


def by_group(sets: Iterable[str], groups: Mapping[str, Collection[str]]) -> list[tuple[str, list[str]]]:
    """OOD sets with the groups that each is in: group by group, those in no group last, else by name."""
    order = list(groups)
    member = {name: [group for group in order if name in groups[group]] for name in sets}
    return sorted(member.items(), key=lambda pair: (order.index(pair[1][0]) if pair[1] else len(order), pair[0]))


def glossary(terms: Iterable[str]) -> list[tuple[str, str]]:
    """The meaning of each method and score that is known."""
    known = {_SCALED if term.startswith("scaled-") else term for term in terms}
    return [(term, meaning) for term, meaning in GLOSSARY.items() if term in known]


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
