"""Which labelled rows to train on, and how well pseudo-labels agree with true ones.

Row numbers, not copies of the features. Labels may be true ones or pseudo-labels: -1 is a row without one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.metrics import accuracy

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def few_shot(labels: npt.ArrayLike, shots: int, seed: int, *, n_classes: int | None = None) -> Int64:
    """``shots`` random rows of every class, without replacement; all rows of a class that has fewer.

    For one seed the draws are nested: the rows for 1 shot are among those for 2, these among those for 4, so that a
    curve over shots shows the shots and not the luck of the draw. Not the draws of ``numpy.random.choice`` in the
    released code, which are nothing that a paper reports.

    Parameters
    ----------
    labels : (N,) int
        True or pseudo-labels; -1 where unknown, and never drawn.
    shots : int
    seed : int
        Of a generator of its own; NumPy's global one is neither read nor changed.
    n_classes : int or None
        Labels must lie below it. :func:`short_classes` names the classes that gave fewer rows, or none.

    Returns
    -------
    (n,) int64
        Row numbers, ascending.

    Raises
    ------
    UsageError
        ``shots`` is not positive, or the labels are not one-dimensional integers in [-1, n_classes).
    """
    if shots < 1:
        raise UsageError(f"few_shot draws at least one row per class, got shots={shots!r}")
    codes = _codes(labels, n_classes)
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[codes[order] >= 0]
    by_class = order[np.argsort(codes[order], kind="stable")]  # inside a class still in random order
    rank = np.arange(len(by_class)) - np.searchsorted(codes[by_class], codes[by_class])
    return np.sort(by_class[rank < shots])


def short_classes(labels: npt.ArrayLike, shots: int, *, n_classes: int | None = None) -> Int64:
    """The classes with fewer than ``shots`` rows, ascending; those without any too.

    Parameters
    ----------
    labels : (N,) int
        -1 where unknown.
    shots : int
    n_classes : int or None
        None: the classes are 0 to the largest label, so empty ones after it are not seen.

    Raises
    ------
    UsageError
        The labels are not one-dimensional integers in [-1, n_classes).
    """
    return np.flatnonzero(_counts(_codes(labels, n_classes), n_classes) < shots)


def balanced(labels: npt.ArrayLike, seed: int, size: int | None = None) -> Int64:
    """Rows in which every class that occurs is equally frequent, small classes by repetition.

    Each class is dealt like a deck of cards, shuffled anew when it is used up: inside a class no row comes twice more
    often than another, and a class with rows to spare repeats none.

    Parameters
    ----------
    labels : (N,) int
        -1 where unknown; those rows are never drawn.
    seed : int
        Of a generator of its own.
    size : int or None
        How many rows to return; where the classes do not divide it, some, drawn by lot, get one row more. None: as
        many as have a label, rounded up to a multiple of the number of classes that occur.

    Returns
    -------
    (size,) int64
        Row numbers, ascending, with repetitions.

    Raises
    ------
    UsageError
        No row has a label, the labels are not one-dimensional integers from -1 on, or ``size`` is not positive.
    """
    codes = _codes(labels, None)
    present = np.unique(codes[codes >= 0])
    if not len(present):
        raise UsageError(f"there is nothing to balance: none of the {len(codes)} rows has a label (all are -1)")
    if size is None:
        size = -(-int(np.count_nonzero(codes >= 0)) // len(present)) * len(present)
    if size < 1:
        raise UsageError(f"asked for a balanced sample of {size} rows; it must be at least 1")
    rng = np.random.default_rng(seed)
    share, left = divmod(size, len(present))
    wanted = np.full(len(present), share)
    wanted[rng.permutation(len(present))[:left]] += 1
    order = np.argsort(codes, kind="stable")
    firsts, ends = (np.searchsorted(codes[order], present, side=side) for side in ("left", "right"))
    drawn = [
        _dealt(order[first:end], count, rng)
        for first, end, count in zip(firsts.tolist(), ends.tolist(), wanted.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def agreement(pseudo: npt.ArrayLike, true: npt.ArrayLike) -> float:
    """Fraction of the rows with a known true label whose pseudo-label it is, in [0, 1]: zero-shot accuracy.

    Parameters
    ----------
    pseudo : (N,) int
    true : (N,) int
        -1 where unknown; those rows are left out.

    Raises
    ------
    NotAvailable, UsageError
        As :func:`embedstore.metrics.accuracy`, which it is.
    """
    return accuracy(pseudo, true)


def class_agreement(pseudo: npt.ArrayLike, true: npt.ArrayLike, n_classes: int) -> Float64:
    """:func:`agreement` within every true class: a class whose name misleads the text encoder stands out.

    Parameters
    ----------
    pseudo : (N,) int
    true : (N,) int
        -1 where unknown; those rows are left out.
    n_classes : int

    Returns
    -------
    (n_classes,) float64
        NaN for a class without a row of known label.

    Raises
    ------
    UsageError
        The arrays differ in length, or are not one-dimensional integers in [-1, n_classes).
    """
    guess, truth = _codes(pseudo, n_classes), _codes(true, n_classes)
    if len(guess) != len(truth):
        raise UsageError(f"there are {len(guess)} pseudo-labels for {len(truth)} true labels")
    rows = _counts(truth, n_classes)
    hits = _counts(truth[guess == truth], n_classes)
    shares = np.full(n_classes, np.nan)
    np.divide(hits, rows, out=shares, where=rows > 0)
    return shares


def _codes(labels: npt.ArrayLike, n_classes: int | None) -> Int64:
    """The labels as (N,) int64, checked."""
    codes = np.asarray(labels)
    if codes.ndim != 1 or (codes.dtype.kind not in "iu" and codes.size):
        raise UsageError(f"labels must be (N,) integers, got shape {codes.shape} and dtype {codes.dtype}")
    if codes.size and (codes.min() < -1 or (n_classes is not None and codes.max() >= n_classes)):
        end = "" if n_classes is None else f" and below n_classes={n_classes}"
        raise UsageError(f"labels must be at least -1{end}, got {codes.min()} to {codes.max()}")
    return codes.astype(np.int64)


def _counts(codes: Int64, n_classes: int | None) -> Int64:
    """Rows of every class, (C,); those without a label are not counted."""
    return np.bincount(codes[codes >= 0], minlength=n_classes or 0)


def _dealt(rows: Int64, count: int, rng: np.random.Generator) -> Int64:
    """``count`` of the rows: all of them as often as they fit in, the rest drawn without replacement."""
    rounds, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, rounds), rng.choice(rows, rest, replace=False)])
