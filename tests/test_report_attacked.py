"""The report on attacks: which rows are chosen in spite of them, what was aimed at, and what is not known of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from report_study import attacked as without_marks
from report_study import content, metrics, page, provenance, run, study
from rich.console import Console
from test_report_commands import flags
from test_report_robustness import declared, lead, missing, section

from embedstore.cli.report import _print
from embedstore.records import Provenance, Result
from embedstore.report import cells, correlations
from embedstore.report.attack_files import Crafted
from embedstore.report.commands import commands
from embedstore.report.exports import best
from embedstore.report.main_table import main_table
from embedstore.report.scaling import scaling
from embedstore.report.sections import sections

SCORES = {
    "msp": {"far/test": 0.7, "near/test": 0.6, "x/clean": 0.5, "x/adversarial": 0.8},
    "energy": {"far/test": 0.65, "near/test": 0.7, "x/clean": 0.45, "x/adversarial": 0.1},
    "l1": {"far/test": 0.5, "near/test": 0.5, "x/clean": 0.6, "x/adversarial": 0.05},
}


def scored(method: str, table: dict[str, dict[str, float]], model: str = "a", **more: Any) -> Result:
    values = {score: {ood: metrics(value) for ood, value in by_set.items()} for score, by_set in table.items()}
    return run(model, method, metrics=values, **more)


def aimed(kind: str, name: str = "x", **aim: Any) -> Crafted:
    """An attack on something else than images."""
    made = declared(name)
    return replace(made, declared={**(made.declared or {}), "aim": {"kind": kind, **aim}}, targets=0, aimed={})


# Which score of a method is seen first -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tested", "deciding"),
    [
        (("far/test", "near/test", "x/clean", "x/adversarial"), ("far/test", "near/test")),
        (("near/test", "x/clean", "x/adversarial"), ("near/test",)),
        (("x/clean", "x/adversarial"), ("x/clean",)),
    ],
)
def test_the_score_that_is_shown_is_not_chosen_by_attacks(tested: Sequence[str], deciding: Sequence[str]) -> None:
    table = {score: {ood: by_set[ood] for ood in tested} for score, by_set in SCORES.items()}
    others = scored("knn", {"cosine": dict.fromkeys(tested, 0.99)})  # so that no other number is the best of a column
    of_all = {score: fmean(by_set.values()) for score, by_set in table.items()}
    worth = {score: fmean(by_set[ood] for ood in deciding) for score, by_set in table.items()}
    best_of_all, wanted = max(of_all, key=lambda s: of_all[s]), max(worth, key=lambda s: worth[s])
    assert best_of_all != wanted, "the attack would have decided"
    made = main_table("digits", cells([scored("plp", table), others]), ())
    shown = {row.label for _, rows in made.models for row in rows if not row.more}
    assert shown == {"knn · cosine", f"plp · {wanted}"}


def test_a_classifier_that_met_attacks_alone_is_judged_by_the_clean_images() -> None:
    table = {score: {ood: by_set[ood] for ood in ("x/clean", "x/adversarial")} for score, by_set in SCORES.items()}
    others = scored("knn", {"cosine": dict.fromkeys(("far/test", "x/clean", "x/adversarial"), 0.99)})
    made = main_table("digits", cells([scored("plp", table), others]), ())
    assert [row.label for _, rows in made.models for row in rows if not row.more] == ["knn · cosine", "plp · l1"]


# Made again ----------------------------------------------------------------------------------------------------------


def lines(results: list[Result], *made: Crafted) -> list[str]:
    return [command.line for command in commands(content(results, attacks=made))]


@pytest.mark.parametrize(
    ("linear", "options", "seeds"),
    [
        ((), None, None),
        ((("", 3), ("", 2), ("shots=2", 0)), None, ["2"]),
        ((("shots=2", 1),), ["linear.shots=2"], ["1"]),
    ],
)
def test_an_attack_on_a_probe_comes_after_the_probe(
    linear: Sequence[tuple[str, int]], options: list[str] | None, seeds: list[str] | None
) -> None:
    table = {"energy": {"x/clean": 0.9, "x/adversarial": 0.2}}
    results = [scored("linear", table, variant=variant, seed=seed) for variant, seed in linear]
    results += [scored("knn", {"cosine": table["energy"]}), scored("linear", table, "b")]
    said = lines(results, aimed("energy"), aimed("energy", "x"))
    at = [number for number, line in enumerate(said) if line.startswith("embedstore attack")]
    assert "--towards probe" in said[at[0]]
    trained = flags(said[at[0] - 1])
    assert said[at[0] - 1].startswith("embedstore probe")
    assert {name: trained[name] for name in ("--model", "--id", "--method", "--ood")} == {
        "--model": ["a"],
        "--id": ["digits"],
        "--method": ["linear"],
        "--ood": ["far"],
    }
    assert (trained.get("--option"), trained.get("--seed")) == (options, seeds)
    assert at[1] == at[0] + 1, "of two attacks on one probe it is trained once"
    assert lines(results, declared("x"))[0].startswith("embedstore attack"), "towards images it needs none"


def test_images_that_were_left_out_are_those_of_the_list_that_is_named() -> None:
    inputs = {"images/digits/train": "1", "images/digits/test": "2"}
    marks = {"rows of far-smooth": "out/targets.txt", "other rows": "PATH/keys.txt"}
    for mark, named in marks.items():
        item = run("a", "knn", "train_left_out=7", inputs={**inputs, "without/digits/train": mark})
        made = replace(declared(), folder=Path("out"))
        (line,) = (line for line in lines([item], made) if line.startswith("embedstore probe"))
        assert flags(line)["--without"] == [named]
        (gone,) = (line for line in lines([item], Crafted("far-smooth")) if line.startswith("embedstore probe"))
        assert flags(gone)["--without"] == ["PATH/keys.txt"]


# What was aimed at ---------------------------------------------------------------------------------------------------

KNN = scored("knn", {"cosine": {"x/clean": 0.6, "x/adversarial": 0.83}})


def test_the_lead_says_what_became_of_the_prompts_that_were_aimed_at() -> None:
    results = [KNN, scored("mcm", {"msp": {"x/clean": 0.579, "x/adversarial": 0.015}})]
    said = "The AUROC of the detector that was aimed at, mcm · msp, goes from 57.9 % to 1.5 %, 56.4 points less."
    assert said in lead(results, aimed("texts", templates="plp"))
    assert "is 83.0 %, 23.0 points more." in lead(results, aimed("texts"))
    for made in (declared("x"), aimed("energy"), aimed("prototypes"), aimed("texts", templates="openai80")):
        assert "that was aimed at" not in lead(results, made)
    elsewhere = {**(aimed("texts").declared or {}), "target": {"dataset": "letters", "split": "train"}}
    assert "that was aimed at" not in lead(results, replace(aimed("texts"), declared=elsewhere))
    assert "that was aimed at" not in lead([replace(item, model="b") for item in results], aimed("texts"))
    assert said in page(results, attacks=(aimed("texts"),)).text.replace("\N{NO-BREAK SPACE}", " ")


def test_of_a_probe_it_is_the_energy_whichever_score_is_in_the_table() -> None:
    probe = {"msp": {"x/clean": 0.7, "x/adversarial": 0.5}, "energy": {"x/clean": 0.65, "x/adversarial": 0.02}}
    other = {"energy": {"x/clean": 0.9, "x/adversarial": 0.3}}
    results = [KNN, scored("linear", probe), scored("linear", other, variant="shots=2")]
    text = lead(results, aimed("energy"))
    assert "the best detector of a, the model that was attacked, is linear (shots=2) · energy" in text
    assert "that was aimed at, linear · energy, goes from 65.0 % to 2.0 %, 63.0 points less." in text
    assert "linear · energy" not in [
        line.label for _, _, rows in section([KNN, scored("linear", probe)]).attacks[0].models for line in rows
    ]
    alone = lead([KNN, scored("linear", other, variant="shots=2")], aimed("energy"))
    assert alone.endswith("That is the detector that was aimed at.")
    two = [scored("linear", other, variant=f"shots={shots}") for shots in (2, 4)]
    assert "that was aimed at" not in lead([KNN, *two], aimed("energy")), "which of the two is not known"


def test_of_prototypes_too() -> None:
    results = [KNN, scored("prototypes", {"cosine": {"x/clean": 0.5, "x/adversarial": 0.5}})]
    said = "that was aimed at, prototypes · cosine, goes from 50.0 % to 50.0 %, no less."
    assert said in lead(results, aimed("prototypes"))


# The best of each model ----------------------------------------------------------------------------------------------


def named(results: Sequence[Result]) -> list[tuple[str, str, str, float]]:
    return [(mean.ood, mean.model, mean.label, mean.auroc or 0.0) for mean in best(cells(results))]


def test_the_two_rows_of_an_attack_say_what_became_of_one_detector() -> None:
    splits = ("far/test", "x/clean", "x/adversarial", "x/float", "x/step-5")
    numbers = {
        ("a", "knn", "cosine"): (0.8, 0.63, 0.094, 0.09, 0.4),
        ("a", "mcm", "msp"): (0.9, 0.5, 0.7, 0.8, 0.9),
        ("b", "knn", "cosine"): (0.7, 0.66, 0.05, 0.1, 0.1),
    }
    results = [
        scored(method, {score: dict(zip(splits, values, strict=True))}, model)
        for (model, method, score), values in numbers.items()
    ]
    # The best of all when clean, but nobody knows what became of it.
    results.append(scored("mahalanobis", {"distance": {"x/clean": 0.99}}))
    results.append(scored("knn", {"cosine": {"x/clean": 0.7}}, "c"))
    results.append(scored("knn", {"cosine": {"x/adversarial": 0.7}}, "d"))
    assert named(results) == [
        ("far/test", "a", "mcm · msp", 0.9),
        ("far/test", "b", "knn · cosine", 0.7),
        ("x/clean", "c", "knn · cosine", 0.7),
        ("x/clean", "b", "knn · cosine", 0.66),
        ("x/clean", "a", "knn · cosine", 0.63),
        ("x/adversarial", "b", "knn · cosine", 0.05),
        ("x/adversarial", "a", "knn · cosine", 0.094),
    ]
    to = Console(file=io.StringIO(), width=140)
    _print(to, best(cells(results)))
    shown = to.file.getvalue()  # type: ignore[attr-defined]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert [(row[1], row[4]) for row in rows if row[2] == "a"] == [
        ("far", "90.0"),
        ("x:clean", "63.0"),
        ("x:adversarial", "9.4"),
    ]
    assert "against adversarial images: the method that is best against the clean ones" in shown
    plain = Console(file=io.StringIO(), width=140)
    _print(plain, best(cells(study(2))))
    assert "adversarial" not in plain.file.getvalue()  # type: ignore[attr-defined]


# Models --------------------------------------------------------------------------------------------------------------


def known(*names: str, **changes: Any) -> dict[str, Provenance | None]:
    return {name: provenance(name, **changes) for name in names}


def behind(name: str, defence: str, **changes: Any) -> dict[str, Provenance | None]:
    return known(name, preprocess={"size": 96, "defence": defence}, **changes)


def roles(models: dict[str, Provenance | None]) -> tuple[dict[str, str], str]:
    """Of each model its role, and the lead; each is a little better when adversarial than the one before."""
    results = [
        scored("knn", {"cosine": {"x/clean": 0.8, "x/adversarial": 0.3 + 0.1 * at}}, model)
        for at, model in enumerate(models)
    ]
    about = content(results, attacks=(declared("x"),), models=models)
    ((found,),) = (part.attacks for part in sections(about).robustness)
    text = " ".join(found.lead).replace("\N{NO-BREAK SPACE}", " ")
    return {name: role for name, role, _ in found.models}, text


def test_the_attacked_model_behind_a_defence_is_marked_so() -> None:
    models = {**known("a"), **behind("a+jpeg75", "jpeg:75"), **known("b", weights_sha256="b" * 64)}
    found, text = roles(models)
    assert found == {"a": "attacked", "a+jpeg75": "defence: the attacked model behind jpeg:75", "b": "transfer"}
    assert (
        "Behind the defence jpeg:75 the AUROC of its best detector, knn · cosine of a+jpeg75, goes from 80.0 % to "
        "40.0 %. The images were not made with b: the AUROC of its best detector, knn · cosine, goes from 80.0 % to "
        "50.0 %." in text
    )
    found, text = roles({**known("a"), **behind("a+jpeg75", "jpeg:75"), **behind("soft", "blur:1.0")})
    assert found["soft"] == "defence: the attacked model behind blur:1.0", "whatever it is called"
    assert "Behind the defences jpeg:75 and blur:1.0 the AUROC of the best detector changes by" in text
    assert "\N{MINUS SIGN}40.0 to \N{MINUS SIGN}30.0 points." in text
    assert "not made with" not in text


def test_other_weights_behind_a_defence_are_another_model() -> None:
    other = behind("a+jpeg75", "jpeg:75", weights_sha256="b" * 64)
    assert roles({**known("a"), **other})[0]["a+jpeg75"] == "transfer"
    # Of an attacked model that the store does not hold, the name says it.
    about: dict[str, Provenance | None] = {"a": None}
    assert roles({**about, **other})[0]["a+jpeg75"].startswith("defence")
    assert roles({**about, **behind("c+jpeg75", "jpeg:75")})[0]["c+jpeg75"] == "transfer"
    assert roles({**known("a"), **known("a+jpeg75")})[0]["a+jpeg75"] == "transfer", "nothing says that it has a defence"


def test_a_single_model_with_an_ordinary_set_is_called_that() -> None:
    attack = [scored("knn", {"cosine": {"x/clean": 0.8, "x/adversarial": 0.3}}, name) for name in "bc"]
    first = scored("knn", {"cosine": {"far/test": 0.9, "x/clean": 0.8, "x/adversarial": 0.3}})
    (fit,) = correlations(cells([first, *attack]))
    assert fit.reason == "R² needs at least 3 models with an ordinary OOD set, there is 1"
    (lack,) = scaling(cells([first, *attack]), {})[1]
    assert lack.why.startswith("there is one model with an ordinary OOD set, a, and it takes two;")
    (fit,) = correlations(cells([first]))
    assert fit.reason == "R² needs at least 3 models, there is 1"
    (lack,) = scaling(cells([first]), {})[1]
    assert lack.why.startswith("there is one model, a, and it takes two;")
    # Where nobody met anything else, they are counted against the first attack's clean images.
    later = scored("knn", {"cosine": {"y/clean": 0.8, "y/adversarial": 0.3}}, "d")
    (fit,) = correlations(cells([*attack, later]))
    assert fit.reason == "R² needs at least 3 models tested against x:clean, there are 2"


# What is not known ---------------------------------------------------------------------------------------------------


def test_without_its_folder_nobody_says_that_an_attack_aimed_at_images() -> None:
    results = without_marks()
    gone = Crafted("far-smooth", reason="there is no attack.json in /somewhere")
    for some in (results, [item for item in results if not item.variant]):
        text = missing(some, gone)
        assert "AUROC against far-smooth without the images that were aimed at, if any were" in text
        assert "that were aimed at:" not in text
    assert "tested with any left out" in missing([item for item in results if not item.variant], gone)
    mcm = [item for item in results if item.method == "mcm"]
    assert "It reads no train image" not in lead(mcm, gone)
    assert "It reads no train image" in lead(mcm, declared())
    assert "if any were" not in missing([item for item in results if not item.variant], declared())


def test_the_section_says_why_nothing_is_known_of_an_attack() -> None:
    gone = Crafted("far-smooth", reason="there is no attack.json in /somewhere")
    said = "Which model was attacked, and what was aimed at, is not known: there is no attack.json in /somewhere."
    assert section(without_marks(), gone).attacks[0].fine[-1] == said
    assert said in page(without_marks(), attacks=(gone,)).text
    assert not [one for one in section(without_marks(), declared()).attacks[0].fine if "not known" in one]
