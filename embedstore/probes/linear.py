"""A linear probe trained as the paper trains it, alone or several at once.

Adaloglou et al. (arXiv 2303.05828): on pseudo-labels this is the second half of PLP, on true labels the supervised
probe. Not the optimum that :class:`embedstore.probes.LogisticProbe` finds: how, and how long, it is trained matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from embedstore.errors import UsageError
from embedstore.probes.base import _BLOCK, Features, Moments, Probe
from embedstore.probes.training import Stack, train

# Probes are stacked until their logits and weights hold so many numbers; training keeps about five arrays of this size.
_STACKED = 1 << 24

_MAY_DIFFER = {"seed", "lr", "weight_decay"}
_WEIGHTS = {"coef_", "intercept_"}


class LinearProbe(Probe):
    """One linear layer with bias on standardised features: cross-entropy, Adam, warm-up and cosine.

    Two deviations from scikit-learn's classifiers, both because OOD scores need every logit:
    ``decision_function`` has a column for each class even when there are two, and with ``n_classes`` there are columns
    for classes without a training row.

    Parameters
    ----------
    n_classes : int or None
        None: the classes are the labels that occur. An integer C: labels are indices in [0, C).
    epochs : int, default 100
    batch_size : int, default 256
        The last, smaller batch of an epoch is used too. The paper's code uses 256 for CIFAR, 8192 for ImageNet.
    lr : float, default 1e-3
        The peak of :func:`learning_rates`; not scaled by the batch size.
    weight_decay : float, default 1e-3
        Coupled, as an L2 penalty in the gradient (Adam, not AdamW), on weights and bias.
    seed : int, default 0
        Of the initial weights and of the order of rows. Torch's global generator is neither read nor changed; the
        same seed, data and device (and number of threads) give the same weights, bit for bit.
    standardize : bool, default True
        By the mean and the unbiased standard deviation of the training rows. A feature that is constant there is
        only centred (scale 1): dividing by 0 would turn every logit into NaN. There is no floor: one that is constant
        but for a row or two has a tiny scale, and rows that differ there get huge logits.
    device : str, default "cpu"
        Where to train. The features live there in their own dtype; standardised batches are float32.

    Attributes
    ----------
    classes_ : (C,)
    coef_ : (C, D) float32
        Of the standardised features.
    intercept_ : (C,) float32
    mean_, scale_ : (D,) float64
        0 and 1 without ``standardize``.
    n_features_in_ : int
    """

    def __init__(
        self,
        n_classes: int | None = None,
        epochs: int = 100,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        seed: int = 0,
        standardize: bool = True,
        device: str = "cpu",
    ) -> None:
        self.n_classes = n_classes
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.seed = seed
        self.standardize = standardize
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Train from scratch. Beside X, memory holds one batch and (off the CPU) a copy of X on the device.

        X may be mapped from disk (``numpy.memmap``, read-only): its rows are read batch by batch, in random order.

        Parameters
        ----------
        X : (N, D) float16, float32 or float64
        y : (N,)
            Rows with an unknown label (-1) must be left out: without ``n_classes`` it would be a class of its own.

        Raises
        ------
        UsageError
            A hyper-parameter is out of range, or a label outside [0, n_classes).
        ValueError
            X is not a finite matrix, or y does not fit it.
        """
        fit_probes([self], X, y)
        return self

    def fit_soft(self, X: npt.ArrayLike, P: npt.ArrayLike, *, moments: Moments | None = None) -> Self:
        """:meth:`fit` on probabilities instead of labels, such as those of ``pseudo_probabilities``.

        The loss of a row is -sum_c P_c log softmax(z)_c, so that P with a single 1 a row is what labels are.

        Parameters
        ----------
        X : (N, D) float16, float32 or float64
        P : (N, C) float16, float32 or float64
            No entry negative, and every row with the sum 1 (within 0.01, which float16 needs). It may be mapped from
            disk like X. Column c is class c, whether or not a row prefers it; ``n_classes`` is None or C.
        moments
            As :func:`fit_probes`.

        Raises
        ------
        UsageError
            A hyper-parameter is out of range, or P or ``moments`` are not as described.
        ValueError
            X is not a finite matrix.
        """
        _check_ranges([self])
        rows = self._training_features(X)
        soft = np.asarray(P)
        _check_probabilities(soft, len(rows), self.n_classes)
        self.classes_ = np.arange(soft.shape[1])
        self._learn_scale(rows, moments)
        _fit([self], rows, soft)
        return self


