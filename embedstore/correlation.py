"""Does a better classifier detect out-of-distribution images better? A straight line through models, and its R².

Adaloglou et al. (arXiv 2303.05828) report R² between the ID accuracy of a k-NN classifier and the AUROC of the 1-NN
score, across CLIP models: ordinary least squares, one point per model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError

# Values that agree to this fraction of their size differ by rounding alone, and a line through them means nothing.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Line:
    """The least-squares line y = slope x + intercept.

    ``r_squared`` is the fraction of y's variance that it explains, in [0, 1]; ``n`` counts the points.
    """

    slope: float
    intercept: float
    r_squared: float
    n: int


def r_squared(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """R² of the least-squares line, the squared correlation of x and y; symmetric in them. See :func:`fit_line`."""
    return fit_line(x, y).r_squared


def fit_line(x: npt.ArrayLike, y: npt.ArrayLike) -> Line:
    """Fit y = slope x + intercept by ordinary least squares.

    Parameters
    ----------
    x, y : (N,) real
        One value per model, N >= 3.

    Raises
    ------
    NotAvailable
        Fewer than three points (two always give R² = 1), or x or y is constant, so that R² is not defined.
    UsageError
        The arrays are not one-dimensional, differ in length, or hold NaN or infinity.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise UsageError(f"x and y must both be (N,), got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UsageError("x and y must be finite; leave out the points without a value")
    if len(a) < 3:
        raise NotAvailable(f"R² needs at least 3 points, there are {len(a)}")
    for name, values in (("x", a), ("y", b)):
        if np.ptp(values) <= _ROUNDING * np.abs(values).max():
            raise NotAvailable(f"R² is not defined: all {len(a)} values of {name} are {values[0]:g}")
    # Divided by their largest value, so that no square under- or overflows.
    dx, dy = a - a.mean(), b - b.mean()
    size_x, size_y = np.abs(dx).max(), np.abs(dy).max()
    u, v = dx / size_x, dy / size_y
    uu, uv, vv = float(u @ u), float(u @ v), float(v @ v)
    slope = float(uv / uu * (size_y / size_x))
    return Line(slope, float(b.mean() - slope * a.mean()), min(1.0, uv * uv / (uu * vv)), len(a))
