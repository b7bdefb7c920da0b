"""The report in a real browser: headless Chromium, without a network.

Needs Debian's ``chromium`` and ``chromium-driver`` and the Python package selenium, and skips where one is missing.
Screenshots at desktop and phone width, light and dark, are left in ``build/report/``.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_study import HOSTILE, content, full, hostile, metrics, provenance, result, run, seeded, study

from embedstore.records import Result
from embedstore.report.choice import detectors
from embedstore.report.completeness import State
from embedstore.report.content import Content
from embedstore.report.distributions import curves
from embedstore.report.gallery import Gallery, Picture, Strip
from embedstore.report.page import render

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the Python package selenium")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")

SHOTS = Path(__file__).parents[1] / "build" / "report"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
MODELS, OODS = 5, ("far/test", "near/test", "other/val")
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAMLCwgAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="

# As root in a container, offline: every name fails to resolve, so that a request could not succeed unseen.
FLAGS = (
    *("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "hide-scrollbars"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage"),
    "host-resolver-rules=MAP * ~NOTFOUND,EXCLUDE localhost",
)


class Browser:
    """A tab, in the words of the tests."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, scheme: str = "light", width: str = "desktop", scripts: bool = True) -> None:
        wide, high = WIDTHS[width]
        screen = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": width == "phone"}
        self.scheme(scheme)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(path.as_uri())
        waiting = "return document.querySelector('main > section:not(.laid), .results:not(.laid)') === null"
        if scripts:
            WebDriverWait(self.driver, 20).until(lambda driver: driver.execute_script(waiting))

    def draw_all(self) -> None:
        """Also the plots that are too far below to be drawn yet: print draws everything."""
        if self.drawn() < self.js("document.querySelectorAll('.plot:not([hidden])').length"):
            self.before_print(), self.after_print()

    def before_print(self) -> None:
        self.driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")

    def after_print(self) -> None:
        self.driver.execute_script("window.dispatchEvent(new Event('afterprint'))")

    def scheme(self, value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.js(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")]

    def points(self, within: str = "relation") -> list[int]:
        """Points of each plot of a kind of section."""
        self.draw_all()
        plots = f"[...document.querySelectorAll('[id^={within}-] .plot')]"
        return [int(n) for n in self.js(f"{plots}.map(p => p.querySelectorAll('.point').length)")]

    def drawn(self) -> int:
        return int(self.js("document.querySelectorAll('.plot.js-plotly-plot').length"))

    def complaints(self) -> list[str]:
        """Console errors and warnings since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, but data: and what Chromium's own first tab still loads."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        urls = [str(params["request"]["url"]) for params in sent if not params["documentURL"].startswith("chrome:")]
        return [url for url in urls if not url.startswith("data:")]

    def shoot(self, path: Path) -> None:
        """The whole page."""
        self.draw_all()
        self.shoot_as_it_is(path)

    def shoot_as_it_is(self, path: Path) -> None:
        wide, high = self.js("[window.innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": wide, "height": high, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def whole(models: int = MODELS, name: str = "ViT-B-{}/laion2b_s34b_b79k", text: str = "") -> Content:
    """A report with every section: scores of the best model, images that fool it, sizes, shots and classes."""
    rng = np.random.default_rng(0)
    results = []
    for item in full(models, OODS):
        scores = {
            f"{score}/{split}": rng.normal(1.5 if split == "digits/test" else 0, 1, 400)
            for score in item.metrics
            for split in ("digits/test", *OODS)
        }
        results.append(replace(item, scores=scores))
    by_class = [[f"{text}class {n}", n / 12, 40] for n in range(12)] + [["unseen", None, 0]]
    details = {"class_accuracy": by_class, "confused": [[f"{text}class 1", "class 2", 30]] * 12}
    results[0] = replace(results[0], details=details, id_accuracy=0.99)
    for shots, seed in ((1, 0), (1, 1), (16, 0), (16, 1)):
        table = {"msp": {ood: metrics(0.5 + 0.02 * shots + 0.01 * seed) for ood in OODS}}
        results.append(run(results[0].model, "linear", f"shots={shots}", seed, id_accuracy=0.5, metrics=table))
    made = {m: provenance(m, parameters=10**7 * (n + 1), gflops=4.0 * (n + 1)) for n, m in enumerate(names(results))}
    strip = [Picture(f"{text}{n}.jpg", f"{text}cat", n / 8, PIXEL if n else None) for n in range(8)]
    strips = {ood: (Strip(ood, "knn · cosine", tuple(strip), f"{text} is not at hand."),) for ood in OODS}
    gallery = Gallery("digits", f"{text}model", ("knn · cosine",), strips[OODS[0]], strips)
    states = (State(results[0].model, "digits/test", 90, 7, 3), State(results[-1].model, "far/test", 100))
    found = content(results, models=made, galleries=(gallery,), states=states)
    return replace(found, curves=tuple(curves(detectors(found.cells, results).values())))


def names(results: list[Result]) -> list[str]:
    return sorted({item.model for item in results})


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "report.html"
    path.write_text(render(whole()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = study(MODELS, OODS, notes=("digits/train: 30 of 40 rows are used (10 pending, 0 failed)",))
    absent = result("model0", "mcm", metrics={}, absent="model0 has no text tower")
    results = [item for item in results if (item.model, item.method) != ("model0", "mcm")] + [absent]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(content(results)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_or_a_request(browser: Browser, report: Path, scheme: str, width: str) -> None:
    browser.complaints(), browser.requests()
    browser.open(report, scheme=scheme, width=width)
    assert browser.points() == [MODELS] * len(OODS)
    browser.shoot(SHOTS / f"{width}-{scheme}.png")
    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]
    # Wide tables scroll inside their own box.
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]


@pytest.mark.slow
def test_several_seeds_fit_on_the_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(content(seeded(MODELS, oods=OODS))), encoding="utf-8")
    for width in WIDTHS:
        browser.open(path, width=width)
        browser.shoot(SHOTS / f"{width}-seeds.png")
        assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    # Numbers stay in line, whether or not a deviation follows.
    assert (
        browser.js("new Set([...document.querySelectorAll('.spread')].map(e => e.offsetWidth).filter(Boolean)).size")
        == 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_every_method_and_long_names_fit_on_the_page(browser: Browser, tmp_path: Path, width: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(content(full(3, OODS))), encoding="utf-8")
    browser.open(path, width=width)
    assert browser.js("getComputedStyle(document.querySelector('.interval')).display") == "none"
    browser.shoot(SHOTS / f"{width}-all.png")
    browser.js("document.querySelector('.show-intervals').click()")
    assert browser.js("getComputedStyle(document.querySelector('.interval')).display") == "block"
    browser.shoot(SHOTS / f"{width}-intervals.png")
    wide = WIDTHS[width][0]
    assert browser.js("document.documentElement.scrollWidth") == wide
    # The names stay in sight while a table scrolls, and must leave room for what scrolls.
    assert browser.js("Math.max(...[...document.querySelectorAll('tbody .name')].map(e => e.offsetWidth))") < wide / 2
    assert browser.complaints() == []


def test_the_findings_fit_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    oods = ("cifar100/test", "a-long-name-of-textures/test", "scenes-of-six-kinds/test")
    path.write_text(render(content(full(3, oods))), encoding="utf-8")
    browser.open(path, width="phone")
    assert browser.js("document.querySelector('.findings').offsetWidth") <= WIDTHS["phone"][0]
    names = "[...document.querySelectorAll('.findings tbody .name')]"
    assert browser.js(f"{names}.length") == len(oods) + 1  # and their mean
    assert browser.js(f"{names}.every(e => e.firstElementChild.scrollWidth <= e.clientWidth)")


def test_choosing_a_method_changes_plots_captions_and_the_table(browser: Browser, report: Path) -> None:
    browser.open(report)
    before = browser.texts("figcaption .r2")
    assert browser.js("document.querySelector('[data-label]:not([hidden])').dataset.label") == "knn · cosine"
    from selenium.webdriver.support.ui import Select

    Select(browser.driver.find_element("css selector", ".drawing select")).select_by_visible_text("mcm · msp")
    assert browser.points() == [MODELS - 1] * len(OODS)
    assert browser.texts("figcaption .r2") != before
    assert browser.js("document.querySelector('[data-label]:not([hidden])').dataset.label") == "mcm · msp"
    assert browser.js("document.querySelectorAll('[data-label]:not([hidden])').length") == 1
    assert "mcm · msp" in browser.js("document.querySelector('.plot').getAttribute('aria-label')")
    assert browser.complaints() == []


def test_the_plots_follow_the_colour_scheme_while_open(browser: Browser, report: Path) -> None:
    def colours() -> list[str]:
        fills = [("body", "backgroundColor"), (".plot .point", "fill"), (".plot .xtick text", "fill")]
        return [str(browser.js(f"getComputedStyle(document.querySelector('{what}')).{name}")) for what, name in fills]

    browser.open(report, scheme="light")
    browser.draw_all()
    light = colours()
    browser.scheme("dark")
    WebDriverWait(browser.driver, 10).until(lambda _: all(a != b for a, b in zip(light, colours(), strict=True)))
    svg = "document.querySelector('.plot .main-svg')"
    assert browser.js(f"getComputedStyle({svg}).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_seen_as_they_are_also_on_hover(browser: Browser, tmp_path: Path, text: str) -> None:
    from selenium.webdriver import ActionChains

    path = tmp_path / "report.html"
    path.write_text(render(content(hostile(text)), text), encoding="utf-8")
    browser.complaints(), browser.requests()
    browser.open(path)
    assert browser.texts("h1") == [text]
    # All or nothing: an element made out of a name would be one that the page does not have with plain names.
    assert browser.js("document.querySelectorAll('img, main script').length") == 0
    browser.draw_all()
    point = browser.driver.find_element("css selector", ".plot .point")
    browser.js("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    ActionChains(browser.driver).move_to_element(point).perform()
    hover = browser.js("document.querySelector('.hoverlayer').textContent")
    assert hover.startswith(f"{text}0")
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []


# Every section -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_fits_and_complains_of_nothing(
    browser: Browser, everything: Path, scheme: str, width: str
) -> None:
    browser.complaints(), browser.requests()
    browser.open(everything, scheme=scheme, width=width)
    browser.shoot(SHOTS / f"{width}-{scheme}-sections.png")
    titles = ["relation", "separation", "cost", "shots", "weak", "gallery", "provenance"]
    assert set(titles) <= set(browser.js("[...document.querySelectorAll('h2')].map(e => e.id)"))
    assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    assert browser.points("relation") == [MODELS] * len(OODS)
    assert browser.points("cost") == [MODELS] * 4
    assert browser.points("shots") == [3, 3]
    assert browser.js("document.querySelectorAll('[id^=separation-] .plot')[0].data.length") == 8
    assert max(browser.js("document.querySelectorAll('[id^=separation-] .plot')[0].data.map(t => t.x.length)")) <= 150
    # No plot is empty, and every one says in words what it shows.
    assert browser.drawn() == browser.js("document.querySelectorAll('.plot').length")
    assert browser.js("[...document.querySelectorAll('.plot')].every(p => p.getAttribute('aria-label').length > 40)")
    assert browser.js("[...document.querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    assert browser.complaints() == []
    assert browser.requests() == [everything.as_uri()]


def test_choosing_an_ood_set_changes_the_curves_their_table_and_the_histograms(
    browser: Browser, everything: Path
) -> None:
    from selenium.webdriver.support.ui import Select

    browser.open(everything)
    browser.draw_all()
    within = "[id^=separation-] "
    shown = f"document.querySelectorAll('{within}[data-label]:not([hidden])')"
    before = browser.texts(f"{within}figcaption .r2"), browser.js(f"{shown}[0].textContent")
    Select(browser.driver.find_element("css selector", f"{within}select")).select_by_visible_text("near")
    assert browser.js(f"[...{shown}].map(e => e.dataset.label)") == ["near"]
    after = browser.texts(f"{within}figcaption .r2"), browser.js(f"{shown}[0].textContent")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert after[0][0] == "digits against near"
    # The AUROC above a histogram is the one in the table.
    rows = browser.js(f"[...{shown}[0].querySelectorAll('tbody tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert [f"AUROC {row[1]}" for row in rows] == after[0][1:]
    assert browser.complaints() == []


@pytest.mark.slow
def test_a_large_study_is_small_enough_and_draws_what_is_in_sight(browser: Browser, tmp_path: Path) -> None:
    sets = tuple(f"set{n}/test" for n in range(8))
    found = content(full(25, sets))
    path = tmp_path / "report.html"
    path.write_text(render(found), encoding="utf-8")
    # Curves of eight sets and 144 images of at most 9 kB as text come on top, less than 3 MB.
    assert path.stat().st_size < 12_000_000
    browser.open(path)
    assert browser.js("document.querySelectorAll('.plot').length") == len(sets)
    assert browser.drawn() == 0
    browser.js("document.querySelector('#relation').scrollIntoView()")
    WebDriverWait(browser.driver, 10).until(lambda _: browser.drawn() > 0)
    assert browser.points() == [25] * len(sets)


@pytest.mark.parametrize("text", HOSTILE[:3])
def test_hostile_names_in_every_section_do_nothing(browser: Browser, tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(whole(2, text=text)), encoding="utf-8")
    browser.complaints(), browser.requests()
    browser.open(path)
    browser.draw_all()
    assert browser.js("document.querySelectorAll('main script, main b b, [onerror]').length") == 0
    assert browser.js("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert f"{text}7.jpg" in browser.texts(".file")
    assert f"{text}class 1" in browser.texts("#weak ~ .pairs td, #weak ~ .pairs tbody th")
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []
