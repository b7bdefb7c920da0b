"""How many images an attack gets past a detector that rejects them when they are clean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.metrics.counts import threshold_index

TPR = 0.95


@dataclass(frozen=True)
class Success:
    """Images that were rejected when clean, and how many of them are accepted now."""

    accepted: int
    rejected: int

    @property
    def share(self) -> float | None:
        """In [0, 1]; None where none was rejected."""
        return self.accepted / self.rejected if self.rejected else None


def threshold95(s_id: npt.ArrayLike) -> float:
    """The largest threshold that accepts 95 % of the ID images: a score of at least this is accepted.

    Parameters
    ----------
    s_id : (N,) real
        NaN, the score of an image that has none, does not count.

    Raises
    ------
    UsageError
        No ID image has a score.
    """
    scores = np.asarray(s_id, dtype=np.float64)
    known = np.sort(scores[~np.isnan(scores)])
    if not len(known):
        raise UsageError(f"a threshold takes scores of ID images, and of {len(scores)} none has one")
    return float(known[threshold_index(TPR, len(known))])


def attack_success(s_id: npt.ArrayLike, s_clean: npt.ArrayLike, s_adversarial: npt.ArrayLike) -> Success:
    """Of the images that are rejected when clean, those accepted when adversarial, at the threshold of :func:`fpr95`.

    Parameters
    ----------
    s_id : (N,) real
        Scores of in-distribution images, higher = more in-distribution.
    s_clean, s_adversarial : (M,) real
        Of the same images, before and after an attack. Of all three, images without a score, NaN, do not count.

    Raises
    ------
    UsageError
        No ID image has a score, or there are not as many clean as adversarial images.
    """
    clean, adversarial = (np.asarray(scores, dtype=np.float64) for scores in (s_clean, s_adversarial))
    if clean.shape != adversarial.shape:
        raise UsageError(
            f"clean and adversarial scores must be of the same images; got {clean.shape}, {adversarial.shape}"
        )
    least = threshold95(s_id)
    rejected = (clean < least) & ~np.isnan(adversarial)
    return Success(int((rejected & (adversarial >= least)).sum()), int(rejected.sum()))
