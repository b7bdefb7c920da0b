"""Stores damaged in every way: verify names the node and the block, --repair mends exactly what can be mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import Command
from golden_store import HOME, PROVENANCE, ROWS
from zarr.storage import MemoryStore

from embedstore.cli import main
from embedstore.errors import StoreCorrupt
from embedstore.records import Result
from embedstore.store import Problem, Store

MODEL = "Tiny/golden"
ROWS_AT = "datasets/pets/train"
MODEL_AT = f"models/{MODEL}"
IMAGES_AT = f"{MODEL_AT}/images/pets/train"
TEXTS_AT = f"{MODEL_AT}/texts/pets/plp"
Damage = Callable[[Path], None]


def unit(values: Any) -> Any:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def build(location: Any, **change: Any) -> Store:
    """The golden rows in blocks of two, all done, with one failed row, captions (one absent), prompts and a result."""
    store = Store.create(location)
    split = store.add_rows("pets", "train", replace(ROWS, **change), block_rows=2)
    store.add_model(PROVENANCE, np.array([[1, 0], [0, 1], [0.5, -0.5]], dtype=np.float32))
    writer = store.image_writer(MODEL, split, captions=True)
    rng = np.random.default_rng(0)
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        features = rng.standard_normal((stop - start, 3))
        captions = unit(rng.standard_normal((stop - start, 2)))
        status = np.where(np.arange(start, stop) == 1, 2, 1).astype(np.uint8)
        features[status == 2] = captions[status == 2] = np.nan
        if start == 2:
            captions[0] = np.nan
        reasons = {1: "decode: not an image"} if start == 0 else {}
        writer.write(start, stop, status, reasons=reasons, features=features, captions=captions)
    vectors = np.array([[[1, 0], [0.6, 0.8]], [[0, 1], [-0.8, 0.6]]], dtype=np.float32)
    store.add_texts(MODEL, "pets", "plp", names=["cat", "dog"], templates=["a {}.", "the {}."], vectors=vectors)
    scores = {"cosine/pets/train": np.array([0.5, np.nan, 1.0])}
    weights = {"coef": np.ones((1, 2), np.float32), "intercept": np.array(1.5)}
    store.add_result(Result(MODEL, "pets", "knn", {"k": 1}, {"model": "x"}, scores=scores, weights=weights))
    return store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    build(tmp_path / "s")
    return tmp_path / "s"


@pytest.fixture
def fake(fake_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_store, tmp_path / "clip.zarr"))


def problems(location: Path) -> list[Problem]:
    return list(Store.open(location).verify())


def named(location: Path) -> set[tuple[str, int | None]]:
    return {(one.where, None if one.block is None else one.block[0]) for one in problems(location)}


def chunks(location: Path) -> list[Path]:
    return sorted(path for path in location.rglob("*") if path.is_file() and path.name != "zarr.json")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def owner(location: Path, chunk: Path) -> tuple[str, int | None]:
    """Node and block of a chunk, as verify names them."""
    array, _, place = str(chunk.relative_to(location)).rpartition("/c")
    over_rows = array.startswith("datasets/") or "/images/" in array
    return array, int(place.split("/")[1]) if over_rows else None


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def declare(path: Path, **fields: Any) -> None:
    """Change what a node declares."""
    edit(path / "zarr.json", lambda node: node["attributes"]["embedstore"].update(fields))


def rewrite(place: Path, array: str, rows: slice, values: Any) -> None:
    """As a faulty writer would: with a checksum that fits."""
    zarr.open_array(place / array, mode="r+").with_config({"write_empty_chunks": True})[rows] = values


def run(*args: str | Path) -> int:
    """The exit code."""
    return main(args=[str(arg) for arg in args], standalone_mode=False) or 0


# Sound ----------------------------------------------------------------------------------------------------------------


def test_a_sound_store_has_no_problem(place: Path, fake_store: Path) -> None:
    assert problems(place) == []
    assert problems(fake_store) == []
    assert problems(HOME) == []
    assert list(build(MemoryStore()).verify()) == []


def test_captions_an_mlp_head_and_an_unfinished_store_are_sound(pictures: Path, tmp_path: Path) -> None:
    for number, more in enumerate((("--captions",), ("--share", "1/2"))):
        store = tmp_path / str(number)
        for model in ("fake", "fake:mlp"):
            source = pictures / "tars" / "pets-train.tar"
            run("extract", source, "--store", store, "--model", model, "--block-rows", "5", "--quiet", *more)
        assert problems(store) == []
        assert set(Store.open(store).images("fake-mlp", "tars", "train").widths) >= {"features", "projected"}
    assert not Store.open(store).images("fake", "tars", "train").ok.all(), "the last one is unfinished"


def test_an_extended_store_is_sound_before_and_after_it_is_finished(tmp_path: Path, pictures: Path) -> None:
    store, folder = tmp_path / "s", Path(shutil.copytree(pictures / "pets" / "train", tmp_path / "pets" / "train"))
    command = ("extract", folder, "--store", store, "--model", "fake", "--block-rows", "7", "--quiet")
    run(*command)
    for number in range(8):
        shutil.copy(folder / "cat" / f"{number}.png", folder / "dog" / f"more-{number}.png")
    run(*command, "--extend", "--share", "1/9")
    assert Store.open(store).rows("pets", "train").earlier
    assert 0 in Store.open(store).images("fake", "pets", "train").status
    assert problems(store) == []
    run(*command)
    assert Store.open(store).images("fake", "pets", "train").ok.all()
    assert problems(store) == []
    # Killed between the row list and the embeddings.
    at = "models/fake/images/pets/train"
    declare(store / at, rows=Store.open(store).rows("pets", "train").earlier[0])
    (problem,) = problems(store)
    assert (problem.where, problem.block, problem.mends) == (at, None, False)
    assert "run the same `embedstore extract` again" in problem.what


def test_a_row_list_whose_extension_was_stopped_is_the_old_one(place: Path) -> None:
    array = zarr.open_array(place / ROWS_AT / "label", mode="r+")
    array.resize((9,))
    assert problems(place) == []


def test_what_nobody_knows_is_passed_over_and_leftovers_are_counted(place: Path) -> None:
    group = zarr.open_group(place, mode="r+")
    group.create_group(f"{IMAGES_AT}/future").create_array("a", shape=3, dtype="i4")
    group[IMAGES_AT].create_array("more", shape=3, dtype="i4")
    group.create_group("datasets/half/test")
    (place / IMAGES_AT / "features/c/0/0.5e2c.partial").write_bytes(b"cut")
    assert problems(place) == []
    assert Store.open(place).leftovers() == 1


def test_progress_adds_up(place: Path) -> None:
    seen: list[tuple[int, int]] = []
    list(Store.open(place).verify(progress=lambda rows, total: seen.append((rows, total))))
    assert {total for _, total in seen} == {10}
    assert sum(rows for rows, _ in seen) == 10


def test_only_what_is_asked_for_is_checked(fake: Path) -> None:
    (fake / "models/fake-other/images/pets/test/features/c/1/0").write_bytes(b"")
    store = Store.open(fake)
    assert not list(store.verify(models=["fake"]))
    assert not list(store.verify(dataset="cars"))
    assert len(list(store.verify(models=["fake-other"], dataset="pets"))) == 1


# Chunks ---------------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_every_byte_of_a_chunk_is_seen(place: Path) -> None:
    chunk = place / IMAGES_AT / "features/c/0/0"
    sound = chunk.read_bytes()
    for at in range(len(sound)):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        chunk.write_bytes(damaged)
        assert named(place) == {(f"{IMAGES_AT}/features", 0)}


@pytest.mark.parametrize("size", [0, 3, 4, None], ids=["empty", "short", "four zeros", "half"])
def test_every_chunk_cut_off_is_named(place: Path, size: int | None) -> None:
    for chunk in chunks(place):
        sound = chunk.read_bytes()
        chunk.write_bytes(sound[: len(sound) // 2] if size is None else bytes(size))
        assert named(place) == {owner(place, chunk)}, chunk
        chunk.write_bytes(sound)


def test_every_chunk_with_a_flipped_byte_is_named(place: Path) -> None:
    for chunk in chunks(place):
        sound = chunk.read_bytes()
        chunk.write_bytes(sound[:1] + bytes([sound[1] ^ 4]) + sound[2:])
        (problem,) = problems(place)
        block = None if problem.block is None else problem.block[0]
        assert (problem.where, block) == owner(place, chunk)
        assert problem.mends == ("/images/" in problem.where)
        assert "damaged" in problem.what
        chunk.write_bytes(sound)


def test_every_chunk_that_is_gone_is_named_or_pending(place: Path) -> None:
    for chunk in chunks(place):
        sound = chunk.read_bytes()
        chunk.unlink()
        pending = chunk.parts[-3] == "status"  # that block is to do, and that is all
        assert named(place) == (set() if pending else {owner(place, chunk)}), chunk
        chunk.write_bytes(sound)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        *((f"{ROWS_AT}/{name}", {(ROWS_AT, None)}) for name in ("key", "label", "offset", "length")),
        (f"{IMAGES_AT}/features", {(f"{IMAGES_AT}/features", 0), (f"{IMAGES_AT}/features", 1)}),
        (f"{IMAGES_AT}/captions", {(f"{IMAGES_AT}/captions", 0)}),
    ],
)
def test_swapped_chunks_are_seen_where_anything_can_tell(place: Path, array: str, found: Any) -> None:
    one, other = (
        sorted((place / array / "c").rglob("*"))[:2]
        if ROWS_AT in array
        else (
            place / array / "c/0/0",
            place / array / "c/1/0",
        )
    )
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert named(place) >= found
    assert {where for where, _ in named(place)} == {where for where, _ in found}


# Metadata -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "null", "5", '{"zarr_format": 3}', '{"zarr_format": 3, "node_type": 5}']
)
def test_metadata_that_is_damaged_is_a_problem_of_that_node(place: Path, content: str) -> None:
    for metadata in sorted(place.rglob("zarr.json")):
        if metadata.parent == place:
            continue
        sound = metadata.read_text()
        metadata.write_text(content or sound[: len(sound) // 2])
        node = str(metadata.parent.relative_to(place))
        assert named(place) == {(node, None)}, node
        metadata.write_text(sound)


def test_metadata_that_is_gone_is_a_problem_of_that_node(place: Path) -> None:
    for metadata in sorted(place.rglob("zarr.json")):
        if metadata.parent == place:
            continue
        sound = metadata.read_text()
        metadata.unlink()
        node = str(metadata.parent.relative_to(place))
        assert named(place) == {(node, None)}, node
        metadata.write_text(sound)


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node["shape"].__setitem__(0, 7),
        lambda node: node["shape"].__setitem__(0, 10**15),
        lambda node: node["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, 3),
        lambda node: node.update(data_type="float64"),
        lambda node: node.update(fill_value=0),
        lambda node: node.update(dimension_names=["feature", "row"]),
        lambda node: node["codecs"].pop(),
        lambda node: node["codecs"][0]["configuration"].update(endian="big"),
        lambda node: node["codecs"].append({"name": "zstd", "configuration": {"level": 1}}),
        lambda node: node["codecs"].append({"name": "nobody"}),
    ],
    ids=["rows", "many rows", "chunks", "dtype", "fill", "dimensions", "no checksum", "endian", "zstd", "codec"],
)
def test_an_array_of_another_form_is_a_problem(place: Path, change: Any) -> None:
    edit(place / IMAGES_AT / "features/zarr.json", change)
    assert named(place) == {(f"{IMAGES_AT}/features", None)}


@pytest.mark.parametrize(
    ("node", "fields", "what"),
    [
        (ROWS_AT, {"fingerprint": "f" * 64}, "fingerprint"),
        (ROWS_AT, {"shards": [{"name": "train-0.tar", "size": 1}, {"name": "b", "size": 1}]}, "fingerprint"),
        (ROWS_AT, {"rows": "many"}, "attributes"),
        (ROWS_AT, {"block_rows": 0}, "attributes"),
        (ROWS_AT, {"kind": "rowz"}, "rowz"),
        (MODEL_AT, {"fingerprint": "f" * 64}, "fingerprint"),
        (MODEL_AT, {"provenance": {}}, "attributes"),
        (MODEL_AT, {"provenance": PROVENANCE.to_json() | {"precision": "bf16"}}, "fingerprint"),
        (MODEL_AT, {"provenance": PROVENANCE.to_json() | {"from_the_future": 1}}, "fingerprint"),
        (MODEL_AT, {"provenance": PROVENANCE.to_json() | {"versions": None}}, "versions"),
        (ROWS_AT, {"class_names": ["cat", None]}, "class name"),
        (IMAGES_AT, {"model": "f" * 64}, "another model"),
        (IMAGES_AT, {"rows": None}, "rows"),
        (IMAGES_AT, {"versions": None}, "versions"),
        (IMAGES_AT, {"rows": "f" * 64}, "another rows"),
        (IMAGES_AT, {"kind": "texts"}, "here belongs images"),
        (TEXTS_AT, {"names": ["cat", "cow"]}, "fingerprint"),
        (TEXTS_AT, {"fingerprint": "f" * 64}, "fingerprint"),
    ],
)
def test_attributes_that_were_changed_are_a_problem_of_that_node(
    place: Path, node: str, fields: Any, what: str
) -> None:
    declare(place / node, **fields)
    found = problems(place)
    assert {one.where for one in found} == {node}
    assert what in found[0].what


@pytest.mark.parametrize("attributes", [5, "x", {"embedstore": 5}, {"embedstore": [1]}])
def test_attributes_that_are_no_attributes(place: Path, attributes: Any) -> None:
    for node in (IMAGES_AT, f"{IMAGES_AT}/features", TEXTS_AT):
        sound = (place / node / "zarr.json").read_text()
        edit(place / node / "zarr.json", lambda content: content.update(attributes=attributes))
        assert named(place) == {(node, None)}
        (place / node / "zarr.json").write_text(sound)


def test_embeddings_that_are_written_must_be_declared(place: Path) -> None:
    edit(place / IMAGES_AT / "zarr.json", lambda content: content.update(attributes={}))
    assert named(place) == {(IMAGES_AT, None)}
    shutil.rmtree(place / IMAGES_AT / "status/c")
    assert named(place) == set(), "a writer that was killed at the very beginning"


@pytest.mark.parametrize("content", ["null", "5", '"x"', "["])
def test_a_root_that_is_damaged(place: Path, content: str) -> None:
    (place / "zarr.json").write_text(content)
    for attempt in (Store.open, Store.create):
        with pytest.raises(StoreCorrupt, match="cannot be read"):
            attempt(place)


def test_versions_are_no_part_of_what_a_model_is(place: Path) -> None:
    declare(place / MODEL_AT, provenance=PROVENANCE.to_json() | {"versions": {"torch": "9"}})
    assert problems(place) == []


@pytest.mark.parametrize("node", [ROWS_AT, MODEL_AT])
def test_what_is_needed_must_be_declared(place: Path, node: str) -> None:
    edit(place / node / "zarr.json", lambda content: content.update(attributes={}))
    (problem,) = problems(place)
    assert problem.where == node
    assert "not declared complete" in problem.what


def test_a_fingerprint_of_a_newer_version_covers_its_own_fields(place: Path) -> None:
    from embedstore.records import fingerprint

    provenance = PROVENANCE.to_json() | {"from_the_future": [1, {"a": None}]}
    mark = fingerprint({name: value for name, value in provenance.items() if name != "versions"})
    words = {"names": ["cat", "dog"], "templates": ["a {}.", "the {}."]}
    declare(place / MODEL_AT, provenance=provenance, fingerprint=mark)
    declare(place / IMAGES_AT, model=mark)
    declare(place / TEXTS_AT, fingerprint=fingerprint([mark, words]))
    assert problems(place) == []


@pytest.mark.parametrize(
    "fields", [{"params": {"k": 2}}, {"fingerprint": "f" * 12}, {"method": "mcm"}, {"notes": None}]
)
def test_a_result_is_what_its_key_says(place: Path, fields: Any) -> None:
    (at,) = (place / f"results/{MODEL}/pets/knn").glob("*/zarr.json")
    declare(at.parent, **fields)
    assert named(place) == {(str(at.parent.relative_to(place)), None)}


def test_a_model_in_anothers_place(place: Path) -> None:
    shutil.copytree(place / MODEL_AT, place / "models/Tiny/copy")
    assert named(place) == {("models/Tiny/copy", None)}


# Promises about values, broken under good checksums -------------------------------------------------------------------


def test_keys_are_unique() -> None:
    store = build(MemoryStore(), keys=["a", "b", "c", "a", "d"])
    (problem,) = store.verify()
    assert (problem.where, problem.block) == (f"{ROWS_AT}/key", (1, 2, 4))
    assert "rows 0 and 3 have the same key, 'a'" in problem.what


@pytest.mark.parametrize(
    ("change", "array", "what"),
    [
        (
            {"labels": np.array([0, 0, 1, 2, -1], np.int32)},
            "label",
            "row 3 is 2, and should be at least -1 and below 2",
        ),
        ({"labels": np.array([0, 0, 1, -2, -1], np.int32)}, "label", "row 3 is -2"),
        ({"shard": np.array([0, 0, 0, 2, -1], np.int32)}, "shard", "row 3 is 2"),
    ],
)
def test_labels_and_shards_are_ones_that_exist(change: Any, array: str, what: str) -> None:
    (problem,) = build(MemoryStore(), **change).verify()
    assert (problem.where, problem.block) == (f"{ROWS_AT}/{array}", (1, 2, 4))
    assert what in problem.what
    assert (
        array != "label"
        or not list(build(MemoryStore(), **change, class_names=("a", "b", "c")).verify())
        or ("-2" in what)
    )


@pytest.mark.parametrize(
    ("array", "rows", "values", "block", "what"),
    [
        ("status", slice(2, 3), 3, 1, "status 3"),
        ("status", slice(2, 3), 0, 1, "1 rows are pending"),
        ("status", slice(2, 4), 0, 1, "2 rows are pending"),
        ("features", slice(3, 4), np.nan, 1, "row 3 is ok, and has numbers that are not finite"),
        ("features", slice(4, 5), np.inf, 2, "row 4 is ok, and has numbers that are not finite"),
        ("features", slice(1, 2), 1.0, 0, "row 1 failed, and has numbers"),
        ("captions", slice(1, 2), 1.0, 0, "row 1 failed, and has numbers"),
        ("captions", slice(4, 5), 1.0, 2, "no unit vectors"),
        ("captions", slice(4, 5), [[np.nan, 1.0]], 2, "not finite"),
        ("failure", slice(1, 2), "", 0, "row 1 has no reason"),
        ("failure", slice(4, 5), "read: gone", 2, "row 4 is ok, and has a reason"),
    ],
)
def test_embeddings_are_what_their_status_says(
    place: Path, array: str, rows: slice, values: Any, block: int, what: str
) -> None:
    rewrite(place, f"{IMAGES_AT}/{array}", rows, values)
    (problem,) = problems(place)
    assert (problem.where, problem.block, problem.mends) == (
        f"{IMAGES_AT}/{array}",
        (block, 2 * block, min(2 * block + 2, 5)),
        True,
    )
    assert what in problem.what


def test_pending_blocks_may_hold_anything(place: Path) -> None:
    (place / IMAGES_AT / "status/c/1").unlink()
    (place / IMAGES_AT / "features/c/1/0").write_bytes(b"what a killed writer left")
    assert problems(place) == []


@pytest.mark.parametrize(("array", "values"), [(f"{MODEL_AT}/projection", np.nan), (TEXTS_AT, 0.5), (TEXTS_AT, np.inf)])
def test_projections_are_finite_and_prompts_unit_vectors(place: Path, array: str, values: float) -> None:
    rewrite(place, array, slice(0, 1), values)
    (problem,) = problems(place)
    assert (problem.where, problem.mends) == (array, False)


@pytest.mark.parametrize(
    "array", [f"{IMAGES_AT}/features", f"{IMAGES_AT}/status", f"{ROWS_AT}/key", f"{ROWS_AT}/label"]
)
def test_arrays_that_are_gone_altogether(place: Path, array: str) -> None:
    shutil.rmtree(place / array)
    assert named(place) == {(array, None)}


@pytest.mark.parametrize("status", [[0, 1], [0, 0]])
def test_only_appended_rows_may_be_pending_in_a_block_that_was_written(place: Path, status: list[int]) -> None:
    declare(place / ROWS_AT, earlier=["a" * 64])
    rewrite(place, f"{IMAGES_AT}/status", slice(2, 4), np.array(status))
    assert named(place) == {(f"{IMAGES_AT}/status", 1)}
    rewrite(place, f"{IMAGES_AT}/status", slice(2, 4), np.array([1, 0]))
    assert named(place) == set()


def test_without_a_projection_there_must_be_projected(place: Path) -> None:
    shutil.rmtree(place / MODEL_AT / "projection")
    assert named(place) == {(f"{IMAGES_AT}/projected", None)}


def test_a_store_of_version_0_1_has_no_reasons(place: Path) -> None:
    shutil.rmtree(place / IMAGES_AT / "failure")
    assert problems(place) == []


@pytest.mark.parametrize("lost", ["zarr.json", "/c/"])
def test_a_store_that_cannot_be_reached_is_not_damaged(place: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Or --repair would forget what is sound."""
    store = Store.open(place)
    kind = type(store._root.store_path.store)
    get = kind.get

    async def unplugged(self: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        if lost in key:
            raise ConnectionResetError("the network is gone")
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(kind, "get", unplugged)
    with pytest.raises(OSError, match="network"):
        list(store.verify())


# Repair ---------------------------------------------------------------------------------------------------------------


def test_repair_and_extract_mend_exactly_the_damaged_blocks(pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures / "pets" / "train", tmp_path / "pets" / "train"))
    (folder / "cat" / "3.png").write_bytes(b"no image")
    sound, store = tmp_path / "sound", tmp_path / "s"
    command = ("extract", folder, "--model", "fake:mlp", "--block-rows", "5", "--quiet", "--store")
    run(*command, sound)
    at = "models/fake-mlp/images/pets/train"
    blocks = 5
    for chunk in [path.relative_to(sound) for path in chunks(sound / at)]:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(sound, store)
        before = {path: path.stat().st_mtime_ns for path in chunks(store)}
        (store / chunk).write_bytes((store / chunk).read_bytes()[:-1] + b"?")
        damaged = owner(store, store / chunk)[1]
        found = problems(store)
        forgotten = Store.open(store, writable=True).forget_damaged(found)
        assert forgotten == {at: [(damaged, 5 * damaged, min(5 * damaged + 5, 24))]}
        assert problems(store) == []
        run(*command, store)
        assert files(store) == files(sound)
        touched = {path for path, when in before.items() if path.stat().st_mtime_ns != when}
        assert {owner(store, path)[1] for path in touched} == {damaged}
        assert {owner(store, path)[0].rpartition("/")[0] for path in touched} == {at}
        assert damaged < blocks


