"""What probes are given: moments, features far from zero, NumPy's own integers, a GPU."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV

from embedstore.errors import UsageError
from embedstore.probes import LinearProbe, LogisticProbe, fit_probes, moments

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((120, 6)), np.arange(120) % 3
X += 1.5 * rng.standard_normal((3, 6))[Y]


@pytest.mark.parametrize("probe", [LinearProbe(epochs=20, lr=0.02), LogisticProbe(l2=0.01)])
@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_float64_features_far_from_zero_train_as_near_it(probe, offset):
    """In float32 the step between numbers at 1e9 is 64: nothing of the features would be left."""
    near, far = (type(probe)(**probe.get_params()).fit(features, Y) for features in (X, X + offset))
    np.testing.assert_allclose(far.coef_, near.coef_, atol=1e-4)
    np.testing.assert_allclose(far.decision_function(X + offset), near.decision_function(X), atol=1e-3)
    assert far.coef_.dtype == near.coef_.dtype


def test_numpys_numbers_are_numbers():
    plain = LinearProbe(n_classes=3, epochs=3, batch_size=50, lr=0.01, weight_decay=0.001, seed=1).fit(X, Y)
    given = {"n_classes": np.int64(3), "epochs": np.int32(3), "batch_size": np.int64(50), "seed": np.int64(1)}
    numpys = LinearProbe(**given, lr=np.float64(0.01), weight_decay=np.float64(0.001)).fit(X, Y)
    assert np.array_equal(numpys.coef_, plain.coef_)
    search = GridSearchCV(LinearProbe(epochs=2), {"seed": np.arange(2), "epochs": np.array([1, 2])}, cv=2).fit(X, Y)
    assert search.best_params_["seed"] in (0, 1)
    given = {"n_classes": np.int64(3), "max_iter": np.int64(500), "seed": np.int64(4)}
    found = LogisticProbe(**given, l2_grid=np.array([1.0, 0.1])).fit(X, Y)
    assert np.array_equal(found.coef_, LogisticProbe(3, None, (1.0, 0.1), max_iter=500, seed=4).fit(X, Y).coef_)


def fits(how):
    return (
        lambda: fit_probes([LinearProbe(epochs=1)], X, Y, moments=how),
        lambda: LinearProbe(epochs=1).fit_soft(X, np.eye(3)[Y], moments=how),
        lambda: LogisticProbe(l2=1.0).fit(X, Y, moments=how),
    )


@pytest.mark.parametrize(
    ("mean", "scale", "message"),
    [
        (np.zeros(6), np.ones(5), r"of shape \(6,\), got \(6,\) and \(5,\)"),
        (np.zeros(1), np.ones(6), r"of shape \(6,\), got \(1,\) and \(6,\)"),
        (0.0, 1.0, r"of shape \(6,\), got \(\) and \(\)"),
        (np.zeros((1, 6)), np.ones(6), r"got \(1, 6\)"),
        (np.zeros(6), np.array([1, 1, 0, 1, 1, 1]), "every scale positive"),
        (np.zeros(6), np.array([1, 1, -2, 1, 1, 1]), "every scale positive"),
        (np.full(6, np.nan), np.ones(6), "must be finite"),
        (np.zeros(6), np.full(6, np.inf), "must be finite"),
    ],
)
def test_moments_that_cannot_be(mean, scale, message):
    for fit in fits((mean, scale)):
        with pytest.raises(UsageError, match=message):
            fit()


def test_moments_may_be_lists_and_come_of_lists():
    mean, scale = moments(X.tolist())
    assert np.array_equal(mean, moments(X)[0])
    listed = LogisticProbe(l2=1.0).fit(X, Y, moments=(mean.tolist(), scale.tolist()))
    assert np.array_equal(listed.coef_, LogisticProbe(l2=1.0).fit(X, Y).coef_)
    assert listed.mean_.dtype == listed.scale_.dtype == np.float64
    for bad in ([1.0, 2.0], np.empty((0, 3)), [["a"]]):
        with pytest.raises(UsageError, match="moments are those of"):
            moments(bad)


def test_there_is_no_floor_under_the_scale():
    """As docs/methods.md says: 1e-4 in one row of 600 is a deviation of 4e-6."""
    rows = np.zeros((600, 1))
    rows[0] = 1e-4
    np.testing.assert_allclose(moments(rows)[1], 1e-4 / 600**0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("probe", [LinearProbe(epochs=20, lr=0.02), LogisticProbe(), LogisticProbe(l2=1e-6)])
def test_a_gpu_trains_what_the_cpu_trains(probe, dtype):
    on_cpu = type(probe)(**probe.get_params()).fit(X.astype(dtype), Y)
    on_gpu = type(probe)(**probe.get_params()).set_params(device="cuda").fit(X.astype(dtype), Y)
    np.testing.assert_allclose(on_gpu.coef_, on_cpu.coef_, atol=1e-3)
    np.testing.assert_allclose(on_gpu.intercept_, on_cpu.intercept_, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_a_gpu_trains_several_and_soft_labels():
    cpu, gpu = (
        fit_probes(
            [LinearProbe(epochs=5, lr=lr, seed=seed, device=device) for seed in (0, 1) for lr in (0.01, 0.02)], X, Y
        )
        for device in ("cpu", "cuda")
    )
    for a, b in zip(cpu, gpu, strict=True):
        np.testing.assert_allclose(b.coef_, a.coef_, atol=1e-3)
    soft = rng.dirichlet(np.ones(3), len(X))
    a, b = (LinearProbe(epochs=5, device=device).fit_soft(X, soft) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(b.coef_, a.coef_, atol=1e-3)
