"""Zero-shot logits, hard and soft pseudo-labels and their confidence against plain restatements."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax

from embedstore.errors import UsageError
from embedstore.labels import confidence, confident, pseudo_labels, pseudo_probabilities, zero_shot, zero_shot_logits

rng = np.random.default_rng(0)


def cosines(a, b):
    return np.array([[x @ y / np.sqrt((x @ x) * (y @ y)) for y in b] for x in a])


def test_logits_are_cosines_without_a_scale():
    images, text = rng.standard_normal((30, 8)), 5 * rng.standard_normal((7, 8))
    found = zero_shot_logits(images, text)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, cosines(images, text), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_labels_are_the_argmax_of_the_logits(dtype, monkeypatch):
    images, text = rng.standard_normal((200, 16)).astype(dtype), rng.standard_normal((13, 16)).astype(dtype)
    found = pseudo_labels(images, text)
    assert found.dtype == np.int64
    assert np.array_equal(found, zero_shot_logits(images, text).argmax(axis=1))
    monkeypatch.setattr(zero_shot, "_BLOCK", 7)
    assert np.array_equal(pseudo_labels(images, text), found)


def test_labels_do_not_depend_on_the_length_of_any_vector():
    images, text = rng.standard_normal((100, 16)), rng.standard_normal((9, 16))
    scaled = pseudo_labels(images * rng.uniform(0.1, 50, (100, 1)), text * rng.uniform(0.1, 50, (9, 1)))
    assert np.array_equal(scaled, pseudo_labels(images, text))


@pytest.mark.parametrize("n", [1, 3, 50])
def test_of_equal_classes_the_first_gets_every_image(n):
    """With 101 classes a plain matrix product rounds its last columns differently, so equal classes would not tie."""
    for width in (17, 64, 512):
        text = rng.standard_normal((101, width))
        text[-1] = text[50] = text[0]
        images = text[0] + 0.1 * rng.standard_normal((n, width))
        logits = zero_shot_logits(images, text)
        assert np.array_equal(logits[:, 0], logits[:, 100])
        assert np.array_equal(logits[:, 0], logits[:, 50])
        assert (pseudo_labels(images, text) == 0).all()


def test_classes_come_back_in_their_own_order():
    text = np.eye(5)[[3, 1, 4, 1, 0]]
    assert pseudo_labels(np.eye(5), text).tolist() == [4, 1, 0, 0, 2]  # image 2 ties with all at 0: the first
    np.testing.assert_array_equal(zero_shot_logits(np.eye(5), text), np.eye(5)[:, [3, 1, 4, 1, 0]])


def test_logits_of_distinct_classes_are_made_once():
    images, text = rng.standard_normal((4000, 8)), rng.standard_normal((200, 8))
    tracemalloc.start()
    found = zero_shot_logits(images, text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * found.nbytes


def test_no_images_no_labels():
    assert pseudo_labels(np.empty((0, 4)), np.eye(4)).shape == (0,)
    assert zero_shot_logits(np.empty((0, 4)), np.eye(4)).shape == (0, 4)


@pytest.mark.parametrize("function", [zero_shot_logits, pseudo_labels, pseudo_probabilities, confidence])
def test_what_does_not_fit_is_refused(function):
    with pytest.raises(UsageError, match=r"\(2, 3\) do not fit text embeddings of shape \(4, 4\)"):
        function(np.ones((2, 3)), np.eye(4))
    with pytest.raises(UsageError, match="no class"):
        function(np.ones((2, 3)), np.empty((0, 3)))
    with pytest.raises(UsageError, match="not finite"):
        function([[1.0, np.nan]], np.eye(2))


# ---- soft labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.01])
def test_probabilities_are_the_softmax_of_the_cosines(temperature, monkeypatch):
    images, text = rng.standard_normal((40, 8)), 5 * rng.standard_normal((7, 8))
    expected = softmax(cosines(images, text) / temperature, axis=1)
    found = pseudo_probabilities(images, text, temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)  # what float32 holds less well
    np.testing.assert_allclose(confidence(images, text, temperature), expected.max(axis=1), rtol=1e-12)
    assert np.array_equal(found.argmax(axis=1), pseudo_labels(images, text))
    monkeypatch.setattr(zero_shot, "_BLOCK", 7)
    np.testing.assert_allclose(pseudo_probabilities(images, text, temperature), found, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(confidence(images, text, temperature), expected.max(axis=1), rtol=1e-12)


def test_the_default_temperature_is_that_of_openai():
    images, text = rng.standard_normal((40, 8)), rng.standard_normal((7, 8))
    assert np.array_equal(pseudo_probabilities(images, text), pseudo_probabilities(images, text, 1 / 100))
    assert np.array_equal(confidence(images, text), confidence(images, text, 1 / 100))


@given(
    arrays(np.float64, (5, 3), elements=st.floats(-10, 10)),
    st.lists(st.sampled_from(range(4)), min_size=1, max_size=9),
    st.sampled_from([1e-300, 1e-3, 1.0, 1e300]),
)
def test_laws_of_probabilities(images, classes, temperature):
    """Also with rows of zeros, equal classes and temperatures at the ends of what a float can be."""
    text = np.random.default_rng(1).standard_normal((4, 3))[classes]
    p, sure = pseudo_probabilities(images, text, temperature), confidence(images, text, temperature)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    distinct = text[np.unique(classes, return_index=True)[1]]
    np.testing.assert_allclose(sure, pseudo_probabilities(images, distinct, temperature).max(axis=1), rtol=1e-6)
    assert (sure >= 1 / len(distinct) - 1e-12).all()
    assert (sure <= 1).all()
    for one in set(classes):
        same = np.flatnonzero(np.array(classes) == one)
        assert (p[:, same] == p[:, same[:1]]).all()


def test_equal_classes_share_a_probability_and_not_the_confidence():
    images, text = np.eye(3), np.eye(3)[[0, 1, 1]]
    p = pseudo_probabilities(images, text, 0.01)
    np.testing.assert_allclose(p[0], [1, 0, 0], atol=1e-30)
    np.testing.assert_allclose(p[1], [0, 0.5, 0.5], atol=1e-30)
    np.testing.assert_allclose(p[2], [1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(confidence(images, text, 0.01), [1, 1, 0.5], rtol=1e-12)
    assert confident(images, text, 0.9).tolist() == [True, True, False]


def test_a_name_that_comes_twice_costs_no_row():
    """The list of first synonyms has two pairs of equal names: a threshold must not empty those classes."""
    images, names = rng.standard_normal((300, 8)), rng.standard_normal((5, 8))
    once, twice = (confident(images, text, 0.6, 0.1) for text in (names, names[[0, 1, 2, 3, 4, 2]]))
    assert 0 < once.sum() < 300
    assert once[pseudo_labels(images, names) == 2].any()
    assert np.array_equal(once, twice)


def test_hot_is_uniform_and_cold_is_hard():
    images, text = rng.standard_normal((20, 8)), rng.standard_normal((6, 8))
    np.testing.assert_allclose(pseudo_probabilities(images, text, 1e9), 1 / 6, rtol=1e-6)
    assert np.array_equal(pseudo_probabilities(images, text, 1e-9), np.eye(6)[pseudo_labels(images, text)])


def test_the_confident_are_those_at_or_above_the_threshold():
    images, text = rng.standard_normal((60, 8)), rng.standard_normal((5, 8))
    sure = confidence(images, text, 0.1)
    for threshold in (0.0, 0.5, float(sure[7]), 1.0):
        found = confident(images, text, threshold, 0.1)
        assert found.dtype == np.bool_
        assert np.array_equal(found, sure >= threshold)
    assert confident(images, text, 0.0).all()
    assert confident(images, text, 0.9).sum() > confident(images, text, 0.9, 0.1).sum()


@pytest.mark.parametrize("threshold", [-0.1, 1.5, np.nan])
def test_thresholds_that_are_no_probability(threshold):
    with pytest.raises(UsageError, match=r"a confidence threshold is a probability, in \[0, 1\]"):
        confident(np.eye(2), np.eye(2), threshold)


@pytest.mark.parametrize("temperature", [0, -1, np.inf, np.nan])
@pytest.mark.parametrize("function", [pseudo_probabilities, confidence])
def test_temperatures_out_of_range(function, temperature):
    with pytest.raises(UsageError, match="a temperature must be positive and finite"):
        function(np.eye(2), np.eye(2), temperature)


def test_no_images_no_probabilities():
    assert pseudo_probabilities(np.empty((0, 4)), np.eye(4)).shape == (0, 4)
    assert confidence(np.empty((0, 4)), np.eye(4)).shape == confident(np.empty((0, 4)), np.eye(4), 0.5).shape == (0,)
