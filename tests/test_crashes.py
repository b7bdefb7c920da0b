"""Extraction is killed at every step, its disk fills up, its store becomes read-only: resumed equals uninterrupted."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash_driver import COMMON, Driver, Fault
from crash_harness import PENDING, Bench, Scenario, contents, differences, wrong

TRAIN, TEST = "{data}/pets/train.tar", "{data}/pets/test.tar"
PLAIN = Scenario("plain", (TRAIN, "--model", "fake"))
OTHERS = (
    Scenario("captions", (TRAIN, "--model", "fake", "--captions")),
    Scenario("two models", (TRAIN, "--model", "fake", "--model", "fake:mlp")),
    Scenario("second split", (TRAIN, "--model", "fake"), before=((TEST, "--model", "fake"),)),
    Scenario("extend", (TRAIN, "--model", "fake", "--extend"), before=((TRAIN, "--limit", "8", "--model", "fake"),)),
    Scenario("retry", (TRAIN, "--model", "fake", "--retry-failed"), before=((TRAIN, "--model", "fake"),), redoes=True),
)

# What a reader is told between two writes of an extension (docs/format.md, "Appending rows"), until it is resumed.
HALF_EXTENDED = "was being extended when that was stopped; run the same `embedstore extract` again"


def unexpected(problems: list[str]) -> list[str]:
    return [problem for problem in problems if HALF_EXTENDED not in problem]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    driver = Driver()
    yield Bench(tmp_path_factory.mktemp("crashes"), driver)
    driver.close()


def a_later_fault(bench: Bench, scenario: Scenario, first: int, rng: random.Random) -> Fault:
    """Another kill, of the run that resumes after a kill at step `first`: most often before that run's end."""
    left = bench.reference(scenario).ended.steps["kill"] - first
    return Fault(rng.choice(["kill", "torn"]), rng.randint(1, left + 5))


# Killed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(4))
def test_killed_at_any_step_and_resumed_equals_uninterrupted(bench: Bench, part: int) -> None:
    steps = bench.reference(PLAIN).ended.steps["kill"]
    assert steps > 50, "the steps are not seen"
    problems, before = [], bench.kills
    for step in range(1 + part, steps + 1, 4):
        problems += bench.trial(PLAIN, Fault("kill", step))
    assert unexpected(problems) == []
    assert bench.kills - before >= steps // 4


# All of them take part in test_thousands_of_kills, too.
EVERYDAY = [
    pytest.param(each, id=each.name, marks=[pytest.mark.slow] if each.name in ("captions", "second split") else [])
    for each in OTHERS
]


@pytest.mark.parametrize("scenario", EVERYDAY)
def test_killed_three_times_and_resumed_equals_uninterrupted(bench: Bench, scenario: Scenario) -> None:
    steps, rng = bench.reference(scenario).ended.steps["kill"], random.Random(scenario.name)
    problems, before, trials = [], bench.kills, range(1, steps + 1, max(1, steps // 9))
    for step in trials:
        later = [a_later_fault(bench, scenario, step, rng) for _ in range(2)]
        problems += bench.trial(scenario, Fault("kill", step), *later)
    assert unexpected(problems) == []
    assert bench.kills - before > 1.3 * len(trials)


def test_killed_in_the_middle_of_a_write(bench: Bench) -> None:
    problems, steps = [], bench.reference(PLAIN).ended.steps["torn"]
    for step in range(1, steps + 1, 4):
        problems += bench.trial(PLAIN, Fault("torn", step))
    assert unexpected(problems) == []


@pytest.mark.slow
@pytest.mark.parametrize("serial", [True, False], ids=["serial", "concurrent"])
@pytest.mark.parametrize("scenario", [PLAIN, *OTHERS], ids=lambda scenario: scenario.name)
def test_thousands_of_kills(bench: Bench, scenario: Scenario, serial: bool) -> None:
    """Every step × a second kill somewhere behind it, with writes one by one and as they come."""
    steps, rng = bench.reference(scenario).ended.steps["kill"], random.Random(serial)
    problems = []
    for step in range(1, steps + 1):
        faults = Fault("kill", step), a_later_fault(bench, scenario, step, rng)
        problems += bench.trial(scenario, *faults, serial=serial)
    assert unexpected(problems) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_installed_command_killed_at_any_time(
    bench: Bench, pictures: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], seed: int
) -> None:
    """As a process of its own with workers, at whatever it does just then."""
    scenario, store = Scenario("many", (str(pictures / "tars/many.tar"), "--model", "fake")), tmp_path / "killed.zarr"
    reference = bench.reference(scenario)
    with start("extract", *COMMON, *reference.arguments, "--workers", "2", "--store", store) as process:
        while process.poll() is None and not store.exists():
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 1))
        process.kill()
        process.communicate(timeout=60)  # ends only when the workers, too, have ended
    assert process.returncode in (-9, 0)
    assert unexpected(list(wrong(store, None, reference.after))) == []
    resumed = bench.driver.extract(reference.arguments, store)
    assert resumed.code == 0, resumed.output
    assert list(differences(contents(store), reference.files)) == []


