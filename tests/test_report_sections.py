"""The report's sections on scores, size, shots, classes, images and rows: right with data, and honest without."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_folder
from report_study import HOSTILE, Page, content, metrics, page, provenance, result, run, study
from scipy import stats
from zarr.storage import MemoryStore

from embedstore.records import FAILED, OK, PENDING, Result, Rows
from embedstore.report import cells, correlations, gather
from embedstore.report.choice import detectors
from embedstore.report.completeness import state_rows, states, warning
from embedstore.report.distributions import curves, roc
from embedstore.report.few_shot import few_shot
from embedstore.report.gallery import Gallery, galleries
from embedstore.report.page import render
from embedstore.report.plots import panels
from embedstore.report.scaling import scaling
from embedstore.report.separation import separations
from embedstore.report.weak_spots import weak_spots
from embedstore.sources import open_source
from embedstore.store import Store

# Which scores --------------------------------------------------------------------------------------------------------


def test_the_best_score_of_every_method_of_the_best_model_is_looked_at() -> None:
    table = {"msp": 0.7, "energy": 0.9}
    results = [
        run("good", "plp", metrics={s: {"far/test": metrics(v), "near/test": metrics(v)} for s, v in table.items()}),
        run("good", "knn", metrics={"cosine": {"far/test": metrics(0.6), "near/test": metrics(0.6)}}),
        run("good", "knn", "k=10", metrics={"cosine": {"far/test": metrics(0.8), "near/test": metrics(0.8)}}),
        run("good", "linear", metrics={"msp": {"far/test": metrics(0.85), "near/test": metrics(0.85)}}),
        run("worse", "linear", metrics={"msp": {"far/test": metrics(0.89), "near/test": metrics(0.8)}}),
        # The best number of all, but of the easy set alone: not to be compared with means over both.
        run("partial", "linear", metrics={"msp": {"far/test": metrics(0.99)}}),
    ]
    (found,) = detectors(cells(results), results).values()
    assert [(d.model, d.label, d.label_free) for d in found] == [
        ("good", "plp · energy", True),
        ("good", "linear · msp", False),
        ("good", "knn (k=10) · cosine", True),
    ]
    assert [d.auroc for d in found] == pytest.approx([0.9, 0.85, 0.8])


def test_of_several_seeds_the_first_is_drawn_and_of_several_results_the_newest() -> None:
    old, new = (run("a", "linear", seed=0, created=f"2026-01-0{day}T00:00:00+00:00") for day in (1, 2))
    results = [old, new, run("a", "linear", seed=1, created="2026-01-03T00:00:00+00:00")]
    (found,) = detectors(cells(results), results)["digits"]
    assert found.seeds == 2
    assert found.results["far/test"] is new


# Curves --------------------------------------------------------------------------------------------------------------


def scored(s_id: Any, s_ood: Any, model: str = "a", method: str = "knn", score: str = "cosine") -> Result:
    arrays = {f"{score}/digits/test": np.asarray(s_id, float), f"{score}/far/test": np.asarray(s_ood, float)}
    return result(model, method, scores=arrays, metrics={score: {"far/test": metrics(0.8)}})


def drawn(results: list[Result]) -> list[Any]:
    return curves(detectors(cells(results), results).values())


def test_another_split_that_was_tested_has_its_curves() -> None:
    arrays = {"cosine/digits/val": np.array([0.5, 0.9, 0.7]), "cosine/far/test": np.array([0.1, 0.6])}
    table = {"cosine": {"far/test": metrics(0.8)}}
    (curve,) = drawn([result("a", "knn", variant="test_split=val", scores=arrays, metrics=table)])
    assert (curve.n_id, curve.n_ood, curve.auroc) == (3, 2, 5 / 6)


@pytest.mark.parametrize("decimals", [1, 12])  # with ties, and without
def test_a_roc_curve_has_few_points_all_on_the_true_curve_and_the_same_area(decimals: int) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    s_id, s_ood = rng.normal(1, 1, 3000).round(decimals), rng.normal(0, 1.5, 2000).round(decimals)
    truth = np.repeat([1, 0], [3000, 2000])
    scores = np.concatenate((s_id, s_ood))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc(s_id, s_ood), (fpr, tpr), atol=1e-12)
    gaps = [np.append(s_id, np.nan), np.insert(s_ood, 7, np.nan)]  # rows that were not embedded
    (curve,) = drawn([scored(gaps[0], gaps[1])])
    assert (curve.n_id, curve.n_ood) == (3000, 2000)
    assert len(curve.fpr) == len(curve.tpr) <= 150
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    known = set(zip(fpr.round(9).tolist(), tpr.round(9).tolist(), strict=True))
    assert set(zip(np.round(curve.fpr, 9).tolist(), np.round(curve.tpr, 9).tolist(), strict=True)) <= known
    assert curve.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auroc, abs=5e-4)
    for level, share in zip((0.01, 0.05, 0.1), curve.accepted, strict=True):
        assert share == tpr[fpr <= level].max()


def test_a_histogram_counts_every_image_once_also_those_beyond_its_ends() -> None:
    rng = np.random.default_rng(1)
    s_id, s_ood = rng.normal(5, 1, 1000), np.concatenate((rng.normal(0, 1, 500), [-1e9, -np.inf, np.inf]))
    (curve,) = drawn([scored(s_id, s_ood)])
    assert len(curve.centres) == len(curve.id_share) == len(curve.ood_share) == 60
    assert sum(curve.id_share) == pytest.approx(1)
    assert sum(curve.ood_share) == pytest.approx(1)
    width = curve.centres[1] - curve.centres[0]
    assert 0.05 < width < 0.3  # the outliers do not set the axis
    low, high = curve.centres[30] - width / 2, curve.centres[30] + width / 2
    assert curve.id_share[30] == pytest.approx(np.mean((s_id >= low) & (s_id < high)))


def test_scores_that_are_all_the_same_and_scores_that_are_missing_give_no_plot() -> None:
    (part,) = separations(drawn([scored(np.ones(5), np.ones(4))]))
    roc_panel, histogram = part.drawing.panels
    assert roc_panel.views["far"].figure is not None
    assert (histogram.views["far"].figure, histogram.views["far"].description) == (
        None,
        "All images have the same score.",
    )
    assert drawn([scored([np.nan], [1.0])]) == []
    assert drawn(study(1)) == []
    assert "the results hold no scores of single images" in page(study(3)).text


def test_only_the_best_eight_methods_are_read() -> None:
    class Counted(Mapping[str, Any]):
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, key: str) -> Any:
            read.append(self.name)
            return np.arange(5.0)

        def __iter__(self) -> Iterator[str]:
            return iter(())

        def __len__(self) -> int:
            return 0

    read: list[str] = []
    names = [f"method{n:02}" for n in range(12)]
    results = [
        replace(
            result(m, scores=Counted(f"{m} {name}"), metrics={"s": {"far/test": metrics(0.5 + n / 50)}}), method=name
        )
        for m in "ab"
        for n, name in enumerate(names)
    ]
    assert [curve.label for curve in drawn(results)] == [f"{name} · s" for name in names[:3:-1]]
    assert set(read) == {f"a {name}" for name in names[4:]}


def test_the_page_draws_curves_and_says_the_numbers_in_a_table() -> None:
    rng = np.random.default_rng(2)
    results = [scored(rng.normal(2, 1, 200), rng.normal(0, 1, 100), method=m) for m in ("knn", "prototypes")]
    parsed = page(results, curves=tuple(drawn(results)))
    (part,) = separations(drawn(results))
    roc_panel, *histograms = part.drawing.panels
    assert [len(roc_panel.views["far"].figure["data"]), len(histograms)] == [2, 2]  # type: ignore[index]
    assert all(legend.values[0] in parsed.text for _, legends in part.legends for legend in legends)
    said = [value for _, name, value in parsed.attributes if name == "aria-label"]
    assert any(value.startswith("ROC curves of 2 scores of a: digits against far") for value in said)
    assert any("200 ID images of digits and 100 OOD images of far" in value for value in said)


# R² ------------------------------------------------------------------------------------------------------------------


def test_the_band_is_that_of_the_textbook_and_the_caption_has_fishers_interval() -> None:
    fit = next(fit for fit in correlations(cells(study(7))) if fit.label == "knn · cosine" and fit.ood == "far/test")
    view = panels([fit])[0].views["knn · cosine"]
    points = [(100 * point.id_accuracy, 100 * point.auroc) for point in fit.points]
    x, y = np.array(points).T
    line = stats.linregress(x, y)
    assert view.figure is not None
    corners = view.figure["layout"]["shapes"][0]["path"][1:-2].split(" L")
    outline: Any = np.array([[float(number) for number in corner.split(",")] for corner in corners])
    at = outline[: len(outline) // 2, 0]
    low, high = outline[: len(at), 1], outline[len(at) :, 1][::-1]
    rest = y - line.intercept - line.slope * x
    error = np.sqrt(rest @ rest / 5 * (1 / 7 + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
    np.testing.assert_allclose(high - low, 2 * stats.t.ppf(0.975, 5) * error, atol=0.02)
    np.testing.assert_allclose((low + high) / 2, line.intercept + line.slope * at, atol=0.02)
    ends = np.tanh(np.arctanh(line.rvalue) + np.array([-1, 1]) * 1.959964 / 2) ** 2
    assert view.caption == f"R² {line.rvalue**2:.2f} ({ends[0]:.2f}–{ends[1]:.2f})"


# Size and shots ------------------------------------------------------------------------------------------------------


def test_models_stand_by_their_size_and_their_cost() -> None:
    results = study(3)
    made = {
        "model0": provenance("model0", parameters=86_000_000, gflops=35.1),
        "model1": provenance("model1", parameters=304_000_000, gflops=None),
        "model2": None,
    }
    ((part,), _) = scaling(cells(results), made)
    assert [panel.title for panel in part.drawing.panels] == ["ID accuracy against size", "AUROC against size"]
    figure = part.drawing.panels[1].views[""].figure
    assert figure is not None
    (points,) = figure["data"]
    mine = [item for item in results if item.method == "knn"]
    assert points["x"] == [86, 304]
    assert points["y"] == pytest.approx(
        [100 * np.mean([v["auroc"] for v in item.metrics["cosine"].values()]) for item in mine[:2]]
    )
    assert (figure["layout"]["xaxis"]["type"], part.label) == ("log", "knn · cosine")
    text = page(results, models=made).text
    assert "What does a larger model buy?" in text
    assert "35.1" in text
    for few in ({"model0": made["model0"]}, {}):
        assert scaling(cells(results), few)[0] == []
        assert "of the models: it takes two models, and of" in page(results, models=few).text


def shots(models: tuple[str, ...] = ("a",)) -> list[Result]:
    found = []
    for model in models:
        for variant, value in (("shots=16", 0.7), ("shots=2", 0.6), ("", 0.9)):
            for seed in (0, 1, 2) if variant else (0,):
                table = {o: metrics(value + 0.01 * seed + shift) for o, shift in (("far/test", 0.05), ("near/test", 0))}
                worse = {o: metrics(0.5) for o in table}
                found.append(
                    run(
                        model,
                        "linear",
                        variant,
                        seed,
                        id_accuracy=value + 0.02 * seed,
                        metrics={"msp": worse, "energy": table},
                    )
                )
        found.append(run(model, "knn", metrics={"cosine": {"far/test": metrics(0.9)}}))
    return found


def test_few_shot_curves_are_means_and_deviations_over_seeds_with_all_at_the_right() -> None:
    ((part,), _) = few_shot(cells(shots(("a", "b"))))
    assert (part.shots, part.oods, part.seeds, part.drawing.choices) == (("2", "16", "all"), 2, 3, ("a", "b"))
    model, ((name, accuracies, aurocs),) = part.tables[0]
    assert (model, name) == ("a", "linear · energy")
    assert accuracies == ("62.0 ± 2.0", "72.0 ± 2.0", "90.0")
    assert aurocs == ("63.5 ± 1.0", "73.5 ± 1.0", "92.5")
    figure = part.drawing.panels[1].views["a"].figure
    assert figure is not None
    (line,) = figure["data"]
    assert list(line["x"]) == ["2", "16", "all"]
    assert list(line["y"]) == pytest.approx([63.5, 73.5, 92.5])
    assert list(line["error_y"]["array"]) == pytest.approx([1, 1, 0])
    assert list(figure["layout"]["xaxis"]["categoryarray"]) == ["2", "16", "all"]
    assert "How many labels does it take?" in page(shots()).text


def test_without_several_numbers_of_shots_a_sentence_says_so() -> None:
    for results in (study(2), [item for item in shots() if item.variant == "shots=2"]):
        assert few_shot(cells(results))[0] == []
        text = page(results).text
        assert "How many labels" not in text
        assert "Not shown. Accuracy and AUROC against the number of training images a class" in text


# Classes -------------------------------------------------------------------------------------------------------------


def classified(model: str = "a", method: str = "linear", accuracy: float = 0.9, **more: Any) -> Result:
    by_class = [[f"class {n}", n / 20, 40] for n in range(15)] + [["unseen", None, 0]]
    details = {"class_accuracy": by_class, "confused": [["class 1", "class 2", 30], ["class 0", "class 2", 7]]}
    return result(model, method, id_accuracy=accuracy, details={**details, **more})


def test_the_worst_classes_and_confusions_are_those_of_the_best_classifier() -> None:
    results = [classified("worse", accuracy=0.5), classified("best"), classified("best", "knn", 0.7)]
    ((worst, confused),) = (part.tables for part in weak_spots(results)[0])
    assert [row[0] for row in worst.rows] == [f"class {n}" for n in range(10)]
    assert worst.rows[1] == ("class 1", "5.0", "40", "class 2")
    assert "linear, best" in worst.caption
    assert confused.rows == (("class 1", "class 2", "30", "75.0"), ("class 0", "class 2", "7", "17.5"))


def test_pseudo_labels_and_prompts_have_their_tables() -> None:
    agreed = [["cat", 0.9], ["dog", 0.2], ["none", None]]
    prompts = [["a {}.", 0.5], ["the {}.", 0.75]]
    results = [
        classified("a"),
        classified("a", "mcm", 0.6),
        classified("a", "plp", 0.8, agreement=0.55, class_agreement=agreed),
        classified("b", "plp", 0.85, agreement=0.6, class_agreement=agreed),
        result("a", "zero-shot", id_accuracy=0.6, details={"template_accuracy": prompts}),
    ]
    ((_, _, pseudo, agreement, templates),) = (part.tables for part in weak_spots(results)[0])
    assert pseudo.caption.startswith("What pseudo-labels take for what")
    assert "mcm, a" in pseudo.caption
    assert agreement.rows == (("dog", "20.0"), ("cat", "90.0"))
    assert agreement.fine == "Over all training images 55.0 % are right."
    assert templates.rows == (("the {}.", "75.0"), ("a {}.", "50.0"))
    text = page(results).text
    assert "Where does classification fail?" in text
    assert "the {}." in text


def test_without_labels_the_page_says_why_no_class_is_named() -> None:
    text = page(study(2, id_accuracy=None)).text
    assert "Where does classification fail?" not in text
    assert "Not shown. The classes that fail" in text
    assert "the ID test images have no labels" in text


# Images --------------------------------------------------------------------------------------------------------------


def shown(root: Path, changes: Mapping[str, Any] | None = None, key: str = "") -> tuple[Store, list[Result]]:
    """A store of two folders of pictures, with the scores of two detectors made by hand."""
    write_folder(root / "digits" / "test", ["cat", "dog"], 8, seed=0)
    write_folder(root / "far" / "test", ["bus"], 12, seed=1)
    if key:
        (root / "far" / "test" / "bus" / "0.png").rename(root / "far" / "test" / "bus" / key)
    store = Store.create(MemoryStore())
    store.add_model(provenance(), None)
    rng = np.random.default_rng(3)
    scores = {}
    for name in ("digits", "far"):
        rows = open_source(str(root / name / "test")).scan()
        columns = ("keys", "labels", "shard", "offset", "length", "shards", "class_names", "source")
        rows = Rows(**{**{column: getattr(rows, column) for column in columns}, **(changes or {})})
        split = store.add_rows(name, "test", rows)
        status = np.full(len(rows), OK, dtype=np.uint8)
        writer = store.image_writer("a", split)
        writer.write(0, len(rows), status, features=np.ones((len(rows), 8), dtype=np.float32))
        scores[name] = rng.permutation(len(rows)).astype(float) + (3 if name == "digits" else 0)
    scores["far"][4] = np.nan
    results = []
    for method, score, sign in (("knn", "cosine", 1), ("linear", "msp", -1)):
        arrays = {f"{score}/{name}/test": sign * values for name, values in scores.items()}
        table = {score: {"far/test": metrics(0.8 if sign > 0 else 0.9)}}
        results.append(result("a", method, inputs={}, scores=arrays, metrics=table))
    for item in results:
        store.add_result(item)
    return store, results


def gallery(store: Store, results: list[Result]) -> Gallery:
    (found,) = galleries(store, detectors(cells(results), results))
    return found


def pixels(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image, float)


def test_the_gallery_holds_the_images_with_the_most_misleading_scores(tmp_path: Path) -> None:
    from PIL import Image

    store, results = shown(tmp_path)
    found = gallery(store, results)
    assert found.labels == ("knn · cosine", "linear · msp")
    own, other = results[0].scores["cosine/digits/test"], results[0].scores["cosine/far/test"]
    keys = {name: store.rows(name, "test").keys for name in ("digits", "far")}
    fooled = found.others["far/test"][0].pictures
    assert [p.key for p in fooled] == [keys["far"][row] for row in np.argsort(np.nan_to_num(-other, nan=99))[:8]]
    assert fooled[0].share == np.mean(own < np.nanmax(other))
    assert [p.key for p in found.own[0].pictures] == [keys["digits"][row] for row in np.argsort(own)[:8]]
    assert found.own[0].pictures[0].share == np.mean(other[~np.isnan(other)] > own.min())
    assert {p.name for p in fooled} == {"bus"}
    for picture, name in ((fooled[0], "far"), (found.own[1].pictures[3], "digits")):
        assert picture.image is not None
        head, _, body = picture.image.partition(",")
        assert head == "data:image/jpeg;base64"
        small = Image.open(io.BytesIO(base64.b64decode(body)))
        assert small.size == (20, 20)
        # Lossy, but the very image: no other of the split is as near.
        far = {
            path: np.abs(pixels(path) - np.asarray(small, float)).mean() for path in (tmp_path / name).rglob("*.png")
        }
        assert min(far, key=lambda path: far[path]) == tmp_path / name / "test" / picture.key
    assert found.reasons == []


def test_thumbnails_are_small_whatever_the_images_are(tmp_path: Path) -> None:
    from PIL import Image

    from embedstore.report.gallery import jpeg

    noise = Image.fromarray(np.random.default_rng(0).choice([0, 255], (96, 96, 3)).astype(np.uint8))
    noise.info |= {"comment": b"private" * 5000, "icc_profile": b"x" * 50_000, "exif": b"x" * 50_000}
    # Two detectors, eight OOD sets and the ID set: 144 images in less than 2 MB.
    assert 144 * len(jpeg(noise)) < 2_000_000
    body = jpeg(noise.resize((600, 300))).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (96, 48)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/nowhere/at/all", "nothing at /nowhere/at/all"),
        ("s3://bucket/images", "asks no other machine"),
        ("torchvision:CIFAR10", "may have to download"),
        ("pipe:touch hacked", "not at hand"),
    ],
)
def test_without_the_source_there_are_keys_and_a_reason(tmp_path: Path, source: str, reason: str) -> None:
    store, results = shown(tmp_path, {"source": source})
    found = gallery(store, results)
    strips = [*found.own, *found.others["far/test"]]
    assert all(picture.image is None and picture.key for strip in strips for picture in strip.pictures)
    assert all(len(strip.pictures) == 8 for strip in strips)
    assert all(reason in why for why in found.reasons)
    parsed = page(results, galleries=(found,))
    assert reason in parsed.text
    assert "img" not in parsed.tags
    assert found.own[0].pictures[0].key in parsed.text


def test_without_pillow_there_are_keys_and_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, results = shown(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    found = gallery(store, results)
    assert len(found.own[0].pictures) == 8
    assert len(found.reasons) == 1
    assert "read with Pillow, and it cannot be had" in found.reasons[0]


def test_one_damaged_image_costs_only_itself(tmp_path: Path) -> None:
    store, results = shown(tmp_path)
    path = tmp_path / "far" / "test" / gallery(store, results).others["far/test"][0].pictures[0].key
    path.write_bytes(b"x" * path.stat().st_size)
    first, *others = gallery(store, results).others["far/test"][0].pictures
    assert first.image is None
    assert all(picture.image for picture in others)
    assert "Some images cannot be read" in gallery(store, results).reasons[0]


def test_a_store_of_results_alone_has_no_names_for_images() -> None:
    results = [scored(np.arange(9.0), np.arange(9.0))]
    found = gallery(Store.create(MemoryStore()), results)
    assert found.own[0].pictures == ()
    assert "does not hold the row list" in page(results, galleries=(found,)).text


# Rows ----------------------------------------------------------------------------------------------------------------


def counted(*models: str, status: tuple[int, ...] = (OK, FAILED, FAILED, PENDING)) -> Store:
    store = Store.create(MemoryStore())
    unknown = np.full(4, -1)
    split = store.add_rows(
        "digits", "test", Rows(list("abcd"), unknown, unknown, unknown, unknown, (), None, "x"), block_rows=1
    )
    for model in models:
        store.add_model(provenance(model), None)
        writer = store.image_writer(model, split)
        for row, value in enumerate(status if model == models[0] else (OK,) * 4):
            if value != PENDING:
                features = np.full((1, 8), 1 if value == OK else np.nan, dtype=np.float32)
                reasons = {0: "decode: no image"} if value == FAILED else None
                writer.write(row, row + 1, np.array([value], dtype=np.uint8), reasons=reasons, features=features)
    return store


def test_what_is_missing_is_counted_and_warned_of() -> None:
    store = counted("a", "b")
    inputs = {"images/digits/test": "any", "images/far/test": "gone"}
    found = states(store, [result("a", inputs=inputs), result("b", inputs=inputs)])
    assert [(s.model, s.ok, s.failed, s.pending) for s in found] == [("a", 1, 2, 1), ("b", 4, 0, 0)]
    assert [(row.values, row.models, row.whole) for row in state_rows(found)] == [
        (("4", "1", "2", "1"), ("a",), False),
        (("4", "4", "0", "0"), ("b",), True),
    ]
    assert warning(found).startswith(
        "Not everything is embedded: 2 images failed, 1 image not embedded yet, in 1 split"
    )
    parsed = page(study(2), states=tuple(found))
    assert "Not everything is embedded" in parsed.text
    assert ("p", "class", "warning") in parsed.attributes
    whole = states(counted("a", status=(OK,) * 4), [result("a", inputs=inputs)])
    assert warning(whole) == ""
    assert "Not everything" not in page(study(1), states=tuple(whole)).text


# All of it -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text_in_every_section(tmp_path: Path, text: str) -> None:
    store, results = shown(tmp_path, key=text.replace("/", "_") + ".png")
    found = gallery(store, results)
    details = {
        "class_accuracy": [[text, 0.5, 4]],
        "confused": [[text, text, 2]],
        "class_agreement": [[text, 0.1]],
        "template_accuracy": [[text, 0.4]],
    }
    more = [run(f"{text}{n}", "plp", v, n, details=details, templates=text) for n in (0, 1) for v in ("", "shots=1")]
    rng = np.random.default_rng(4)
    more.append(scored(rng.normal(size=9), rng.normal(size=9), text, "knn"))
    odd = [item for item in more if item.scores]
    parsed = page(
        [*results, *more],
        curves=tuple(drawn(odd)),
        galleries=(found,),
        models={f"{text}{n}": provenance(f"{text}{n}", parameters=n + 1, gflops=n + 1.0) for n in (0, 1)},
        states=tuple(states(store, [result(inputs={"images/far/test": "1"})])),
    )
    assert parsed.tags.count("script") == page(study(3)).tags.count("script")
    assert parsed.tags.count("img") == 32
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    sources = [value for tag, name, value in parsed.attributes if tag == "img" and name == "src"]
    assert all(value.startswith("data:image/jpeg;base64,") for value in sources)
    assert any(
        text.replace("/", "_") in value for tag, name, value in parsed.attributes if (tag, name) == ("img", "alt")
    )
    assert parsed.text.count(text) > 10


def test_a_report_of_a_store_has_every_section_that_it_has_data_for(tmp_path: Path) -> None:
    store, _ = shown(tmp_path)
    found = gather(store)
    assert [curve.label for curve in found.curves] == ["linear · msp", "knn · cosine"]
    parsed = Page(render(found))
    assert parsed.tags.count("img") == 32
    assert "How far apart are ID and OOD images?" in parsed.text
    assert parsed.tags.count("table") == parsed.tags.count("caption")


def test_a_report_of_absences_has_no_section_and_no_empty_plot() -> None:
    results = [result(method="mcm", metrics={}, absent="no finished rows", id_accuracy=None)]
    parsed = page(results)
    assert "Not shown" not in parsed.text
    assert "mcm is absent: no finished rows" in parsed.text
    assert ("div", "class", "plot") not in parsed.attributes
    assert content(results).curves == ()
