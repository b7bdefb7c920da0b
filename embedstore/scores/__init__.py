"""Out-of-distribution scores: (N,) float64, higher = more in-distribution, everywhere.

What learns nothing is a function of logits (:data:`LOGIT_SCORES` names them all); what learns from in-distribution
features, or from in-distribution scores (:class:`StandardizedSum`), is an estimator with ``fit`` and ``score_samples``.
"""

from embedstore.scores.clusters import KMeansMahalanobisDetector
from embedstore.scores.combination import StandardizedSum
from embedstore.scores.knn import KNNClassifier, KNNDetector
from embedstore.scores.logits import LOGIT_SCORES, energy, entropy, gen, l1_norm, max_logit, msp, perplexity
from embedstore.scores.mahalanobis import MahalanobisDetector
from embedstore.scores.nnguide import NNGuideDetector
from embedstore.scores.prototypes import PrototypeDetector
from embedstore.scores.vim import ResidualDetector, ViMDetector

__all__ = [
    "LOGIT_SCORES",
    "KMeansMahalanobisDetector",
    "KNNClassifier",
    "KNNDetector",
    "MahalanobisDetector",
    "NNGuideDetector",
    "PrototypeDetector",
    "ResidualDetector",
    "StandardizedSum",
    "ViMDetector",
    "energy",
    "entropy",
    "gen",
    "l1_norm",
    "max_logit",
    "msp",
    "perplexity",
]
