"""Zero-shot classification: class names, embedded as text, label the images.

The hard labels are the first half of pseudo-label probing (Adaloglou et al., arXiv 2303.05828); the cosines themselves
are the logits of maximum concept matching (Ming et al., arXiv 2211.13445).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.neighbors import unit
from embedstore.records import FloatArray

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_BLOCK = 8192  # rows labelled at once; with 1,000 classes 65 MB of cosines


def zero_shot_logits(projected: npt.ArrayLike, text: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cosine similarity of every image to every class.

    No logit scale: the cosines lie in [-1, 1], as in MCM with temperature 1. Their softmax over many classes is nearly
    uniform (a band about 1e-4 wide for 1,000 classes), hence float64: in float32 several per cent of the scores tie.

    Parameters
    ----------
    projected : (N, D) real
        Image embeddings in the joint space, of any length.
    text : (C, D) real
        One text embedding per class, of any length.

    Returns
    -------
    (N, C) float64
        Classes with equal text embeddings get exactly equal logits. Peak memory: this array and its inputs in float64;
        where classes are equal, this array twice.

    Raises
    ------
    UsageError
        The widths differ, there is no class, or rows are not finite.
    """
    classes, place = _distinct(projected, text)
    cosines = np.asarray(unit(projected, np.float64) @ classes.T, dtype=np.float64)
    return cosines if len(classes) == len(place) else cosines[:, place]


def pseudo_labels(projected: npt.ArrayLike, text: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The class whose text embedding is most similar to each image; the first of several equal ones.

    Two classes with the same embedding (ImageNet's list has ``crane`` twice) tie exactly, and the first gets all the
    images. The argmax of :func:`zero_shot_logits`, in blocks of rows, so memory does not grow with N x C.

    Parameters
    ----------
    projected : (N, D) real
    text : (C, D) real

    Returns
    -------
    (N,) int64
        In [0, C).

    Raises
    ------
    UsageError
        As :func:`zero_shot_logits`.
    """
    classes, place = _distinct(projected, text)
    first = np.unique(place, return_index=True)[1]
    labels = np.empty(len(np.asarray(projected)), dtype=np.int64)
    for block, cosines in _cosines(projected, classes):
        labels[block] = first[np.argmax(cosines, axis=1)]
    return labels


def pseudo_probabilities(
    projected: npt.ArrayLike, text: npt.ArrayLike, temperature: float = 0.01
) -> npt.NDArray[np.float32]:
    """Soft labels: the softmax of the cosines divided by the temperature.

    The released code of Adaloglou et al. multiplies by the model's logit scale, so its temperature is 1 / scale: 0.01
    for the CLIP models of OpenAI, whose scale is 100. That code normalises images before the projection for training
    labels and after it for evaluation; the first would make the temperature depend on the image. Here cosines are
    cosines. Hard labels are the same either way.

    Parameters
    ----------
    projected : (N, D) real
    text : (C, D) real
    temperature : float, default 0.01

    Returns
    -------
    (N, C) float32
        Rows sum to 1 up to rounding. Classes with equal text embeddings share what one of them would get, equally.
        Computed in float64; beside the result, memory holds one block of 8,192 rows.

    Raises
    ------
    UsageError
        As :func:`zero_shot_logits`, or the temperature is not positive and finite.
    """
    classes, place = _distinct(projected, text)
    _check_temperature(temperature)
    probabilities = np.empty((len(np.asarray(projected)), len(place)), dtype=np.float32)
    copies = np.bincount(place)  # each embedding counts as often as there are classes with it
    for block, cosines in _cosines(projected, classes):
        shares = _exponentials(cosines, temperature)
        shares /= (shares @ copies)[:, None]
        probabilities[block] = shares[:, place]
    return probabilities


def confidence(projected: npt.ArrayLike, text: npt.ArrayLike, temperature: float = 0.01) -> Float64:
    """The largest probability of each row, as :func:`pseudo_probabilities` has it for the distinct text embeddings.

    Classes with equal embeddings count as one here. There they share a probability, so that none of two such classes
    ever has more than half; but that is no doubt about the image, and a threshold on it would drop all their rows.

    Parameters
    ----------
    projected : (N, D) real
    text : (C, D) real
    temperature : float, default 0.01
        With 1, and C distinct classes, it is the score of maximum concept matching.

    Returns
    -------
    (N,) float64
        In [1 / C, 1], with C the number of distinct embeddings. Beside it, memory holds one block of 8,192 rows.

    Raises
    ------
    UsageError
        As :func:`pseudo_probabilities`.
    """
    classes, _ = _distinct(projected, text)
    _check_temperature(temperature)
    largest = np.empty(len(np.asarray(projected)))
    for block, cosines in _cosines(projected, classes):
        largest[block] = 1 / _exponentials(cosines, temperature).sum(axis=1)  # the largest exponential is exp(0)
    return largest


def confident(
    projected: npt.ArrayLike, text: npt.ArrayLike, threshold: float, temperature: float = 0.01
) -> npt.NDArray[np.bool_]:
    """Which rows have a pseudo-label of at least this :func:`confidence`.

    Parameters
    ----------
    projected : (N, D) real
    text : (C, D) real
    threshold : float
        In [0, 1]; 0 keeps every row.
    temperature : float, default 0.01

    Returns
    -------
    (N,) bool
        May be False everywhere, and may cost classes all their rows: compare the counts before and after.

    Raises
    ------
    UsageError
        As :func:`pseudo_probabilities`, or the threshold lies outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"a confidence threshold is a probability, in [0, 1]; got {threshold!r}")
    return np.asarray(confidence(projected, text, temperature) >= threshold)


def _cosines(projected: npt.ArrayLike, classes: FloatArray) -> Iterator[tuple[slice, Float64]]:
    """Blocks of rows with their cosines to every distinct class, float64."""
    rows = np.asarray(projected)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield block, unit(rows[block], np.float64) @ classes.T


def _exponentials(cosines: Float64, temperature: float) -> Float64:
    """exp((cosine - the row's largest) / T), overwriting the cosines."""
    cosines -= cosines.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # far below the largest is -inf, whose exponential is the 0 it should be
        cosines /= temperature
    return np.exp(cosines, out=cosines)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < np.inf:
        raise UsageError(f"a temperature must be positive and finite, got {temperature!r}")


def _distinct(projected: npt.ArrayLike, text: npt.ArrayLike) -> tuple[FloatArray, Int64]:
    """The distinct text rows, of length 1, in order of first appearance, and the place of every class among them.

    A matrix product does not give equal columns equal results: its last columns go through another kernel, which
    rounds differently (seen with 101 classes), and "the first wins a tie" would be up to that. So each distinct
    embedding is multiplied once.
    """
    rows = unit(text, np.float64)
    shape = np.shape(projected)
    if len(shape) != 2 or shape[1] != rows.shape[1]:
        raise UsageError(f"image embeddings of shape {shape} do not fit text embeddings of shape {rows.shape}")
    if not len(rows):
        raise UsageError("there is no class: the text embeddings are empty")
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return rows[first[order]], place[inverse.reshape(-1)]
