"""`embedstore attack` and its recipe: what is asked for reaches the engine, and what comes out can be gone on with."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Command
from rich.console import Console

import embedstore
from embedstore.attack import Progress, draw_pairs, read_attack
from embedstore.cli import attacked, main
from embedstore.cli.attack import options_of
from embedstore.cli.attackable import default_name
from embedstore.store import Images, Store

pytestmark = pytest.mark.slow

SIMILARITIES = ("before", "after", "rounded")


@pytest.fixture
def store(fake_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_store, tmp_path / "s.zarr"))


def run(*args: str | Path) -> Any:
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


def attack(store: Path, out: Path, *more: str | Path, ood: str = "cars", target: str = "pets", num: int = 8) -> Any:
    size = ("--num", str(num), "--steps", "30", "--lr", "0.01", "--seed", "3", "--block-rows", "3", "--device", "cpu")
    sides = ("--ood", ood, "--target", target, "--smoothness", "10")
    return run("attack", "--store", store, "--model", "fake", *sides, "--out", out, *size, *more)


def records(folder: Path) -> list[dict[str, Any]]:
    """KEY.json of every image of a folder of shards."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith(".json")]
            found += [json.loads(tar.extractfile(member).read()) for member in members]  # type: ignore[union-attr]
    return found


# What it makes -------------------------------------------------------------------------------------------------------


def test_an_attack_is_in_the_store_and_can_be_gone_on_with(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "o p"
    told = attack(store, out, "--snapshot", "10", "--json")
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    opened = Store.open(store)
    assert said["splits"] == [f"cars-o-p/{name}" for name in ("clean", "adversarial", "float", "step-10")]
    assert opened.datasets()["cars-o-p"] == ["adversarial", "clean", "float", "step-10"]

    cars, pets = opened.images("fake", "cars", "test"), opened.images("fake", "pets", "train")
    ood, target = draw_pairs(cars.ok, pets.ok, 8, seed=3)
    lines = (out / "targets.txt").read_text().splitlines()
    assert lines == [str(pets.keys[row]) for row in sorted(set(target.tolist()))]

    made = records(out / "adversarial")
    assert [one["key"] for one in made] == cars.keys[ood].tolist()
    assert (said["images"], said["failed"], said["failures"]) == (8, 0, [])
    for when in ("before", "after", "rounded"):
        assert said["similarity"][when] == pytest.approx(np.mean([one["similarity"][when] for one in made]))
    for norm in ("l2", "linf", "psnr"):
        assert said[norm] == pytest.approx(np.mean([one[norm] for one in made]))
    assert said["similarity"]["after"] > said["similarity"]["before"] + 0.05
    # And the same of what the store holds of them.
    vectors = {split: opened.images("fake", "cars-o-p", split).embedded() for split in ("clean", "float")}
    wanted = pets.embedded()[target]
    for split, when in (("clean", "before"), ("float", "after")):
        assert cosines(vectors[split], wanted).mean() == pytest.approx(said["similarity"][when], abs=1e-3)

    # All that is printed can be typed.
    again = attack(store, out, "--snapshot", "10")
    typed = [line.strip() for line in again.output.splitlines() if line.startswith("  embedstore ")]
    assert len(typed) == 4
    for line in typed:
        words = [word.replace("ANOTHER", "fake:other") for word in shlex.split(line)[1:]]
        fewer = ["--method", "knn"] if words[0] == "probe" else []
        assert run(*words, *fewer).exit_code == 0, line
    assert "cars-o-p/adversarial" in {f"{d}/{s}" for d, s in Store.open(store).embedded("fake-other")}
    left_out = [each for each in Store.open(store).results() if f"train_left_out={len(lines)}" in each.variant]
    assert left_out


def cosines(a: Any, b: Any) -> Any:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_same_command_again_does_nothing_again(store: Path, tmp_path: Path, command: Command) -> None:
    """In a process of its own, which prints plain lines into a pipe."""
    out = tmp_path / "out"
    assert attack(store, out).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("0*")}
    options = ("--num", "8", "--steps", "30", "--lr", "0.01", "--seed", "3", "--block-rows", "3", "--smoothness", "10")
    same = ("attack", "--store", store, "--model", "fake", "--ood", "cars", "--target", "pets", "--out", out, *options)
    told = command(*same)
    assert told.returncode == 0, told.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("0*")} == before
    assert "nothing left to do" in told.stdout
    assert "\x1b" not in told.stdout
    assert "cars-out · fake: means over images" in told.stdout
    assert run(*same, "--quiet").output == ""


