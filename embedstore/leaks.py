"""Images that two sets share: the same features, almost the same features, or the same bytes.

A test image that is also in the training set is recognised, not classified, and an OOD image that is also
in-distribution cannot be detected. CIFAR-10 and CIFAR-100 have such images in their own splits (Barz and Denzler, arXiv
1902.00423). Other photographs of ID classes, which several OOD sets for ImageNet hold (Bitterwolf et al., arXiv
2306.00826), are no duplicates, and no comparison of images finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.neighbors import unit

# Cosines computed at once: 64 MB in float32, beside two blocks of rows.
_BLOCK = 4096
# Of a float32 product of unit rows; what may reach the threshold is computed again in float64.
_ROUNDING = 1e-5
_MOST = 1_000_000
# See near_duplicates.
THRESHOLD = 0.95


@dataclass(frozen=True)
class Leak:
    """Two rows that show the same image.

    Attributes
    ----------
    a, b : int
        Rows of the first and of the second set; a < b where both are the same set.
    cosine : float or None
        Of their features, at most 1; None where bytes were compared, not features.
    exact : bool
        Every feature value is equal, or the bytes are. Else they are near.
    """

    a: int
    b: int
    cosine: float | None
    exact: bool


def near_duplicates(
    queries: npt.ArrayLike, bank: npt.ArrayLike | None = None, threshold: float = THRESHOLD
) -> list[Leak]:
    """All pairs of rows whose cosine similarity is at least the threshold, exact duplicates among them.

    Exact, by brute force, block by block: the sets can be anything that can be sliced (an ``np.memmap``, a Zarr array),
    and need not fit into memory. Time is that of N x M cosines; memory is one block of each and 64 MB.

    The default is for image features before projection. Among 20,000 images of CIFAR-10 and CIFAR-100 (10,000 of each,
    half of them test images) with a small CLIP-type model (EfficientNet-lite0, 112 px), each of the 12 pairs from 0.95
    up showed the same photograph, shifted, mirrored or compressed anew; 0.98 left the two exact pairs alone. Further
    pairs of one photograph go down to 0.9, where other photographs of the same object begin. Another model has another
    scale, and joint-space embeddings lie closer together: look at pairs before you drop images.

    Parameters
    ----------
    queries : (N, D) real
    bank : (M, D) real, or None
        None for duplicates within ``queries``, each pair once.
    threshold : float
        In (0, 1].

    Returns
    -------
    list of Leak
        In order of rows. Rows of zeros have no direction and are in no pair; :func:`exact_duplicates` finds them.

    Raises
    ------
    UsageError
        The widths differ, a row is not finite, the threshold is outside (0, 1], or a million pairs reach it.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold must lie in (0, 1], got {threshold!r}")
    first, second = _pair(queries, bank)
    found: list[Leak] = []
    for top, raw_a in _blocks(first):
        unit_a = unit(raw_a)
        for left, raw_b in _blocks(second, top if bank is None else 0):
            close = unit_a @ unit(raw_b).T >= threshold - _ROUNDING
            if bank is None and left == top:
                close = np.triu(close, 1)
            a, b = np.nonzero(close)
            _refuse_too_many(len(found) + len(a), f"the threshold {threshold:g} is too low for these features")
            # Block by block again: the rows of a million pairs are more than the sets themselves.
            for start in range(0, len(a), _BLOCK):
                rows = a[start : start + _BLOCK], b[start : start + _BLOCK]
                cosine, exact = _cosines(raw_a[rows[0]], raw_b[rows[1]])
                found += [
                    Leak(int(rows[0][i]) + top, int(rows[1][i]) + left, float(cosine[i]), bool(exact[i]))
                    for i in np.flatnonzero(cosine >= threshold)
                ]
    return sorted(found, key=_place)


