"""How near the logistic probe comes to its optimum with default settings, and that it says where it does not."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from embedstore.probes import LogisticProbe, logistic


def blobs(n, width, n_classes, apart):
    rng = np.random.default_rng(7)
    y = np.arange(n) % n_classes
    X = apart * rng.standard_normal((n_classes, width))[y] + rng.standard_normal((n, width))
    return X * rng.uniform(0.1, 5, width) + 3, y


@pytest.mark.parametrize("l2", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize(
    ("n", "width", "n_classes", "apart"),
    [(200, 8, 4, 0.3), (200, 8, 4, 1.0), (200, 8, 4, 5.0), (600, 40, 10, 0.3), (600, 40, 10, 1.0)],
)
def test_default_settings_reach_the_optimum_under_weak_penalties_too(n, width, n_classes, apart, l2):
    """Newton's method to a gradient of rounding's size is the reference; a fixed 1e-6 ended 0.1 away from it."""
    X, y = blobs(n, width, n_classes, apart)
    probe = LogisticProbe(l2=l2).fit(X, y)
    Z = (X - probe.mean_) / probe.scale_
    newton = LogisticRegression(C=1 / (l2 * n), solver="newton-cholesky", tol=1e-12, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a line search that finds nothing lower
        newton.fit(Z, y)
    np.testing.assert_allclose(probe.coef_, newton.coef_, atol=1e-3)
    # The penalised loss has the curvature l2 at least, which bounds the distance by the gradient.
    slope = (probe.predict_proba(Z * probe.scale_ + probe.mean_) - np.eye(n_classes)[y]).T @ Z / n + l2 * probe.coef_
    assert np.abs(slope).max() <= 1.1e-3 * l2


def test_a_given_and_a_chosen_weak_penalty_end_alike():
    X, y = blobs(200, 8, 4, 5.0)
    chosen = LogisticProbe(l2_grid=(1e-6,)).fit(X, y)
    np.testing.assert_allclose(chosen.coef_, LogisticProbe(l2=1e-6).fit(X, y).coef_, atol=1e-3)


@pytest.mark.parametrize("l2", [1e-4, 1.0])
def test_the_optimum_is_reached_where_the_loss_no_longer_shows_it(l2):
    """Its last digit is 1e-16, so it is flat where the gradient is still 1e-9."""
    X, y = blobs(200, 8, 4, 0.3)
    probe = LogisticProbe(l2=l2, tol=1e-12).fit(X, y)  # without a warning
    newton = LogisticRegression(C=1 / (l2 * 200), solver="newton-cholesky", tol=1e-12)
    newton.fit((X - probe.mean_) / probe.scale_, y)
    np.testing.assert_allclose(probe.coef_, newton.coef_, atol=1e-9)


def test_an_optimum_that_rounding_hides_is_said():
    """SciPy calls it success that the loss falls no further."""
    X, y = blobs(200, 8, 4, 1.0)
    with pytest.warns(ConvergenceWarning, match="1.0e-300 was to be reached; rounding lets the loss fall no further"):
        LogisticProbe(l2=0.01, tol=1e-300).fit(X, y)


@pytest.mark.parametrize("apart", [0.3, 5.0])
def test_no_number_is_common_to_all_classes(apart):
    probe = LogisticProbe(l2=1e-3).fit(*blobs(200, 8, 4, apart))
    np.testing.assert_allclose(probe.intercept_.sum(), 0, atol=1e-13)
    np.testing.assert_allclose(probe.coef_.sum(axis=0), 0, atol=1e-13)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1024] * 97 + [672]), ("cuda", [65_536, 34_464])])
def test_blocks_are_larger_off_the_cpu(device, sizes):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    x, y = torch.zeros(100_000, 2, device=device), torch.zeros(100_000, dtype=torch.int64, device=device)
    mean, scale = (torch.ones(2, dtype=torch.float64, device=device) for _ in range(2))
    data = logistic._Data(x, y, mean, scale, 3, None)
    assert [len(x) for x, _ in data.blocks(torch.float64)] == sizes
