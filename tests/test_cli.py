"""The command line, as somebody meets it who has just installed it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from conftest import Command

from embedstore.cli import main

PROBE = ("probe", "--store", "{store}", "--id", "pets", "--ood", "cars", "--method", "knn")
EXTRACT = ("extract", "{pictures}/pets/train", "--store", "{store}", "--model", "fake")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def store(fake_store: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(fake_store, tmp_path / "clip.zarr"))


@pytest.fixture
def here(store: Path, pictures: Path, tmp_path: Path) -> dict[str, str]:
    """What the braces in the arguments stand for."""
    (tmp_path / "other.json").write_text('["ant", "bee", "whale"]')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose me")
    (tmp_path / "mixed" / "train").mkdir(parents=True)
    (tmp_path / "mixed" / "train" / "notes.txt").write_text("no image")
    return {"store": str(store), "pictures": str(pictures), "tmp": str(tmp_path)}


def invoke(*args: str, **variables: str) -> Result:
    """Run in this process. An exception that the command line does not turn into a message ends the test."""
    return CliRunner(env=variables).invoke(main, list(args), catch_exceptions=False)


# Help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_explains_itself_its_options_and_gives_an_example(name: str) -> None:
    found = main.commands[name]
    help_text = invoke(name, "-h").stdout
    assert help_text == invoke(name, "--help").stdout
    assert (
        re.search(rf"Examples?:\n    embedstore {name} ", help_text)
        or f"Examples:\n    embedstore {name}\n" in help_text
    )
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help, f"{option.opts} is not explained"
            assert max(option.opts, key=len) in help_text


def test_the_help_has_every_command_and_exit_code() -> None:
    shown = invoke("--help").stdout
    text = " ".join(shown.split())
    assert all(f"\n  {name} " in shown for name in main.commands)
    assert all(code in text for code in ("0 done", "1 failed", "2 usage", "3 done", "5 store", "75 stopped"))


def test_help_is_quick_and_loads_nothing_heavy(command: Command) -> None:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert command("--help").returncode == 0
        times.append(time.perf_counter() - began)
        if times[-1] < 0.5:
            break
    assert min(times) < 0.5, times
    script = """if True:
        import sys
        from embedstore.cli import main
        main(["--help"], standalone_mode=False)
        main(["extract", "--help"], standalone_mode=False)
        heavy = "torch torchvision open_clip timm zarr numpy sklearn scipy faiss plotly PIL".split()
        print(sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
    """
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stderr == "[]\n"


# Exit codes -----------------------------------------------------------------------------------------------------------


def test_exit_codes_of_the_real_command(command: Command, store: Path, pictures: Path, tmp_path: Path) -> None:
    """75 is in test_extract.py: it takes a run long enough to be stopped."""
    (tmp_path / "new" / "test").mkdir(parents=True)
    shutil.copy(pictures / "pets/test/cat/0.png", tmp_path / "new" / "test" / "good.png")
    (tmp_path / "new" / "test" / "bad.png").write_text("no image")
    table: dict[int, tuple[str | Path, ...]] = {
        0: ("ls", "--store", store),
        1: ("extract", tmp_path / "nowhere", "--store", store, "--model", "fake"),
        2: ("probe", "--store", tmp_path / "no.zarr", "--id", "pets", "--ood", "cars"),
        3: ("extract", tmp_path / "new" / "test", "--store", store, "--model", "fake"),
        5: ("extract", pictures / "pets/train", "--store", store, "--model", "fake:x", "--name", "fake"),
    }
    for code, arguments in table.items():
        done = command(*arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code not in (0, 3):
            assert done.stderr.splitlines()[-1].startswith("Error: ")
    again = command(*table[3], "--json")
    assert again.returncode == 3, "failed images stay failed when there is nothing left to do"
    assert "2 rows = 1 ok + 1 failed + 0 pending, nothing left to do" in again.stderr


def replaced(arguments: tuple[str, ...], **changes: str) -> tuple[str, ...]:
    """The same arguments with other values for some flags."""
    values = list(arguments)
    for flag, value in changes.items():
        values[values.index(f"--{flag}") + 1] = value
    return tuple(values)


NOT_OURS = r"exists and is not an embedstore; give a new path"
BAD = {
    "unknown model": (2, replaced(EXTRACT, model="ViT-B-23/openai"), r"ViT-B-23.*ViT-B-32"),
    "unknown stored model": (2, (*PROBE, "--model", "fale"), r"unknown model 'fale'.*Known: fake, fake-other"),
    "unknown second model": (2, (*PROBE, "--model", "fake", "--model", "no"), r"unknown model 'no'.*Known: fake"),
    "unknown id set": (2, replaced(PROBE, id="pet"), r"unknown data set 'pet'.*Known: cars, flat, pets"),
    "unknown ood set": (2, replaced(PROBE, ood="car"), r"unknown data set 'car'.*Known: cars, flat, pets"),
    "unknown split": (2, replaced(PROBE, ood="cars:val"), r"unknown split 'cars/val'.*Known: cars/test"),
    "no method can run": (1, (*PROBE, "--id", "flat"), r"no method could run"),
    "unknown method": (2, replaced(PROBE, method="knm"), r"unknown method 'knm'\. Did you mean 'knn'"),
    "unknown templates": (
        2,
        (*EXTRACT, "--templates", "plpp"),
        r"unknown template set 'plpp'.*Known: mcm, openai80, plp",
    ),
    "seed out of range": (2, (*PROBE, "--seed", "-1"), r"-1 is not in the range"),
    "ood equals id": (2, replaced(PROBE, ood="pets"), r"pets/test is the in-distribution data"),
    "ood is the id train split": (2, replaced(PROBE, ood="pets:train"), r"pets/train is the in-distribution data"),
    "no store": (2, replaced(PROBE, store="{tmp}/no.zarr"), r"no\.zarr does not exist; `embedstore extract` makes"),
    "probing what is not ours": (2, replaced(PROBE, store="{tmp}/full"), r"full exists and is not an embedstore"),
    "extracting into what is not ours": (2, replaced(EXTRACT, store="{tmp}/full"), NOT_OURS),
    "results into what is not ours": (2, (*PROBE, "--results", "{tmp}/full"), NOT_OURS),
    "a store where none can be": (1, replaced(EXTRACT, store="/dev/null/x"), r"Not a directory|dev/null"),
    "another model of the same name": (
        5,
        (*replaced(EXTRACT, model="fake:x"), "--name", "fake"),
        r"pretrained: 'default'",
    ),
    "another dtype": (5, (*EXTRACT, "--dtype", "float32"), r"dtype: 'float16' against 'float32'"),
    "other classes": (
        5,
        (*EXTRACT, "--classes", "{tmp}/other.json"),
        r"class names of pets/train changed.*'cat'",
    ),
    "other rows": (5, (*EXTRACT, "--limit", "3"), r"24 were listed, and now only the first 3 of them .*--limit"),
    "captions from now on": (5, (*EXTRACT, "--captions"), r"extracted by fake without captions"),
    "a name that is a path": (2, (*EXTRACT, "--dataset", "../x"), r"cannot name a data set"),
    "one name for two models": (2, (*EXTRACT, "--model", "fake:x", "--name", "y"), r"--name renames one model"),
    "no source": (1, ("extract", "{tmp}/nowhere", *EXTRACT[2:]), r"nothing at .*nowhere"),
    "a folder without images": (1, ("extract", "{tmp}/mixed/train", *EXTRACT[2:]), r"no images"),
    "which split": (2, ("extract", "{pictures}/pets", *EXTRACT[2:]), r"Choose one with --split"),
    "no class names file": (1, (*EXTRACT, "--classes", "{tmp}/no.json"), r"class names from .*no\.json"),
    "no weights": (1, replaced(EXTRACT, model="ViT-B-32//{tmp}/no.pt"), r"no\.pt"),
    "nothing to report": (1, ("report", "--store", "{store}", "--out", "{tmp}/report"), r"holds no results yet"),
    "unknown command": (2, ("extrat",), r"No such command 'extrat'"),
    "unknown option": (2, (*PROBE, "--metod", "knn"), r"No such option '?--metod"),
    "an option missing": (2, ("probe", "--id", "pets", "--ood", "cars"), r"Missing option '--store'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str, here: dict[str, str]) -> None:
    code, arguments, message = BAD[case]
    before = files(Path(here["store"]))
    done = invoke(*(argument.format(**here) for argument in arguments))
    last = done.stderr.splitlines()[-1]
    assert done.exit_code == code, done.stderr
    assert last.startswith("Error: ")
    assert re.search(message, last), last
    assert "Error" not in done.stdout
    after = files(Path(here["store"]))
    assert {name: after.get(name) for name in before} == before, "something was lost"
    assert (Path(here["tmp"]) / "full" / "thesis.txt").read_text() == "do not lose me"


# Flags, the environment, JSON -----------------------------------------------------------------------------------------


def test_every_option_is_read_from_a_variable_named_after_its_flag() -> None:
    for name, found in main.commands.items():
        for option in found.params:
            if isinstance(option, click.Option):
                flag = max(option.opts, key=len).removeprefix("--")
                assert option.envvar == f"EMBEDSTORE_{name}_{flag}".upper().replace("-", "_")


def test_variables_and_underscores(store: Path, pictures: Path, tmp_path: Path) -> None:
    variables = {
        "EMBEDSTORE_PROBE_STORE": str(store),
        "EMBEDSTORE_PROBE_MODEL": "fake:other",
        "EMBEDSTORE_PROBE_OOD": "cars flat",
        "EMBEDSTORE_PROBE_METHOD": "mcm",
        "EMBEDSTORE_PROBE_JSON": "1",
    }
    rows = json.loads(invoke("probe", "--id", "pets", **variables).stdout)
    assert [(row["model"], row["method"], row["ood"]) for row in rows] == [
        ("fake-other", "mcm", "cars/test"),
        ("fake-other", "mcm", "flat/test"),
    ]
    new = str(tmp_path / "new.zarr")
    arguments = ("extract", str(pictures / "pets/train"), "--store", new, "--model", "fake", "--batch_size", "4")
    assert invoke(*arguments, "--block_rows", "5", EMBEDSTORE_EXTRACT_LIMIT="7").exit_code == 0
    listed = json.loads(invoke("ls", "--store", new, "--json").stdout)
    fake = {"ok": 7, "failed": 0, "pending": 0}
    assert listed == [{"dataset": "pets", "split": "train", "rows": 7, "classes": 3, "models": {"fake": fake}}]


def test_ls_shows_what_is_there_and_how_much_of_it(store: Path) -> None:
    (store / "models/fake/images/pets/test/status/c/1").unlink()
    lines = {tuple(re.findall(r"[^\s│]+", line)) for line in invoke("ls", "--store", str(store)).stdout.splitlines()}
    assert ("pets", "train", "24", "3", "24", "24") in lines
    assert ("pets", "test", "18", "3", "10", "(8", "pending)", "18") in lines
    assert ("flat", "test", "6", "–", "6", "6") in lines


def test_stdout_is_json_and_nothing_else_and_quiet_is_quiet(store: Path, pictures: Path) -> None:
    location = ("--store", str(store), "--json")
    done = invoke("extract", str(pictures / "flat/test"), *location, "--model", "fake:third")
    (outcome,) = json.loads(done.stdout)
    assert (outcome["name"], outcome["rows"], outcome["ok"], outcome["failures"]) == ("flat/test", 6, 6, [])
    assert "6 rows = 6 ok" in done.stderr
    done = invoke("probe", *location, "--quiet", "--id", "pets", "--ood", "cars", "--model", "fake", "--method", "knn")
    (row,) = json.loads(done.stdout)
    assert set(row) >= {"model", "id", "ood", "method", "score", "seed", "id_accuracy", "auroc", "fpr95", "n_id"}
    assert 0 <= row["auroc"] <= 1
    assert done.stderr == ""


# Probe ----------------------------------------------------------------------------------------------------------------


def test_results_in_another_store_leave_the_first_as_it_was(store: Path, tmp_path: Path, command: Command) -> None:
    before = files(store)
    for path in (store, *store.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    arguments = ("probe", "--store", store, "--id", "pets", "--ood", "cars", "--method", "mcm")
    done = command(*arguments, "--results", tmp_path / "results.zarr")
    assert done.returncode == 0, done.stderr
    for path in (store, *store.rglob("*")):
        path.chmod(0o755)
    assert files(store) == before
    for arguments in (("--out", str(tmp_path / "other")), ("--out", str(tmp_path / "results.zarr" / "zarr.json"))):
        done = invoke("report", "--store", str(tmp_path / "results.zarr"), *arguments)
        assert done.exit_code == (0 if arguments[1].endswith("other") else 2), done.stderr
    assert "is not a folder" in done.stderr


def test_absent_methods_unfinished_rows_and_refused_models_are_said(store: Path) -> None:
    (store / "models/fake/images/cars/test/status/c/0").unlink()
    (store / "models/fake-other/images/pets/test/zarr.json").unlink()
    done = invoke("probe", "--store", str(store), "--id", "pets", "--ood", "cars", "--method", "knn", "--method", "mcm")
    assert done.exit_code == 0
    assert "note: fake: cars/test: 2 of 10 rows are used (8 pending, 0 failed)\n" in done.stdout
    assert "note: fake-other has not embedded pets/test; run `embedstore extract" in done.stdout
    done = invoke("probe", "--store", str(store), "--model", "fake", "--id", "flat", "--ood", "pets", "--json")
    assert done.exit_code == 1, "without a train split and class names nothing can run"
    assert "note: fake: no knn, combined, plp, linear, logistic, " in done.stderr
    assert "nnguide: flat has no train split in the store\n" in done.stderr
    assert "note: fake: no mcm, zero-shot: fake has no prompts flat/plp" in done.stderr
    assert [row["method"] for row in json.loads(done.stdout)][:2] == ["knn", "mcm"]
    assert all(row["absent"] for row in json.loads(done.stdout))
