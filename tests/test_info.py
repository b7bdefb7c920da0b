"""`embedstore info`: what a store holds, and every image that failed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import Command, write_folder
from golden_store import HOME, PROVENANCE, ROWS, build

from embedstore.cli import main
from embedstore.store import Store


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """Two images of six cannot be decoded; one of their names would delete lines from a terminal."""
    write_folder(tmp_path / "pets", ["cat", "dog"], 3, seed=0)
    (tmp_path / "pets/cat/1.png").write_bytes(b"no image")
    (tmp_path / "pets/dog/[red]\x1b[2K\n.png").write_bytes(b"no image either")
    store = tmp_path / "s.zarr"
    code = invoke(
        "extract", tmp_path / "pets", "--store", store, "--model", "fake", "--block-rows", "2", "-q"
    ).exit_code
    assert code == 3
    return store


def test_a_store_at_a_glance(fake_store: Path) -> None:
    shown = invoke("info", "--store", fake_store)
    assert shown.exit_code == 0
    weights = Store.open(fake_store).provenance("fake").weights_sha256[:12]
    for text in ("architecture fake · pretrained default · fp32", "image size [16, 16]", weights, "24 → 12", "numpy "):
        assert text in shown.stdout
    assert "prompts of pets: plp" in shown.stdout
    (line,) = [line for line in shown.stdout.splitlines() if "fake-other" in line and "cars" in line]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == [
        "fake-other",
        "cars",
        "test",
        "10",
        "10",
        "0",
        "0",
        "100.0 %",
        "float16",
        "features 24",
        "–",
        "490 B",
    ]


def test_as_json_and_only_what_is_asked_for(fake_store: Path) -> None:
    told = json.loads(invoke("info", "--store", fake_store, "--json").stdout)
    assert [made["name"] for made in told["models"]] == ["fake", "fake-other"]
    assert told["models"][0]["templates"] == {"cars": ["plp"], "pets": ["plp"]}
    assert len(told["images"]) == 8
    one = json.loads(
        invoke(
            "info", "--store", fake_store, "--model", "fake:other", "--dataset", "pets", "--split", "test", "--json"
        ).stdout
    )
    (images,) = one["images"]
    assert {key: images[key] for key in ("model", "dataset", "split", "rows", "ok", "failed", "pending", "done")} == {
        "model": "fake-other",
        "dataset": "pets",
        "split": "test",
        "rows": 18,
        "ok": 18,
        "failed": 0,
        "pending": 0,
        "done": 1.0,
    }
    assert images["widths"] == {"features": 24}
    assert (images["captions"], images["extended"], images["block_rows"]) == (False, 0, 8)
    arrays = Store.open(fake_store).images("fake-other", "pets", "test")
    assert images["bytes"] == arrays.features.nbytes + arrays.status.nbytes


def test_the_golden_store_is_not_finished() -> None:
    (images,) = json.loads(invoke("info", "--store", HOME, "--json").stdout)["images"]
    assert (images["ok"], images["failed"], images["pending"], images["done"]) == (2, 1, 2, 0.6)
    assert images["widths"] == {"features": 3, "captions": 2}
    assert "60.0 %" in invoke("info", "--store", HOME).stdout


def test_nearly_done_is_not_done(tmp_path: Path) -> None:
    many = 4000
    rows = replace(
        ROWS,
        keys=[str(number) for number in range(many)],
        **{name: np.zeros(many, np.int32) for name in ("labels", "shard")},
        **{name: np.zeros(many, np.int64) for name in ("offset", "length")},
    )
    store = Store.create(tmp_path / "s")
    split = store.add_rows("pets", "train", rows, block_rows=1999)
    store.add_model(PROVENANCE, np.zeros((3, 2), np.float32))
    writer = store.image_writer(PROVENANCE.name, split)
    for start, stop in ((0, 1999), (1999, 3998)):
        writer.write(start, stop, np.ones(stop - start, np.uint8), features=np.ones((stop - start, 3)))
    assert "99.9 %" in invoke("info", "--store", tmp_path / "s").stdout


def test_an_extended_split_says_so(failing: Path) -> None:
    folder = failing.parent / "pets"
    shutil.copy(folder / "dog/0.png", folder / "dog/9.png")
    assert invoke("extract", folder, "--store", failing, "--model", "fake", "--extend", "-q").exit_code == 3
    assert "1×" in invoke("info", "--store", failing).stdout
    assert json.loads(invoke("info", "--store", failing, "--json").stdout)["images"][0]["extended"] == 1


def test_failures_are_printed_harmlessly(failing: Path, command: Command) -> None:
    told = command("info", "--store", failing, "--failures")
    assert told.returncode == 0
    first, second = told.stdout.splitlines()
    assert first.startswith("pets/test · fake: 'cat/1.png' at byte 0: decode: ")
    assert r"'dog/[red]\x1b[2K\n.png'" in second
    assert all(letter.isprintable() for line in (first, second) for letter in line)


def test_failures_as_json_lines(failing: Path) -> None:
    lines = [
        json.loads(line) for line in invoke("info", "--store", failing, "--failures", "--json").stdout.splitlines()
    ]
    assert [line["key"] for line in lines] == ["cat/1.png", "dog/[red]\x1b[2K\n.png"]
    assert list(lines[0]) == ["model", "dataset", "split", "row", "key", "shard", "offset", "stage", "reason"]
    assert (lines[0]["row"], lines[0]["stage"], lines[0]["shard"]) == (1, "decode", None)


def test_a_failure_in_a_shard_says_where(tmp_path: Path) -> None:
    build(tmp_path / "s")
    shown = invoke("info", "--store", tmp_path / "s", "--failures").stdout
    assert shown == "pets/train · Tiny/golden: 'a/1' in 'train-0.tar' at byte 2,048: decode: not an image\n"


def test_what_a_store_says_of_itself_is_printed_harmlessly(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add_model(replace(PROVENANCE, architecture="[bold]x\x1b[2J", versions={"[red]": "\n"}), None)
    shown = invoke("info", "--store", tmp_path / "s").stdout
    assert "\x1b" not in shown
    assert "[bold]x\\x1b[2J" in shown
    assert "[red] \\n" in shown


def test_one_block_of_keys_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of failures are streamed."""
    from embedstore.store import layout

    store = Store.create(tmp_path / "s")
    split = store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_model(PROVENANCE, np.zeros((3, 2), np.float32))
    writer = store.image_writer(PROVENANCE.name, split)
    for _, start, stop in split.blocks():
        reasons = dict.fromkeys(range(stop - start), "read: gone")
        nothing = np.full((stop - start, 3), np.nan)
        writer.write(start, stop, np.full(stop - start, 2, np.uint8), reasons=reasons, features=nothing)
    images, sizes, read = store.images(PROVENANCE.name, "pets", "train"), [], layout.read
    assert len(images.status) == 5

    def watched(array: object, selection: slice = slice(None)) -> object:
        values = read(array, selection)
        sizes.append(len(values))
        return values

    monkeypatch.setattr(layout, "read", watched)
    found = list(images.failures())
    assert [failure.key for failure in found] == ROWS.keys
    assert max(sizes) == 2
    assert len(sizes) == 3 * 6, "each block once: reasons, and the five columns of the row list"


