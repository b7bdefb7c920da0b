"""The section on attacks in a real browser; screenshots are left in ``build/report/``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import test_report_browser
from report_study import HOSTILE, attacked, content, study
from test_report_browser import PIXEL, SHOTS, WIDTHS, Browser
from test_report_robustness import declared

from embedstore.report.attack_gallery import AttackGallery, Morph
from embedstore.report.content import Content
from embedstore.report.page import render

pytestmark = [test_report_browser.pytestmark, pytest.mark.slow]
browser = test_report_browser.browser

SECTION = "section[aria-labelledby=robustness]"


def whole(text: str = "") -> Content:
    """Three attacks, one with steps and two with budgets, judged by two models, with images."""
    names = {"far-smooth": None, f"{text.replace('/', '')}far-2": 2 / 255, "far-8": 8 / 255}
    results = study(2)
    for name in names:
        results += attacked(name, (f"{text}a", f"{text}b"), (50, 100) if name == "far-smooth" else ())
    made = tuple(declared(name, f"{text}a", size) for name, size in names.items())
    morphs = [Morph(f"{text}{n}", f"{text}cat", 0.1, 0.9, n > 2, *(PIXEL,) * 3, PIXEL if n else None) for n in range(6)]
    some = AttackGallery("digits", "far-smooth", f"{text}a", "knn · cosine", 20, tuple(morphs), (f"{text} is gone.",))
    return content(results, attacks=made, attack_galleries=(some, replace(some, attack="far-8")))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robust") / "report.html"
    path.write_text(render(whole()), encoding="utf-8")
    return path


@pytest.mark.parametrize(("width", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_it_fits_and_complains_of_nothing(browser: Browser, page: Path, width: str, scheme: str) -> None:
    browser.complaints(), browser.requests()
    browser.open(page, width=width, scheme=scheme)
    browser.shoot(SHOTS / f"robust-{width}-{scheme}.png")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    assert browser.texts(".contents [href$=robustness]") == ["Robustness"]
    # Points of the steps, of the budgets and of all attacks: three methods each.
    assert browser.points("robust") == [3 * 4, 3 * 3, 3 * 4]
    # The four pictures of an image stand in a row, inside the window.
    boxes = browser.js(
        f"[...document.querySelectorAll('{SECTION} .four')].filter(e => e.checkVisibility()).map(e => "
        "[...e.children].map(i => i.getBoundingClientRect()).map(r => [r.top, r.right, r.width, r.height]))"
    )
    assert [len(row) for row in boxes] == [3, 4, 4, 4, 4, 4] * (len(boxes) // 6)
    assert boxes
    for row in boxes:
        assert len({box[0] for box in row}) == 1
        assert all(box[1] <= WIDTHS[width][0] and box[2] == box[3] > 60 for box in row)


def test_the_menu_changes_every_panel_and_the_table_of_steps(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.draw_all()
    hidden = f"[...document.querySelectorAll('{SECTION} [data-label]')].map(e => [e.dataset.label, e.hidden])"
    assert browser.js(hidden) == [["a", False]]
    select = browser.driver.find_element("css selector", f"{SECTION} select")
    assert [option.text for option in select.find_elements("css selector", "option")] == ["a", "b"]
    select.send_keys("b")
    assert browser.js(hidden) == [["a", True]]
    # Of the other model there are no features on the way, and one says so.
    assert browser.texts(f"{SECTION} .why:not([hidden])") == [
        "Features on the way are kept of the attacked model alone, and none of this one were tested."
    ]
    assert browser.js(f"document.querySelectorAll('{SECTION} .plot:not([hidden])').length") == 2
    assert browser.complaints() == []


def test_on_paper_every_picture_is_there(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.before_print()
    shown = f"[...document.querySelectorAll('{SECTION} .four img')].map(e => e.checkVisibility() && e.offsetWidth > 40)"
    assert browser.js(shown) == [True] * 46  # two galleries of six images, one of them without its target
    wide = f"[...document.querySelectorAll('{SECTION} table')].map(e => e.offsetWidth <= e.parentElement.clientWidth)"
    assert all(browser.js(wide))
    browser.after_print()


@pytest.mark.parametrize("text", HOSTILE[:2])
def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(whole(text)), encoding="utf-8")
    browser.complaints(), browser.requests()
    browser.open(path)
    browser.draw_all()
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []
    assert any(text in found for found in browser.texts(f"{SECTION} .model span"))
    assert browser.js(f"document.querySelectorAll('{SECTION} .plot script, {SECTION} figcaption script').length") == 0