def exact_duplicates(a: npt.ArrayLike, b: npt.ArrayLike | None = None) -> list[Leak]:
    """All pairs of rows that are equal in every value, found by hashing: N + M digests, no N x M comparison.

    One image, embedded twice by one model on one device, gives equal rows; one that was compressed anew does not.
    0 and -0 are equal, and so are a float16 and a float32 of the same value.

    Parameters
    ----------
    a : (N, D) real
        Read block by block, as in :func:`near_duplicates`.
    b : (M, D) real, or None
        None for duplicates within ``a``, each pair once.

    Returns
    -------
    list of Leak
        In order of rows, with cosine 1.

    Raises
    ------
    UsageError
        The widths differ, a row is not finite (images without features would all be equal), or there are a million
        pairs.
    """
    first, second = _pair(a, b)
    return _matches(_row_digests(first), None if b is None else _row_digests(second), cosine=1.0)


def same_bytes(a: Iterable[str | bytes | None], b: Iterable[str | bytes | None] | None = None) -> list[Leak]:
    """All pairs of images whose encoded bytes are the same, by their digests.

    Parameters
    ----------
    a : iterable of N digests
        Of each image's bytes (SHA-256, say), in order of rows; None where the source has no bytes.
    b : iterable of M digests of the same kind, or None
        None for duplicates within ``a``, each pair once.

    Returns
    -------
    list of Leak
        In order of rows, without a cosine.

    Raises
    ------
    UsageError
        There are a million pairs.
    """
    return _matches(a, b, cosine=None)


def _pair(a: npt.ArrayLike, b: npt.ArrayLike | None) -> tuple[Any, Any]:
    """Both sets as they can be sliced; the second is the first where there is none."""
    first: Any = a if hasattr(a, "shape") else np.asarray(a)
    second: Any = first if b is None else b if hasattr(b, "shape") else np.asarray(b)
    for rows in (first, second):
        if len(rows.shape) != 2 or rows.dtype.kind not in "biuf":
            raise UsageError(f"expected an (N, D) array of real numbers, got shape {rows.shape} and dtype {rows.dtype}")
    if first.shape[1] != second.shape[1]:
        raise UsageError(f"rows of shapes {first.shape} and {second.shape} come from different models")
    return first, second


def _blocks(rows: Any, begin: int = 0) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for start in range(begin, rows.shape[0], _BLOCK):
        block = np.asarray(rows[start : start + _BLOCK])
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            raise UsageError(
                f"row {start + bad[0]} of {rows.shape[0]} (and perhaps more) is not finite; "
                "leave out images that have no features"
            )
        yield start, block


def _cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Of each row of `a` with its neighbour in `b`, and whether the two are equal."""
    exact = (a == b).all(axis=1)
    cosine = np.einsum("nd,nd->n", unit(a, np.float64), unit(b, np.float64))
    # A row's cosine to itself can miss 1 by a rounding.
    return np.where(exact, 1.0, np.minimum(cosine, 1.0)), exact


def _row_digests(rows: Any) -> Iterator[bytes]:
    for _, block in _blocks(rows):
        for row in np.ascontiguousarray(block, dtype=np.float64) + 0.0:  # -0 + 0 is 0
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _matches(
    a: Iterable[str | bytes | None], b: Iterable[str | bytes | None] | None, cosine: float | None
) -> list[Leak]:
    places: dict[str | bytes, list[int]] = {}
    found: list[Leak] = []
    if b is not None:
        for row, digest in enumerate(b):
            if digest is not None:
                places.setdefault(digest, []).append(row)
    for row, digest in enumerate(a):
        if digest is None:
            continue
        others = places.get(digest, ()) if b is not None else places.setdefault(digest, [])
        _refuse_too_many(len(found) + len(others), "one image fills these sets")
        if b is not None:
            found += [Leak(row, other, cosine, exact=True) for other in others]
        else:
            found += [Leak(other, row, cosine, exact=True) for other in others]
            places[digest].append(row)
    return sorted(found, key=_place)


def _place(leak: Leak) -> tuple[int, int]:
    return leak.a, leak.b


def _refuse_too_many(pairs: int, why: str) -> None:
    if pairs >= _MOST:
        raise UsageError(f"{pairs:,} pairs of duplicates or more: {why}")
