"""Several probes in one loop against one at a time; soft labels against torch's own loss; features mapped from disk."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from embedstore.errors import UsageError
from embedstore.probes import LinearProbe, LogisticProbe, fit_probes, learning_rates, linear, moments

rng = np.random.default_rng(0)
X = (2 * rng.standard_normal((90, 6)) + 1).astype(np.float32)
Y = rng.integers(0, 4, 90)


def same(found, expected):
    """Up to the rounding of a sum in another order, which Adam's division can make large for tiny gradients."""
    assert vars(found).keys() == vars(expected).keys()
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=2e-5)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, atol=2e-5)
    for name in ("classes_", "mean_", "scale_"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def check_together(probes, y=Y):
    fitted = fit_probes(probes, X, y)
    assert all(a is b for a, b in zip(fitted, probes, strict=True))
    for probe in probes:
        same(probe, clone(probe).fit(X, y))


# ---- together --------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1e-3, 0.02]), st.sampled_from([0.0, 1e-3, 0.1])), max_size=7
    ),
    st.sampled_from([32, 90, 500]),
)
@settings(max_examples=25)
def test_together_is_one_by_one(chosen, batch_size):
    check_together([LinearProbe(None, 4, batch_size, lr, decay, seed) for seed, lr, decay in chosen])


