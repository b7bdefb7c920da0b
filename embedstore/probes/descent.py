"""The minimum of a smooth convex function by L-BFGS with an initial matrix of one's own.

Written out, because SciPy's takes no such matrix and is steered by the function's values, which agree to all their
digits long before the gradient vanishes; torch's takes seconds to import (see ``training._Adam``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor], tuple[float, torch.Tensor, float]]
    Inverse = torch.Tensor | None
    Pairs = deque[tuple[torch.Tensor, torch.Tensor]]

_PAIRS = 10
_CURVATURE_AT = (0, 5)  # steps; soon it is no longer that of the start
_IDLE = 20  # steps in which neither the value nor the gradient became smaller: rounding hides the rest
_TRIALS = 30


def descended(
    loss: Loss, inverse_curvature: Callable[[torch.Tensor], Inverse], at: torch.Tensor, max_iter: int, tol: float
) -> tuple[torch.Tensor, int, float]:
    """Parameters, steps, and the largest partial derivative there: at most ``tol``, unless the steps did not suffice.

    Or unless rounding hid the rest. ``loss`` gives its value, its gradient and how much of the value may be rounding.
    ``inverse_curvature`` of (C, D) parameters is (D, D), about the inverse of the second derivative by one row of them,
    or None for a multiple of the identity.
    """
    pairs: Pairs = deque(maxlen=_PAIRS)
    value, gradient, rounding = loss(at)
    steepest = least = float(gradient.abs().max())
    inverse: Inverse = None
    idle = taken = 0
    while taken < max_iter and steepest > tol and idle < _IDLE:
        if taken in _CURVATURE_AT:
            inverse = inverse_curvature(at)
        found = _step(loss, at, value + rounding, gradient, _direction(gradient, pairs, inverse))
        if found is None:
            break
        moved, new_value, new_gradient = found
        pairs.append((moved - at, new_gradient - gradient))
        steepest = float(new_gradient.abs().max())
        idle = 0 if steepest < least or new_value < value - rounding else idle + 1
        least = min(least, steepest)
        at, value, gradient, taken = moved, new_value, new_gradient, taken + 1
    return at, taken, steepest


def _direction(gradient: torch.Tensor, pairs: Pairs, inverse: Inverse) -> torch.Tensor:
    """Where to go: the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
    d, shares = -gradient, []
    for step, change in reversed(pairs):
        share = (step * d).sum() / (step * change).sum()
        d = d - share * change
        shares.append(share)
    if pairs:
        step, change = pairs[-1]
        d = d * ((step * change).sum() / (change * _times(change, inverse)).sum())
    d = _times(d, inverse)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        d = d + (share - (change * d).sum() / (step * change).sum()) * step
    return d


def _times(gradient: torch.Tensor, inverse: Inverse) -> torch.Tensor:
    return gradient if inverse is None else (gradient.to(inverse.dtype) @ inverse).to(gradient.dtype)


def _step(
    loss: Loss, start: torch.Tensor, most: float, gradient: torch.Tensor, direction: torch.Tensor
) -> tuple[torch.Tensor, float, torch.Tensor] | None:
    """Where the slope along the direction is flat enough and the value at most ``most``, with both; None: nowhere.

    The whole step usually is. Slopes decide rather than values, since the rounding of these hides small steps.
    """
    slope = float((gradient * direction).sum())
    low, high, length = 0.0, np.inf, 1.0
    for _ in range(_TRIALS if slope < 0 else 0):
        moved = start + length * direction
        value, there, _ = loss(moved)
        slope_there = float((there * direction).sum())
        if not (value <= most and slope_there <= -0.5 * slope):
            high = length
        elif slope_there < 0.9 * slope:
            low = length
        else:
            return moved, value, there
        length = (low + high) / 2 if high < np.inf else 2 * length
    return None