def test_presets_and_options_reach_the_engine(store: Path, tmp_path: Path) -> None:
    assert options_of("smooth").to_json()["smoothness"] == 5000
    assert options_of("patchy", steps=None, lr=0.5).to_json() == {**options_of("patchy").to_json(), "lr": 0.5}
    assert options_of("patchy").to_json()["smoothness"] == 0
    more = ("--optimizer", "pgd", "--budget", "linf=8/255", "--init-scale", "0.002", "--snapshot", "0")
    sides = ("--ood", "cars:test", "--target", "pets:train", "--num", "4", "--steps", "7")
    told = run("attack", "--store", store, "--model", "fake", *sides, *more, "--out", tmp_path / "out")
    assert told.exit_code == 0, told.output
    declared = read_attack(tmp_path / "out").declaration
    assert declared["options"] == {
        "steps": 7,
        "lr": pytest.approx(2.5 * 8 / 255 / 7),
        "smoothness": 0,
        "init_scale": 0.002,
        "budget": f"linf={8 / 255!r}",
        "optimizer": "pgd",
        "snapshots": [0],
        "every": 10,
    }
    assert (declared["num"], declared["seed"], declared["aim"]["kind"]) == (4, 0, "images")
    assert "cars-out/step-0" in {rows.name for rows in Store.open(store).splits()}
    assert read_attack(tmp_path / "out").arrays["linf"].max() <= 8 / 255


# What it aims at -----------------------------------------------------------------------------------------------------


def attacked_towards(store: Path, tmp_path: Path, towards: str) -> tuple[Images, Images, Any]:
    """Clean and perturbed images, and rows of their targets."""
    told = attack(store, tmp_path / "out", "--towards", towards, "--preset", "patchy", "--smoothness", "0")
    assert told.exit_code == 0, told.output
    assert "--without" not in told.output, "no train image was aimed at"
    assert not (tmp_path / "out" / "targets.txt").exists()
    opened, name = Store.open(store), "cars-out"
    rows = read_attack(tmp_path / "out").arrays["target_row"]
    return opened.images("fake", name, "clean"), opened.images("fake", name, "float"), rows


def test_towards_prototypes(store: Path, tmp_path: Path) -> None:
    clean, perturbed, rows = attacked_towards(store, tmp_path, "prototype")
    pets = Store.open(store).images("fake", "pets", "train")
    features = pets.embedded().astype(np.float64)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    wanted = np.stack([units[pets.labels == pets.labels[row]].mean(axis=0) for row in rows])
    before, after = cosines(clean.embedded(), wanted), cosines(perturbed.embedded(), wanted)
    assert (after > before).all()
    arrays = read_attack(tmp_path / "out").arrays
    np.testing.assert_allclose(arrays["similarity"], after, atol=2e-3)


def test_towards_texts(store: Path, tmp_path: Path) -> None:
    told = attack(store, tmp_path / "out", "--towards", "text", "--templates", "simple")
    assert (told.exit_code, "extract pets again with --templates simple" in " ".join(told.output.split())) == (1, True)
    clean, perturbed, rows = attacked_towards(store, tmp_path, "text")
    opened = Store.open(store)
    wanted = opened.texts("fake", "pets")[opened.rows("pets", "train").labels[rows]]
    before, after = cosines(clean.projected(), wanted), cosines(perturbed.projected(), wanted)
    assert (after > before).all()
    np.testing.assert_allclose(read_attack(tmp_path / "out").arrays["similarity"], after, atol=2e-3)


