"""The page of a large study is small enough to send and quick to open: 25 models, two ID sets, eight OOD sets each.

With every section: curves, pictures, sizes, numbers of labels, weak spots. The best of three loads counts, since other
work on the machine can only add.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_study import content, full, measured, provenance, run
from test_report_browser import CHROMIUM, DRIVER, FLAGS, webdriver

from embedstore.records import Result
from embedstore.report.choice import detectors
from embedstore.report.completeness import State
from embedstore.report.content import Content
from embedstore.report.distributions import curves
from embedstore.report.gallery import EACH, SIDE, Gallery, Picture, Strip
from embedstore.report.page import render

MODELS, IMAGES, CLASSES = 25, 400, 1000
SETS = tuple(f"set{n}/test" for n in range(8))
LARGEST, SLOWEST = 15_000_000, 2.0  # bytes, seconds
LABELS = ("knn · cosine", "linear · energy")  # of the detectors whose pictures are shown

FIRST_PLOT = """
const done = arguments[0], begin = performance.now();
const [navigation] = performance.getEntriesByType("navigation");
document.querySelector("#relation").scrollIntoView();
const look = () => document.querySelector(".plot .point")
  ? done([navigation.domContentLoadedEventEnd, navigation.loadEventEnd, performance.now() - begin])
  : requestAnimationFrame(look);
look();
"""


def noise(rng: np.random.Generator) -> str:
    """The largest thumbnail that there can be."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def results(id_dataset: str, rng: np.random.Generator) -> Iterator[Result]:
    """Every method of every model; the last and best model with scores of images and accuracies by class."""
    few = [
        run(
            f"ViT-B-{index}/laion2b_s34b_b79k",
            "linear",
            f"shots={shots}",
            seed,
            id_accuracy=0.3 + 0.01 * shots + 0.005 * index + 0.01 * seed,
            metrics={s: {ood: measured(0.5 + 0.01 * shots + 0.01 * seed) for ood in SETS} for s in ("msp", "energy")},
        )
        for index in range(MODELS)
        for shots in (1, 4, 16)
        for seed in range(3)
    ]
    names = [f"a class with quite a long name {n}" for n in range(CLASSES)]
    details = {
        "class_accuracy": [[name, n / CLASSES, 50] for n, name in enumerate(names)],
        "class_agreement": [[name, n / CLASSES] for n, name in enumerate(names)],
        "agreement": 0.7,
        "confused": [[name, names[0], 30] for name in names[:30]],
        "template_accuracy": [[f"a photo of prompt {n} of a {{}}.", n / 80] for n in range(80)],
    }
    best = f"ViT-B-{MODELS - 1}/laion2b_s34b_b79k"
    for item in [*full(MODELS, SETS), *few]:
        inputs = {f"images/{split}": "1" for split in (f"{id_dataset}/test", *SETS)}
        item = replace(item, id_dataset=id_dataset, inputs=inputs)
        if item.model == best:
            keys = [f"{score}/{split}" for score in item.metrics for split in (f"{id_dataset}/test", *SETS)]
            scores = {key: rng.normal(1.5 * (id_dataset in key), 1, IMAGES) for key in keys}
            item = replace(item, scores=scores, details=details)
        yield item


def gallery(id_dataset: str, model: str, rng: np.random.Generator) -> Gallery:
    def strip(split: str, label: str) -> Strip:
        keys = [f"a/long/folder/of/images/{n:08}.jpeg" for n in rng.integers(0, 10**8, EACH)]
        return Strip(split, label, tuple(Picture(key, "a class", 0.9, noise(rng)) for key in keys))

    others = {ood: tuple(strip(ood, label) for label in LABELS) for ood in SETS}
    return Gallery(id_dataset, model, LABELS, tuple(strip(f"{id_dataset}/test", label) for label in LABELS), others)


def large() -> Content:
    rng = np.random.default_rng(0)
    every = [item for name in ("digits", "letters") for item in results(name, rng)]
    names = sorted({item.model for item in every})
    made = {name: provenance(name, parameters=10**7 * (n + 1), gflops=4.0 * (n + 1)) for n, name in enumerate(names)}
    splits = ("digits/test", "letters/test", *SETS)
    found = content(
        every,
        models=made,
        galleries=tuple(gallery(name, names[-1], rng) for name in ("digits", "letters")),
        states=tuple(State(name, split, 90, 7, 3) for name in names for split in splits),
    )
    return replace(found, curves=tuple(curves(detectors(found.cells, every).values())))


def opened(path: Path, profile: Path) -> list[float]:
    """Seconds from the start until the page is parsed, until it is loaded, and from there until a plot is drawn.

    And those that the tab's main thread ran on a core: far fewer mean that the machine was busy with something else.
    """
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={profile}", "window-size=1280,900"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        driver.get(path.as_uri())
        seconds = [float(value) / 1000 for value in driver.execute_async_script(FIRST_PLOT)]
        metrics = {one["name"]: one["value"] for one in driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]}
        return [round(value, 2) for value in (*seconds, metrics["TaskDuration"])]
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH")
def test_the_page_of_a_large_study_is_small_and_opens_at_once(tmp_path: Path) -> None:
    found = large()
    assert len(found.curves) == 2 * 8 * len(SETS)
    html = render(found)
    for section in ("relation", "separation", "cost", "shots", "weak", "gallery", "provenance"):
        assert f'id="{section}"' in html
    assert html.count("<img ") == 2 * (1 + len(SETS)) * len(LABELS) * EACH
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    loads = [opened(path, tmp_path / f"profile{number}") for number in range(3)]
    # The clock where the machine has nothing else to do; where it has, what the page itself took of a core.
    size, took = path.stat().st_size, min(min(loaded + plot, busy) for _, loaded, plot, busy in loads)
    said = f"{size / 1e6:.2f} MB; parsed, loaded, first plot, main thread busy, in seconds: {loads}"
    print(said)
    assert size < LARGEST, said
    assert took < SLOWEST, said
