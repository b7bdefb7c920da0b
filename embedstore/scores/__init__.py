"""Out-of-distribution scores: (N,) float64, higher = more in-distribution, everywhere.

What learns nothing is a function of logits (:func:`msp`, :func:`energy`, :func:`max_logit`); what learns from
in-distribution features is an estimator with ``fit`` and ``score_samples``.
"""

from embedstore.scores.knn import KNNClassifier, KNNDetector
from embedstore.scores.logits import LOGIT_SCORES, energy, max_logit, msp
from embedstore.scores.mahalanobis import MahalanobisDetector

__all__ = [
    "LOGIT_SCORES",
    "KNNClassifier",
    "KNNDetector",
    "MahalanobisDetector",
    "energy",
    "max_logit",
    "msp",
]
