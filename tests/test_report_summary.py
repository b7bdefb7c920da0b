"""What the report finds: the best, whether it is really ahead, and how much R² is worth."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from report_study import HOSTILE, content, hostile, measured, page, run, study
from zarr.storage import MemoryStore

from embedstore.errors import NotAvailable, StoreCorrupt
from embedstore.records import Result
from embedstore.report import cells, gather
from embedstore.report.findings import Finding, findings, points
from embedstore.report.means import means, over_sets
from embedstore.report.runner_up import Lead, Scores, runner_up
from embedstore.report.summary import paragraphs
from embedstore.store import Store

RNG = np.random.default_rng(0)
ID, FAR, NEAR = RNG.normal(2, 1, 120), RNG.normal(0, 1, 90), RNG.normal(1, 1, 60)


def area(inside: Any, outside: Any) -> float:
    """AUROC by its definition."""
    return float(np.mean((inside[:, None] > outside) + (inside[:, None] == outside) / 2))


def scored(model: str, method: str, inside: Any, outside: Mapping[str, Any], **changes: Any) -> Result:
    """A result with per-image scores, NaN where an image was not used, and the AUROC that belongs to them."""
    score = {"knn": "cosine", "mcm": "msp", "plp": "msp", "vim": "vim"}[method]
    used = inside[~np.isnan(inside)]
    table = {ood: measured(area(used, values[~np.isnan(values)])) for ood, values in outside.items()}
    scores = {f"{score}/digits/test": inside, **{f"{score}/{ood}": values for ood, values in outside.items()}}
    return run(model, method, metrics={score: table}, scores=scores, **changes)


def weaker(values: Any, noise: float, seed: int = 1) -> Any:
    return values + np.random.default_rng(seed).normal(0, noise, len(values))


def row(results: list[Result], **changes: Any) -> Finding:
    ((finding,),) = [found.rows for found in findings(content(results, **changes))]
    return finding


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def said(results: list[Result], **changes: Any) -> str:
    return plain(" ".join(paragraphs(content(results, **changes))))


def delong(a_id: Any, a_ood: Any, b_id: Any, b_ood: Any) -> tuple[float, float, float]:
    """Difference and 95 % interval from DeLong's placements, written out pair by pair."""

    def placements(inside: Any, outside: Any) -> tuple[Any, Any]:
        wins = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
        return wins.mean(axis=1), wins.mean(axis=0)

    (va, wa), (vb, wb) = placements(a_id, a_ood), placements(b_id, b_ood)
    difference = float(np.mean(va - vb))
    error = math.sqrt(np.var(va - vb, ddof=1) / len(a_id) + np.var(wa - wb, ddof=1) / len(a_ood))
    return difference, difference - 1.959964 * error, difference + 1.959964 * error


# The runner-up ------------------------------------------------------------------------------------------------------


def test_the_lead_is_that_of_delong_on_the_images_that_both_scored() -> None:
    first, second = weaker(ID, 0.3), weaker(ID, 1.5, 2)
    far, near = weaker(FAR, 0.3, 3), weaker(FAR, 1.5, 4)
    first[:7], second[5:20], far[3], near[9] = np.nan, np.nan, np.nan, np.nan
    results = [scored("a", "vim", first, {"far/test": far}), scored("b", "knn", second, {"far/test": near})]
    best, rival = sorted(means(cells(results)), key=lambda mean: -(mean.auroc or 0))
    lead = Scores(results).lead(best, rival)
    both, both_far = ~(np.isnan(first) | np.isnan(second)), ~(np.isnan(far) | np.isnan(near))
    expected = delong(first[both], far[both_far], second[both], near[both_far])
    assert [lead.difference, *lead.interval] == pytest.approx(expected, abs=1e-6)


