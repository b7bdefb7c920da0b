"""`verify --re-embed`: what no checksum sees, found by embedding some images again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command

from embedstore.cli import main
from embedstore.encoders import load_encoder
from embedstore.errors import FingerprintMismatch, NotAvailable
from embedstore.extract.reembed import embed_again
from embedstore.sources import open_source
from embedstore.store import Problem, Store


def run(*args: str | Path) -> None:
    main(args=[str(arg) for arg in args], standalone_mode=False)


@pytest.fixture
def fake(fake_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_store, tmp_path / "clip.zarr"))


def test_embedding_again_agrees_with_what_is_stored(fake: Path, pictures: Path, command: Command) -> None:
    args = ("verify", "--store", fake, "--re-embed", "100", "--model", "fake", "--source", pictures / "pets/train")
    told = command(*args, "--batch-size", "5")
    assert told.returncode == 0
    assert "24 images embedded again; smallest cosine 1.0000" in told.stdout
    assert "largest difference 0\n" in told.stdout
    told = command(*args, "--json")
    assert json.loads(told.stdout)["re_embedded"]["rows"] == 24


@pytest.mark.parametrize("model", ["fake", "fake:mlp"])
def test_swapped_features_are_found_by_embedding_again(pictures: Path, tmp_path: Path, model: str) -> None:
    place, folder = tmp_path / "s", pictures / "pets" / "train"
    run("extract", folder, "--store", place, "--model", model, "--block-rows", "6", "--limit", "18", "--quiet")
    name = model.replace(":", "-")
    array = place / f"models/{name}/images/pets/train" / ("projected" if "mlp" in model else "features")
    (array / "c/0/0").rename(array / "x")
    (array / "c/2/0").rename(array / "c/0/0")
    (array / "x").rename(array / "c/2/0")
    assert not list(Store.open(place).verify())
    steps: list[tuple[int, int]] = []
    store, encoder, source = Store.open(place), load_encoder(model), open_source(str(folder))
    found = embed_again(store, encoder, source, 18, progress=lambda *step: steps.append(step))
    assert {one.block for one in found.problems} <= {(0, 0, 6), (2, 12, 18)}
    assert len(found.problems) >= 10
    assert found.smallest_cosine < 0.999 < found.largest_difference + 1
    assert found.largest_difference > 0.1
    assert steps == [(1, 18)] * 18
    assert not any(one.mends for one in found.problems)
    assert embed_again(store, encoder, source, 4, seed=3) == embed_again(store, encoder, source, 4, seed=3)
    if "mlp" not in model:
        args = ("--model", model, "--source", folder, "--quiet")
        with pytest.raises(SystemExit, match="5"):
            main(["verify", "--store", str(place), "--re-embed", "18", *map(str, args)], standalone_mode=True)


def test_another_source_or_model_is_refused(fake: Path, pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures / "pets" / "train", tmp_path / "pets" / "train"))
    store, encoder = Store.open(fake), load_encoder("fake")
    with pytest.raises(FingerprintMismatch, match="pretrained"):
        embed_again(store, load_encoder("fake:other2", name="fake"), open_source(str(folder)), 3)
    (folder / "cat" / "3.png").write_bytes(b"other")
    with pytest.raises(FingerprintMismatch, match="cat/3"):
        embed_again(store, encoder, open_source(str(folder)), 3)
    (folder / "cat" / "3.png").unlink()
    with pytest.raises(FingerprintMismatch, match="missing now"):
        embed_again(store, encoder, open_source(str(folder)), 3)


def test_an_image_that_fails_now_is_a_problem_and_nothing_embedded_is_said(pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures / "pets" / "train", tmp_path / "pets" / "train"))
    run("extract", folder, "--store", tmp_path / "s", "--model", "fake", "--quiet")
    image = folder / "cat" / "3.png"
    image.write_bytes(bytes(image.stat().st_size))  # of the same size: the row list does not see it
    store, encoder = Store.open(tmp_path / "s"), load_encoder("fake")
    (problem,) = embed_again(store, encoder, open_source(str(folder)), 24).problems
    assert "'cat/3.png'" in problem.what
    assert "decode" in problem.what
    Store.open(tmp_path / "s", writable=True).forget_damaged([Problem(f"{problem.where}/x", "", (0, 0, 24), True)])
    with pytest.raises(NotAvailable, match="no image"):
        embed_again(store, encoder, open_source(str(folder)), 3)
