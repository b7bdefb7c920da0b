"""The benchmarks measure what they say: turns, ratios and aims on runs of known length; all agree when small."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # `benchmarks` stands at the top of the repository and is not installed

from benchmarks import __main__ as commands  # noqa: E402
from benchmarks import pairs  # noqa: E402
from benchmarks.changes import changes  # noqa: E402
from benchmarks.pairs import Comparison, Disagreement, Reference, Stage, Timed, close, compare  # noqa: E402
from benchmarks.results import BEGIN, END, Results, number, put_into, seconds  # noqa: E402

pytestmark = pytest.mark.slow


def agree(ours, theirs):
    if ours != theirs:
        raise Disagreement(f"{ours} and {theirs}")


def takes(log, name, *lengths):
    """A run that notes its name, and took so long, one length after the other; the first is the warm-up's."""
    left = iter(lengths)

    def run():
        log.append(name)
        return Timed("answer", next(left))

    return run


# Turns and ratios -----------------------------------------------------------------------------------------------------


def test_who_begins_changes_every_round_and_ratios_are_of_the_same_round():
    log = []
    stage = Stage(
        "s",
        takes(log, "ours", 99, 1, 2, 4, 2, 1),
        [Reference("r", takes(log, "r", 99, 3, 2, 20, 14, 1), agree, aim=3.0)],
    )
    (found,) = compare(stage, rounds=5)
    assert log == ["ours", "r", "ours", "r", "r", "ours", "ours", "r", "r", "ours", "ours", "r"]
    # 3/1, 2/2, 20/4, 14/2, 1/1; the ratio of the medians is 1.5.
    assert (found.ratio, found.low, found.high) == (3.0, 1.0, 7.0)
    assert (found.ours, found.theirs, found.rounds) == (2.0, 3.0, 5)
    assert found.reached


def test_each_of_three_begins_in_turn():
    log = []
    references = [Reference(name, takes(log, name, *[1.0] * 4), agree) for name in "ab"]
    first, second = compare(Stage("s", takes(log, "ours", *[2.0] * 4), references), rounds=3)
    assert log[3:] == ["ours", "a", "b", "a", "b", "ours", "b", "ours", "a"]
    assert (first.reference, second.reference, first.ratio, first.reached) == ("a", "b", 0.5, None)


def test_another_answer_is_refused_before_anything_is_timed():
    log = []

    def wrong():
        log.append("wrong")
        return "another"

    stage = Stage("s", takes(log, "ours", 1), [Reference("r", wrong, agree)])
    with pytest.raises(Disagreement, match="s, against r: answer and another"):
        compare(stage)
    assert log == ["ours", "wrong"]


@pytest.mark.parametrize(("of_a_round", "rounds"), [(25.0, 3), (19.0, 5), (3.0, 5), (1.0, 10), (1e-6, 15)])
def test_rounds_are_as_many_as_there_is_time_for(of_a_round, rounds):
    assert pairs._rounds(of_a_round) == rounds


def test_the_clock_is_read_where_a_run_does_not_say():
    import time

    stage = Stage("s", lambda: time.sleep(0.02), [Reference("r", lambda: time.sleep(0.06), lambda *_: None)])
    (found,) = compare(stage, rounds=3)
    assert 0.02 <= found.ours < 0.06 <= found.theirs
    assert found.ratio > 1


@pytest.mark.parametrize(
    ("aim", "limit", "reached"),
    [(None, None, None), (2.0, None, True), (2.1, None, False), (None, 1.1, True), (2.0, 0.9, False)],
)
def test_aims(aim, limit, reached):
    assert COMPARISON.reached is True
    assert replace(COMPARISON, aim=aim, limit=limit).reached is reached


def test_close():
    close([1.0, 2.0], [1.0, 2.001], 0.01)
    close([1000.0], [1001.0], 0.01, relative=True)
    for ours in ([1.0, 2.1], [1.0, np.nan], [1.0]):
        with pytest.raises(Disagreement):
            close(ours, [1.0, 2.0], 0.01)


# Results --------------------------------------------------------------------------------------------------------------

COMPARISON = Comparison("s", "r", 2.0, 1.9, 2.2, ours=1.0, theirs=2.0, rounds=5, aim=2.0, limit=None)
MACHINE = {"cpu": "C", "cores": 2, "ram_gb": 8.0, "python": "3", "versions": {"x": "1"}, "date": "d", "load": 0.1}


def results(*found, **how):
    return Results(MACHINE, **{"threads": 2, "scale": 1.0} | how, of={"b": list(found)})


def test_results_come_back_from_their_file(tmp_path):
    there = results(COMPARISON, replace(COMPARISON, aim=None))
    there.write(tmp_path / "new" / "r.json")
    assert Results.read(tmp_path / "new" / "r.json") == there


