"""A data set that grew: refused by name, or appended with --extend, and then as if it had been listed so at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import png, write_tar
from golden_store import ROWS
from hypothesis import given
from hypothesis import strategies as st
from test_extract import contents
from zarr.storage import MemoryStore

from embedstore.encoders import load_encoder
from embedstore.errors import FingerprintMismatch, SourceError, StoreCorrupt
from embedstore.extract import Outcome, embed_images, list_rows
from embedstore.records import Rows, Shard
from embedstore.sources import open_source
from embedstore.store import Split, Store


def embed(source: Path | str, store: Store, models: tuple[str, ...] = ("fake",), **options: Any) -> list[Outcome]:
    opened, outcomes = open_source(str(source)), []
    split = list_rows(store, opened, block_rows=4, **options)
    retry = options.get("retry_failed", False)
    for name in models:
        encoder = load_encoder(name)
        store.add_model(encoder.provenance, encoder.projection)
        outcomes.append(embed_images(store, encoder, opened, split, batch_size=3, workers=0, retry_failed=retry))
    return outcomes


def pictures(root: Path, names: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(png(rng, 100))


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Path]:
    """A store of ten images, two blocks and a half, by two models; and its folder, which now has six more."""
    folder = tmp_path / "birds/test"
    pictures(folder, [f"b{n}.png" for n in range(10)], 0)
    embed(folder, Store.create(tmp_path / "s.zarr"), ("fake", "fake:mlp"))
    pictures(folder, ["a0.png", "b55.png", *(f"c{n}.png" for n in range(4))], 1)
    return folder, tmp_path / "s.zarr"


def test_new_files_are_refused_by_name(grown: tuple[Path, Path]) -> None:
    folder, store = grown
    before = contents(store)
    with pytest.raises(FingerprintMismatch, match=r"6 images are new: 'a0.png', 'b55.png', 'c0.png' …\. .*--extend"):
        embed(folder, Store.create(store))
    assert contents(store) == before


def test_missing_and_changed_files_are_refused_even_with_extend(grown: tuple[Path, Path]) -> None:
    folder, store = grown
    before = contents(store)
    (folder / "b3.png").rename(folder / "z3.png")
    with pytest.raises(FingerprintMismatch, match=r"1 of 10 images are missing now: 'b3\.png'\. "):
        embed(folder, Store.create(store), extend=True)
    (folder / "z3.png").rename(folder / "b3.png")
    with (folder / "b4.png").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FingerprintMismatch, match=r"the length of 'b4\.png' was \d+, and is \d+ now"):
        embed(folder, Store.create(store), extend=True)
    assert contents(store) == before


def test_extended_equals_listed_so_at_once(grown: tuple[Path, Path], tmp_path: Path) -> None:
    folder, location = grown
    chunks = location / "models/fake/images/birds/test"
    untouched = [chunks / f"{name}/c/{n}" for name in ("features", "status") for n in (0, 1)]
    times = [path.stat().st_mtime_ns for path in untouched]
    outcomes = embed(folder, Store.create(location), extend=True)
    # The third block was short: it is completed, and that embeds its two old rows again.
    assert [(one.rows, one.ok, one.embedded) for one in outcomes] == [(16, 16, 8)]
    assert [path.stat().st_mtime_ns for path in untouched] == times
    store = Store.open(location)
    keys = list(store.images("fake", "birds", "test").keys)
    assert keys == [f"b{n}.png" for n in range(10)] + ["a0.png", "b55.png", "c0.png", "c1.png", "c2.png", "c3.png"]
    other = store.images("fake-mlp", "birds", "test")
    assert (other.status == 1).tolist() == [True] * 10 + [False] * 6, (
        "a model that was not run has the new rows pending"
    )
    assert embed(folder, Store.create(location), ("fake", "fake:mlp"))[1].embedded == 8, "and needs no --extend"

    at_once = Store.create(tmp_path / "once.zarr")
    opened = open_source(str(folder))
    ordered = taken(opened.scan(), keys)
    opened.scan = lambda limit=None: ordered  # type: ignore[method-assign]
    for name in ("fake", "fake:mlp"):
        encoder = load_encoder(name)
        at_once.add_model(encoder.provenance, encoder.projection)
        split = list_rows(at_once, opened, block_rows=4)
        embed_images(at_once, encoder, opened, split, batch_size=3, workers=0)
    extended, once = contents(location), contents(tmp_path / "once.zarr")
    rows = json.loads(extended["datasets/birds/test/zarr.json"])
    assert len(rows["attributes"]["embedstore"].pop("earlier")) == 1
    assert rows == json.loads(once.pop("datasets/birds/test/zarr.json"))
    del extended["datasets/birds/test/zarr.json"]
    assert extended == once


def taken(rows: Rows, keys: list[str]) -> Rows:
    order = [list(rows.keys).index(key) for key in keys]
    columns = {name: getattr(rows, name)[order] for name in ("labels", "shard", "offset", "length")}
    return replace(rows.part(0, None), keys=keys, **columns)


def test_a_shard_that_sorts_in_between_is_appended(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shard in ("0", "2"):
        write_tar(tmp_path / f"birds/test-{shard}.tar", [(f"{shard}{n}", {"png": png(rng, 90)}) for n in range(3)])
    store = Store.create(tmp_path / "s.zarr")
    embed(tmp_path / "birds", store)
    write_tar(tmp_path / "birds/test-1.tar", [(f"1{n}", {"png": png(rng, 90)}) for n in range(3)])
    with pytest.raises(FingerprintMismatch, match="3 images are new"):
        embed(tmp_path / "birds", store)
    assert embed(tmp_path / "birds", store, extend=True)[0].ok == 9
    assert embed(tmp_path / "birds", store)[0].embedded == 0, "the same source, resumed"
    images = store.images("fake", "birds", "test")
    assert "".join(key[0] for key in images.keys) == "000222111"
    embed(tmp_path / "birds", fresh := Store.create(MemoryStore()))
    again = fresh.images("fake", "birds", "test")
    order = [list(again.keys).index(key) for key in images.keys]
    np.testing.assert_array_equal(images.features[:], again.features[:][order])


def test_extended_twice_and_stopped_half_way(grown: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, location = grown
    embed(folder, Store.create(location), extend=True)
    pictures(folder, ["d.png"], 2)
    from embedstore.store import images

    class Stopped(Exception):
        pass

    def stop(root: Any, model: str, rows: Split) -> None:
        if len(rows) > 16:
            raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(images, "lengthen", stop)
        with pytest.raises(Stopped):
            embed(folder, Store.create(location), extend=True)
    with pytest.raises(StoreCorrupt, match=r"birds/test was being extended when that was stopped; run the same"):
        Store.open(location).images("fake", "birds", "test")
    (outcome,) = embed(folder, Store.create(location))
    assert (outcome.rows, outcome.ok) == (17, 17)
    assert len(Store.open(location).rows("birds", "test").earlier) == 2
    assert (Store.open(location).images("fake-mlp", "birds", "test").status == 0).sum() == 7


def test_a_limit_can_be_lifted(grown: tuple[Path, Path]) -> None:
    folder, _ = grown
    store = Store.create(MemoryStore())
    embed(folder, store, limit=5)
    assert embed(folder, store, extend=True)[0].ok == 16


@given(st.permutations(range(5)), st.integers(0, 5))
def test_rows_in_any_order_are_the_same_rows(order: list[int], cut: int) -> None:
    """Whatever was stored first, and in whatever order the rest comes: each row keeps its number and its place."""
    store = Store.create(MemoryStore())
    first = sorted(order[:cut]) or [0]
    store.add_rows("pets", "train", taken(ROWS, [ROWS.keys[row] for row in first]), block_rows=2)
    shuffled = taken(ROWS, [ROWS.keys[row] for row in order])
    # The shards, too, are listed the other way round.
    turned = np.where(shuffled.shard < 0, -1, len(ROWS.shards) - 1 - shuffled.shard).astype(np.int32)
    split = store.add_rows("pets", "train", replace(shuffled, shards=ROWS.shards[::-1], shard=turned), extend=True)
    rows = split.row_list()
    assert rows.keys[: len(first)] == [ROWS.keys[row] for row in first]
    assert sorted(rows.keys) == sorted(ROWS.keys)
    for row, key in enumerate(rows.keys):
        was = list(ROWS.keys).index(key)
        assert (rows.labels[row], rows.offset[row], rows.length[row]) == (
            ROWS.labels[was],
            ROWS.offset[was],
            ROWS.length[was],
        )
        assert place(rows, row) == place(ROWS, was)


def place(rows: Rows, row: int) -> Shard | None:
    return rows.shards[rows.shard[row]] if rows.shard[row] >= 0 else None


def test_shards_of_one_name_cannot_be_told_apart() -> None:
    store, twice = Store.create(MemoryStore()), (Shard("a.tar", 9), Shard("a.tar", 8))
    store.add_rows("pets", "train", replace(ROWS, shards=twice))
    with pytest.raises(FingerprintMismatch, match="several shards have the same name"):
        store.add_rows("pets", "train", replace(ROWS, shards=twice, labels=ROWS.labels + 1))


def test_a_copied_store_is_untouched_by_a_refused_extension(grown: tuple[Path, Path], tmp_path: Path) -> None:
    folder, location = grown
    shutil.copytree(location, tmp_path / "copy")
    (folder / "b0.png").unlink()
    with pytest.raises(FingerprintMismatch):
        embed(folder, Store.create(tmp_path / "copy"), extend=True)
    assert contents(tmp_path / "copy") == contents(location)


def test_a_mended_image_is_taken_with_retry_failed_if_no_model_has_embedded_it(tmp_path: Path) -> None:
    folder, location = tmp_path / "birds/test", tmp_path / "s.zarr"
    pictures(folder, [f"b{n}.png" for n in range(9)], 0)
    good = (folder / "b5.png").read_bytes()
    (folder / "b5.png").write_bytes(good[:50])
    (folder / "b6.png").rename(tmp_path / "away.png")
    (folder / "b6.png").symlink_to(tmp_path / "nowhere.png")
    assert embed(folder, Store.create(location), ("fake", "fake:mlp"))[0].failed == 2
    (folder / "b5.png").write_bytes(good)
    (tmp_path / "away.png").rename(tmp_path / "nowhere.png")
    with pytest.raises(
        FingerprintMismatch,
        match=r"the length of 'b5\.png' was 50, and is \d+ now \(and so for 1 more\)\. If it was mended, --retry",
    ):
        embed(folder, Store.create(location))
    (outcome,) = embed(folder, Store.create(location), retry_failed=True)
    assert (outcome.ok, outcome.embedded) == (9, 4)
    assert embed(folder, Store.create(location), ("fake:mlp",), retry_failed=True)[0].ok == 9
    assert list(Store.open(location).verify()) == []
    whole = tmp_path / "whole.zarr"
    embed(folder, Store.create(whole), ("fake", "fake:mlp"))
    got, expected = contents(location), contents(whole)
    rows = json.loads(got.pop("datasets/birds/test/zarr.json"))
    assert len(rows["attributes"]["embedstore"].pop("earlier")) == 1
    assert rows == json.loads(expected.pop("datasets/birds/test/zarr.json"))
    assert got == expected

    with (folder / "b7.png").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FingerprintMismatch, match=r"the length of 'b7\.png' was"):
        embed(folder, Store.create(location), retry_failed=True)


def test_a_shorter_listing_is_said_to_be_one(grown: tuple[Path, Path]) -> None:
    folder, location = grown
    embed(folder, Store.create(location), extend=True)
    store = Store.create(location)
    rows = store.rows("birds", "test").row_list()
    with pytest.raises(FingerprintMismatch, match=r"16 were listed, and now only the first 5 .*--limit"):
        store.add_rows("birds", "test", taken(rows, list(rows.keys[:5])))


def test_an_extension_that_was_killed_and_shrank_is_finished(grown: tuple[Path, Path], tmp_path: Path) -> None:
    """Its arrays were made longer already; some of the new files are gone again."""
    folder, location = grown
    committed = (location / "datasets/birds/test/zarr.json").read_bytes()
    shutil.copytree(location / "models", tmp_path / "models")
    Store.create(location).add_rows("birds", "test", open_source(str(folder)).scan(), extend=True)
    # As a kill leaves it right before the longer list is declared: its arrays are longer, and nobody knows of it.
    (location / "datasets/birds/test/zarr.json").write_bytes(committed)
    shutil.rmtree(location / "models")
    shutil.copytree(tmp_path / "models", location / "models")
    (folder / "c3.png").unlink()
    (outcome,) = embed(folder, Store.create(location), extend=True)
    assert (outcome.rows, outcome.ok) == (15, 15)


def test_rows_before_the_new_ones_are_not_written_again(grown: tuple[Path, Path]) -> None:
    folder, location = grown
    kept = [location / f"datasets/birds/test/{name}/c/{n}" for name in ("key", "label", "length") for n in (0, 1)]
    times = [path.stat().st_mtime_ns for path in kept]
    embed(folder, Store.create(location), extend=True)
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_a_run_that_is_overtaken_by_an_extension_writes_nothing_over_it(grown: tuple[Path, Path]) -> None:
    folder, location = grown
    store = Store.create(location)
    stale = store.image_writer("fake", store.rows("birds", "test"))
    embed(folder, Store.create(location), extend=True)
    before = contents(location)
    with pytest.raises(FingerprintMismatch, match="was extended while this run was at it"):
        stale.write(8, 10, np.ones(2, np.uint8), features=np.ones((2, 24)))
    assert contents(location) == before


def test_after_an_extension_a_failure_counts_once(tmp_path: Path) -> None:
    folder, store = tmp_path / "birds/test", Store.create(MemoryStore())
    pictures(folder, [f"b{n}.png" for n in range(5)], 0)
    (folder / "b4.png").write_bytes(b"no image")
    embed(folder, store)
    pictures(folder, ["c0.png"], 1)
    split = list_rows(store, open_source(str(folder)), extend=True)
    outcome = embed_images(
        store, load_encoder("fake"), open_source(str(folder)), split, workers=0, max_failures=1, batch_size=3
    )
    assert (outcome.ok, outcome.failed, outcome.pending) == (5, 1, 0)


def test_retrying_forgets_no_block_before_it_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, location = tmp_path / "birds/test", tmp_path / "s.zarr"
    pictures(folder, [f"b{n}.png" for n in range(6)], 0)
    (folder / "b1.png").write_bytes(b"no image")
    embed(folder, Store.create(location))
    before = contents(location)
    opened, encoder = open_source(str(folder)), load_encoder("fake")
    store = Store.create(location)
    split = list_rows(store, opened, retry_failed=True)

    def away(*args: Any) -> Any:
        raise SourceError("the disk is away")

    monkeypatch.setattr(type(opened), "read", away)
    with pytest.raises(SourceError, match="the disk is away"):
        embed_images(store, encoder, opened, split, workers=0, retry_failed=True)
    assert contents(location) == before


def test_a_share_retries_its_own_blocks_only(tmp_path: Path) -> None:
    folder, store = tmp_path / "birds/test", Store.create(MemoryStore())
    pictures(folder, [f"b{n}.png" for n in range(8)], 0)
    for name in ("b1.png", "b6.png"):
        (folder / name).write_bytes(b"no image")
    embed(folder, store)
    split = list_rows(store, open_source(str(folder)))
    source, encoder = open_source(str(folder)), load_encoder("fake")
    outcome = embed_images(store, encoder, source, split, workers=0, retry_failed=True, share=(1, 2))
    assert (outcome.tried, outcome.failed, [failure.row for failure in outcome.failures]) == (4, 2, [6])
