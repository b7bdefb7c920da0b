"""The report by keyboard and screen reader, in a real browser: names, headings, contrast, and ways to get about."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import test_report_browser
from report_study import content, page, result, run
from test_report_browser import WIDTHS, Browser, whole

from embedstore.report.choice import detectors
from embedstore.report.content import Content
from embedstore.report.distributions import curves
from embedstore.report.page import render

pytestmark = [test_report_browser.pytestmark, pytest.mark.slow]
browser = test_report_browser.browser

NAMED = {"button", "link", "combobox", "checkbox", "searchbox", "region", "navigation", "DisclosureTriangle"}

# The ratio of WCAG 2 for every piece of text that is seen, on the nearest background that is painted behind it.
CONTRAST = """
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const light = (c) => c.slice(0, 3).map((v) => v / 255)
  .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const found = parse(getComputedStyle(e).backgroundColor);
    if (found[3] === 1) return found;
  }
  return [255, 255, 255, 1];
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, style, .unseen")) continue;
  const style = getComputedStyle(e);
  const [a, b] = [light(parse(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
  found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
}
return found;
"""


def two() -> Content:
    """Every section for two ID sets, with the same models, methods and OOD sets, and a method that could not run."""
    one = whole(3)
    results = [item for item in one.results if (item.model, item.method) != ("ViT-B-1/laion2b_s34b_b79k", "mcm")]
    results += [result("ViT-B-1/laion2b_s34b_b79k", "mcm", metrics={}, absent="no text tower")]
    for item in list(results):
        scores = {name.replace("digits/", "faces/"): values for name, values in item.scores.items()}
        results.append(replace(item, id_dataset="faces", scores=scores))
    known = {"models": one.models, "states": one.states}
    found = content(results, **known, galleries=(*one.galleries, replace(one.galleries[0], id_dataset="faces")))
    return replace(found, curves=tuple(curves(detectors(found.cells, results).values())))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("access") / "report.html"
    path.write_text(render(two()), encoding="utf-8")
    return path


def named(browser: Browser) -> list[tuple[str, str]]:
    """Role and accessible name of all that a screen reader finds, as the browser tells it."""
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]


def test_whatever_can_be_pressed_or_visited_has_a_name_of_its_own(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.draw_all()
    browser.js("[...document.querySelectorAll('details')].forEach(e => e.open = true)")
    browser.js("[...document.querySelectorAll('[data-label]')].forEach(e => e.hidden = false)")
    for sort in ("", "document.querySelectorAll('.main thead tr:last-child button')[0].click()"):
        browser.driver.execute_script(sort)
        found = Counter(pair for pair in named(browser) if pair[0] in NAMED)
        assert {role for role, _ in found} == NAMED
        assert len(found) > 60
        assert [pair for pair, times in found.items() if times > 1 or not pair[1].strip()] == []
    assert ("button", "Group by model, digits") in found
    assert ("button", "Collapse all, faces") in found
    assert ("checkbox", "Show 95 % intervals of faces") in found
    assert ("link", "1: why mcm of ViT-B-1/laion2b_s34b_b79k is absent, faces") in found


def test_plots_and_pictures_say_what_they_show(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.draw_all()
    plots = [str(text) for text in browser.js("[...document.querySelectorAll('.plot')].map(e => e.ariaLabel)")]
    images = [name for role, name in named(browser) if role == "image"]
    assert len(plots) > 20
    assert Counter(plots) <= Counter(images)
    assert set(Counter(plots).values()) == {1}
    assert all(len(text) > 40 for text in plots)
    assert all(images)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(browser: Browser, report: Path, scheme: str) -> None:
    browser.open(report, scheme=scheme)
    browser.draw_all()
    browser.js("[...document.querySelectorAll('details, .show-intervals')].forEach(e => e.open = e.checked = true)")
    found = browser.driver.execute_script(CONTRAST)
    assert len(found) > 1000
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []


def test_the_keyboard_gets_everywhere_and_past_the_beginning(browser: Browser, report: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.open(report)
    browser.js("document.querySelectorAll('.results')[1].querySelector('.table-tools > button').click()")
    browser.js("document.activeElement.blur()")
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert browser.js("document.activeElement.textContent") == "Skip to the results"
    left, right = browser.js("(r => [r.left, r.right])(document.activeElement.getBoundingClientRect())")
    assert 0 <= left < right < WIDTHS["desktop"][0]
    reached = "document.activeElement.dataset.reached = 1"
    browser.js(reached)
    places = "[...document.querySelectorAll('a, select, input, .scroll[tabindex], main button, summary')]"
    seen = f"{places}.filter(e => e.checkVisibility())"
    for _ in range(int(browser.js(f"{seen}.length")) - 1):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        browser.js(reached)
    assert browser.js(f"{seen}.filter(e => !e.dataset.reached).map(e => e.outerHTML.slice(0, 80))") == []
    assert browser.js(f"{seen}.filter(e => e.matches('select')).length") > 4
    # The skip link, pressed: the next stop is in the results.
    browser.driver.execute_script("document.querySelector('.skip').focus()")
    ActionChains(browser.driver).send_keys(Keys.ENTER, Keys.TAB).perform()
    assert browser.js("document.activeElement.closest('section').getAttribute('aria-labelledby')") == "results"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_contents_take_one_line(browser: Browser, report: Path, width: str) -> None:
    browser.open(report, width=width)
    assert browser.js("document.querySelector('.contents').offsetHeight") < 40
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    browser.js("[...document.querySelectorAll('.contents a')].at(-1).click()")
    assert -1 < browser.js("document.querySelector('#commands').getBoundingClientRect().top") < WIDTHS[width][1]


def test_the_contents_are_the_headings(browser: Browser, report: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.html"
    short.write_text(render(content([run("a", "knn")])), encoding="utf-8")
    bare = tmp_path / "bare.html"
    bare.write_text(render(content([result("a", "mcm", metrics={}, absent="no text tower")])), encoding="utf-8")
    one = tmp_path / "one.html"
    one.write_text(render(whole(3)), encoding="utf-8")
    for path, least in ((report, 10), (one, 9), (short, 3), (bare, 3)):
        browser.open(path)
        links = browser.js("[...document.querySelectorAll('.contents a')].map(e => e.getAttribute('href'))")
        assert links == browser.js("[...document.querySelectorAll('h2')].map(e => `#${e.id}`)")
        assert len(links) >= least
        levels = [
            int(n) for n in browser.js("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(e => e.tagName[1])")
        ]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below <= above + 1 for above, below in pairwise(levels))


def test_the_way_past_the_beginning_leads_somewhere() -> None:
    """Also where there are no results to skip to."""
    attributes = page([run("a", "knn")]).attributes
    ids = {f"#{value}" for _, name, value in attributes if name == "id"}
    assert {value for tag, name, value in attributes if (tag, name) == ("a", "href")} <= ids
    assert "Skip to the results" not in page([]).text