def test_the_table_says_what_was_missed_and_on_what(tmp_path):
    missed = replace(COMPARISON, stage="t", aim=3.0, limit=0.2)
    text = results(COMPARISON, missed).markdown()
    assert "C, 2 cores, 8 GB; 2 threads each" in text
    assert "| s | r | 2.00 (1.90–2.20) | 1.00 s | 2.00 s | 5 | ≥ 2.00: reached |" in text
    assert "≥ 3.00, < 200 ms: **missed** |" in text
    assert "0.1 times the full size" in results(scale=0.1).conditions()
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nz\n")
    for _ in range(2):  # what was put there is replaced
        put_into(page, text)
        assert page.read_text() == f"a\n{BEGIN}\n\n{text}\n{END}\nz\n"


@pytest.mark.parametrize("marks", ["", BEGIN, END, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_a_page_without_its_marks_is_left_alone(tmp_path, marks):
    page = tmp_path / "page.md"
    page.write_text(marks)
    with pytest.raises(ValueError, match="must hold"):
        put_into(page, "text")
    assert page.read_text() == marks


def test_numbers_and_seconds():
    assert [number(value) for value in (0.01234, 1.0, 12.345, 480.4, 12345.0)] == [
        "0.0123", "1.00", "12.3", "480", "12345",
    ]  # fmt: skip
    assert [seconds(value) for value in (12.3, 0.2, 4.5e-5)] == ["12.3 s", "200 ms", "45.0 µs"]


# Changes --------------------------------------------------------------------------------------------------------------


def between(low, high):
    return replace(COMPARISON, ratio=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("now", "word", "regression"),
    [
        ((1.5, 2.0), "as before", False),
        ((1.6, 1.8), "slower: ", False),  # beyond the spread, by 1.9 / 1.8
        ((1.0, 1.5), "SLOWER", True),  # by 1.9 / 1.5 > 1.25
        ((1.0, 1.53), "slower: ", False),
        ((2.3, 2.4), "faster", False),
    ],
)
def test_a_change_counts_beyond_the_spread_of_both(now, word, regression):
    (change,) = changes(results(COMPARISON), results(between(*now)))
    assert word in str(change)
    assert change.is_regression is regression


def test_comparing_files(tmp_path):
    gone, new = replace(COMPARISON, stage="gone"), replace(COMPARISON, stage="new")
    files = [tmp_path / name for name in ("then", "same", "slow", "small")]
    everything = (
        results(COMPARISON, gone),
        results(COMPARISON, new),
        results(between(0.9, 1.0)),
        results(COMPARISON, scale=0.1),
    )
    for file, content in zip(files, everything, strict=True):
        content.write(file)

    def run(then, now):
        return CliRunner().invoke(commands.main, ["compare", str(then), str(now)])

    same, slow, small = (run(files[0], other) for other in files[1:])
    assert same.exit_code == 0
    assert "gone, against r: no longer measured" in same.output
    assert "new, against r: new" in same.output
    assert slow.exit_code == 1
    assert "1 of 2 are slower" in slow.output
    assert small.exit_code == 1
    assert "cannot be compared" in small.output


# The benchmarks -------------------------------------------------------------------------------------------------------


SCALES = {"knn": 0.02, "logistic": 0.1, "mahalanobis": 0.05, "start": 1, "store": 0.01, "together": 0.02}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # torch's workers, from Python 3.12 on
@pytest.mark.parametrize(
    ("name", "scale"), [*SCALES.items(), pytest.param("probe", 0.02, marks=pytest.mark.slow, id="probe")]
)
def test_ours_and_every_reference_agree_on_small_data(name, scale, monkeypatch):
    monkeypatch.setattr("os.sync", lambda: None)  # others may be writing a lot
    module = importlib.import_module(f"benchmarks.{commands.BENCHMARKS[name]}")
    found = [comparison for stage in getattr(module, name)(scale) for comparison in compare(stage, rounds=1)]
    assert found
    for comparison in found:
        assert 0 < comparison.ours < np.inf
        assert 0 < comparison.theirs < np.inf


def test_the_command_measures_each_in_its_process_and_fails_where_one_fails(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    found, failed = commands.measure_each(["metrics", "nothing"], scale=0.01, threads=1)
    assert failed == ["nothing"]
    assert [c.stage for c in found.of["metrics"]] == ["all of ood_metrics, 500 + 100 scores"]
    assert found.machine["cores"] >= 1
    assert set(found.machine["versions"]) >= {"numpy", "torch", "scikit-learn", "zarr"}
    assert "against" in capfd.readouterr().out
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}{END}")
    found.write(tmp_path / "r.json")
    assert CliRunner().invoke(commands.main, ["table", str(tmp_path / "r.json"), "--into", str(page)]).exit_code == 0
    assert "all of ood_metrics" in page.read_text()


def test_a_benchmark_uses_as_many_threads_as_it_says():
    code = """if True:
        import json, sys
        from benchmarks import __main__ as commands
        before = {"numpy", "torch", "faiss"} & set(sys.modules)
        commands.main(["metrics", "--scale", "0.01", "--threads", "1"], standalone_mode=False)
        from threadpoolctl import threadpool_info
        pools = {(pool["internal_api"], pool["num_threads"]) for pool in threadpool_info()}
        print(json.dumps([sorted(before), sorted(pools)]))
    """
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1]) == [[], [["openblas", 1], ["openmp", 1]]]
