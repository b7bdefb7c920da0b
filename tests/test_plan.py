"""--dry-run: counts what a run would do, measures on real rows, and writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Command, png
from test_extract import contents, extract

from embedstore.encoders import load_encoder
from embedstore.errors import FingerprintMismatch
from embedstore.extract.plan import make_plan
from embedstore.sources import open_source
from embedstore.store import Store


def test_nothing_is_there_yet(pictures: Path, tmp_path: Path, command: Command) -> None:
    store = tmp_path / "s.zarr"
    words = ["extract", pictures / "tars/many.tar", "--store", store, "--model", "fake", "--block-rows", "7"]
    said = command(*words, "--dry-run", "--price-per-hour", "3600", "--json")
    assert said.returncode == 0, said.stderr
    assert not store.exists()
    (plan,) = json.loads(said.stdout)
    assert (plan["rows"], plan["blocks"], plan["rows_to_do"], plan["blocks_to_do"]) == (600, 86, 600, 86)
    assert plan["bytes_in"] == int(open_source(str(pictures / "tars/many.tar")).scan().length.sum())
    assert plan["bytes_out"] == 600 * (24 * 2 + 1)
    assert plan["seconds"] == pytest.approx(600 / plan["images_per_second"])
    assert re.search(
        r"600 rows in 86 blocks\n.*to do: 600 rows in 86 blocks\n.*read: .*images/s on 1 ", said.stderr, re.S
    )
    cost = float(re.search(r"costs ([\d.]+)", said.stderr)[1])  # type: ignore[index]
    assert cost == pytest.approx(plan["seconds"], abs=0.01), "at one a second"


def test_what_is_done_is_not_counted(pictures: Path, tmp_path: Path) -> None:
    source = pictures / "pets/train"
    extract(source, Store.create(tmp_path / "s.zarr"))  # 24 rows in blocks of 7
    (tmp_path / "s.zarr/models/fake/images/pets/train/status/c/1").unlink()
    (tmp_path / "s.zarr/models/fake/images/pets/train/status/c/3").unlink()
    before = contents(tmp_path / "s.zarr")
    plan = make_plan(Store.open(tmp_path / "s.zarr"), load_encoder("fake"), open_source(str(source)), block_rows=99)
    assert (plan.rows, plan.blocks, plan.blocks_to_do, plan.rows_to_do) == (24, 4, 2, 10)
    other = make_plan(
        Store.open(tmp_path / "s.zarr"), load_encoder("fake:mlp"), open_source(str(source)), block_rows=99
    )
    assert (other.blocks_to_do, other.bytes_out) == (4, 24 * ((24 + 12) * 2 + 1))
    assert contents(tmp_path / "s.zarr") == before


def test_nothing_to_do(pictures: Path, tmp_path: Path, command: Command) -> None:
    extract(pictures / "pets/train", Store.create(tmp_path / "s.zarr"))
    said = command("extract", pictures / "pets/train", "--store", tmp_path / "s.zarr", "--model", "fake", "--dry-run")
    assert said.returncode == 0, said.stderr
    assert "to do: 0 rows in 0 blocks" in said.stdout
    assert "images/s" not in said.stdout


def test_a_changed_source_is_refused_here_too(tmp_path: Path, pictures: Path) -> None:
    import numpy as np

    folder = tmp_path / "birds/test"
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"{n}.png").write_bytes(png(np.random.default_rng(n), 90))
    extract(folder, Store.create(tmp_path / "s.zarr"), block_rows=4)
    (folder / "9.png").write_bytes(png(np.random.default_rng(9), 90))
    store, encoder = Store.open(tmp_path / "s.zarr"), load_encoder("fake")
    with pytest.raises(FingerprintMismatch, match="1 image is new"):
        make_plan(store, encoder, open_source(str(folder)), block_rows=4)
    plan = make_plan(store, encoder, open_source(str(folder)), block_rows=4, extend=True)
    assert (plan.rows, plan.blocks, plan.blocks_to_do, plan.rows_to_do) == (6, 2, 1, 2)


def test_several_devices_are_taken_to_be_as_fast_each(pictures: Path) -> None:
    plan = make_plan(
        None, load_encoder("fake"), open_source(str(pictures / "pets/train")), block_rows=4, devices="cpu:2"
    )
    assert plan.processes == 2
    assert plan.cost(3.6) == pytest.approx(plan.seconds * 2 / 1000)  # type: ignore[operator]


def test_what_the_run_would_refuse_is_refused(pictures: Path, tmp_path: Path, command: Command) -> None:
    store, source = tmp_path / "s.zarr", pictures / "pets/train"
    (tmp_path / "a file").write_text("x")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder/x").write_text("x")
    extract(source, Store.create(store))
    words = ["extract", source, "--model", "fake", "--dry-run", "--store"]
    for location, code in ((tmp_path / "a file", 2), (tmp_path / "a folder", 2), (store, 0)):
        ended = command(*words, location)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
    assert command(*words, store, "--precision", "bf16").returncode == 5
    half = json.loads(command(*words, tmp_path / "new", "--share", "1/2", "--block-rows", "8", "--json").stdout)
    assert (half[0]["rows"], half[0]["rows_to_do"]) == (24, 8)


def test_a_retry_counts_the_blocks_of_failed_images(tmp_path: Path) -> None:
    import numpy as np

    folder = tmp_path / "birds/test"
    folder.mkdir(parents=True)
    for n in range(9):
        (folder / f"{n}.png").write_bytes(png(np.random.default_rng(n), 90) if n != 5 else b"no image")
    extract(folder, Store.create(tmp_path / "s.zarr"), block_rows=4)
    store, encoder = Store.open(tmp_path / "s.zarr"), load_encoder("fake")
    assert make_plan(store, encoder, open_source(str(folder)), block_rows=4).rows_to_do == 0
    assert make_plan(store, encoder, open_source(str(folder)), block_rows=4, retry_failed=True).rows_to_do == 4