def test_a_clear_lead_and_one_that_is_none_are_said_in_plain_words() -> None:
    clear = row([scored("a", "vim", ID, {"far/test": FAR}), scored("b", "knn", weaker(ID, 4), {"far/test": FAR})])
    assert re.fullmatch(
        r"Ahead of knn · cosine, b, by \d+\.\d points, 95 % interval \d+\.\d–\d+\.\d\.", plain(clear.lead)
    )
    assert (clear.label, clear.model, clear.tie) == ("vim · vim", "a", "")
    near = row([scored("a", "vim", ID, {"far/test": FAR}), scored("a", "knn", weaker(ID, 0.1), {"far/test": FAR})])
    assert plain(near.lead).startswith("No significant difference to the runner-up, ")
    assert "the same model" in near.lead
    equal = row([scored("a", "knn", ID, {"far/test": FAR}), scored("a", "mcm", ID, {"far/test": FAR})])
    assert equal.tie == "tied with 1 other"
    assert equal.lead == "", "what ties needs no test"


def test_the_runner_up_is_of_another_method_or_model() -> None:
    worth = {("a", "plp", ""): 0.9, ("a", "plp", "shots=4"): 0.89, ("a", "knn", ""): 0.7, ("b", "plp", ""): 0.8}
    results = [
        run(model, method, variant, metrics={"msp": {"far/test": measured(value)}})
        for (model, method, variant), value in worth.items()
    ]
    table = means(cells(results))
    best = max(table, key=lambda mean: mean.auroc or 0)
    rival = runner_up(best, table)
    assert rival is not None
    assert (rival.model, rival.method) == ("b", "plp")
    assert runner_up(best, [mean for mean in table if (mean.model, mean.method) == ("a", "plp")]) is None


class Damaged(dict[str, Any]):
    def get(self, name: str, default: Any = None) -> Any:
        raise StoreCorrupt("a chunk is not what was written")


def test_what_cannot_be_tested_says_why() -> None:
    best = scored("a", "vim", ID, {"far/test": FAR})
    cases = {
        "their scores are not kept": {},
        "their scores are not of the same images": {"cosine/digits/test": ID[1:], "cosine/far/test": FAR},
        "they have no image in common": {"cosine/digits/test": ID * np.nan, "cosine/far/test": FAR},
        "the scores of one are damaged": Damaged(),
    }
    for reason, scores in cases.items():
        rival = run("b", "knn", metrics={"cosine": {"far/test": measured(0.7)}}, scores=scores)
        assert row([best, rival]).lead == f"Next is knn · cosine, b, with 70.0; not tested, because {reason}."
    assert row([best]).lead == ""


def test_of_several_seeds_and_sets_the_lead_is_the_mean_of_all_pairs() -> None:
    sets = {"far/test": FAR, "near/test": NEAR}
    probes = [scored("a", "plp", weaker(ID, 0.2, s), sets, seed=s) for s in (0, 1)]
    results = [*probes, scored("b", "knn", weaker(ID, 1.5, 9), sets)]
    best, rival = sorted(over_sets("all", list(sets), means(cells(results))), key=lambda mean: -(mean.auroc or 0))
    pairs = [
        delong(p.scores["msp/digits/test"], out, results[-1].scores["cosine/digits/test"], out)
        for p in probes
        for out in sets.values()
    ]
    lead = Scores(results).lead(best, rival)
    assert [lead.difference, *lead.interval] == pytest.approx(np.mean(pairs, axis=0), abs=1e-6)
    assert lead.difference == pytest.approx((best.auroc or 0) - (rival.auroc or 0))
    # Both with the same seeds: each seed with its own twin.
    twins = [scored("b", "plp", weaker(ID, 1.5, 7 + s), sets, seed=s) for s in (0, 1)]
    best, rival = sorted(over_sets("all", ["far/test"], means(cells(probes + twins))), key=lambda mean: mean.model)
    pairs = [
        delong(p.scores["msp/digits/test"], FAR, t.scores["msp/digits/test"], FAR)
        for p, t in zip(probes, twins, strict=True)
    ]
    lead = Scores(probes + twins).lead(best, rival)
    assert [lead.difference, *lead.interval] == pytest.approx(np.mean(pairs, axis=0), abs=1e-6)


