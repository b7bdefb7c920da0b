"""Linear probes: the paper's recipe against the released code's loop, L-BFGS against scikit-learn, 25 at once."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.features import WIDTH, clouds
from benchmarks.pairs import Disagreement, Reference, Stage, close
from embedstore.probes import LinearProbe, LogisticProbe, fit_probes, learning_rates

if TYPE_CHECKING:
    import torch

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_EPOCHS = 10  # of the recipe's 100, all of which would take the same times ten
_EPOCHS_OF_25 = 3
_L2 = 1e-3


def probe(scale: float) -> Iterator[Stage]:
    """The paper's recipe, 50,000 rows and 100 classes, with all that comes before the first step."""
    X, labels = clouds(int(50_000 * scale), 100)

    def ours() -> Any:
        fitted = LinearProbe(epochs=_EPOCHS).fit(X, labels)
        return fitted.coef_, fitted.intercept_

    def theirs(workers: int) -> Callable[[], Any]:
        return partial(_dataloader_loop, X, labels, workers, _EPOCHS)

    yield Stage(
        f"linear probe, {len(X):,} x {WIDTH}, 100 classes, {_EPOCHS} epochs",
        ours,
        [
            Reference("DataLoader loop, no workers", theirs(0), _same_weights, aim=7.0),
            Reference("DataLoader loop, 4 workers", theirs(4), _same_weights, aim=7.0),
        ],
    )


def logistic(scale: float) -> Iterator[Stage]:
    """The optimum of logistic regression, 10,000 rows and 100 classes."""
    from sklearn.linear_model import LogisticRegression

    X, labels = clouds(int(10_000 * scale), 100)

    def ours() -> Any:
        fitted = LogisticProbe(l2=_L2).fit(X, labels)
        return fitted.coef_, fitted.intercept_

    def theirs(dtype: type[np.floating[Any]], tol: float) -> Any:
        rows = X.astype(dtype)
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
        fitted = LogisticRegression(C=1 / (_L2 * len(X)), tol=tol, max_iter=1000).fit(rows, labels)
        return fitted.coef_, fitted.intercept_

    def equal(mine: Any, other: Any) -> None:
        a, b = (_objective(X, labels, *weights) for weights in (mine, other))
        if not abs(a - b) < 1e-4 * min(a, b):
            raise Disagreement(f"the objective is {a:.8g} by ours and {b:.8g} by the reference")

    yield Stage(
        f"logistic regression by L-BFGS, {len(X):,} x {WIDTH}, 100 classes, l2 = {_L2:g}",
        ours,
        [
            # The default tol, 1e-4, stops where the objective is still 1 % above the minimum.
            Reference("scikit-learn, float32, tol=1e-5", partial(theirs, np.float32, 1e-5), equal, aim=3.0),
            Reference("scikit-learn, float64, tol=1e-6 as ours", partial(theirs, np.float64, 1e-6), equal, aim=3.0),
        ],
    )


def together(scale: float) -> Iterator[Stage]:
    """Five seeds and five L2 penalties in one loop against the same 25 probes one by one."""
    for n_classes in (10, 100):
        X, labels = clouds(int(10_000 * scale), n_classes)
        yield Stage(
            f"25 probes, {len(X):,} x {WIDTH}, {n_classes} classes, {_EPOCHS_OF_25} epochs",
            partial(_at_once, X, labels),
            [Reference("one by one", partial(_one_by_one, X, labels), _all_the_same, aim=3.0)],
        )


def _grid() -> list[LinearProbe]:
    pairs = itertools.product(range(5), (0.0, 1e-4, 1e-3, 1e-2, 1e-1))
    return [LinearProbe(epochs=_EPOCHS_OF_25, seed=seed, weight_decay=l2) for seed, l2 in pairs]


def _at_once(X: Float32, labels: Int64) -> list[Any]:
    return [(p.coef_, p.intercept_) for p in fit_probes(_grid(), X, labels)]


def _one_by_one(X: Float32, labels: Int64) -> list[Any]:
    return [(p.coef_, p.intercept_) for p in (p.fit(X, labels) for p in _grid())]


def _dataloader_loop(X: Float32, labels: Int64, workers: int, epochs: int) -> tuple[Float32, Float32]:
    """Training as the released code of arXiv 2303.05828 does it, which has four workers.

    Its initial weights and its order of rows are given to it, so that both sides can be compared.
    """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, batch = torch.from_numpy(X), 256
    data = TensorDataset((x - x.mean(dim=0)) / x.std(dim=0), torch.from_numpy(labels))
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            bound = x.shape[1] ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)
    criterion = torch.nn.CrossEntropyLoss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises fewer workers, which is the other reference
        loader = DataLoader(data, batch_size=batch, sampler=_Shuffled(len(X), generator), num_workers=workers)
        rates = iter(learning_rates(epochs * len(loader), 1e-3).tolist())
        for rows, targets in itertools.chain.from_iterable(itertools.repeat(loader, epochs)):
            adam.zero_grad(set_to_none=True)
            for group in adam.param_groups:
                group["lr"] = next(rates)
            loss = criterion(model(rows), targets)
            loss.backward()
            adam.step()
            loss.item()
    return model.weight.detach().numpy(), model.bias.detach().numpy()


class _Shuffled:
    """The order of ``DataLoader(shuffle=True)``, drawn from a generator that nobody else draws from."""

    def __init__(self, n_rows: int, generator: torch.Generator) -> None:
        self._n_rows, self._generator = n_rows, generator

    def __len__(self) -> int:
        return self._n_rows

    def __iter__(self) -> Iterator[int]:
        import torch

        return iter(torch.randperm(self._n_rows, generator=self._generator).tolist())


def _same_weights(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        close(mine, other, 1e-4)


def _all_the_same(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        _same_weights(mine, other)


def _objective(X: Float32, labels: Int64, weights: Any, intercepts: Any) -> float:
    """The penalised mean cross-entropy on standardised features, in float64, whoever found the weights."""
    from scipy.special import logsumexp

    rows = X.astype(np.float64)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)
    weights = np.asarray(weights, dtype=np.float64)
    logits = rows @ weights.T + intercepts
    losses = logsumexp(logits, axis=1) - logits[np.arange(len(rows)), labels]
    return float(losses.mean() + _L2 / 2 * np.square(weights).sum())
