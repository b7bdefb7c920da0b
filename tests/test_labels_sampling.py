"""Which rows are drawn, by counting them; agreement against loops."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from embedstore.errors import NotAvailable, UsageError
from embedstore.labels import agreement, balanced, class_agreement, few_shot, short_classes

LABELS = st.lists(st.integers(-1, 5), max_size=60).map(lambda values: np.array(values, dtype=np.int64))
LABELLED = LABELS.filter(lambda labels: (labels >= 0).any())
SEEDS = st.integers(0, 5)


# ---- few-shot --------------------------------------------------------------------------------------------------------


@given(LABELS, st.integers(1, 9), SEEDS)
def test_few_shot_draws_so_many_of_every_class(labels, shots, seed):
    rows = few_shot(labels, shots, seed)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()  # ascending, none twice
    there = Counter(labels.tolist())
    assert Counter(labels[rows].tolist()) == {label: min(n, shots) for label, n in there.items() if label >= 0}
    assert np.array_equal(rows, few_shot(labels.tolist(), shots, seed))


@given(LABELS, SEEDS)
def test_few_shot_draws_are_nested(labels, seed):
    draws = [set(few_shot(labels, shots, seed)) for shots in (1, 2, 4, 8, 16, 100)]
    assert all(fewer <= more for fewer, more in pairwise(draws))
    assert draws[-1] == set(np.flatnonzero(labels >= 0))


def test_every_row_is_drawn_equally_often():
    labels = np.array([0] * 4 + [-1] + [1] * 2 + [3] * 5)
    drawn = Counter(row for seed in range(2000) for row in few_shot(labels, 1, seed).tolist())
    for label, size in ((0, 4), (1, 2), (3, 5)):
        of_class = [drawn[row] for row in np.flatnonzero(labels == label)]
        assert sum(of_class) == 2000
        # Five standard deviations of a binomial.
        assert max(abs(n - 2000 / size) for n in of_class) < 5 * np.sqrt(2000 / size)


@given(LABELS, st.integers(1, 9))
def test_short_classes_are_those_with_fewer_rows(labels, shots):
    expected = [c for c in range(8) if (labels == c).sum() < shots]
    assert short_classes(labels, shots, n_classes=8).tolist() == expected
    seen = max(labels.tolist(), default=-1) + 1
    assert short_classes(labels, shots).tolist() == [c for c in expected if c < seen]


# ---- balanced --------------------------------------------------------------------------------------------------------


@given(LABELLED, SEEDS, st.one_of(st.none(), st.integers(1, 90)))
def test_balanced_counts(labels, seed, size):
    rows = balanced(labels, seed, size)
    present = np.unique(labels[labels >= 0])
    if size is None:
        assert (labels >= 0).sum() <= len(rows) < (labels >= 0).sum() + len(present)
        assert len(rows) % len(present) == 0
    else:
        assert len(rows) == size
    assert (np.diff(rows) >= 0).all()
    per_class = [int((labels[rows] == c).sum()) for c in present]
    assert sum(per_class) == len(rows)  # so no row without a label
    assert max(per_class) - min(per_class) <= 1
    for c in present:
        uses = [int((rows == row).sum()) for row in np.flatnonzero(labels == c)]
        assert max(uses) - min(uses) <= 1  # none again before all of its class have been
    assert np.array_equal(rows, balanced(labels, seed, size))


def test_the_rows_left_over_are_drawn_by_lot():
    labels = np.array([0, 0, 1, 1, 2, 2])
    extra = Counter(int(labels[balanced(labels, seed, 1)[0]]) for seed in range(600))
    assert all(abs(extra[c] - 200) < 60 for c in range(3))


def test_seeds_matter_and_the_global_generator_does_not():
    labels = np.arange(60) % 3
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    assert not np.array_equal(few_shot(labels, 4, 0), few_shot(labels, 4, 1))
    assert not np.array_equal(balanced(labels, 0, 9), balanced(labels, 1, 9))
    assert np.array_equal(np.random.get_state()[1], before)


# ---- agreement -------------------------------------------------------------------------------------------------------


@given(LABELLED, SEEDS)
def test_agreement_is_accuracy_where_the_truth_is_known(true, seed):
    pseudo = np.random.default_rng(seed).integers(0, 6, len(true))
    known = true >= 0
    assert agreement(pseudo, true) == pytest.approx(accuracy_score(true[known], pseudo[known]), abs=1e-15)
    by_class = class_agreement(pseudo, true, 7)
    assert by_class.shape == (7,)
    assert by_class.dtype == np.float64
    present = np.unique(true[known])
    recall = recall_score(true[known], pseudo[known], labels=present, average=None)
    np.testing.assert_allclose(by_class[present], recall, atol=1e-15)
    assert np.isnan(np.delete(by_class, present)).all()


def test_agreement_of_nothing():
    with pytest.raises(NotAvailable):
        agreement([0, 1], [-1, -1])
    assert np.isnan(class_agreement([0, 1], [-1, -1], 2)).all()


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[0.0, 1.0], [[0, 1]], [-2, 0], ["a", "b"]])
def test_labels_that_are_none(bad):
    for function in (lambda y: few_shot(y, 1, 0), lambda y: balanced(y, 0), lambda y: short_classes(y, 1)):
        with pytest.raises(UsageError, match=r"labels must be \(N,\) integers|labels must be at least -1"):
            function(bad)


def test_labels_beyond_the_classes():
    for function in (few_shot, lambda y, shots, _, n_classes: short_classes(y, shots, n_classes=n_classes)):
        with pytest.raises(UsageError, match="below n_classes=3, got 0 to 3"):
            function([0, 3], 1, 0, n_classes=3)
    with pytest.raises(UsageError, match="below n_classes=3"):
        class_agreement([0, 3], [0, 1], 3)
    with pytest.raises(UsageError, match="2 pseudo-labels for 1 true"):
        class_agreement([0, 1], [0], 3)


def test_numbers_out_of_range():
    with pytest.raises(UsageError, match="at least one row per class, got shots=0"):
        few_shot([0], 0, 0)
    with pytest.raises(UsageError, match="none of the 2 rows has a label"):
        balanced([-1, -1], 0)
    with pytest.raises(UsageError, match="a balanced sample of 0 rows"):
        balanced([0], 0, 0)