def test_the_interval_of_a_mean_over_sets_is_wide_enough() -> None:
    """Of 300 studies in which two methods are equally good, no more than 5 % find a difference, up to chance."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(300):
        inside, outs = rng.normal(1, 1, 40), {f"{name}/test": rng.normal(0, 1, 30) for name in "xyz"}
        results = [
            scored(m, "knn", inside + rng.normal(0, 1, 40), {o: v + rng.normal(0, 1, 30) for o, v in outs.items()})
            for m in "ab"
        ]
        a, b = over_sets("all", list(outs), means(cells(results)))
        wrong += Scores(results).lead(a, b).significant
    assert wrong <= 300 * 0.05 + 3 * math.sqrt(300 * 0.05 * 0.95)


def test_scores_in_a_store_are_found_also_where_the_id_split_is_not_test() -> None:
    store = Store.create(MemoryStore())
    for model, noise in (("a", 0.2), ("b", 3.0)):
        item = scored(model, "knn", weaker(ID, noise), {"far/test": FAR})
        moved = {name.replace("digits/test", "digits/val"): values for name, values in item.scores.items()}
        inputs = {"images/digits/train": "0", "images/digits/val": "1", "images/far/test": "2"}
        store.add_result(dataclasses.replace(item, scores=moved, inputs=inputs))
    (found,) = findings(gather(store))
    assert found.rows[0].lead.startswith("Ahead of knn · cosine, b, by")


@pytest.mark.parametrize(
    ("lead", "text"),
    [
        (Lead(0.012, (0.004, 0.02)), "1.2 points, 95 % interval 0.4–2.0"),
        (Lead(0.0003, (0.0001, 0.0005)), "0.03 points, 95 % interval 0.01–0.05"),
        (Lead(0.003, (-0.002, 0.008)), "0.3 points, 95 % interval −0.2 to 0.8"),
        (Lead(0.0, (-0.0001, 0.0001)), "0.00 points, 95 % interval −0.01 to 0.01"),
        (Lead(-0.012, (-0.02, -0.004)), "1.2 points, 95 % interval 0.4–2.0"),
    ],
)
def test_points_never_round_a_lead_to_nothing(lead: Lead, text: str) -> None:
    assert plain(points(lead)) == text


def test_cautions_are_there_where_there_is_something_to_be_cautious_about() -> None:
    sets = {"far/test": FAR, "near/test": NEAR}
    results = [scored("a", "plp", weaker(ID, 0.2, s), sets, seed=s) for s in (0, 1)] + [scored("b", "knn", ID, sets)]
    (found,) = findings(content(results, groups={"all": tuple(sets)}))
    text = " ".join(found.cautions)
    assert "Each interval is for one comparison: the best of 2 rows was chosen by these very numbers" in text
    assert "not of seeds" in text
    assert "mean over sets" in text
    (bare,) = findings(content(study(2)))
    assert bare.cautions == ()
    assert findings(content([])) == []


def test_groups_stand_before_their_sets_and_only_whole() -> None:
    results = study(2, ("a/test", "b/test", "c/test"))
    groups = {"near": ("c/test",), "far": ("a/test", "b/test"), "gone": ("a/test", "z/test")}
    (found,) = findings(content(results, groups=groups))
    assert [(x.against, x.detail) for x in found.rows] == [("far", "mean of 2 sets"), ("c", ""), ("a", ""), ("b", "")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_in_the_summary_are_text(text: str) -> None:
    parsed = page(hostile(text), groups={text: (f"{text}/{text}", "far/test")})
    assert f"{text}mean of 2 sets" in parsed.text.replace(" mean", "mean")
    assert not {"img", "iframe"} & set(parsed.tags)


# Sentences -----------------------------------------------------------------------------------------------------------


def test_of_many_sets_the_lead_names_the_groups_or_the_mean_over_all() -> None:
    worth = {"a": (0.9, 0.6, 0.6), "b": (0.7, 0.75, 0.8)}
    results = [
        run(model, "knn", metrics={"cosine": {f"{n}/test": measured(v) for n, v in zip("xyz", values, strict=True)}})
        for model, values in worth.items()
    ]
    assert "the best AUROC is, on average over the 3 OOD sets, 75.0 % (knn · cosine, b)." in said(results)
    groups = {"near": ("y/test", "z/test"), "far": ("x/test",), "other": ("q/test",)}
    text = said(results, groups=groups)
    assert "on average over the near sets, 77.5 % (knn · cosine, b); against x (far), 90.0 %" in text
    assert "Not all of the other sets have results, so no mean is given for them." in text


def line(models: int, noise: float, oods: tuple[str, ...] = ("far/test",)) -> list[Result]:
    rng = np.random.default_rng(3)
    x = np.linspace(0.5, 0.9, models)
    return [
        run(
            f"m{i}",
            "knn",
            id_accuracy=float(x[i]),
            metrics={"cosine": {ood: measured(float(x[i] + rng.normal(0, noise))) for ood in oods}},
        )
        for i in range(models)
    ]


def fisher(results: list[Result], ood: str) -> tuple[float, float, float]:
    """R² and its interval by textbook formulas."""
    x, y = [r.id_accuracy for r in results], [r.metrics["cosine"][ood]["auroc"] for r in results]
    r = abs(float(np.corrcoef(np.array(x, float), np.array(y, float))[0, 1]))
    half = 1.959964 / math.sqrt(len(x) - 3)
    low, high = math.tanh(max(math.atanh(r) - half, 0)), math.tanh(math.atanh(r) + half)
    return r * r, low * low, high * high


def test_r_squared_has_an_interval() -> None:
    results = line(12, 0.03)
    value, low, high = fisher(results, "far/test")
    assert f"score is {value:.2f} for far (95 % interval {low:.2f}–{high:.2f})." in said(results)
    assert high - low < 0.5
    assert "caution" not in said(results)


def test_r_squared_of_few_models_or_with_a_wide_interval_comes_with_a_caution() -> None:
    assert "Take this with caution: there are only 5 models" in said(line(5, 0.001))
    assert "the interval is wide" not in said(line(5, 0.001))
    assert "Take this with caution: there are only 3 models and the interval is wide." in said(line(3, 0.01))
    _, low, high = fisher(line(7, 0.2), "far/test")
    assert high - low > 0.5
    assert said(line(7, 0.2)).endswith("Take this with caution: the interval is wide.")
    assert "R²" not in said(line(2, 0.01))


def test_of_many_sets_the_sentence_gives_the_extremes_of_r_squared() -> None:
    oods = tuple(f"{name}/test" for name in "wxyz")
    results = line(9, 0.05, oods)
    ranked = sorted((fisher(results, ood), ood[0]) for ood in oods)
    (least, low, high), first = ranked[0]
    (most, _, _), last = ranked[-1]
    text = said(results)
    assert (
        f"score is from {least:.2f} for {first} (95 % interval {low:.2f}–{high:.2f}) to {most:.2f} for {last}" in text
    )
    assert "over 4 OOD sets." in text


def test_a_mean_over_sets_takes_rows_with_all_of_them_and_is_exact() -> None:
    results = [*study(1, ("x/test", "y/test")), run("late", "knn", metrics={"cosine": {"x/test": measured(0.99)}})]
    over = over_sets("both", ("x/test", "y/test"), means(cells(results)))
    assert {mean.model for mean in over} == {"model0"}
    for mean in over:
        values = [
            by["auroc"] for r in results if r.method == mean.method for by in r.metrics.get(mean.score, {}).values()
        ]
        if mean.model == "model0" and mean.method != "knn":
            assert mean.auroc == pytest.approx(np.mean(values), abs=1e-15)
    with pytest.raises(NotAvailable, match="share no OOD set"):
        Scores([]).lead(dataclasses.replace(over[0], cells=()), over[0])
