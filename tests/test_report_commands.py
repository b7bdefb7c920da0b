"""The commands of the report make its results again, and no others."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_study import PROMPTED, SEEDED, content, full, page, result, run

from embedstore.evaluate.methods import METHODS
from embedstore.evaluate.presets import PRESETS
from embedstore.metrics.presets import METRIC_SETS
from embedstore.records import Result
from embedstore.report.commands import commands

Made = tuple[str, str, str, int | None, str | None]


def probes(results: list[Result]) -> list[str]:
    found = [command.line for command in commands(content(results))]
    return [line for line in found if line.startswith("embedstore probe")]


def flags(line: str) -> dict[str, list[str]]:
    words = shlex.split(line)[2:]
    found: dict[str, list[str]] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        found.setdefault(flag, []).append(value)
    return found


def made(line: str) -> Iterator[Made]:
    """Model, method, options, seed and prompts of each result that a command gives."""
    said = flags(line)
    chosen: dict[str, list[str]] = {}
    for option in said.get("--option", []):
        method, _, pair = option.partition(".")
        chosen.setdefault(method, []).append(pair)
    for model in said["--model"]:
        for method in said.get("--method", list(METHODS)):
            options = ", ".join([*chosen.get(method, []), *(f"metrics={name}" for name in said.get("--preset", []))])
            templates = said.get("--templates", ["plp"])[0] if method in PROMPTED else None
            for seed in said.get("--seed", ["0"]) if method in SEEDED else [None]:
                yield (model, method, options, None if seed is None else int(seed), templates)


def names(item: Result) -> Made:
    return (item.model, item.method, item.variant, item.params.get("seed"), item.params.get("templates"))


studies = st.lists(
    st.builds(
        run,
        st.sampled_from("ab"),
        st.sampled_from(["knn", "mcm", "plp", "linear"]),
        st.sampled_from(["", "k=10", "k=2, shots=4", "metrics=official", "k=10, metrics=openood"]),
        st.integers(0, 2),
        st.sampled_from(["plp", "openai80"]),
    ),
    min_size=1,
    max_size=12,
)


@given(results=studies)
def test_the_commands_make_each_result_once_and_no_others(results: list[Result]) -> None:
    again = [name for line in probes(results) for name in made(line)]
    assert sorted(again, key=repr) == sorted({names(item) for item in results}, key=repr)


def values(method: str, option: str) -> list[Any]:
    """Some of each type that an option may have."""
    kind = str(METHODS[method].run.__annotations__[option])
    known = {"int": [7], "float": [1e-07, 2e16, 0.5], "bool": [True, False], "tuple": [("msp", "energy"), ("l1",)]}
    found = [value for name, some in known.items() if name in kind for value in some]
    return found + (["word"] if "str" in kind and "tuple" not in kind else []) + ([None] if "None" in kind else [])


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_every_method_is_spelled_as_probe_reads_it(method: str) -> None:
    for option in METHODS[method].defaults():
        some = values(method, option)
        assert some
        for value in some:
            # As `probe` stores it (embedstore.evaluate.run).
            text = "+".join(value) if isinstance(value, tuple) else f"{value}"
            (line,) = probes([run("a", method, f"{option}={text}")])
            (said,) = flags(line)["--option"]
            name, _, written = said.removeprefix(f"{method}.").partition("=")
            assert (name, METHODS[method].parse(method, name, written)) == (option, value)


def test_a_study_of_everything_is_one_command_for_each_set_of_options() -> None:
    once = full(2)
    results = once + [replace(item, params={**item.params, "seed": 1}) for item in once if item.method in SEEDED]
    whole, other, official = map(flags, probes(results))
    assert "--method" not in whole
    assert (whole["--seed"], whole.get("--templates"), len(whole["--model"])) == (["0", "1"], None, 2)
    assert (other["--method"], other["--option"]) == (["knn"], ["knn.k=10", "knn.metric=l2", "knn.reduce=kth"])
    assert not {"--seed", "--templates", "--preset"} & set(other)
    assert (official["--preset"], official["--method"]) == (["official"], ["plp", "linear"])
    assert official["--option"][:2] == ["plp.scores=msp,energy,l1", "plp.logit_distance=true"]
    assert "metrics" not in " ".join(official["--option"])
    assert "None" not in page(results).text


def test_a_command_names_the_prompts_and_methods_of_a_preset() -> None:
    # Those of the preset mcm are others than plp's, which go without saying elsewhere.
    (line,) = probes([run("a", "mcm", "metrics=mcm")])
    assert (flags(line)["--preset"], flags(line)["--templates"]) == (["mcm"], ["plp"])
    # And what runs where no method is named is the preset's choice, which is not ours to know.
    (line,) = probes([run("a", method, "metrics=official") for method in METHODS])
    assert flags(line)["--method"] == list(METHODS)
    assert set(PRESETS) == set(METRIC_SETS)
    assert all(preset.metrics == name for name, preset in PRESETS.items())


def test_older_results_are_probed_with_what_they_were_given() -> None:
    results = [result(method=m, params={"seed": s, "templates": "plp"}) for m in ("knn", "linear") for s in (1, 0)]
    (line,) = probes(results)
    assert line.endswith("--method knn --method linear --seed 0 --seed 1")


def test_shots_are_options() -> None:
    lines = probes([run("a", "linear", f"shots={n}", seed=seed) for n in (16, 2) for seed in (0, 1)])
    assert [flags(line)["--option"] for line in lines] == [["linear.shots=2"], ["linear.shots=16"]]
    assert all(flags(line)["--seed"] == ["0", "1"] for line in lines)


def test_other_splits_and_dropped_duplicates_are_flags_and_no_options() -> None:
    inputs = {"images/digits/check": "1", "images/digits/val": "2", "images/far/test": "3"}
    variant = "k=3, train_split=val, test_split=check, left_out=4, train_left_out=9"
    other = run("m", "knn", variant, inputs=inputs, scores=["cosine"])
    (line,) = probes([other])
    words = shlex.split(line)
    assert " --train-split val --test-split check --drop-duplicates --without PATH/keys.txt " in f"{line} "
    assert words[words.index("--option") + 1] == "knn.k=3"
    assert words.count("--option") == words.count("--ood") == 1
    assert words[words.index("--ood") + 1] == "far"


def test_a_defended_model_and_a_fast_one_are_extracted_as_they_were() -> None:
    from report_study import provenance

    made = {
        "a": provenance("a"),
        "a+jpeg75": provenance("a+jpeg75", preprocess={"size": 96, "defence": "jpeg:75"}, pretrained="local"),
        "quick": provenance("quick", preprocess={"size": 96, "decode": "fast"}),
    }
    results = [run(model, "knn") for model in made]
    found = content(results, models=made, sources={"digits/test": "images", "far/test": "other"})
    lines = [command.line for command in commands(found) if command.line.startswith("embedstore extract images")]
    plain, fast, defended = sorted(lines, key=lambda line: ("--defence" in line, "--decode" in line))
    assert "--model a " in plain
    assert "--decode" not in plain + defended
    assert "--model quick " in fast
    assert "--decode fast" in fast
    assert "--model local-dir:PATH/a " in defended
    assert "--defence jpeg:75" in defended
