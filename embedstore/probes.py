"""A linear probe: multinomial logistic regression on frozen features, trained as the paper trains it.

Adaloglou et al. (arXiv 2303.05828): on pseudo-labels this is the second half of PLP, on true labels the supervised
probe. Not the optimum that ``sklearn.linear_model.LogisticRegression`` finds: how, and how long, it is trained matters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from embedstore.errors import UsageError

if TYPE_CHECKING:
    import torch

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Features = npt.NDArray[np.floating[Any]]

_BLOCK = 4096  # rows handled at once in float64; with 1,280 features 42 MB


def learning_rates(total_steps: int, peak: float) -> Float64:
    """The learning rate of every step: a linear warm-up from 0, then half a cosine towards 0.

    The first int(0.1 x total) steps rise from 0 to the peak, both included; the others fall from the peak, so the peak
    appears twice, and the last rate is a little above 0. As in the released code of Adaloglou et al., whose scaling of
    the rate by batch size / 256 is overwritten by this schedule and so never happens.

    Parameters
    ----------
    total_steps : int
    peak : float

    Returns
    -------
    (total_steps,) float64
    """
    warm = int(0.1 * total_steps)
    fall = total_steps - warm
    cosine = 0.5 * peak * (1 + np.cos(np.pi * np.arange(fall) / max(fall, 1)))
    return np.concatenate([np.linspace(0, peak, warm), cosine])


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
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
        only centred (scale 1): dividing by 0 would turn every logit into NaN.
    device : str, default "cpu"
        Where to train. The features live there in their own dtype; batches are float32.

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
        from sklearn.utils.validation import validate_data

        if min(self.epochs, self.batch_size) < 1 or not self.lr > 0 or not self.weight_decay >= 0:
            raise UsageError(
                "epochs and batch_size must be at least 1, lr positive and weight_decay not negative; "
                f"got {self.epochs=}, {self.batch_size=}, {self.lr=}, {self.weight_decay=}".replace("self.", "")
            )
        rows, labels = validate_data(self, X, y, dtype=[np.float32, np.float64, np.float16])
        codes = self._codes(labels)
        width = rows.shape[1]
        self.mean_: Float64 = np.zeros(width)
        self.scale_: Float64 = np.ones(width)
        if self.standardize:
            self.mean_, self.scale_ = _moments(rows)
        self.coef_, self.intercept_ = self._train(rows, codes)
        return self

    def decision_function(self, X: npt.ArrayLike) -> Float64:
        """The logits, one column for each class even when there are two.

        Parameters
        ----------
        X : (N, D) real

        Returns
        -------
        (N, C) float64
            Beside it, memory holds one block of 4,096 rows.
        """
        from sklearn.utils.validation import check_is_fitted, validate_data

        check_is_fitted(self)
        rows = validate_data(self, X, dtype="numeric", reset=False)
        logits = np.empty((len(rows), len(self.classes_)))
        weights = self.coef_.T.astype(np.float64)  # (D, C)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            logits[block] = (rows[block].astype(np.float64) - self.mean_) / self.scale_ @ weights + self.intercept_
        return logits

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """The class with the largest logit, (N,); the first of several equal ones."""
        winners = self.decision_function(X).argmax(axis=1)
        labels: npt.NDArray[np.generic] = self.classes_[winners]
        return labels

    def predict_proba(self, X: npt.ArrayLike) -> Float64:
        """Softmax of the logits: (N, C) float64, rows sum to 1."""
        z = self.decision_function(X)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    def _codes(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Set ``classes_`` and return each row's class as an index into them."""
        from sklearn.utils.multiclass import check_classification_targets

        check_classification_targets(labels)
        if self.n_classes is None:
            self.classes_, codes = np.unique(labels, return_inverse=True)
            return codes.astype(np.int64)
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.n_classes:
            raise UsageError(
                f"with n_classes={self.n_classes} labels must be integers in [0, {self.n_classes}), "
                f"got {labels.dtype} from {labels.min()} to {labels.max()}"
            )
        self.classes_ = np.arange(self.n_classes)
        return labels.astype(np.int64)

    def _train(self, rows: Features, codes: npt.NDArray[np.int64]) -> tuple[Float32, Float32]:
        """Weights (C, D) and bias (C,).

        Autograd rather than gradients by hand: those were at most 10 % faster (1.2 against 1.3 ms a step for 256 x
        1,280 and 100 classes on two CPU cores), which is not worth the calculus.
        """
        import torch
        from torch.nn.functional import cross_entropy, linear

        generator = torch.Generator().manual_seed(self.seed)  # on the CPU, so that all devices draw the same numbers
        weight, bias = (
            t.to(self.device).requires_grad_() for t in _initial(generator, len(self.classes_), rows.shape[1])
        )
        adam = _Adam([weight, bias], self.weight_decay)
        x, y = _tensor(rows).to(self.device), _tensor(codes).to(self.device)
        mean, scale = (torch.as_tensor(m, dtype=torch.float32, device=self.device) for m in (self.mean_, self.scale_))
        steps = self.epochs * -(-len(rows) // self.batch_size)
        batches = _batches(generator, len(rows), self.batch_size, self.epochs)
        for rate, batch in zip(learning_rates(steps, self.lr).tolist(), batches, strict=True):
            index = batch.to(self.device)
            # One indexing operation a batch; a DataLoader over a tensor fetches and stacks it row by row.
            adam.step(cross_entropy(linear((x[index].float() - mean) / scale, weight, bias), y[index]), rate)
        return weight.detach().cpu().numpy(), bias.detach().cpu().numpy()


class _Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980) with coupled weight decay: the numbers of ``torch.optim.Adam``.

    Written out because merely constructing one of torch's optimizers imports torch's compiler, which takes several
    seconds: longer than most probes train. The step itself is as fast as the fused one.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], weight_decay: float) -> None:
        import torch

        self.parameters, self.weight_decay, self.steps = parameters, weight_decay, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    def step(self, loss: torch.Tensor, rate: float, beta1: float = 0.9, beta2: float = 0.999) -> None:
        """Differentiate the loss and move the parameters."""
        import torch

        self.steps += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for p, gradient, (first, second) in zip(self.parameters, gradients, self.moments, strict=True):
                g = gradient.add(p, alpha=self.weight_decay)
                first.lerp_(g, 1 - beta1)
                second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                spread = second.sqrt().div_((1 - beta2**self.steps) ** 0.5).add_(1e-8)
                p.addcdiv_(first, spread, value=-rate / (1 - beta1**self.steps))


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """The array as a tensor on the CPU, sharing its memory where torch can (contiguous, native byte order)."""
    import torch

    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # Features mapped from disk are read-only; torch warns that it could write to them, which training does not.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(native)