def test_the_command_says_what_is_wrong_and_mends_it(fake: Path, pictures: Path, command: Command) -> None:
    sound = files(fake)
    told = command("verify", "--store", fake)
    assert (told.returncode, told.stderr) == (0, "")
    assert "Sound" in told.stdout
    at = "models/fake/images/pets/test"
    (fake / at / "features/c/1/0").write_bytes(b"")
    (fake / "datasets/cars/test/label/c/0").write_bytes(b"")
    (fake / at / "features/c/1/0.aa.partial").write_bytes(b"")
    damaged = files(fake)
    told = command("verify", "--store", fake)
    assert told.returncode == 5
    assert f"{at}/features, block 1 (rows 8 to 15): its chunk is damaged" in told.stdout
    assert "2 problems are left; 1 blocks can be embedded again: run this with --repair" in told.stdout
    assert "1 temporary files" in told.stdout
    assert files(fake) == damaged, "without --repair nothing is written"
    told = command("verify", "--store", fake, "--repair", "--json")
    assert told.returncode == 5, "a row list cannot be made again"
    report = json.loads(told.stdout)
    assert report["forgotten"] == [{"where": at, "blocks": [[1, 8, 16]]}]
    assert {one["where"]: one["mends"] for one in report["problems"]} == {
        "datasets/cars/test/label": False,
        f"{at}/features": True,
    }
    told = command("verify", "--store", fake, "--repair", "--dataset", "pets")
    assert told.returncode == 0
    assert command("extract", pictures / "pets/test", "--store", fake, "--model", "fake").returncode == 0
    (fake / "datasets/cars/test/label/c/0").write_bytes(sound["datasets/cars/test/label/c/0"])
    (fake / at / "features/c/1/0.aa.partial").unlink()
    assert files(fake) == sound


