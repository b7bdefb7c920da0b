"""Zero-shot classification: class names, embedded as text, label the images.

The hard labels are the first half of pseudo-label probing (Adaloglou et al., arXiv 2303.05828); the cosines themselves
are the logits of maximum concept matching (Ming et al., arXiv 2211.13445).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.neighbors import unit
from embedstore.records import FloatArray

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
        Classes with equal text embeddings get exactly equal logits. Peak memory: this array and its inputs in float64.

    Raises
    ------
    UsageError
        The widths differ, there is no class, or rows are not finite.
    """
    classes, place = _distinct(projected, text)
    return np.asarray((unit(projected, np.float64) @ classes.T)[:, place], dtype=np.float64)


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
    rows = np.asarray(projected)
    labels = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        labels[block] = first[np.argmax(unit(rows[block], np.float64) @ classes.T, axis=1)]
    return labels


def _distinct(projected: npt.ArrayLike, text: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.int64]]:
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
