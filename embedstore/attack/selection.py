"""Which images are attacked, and towards which targets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.records import IntArray


def draw_pairs(
    ood_ok: npt.NDArray[np.bool_], target_ok: npt.NDArray[np.bool_], num: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Draw images and, for each, a target, among those that were embedded.

    Targets as in the code released with arXiv 2303.05828: ``np.random.RandomState(seed).choice(n, num)``, with
    replacement, whatever the classes; with every row embedded, the very same rows. The images follow from the same
    stream, but without replacement, because each is called by its key; theirs are drawn with replacement, too (958
    different ones of 1,000, with seed 0), and after the in-distribution test images, which are not drawn here: all of
    them serve.

    Parameters
    ----------
    ood_ok, target_ok : (N,), (M,) bool
        The rows that may be drawn.
    num : int
        At least 1.
    seed : int
        In [0, 2³²).

    Returns
    -------
    ood, target : (num,), (num,) int64
        Row numbers; image i is to become like target i.

    Raises
    ------
    UsageError
        Fewer images than asked for, no target, or a seed out of range.
    """
    images, targets = np.flatnonzero(ood_ok), np.flatnonzero(target_ok)
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed must be in [0, 2**32), not {seed}")
    if num < 1 or num > len(images):
        raise UsageError(
            f"{num:,} images are to be attacked, but {len(images):,} of the {len(ood_ok):,} are embedded; ask for 1 to "
            f"{len(images):,}"
            if len(images)
            else f"none of the {len(ood_ok):,} images to attack is embedded"
        )
    if not len(targets):
        raise UsageError(f"none of the {len(target_ok):,} targets is embedded")
    rng = np.random.RandomState(seed)  # the released code's generator
    chosen = targets[rng.choice(len(targets), num)]
    return images[rng.choice(len(images), num, replace=False)].astype(np.int64), chosen.astype(np.int64)
