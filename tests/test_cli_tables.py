"""The table that `probe` prints: readable however many OOD sets there are."""

from __future__ import annotations

import io
import re

import pytest
from report_study import metrics, result
from rich.console import Console

from embedstore.cli.tables import print_results


def printed(count: int, width: int) -> str:
    sets = {f"far-number-{n}/adversarial": metrics(0.5 + n / 1000) for n in range(count)}
    names = tuple(sets)
    to = Console(file=io.StringIO(), width=width)
    found = [
        result("a-model", "knn", metrics={"cosine": sets}),
        result("a-model", "mcm", metrics={}, absent="no prompts"),
    ]
    print_results(to, found, [], {"near": names[:2]})
    return to.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("count", "width"), [(9, 80), (17, 160), (40, 100), (9, 400)])
def test_numbers_of_many_sets_are_not_broken(count: int, width: int) -> None:
    text = printed(count, width)
    for n in range(count):
        value = metrics(0.5 + n / 1000)
        assert text.count(f"{100 * value['auroc']:.1f} / {100 * value['fpr95']:.1f}") >= 1, n
    assert text.count("ID accuracy") == text.count("seconds") == text.count("mean near") == 1
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("count", [0, 1, 8])
def test_few_sets_are_one_table(count: int) -> None:
    assert len(re.findall("in-distribution", printed(count, 300))) == 1
