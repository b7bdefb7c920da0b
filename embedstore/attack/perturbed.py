"""What became of perturbed images: one record of arrays.

N is the number of images, H and W their sides, Dp the width of the features before the projection, T the number of
recorded steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.attack.options import Options
from embedstore.records import FloatArray, IntArray


@dataclass(frozen=True)
class Perturbed:
    """What became of N images.

    Of one that failed on the way, `images` and `rounded` are the clean one; of one that failed in the end, whose
    similarity is not finite, what it had become. All other numbers of either are NaN.

    Attributes
    ----------
    images : (N, 3, H, W) float32 or float64
        In [0, 1], within the budget; not rounded.
    rounded : (N, 3, H, W) uint8
        The same as a file holds them: 255 times as much, rounded to the nearest.
    features_clean, features, features_rounded : (N, Dp) float32
        Before the projection: of the clean images, of `images`, of `rounded`.
    similarity_before, similarity, similarity_rounded : (N,) float64
        What the objective says of the same three. Rounding can undo an attack.
    l2, linf, psnr : (N,) float64
        Of `images` against the clean ones, in pixels of [0, 1]; the peak signal-to-noise ratio in dB, infinite where
        nothing changed.
    trace_steps : (T,) int64
        After how many steps the traces were taken.
    trace_loss, trace_similarity : (N, T) float64
    snapshots : dict of int to (N, Dp) float32
        Features after so many steps.
    reasons : tuple of N (str or None)
        ``"model: why"`` for each image that failed.
    """

    images: FloatArray
    rounded: npt.NDArray[np.uint8]
    features_clean: FloatArray
    features: FloatArray
    features_rounded: FloatArray
    similarity_before: FloatArray
    similarity: FloatArray
    similarity_rounded: FloatArray
    l2: FloatArray
    linf: FloatArray
    psnr: FloatArray
    trace_steps: IntArray
    trace_loss: FloatArray
    trace_similarity: FloatArray
    snapshots: dict[int, FloatArray]
    reasons: tuple[str | None, ...]


def joined(parts: Sequence[Perturbed]) -> Perturbed:
    """All images of several batches, in order."""
    made: dict[str, Any] = {}
    for field in fields(Perturbed):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "snapshots":
            made["snapshots"] = {step: np.concatenate([found[step] for found in values]) for step in values[0]}
        elif field.name == "reasons":
            made["reasons"] = tuple(reason for found in values for reason in found)
        elif field.name == "trace_steps":
            made["trace_steps"] = values[0]
        elif field.name not in made:
            made[field.name] = np.concatenate(values)
    return Perturbed(**made)


def nothing(width: int, options: Options) -> Perturbed:
    """No images at all, of a model whose features are so wide."""
    steps = options.trace_steps
    pixels, features, numbers = np.empty((0, 3, 0, 0)), np.empty((0, width), dtype=np.float32), np.empty(0)
    made: dict[str, Any] = {each.name: numbers for each in fields(Perturbed)}
    made |= dict.fromkeys(("features_clean", "features", "features_rounded"), features)
    made |= dict.fromkeys(("trace_loss", "trace_similarity"), np.empty((0, len(steps))))
    made |= {"images": pixels, "rounded": pixels.astype(np.uint8), "trace_steps": np.array(steps, dtype=np.int64)}
    return Perturbed(**made | {"reasons": (), "snapshots": dict.fromkeys(sorted(set(options.snapshots)), features)})
