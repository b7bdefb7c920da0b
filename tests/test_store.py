"""Laws of the store: what goes in comes out, half-written is absent, and nothing else can pass for the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_store import PROVENANCE, ROWS, build
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from zarr.storage import LocalStore, MemoryStore

from embedstore.errors import (
    FingerprintMismatch,
    NotAvailable,
    StoreCorrupt,
    StoreError,
    StoreNotFound,
    UnknownName,
    UsageError,
)
from embedstore.records import Provenance, Result, Rows
from embedstore.store import Store
from embedstore.store.texts import ensemble


def numbered(n: int) -> Rows:
    index = np.arange(n)
    return Rows(
        keys=[f"key {i}" for i in index],
        labels=(index % 3).astype(np.int32),
        shard=np.full(n, -1, dtype=np.int32),
        offset=np.zeros(n, dtype=np.int64),
        length=index.astype(np.int64),
        shards=(),
        class_names=None,
        source="numbers",
    )


class Recording(MemoryStore):
    """A store in memory that remembers the order of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    async def set(self, key: str, value: Any, byte_range: tuple[int, int] | None = None) -> None:
        self.written.append(key)
        await super().set(key, value, byte_range)


class Killed(Exception):
    """The process died (an exception, since Zarr's event loop runs in a thread of its own)."""


class Dying(LocalStore):
    """A store on disk that dies at its n-th write, as a killed process would."""

    writes_left = 0

    async def set(self, key: str, value: Any) -> None:
        if self.writes_left == 0:
            raise Killed
        self.writes_left -= 1
        await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        if not await self.exists(key):
            await self.set(key, value)


@given(
    values=arrays.arrays(np.float16, st.tuples(st.integers(0, 9), st.just(3)), elements=st.floats(width=16)),
    block_rows=st.integers(1, 10),
)
def test_features_come_back_bit_for_bit(values: np.ndarray, block_rows: int) -> None:
    store = Store.create(MemoryStore())
    split = store.add_rows("d", "test", numbered(len(values)), block_rows=block_rows)
    store.add_model(PROVENANCE, None)
    writer = store.image_writer("Tiny/golden", split)
    for _, start, stop in writer.pending():
        writer.write(start, stop, np.ones(stop - start, np.uint8), features=values[start:stop])
    images = store.images("Tiny/golden", "d", "test")
    assert images.features[:].tobytes() == values.tobytes()
    assert writer.pending() == []
    assert images.ok.all()


@given(keys=st.lists(st.text(st.characters(codec="utf-8"), max_size=6), unique=True, max_size=8))
def test_keys_come_back_in_order(keys: list[str]) -> None:
    store = Store.create(MemoryStore())
    rows = replace(numbered(len(keys)), keys=keys)
    assert list(store.add_rows("d", "test", rows, block_rows=3).keys) == keys


def test_a_name_that_is_not_utf8_is_refused() -> None:
    bad = b"caf\xe9".decode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match=r"not UTF-8, .*udce9"):
        Store.create(MemoryStore()).add_rows("d", "test", replace(numbered(1), keys=[bad]))


def test_the_status_chunk_is_the_last_write_of_a_block() -> None:
    memory = Recording()
    build(memory)
    blocks = [key for key in memory.written if "/images/" in key and "/c/" in key]
    images = "models/Tiny/golden/images/pets/train"
    names = ["features/c/0/0", "captions/c/0/0", "failure/c/0", "status/c/0"]
    assert blocks[:4] == [f"{images}/{name}" for name in names]
    assert blocks[-1] == f"{images}/status/c/2"


