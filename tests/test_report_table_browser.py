"""The main table in a real browser: sorted, filtered, folded, with the keyboard, in print and without JavaScript."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import test_report_browser
from report_study import ALL_SCORES, HOSTILE, content, full, measured, result, run
from test_report_browser import SHOTS, WIDTHS, Browser

from embedstore.report import cells
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.page import render

pytestmark = [test_report_browser.pytestmark, pytest.mark.slow]
browser = test_report_browser.browser

OODS = ("a/test", "b/test", "c/test")
GROUPS = {"near": ("c/test",), "far": ("a/test", "b/test")}
SHOWN = "[...document.querySelectorAll('.main tbody tr:not(.model)')].filter(e => e.getClientRects().length)"
SORTED = "[...document.querySelectorAll('.main th[aria-sort]')]"
LOWER = "with a lower mean AUROC than another score of the same method"
HEAD = ".main thead button"


def study(models: int = 3) -> list[Any]:
    """Some rows share a value, one lacks one, one method is absent."""
    found = []
    for index in range(models):
        for place, (method, scores) in enumerate(ALL_SCORES.items()):
            values = {s: 0.6 + 0.011 * ((7 * index + 3 * place + k) % 23) for k, s in enumerate(scores)}
            table = {s: {ood: measured(v + 0.01 * n) for n, ood in enumerate(OODS)} for s, v in values.items()}
            found.append(run(f"model{index}", method, metrics=table, id_accuracy=0.5 + 0.1 * index))
    found = [item for item in found if (item.model, item.method) != ("model0", "mcm")]
    found[0] = run("model0", "knn", metrics={"cosine": {"a/test": measured(0.7)}})
    return [*found, result("model0", "mcm", metrics={}, absent="model0 has no text tower")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "report.html"
    path.write_text(render(content(study(), groups=GROUPS)), encoding="utf-8")
    return path


def column(browser: Browser, index: int) -> list[str]:
    """What stands in a column, of the rows that are seen, from top to bottom."""
    values = browser.js(f"{SHOWN}.map(e => e.cells[{index}].childNodes[0].textContent)")
    return [str(value) for value in values]


def numbers(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text != "–"]


def press(browser: Browser, selector: str, index: int = 0, key: str = "\N{NO-BREAK SPACE}") -> None:
    """With the keyboard: the element is focused, and a key sent to it."""
    from selenium.webdriver.common.keys import Keys

    element = browser.driver.find_elements("css selector", selector)[index]
    browser.driver.execute_script("arguments[0].focus()", element)
    element.send_keys(Keys.ENTER if key == "\N{NO-BREAK SPACE}" else key)


def status(browser: Browser) -> str:
    (text,) = browser.texts(".status")
    return text


def total() -> int:
    return sum(len(item.metrics) or 1 for item in study())


def test_heads_sort_by_keyboard_best_first_then_worst_first(browser: Browser, report: Path) -> None:
    browser.complaints()
    browser.open(report)
    before = column(browser, 0)
    heads = browser.texts(HEAD)
    assert heads == ["Method", "IDaccuracy", *["AUROC", "FPR95"] * 4]
    for index, best_first in ((1, True), (2, True), (3, False), (8, True)):
        press(browser, HEAD, index)
        found = column(browser, index)
        values = numbers(found)
        assert values == sorted(values, reverse=best_first)
        assert len(set(values)) > 2
        # What has no number comes last, both ways.
        assert found == [f"{value:.1f}" for value in values] + ["–"] * (len(found) - len(values))
        sort = f"{SORTED}.map(e => [e.dataset.name, e.getAttribute('aria-sort')])"
        ((name, direction),) = browser.js(sort)
        assert direction == ("descending" if best_first else "ascending")
        assert f"sorted by {name}, {'highest' if best_first else 'lowest'} first." in status(browser)
        press(browser, HEAD, index)
        found = column(browser, index)
        assert numbers(found) == sorted(values, reverse=not best_first)
        assert found[-1] == "–" or "–" not in found
        ((_, direction),) = browser.js(sort)
        assert direction == ("ascending" if best_first else "descending")
        assert browser.js("document.activeElement.closest('th').dataset.name") == name
    press(browser, HEAD, 0)
    assert browser.texts(".main th[aria-sort]") == ["Method"]
    by_method = browser.js(f"{SHOWN}.map(e => e.dataset.method)")
    assert by_method == sorted(by_method)
    assert len(set(by_method)) == len(ALL_SCORES)
    press(browser, ".table-tools > button:not([hidden])")
    assert column(browser, 0) == before
    assert browser.js("document.querySelectorAll('.main th[aria-sort]').length") == 0
    assert browser.js("document.activeElement.textContent") == "Method"
    assert browser.complaints() == []


def test_sorted_rows_name_their_model(browser: Browser, report: Path) -> None:
    browser.open(report)
    assert browser.js(f"{SHOWN}.map(e => e.cells[0].querySelector('.of').offsetHeight)") == [0] * len(
        column(browser, 0)
    )
    press(browser, HEAD, 2)
    assert browser.js("[...document.querySelectorAll('.model')].filter(e => e.getClientRects().length).length") == 0
    heads = browser.js(f"{SHOWN}.map(e => e.cells[0].innerText)")
    assert all(re.search(r"·.*\nmodel\d$", text) or text.endswith("model0") for text in heads)
    average = {
        f"{item.method} · {score}\n{item.model}": (by_set["a/test"]["auroc"] + by_set["b/test"]["auroc"]) / 2
        for item in study()
        for score, by_set in item.metrics.items()
        if len(by_set) == len(OODS)
    }
    assert average[heads[0]] == max(average.values())
    browser.shoot(SHOTS / "table-sorted.png")


def test_the_best_score_of_each_method_is_seen_at_first(browser: Browser, report: Path) -> None:
    browser.open(report)
    hidden = browser.js("document.querySelectorAll('.main tr.more').length")
    assert hidden > 10
    assert len(column(browser, 0)) == total() - hidden
    assert status(browser) == f"{total() - hidden} of {total()} rows. Not shown: {hidden} {LOWER}."
    press(browser, ".table-tools input[type=checkbox]", key=" ")
    assert len(column(browser, 0)) == total()
    assert status(browser) == f"{total()} of {total()} rows."


def test_text_and_menu_filter_the_rows(browser: Browser, report: Path) -> None:
    from selenium.webdriver.support.ui import Select

    browser.open(report)
    press(browser, ".table-tools input[type=checkbox]", key=" ")
    press(browser, ".table-tools input[type=search]", key="MODEL1 energy")
    labels = [f"{m} · {s}" for m, scores in ALL_SCORES.items() for s in scores if "energy" in s]
    assert len(column(browser, 0)) == len(labels) > 3
    assert set(browser.js(f"{SHOWN}.map(e => e.closest('tbody').dataset.model)")) == {"model1"}
    assert status(browser) == f"{len(labels)} of {total()} rows."
    # Only the model that has rows keeps its head.
    assert browser.js("[...document.querySelectorAll('.model')].filter(e => e.getClientRects().length).length") == 1
    Select(browser.driver.find_element("css selector", ".table-tools select")).select_by_visible_text("linear")
    assert browser.js(f"{SHOWN}.map(e => e.cells[0].innerText)") == ["linear · energy"]
    press(browser, ".table-tools input[type=search]", key="zzz")
    assert status(browser) == f"0 of {total()} rows."
    assert column(browser, 0) == []
    assert browser.js("document.querySelector('.status').getAttribute('role')") == "status"


def test_models_fold_and_a_search_unfolds_them(browser: Browser, report: Path) -> None:
    browser.open(report)
    everything = len(column(browser, 0))
    expanded = "[...document.querySelectorAll('.model button')].map(e => e.getAttribute('aria-expanded'))"
    assert browser.js(expanded) == ["true"] * 3
    press(browser, ".model button", 1)
    assert browser.js(expanded) == ["true", "false", "true"]
    gone = everything - len(column(browser, 0))
    assert gone > 10
    assert f"{gone} in collapsed models" in status(browser)
    press(browser, ".model button", 1)
    assert len(column(browser, 0)) == everything
    press(browser, ".table-tools > button")
    assert column(browser, 0) == []
    press(browser, ".table-tools input[type=search]", key="model2 knn")
    assert column(browser, 0) != []
    assert browser.js(expanded) == ["true"] * 3


def test_in_print_everything_is_shown(browser: Browser, report: Path) -> None:
    browser.open(report)
    press(browser, ".model button", 1)
    press(browser, ".table-tools input[type=search]", key="model2 knn")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert len(column(browser, 0)) == total()
        assert browser.js("document.querySelector('.table-tools').getClientRects().length") == 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_javascript_it_is_a_plain_table(browser: Browser, report: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(report, scripts=False)
        assert len(column(browser, 0)) == total()
        assert browser.js("document.querySelectorAll('.main button, .table-tools').length") == 0
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 models, 14 methods and some variants, 8 sets; without R², which is another section."""
    oods = tuple(f"set{n}/test" for n in range(8))
    results = full(25, oods)
    table = tuple(cells(results))
    whole = Content("clip.zarr", "0.1.0", table, results=tuple(results), groups={"near": oods[:2], "far": oods[2:]})
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(render(whole), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_a_large_study_stays_usable(browser: Browser, large: Path, width: str) -> None:
    assert large.stat().st_size < 3e6
    browser.complaints()
    browser.open(large, width=width)
    click = f"document.querySelectorAll('{HEAD}')[2].click(), document.body.offsetHeight"
    # A tenth of that on an idle machine.
    assert browser.js(f"(t => ({click}, performance.now() - t))(performance.now())") < 3000
    values = numbers(column(browser, 2))
    assert len(values) > 300
    assert values == sorted(values, reverse=True)
    # The heads stay in sight while the rows scroll.
    browser.js("document.querySelector('.tall').scrollTop = 3000")
    head, box = browser.js("['.main thead', '.tall'].map(e => document.querySelector(e).getBoundingClientRect().top)")
    assert abs(head - box) < 3
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    browser.js("document.querySelector('.table-tools').scrollIntoView()")
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.driver.save_screenshot(str(SHOTS / f"{width}-table.png"))
    assert browser.complaints() == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text_when_sorted_and_in_the_menu(browser: Browser, tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.html"
    table = {f"{text}{n}": {f"{text}/{text}": measured(0.5 + 0.02 * n)} for n in range(6)}
    results = [result(f"{text}{n}", m, metrics=table, variant=text) for n in range(2) for m in ("knn", "mcm")]
    path.write_text(render(content(results, groups={text: (f"{text}/{text}",)})), encoding="utf-8")
    browser.complaints()
    browser.open(path)
    press(browser, HEAD, 2)
    assert set(browser.texts(".flat .of")) == {f"{text}0", f"{text}1"}
    assert f"sorted by AUROC, {dataset_label(f'{text}/{text}')}" in status(browser)
    assert browser.js("document.querySelectorAll('.results img, .results script').length") == 0
    assert browser.complaints() == []


def test_a_small_table_has_no_filter(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(content([run("a", "knn"), run("a", "mcm")])), encoding="utf-8")
    browser.open(path)
    assert browser.js("document.querySelectorAll('.table-tools :is([type=search], select)').length") == 0
    assert browser.js("document.querySelectorAll('.table-tools > button:not([hidden])').length") == 0
    press(browser, HEAD, 2)
    assert len(column(browser, 0)) == 2
