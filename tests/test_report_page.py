"""The report's page: safe with hostile names, complete with little data, readable aloud."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from report_study import HOSTILE, Page, content, hostile, metrics, page, provenance, result, seeded, study

from embedstore.records import Result
from embedstore.report import cells
from embedstore.report.content import without_secrets
from embedstore.report.main_table import main_table
from embedstore.report.names import GLOSSARY, METHOD_ORDER
from embedstore.report.page import render, script_json
from embedstore.report.summary import paragraphs
from embedstore.report.table import notes
from embedstore.report.views import image_size


def loads(parsed: Page) -> Iterator[str]:
    """Every address that a browser would fetch."""
    for tag, name, value in parsed.attributes:
        if name in ("src", "srcset", "poster", "data", "action") or (name == "href" and tag != "a"):
            yield value


def test_the_page_loads_nothing() -> None:
    parsed = page(study())
    assert list(loads(parsed)) == []
    assert [value for _, name, value in parsed.attributes if name == "href" and not value.startswith("#")] == []
    style = render(content(study(1))).split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\(|@import|https?:", style)
    policy = [value for tag, name, value in parsed.attributes if (tag, name) == ("meta", "content")]
    assert any(value.startswith("default-src 'none'") for value in policy)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text(text: str) -> None:
    results = hostile(text)
    made = {text: provenance(text, architecture=text, pretrained=text, versions={text: text})}
    parsed = page(results, title=text, models=made, location=text, sources={"far/test": text})
    plain = page(hostile("plain"), title="plain", models={"plain": provenance("plain")})
    assert {"img", "b"} & set(parsed.tags) == {"b"}
    assert parsed.tags.count("script") == plain.tags.count("script") == 3
    assert list(loads(parsed)) == []
    assert parsed.text.count(text) > 20
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_cannot_end_it_and_comes_back_as_it_was(text: str) -> None:
    written = script_json({text: [text]})
    assert "<" not in written
    assert json.loads(written) == {text: [text]}


def test_the_best_of_each_column_is_bold_and_percent_has_one_decimal() -> None:
    rows = [result("a"), result("b", id_accuracy=0.95, metrics={"cosine": {"far/test": metrics(0.98765)}})]
    table = main_table("digits", cells(rows), [])
    (_, (worse,)), (_, (better,)) = table.models
    assert [(number.text, number.best) for number in better.numbers] == [("95.0", True), ("98.8", True), ("67.1", True)]
    assert not any(number.best for number in worse.numbers)


def test_several_seeds_make_one_row_with_mean_and_deviation() -> None:
    table = main_table("digits", cells(seeded(1)), [])
    ((_, rows),) = table.models
    assert [row.label for row in rows] == [
        row.label for _, rs in main_table("digits", cells(study(1)), []).models for row in rs
    ]
    spreads = {row.label: [number.spread.replace("\N{NO-BREAK SPACE}", " ") for number in row.numbers] for row in rows}
    assert spreads["linear · msp"] == ["", "± 1.0", "", "± 1.0", ""]
    assert not any(spreads["knn · cosine"] + spreads["mahalanobis · distance"])
    text = page(seeded(1)).text
    assert "Mean over 3 seeds; ± is the standard deviation, where it is not 0.0." in text
    assert "the numbers are means over 3 seeds." in text
    assert not re.search("seeds|±", page(study(1)).text)


def test_several_template_sets_make_a_row_each_where_prompts_matter() -> None:
    both = study(1) + study(1, params={"seed": 0, "templates": "simple"})
    ((_, rows),) = main_table("digits", cells(both), []).models
    assert [row.label for row in rows][:4] == [
        "knn · cosine",
        "mcm · msp · plp",
        "mcm · msp · simple",
        "plp · msp · plp",
    ]


def test_the_tables_can_be_read_aloud() -> None:
    parsed = page(study())
    assert parsed.tags.count("table") == parsed.tags.count("caption") > 2
    scopes = [value for tag, name, value in parsed.attributes if (tag, name) == ("th", "scope")]
    assert len(scopes) == parsed.tags.count("th")
    assert set(scopes) == {"row", "col", "rowgroup", "colgroup"}
    described = [value for tag, name, value in parsed.attributes if name == "aria-label" and "Scatter" in value]
    assert len(described) == 2


def no_labels() -> list[Result]:
    supervised = ("linear", "mahalanobis")
    gone = [item for item in study(5, id_accuracy=None) if item.method not in supervised]
    return gone + [result(f"model{n}", m, metrics={}, absent="no labels") for n in range(5) for m in supervised]


@pytest.mark.parametrize(
    ("results", "said", "unsaid"),
    [
        (lambda: study(1), ["1 model and 5 methods", "there is 1."], "The numbers in the plots"),
        (lambda: study(4, ("far/test",)), ["against 1 out-of-distribution (OOD) set."], "near, "),
        (no_labels, ["linear is absent: no labels", "0 of 5 have one"], "The best ID accuracy"),
        (
            lambda: [result(method="mcm", metrics={}, absent="no class names", id_accuracy=None)],
            ["no method could run", "mcm is absent: no class names", "mcm: no class names"],
            "Does better classification",
        ),
    ],
    ids=["one model", "one OOD set", "no labels", "nothing but absences"],
)
def test_less_data_gives_a_shorter_page_with_reasons(
    results: Callable[[], list[Result]], said: list[str], unsaid: str
) -> None:
    html = render(content(results()))
    text = re.sub(r"\s+", " ", Page(html).text)
    for phrase in said:
        assert phrase in text
    assert unsaid not in text
    # Plotly's four megabytes come along only where there is something to plot.
    assert ("Plotly" in html) == ("The numbers in the plots" in text)


def test_remarks_are_shown_once_with_their_models() -> None:
    results = study(2, notes=("3 of 40 rows are pending",))
    text = page(results, notes=tuple(notes(results))).text
    assert text.count("3 of 40 rows are pending") == 1
    assert "model0, model1" in text


def test_the_summary_names_the_best_and_the_best_without_labels() -> None:
    best = result("b", "linear", metrics={"msp": {"far/test": metrics(0.99)}})
    third = result("c", metrics={"cosine": {"far/test": metrics(0.7)}})
    said = " ".join(paragraphs(content([result(), best, third])))
    said = said.replace("\N{NO-BREAK SPACE}", " ")
    assert "against far, 99.0 % (linear · msp, b), without training labels 80.0 % (knn · cosine, a)." in said


def test_the_summary_says_that_others_are_as_good() -> None:
    results = [result(name, method) for name in "ba" for method in ("linear", "knn")]
    for order in (results, results[::-1]):
        said = " ".join(paragraphs(content(order))).replace("\N{NO-BREAK SPACE}", " ")
        assert "against far, 80.0 % (knn · cosine, a, tied with 3 others)." in said
        assert "The best ID accuracy on digits is 90.0 % (knn, a, tied with 3 others)." in said


def test_a_location_is_shown_without_its_secrets() -> None:
    assert without_secrets("s3://key:secret@bucket/clip.zarr?token=1#x") == "s3://bucket/clip.zarr"
    assert without_secrets("data/clip.zarr") == "data/clip.zarr"


def test_what_the_page_knows_of_methods_is_complete() -> None:
    assert set(METHOD_ORDER) <= set(GLOSSARY)


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [({"size": 224}, "224 × 224"), ({"size": [96, 64]}, "96 × 64"), ({"input_size": [3, 8, 8]}, "8 × 8"), ({}, "–")],
)
def test_the_image_size_in_every_spelling(preprocess: dict[str, object], said: str) -> None:
    assert image_size(preprocess) == said
