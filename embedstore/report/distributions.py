"""How far apart ID and OOD images lie: ROC curves and histograms of the scores, small enough for a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, StoreCorrupt
from embedstore.metrics import auroc
from embedstore.records import Result
from embedstore.report.choice import MOST_METHODS, Detector
from embedstore.report.table import tested_split

Float64 = npt.NDArray[np.float64]

MOST_POINTS = 150
BINS = 60
ACCEPTED_AT = (0.01, 0.05, 0.1)  # of the OOD images
_TAIL = 0.002  # of the images at either end lie beyond the histogram's axis, and are counted in its outermost bins


@dataclass(frozen=True)
class Curve:
    """One detector against one OOD set.

    Attributes
    ----------
    id_dataset, ood, model, label : str
        ``ood`` is ``"name/split"``, ``label`` the name of the table row.
    auroc : float
        Of the seed that is drawn, as ``seeds`` may be several.
    n_id, n_ood : int
        Images with a score.
    fpr, tpr : tuple of at most 150 float
        Vertices of the ROC curve, in [0, 1], from (0, 0) to (1, 1): those nearest to even steps along the curve.
    accepted : tuple of float
        Share of the ID images that score at least as high as the threshold at which 1, 5 and 10 % of the OOD images
        (or, with ties, the largest share below) are accepted.
    centres : tuple of 60 float
        Of the bins of both histograms, evenly spaced; a single one where all scores are equal.
    id_share, ood_share : tuple of float
        Share of the images in each bin.
    """

    id_dataset: str
    ood: str
    model: str
    label: str
    auroc: float
    seeds: int
    n_id: int
    n_ood: int
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    accepted: tuple[float, ...]
    centres: tuple[float, ...]
    id_share: tuple[float, ...]
    ood_share: tuple[float, ...]


def curves(detectors: Iterable[Sequence[Detector]]) -> list[Curve]:
    """Curves of the first eight detectors of each ID set whose scores are stored; one result in memory at a time."""
    return [curve for chosen in detectors for detector in chosen[:MOST_METHODS] for curve in _of(detector)]


def scores_against(detector: Detector, ood: str) -> tuple[Float64, Float64]:
    """(N,) scores of all rows of the ID test split and (M,) of all rows of an OOD set, NaN where an image has none.

    Both are of the result that was tested against that set; either has a score at least.

    Raises
    ------
    NotAvailable
        There are none; the message says why, and what to do about it.
    """
    result, found = detector.results[ood], []
    for split in (tested_split(result), ood):
        found.append(scores_of(result, detector.score, split))
    return found[0], found[1]


def scores_of(result: Result, score: str, split: str) -> Float64:
    """(N,) scores of all rows of ``"name/split"``, NaN where an image has none; one has at least.

    Raises
    ------
    NotAvailable
        There are none; the message says why, and what to do about it.
    """
    try:
        scores = np.asarray(result.scores[f"{score}/{split}"], dtype=np.float64)
    except KeyError as error:
        raise NotAvailable(
            "the results hold no scores of single images; `embedstore probe --recompute` stores them"
        ) from error
    except StoreCorrupt as error:
        # What that error advises is to embed the images again, which would be of no help here.
        raise NotAvailable(
            "the stored scores are damaged; `embedstore probe --recompute` computes them again"
        ) from error
    if np.isnan(scores).all():
        raise NotAvailable(f"no image of {split} has a score")
    return scores


def _of(detector: Detector) -> Iterator[Curve]:
    for ood in sorted(detector.results):
        try:
            s_id, s_ood = scores_against(detector, ood)
        except NotAvailable:
            continue  # which the page says, from the same words: missing_scores() asks again for what is not drawn
        yield _curve(detector, ood, _known(s_id), _known(s_ood))


def _known(scores: Float64) -> Float64:
    return scores[~np.isnan(scores)]


def _curve(detector: Detector, ood: str, s_id: Float64, s_ood: Float64) -> Curve:
    fpr, tpr = roc(s_id, s_ood)
    chosen = _even(fpr, tpr)
    centres, id_share, ood_share = _histograms(s_id, s_ood)
    return Curve(
        id_dataset=detector.id_dataset,
        ood=ood,
        model=detector.model,
        label=detector.label,
        auroc=auroc(s_id, s_ood),
        seeds=detector.seeds,
        n_id=len(s_id),
        n_ood=len(s_ood),
        fpr=tuple(fpr[chosen].tolist()),
        tpr=tuple(tpr[chosen].tolist()),
        accepted=tuple(float(tpr[fpr <= level].max()) for level in ACCEPTED_AT),
        centres=tuple(centres.tolist()),
        id_share=tuple(id_share.tolist()),
        ood_share=tuple(ood_share.tolist()),
    )


def roc(s_id: Float64, s_ood: Float64) -> tuple[Float64, Float64]:
    """FPR and TPR at every threshold, (V,) each, ascending from 0 to 1; ID is the positive class.

    Parameters
    ----------
    s_id : (N,) float64, without NaN
    s_ood : (M,) float64, without NaN
    """
    thresholds = np.unique(np.concatenate((s_id, s_ood)))[::-1]
    shares = [
        np.concatenate(([0.0], (len(scores) - np.searchsorted(np.sort(scores), thresholds)) / len(scores)))
        for scores in (s_ood, s_id)
    ]
    return shares[0], shares[1]


def _even(fpr: Float64, tpr: Float64) -> npt.NDArray[np.intp]:
    """At most MOST_POINTS vertices, the first and last among them, in even steps of the way up and across."""
    way = fpr + tpr
    steps = np.linspace(0, 2, MOST_POINTS)
    return np.unique(np.concatenate(([0], np.searchsorted(way, steps[1:-1] - 1e-12), [len(way) - 1])))


def _histograms(s_id: Float64, s_ood: Float64) -> tuple[Float64, Float64, Float64]:
    """Centres of the bins, and the share of either kind in each."""
    both = np.concatenate((s_id, s_ood))
    both = both[np.isfinite(both)]
    low, high = np.quantile(both, [_TAIL, 1 - _TAIL]) if len(both) else (0.0, 0.0)
    if not high > low:
        return np.array([low]), np.ones(1), np.ones(1)
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(np.clip(scores, low, high), edges)[0] / len(scores) for scores in (s_id, s_ood)]
    return (edges[1:] + edges[:-1]) / 2, shares[0], shares[1]