def test_towards_a_stored_probe(store: Path, tmp_path: Path) -> None:
    told = attack(store, tmp_path / "out", "--towards", "probe")
    assert told.exit_code == 1
    assert "holds no linear probe of pets by fake; train one with `embedstore probe --id pets --method linear`" in (
        told.output
    )
    probe = ("probe", "--store", store, "--model", "fake", "--id", "pets", "--ood", "cars", "--method", "linear", "-q")
    assert run(*probe).exit_code == 0
    assert run(*probe, "--shots", "2").exit_code == 0, "a newer one, but not of the defaults"
    assert run(*probe, "--seed", "4").exit_code == 0, "a newer one of the defaults, but of another seed"
    clean, perturbed, rows = attacked_towards(store, tmp_path, "probe")
    assert (rows == -1).all()
    linear = [each for each in Store.open(store).results() if each.method == "linear" and not each.variant]
    (result,) = [each for each in linear if each.params["seed"] == 0]
    weights = {name: np.asarray(result.weights[name], dtype=np.float64) for name in result.weights}

    def energy(images: Images) -> Any:
        standard = (images.embedded().astype(np.float64) - weights["mean"]) / weights["scale"]
        return embedstore.energy(standard @ weights["coef"].T + weights["intercept"])

    assert (energy(perturbed) > energy(clean)).all()
    np.testing.assert_allclose(read_attack(tmp_path / "out").arrays["similarity"], energy(perturbed), atol=0.05)


# What may be wrong ---------------------------------------------------------------------------------------------------


def test_moved_images_are_found_where_one_says(pictures: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(pictures, tmp_path / "here"))
    for name in ("cars/test", "pets/train"):
        run("extract", here / name, "--store", tmp_path / "s", "--model", "fake", "-q")
    there = here.rename(tmp_path / "there")
    told = attack(tmp_path / "s", tmp_path / "out")
    assert told.exit_code == 1
    assert f"cars/test was extracted from {here}/cars/test; say with --ood-source where" in told.output
    sources = ("--ood-source", there / "cars/test", "--target-source", there / "pets/train")
    told = attack(tmp_path / "s", tmp_path / "out", *sources)
    assert told.exit_code == 0, told.output
    told = attack(tmp_path / "s", tmp_path / "out2", "--ood-source", there / "pets/test", *sources[2:])
    assert told.exit_code == 5, "other images under the same name"
    assert f"--ood-source {there}/pets/test does not hold the images that were extracted" in " ".join(
        told.output.split()
    )
    told = attack(tmp_path / "s", tmp_path / "out2", "--ood-source", there / "nothing", *sources[2:])
    assert (told.exit_code, "nothing" in told.output, "say with" in told.output) == (1, True, False)


