"""A store that was damaged, half-made by a killed process, or written by another version: said, never guessed at."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from golden_store import PROVENANCE, ROWS, build
from zarr.storage import MemoryStore

from embedstore.errors import StoreCorrupt, StoreNotFound, UsageError
from embedstore.records import Result, Rows, Shard
from embedstore.store import Store, layout, splits

MODEL = "Tiny/golden"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    build(tmp_path / "s")
    return tmp_path / "s"


@pytest.mark.parametrize(
    "node", ["", "datasets/pets/train", f"models/{MODEL}", f"models/{MODEL}/images/pets/train/features"]
)
def test_metadata_that_is_cut_off_is_named(place: Path, node: str) -> None:
    metadata = place / node / "zarr.json"
    metadata.write_text(metadata.read_text()[:20])
    with pytest.raises(StoreCorrupt, match=r"zarr\.json"):
        Store.open(place).images(MODEL, "pets", "train").embedded()


def test_features_that_vanished_under_a_done_status_are_not_taken_for_numbers(place: Path) -> None:
    (place / f"models/{MODEL}/images/pets/train/features/c/0/0").unlink()
    with pytest.raises(StoreCorrupt, match="missing in blocks that are marked done"):
        Store.open(place).images(MODEL, "pets", "train").embedded()


def test_labels_that_vanished_are_not_taken_for_unknown(place: Path) -> None:
    (place / "datasets/pets/train/label/c/1").unlink()
    with pytest.raises(StoreCorrupt, match=r"1 of 3 chunks of 'datasets/pets/train/label' are missing"):
        _ = Store.open(place).rows("pets", "train").labels


def test_a_location_that_cannot_hold_a_store(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "array", shape=(2,), dtype="i4")
    for attempt in (Store.open, Store.create):
        with pytest.raises(StoreNotFound, match="array"):
            attempt(tmp_path / "array")
        with pytest.raises(UsageError, match="cannot be opened as a store"):
            attempt("nowhere://bucket/x")


def test_class_names_can_be_learned_later_but_not_changed() -> None:
    store = Store.create(MemoryStore())
    store.add_rows("pets", "train", replace(ROWS, class_names=None))
    assert store.add_rows("pets", "train", ROWS).class_names == ("cat", "dog")
    assert store.add_rows("pets", "train", replace(ROWS, class_names=None)).class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["scores", "weights", "images", "texts"])
def test_a_data_set_may_be_called_like_a_node(name: str) -> None:
    store = Store.create(MemoryStore())
    store.add_rows(name, name, ROWS)
    store.add_result(Result(name if name == "scores" else "m", name, "knn", {}, {}, scores={f"a/{name}/b": np.ones(2)}))
    assert store.datasets() == {name: [name]}
    (result,) = store.results()
    assert (result.id_dataset, list(result.scores)) == (name, [f"a/{name}/b"])


def test_a_second_creator_keeps_what_the_first_has_written() -> None:
    """Two processes begin the same split: the one that looked first, and writes later, must wipe nothing."""
    memory = MemoryStore()
    store = Store.create(memory)
    split = store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_model(PROVENANCE, None)
    first = store.image_writer(MODEL, split)
    first.write(0, 2, np.ones(2, np.uint8), features=np.ones((2, 3)))
    node = f"models/{MODEL}/images/pets/train/zarr.json"
    committed = memory._store_dict.pop(node)  # as the second process saw it
    group = json.loads(committed.to_bytes()) | {"attributes": {}}
    memory._store_dict[node] = type(committed).from_bytes(json.dumps(group).encode())
    assert [block for block, _, _ in store.image_writer(MODEL, split).pending()] == [1, 2]


def test_a_second_creator_that_looked_before_the_first_wrote_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(MemoryStore())
    split = store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_model(PROVENANCE, None)
    there, looked = layout.node_at, []

    def overtaken(parent: zarr.Group, path: str) -> zarr.Group | zarr.Array | None:
        """What the second finds before it creates its first array; the first then does a whole block."""
        found = there(parent, path)
        if path == "features" and not looked:
            looked.append(path)
            store.image_writer(MODEL, split).write(0, 2, np.ones(2, np.uint8), features=np.ones((2, 3)))
        return found

    monkeypatch.setattr(layout, "node_at", overtaken)
    assert [block for block, _, _ in store.image_writer(MODEL, split).pending()] == [1, 2]
    assert looked
    assert store.images(MODEL, "pets", "train").features[:2].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_beginning_with_captions_that_was_killed_leaves_none(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    split = store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_model(PROVENANCE, None)
    store.image_writer(MODEL, split, captions=True)
    metadata = tmp_path / f"s/models/{MODEL}/images/pets/train/zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"attributes": {}}))
    assert store.image_writer(MODEL, split).columns == ["features"]
    assert store.image_writer(MODEL, split).columns == ["features"]


def test_prompts_that_are_half_written_are_absent(place: Path) -> None:
    metadata = place / f"models/{MODEL}/texts/pets/plp/zarr.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"attributes": {}}))
    assert Store.open(place).class_sets(MODEL) == {}


def test_a_field_of_a_newer_version_is_ignored(place: Path) -> None:
    """Its writer's fingerprint covers a field that we do not know; we compare what is stored, and compute nothing."""
    mark = "f" * 64
    for path, change in (
        (f"models/{MODEL}", {"fingerprint": mark}),
        (f"models/{MODEL}/images/pets/train", {"model": mark}),
    ):
        metadata = place / path / "zarr.json"
        content = json.loads(metadata.read_text())
        content["attributes"]["embedstore"] |= change
        content["attributes"]["embedstore"].get("provenance", {})["from_the_future"] = 1
        metadata.write_text(json.dumps(content))
    assert len(Store.open(place).images(MODEL, "pets", "train").embedded()) == 2


