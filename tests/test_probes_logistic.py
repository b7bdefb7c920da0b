"""The logistic probe against scikit-learn's LogisticRegression, its gradient against differences of its loss."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.errors import NotAvailable, UsageError
from embedstore.probes import LogisticProbe, logistic

rng = np.random.default_rng(0)


def blobs(n=200, width=8, n_classes=4, apart=1.0, dtype=np.float32):
    y = np.arange(n) % n_classes
    X = apart * np.random.default_rng(7).standard_normal((n_classes, width))[y] + rng.standard_normal((n, width))
    return (X * rng.uniform(0.1, 5, width) + 3).astype(dtype), y


def standard(probe, X):
    return (X.astype(float) - probe.mean_) / probe.scale_


def oracle(X, y, l2):
    return LogisticRegression(C=1 / (l2 * len(X)), tol=1e-10, max_iter=10_000).fit(X, y)


# ---- the optimum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("n_classes", [3, 4])
def test_it_is_scikit_learns_optimum(l2, n_classes, dtype):
    X, y = blobs(n_classes=n_classes, dtype=dtype)
    probe = LogisticProbe(l2=l2, tol=1e-9).fit(X, y)
    expected = oracle(standard(probe, X), y, l2)
    np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-4)
    np.testing.assert_allclose(probe.intercept_, expected.intercept_, atol=1e-4)
    np.testing.assert_allclose(probe.decision_function(X), expected.decision_function(standard(probe, X)), atol=1e-3)
    new, _ = blobs(dtype=dtype)
    assert np.array_equal(probe.predict(new), expected.predict(standard(probe, new)))


def test_two_classes_are_half_of_scikit_learns():
    """Its binary weights are one difference w, under l2/2 w²; ours are w/2 and -w/2, under half of that."""
    X, y = blobs(n_classes=2)
    probe = LogisticProbe(l2=0.02, tol=1e-9).fit(X, y)
    expected = oracle(standard(probe, X), y, 0.01)
    np.testing.assert_allclose(probe.coef_, [-expected.coef_[0] / 2, expected.coef_[0] / 2], atol=1e-4)
    assert probe.decision_function(X).shape == (200, 2)


def test_without_standardisation():
    X, y = blobs()
    probe = LogisticProbe(l2=0.01, tol=1e-9, standardize=False).fit(X, y)
    expected = oracle(X.astype(float), y, 0.01)
    np.testing.assert_allclose(probe.coef_, expected.coef_, atol=1e-4)
    np.testing.assert_allclose(probe.decision_function(X), expected.decision_function(X.astype(float)), atol=1e-3)


def test_the_laws_of_the_optimum():
    """Its derivatives are 0: predicted frequencies are the true ones, and l2 W is what the loss asks for."""
    X, y = blobs()
    probe = LogisticProbe(l2=0.01, tol=1e-10).fit(X, y)
    error = probe.predict_proba(X) - np.eye(4)[y]
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(-error.T @ standard(probe, X) / len(X), 0.01 * probe.coef_, atol=1e-8)
    np.testing.assert_allclose(probe.coef_.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(probe.intercept_.sum(), 0, atol=1e-9)


@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 1e-3, 2.0]), st.integers(0, 99))
def test_gradient_and_loss_are_those_of_the_formula(n_classes, width, l2, seed):
    draw = np.random.default_rng(seed)
    X, y = draw.standard_normal((11, width)), draw.integers(0, n_classes, 11)
    mean, scale = draw.standard_normal(width), draw.uniform(0.5, 2, width)
    chosen = None if seed % 2 else np.array([1, 4, 5, 10])
    data = logistic._Data(*map(torch.as_tensor, (X, y, mean, scale)), n_classes, None)
    if chosen is not None:
        data, X, y = data.part(chosen), X[chosen], y[chosen]

    def restated(flat):
        parameters = flat.reshape(n_classes, width + 1)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        log_p = log_softmax((X - mean) / scale @ weight.T + bias, axis=1)
        return -log_p[np.arange(len(y)), y].mean() + l2 / 2 * (weight**2).sum()

    flat = draw.standard_normal(n_classes * (width + 1))
    parameters = torch.as_tensor(flat).view(n_classes, -1)
    value, gradient, _ = data.loss(parameters, l2, torch.float64)
    assert value == pytest.approx(restated(flat), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(gradient.ravel(), approx_fprime(flat, restated, 1e-7), atol=2e-5)
    rough, sloped, _ = data.loss(parameters, l2, torch.float32)
    assert rough == pytest.approx(value, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(sloped, gradient, atol=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    X, y = blobs()
    whole = LogisticProbe(n_classes=5, tol=1e-9).fit(X, y)
    monkeypatch.setattr(logistic, "_ROWS", 7)
    blocks = LogisticProbe(n_classes=5, tol=1e-9).fit(X, y)
    assert blocks.l2_path_ == whole.l2_path_
    np.testing.assert_allclose(blocks.coef_, whole.coef_, atol=1e-5)
    np.testing.assert_allclose(blocks.intercept_, whole.intercept_, atol=1e-5)


def test_order_of_rows_does_not_matter_with_a_given_penalty():
    X, y = blobs()
    probe = LogisticProbe(l2=0.01, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(LogisticProbe(l2=0.01, tol=1e-9).fit(X[::-1], y[::-1]).coef_, probe.coef_, atol=1e-6)


def test_no_convergence_warns():
    X, y = blobs()
    with pytest.warns(
        ConvergenceWarning, match=r"after 2 iterations with l2=0.01: .* and 1.0e-06 .*raise max_iter=2 or"
    ):
        probe = LogisticProbe(l2=0.01, max_iter=2).fit(X, y)
    assert probe.n_iter_ == 2
    assert LogisticProbe(l2=0.01).fit(X, y).n_iter_ > 2


def test_features_far_from_zero_and_constant_ones():
    X, y = blobs(dtype=np.float64)
    near = LogisticProbe(l2=0.01, tol=1e-9).fit(X, y)
    far = LogisticProbe(l2=0.01, tol=1e-9).fit(np.hstack([X + 1e6, np.full((200, 1), 0.1)]), y)
    np.testing.assert_allclose(far.coef_[:, :-1], near.coef_, atol=1e-5)
    assert far.scale_[-1] == 1
    np.testing.assert_allclose(far.coef_[:, -1], 0, atol=1e-12)


# ---- choosing the penalty --------------------------------------------------------------------------------------------


def test_the_penalty_is_chosen_as_one_would_by_hand():
    """Each penalty fitted from zero by scikit-learn on the part that is not held out; the best, then all rows."""
    X, y = blobs(n=300, width=20, apart=0.35)
    grid = (1e-3, 10.0, 1e-1, 1.0)
    probe = LogisticProbe(l2_grid=grid, held_out=0.3, seed=5, tol=1e-9).fit(X, y)
    train, held = logistic._split(y, 0.3, 5)
    Z = standard(probe, X)
    by_hand = {l2: oracle(Z[train], y[train], l2).score(Z[held], y[held]) for l2 in sorted(grid, reverse=True)}
    assert list(probe.l2_path_.items()) == list(by_hand.items())
    assert probe.l2_ == max(by_hand, key=by_hand.get)
    assert len(set(by_hand.values())) > 2
    refitted = LogisticProbe(l2=probe.l2_, tol=1e-9).fit(X, y)
    assert refitted.l2_path_ == {}
    np.testing.assert_allclose(probe.coef_, refitted.coef_, atol=1e-5)
    np.testing.assert_allclose(probe.coef_, oracle(Z, y, probe.l2_).coef_, atol=1e-4)


def test_of_equally_good_penalties_the_strongest():
    X, y = blobs(apart=30)
    probe = LogisticProbe(l2_grid=(1e-2, 1e-1, 1e-3)).fit(X, y)
    assert probe.l2_path_ == {0.1: 1.0, 0.01: 1.0, 0.001: 1.0}
    assert probe.l2_ == 0.1


def test_the_seed_draws_the_held_out_rows():
    X, y = blobs(apart=0.3)
    paths = [LogisticProbe(seed=seed, tol=1e-4).fit(X, y).l2_path_ for seed in (0, 0, 1)]
    assert paths[0] == paths[1] != paths[2]
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    torch_before = torch.get_rng_state()
    LogisticProbe(seed=0, tol=1e-4).fit(X, y)
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 9))
def test_the_split_is_stratified(labels, held_out, seed):
    _, places = np.unique(labels, return_inverse=True)
    train, held = logistic._split(places, held_out, seed)
    assert sorted([*train, *held]) == list(range(len(places)))
    assert np.array_equal(train, np.sort(train))
    assert np.array_equal(held, np.sort(held))
    for place in np.unique(places):
        rows, taken = (places == place).sum(), (places[held] == place).sum()
        assert taken == (0 if rows == 1 else min(max(round(held_out * rows), 1), rows - 1))


def test_every_row_of_a_class_may_be_held_out():
    places = np.repeat([0, 1], 5)
    drawn = np.concatenate([logistic._split(places, 0.2, seed)[1] for seed in range(60)])
    assert set(drawn) == set(range(10))


def test_one_row_a_class_leaves_nothing_to_choose_with():
    X = np.eye(3)
    with pytest.raises(NotAvailable, match=r"no class has two rows \(n_samples=3, n_classes=3\); give l2"):
        LogisticProbe().fit(X, [0, 1, 2])
    assert LogisticProbe(l2=0.1).fit(X, [0, 1, 2]).score(X, [0, 1, 2]) == 1
    assert LogisticProbe().fit(np.eye(4), [0, 1, 2, 2]).coef_.shape == (3, 4)  # one row is enough


# ---- classes without rows --------------------------------------------------------------------------------------------


def test_classes_without_rows_have_finite_logits():
    X, y = blobs()
    empty = LogisticProbe(n_classes=9, l2=0.01, tol=1e-9).fit(X, 2 * y)
    full = LogisticProbe(l2=0.01, tol=1e-9).fit(X, y)
    assert np.array_equal(empty.coef_[[0, 2, 4, 6]], full.coef_)
    assert np.array_equal(empty.intercept_[[0, 2, 4, 6]], full.intercept_)
    assert not empty.coef_[[1, 3, 5, 7, 8]].any()
    lowest = full.decision_function(X).min() - np.log(201)
    np.testing.assert_allclose(empty.intercept_[[1, 3, 5, 7, 8]], lowest)
    assert (empty.predict_proba(X)[:, [1, 3, 5, 7, 8]] <= 1 / 201).all()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_one_class_of_three(rows):
    probe = LogisticProbe(n_classes=3, l2=1.0).fit(rng.standard_normal((rows, 2)), [1] * rows)
    assert np.isfinite(probe.intercept_).all()
    assert (probe.predict(rng.standard_normal((20, 2))) == 1).all()


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"l2": 0}, "got l2="),
        ({"l2": -1.0}, "got l2="),
        ({"l2": np.nan}, "got l2="),
        ({"l2_grid": ()}, r"at least one of them; got l2_grid=\(\)"),
        ({"l2_grid": (1.0, 0.0)}, "must be positive numbers"),
        ({"held_out": 0.0}, "held_out=0.0"),
        ({"held_out": 1}, "held_out=1"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"tol": 0.0}, "tol=0.0"),
    ],
)
def test_parameters_out_of_range(bad, message):
    with pytest.raises(UsageError, match=message):
        LogisticProbe(**bad).fit(np.eye(4), [0, 0, 1, 1])


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(UsageError, match=r"n_classes=2 labels must be integers in \[0, 2\)"):
        LogisticProbe(n_classes=2).fit(np.eye(3), [0, 1, 2])


def test_fitting_twice_is_fitting_once():
    X, y = blobs()
    probe = LogisticProbe().fit(X, y)
    again = clone(probe).fit(X[:100], y[:100]).fit(X, y)
    assert np.array_equal(again.coef_, probe.coef_)
    assert again.l2_path_ == probe.l2_path_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = again.set_params(l2=0.5).fit(X, y)
    assert (given.l2_, given.l2_path_) == (0.5, {})


# These expect decision_function to be (N,) for two classes; see test_probes.py.
BINARY_SHAPE = dict.fromkeys(
    ["check_classifiers_classes", "check_classifiers_train"], "decision_function is (N, C) for two classes too"
)
NO_CHOICE = {"check_fit2d_1sample": "NotAvailable, which is no ValueError: the data cannot give what was asked"}


def expected_to_fail(estimator):
    return BINARY_SHAPE | (NO_CHOICE if estimator.l2 is None else {})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([LogisticProbe(), LogisticProbe(l2=1e-3)], expected_failed_checks=expected_to_fail)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