def test_wrong_requests_end_before_anything_is_made(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for more, code, says in [
        (("--num", "11"), 2, "11 images are to be attacked, but 10 of the 10 are embedded"),
        (("--ood", "carts"), 2, "unknown data set 'carts'. Did you mean 'cars'?"),
        (("--target", "pets:dev"), 2, "unknown split 'pets/dev'"),
        (("--optimizer", "pgd"), 2, "pgd walks in a linf budget"),
        (("--budget", "l3=1"), 2, "the budget 'l3=1' is not understood"),
        (("--snapshot", "31"), 2, "snapshots must be in [0, 30]"),
        (("--dataset", "a/b"), 2, "cannot name a data set"),
        (("--model", "fake:third"), 1, "run `embedstore extract` with --model fake:third"),
        (("--name", "other"), 1, "unknown model 'other'"),
        (("--dataset", "cars"), 2, "cars is a data set of other images"),
        (("--dataset", "pets"), 2, "pets is a data set of other images"),
        (("--dataset", "flat"), 2, "flat is a data set of other images"),
        (("--budget", "linf=8"), 2, "linf=8/255"),
        (("--out", "pipe:cat"), 2, "must be a folder of this machine"),
        (("--out", "s3://bucket/out"), 2, "must be a folder of this machine"),
        (("--out", store / "zarr.json" / "out"), 2, "zarr.json is no folder that you may write to"),
        (("--towards", "text", "--target", "flat:test"), 1, "no prompts flat/plp"),
        (("--towards", "prototype", "--target", "flat:test"), 1, "flat/test has no labels"),
    ]:
        told = attack(store, out, *more)
        assert (told.exit_code, says in told.output) == (code, True), (more, told.output)
        assert "Loading" not in told.output, more
        assert not out.exists()
    assert attack(tmp_path / "none.zarr", out).exit_code == 2
    assert set(Store.open(store).datasets()) == {"cars", "flat", "pets"}


def test_another_attack_is_refused_the_folder_and_the_name(store: Path, tmp_path: Path) -> None:
    assert attack(store, tmp_path / "a").exit_code == 0
    told = attack(store, tmp_path / "a", "--seed", "4")
    assert (told.exit_code, "holds another attack: seed is 3 there, and 4 is asked for" in told.output) == (5, True)
    told = attack(store, tmp_path / "b", "--seed", "4", "--dataset", "cars-a")
    assert (told.exit_code, "the store holds cars-a/clean already" in told.output) == (2, True)
    assert not (tmp_path / "b").exists()
    assert attack(store, tmp_path / "b", "--seed", "4").exit_code == 0, "another folder is another name"
    told = attack(store, tmp_path / "b", "--seed", "4", "--dataset", "cars-a")
    assert (told.exit_code, "holds cars-a/float of another attack" in told.output) == (5, True)
    assert "Loading" not in told.output
    told = attack(store, tmp_path / "c", ood="cars-a:float")
    assert (told.exit_code, "has no images: it holds features that an attack made" in told.output) == (1, True)
    (tmp_path / "a" / "attack.json").write_text("{")
    told = attack(store, tmp_path / "a")
    assert (told.exit_code, "attack.json is damaged" in told.output) == (5, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not yours")
    told = attack(store, tmp_path / "mine")
    assert (told.exit_code, "holds no attack of ours" in told.output, "Loading" in told.output) == (2, True, False)


def test_names_follow_from_the_folder() -> None:
    for folder, name in [
        ("smooth", "cars-smooth"),
        ("cars-x", "cars-x"),
        ("carsharing", "cars-carsharing"),
        ("a b", "cars-a-b"),
    ]:
        assert default_name("cars", Path("there") / folder) == name


def test_a_name_that_is_no_spelling_is_told_from_an_unknown_model(pictures: Path, tmp_path: Path) -> None:
    for name in ("cars/test", "pets/train"):
        run("extract", pictures / name, "--store", tmp_path / "s", "--model", "fake", "--name", "mine", "-q")
    told = attack(tmp_path / "s", tmp_path / "out", "--model", "mine")
    assert told.exit_code == 1
    assert "a name does not say where the weights are: give --model as it was given to extract" in told.output
    assert attack(tmp_path / "s", tmp_path / "out", "--name", "mine").exit_code == 0


def test_a_key_with_a_line_break_is_no_line_of_targets(pictures: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(pictures, tmp_path / "here"))
    for path in (here / "pets/train").rglob("*.png"):
        path.rename(path.with_name(f"a\n{path.name}"))
    for name in ("cars/test", "pets/train"):
        run("extract", here / name, "--store", tmp_path / "s", "--model", "fake", "-q")
    told = attack(tmp_path / "s", tmp_path / "out")
    assert (told.exit_code, "note: no targets.txt, since the key" in told.output) == (0, True)
    assert not (tmp_path / "out" / "targets.txt").exists()
    assert "--without" not in told.output


def test_a_defended_model_cannot_be_attacked_but_judges(pictures: Path, store: Path, tmp_path: Path) -> None:
    for name in ("cars/test", "pets/train"):
        run("extract", pictures / name, "--store", store, "--model", "fake", "--defence", "blur:1", "-q")
    told = attack(store, tmp_path / "out", "--name", "fake+blur1")
    assert (told.exit_code, "the defence blur:1, which gradients do not pass" in told.output) == (1, True)
    assert attack(store, tmp_path / "out").exit_code == 0
    shards = (tmp_path / "out" / "adversarial", "--dataset", "cars-out", "--split", "adversarial")
    assert run("extract", *shards, "--store", store, "--model", "fake", "--defence", "blur:1", "-q").exit_code == 0
    opened = Store.open(store)
    plain, behind = (opened.images(name, "cars-out", "adversarial").embedded() for name in ("fake", "fake+blur1"))
    assert np.abs(plain - behind).max() > 0.01


def test_an_image_that_fails_is_named_and_the_others_go_on(pictures: Path, tmp_path: Path) -> None:
    here = Path(shutil.copytree(pictures, tmp_path / "here"))
    for name in ("cars/test", "pets/train"):
        run("extract", here / name, "--store", tmp_path / "s", "--model", "fake", "-q")
    broken = here / "cars/test/bus/2.png"
    broken.write_bytes(b"\0" * broken.stat().st_size)
    told = attack(tmp_path / "s", tmp_path / "out", "--json", num=10)
    assert told.exit_code == 3
    said = json.loads(told.stdout)
    assert (said["images"], said["failed"]) == (10, 1)
    (failure,) = said["failures"]
    assert (failure["key"], failure["reason"].partition(":")[0]) == ("bus/2.png", "decode")
    assert np.isfinite([said["l2"], said["linf"], said["psnr"], *said["similarity"].values()]).all()
    for split in ("clean", "adversarial", "float"):
        assert Store.open(tmp_path / "s").images("fake", "cars-out", split).ok.sum() == 9
    told = attack(tmp_path / "s", tmp_path / "out", num=10)
    assert (told.exit_code, "failed: 'bus/2.png': decode: " in told.output) == (3, True)


# What it prints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminal", "seconds", "lines"), [(True, 10, None), (False, -1, 3), (False, 10, 0)])
def test_progress_says_step_loss_and_similarity(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, seconds: float, lines: int | None
) -> None:
    monkeypatch.setattr(attacked, "_SECONDS_BETWEEN_LINES", seconds)
    to = Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False)
    with attacked.watching(to, "cars [1]") as progress:
        for _ in range(3):
            progress(Progress(done=8, total=20, step=30, steps=250, loss=-0.5, similarity=0.625))
    text = to.file.getvalue()  # type: ignore[attr-defined]
    said = "step 30 of 250, loss -0.5000, similarity 0.6250"
    if lines is None:
        assert (said in text, "8/20" in text, "cars [1]" in text) == (True, True, True)
    else:
        assert text.splitlines() == [f"cars [1]: 8 of 20 images, {said}"] * lines


def test_an_energy_is_called_one() -> None:
    to = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False)
    with attacked.watching(to, "cars", "energy") as progress:
        progress(Progress(done=8, total=20, step=30, steps=250, loss=-12.5, similarity=12.5))
    assert "loss -12.5000, energy 12.5000" in to.file.getvalue()  # type: ignore[attr-defined]


def test_what_was_found_done_has_no_loss() -> None:
    to = Console(file=io.StringIO(), force_terminal=True, width=120)
    with attacked.watching(to, "cars") as progress:
        progress(Progress(done=20, total=20, step=250, steps=250))
    text = to.file.getvalue()  # type: ignore[attr-defined]
    assert "20/20" in text
    assert "nan" not in text


def test_each_note_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    from embedstore.attack import Progress
    from embedstore.cli import console
    from embedstore.cli.attacked import watching

    with watching(console.human(), "attack") as show:
        for notes in ((), ("out of memory with 16",), ("out of memory with 16", "out of memory with 8")):
            show(Progress(1, 2, 1, 2, 0.1, 0.2, notes))
    assert capsys.readouterr().out.splitlines() == ["note: out of memory with 16", "note: out of memory with 8"]