def test_a_store_killed_at_any_write_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Everything the golden store holds, killed at every single write and built again on top."""
    build(tmp_path / "whole")

    def contents(root: Path) -> dict[str, bytes]:
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    whole, finished, n = contents(tmp_path / "whole"), False, 0
    while not finished:
        dying = Dying(tmp_path / f"killed-{n}")
        dying.writes_left = n
        try:
            build(dying)
            finished = True
        except Killed:
            build(LocalStore(tmp_path / f"killed-{n}"))
        assert contents(tmp_path / f"killed-{n}") == whole, f"killed at write {n}"
        n += 1
    assert n > 60


class LateParents(Recording):
    """Writes what is to be written only if it is absent, which is how Zarr makes the groups around a node, late."""

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        await asyncio.sleep(0.005)
        if not await self.exists(key):
            await self.set(key, value)


def test_no_node_is_written_before_the_groups_around_it() -> None:
    """Else a writer killed in between leaves a node that no listing reaches."""
    memory = LateParents()
    build(memory)
    nodes = [key.removesuffix("zarr.json").rstrip("/") for key in memory.written if key.endswith("zarr.json")]
    assert "models/Tiny/golden/texts/pets/plp" in nodes
    for node in nodes:
        around = node.rpartition("/")[0]
        begun_anew = "/scores" in node or "/weights" in node  # a half-written result is removed as a whole
        assert begun_anew or nodes.index(around) <= nodes.index(node), f"{node} before {around!r}"


def test_half_written_is_absent(tmp_path: Path) -> None:
    dying = Dying(tmp_path / "store")
    dying.writes_left = 12
    with pytest.raises(Killed):
        build(dying)
    store = Store.open(tmp_path / "store")
    assert store.datasets() == {}
    assert store.models() == []
    assert list(store.results()) == []


def test_other_rows_under_the_same_name_are_refused() -> None:
    store = Store.create(MemoryStore())
    store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_rows("pets", "train", ROWS, block_rows=99)  # the same again: its own block length stays
    assert store.rows("pets", "train").block_rows == 2
    changed = {
        "labels": replace(ROWS, labels=ROWS.labels + 1),
        "keys": replace(ROWS, keys=["x", *ROWS.keys[1:]]),
        "size": replace(ROWS, shards=(replace(ROWS.shards[0], size=1), ROWS.shards[1])),
        "offset": replace(ROWS, offset=ROWS.offset + 1),
    }
    for rows in changed.values():
        with pytest.raises(FingerprintMismatch, match="rows of pets/train changed"):
            store.add_rows("pets", "train", rows)
    with pytest.raises(FingerprintMismatch, match=r"train-0.tar \(10240 bytes\) is now 1 bytes"):
        store.add_rows("pets", "train", changed["size"])
    with pytest.raises(FingerprintMismatch, match=r"class 1 was 'dog', and is 'cow' now"):
        store.add_rows("pets", "train", replace(ROWS, class_names=("cat", "cow")))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_sha256", "1" * 64),
        ("precision", "bf16"),
        ("dtype", "float32"),
        ("quick_gelu", True),
        ("preprocess", {"size": [9, 9]}),
        ("pretrained", "x"),
    ],
)
def test_another_model_of_the_same_name_is_refused_and_the_field_named(field: str, value: object) -> None:
    store = Store.create(MemoryStore())
    store.add_model(PROVENANCE, None)
    with pytest.raises(FingerprintMismatch, match=f"'Tiny/golden'; {field}: "):
        store.add_model(replace(PROVENANCE, **{field: value}), None)


def test_newer_libraries_are_the_same_model() -> None:
    store = Store.create(MemoryStore())
    store.add_model(PROVENANCE, None)
    store.add_model(replace(PROVENANCE, versions={"torch": "9"}), None)
    assert store.provenance("Tiny/golden").versions == {"torch": "2.0"}


def test_every_field_of_provenance_but_what_is_only_noted_is_part_of_the_fingerprint() -> None:
    noted = ("versions", "parameters", "gflops")
    prints = {PROVENANCE.fingerprint()}
    for name, value in vars(PROVENANCE).items():
        if name not in noted:
            prints.add(replace(PROVENANCE, **{name: f"other {value}"}).fingerprint())
    assert len(prints) == 1 + len(vars(PROVENANCE)) - len(noted)
    for name in noted:
        assert replace(PROVENANCE, **{name: {"other": "1"}}).fingerprint() in prints
    assert Provenance.from_json(PROVENANCE.to_json()) == PROVENANCE


def test_other_prompts_under_the_same_name_are_refused() -> None:
    store = build(MemoryStore())
    vectors = np.zeros((2, 2, 2), dtype=np.float32)
    with pytest.raises(FingerprintMismatch, match="other names"):
        store.add_texts("Tiny/golden", "pets", "plp", names=["a", "b"], templates=["a {}.", "the {}."], vectors=vectors)
    with pytest.raises(FingerprintMismatch, match="other templates"):
        store.add_texts("Tiny/golden", "pets", "plp", names=["cat", "dog"], templates=["a {}.", "{}"], vectors=vectors)


def test_texts_are_the_normalised_mean_of_unit_vectors() -> None:
    store = build(MemoryStore())
    vectors = store.template_texts("Tiny/golden", "pets")
    for one, many in zip(store.texts("Tiny/golden", "pets"), vectors, strict=True):
        mean = sum(many) / len(many)
        np.testing.assert_allclose(one, mean / np.sqrt((mean**2).sum()), atol=1e-7)


def test_ensemble_is_the_normalised_mean_of_unit_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 4, 5))
    found = ensemble(vectors)
    for c in range(3):
        mean = sum(vectors[c, p] / np.sqrt((vectors[c, p] ** 2).sum()) for p in range(4)) / 4
        np.testing.assert_allclose(found[c], mean / np.sqrt((mean**2).sum()), rtol=1e-6)
    assert found.dtype == np.float32
    assert found.shape == (3, 5)


def test_ensemble_does_not_depend_on_lengths_or_order() -> None:
    vectors = np.random.default_rng(1).standard_normal((2, 3, 4))
    longer = vectors * np.array([1.0, 10.0, 0.1])[None, :, None]
    np.testing.assert_allclose(ensemble(longer), ensemble(vectors), atol=1e-7)
    np.testing.assert_allclose(ensemble(vectors[:, ::-1]), ensemble(vectors), atol=1e-7)


def test_ensemble_of_one_prompt_is_its_unit_vector_and_opposites_cancel_without_a_warning() -> None:
    np.testing.assert_allclose(ensemble(np.array([[[3.0, 4.0]]])), [[0.6, 0.8]], rtol=1e-6)
    assert (ensemble(np.array([[[1.0, 0.0], [-1.0, 0.0]]])) == 0).all()


def test_projected_is_features_times_projection_or_what_was_stored() -> None:
    store = build(MemoryStore())
    images = store.images("Tiny/golden", "pets", "train")
    projection = store.projection("Tiny/golden")
    assert projection is not None
    expected = images.features[:].astype(np.float32) @ projection
    np.testing.assert_array_equal(images.projected(), expected)
    assert images.projected().shape == (5, 2)

    store.add_model(replace(PROVENANCE, name="mlp"), None)
    assert store.projection("mlp") is None
    writer = store.image_writer("mlp", store.rows("pets", "train"), projected=True)
    writer.write(0, 2, np.ones(2, np.uint8), features=np.ones((2, 3)), projected=np.full((2, 2), 7))
    np.testing.assert_array_equal(store.images("mlp", "pets", "train").projected()[:2], np.full((2, 2), 7))


def test_a_flipped_bit_and_a_truncated_chunk_are_named(tmp_path: Path) -> None:
    build(tmp_path / "s")
    chunk = tmp_path / "s/models/Tiny/golden/images/pets/train/features/c/0/0"
    good = chunk.read_bytes()
    for bad in (bytes([good[0] ^ 1]) + good[1:], good[:5]):
        chunk.write_bytes(bad)
        with pytest.raises(StoreCorrupt, match="images/pets/train/features"):
            Store.open(tmp_path / "s").images("Tiny/golden", "pets", "train").embedded()


def test_the_fingerprint_of_images_follows_what_is_finished() -> None:
    store = build(MemoryStore())
    before = store.images("Tiny/golden", "pets", "train").fingerprint
    assert store.images("Tiny/golden", "pets", "train").fingerprint == before
    writer = store.image_writer("Tiny/golden", store.rows("pets", "train"), captions=True)
    assert writer.pending() == [(1, 2, 4)]
    writer.write(2, 4, np.ones(2, np.uint8), features=np.ones((2, 3)), captions=np.ones((2, 2)))
    assert store.images("Tiny/golden", "pets", "train").fingerprint != before


def test_a_block_needs_every_column_and_no_pending_row() -> None:
    store = build(MemoryStore())
    writer = store.image_writer("Tiny/golden", store.rows("pets", "train"), captions=True)
    with pytest.raises(StoreError, match="columns"):
        writer.write(2, 4, np.ones(2, np.uint8), features=np.ones((2, 3)))
    with pytest.raises(StoreError, match="pending"):
        writer.write(2, 4, np.array([1, 0], np.uint8), features=np.ones((2, 3)), captions=np.ones((2, 2)))


def test_captions_must_be_chosen_once() -> None:
    store = build(MemoryStore())
    with pytest.raises(FingerprintMismatch, match="with captions"):
        store.image_writer("Tiny/golden", store.rows("pets", "train"))
    store.add_model(replace(PROVENANCE, name="plain"), None)
    store.image_writer("plain", store.rows("pets", "train"))
    with pytest.raises(NotAvailable, match="--captions"):
        store.images("plain", "pets", "train").captions()


def test_unknown_names_list_the_known_ones() -> None:
    store = build(MemoryStore())
    with pytest.raises(UnknownName, match=r"unknown model 'tiny/golden'\. Did you mean 'Tiny/golden'\?"):
        store.provenance("tiny/golden")
    with pytest.raises(UnknownName, match=r"unknown data set 'cars'.*Known: pets"):
        store.rows("cars", "train")
    with pytest.raises(UnknownName, match=r"unknown split 'pets/test'.*Known: pets/train"):
        store.rows("pets", "test")
    with pytest.raises(NotAvailable, match=r"pets/simple.*it has: pets/plp"):
        store.texts("Tiny/golden", "pets", "simple")
    for name in ("..", "", "a/../..", "Tiny"):
        with pytest.raises(UnknownName):
            store.provenance(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "/abs", "-x", "é"])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    store = Store.create(MemoryStore())
    with pytest.raises(UsageError, match="cannot name a data set"):
        store.add_rows(name, "train", ROWS)
    with pytest.raises(UsageError, match="cannot name a split"):
        store.add_rows("pets", name, ROWS)


def test_a_model_cannot_be_called_like_the_nodes_inside_it() -> None:
    with pytest.raises(UsageError, match="not images, projection, texts"):
        Store.create(MemoryStore()).add_model(replace(PROVENANCE, name="x/images"), None)


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="does not exist; `embedstore extract`"):
        Store.open(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_text("x")
    for name in ("file", "full"):
        with pytest.raises(StoreNotFound):
            Store.open(tmp_path / name)
        with pytest.raises(StoreNotFound, match="is not an embedstore"):
            Store.create(tmp_path / name)
    import zarr

    zarr.create_group(tmp_path / "foreign", attributes={"someone": "else"})
    for attempt in (Store.open, Store.create):
        with pytest.raises(StoreNotFound, match="not an embedstore"):
            attempt(tmp_path / "foreign")
    zarr.create_group(tmp_path / "future", attributes={"embedstore": {"format": 2}})
    with pytest.raises(StoreCorrupt, match="format 2"):
        Store.open(tmp_path / "future")


def test_the_same_result_replaces_and_another_parameter_does_not() -> None:
    store = build(MemoryStore())
    (result,) = store.results()
    again = replace(result, scores={}, weights={}, id_accuracy=0.5, created="2027")
    store.add_result(again)
    assert [found.id_accuracy for found in store.results()] == [0.5]
    store.add_result(replace(again, params={"k": 2}, created="2026"))
    assert [found.params["k"] for found in store.results()] == [2, 1], "oldest first"


def test_an_absent_method_is_kept_with_its_reason() -> None:
    store = Store.create(MemoryStore())
    store.add_result(Result("m", "d", "linear", {}, {}, absent="d/train has no labels"))
    (result,) = store.results()
    assert result.absent == "d/train has no labels"
    assert dict(result.scores) == {}