@pytest.mark.parametrize("args", [("--model", "fake:none"), ("--dataset", "none"), ("--split", "none")])
def test_names_that_nobody_knows(fake_store: Path, args: tuple[str, ...]) -> None:
    told = invoke("info", "--store", fake_store, *args)
    assert told.exit_code == 2
    assert "unknown" in told.stderr


def test_ls_stays_as_it_was(fake_store: Path) -> None:
    (cars, *_) = json.loads(invoke("ls", "--store", fake_store, "--json").stdout)
    all_ok = {"ok": 10, "failed": 0, "pending": 0}
    models = {"fake": all_ok, "fake-other": all_ok}
    assert cars == {"dataset": "cars", "split": "test", "rows": 10, "classes": 2, "models": models}


def test_an_extension_that_was_stopped_is_said_and_the_others_are_listed(fake_store: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(fake_store, tmp_path / "s.zarr"))
    split = Store.open(store).rows("pets", "train")
    rows = split.row_list()
    more = {
        name: np.append(getattr(rows, name), getattr(rows, name)[:1])
        for name in ("labels", "shard", "offset", "length")
    }
    node = store / "models/fake/images/pets/train/zarr.json"
    before = node.read_bytes()
    Store.create(store).add_rows("pets", "train", replace(rows, keys=[*rows.keys, "new"], **more), extend=True)
    node.write_bytes(before)
    shown = invoke("ls", "--store", store)
    assert shown.exit_code == 0
    assert (
        "note: pets/train was being extended when that was stopped; run the same `embedstore extract` again"
        in shown.stdout
    )
    assert len(json.loads(invoke("ls", "--store", store, "--json").stdout)) == 4


def test_an_empty_store_is_said_to_be_empty(tmp_path: Path) -> None:
    Store.create(tmp_path / "s.zarr")
    shown = invoke("ls", "--store", tmp_path / "s.zarr")
    assert (shown.exit_code, shown.stdout) == (0, "Nothing has been extracted into this store yet.\n")
