"""Zero-shot logits and pseudo-labels against a plain restatement."""

import numpy as np
import pytest

from embedstore import labels
from embedstore.errors import UsageError
from embedstore.labels import pseudo_labels, zero_shot_logits

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
    monkeypatch.setattr(labels, "_BLOCK", 7)
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


def test_no_images_no_labels():
    assert pseudo_labels(np.empty((0, 4)), np.eye(4)).shape == (0,)
    assert zero_shot_logits(np.empty((0, 4)), np.eye(4)).shape == (0, 4)


@pytest.mark.parametrize("function", [zero_shot_logits, pseudo_labels])
def test_what_does_not_fit_is_refused(function):
    with pytest.raises(UsageError, match=r"\(2, 3\) do not fit text embeddings of shape \(4, 4\)"):
        function(np.ones((2, 3)), np.eye(4))
    with pytest.raises(UsageError, match="no class"):
        function(np.ones((2, 3)), np.empty((0, 3)))
    with pytest.raises(UsageError, match="not finite"):
        function([[1.0, np.nan]], np.eye(2))