def fit_probes(
    probes: Sequence[LinearProbe], X: npt.ArrayLike, y: npt.ArrayLike, *, moments: Moments | None = None
) -> list[LinearProbe]:
    """Fit probes that differ in seed, learning rate or weight decay, in one loop instead of one after the other.

    Each keeps the initial weights and the order of rows of its own seed, and ends where ``fit`` would take it, up to
    rounding (a single one bit for bit). Probes with the same seed share each batch. What that saves is everything but
    the matrix products themselves: 25 probes (5 seeds, 5 weight decays) on 10,000 rows of 768 float32 features took
    1 / 4.3 of the time of 25 fits with 10 classes, and 1 / 1.5 of it with 100 classes, of which the products alone are
    nine tenths (one core, medians of 3 runs).

    Parameters
    ----------
    probes : sequence of LinearProbe
        Fitted in place, as ``fit`` does.
    X : (N, D) float16, float32 or float64
    y : (N,)
    moments : (mean, scale) of (D,) float64, optional
        What ``standardize`` divides by, where X is a few rows of many whose :func:`moments` are known: the released
        code of Adaloglou et al. standardises by all training rows, and draws few-shot rows afterwards. Ignored
        without ``standardize``.

    Returns
    -------
    list of LinearProbe
        The same objects. Beside X, training took up to about 0.4 GB: larger stacks are trained in several loops.

    Raises
    ------
    UsageError
        The probes differ in another parameter, one of them is given twice, or ``moments`` are not finite numbers of
        shape (D,) each, with positive scales; otherwise as :meth:`LinearProbe.fit`.
    ValueError
        As :meth:`LinearProbe.fit`.
    """
    if not probes:
        return []
    if len({id(probe) for probe in probes}) < len(probes):
        raise UsageError("the same probe is given twice to be fitted; use sklearn.base.clone")
    first = probes[0]
    expected = first.get_params()
    for probe in probes:
        for name, value in probe.get_params().items():
            if name not in _MAY_DIFFER and value != expected[name]:
                raise UsageError(
                    f"probes that are fitted together may differ in {', '.join(sorted(_MAY_DIFFER))} only, "
                    f"but {name} is {expected[name]!r} for one and {value!r} for another; fit these one by one"
                )
    _check_ranges(probes)
    rows, codes = first._training_rows(X, y, moments)
    _fit(probes, rows, codes)
    return list(probes)


def _fit(probes: Sequence[LinearProbe], rows: Features, targets: npt.NDArray[Any]) -> None:
    """Train all probes on checked input; the first of them has learned everything but its weights."""
    first = probes[0]
    known = {name: value for name, value in vars(first).items() if name.endswith("_") and name not in _WEIGHTS}
    n_classes = len(first.classes_)
    most = max(1, _STACKED // (n_classes * (min(first.batch_size, len(rows)) + rows.shape[1])))
    for places in _stacks([probe.seed for probe in probes], most):
        grid = [[probes[place] for place in row] for row in places]
        stack = Stack(
            seeds=[row[0].seed for row in grid],
            lr=[[probe.lr for probe in row] for row in grid],
            weight_decay=[[probe.weight_decay for probe in row] for row in grid],
            epochs=first.epochs,
            batch_size=first.batch_size,
            device=first.device,
        )
        weights, biases = train(stack, rows, targets, n_classes, first.mean_, first.scale_)
        for row, of_row in zip(grid, zip(weights, biases, strict=True), strict=True):
            for probe, coef, intercept in zip(row, *of_row, strict=True):
                for name, value in known.items():
                    setattr(probe, name, value)
                probe.coef_, probe.intercept_ = coef.copy(), intercept.copy()  # not views that keep the stack alive


def _stacks(seeds: Sequence[int], most: int) -> Iterator[list[list[int]]]:
    """Places of all seeds, as few rectangles (one row a seed, each row equally long) of at most ``most`` places."""
    by_seed: dict[int, list[int]] = {}
    for place, seed in enumerate(seeds):
        by_seed.setdefault(seed, []).append(place)
    by_length: dict[int, list[list[int]]] = {}
    for places in by_seed.values():
        for start in range(0, len(places), most):
            run = places[start : start + most]
            by_length.setdefault(len(run), []).append(run)
    for length, runs in by_length.items():
        height = max(1, most // length)
        yield from (runs[start : start + height] for start in range(0, len(runs), height))


def _check_ranges(probes: Sequence[LinearProbe]) -> None:
    for probe in probes:
        epochs, batch_size, lr, weight_decay = probe.epochs, probe.batch_size, probe.lr, probe.weight_decay
        if min(epochs, batch_size) < 1 or not lr > 0 or not weight_decay >= 0:
            raise UsageError(
                "epochs and batch_size must be at least 1, lr positive and weight_decay not negative; "
                f"got {epochs=}, {batch_size=}, {lr=}, {weight_decay=}"
            )


def _check_probabilities(soft: npt.NDArray[Any], n_rows: int, n_classes: int | None) -> None:
    if soft.dtype.kind != "f" or soft.ndim != 2 or len(soft) != n_rows or n_classes not in (None, soft.shape[1]):
        columns = "C" if n_classes is None else n_classes
        raise UsageError(
            f"soft labels must be floating-point probabilities of shape ({n_rows}, {columns}), "
            f"got shape {soft.shape} and dtype {soft.dtype}"
        )
    for start in range(0, n_rows, _BLOCK):
        block = soft[start : start + _BLOCK]
        # Written so that NaN fails it too.
        good = (block >= 0).all(axis=1) & (np.abs(block.sum(axis=1, dtype=np.float64) - 1) <= 0.01)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise UsageError(
                f"row {start + row} of the soft labels is no probability: its smallest entry is {block[row].min()}, "
                f"its sum {block[row].sum(dtype=np.float64)}"
            )
