"""The report in a real browser: headless Chromium, without a network.

Needs Debian's ``chromium`` and ``chromium-driver`` and the Python package selenium, and skips where one is missing.
Screenshots at desktop and phone width, light and dark, are left in ``build/report/``.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_study import HOSTILE, content, full, hostile, result, seeded, study

from embedstore.report.page import render

webdriver = pytest.importorskip("selenium.webdriver", reason="needs the Python package selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")

SHOTS = Path(__file__).parents[1] / "build" / "report"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
MODELS, OODS = 5, ("far/test", "near/test", "other/val")

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

    def open(self, path: Path, *, scheme: str = "light", width: str = "desktop") -> None:
        wide, high = WIDTHS[width]
        screen = {"width": wide, "height": high, "deviceScaleFactor": 1, "mobile": width == "phone"}
        self.scheme(scheme)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        self.driver.get(path.as_uri())

    def scheme(self, value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def texts(self, selector: str) -> list[str]:
        return [str(text) for text in self.js(f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)")]

    def points(self) -> list[int]:
        return [
            int(n)
            for n in self.js("[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.point').length)")
        ]

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


def test_several_seeds_fit_on_the_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render(content(seeded(MODELS, oods=OODS))), encoding="utf-8")
    for width in WIDTHS:
        browser.open(path, width=width)
        browser.shoot(SHOTS / f"{width}-seeds.png")
        assert browser.js("document.documentElement.scrollWidth") == WIDTHS[width][0]
    # Numbers stay in line, whether or not a deviation follows.
    assert browser.js("new Set([...document.querySelectorAll('.spread')].map(e => e.offsetWidth)).size") == 1


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


def test_choosing_a_method_changes_plots_captions_and_the_table(browser: Browser, report: Path) -> None:
    browser.open(report)
    before = browser.texts("figcaption .r2")
    assert browser.js("document.querySelector('[data-label]:not([hidden])').dataset.label") == "knn · cosine"
    from selenium.webdriver.support.ui import Select

    Select(browser.driver.find_element("css selector", "select")).select_by_visible_text("mcm · msp")
    assert browser.points() == [MODELS - 1] * len(OODS)
    assert browser.texts("figcaption .r2") != before
    assert browser.js("document.querySelector('[data-label]:not([hidden])').dataset.label") == "mcm · msp"
    assert browser.js("document.querySelectorAll('[data-label]:not([hidden])').length") == 1
    assert "mcm · msp" in browser.js("document.querySelector('.plot').getAttribute('aria-label')")
    assert browser.complaints() == []


def test_the_plots_follow_the_colour_scheme_while_open(browser: Browser, report: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    def colours() -> list[str]:
        fills = [("body", "backgroundColor"), (".plot .point", "fill"), (".plot .xtick text", "fill")]
        return [str(browser.js(f"getComputedStyle(document.querySelector('{what}')).{name}")) for what, name in fills]

    browser.open(report, scheme="light")
    light = colours()
    browser.scheme("dark")
    WebDriverWait(browser.driver, 10).until(lambda _: all(a != b for a, b in zip(light, colours(), strict=True)))
    svg = "document.querySelector('.plot .main-svg')"
    assert browser.js(f"getComputedStyle({svg}).backgroundColor") == "rgba(0, 0, 0, 0)"


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
    point = browser.driver.find_element("css selector", ".plot .point")
    browser.js("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    ActionChains(browser.driver).move_to_element(point).perform()
    hover = browser.js("document.querySelector('.hoverlayer').textContent")
    assert hover.startswith(f"{text}0")
    assert browser.requests() == [path.as_uri()]
    assert browser.complaints() == []
