"""The linear probe against a plain torch loop, its schedule against a restatement, and scikit-learn's contract."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedstore.errors import UsageError
from embedstore.probes import LinearProbe, learning_rates

rng = np.random.default_rng(0)


def blobs(n=230, width=12, n_classes=5, dtype=np.float32):
    y = np.arange(n) % n_classes
    X = 2 * rng.standard_normal((n_classes, width))[y] + rng.standard_normal((n, width))
    return (X * rng.uniform(0.1, 5, width) + 3).astype(dtype), y


# ---- the schedule ----------------------------------------------------------------------------------------------------


def restated_rate(step, total, peak):
    warm = int(total * 0.1)
    if step < warm:
        return 0.0 if warm == 1 else peak * step / (warm - 1)
    return peak * math.cos(math.pi * (step - warm) / (total - warm) / 2) ** 2


@pytest.mark.parametrize("total", [0, 1, 9, 10, 19, 20, 117, 19_600])
def test_schedule_equals_its_restatement(total):
    found = learning_rates(total, 1e-3)
    assert found.shape == (total,)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [restated_rate(i, total, 1e-3) for i in range(total)], atol=1e-16)


def test_schedule_of_the_cifar_run():
    rates = learning_rates(19_600, 1e-3)
    assert rates[0] == 0
    assert np.flatnonzero(rates == 1e-3).tolist() == [1959, 1960]
    assert 5e-12 < rates[-1] < 1e-11


# ---- training --------------------------------------------------------------------------------------------------------


def reference(X, y, n_classes, epochs, batch_size, lr, weight_decay, seed):
    """The protocol as one would write it first: float32 standardisation, nn.Linear, loss.backward, Adam.step.

    Seeding the global generator and building nn.Linear draws the initial weights, torch.randperm the order.
    """
    X = torch.tensor(X, dtype=torch.float32)
    X = (X - X.mean(dim=0)) / X.std(dim=0)
    y = torch.tensor(y)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = torch.nn.Linear(X.shape[1], n_classes)
        orders = [torch.randperm(len(X)) for _ in range(epochs)]
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    total, step = epochs * math.ceil(len(X) / batch_size), 0
    for order in orders:
        for batch in order.split(batch_size):
            optimizer.param_groups[0]["lr"] = restated_rate(step, total, lr)
            step += 1
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(X[batch]), y[batch]).backward()
            optimizer.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("batch_size", [64, 230, 1000])
def test_weights_equal_a_plain_training_loop(weight_decay, batch_size):
    X, y = blobs()
    settings = {"epochs": 12, "batch_size": batch_size, "lr": 0.02, "weight_decay": weight_decay, "seed": 3}
    probe = LinearProbe(**settings).fit(X, y)
    weight, bias = reference(X, y, 5, **settings)
    np.testing.assert_allclose(probe.coef_, weight, atol=1e-5)
    np.testing.assert_allclose(probe.intercept_, bias, atol=1e-5)


def test_the_learned_attributes():
    X, y = blobs()
    probe = LinearProbe(epochs=3).fit(X, y)
    assert probe.coef_.shape == (5, 12)
    assert probe.coef_.dtype == probe.intercept_.dtype == np.float32
    assert probe.classes_.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(probe.mean_, X.mean(axis=0, dtype=float))
    np.testing.assert_allclose(probe.scale_, X.std(axis=0, dtype=float, ddof=1))
    plain = LinearProbe(epochs=1, standardize=False).fit(X, y)
    assert plain.mean_.tolist() == [0] * 12
    assert plain.scale_.tolist() == [1] * 12


def test_moments_come_in_blocks_and_survive_an_offset(monkeypatch):
    X = rng.standard_normal((100, 3)) + 1e6
    monkeypatch.setattr("embedstore.probes.base._BLOCK", 7)
    probe = LinearProbe(epochs=1).fit(X, np.arange(100) % 2)
    np.testing.assert_allclose(probe.scale_, X.std(axis=0, ddof=1), rtol=1e-9)
    assert probe.decision_function(X).shape == (100, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # in float64 the mean of equal values is not that value
def test_a_constant_feature_does_no_harm(dtype):
    X, y = blobs(dtype=dtype)
    X[:, 3] = 0.1
    probe = LinearProbe(epochs=5).fit(X, y)
    assert probe.scale_[3] == 1
    assert np.isfinite(probe.decision_function(X)).all()
    assert np.isfinite(LinearProbe(epochs=2).fit(X[:1], y[:1]).decision_function(X)).all()  # every feature constant


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    X, y = blobs()
    first = LinearProbe(epochs=3).fit(X, y)
    assert np.array_equal(first.coef_, LinearProbe(epochs=3).fit(X, y).coef_)
    assert np.array_equal(first.coef_, clone(first).fit(X, y).coef_)
    refit = LinearProbe(epochs=3).fit(X[::-1], y).fit(X, y)
    assert np.array_equal(first.coef_, refit.coef_)
    assert not np.array_equal(first.coef_, LinearProbe(epochs=3, seed=1).fit(X, y).coef_)


def test_the_global_generators_are_left_alone():
    X, y = blobs()
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = LinearProbe(epochs=2).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    torch.manual_seed(6)
    assert np.array_equal(LinearProbe(epochs=2).fit(X, y).coef_, first.coef_)


def test_half_precision_and_read_only_and_strange_layouts():
    X, y = blobs(dtype=np.float16)
    expected = LinearProbe(epochs=3).fit(X.astype(np.float32), y).coef_
    frozen = X.copy()
    frozen.setflags(write=False)
    for same in (X, frozen, X[::-1].copy()[::-1], np.asfortranarray(X), X.astype(">f2"), X.tolist()):
        np.testing.assert_allclose(LinearProbe(epochs=3).fit(same, y).coef_, expected, atol=1e-6)
    assert np.array_equal(X, frozen)


def test_training_does_not_import_the_compiler():
    """torch.optim does, which takes longer than most probes train; see _Adam."""
    program = """
