"""The report on paper: a PDF as Chromium prints it, read by a library that knows nothing of the page.

The PDF, and how the page looks while it is printed, are left in ``build/report/``.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
import test_report_browser
from report_study import content, full
from test_report_browser import SHOTS, Browser

from embedstore.report.content import Content
from embedstore.report.main_table import main_table
from embedstore.report.page import render

pypdf = pytest.importorskip("pypdf", reason="needs the Python package pypdf")
pytestmark = [test_report_browser.pytestmark, pytest.mark.slow]
browser = test_report_browser.browser
everything = test_report_browser.everything

SETS = tuple(f"set{n}/test" for n in range(8))
GROUPS = {"near": SETS[:2], "far": SETS[2:]}
A4 = {"paperWidth": 8.27, "paperHeight": 11.69}  # inches
STATE = """[
  [...document.querySelectorAll('details')].map(e => e.open),
  [...document.querySelectorAll('.plot')].map(
    e => [e.closest('figure').clientWidth, e.querySelector('.main-svg').clientWidth]),
  [...document.querySelectorAll('table')].map(e => [e.offsetWidth, e.offsetHeight]),
  getComputedStyle(document.querySelector('.plot .xtick text')).fill,
  getComputedStyle(document.body).backgroundColor,
]"""


def wide(models: int = 3) -> Content:
    """Eight sets, two means over groups of them, and methods with long names."""
    return content(full(models, SETS), groups=GROUPS)


def printed(browser: Browser, path: Path, **options: Any) -> list[Any]:
    """The pages of the PDF that is left at `path`."""
    found = browser.driver.execute_cdp_cmd("Page.printToPDF", {**A4, "preferCSSPageSize": True, **options})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(found["data"]))
    return list(pypdf.PdfReader(path).pages)


def placed(page: Any) -> list[tuple[float, str]]:
    """The pieces of text on a page, and how far from its left edge each begins, in points."""
    found = []

    def visit(text: str, cm: list[float], tm: list[float], *_: object) -> None:
        if text.strip():
            found.append((tm[4] * cm[0] + tm[5] * cm[2] + cm[4], text))

    page.extract_text(visitor_text=visit)
    return found


def words(*texts: str) -> Counter[str]:
    """Names break at spaces and hyphens, and numbers stand between their lines. A font may join letters ("ffi")."""
    return Counter(word for text in texts for word in re.split(r"[\s-]+", normalize("NFKC", text)) if word)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", normalize("NFKC", text))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("print") / "report.html"
    path.write_text(render(wide()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sheets(browser: Browser, large: Path) -> list[Any]:
    """Printed in the dark, with rows filtered out and a model folded."""
    browser.open(large, scheme="dark")
    browser.js("document.querySelector('.model button').click()")
    browser.driver.find_element("css selector", ".table-tools input[type=search]").send_keys("ViT-B-1 knn")
    return printed(browser, SHOTS / "print-wide.pdf")


def across(pages: list[Any]) -> list[Any]:
    return [page for page in pages if page.mediabox.width > page.mediabox.height]


def beyond(page: Any) -> list[str]:
    """Texts that begin where there is no room on the page for a number, which is some 15 points wide."""
    return [text for x, text in placed(page) if not 20 < x < float(page.mediabox.width) - 35]


def test_no_number_of_the_widest_table_is_lost(sheets: list[Any]) -> None:
    table = main_table("digits", wide().cells, (), GROUPS)
    assert len(table.columns) == 10
    rows = [row for _, rows in table.models for row in rows]
    texts = [page.extract_text() for page in across(sheets)]
    # Outside of the table there are no numbers of this form on these pages.
    lost = Counter(number.text for row in rows for number in row.numbers)
    assert lost - Counter(number for text in texts for number in re.findall(r"\d+\.\d", text)) == Counter()
    names = [*(row.label for row in rows), *(model for model, _ in table.models)]
    assert words(*names) - words(*texts) == Counter()


def test_the_heads_are_on_every_page_and_nothing_is_beyond_its_edge(sheets: list[Any]) -> None:
    table = [page for page in across(sheets) if len(re.findall(r"\d+\.\d", page.extract_text())) > 100]
    assert len(table) > 2
    for page in table:
        found = words(page.extract_text())
        assert found["AUROC"] >= 10
        assert found["FPR95"] >= 10
        assert {"Method", "accuracy", "near", "far", *(f"set{n}" for n in range(8))} <= set(found)
    assert not any(beyond(page) for page in sheets)


def test_every_section_and_what_is_folded_is_printed(browser: Browser, everything: Path) -> None:
    browser.complaints()
    browser.open(everything)
    folded = browser.texts("details:not([open]) :is(dd, td, tbody th)")
    assert len(folded) > 30
    headings = browser.texts("h2")
    pages = printed(browser, SHOTS / "print.pdf")
    assert across(pages) == [], "three sets need no page across"
    text = squeezed("".join(page.extract_text() for page in pages))
    assert [one for one in (*folded, *headings) if squeezed(one) not in text] == []
    # What can only be pressed is not printed, but what a menu has chosen is.
    assert "Showallscores" not in text
    assert "Skiptotheresults" not in text
    assert "Methodknn·cosine" in text
    assert browser.complaints() == []


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_plots_and_tables_fit_the_paper_and_then_the_window_again(
    browser: Browser, everything: Path, width: str
) -> None:
    browser.open(everything, scheme="light", width=width)
    tables = "[...document.querySelectorAll('table, main, summary, h2')].map(e => [e.offsetWidth, e.offsetHeight])"
    unprinted = browser.js(tables)
    browser.draw_all()
    assert browser.js(tables) == unprinted
    light = browser.js(STATE)
    browser.scheme("dark")
    browser.before_print(), browser.after_print()
    before = browser.js(STATE)
    assert before[3:] != light[3:]
    browser.before_print()
    on_paper = browser.js(STATE)
    browser.shoot_as_it_is(SHOTS / f"print-{width}.png")
    assert all(on_paper[0])
    assert on_paper[3] == light[3], "paper is white, whatever the screen"
    assert on_paper[4] == light[4]
    assert browser.js("getComputedStyle(document.querySelector('.scroll')).backgroundImage") == "none"
    sheet = browser.js("document.querySelector('main').clientWidth")
    assert sheet == pytest.approx(180 / 25.4 * 96, abs=1)
    assert all(abs(drawn - room) <= 1 and room < sheet for room, drawn in on_paper[1])
    assert [width for width, _ in on_paper[2] if width > sheet + 1] == []
    browser.after_print()
    assert browser.js(STATE) == before
    assert all(abs(drawn - room) <= 1 for room, drawn in before[1])


@pytest.mark.slow
def test_seeds_fit_too_and_other_paper(browser: Browser, tmp_path: Path) -> None:
    """What makes the widest table wider still."""
    results = [item for seed in (0, 1) for item in again(full(2, SETS), seed)]
    path = tmp_path / "report.html"
    path.write_text(render(content(results, groups=GROUPS)), encoding="utf-8")
    browser.open(path)
    assert browser.js("document.querySelectorAll('.spread').length") > 100
    browser.before_print()
    room, table = browser.js(
        "[document.querySelector('.wide'), document.querySelector('.main')].map(e => e.offsetWidth)"
    )
    browser.after_print()
    assert table <= room + 1
    letter = printed(browser, tmp_path / "print.pdf", paperWidth=8.5, paperHeight=11)
    assert {round(float(page.mediabox.width)) for page in letter} == {612, 792}
    assert not any(beyond(page) for page in letter)


def again(results: list[Any], seed: int) -> list[Any]:
    """The same results of another seed, a little worse, where the seed matters."""
    return [
        replace(
            item,
            params={**item.params, "seed": seed},
            metrics={
                score: {ood: {**values, "auroc": values["auroc"] - 0.01 * seed} for ood, values in by_set.items()}
                for score, by_set in item.metrics.items()
            },
        )
        for item in results
        if seed == 0 or "seed" in item.params
    ]
