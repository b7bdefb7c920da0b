"""How good is the classifier, and does it know when it errs? Accuracy, and the area under the risk-coverage curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError
from embedstore.metrics.ranking import checked


def accuracy(predicted: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Fraction of the images with a known label that were given it.

    Parameters
    ----------
    predicted : (N,) int
    labels : (N,) int
        -1 where unknown; those rows are left out.

    Raises
    ------
    NotAvailable
        No row has a known label.
    UsageError
        The arrays are not one-dimensional or differ in length.
    """
    guess, truth = np.asarray(predicted), np.asarray(labels)
    if guess.ndim != 1 or guess.shape != truth.shape:
        raise UsageError(f"predicted and labels must both be (N,), got shapes {guess.shape} and {truth.shape}")
    known = truth != -1
    if not known.any():
        raise NotAvailable(f"accuracy needs labels: none of the {len(truth)} rows has one (all are -1)")
    return int(np.count_nonzero(guess[known] == truth[known])) / int(np.count_nonzero(known))


def aurc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv, arXiv 1705.08500): lower is better, in [0, 1].

    The mean over k = 1 … N of the error rate among the k most confident images. Among equally confident images it is
    the expectation over all their orders: with E errors among the K before them and e among their n, the j-th of them
    is taken to bring the errors to E + j e / n. So the order of the rows changes no bit, and a constant confidence
    gives the plain error rate.

    Parameters
    ----------
    confidence : (N,) real
        Higher = surer of the predicted class. Infinities are allowed, NaN is not.
    correct : (N,) bool
        Whether the prediction was right.

    Raises
    ------
    UsageError
        ``confidence`` is empty, not one-dimensional, not real, or holds NaN; ``correct`` is not bool, or of another
        shape.
    """
    sure, right = checked("confidences", confidence), np.asarray(correct)
    if right.dtype != np.bool_ or right.shape != sure.shape:
        raise UsageError(f"correct must be {sure.shape} bool, got shape {right.shape} and dtype {right.dtype}")
    order = np.argsort(-sure)
    sure, wrong = sure[order], ~right[order]
    begin = np.concatenate(([0], 1 + np.flatnonzero(sure[1:] != sure[:-1])))
    size = np.diff(begin, append=len(sure))
    errors = np.add.reduceat(wrong.astype(np.int64), begin)
    before = np.cumsum(errors) - errors
    place = np.arange(1, len(sure) + 1)  # 1 for the most confident
    within = place - np.repeat(begin, size)
    risk = (np.repeat(before, size) + within * np.repeat(errors / size, size)) / place
    return min(float(risk.mean()), 1.0)