def _initial(generator: torch.Generator, n_classes: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``torch.nn.Linear(width, n_classes)`` starts from: uniform in ±1 / sqrt(width), weights then bias."""
    import torch

    bound = width**-0.5
    weight = torch.empty(n_classes, width).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)


def _batches(generator: torch.Generator, n: int, size: int, epochs: int) -> Iterator[torch.Tensor]:
    """Row numbers of each batch; a new permutation every epoch, the last batch of which may be smaller."""
    import torch

    for _ in range(epochs):
        order = torch.randperm(n, generator=generator)
        yield from (order[start : start + size] for start in range(0, n, size))


def _moments(rows: Features) -> tuple[Float64, Float64]:
    """Mean and unbiased standard deviation of every feature, (D,) each; the deviation is 1 where it would be 0."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):
        total += rows[start : start + _BLOCK].sum(axis=0, dtype=np.float64)
    mean = total / len(rows)
    squares = np.zeros(rows.shape[1])
    for start in range(0, len(rows), _BLOCK):  # a second pass, because sums of raw squares cancel
        squares += np.square(rows[start : start + _BLOCK].astype(np.float64) - mean).sum(axis=0)
    scale = np.sqrt(squares / max(len(rows) - 1, 1))
    # The computed mean of a constant feature is off by rounding, so its deviation is tiny rather than 0.
    constant = scale <= 1e-12 * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)
