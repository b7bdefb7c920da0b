"""Made-up features: as wide as a model's, with directions of very different size, in classes that overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WIDTH = 768  # of ViT-B/16


def clouds(
    n_rows: int, n_classes: int, width: int = WIDTH, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features (N, D) float32 and labels (N,); every class has as many rows as the others, give or take one."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_rows) % n_classes)
    centres = rng.standard_normal((n_classes, width), dtype=np.float32)
    X = rng.standard_normal((n_rows, width), dtype=np.float32)
    X += 0.2 * centres[labels]
    # Variances fall like one over the rank, as those of real features roughly do, and along no axis in particular.
    X *= (1 + np.arange(width, dtype=np.float32)) ** -0.5
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    return X @ turn + 0.1 * rng.standard_normal(width, dtype=np.float32), labels