@pytest.mark.parametrize("limit", [1, 2 * 4 * (32 + 6), 3 * 4 * (32 + 6)])  # one, two and three probes a stack
def test_large_stacks_are_cut(limit, monkeypatch):
    monkeypatch.setattr(linear, "_STACKED", limit)
    sizes, whole = [], linear.train
    monkeypatch.setattr(linear, "train", lambda stack, *rest: sizes.append(np.shape(stack.lr)) or whole(stack, *rest))
    probes = [LinearProbe(epochs=3, batch_size=32, seed=s, lr=lr) for s in (5, 1, 5) for lr in (0.01, 0.02)]
    check_together([*probes, LinearProbe(epochs=3, batch_size=32, seed=9)])
    together = sizes[: -len(probes) - 1]
    assert sum(map(np.prod, together)) == 7
    assert max(map(np.prod, together)) <= max(1, limit // (4 * (32 + 6)))


def test_a_single_one_is_the_same_bit_for_bit():
    (together,) = fit_probes([LinearProbe(epochs=5, seed=2)], X, Y)
    alone = LinearProbe(epochs=5, seed=2).fit(X, Y)
    assert np.array_equal(together.coef_, alone.coef_)
    assert np.array_equal(together.intercept_, alone.intercept_)


def test_each_holds_its_own_weights_only():
    probes = fit_probes([LinearProbe(n_classes=6, epochs=2, seed=s) for s in range(3)], X, Y)
    for probe in probes:
        assert probe.coef_.base is None
        assert probe.coef_.shape == (6, 6)
        assert probe.coef_.dtype == probe.intercept_.dtype == np.float32
    assert not np.array_equal(probes[0].coef_, probes[1].coef_)


def test_names_and_none_at_all():
    names = np.array(["d", "c", "b", "a"])[Y]
    check_together([LinearProbe(epochs=2, seed=s) for s in range(2)], names)
    assert fit_probes([], X, Y) == []


def test_what_cannot_be_fitted_together():
    probe = LinearProbe(epochs=1)
    with pytest.raises(UsageError, match=r"given twice to be fitted; use sklearn\.base\.clone"):
        fit_probes([probe, probe], X, Y)
    with pytest.raises(UsageError, match="differ in lr, seed, weight_decay only, but epochs is 1 for one and 2"):
        fit_probes([probe, LinearProbe(epochs=2)], X, Y)
    with pytest.raises(UsageError, match=r"lr=-1"):
        fit_probes([probe, LinearProbe(epochs=1, lr=-1)], X, Y)


# ---- the moments of more rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["together", "soft"])
def test_moments_of_more_rows_standardise_the_few(fit):
    """As if the few rows had been standardised by the many beforehand, which is what the released code does."""
    more = (3 * X - 1)[:, ::-1]
    mean, scale = moments(more)

    def fitted(probe, rows, **how):
        if fit == "soft":
            return probe.fit_soft(rows, np.eye(4, dtype=np.float32)[Y], **how)
        return fit_probes([probe], rows, Y, **how)[0]

    found = fitted(LinearProbe(epochs=4), X, moments=(mean, scale))
    assert np.array_equal(found.mean_, mean)
    assert np.array_equal(found.scale_, scale)
    beforehand = ((X - mean) / scale).astype(np.float32)
    expected = fitted(LinearProbe(epochs=4, standardize=False), beforehand)
    np.testing.assert_allclose(found.coef_, expected.coef_, atol=2e-5)
    np.testing.assert_allclose(found.decision_function(X), expected.decision_function(beforehand), atol=1e-4)
    assert not fitted(LinearProbe(epochs=4, standardize=False), X, moments=(mean, scale)).mean_.any()
    assert np.array_equal(fitted(found, X).mean_, moments(X)[0])  # a second fit does not remember them


def test_moments_are_numpys():
    for dtype in (np.float16, np.float32, np.float64):
        mean, scale = moments(X.astype(dtype))
        np.testing.assert_allclose(mean, X.astype(dtype).mean(axis=0, dtype=float), rtol=1e-12)
        np.testing.assert_allclose(scale, X.astype(dtype).std(axis=0, dtype=float, ddof=1), rtol=1e-12)
    assert moments(X[:1])[1].tolist() == [1] * 6


# ---- soft labels -----------------------------------------------------------------------------------------------------


def soft_reference(x, p, epochs, batch_size, lr, weight_decay, seed):
    """-sum P log softmax, written out, with torch's Adam."""
    x = torch.tensor(x)
    x, p = (x - x.mean(dim=0)) / x.std(dim=0), torch.tensor(p)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = torch.nn.Linear(x.shape[1], p.shape[1])
        orders = [torch.randperm(len(x)) for _ in range(epochs)]
    adam = torch.optim.Adam(layer.parameters(), weight_decay=weight_decay)
    batches = [batch for order in orders for batch in order.split(batch_size)]
    for batch, rate in zip(batches, learning_rates(len(batches), lr), strict=True):
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        z = layer(x[batch])
        (-(p[batch] * (z - z.logsumexp(dim=1, keepdim=True))).sum() / len(batch)).backward()
        adam.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_soft_labels_equal_a_plain_loop(weight_decay):
    P = rng.dirichlet(np.full(5, 0.5), len(X)).astype(np.float32)
    settings = {"epochs": 8, "batch_size": 40, "lr": 0.03, "weight_decay": weight_decay, "seed": 4}
    probe = LinearProbe(**settings).fit_soft(X, P)
    weight, bias = soft_reference(X, P, **settings)
    np.testing.assert_allclose(probe.coef_, weight, atol=1e-5)
    np.testing.assert_allclose(probe.intercept_, bias, atol=1e-5)
    assert probe.classes_.tolist() == list(range(5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_hot_soft_labels_are_labels(dtype):
    probe = LinearProbe(n_classes=6, epochs=4)
    same(clone(probe).fit_soft(X, np.eye(6, dtype=dtype)[Y]), clone(probe).fit(X, Y))


@pytest.mark.parametrize(
    ("soft", "message"),
    [
        (np.eye(4, dtype=int)[Y], r"must be floating-point probabilities of shape \(90, C\), got .* int64"),
        (np.eye(4)[Y[:9]], r"got shape \(9, 4\)"),
        (np.ones(90), r"got shape \(90,\)"),
        (0.9 * np.eye(4)[Y], "row 0 of the soft labels is no probability.*its sum 0.9"),
        (np.where(np.arange(90)[:, None] == 50, np.nan, np.eye(4)[Y]), "row 50 .* nan"),
        (np.where(np.arange(90)[:, None] == 7, [2, -1, 0, 0], np.eye(4)[Y]), "row 7 .* smallest entry is -1"),
    ],
)
def test_what_is_no_probability(soft, message):
    with pytest.raises(UsageError, match=message):
        LinearProbe(epochs=1).fit_soft(X, soft)


def test_soft_labels_of_another_number_of_classes():
    with pytest.raises(UsageError, match=r"of shape \(90, 7\), got shape \(90, 4\)"):
        LinearProbe(n_classes=7, epochs=1).fit_soft(X, np.eye(4)[Y])


# ---- from disk -------------------------------------------------------------------------------------------------------


def own_memory():
    """Bytes that no file backs. A copy of the features is too large for the allocator to have it lying about."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def growth(work):
    """By how much memory grew at most while it worked."""
    before, most, done = own_memory(), [0], threading.Event()

    def look():
        while not done.wait(0.002):
            most[0] = max(most[0], own_memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most[0] - before


def test_mapped_features_stay_on_disk(tmp_path):
    rows = rng.standard_normal((160_000, 256), dtype=np.float32).astype(np.float16)
    np.save(tmp_path / "x.npy", rows)
    size, y = rows.nbytes, np.arange(len(rows)) % 3
    del rows
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for probe in (LinearProbe(epochs=1, batch_size=4096), LogisticProbe(l2=1.0, tol=0.1)):
        probe.fit(mapped[:5000], y[:5000]).decision_function(mapped[:5000])  # what torch and SciPy need once
        grown = growth(lambda probe=probe: probe.fit(mapped, y).decision_function(mapped))
        assert grown < 0.6 * size  # a copy would be all of it, one in float64 four times as much


@pytest.mark.parametrize("probe", [LinearProbe(epochs=3), LogisticProbe(l2=0.1)])
def test_mapped_features_give_the_same_weights(probe, tmp_path):
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "x.npy", X.astype(dtype))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        expected, found = clone(probe).fit(X.astype(dtype), Y), clone(probe).fit(mapped, Y)
        assert np.array_equal(found.coef_, expected.coef_)
        assert np.array_equal(found.decision_function(mapped), expected.decision_function(X.astype(dtype)))