def test_the_command_is_content_once_all_is_mended(fake: Path, command: Command) -> None:
    (fake / "models/fake/images/pets/test/status/c/0").write_bytes(b"?")
    told = command("verify", "--store", fake, "--repair", "--model", "fake")
    assert told.returncode == 0
    assert "1 damaged blocks are pending now" in told.stdout
    assert "run the `embedstore extract` that made pets/test by fake again" in told.stdout
    assert "cannot name" not in command("verify", "--store", fake, "--model", "nobody").stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--model", "fake:nobody"), 2),
        (("--dataset", "nobody"), 2),
        (("--source", "x"), 2),
        (("--re-embed", "3"), 2),
        (("--re-embed", "3", "--source", "x"), 2),
    ],
)
def test_requests_that_cannot_be_right(fake: Path, command: Command, args: tuple[str, ...], code: int) -> None:
    assert command("verify", "--store", fake, *args).returncode == code


def test_a_damaged_row_list_does_not_keep_the_command_from_saying_so(fake: Path, command: Command) -> None:
    (fake / "datasets/pets/zarr.json").write_text("{")
    told = command("verify", "--store", fake, "--model", "fake", "--dataset", "pets")
    assert (told.returncode, told.stderr) == (5, "")
    assert "datasets/pets: its zarr.json cannot be read" in told.stdout
    (fake / "zarr.json").write_text("{")
    told = command("verify", "--store", fake)
    assert (told.returncode, told.stdout) == (5, "")


def test_every_field_of_a_provenance_may_be_there() -> None:
    """Those that are no part of the fingerprint, too: real models have them, and fakes do not."""
    store = Store.create(MemoryStore())
    store.add_model(replace(PROVENANCE, parameters=87_849_216, gflops=8.82, versions={"torch": "2"}), None)
    assert list(store.verify()) == []