# Refused by the disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "ENOSPC", "EROFS", "EIO"])
def test_a_disk_that_refuses_is_one_clear_line_and_resumed_equals_uninterrupted(bench: Bench, kind: str) -> None:
    problems, before = [], bench.struck
    for scenario in (PLAIN, *OTHERS):
        steps = bench.reference(scenario).ended.steps[kind]
        for step in (1, steps // 2):
            problems += bench.trial(scenario, Fault(kind, step), serial=False)
    assert unexpected(problems) == []
    assert bench.struck - before >= 11  # how many steps there are depends on which thread comes first


@pytest.mark.parametrize("scenario", [PLAIN, *OTHERS[:-1]], ids=lambda scenario: scenario.name)
def test_a_finished_store_is_not_written_to(bench: Bench, scenario: Scenario, tmp_path: Path) -> None:
    """So what is finished may be made read-only."""
    reference, store = bench.reference(scenario), tmp_path / "s.zarr"
    assert bench.driver.extract(reference.arguments, store).code == reference.ended.code
    again = bench.driver.extract(reference.arguments, store, Fault("EROFS", 1))
    assert (again.code, again.output, set(again.steps.values())) == (reference.ended.code, "", {0})


# The harness can fail -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "kind", "found"),
    [
        ("status first", "kill", "missing in blocks that are marked done"),
        ("in place", "torn", "cannot be read"),
        ("swallow", "full", "should fail with one line"),
    ],
)
def test_planted_bugs_are_found(bench: Bench, plant: str, kind: str, found: str) -> None:
    steps, problems = bench.reference(PLAIN).ended.steps[kind], []
    for step in range(steps - 12, steps):
        problems += bench.trial(PLAIN, Fault(kind, step), plant=plant)
    assert any(found in problem for problem in problems), problems
    if kind != "full":
        assert any(re.search(r"resumed: (\d+ files|ends)", problem) for problem in problems), problems


def test_a_child_that_hangs_is_ended_and_its_stacks_are_shown(bench: Bench, tmp_path: Path) -> None:
    ended = bench.driver.extract(bench.reference(PLAIN).arguments, tmp_path / "s", plant="hang", patience=2)
    assert ended.hung
    assert "in <lambda>" in ended.output, ended.output


def test_what_was_lost_or_changed_is_found(bench: Bench, tmp_path: Path) -> None:
    reference = bench.reference(OTHERS[2])
    assert reference.prepared is not None
    damages = {
        "models/fake/images/pets/test/status/c/0": PENDING,
        "models/fake/images/pets/test/zarr.json": "images of .* are gone",
        "datasets/pets/test/zarr.json": "cannot be read",
        "models/fake/texts/pets/plp/zarr.json": "texts of .* are gone",
        "datasets/pets/test/label/c/0": "cannot be read",
        "zarr.json": "the store is gone",
    }
    for number, (name, found) in enumerate(damages.items()):
        store = shutil.copytree(reference.prepared, tmp_path / str(number))
        (store / name).unlink()
        assert any(re.search(found, problem) for problem in wrong(store, reference.before, reference.after)), name


# What a killed writer leaves behind -----------------------------------------------------------------------------------


def test_killed_before_the_first_file_is_there(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "zarr.0123.partial").touch()
    assert bench.driver.extract(bench.reference(PLAIN).arguments, tmp_path / "s").code == 3


@pytest.mark.parametrize("left", ["datasets/pets/zarr.0123.partial", "datasets/pets/valid"])
def test_leftovers_are_passed_over_in_silence(bench: Bench, tmp_path: Path, left: str) -> None:
    reference = bench.reference(OTHERS[2])
    assert reference.prepared is not None
    store = shutil.copytree(reference.prepared, tmp_path / "s")
    (store / left).touch() if left.endswith("partial") else (store / left).mkdir()
    assert list(wrong(store, reference.before, reference.after)) == []
