"""Scores of logits against scipy, plain Python loops and fifty digits; and the laws that hold for every row."""

import decimal
import math
import tracemalloc

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedstore.errors import UsageError
from embedstore.scores import LOGIT_SCORES, energy, entropy, gen, l1_norm, max_logit, msp, perplexity

rng = np.random.default_rng(0)
logits = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.floats(-50, 50))
temperatures = st.sampled_from([0.01, 0.5, 1.0, 10.0])


@given(logits, temperatures)
@settings(deadline=None)
def test_logit_scores_equal_scipy(z, t):
    np.testing.assert_allclose(msp(z, t), scipy.special.softmax(z / t, axis=1).max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(energy(z, t), t * scipy.special.logsumexp(z / t, axis=1), rtol=1e-12, atol=1e-12)
    assert np.array_equal(max_logit(z), z.max(axis=1))


@given(logits, temperatures)
@settings(deadline=None)
def test_entropies_equal_scipy(z, t):
    p = scipy.special.softmax(z / t, axis=1)
    shannon = scipy.special.entr(p).sum(axis=1)
    np.testing.assert_allclose(entropy(z, t), -shannon, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(perplexity(z, t), -np.exp(shannon), rtol=1e-12)


@given(logits)
@settings(deadline=None)
def test_l1_is_the_sum_above_the_smallest(z):
    expected = [sum(value - min(row) for value in row) for row in z.tolist()]
    np.testing.assert_allclose(l1_norm(z), expected, rtol=1e-12, atol=1e-12)


@given(logits, st.sampled_from([0.1, 0.5]), st.sampled_from([1, 2, 5, 100]))
@settings(deadline=None)
def test_gen_equals_the_formula(z, gamma, m):
    """Where p < 1 can be told from 1 in float64: closer to it the formula, taken literally, is rounding error."""
    z = z / 10
    p = np.sort(scipy.special.softmax(z, axis=1), axis=1)[:, -m:]
    if z.shape[1] > 1:
        np.testing.assert_allclose(gen(z, gamma, m), -((p**gamma) * (1 - p) ** gamma).sum(axis=1), rtol=1e-11)
    else:
        assert (gen(z, gamma, m) == 0).all()


@given(st.lists(st.integers(-90, 0), min_size=1, max_size=6), st.sampled_from([1, 3, 100]))
@settings(deadline=None, max_examples=50)
def test_sharp_softmaxes_keep_their_digits(below, m):
    """Against fifty digits: where the largest probability rounds to 1, what is left still ranks rows."""
    with decimal.localcontext(prec=50):
        powers = [decimal.Decimal(b).exp() for b in [0, *below]]
        p = sorted((power / sum(powers) for power in powers), reverse=True)
        shannon = -sum(q * q.ln() for q in p)
        generalised = sum((q * (1 - q)) ** decimal.Decimal("0.1") for q in p[:m])
    z = np.array([[7, *(7 + b for b in below)]])
    np.testing.assert_allclose(entropy(z), [-float(shannon)], rtol=1e-12)
    np.testing.assert_allclose(gen(z, m=m), [-float(generalised)], rtol=1e-12)


def test_gen_as_openood_has_it_over_a_thousand_classes():
    z = 3 * rng.standard_normal((20, 1000))
    p = np.sort(scipy.special.softmax(z, axis=1), axis=1)[:, -100:]
    np.testing.assert_allclose(gen(z), -(p**0.1 * (1 - p) ** 0.1).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("bad", [{"gamma": 0}, {"gamma": 1}, {"gamma": np.nan}, {"m": 0}])
def test_gen_refuses_what_is_no_entropy(bad):
    with pytest.raises(UsageError, match="gen needs gamma"):
        gen(np.ones((1, 2)), **bad)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_one_class_and_equal_logits_are_scored(name):
    assert np.isfinite(LOGIT_SCORES[name](np.array([[3.0], [-2.0]]))).all()
    assert len(set(LOGIT_SCORES[name](np.full((40, 5), 0.1)))) == 1


@given(logits, st.floats(-100, 100))
@settings(deadline=None)
def test_shifting_a_row(z, shift):
    np.testing.assert_allclose(msp(z + shift), msp(z), rtol=1e-10)
    np.testing.assert_allclose(energy(z + shift), energy(z) + shift, atol=1e-10)
    np.testing.assert_allclose(entropy(z + shift), entropy(z), atol=1e-10)
    np.testing.assert_allclose(l1_norm(z + shift), l1_norm(z), atol=1e-10)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_each_row_is_scored_by_itself_bit_for_bit(name):
    z = rng.standard_normal((50, 13)).astype(np.float32)
    score = LOGIT_SCORES[name]
    whole, order = score(z), rng.permutation(50)
    assert whole.dtype == np.float64
    assert whole.shape == (50,)
    assert np.array_equal(score(z[order]), whole[order])
    assert np.array_equal(np.concatenate([score(row[None]) for row in z]), whole)
    assert np.array_equal(score(np.asfortranarray(z.astype(np.float64))), whole)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_a_row_without_logits_has_no_score_and_the_others_do(name):
    z = np.array([[1.0, 2.0], [np.nan, np.nan]])
    found = LOGIT_SCORES[name](z)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


@pytest.mark.parametrize("name", ["msp", "energy", "max-logit", "entropy", "perplexity", "gen"])
def test_a_logit_of_minus_infinity_is_a_class_that_is_not_there(name):
    z = rng.standard_normal((20, 6))
    score, masked = LOGIT_SCORES[name], np.insert(z, [0, 3, 3, 6], -np.inf, axis=1)
    np.testing.assert_allclose(score(masked), score(z), rtol=1e-14)
    assert score([[-np.inf, 2.0]]) == score([[2.0]])


@pytest.mark.parametrize(("name", "copies"), [("msp", 1), ("energy", 1), ("entropy", 2), ("perplexity", 2), ("gen", 2)])
@pytest.mark.parametrize("classes", [90, 1000])  # fewer and more than GEN looks at
def test_peak_memory_is_what_the_module_says(name, copies, classes):
    z = np.ones((2_000_000 // classes, classes))
    tracemalloc.start()
    LOGIT_SCORES[name](z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (copies + 0.3) * z.nbytes


def test_logits_too_large_for_exp():
    z = np.array([[1e5, 0.0], [-1e5, -1e5], [6e4, 6e4]])
    np.testing.assert_allclose(msp(z), [1, 0.5, 0.5])
    np.testing.assert_allclose(energy(z), [1e5, -1e5 + np.log(2), 6e4 + np.log(2)])
    assert np.isfinite(energy(np.full((1, 3), 6e4, np.float16), temperature=0.01)).all()


def test_the_input_is_not_written_to():
    z = rng.standard_normal((3, 4))
    before = z.copy()
    for score in LOGIT_SCORES.values():
        score(z)
    assert np.array_equal(z, before)


@pytest.mark.parametrize("name", LOGIT_SCORES)
@pytest.mark.parametrize("bad", [np.ones(3), np.empty((3, 0)), np.array([["a"]])])
def test_what_is_not_a_matrix_of_logits(name, bad):
    with pytest.raises(UsageError, match=r"\(N, C\)"):
        LOGIT_SCORES[name](bad)


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_temperature_must_be_positive_and_finite(temperature):
    for score in (msp, energy, entropy, perplexity):
        with pytest.raises(UsageError, match="temperature"):
            score(np.ones((1, 2)), temperature)


# ---- plain loops, and laws of all scores -----------------------------------------------------------------------------


def naive(name: str, row: list[float]) -> float:
    """The formula of each score, one row and one class at a time, with Python's own floats."""
    total = math.fsum(math.exp(z) for z in row)
    p = [math.exp(z) / total for z in row]
    shannon = -math.fsum(q * math.log(q) for q in p)
    return {
        "msp": max(p),
        "energy": math.log(total),
        "max-logit": max(row),
        "entropy": -shannon,
        "perplexity": -math.exp(shannon),
        "l1": math.fsum(z - min(row) for z in row),
        "gen": -math.fsum(q**0.1 * (1 - q) ** 0.1 for q in sorted(p)[-100:]),
    }[name]


@pytest.mark.parametrize("name", LOGIT_SCORES)
@pytest.mark.parametrize("classes", [2, 3, 100, 101, 150])
def test_a_loop_over_the_formula_gives_the_same(name, classes):
    z = np.random.default_rng(classes).standard_normal((20, classes))
    z[:5] = np.round(z[:5])  # ties
    z[5] = 1.25  # all equal
    np.testing.assert_allclose(LOGIT_SCORES[name](z), [naive(name, row) for row in z.tolist()], rtol=1e-12)


@pytest.mark.parametrize("name", LOGIT_SCORES)
@given(z=logits, more=st.floats(0.01, 20))
@settings(deadline=None, max_examples=40)
def test_a_surer_classifier_scores_no_lower(name, z, more):
    """Higher = more in-distribution: raise the largest logit of every row."""
    surer = z.copy()
    surer[np.arange(len(z)), z.argmax(axis=1)] += more
    before = LOGIT_SCORES[name](z)
    assert (LOGIT_SCORES[name](surer) >= before - 1e-9 * (1 + np.abs(before))).all()


@pytest.mark.parametrize("name", LOGIT_SCORES)
@given(z=logits, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_order_of_the_classes_does_not_matter(name, z, seed):
    shuffled = z[:, np.random.default_rng(seed).permutation(z.shape[1])]
    np.testing.assert_allclose(LOGIT_SCORES[name](shuffled), LOGIT_SCORES[name](z), rtol=1e-10, atol=1e-10)


def test_cold_energy_is_the_largest_logit():
    z = rng.standard_normal((30, 7))
    np.testing.assert_allclose(energy(z, 1e-9), max_logit(z), atol=1e-8)


@given(logits, st.sampled_from([0.5, 2.0, 10.0]))
@settings(deadline=None)
def test_temperature_is_a_scale_of_the_logits(z, t):
    np.testing.assert_allclose(msp(z, t), msp(z / t), rtol=1e-12)
    np.testing.assert_allclose(entropy(z, t), entropy(z / t), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(energy(z, t), t * energy(z / t), rtol=1e-12, atol=1e-12)


def test_mcm_over_a_thousand_cosines_keeps_what_float32_ties():
    """Softmax at temperature 1 moves within 1e-4 there; float64 tells rows apart that float32 cannot."""
    cosines = np.random.default_rng(5).normal(0.2, 0.03, (2000, 1000)).astype(np.float32)
    single = scipy.special.softmax(cosines, axis=1).max(axis=1)
    assert single.dtype == np.float32
    assert len(np.unique(single)) < 2000
    assert len(np.unique(msp(cosines))) == 2000


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_no_rows_have_no_scores(name):
    assert LOGIT_SCORES[name](np.empty((0, 3))).shape == (0,)