import sys, numpy as np
from embedstore.probes import LinearProbe, LogisticProbe
for probe in (LinearProbe(epochs=1), LogisticProbe()):
    probe.fit(np.eye(4), [0, 1, 0, 1]).predict(np.eye(4))
assert not [name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor", "sympy"))]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)


# ---- using it --------------------------------------------------------------------------------------------------------


def test_predictions_are_the_softmax_and_argmax_of_the_formula():
    X, y = blobs()
    names = np.array(["e", "d", "c", "b", "a"])[y]
    probe = LinearProbe(epochs=20, lr=0.05).fit(X, names)
    logits = probe.decision_function(X)
    expected = (X.astype(float) - probe.mean_) / probe.scale_ @ probe.coef_.T.astype(float) + probe.intercept_
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, expected, atol=1e-12)
    np.testing.assert_allclose(probe.predict_proba(X), np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert np.array_equal(probe.predict(X), probe.classes_[logits.argmax(axis=1)])
    assert probe.score(X, names) > 0.95


def test_a_row_ignores_its_neighbours_and_the_blocks(monkeypatch):
    X, y = blobs()
    probe = LinearProbe(epochs=2).fit(X, y)
    whole = probe.decision_function(X)
    np.testing.assert_allclose(np.concatenate([probe.decision_function(x[None]) for x in X]), whole, atol=1e-12)
    monkeypatch.setattr("embedstore.probes.base._BLOCK", 7)
    np.testing.assert_allclose(probe.decision_function(X), whole, atol=1e-12)


def test_two_classes_have_two_logits():
    X, y = blobs(n_classes=2)
    names = np.array(["no", "yes"])[y]
    probe = LinearProbe(epochs=30, lr=0.05).fit(X, names)
    assert probe.decision_function(X).shape == probe.predict_proba(X).shape == (230, 2)
    assert probe.score(X, names) > 0.95


def test_classes_without_rows_still_have_a_logit():
    X, y = blobs()
    probe = LinearProbe(n_classes=8, epochs=5).fit(X, y)
    assert probe.classes_.tolist() == list(range(8))
    assert probe.decision_function(X).shape == (230, 8)
    weight, _ = reference(X, y, 8, epochs=5, batch_size=256, lr=1e-3, weight_decay=1e-3, seed=0)
    np.testing.assert_allclose(probe.coef_, weight, atol=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 5], [-1, 0, 1], [0.0, 1.0, 2.0]])
def test_labels_outside_the_classes_are_refused(labels):
    with pytest.raises(UsageError, match=r"n_classes=5 labels must be integers in \[0, 5\)"):
        LinearProbe(n_classes=5).fit(np.eye(3), labels)


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0}, {"weight_decay": -1}])
def test_hyper_parameters_out_of_range(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UsageError, match=f"{name}={value}"):
        LinearProbe(**bad).fit(np.eye(3), [0, 1, 2])


# Each of these expects decision_function to be (N,) for two classes; ours is (N, 2), because OOD scores need every
# logit. What else they check is checked above, and for three classes by the other checks.
BINARY_SHAPE = dict.fromkeys(
    ["check_classifiers_classes", "check_classifiers_train", "check_decision_proba_consistency"],
    "decision_function is (N, C) for two classes too",
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([LinearProbe(epochs=10, lr=0.1)], expected_failed_checks=lambda _: BINARY_SHAPE)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