def test_embedding_again_with_other_libraries_makes_results_out_of_date(tmp_path: Path) -> None:
    marks = []
    for release in ("1", "2"):
        store = build(tmp_path / release)
        split = store.rows("pets", "train")
        provenance = replace(PROVENANCE, name="again", versions={"pillow": release})
        store.add_model(provenance, None)
        store.image_writer("again", split)
        marks.append(store.images("again", "pets", "train").fingerprint)
    assert marks[0] != marks[1]


def damaged(raw: bytes) -> bytes:
    return bytes([raw[0] ^ 1]) + raw[1:]


@pytest.mark.parametrize(
    "damage", [damaged, lambda raw: raw[:-1], lambda raw: b"", None], ids=["bit", "cut", "0", "gone"]
)
@pytest.mark.parametrize("column", ["key", "label", "shard", "offset", "length"])
def test_the_same_rows_mend_a_damaged_block_of_the_list(
    tmp_path: Path, column: str, damage: Callable[[bytes], bytes] | None
) -> None:
    store = Store.create(tmp_path / "s.zarr")
    store.add_rows("pets", "train", ROWS, block_rows=2)
    files = sorted(path for path in (tmp_path / "s.zarr").rglob("*") if path.is_file())
    whole = {path: path.read_bytes() for path in files}
    stamps = {path: path.stat().st_mtime_ns for path in files}
    chunk = tmp_path / "s.zarr" / "datasets" / "pets" / "train" / column / "c" / "1"
    if damage is None:
        chunk.unlink()
    else:
        chunk.write_bytes(damage(whole[chunk]))
    with pytest.raises(StoreCorrupt, match=r"damaged|missing"):
        store.rows("pets", "train").row_list()
    stored = store.add_rows("pets", "train", ROWS, block_rows=2)
    assert stored.row_list().same(ROWS)
    assert {path: path.read_bytes() for path in files} == whole
    touched = {path for path in files if path.stat().st_mtime_ns != stamps[path]}
    others = {path for path in touched if path.name != "1" and damage is not None}
    assert not others, "only what was damaged is written again"


@pytest.mark.parametrize("column", ["key", "label", "shard", "offset", "length"])
def test_other_rows_in_a_block_of_the_list_are_mended_too(tmp_path: Path, column: str) -> None:
    """Of a process that listed the source in another state; every checksum is right."""
    store = Store.create(tmp_path / "s.zarr")
    store.add_rows("pets", "train", ROWS, block_rows=2)
    array = zarr.open_group(tmp_path / "s.zarr")[f"datasets/pets/train/{column}"]
    array[2:4] = array[0:2] if column == "key" else np.asarray(array[2:4]) + 1
    assert not store.rows("pets", "train").part(0, 5).same(ROWS)
    assert store.add_rows("pets", "train", ROWS, block_rows=2).row_list().same(ROWS)


def test_the_last_block_is_mended_where_a_killed_extension_left_the_arrays_longer(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.zarr")
    store.add_rows("pets", "train", ROWS, block_rows=2)
    group = zarr.open_group(tmp_path / "s.zarr")
    for column in ("key", "label", "shard", "offset", "length"):
        group[f"datasets/pets/train/{column}"].resize((9,))
        chunk = tmp_path / "s.zarr" / "datasets" / "pets" / "train" / column / "c" / "2"
        chunk.write_bytes(damaged(chunk.read_bytes()))
    assert store.add_rows("pets", "train", ROWS, block_rows=2).row_list().same(ROWS)


def test_blocks_of_the_list_are_compared_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a network each read waits for its answer; Zarr asks for what it is told at once."""
    store = Store.create(tmp_path / "s.zarr")
    many = Rows(
        [f"{n:03}" for n in range(300)], *(np.arange(300) - 1 for _ in range(4)), (Shard("a.tar", 1),) * 299, None, "x"
    )
    monkeypatch.setattr(splits, "_ROWS_AT_ONCE", 128)
    store.add_rows("pets", "train", many, block_rows=2)
    reads: list[int] = []
    read = layout.read

    def counted(array: Any, selection: slice = slice(None)) -> Any:
        reads.append(1)
        return read(array, selection)

    monkeypatch.setattr(layout, "read", counted)
    store.add_rows("pets", "train", many, block_rows=2)
    assert len(reads) == 5 * 3, "five columns of 150 blocks, 64 at a time"


@pytest.mark.parametrize("extended", [False, True])
def test_a_list_that_another_process_writes_at_the_same_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extended: bool
) -> None:
    """It listed the source in another state: what is declared is not what is there."""
    store = Store.create(tmp_path / "s.zarr")
    if extended:
        store.add_rows("pets", "train", ROWS.part(0, 3), block_rows=2)
    commit, other = layout.commit, replace(ROWS, labels=ROWS.labels + 1)

    def late(group: Any, *args: Any, **more: Any) -> Any:
        made = commit(group, *args, **more)
        if "block_rows" in more:
            group["label"][:] = other.labels
        return made

    monkeypatch.setattr(layout, "commit", late)
    with pytest.raises(StoreCorrupt, match=r"listed by two processes at once while the source was changing\. Run"):
        store.add_rows("pets", "train", ROWS, block_rows=2, extend=True)
    monkeypatch.undo()
    assert store.add_rows("pets", "train", ROWS, block_rows=2).row_list().same(ROWS), "and mended by whoever comes next"
