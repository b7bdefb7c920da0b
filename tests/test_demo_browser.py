"""The demo's own report in a real browser: what a newcomer is told to open. Screenshots in ``build/report/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_report_browser
from test_report_browser import SHOTS, WIDTHS, Browser

pytestmark = [pytest.mark.slow, test_report_browser.pytestmark]
browser = test_report_browser.browser

SHOWN = "[...document.querySelectorAll('.main tbody tr:not(.model)')].filter(e => e.getClientRects().length)"


@pytest.fixture(scope="module")
def report(demo: tuple[Path, str]) -> Path:
    return demo[0] / "demo" / "report" / "report.html"


@pytest.fixture(scope="module")
def told(report: Path) -> dict[str, Any]:
    """The same report, as it is for scripts."""
    found: dict[str, Any] = json.loads(report.with_name("results.json").read_text())
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_or_a_request(browser: Browser, report: Path, scheme: str, width: str) -> None:
    browser.complaints(), browser.requests()
    browser.open(report, scheme=scheme, width=width)
    browser.shoot(SHOTS / f"demo-{width}-{scheme}.png")
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    assert browser.drawn() == browser.js("document.querySelectorAll('.plot').length") > 10
    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]


def test_there_are_as_many_points_as_models(browser: Browser, report: Path, told: dict[str, Any]) -> None:
    from selenium.webdriver.support.ui import Select

    browser.open(report)
    menu = Select(browser.driver.find_element("css selector", "[id^=relation-] select"))
    for label in ("knn · cosine", "mcm · msp"):
        menu.select_by_visible_text(label)
        fits = [f for f in told["correlations"] if f"{f['method']} · {f['score']}" == label and not f["variant"]]
        assert len(fits) == 2
        assert browser.points("relation") == [len(fit["points"]) for fit in fits]
    assert set(browser.points("cost")) == {len(told["models"])} == {6}


def test_its_table_sorts_and_filters(browser: Browser, report: Path, told: dict[str, Any]) -> None:
    browser.open(report)
    oods = sorted({cell["ood"] for cell in told["cells"]})
    aurocs = [cell["auroc"] for cell in told["cells"] if cell["ood"] == oods[0]]
    browser.js("document.querySelector('.table-tools input[type=checkbox]').click()")
    browser.js("document.querySelectorAll('.main thead button')[2].click()")
    column = browser.js(f"{SHOWN}.map(e => e.cells[2].childNodes[0].textContent)")
    assert column == [f"{100 * value:.1f}" for value in sorted(aurocs, reverse=True)]
    browser.driver.find_element("css selector", ".table-tools input[type=search]").send_keys("w192-s200 vim")
    assert browser.js(f"{SHOWN}.length") == len(
        {cell["score"] for cell in told["cells"] if (cell["model"], cell["method"]) == ("clip-w192-s200", "vim")}
    )
    assert browser.complaints() == []


def test_it_prints_with_all_its_pictures(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.before_print()
    assert browser.js("[...document.querySelectorAll('details')].every(e => e.open)")
    assert browser.js("[...document.querySelectorAll('.strip img')].every(e => e.checkVisibility())")
    browser.shoot_as_it_is(SHOTS / "demo-print.png")
    browser.after_print()
