"""Laws of extraction: the same bytes whatever the batches, workers, form of the source, or how often it was killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, png, write_tar
from PIL import Image
from zarr.storage import MemoryStore

from embedstore.encoders import Encoder, ImageFeatures, load_encoder
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import FingerprintMismatch, NotAvailable, SourceError, UsageError
from embedstore.extract import Outcome, embed_images, embed_texts, list_rows
from embedstore.extract.loading import Decoder
from embedstore.prompts import templates
from embedstore.records import Rows
from embedstore.sources import open_source
from embedstore.store import Images, Store

Start = Callable[..., "subprocess.Popen[str]"]


def extract(
    source: str | Path,
    store: Store | None = None,
    encoder: Encoder | None = None,
    *,
    limit: int | None = None,
    block_rows: int = 7,
    classes: str | None = None,
    **options: Any,
) -> tuple[Images, Outcome]:
    """What the command does, with a fake encoder and a store in memory unless others are given."""
    store, encoder = store or Store.create(MemoryStore()), encoder or load_encoder("fake")
    opened = open_source(str(source), classes=classes)
    split = list_rows(store, opened, limit=limit, block_rows=block_rows)
    store.add_model(encoder.provenance, encoder.projection)
    if split.class_names and encoder.has_text:
        embed_texts(store, encoder, split.dataset, split.class_names, ["plp"])
    outcome = embed_images(store, encoder, opened, split, **options)
    assert outcome.rows == outcome.ok + outcome.failed + outcome.pending
    return store.images(encoder.provenance.name, split.dataset, split.split), outcome


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a store but what a killed write leaves behind under a temporary name."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


# What is stored -------------------------------------------------------------------------------------------------------


def test_features_are_the_encoders_of_each_image_alone(pictures: Path) -> None:
    encoder = load_encoder("fake")
    images, outcome = extract(pictures / "pets" / "train", batch_size=5)
    paths = sorted((pictures / "pets" / "train").rglob("*.png"))
    naive = [encoder.images(encoder.preprocess(Image.open(path))[None]).features[0] for path in paths]
    np.testing.assert_array_equal(images.features[:], np.array(naive).astype(np.float16))
    assert list(images.keys) == [f"{path.parent.name}/{path.name}" for path in paths]
    assert images.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert images.class_names == ("cat", "dog", "fish")
    assert (outcome.ok, outcome.failed, outcome.embedded, outcome.failures) == (24, 0, 24, [])


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 1}, {"batch_size": 64}, pytest.param({"workers": 2}, marks=pytest.mark.slow), {"block_rows": 24}],
)
def test_features_do_not_depend_on_batches_workers_or_blocks(pictures: Path, options: dict[str, int]) -> None:
    source = pictures / "pets" / "train"
    expected = extract(source, batch_size=3, workers=0)[0]
    assert extract(source, **options)[0].features[:].tobytes() == expected.features[:].tobytes()


def test_a_tar_of_the_same_images_gives_the_same_features(pictures: Path) -> None:
    folder, tar = (extract(pictures / name)[0] for name in ("pets/train", "tars/pets-train.tar"))
    assert tar.features[:].tobytes() == folder.features[:].tobytes()
    assert tar.labels.tolist() == folder.labels.tolist()


def test_texts_are_the_encoders_of_each_class_in_each_template(pictures: Path) -> None:
    store, encoder = Store.create(MemoryStore()), load_encoder("fake")
    extract(pictures / "pets" / "train", store, encoder)
    stored = store.template_texts("fake", "pets")
    assert stored.shape == (3, 5, encoder.provenance.joint_dim)
    for vectors, name in zip(stored, ("cat", "dog", "fish"), strict=True):
        for vector, template in zip(vectors, templates("plp"), strict=True):
            np.testing.assert_array_equal(vector, encoder.texts([template.replace("{}", name)])[0])


def test_an_mlp_heads_output_is_stored(pictures: Path) -> None:
    encoder = load_encoder("fake:mlp", dtype="float32")
    images, _ = extract(pictures / "pets" / "train", encoder=encoder)
    pixels = np.stack(
        [encoder.preprocess(Image.open(path)) for path in sorted((pictures / "pets/train").rglob("*.png"))]
    )
    expected = encoder.images(pixels)
    np.testing.assert_array_equal(images.projected(), expected.projected)
    np.testing.assert_array_equal(images.features[:], expected.features)


def test_limit_takes_the_first_rows(pictures: Path) -> None:
    whole, part = extract(pictures / "pets/train")[0], extract(pictures / "pets/train", limit=10)[0]
    np.testing.assert_array_equal(part.features[:], whole.features[:10])
    assert list(part.keys) == list(whole.keys[:10])


def test_captions_are_embedded_beside_their_images_and_a_missing_one_is_nan(pictures: Path) -> None:
    images, outcome = extract(pictures / "tars/pets-train.tar", captions="txt", batch_size=2)
    expected = np.full((24, 12), np.nan, dtype=np.float16)
    expected[1::2] = load_encoder("fake").texts([f"picture {number}" for number in range(1, 24, 2)])
    np.testing.assert_array_equal(images.captions(), expected.astype(np.float32))
    assert outcome.ok == 24, "an image without a caption is still an image"


# Bad images and bad models --------------------------------------------------------------------------------------------


def test_bad_images_are_marked_and_the_others_go_on(pictures: Path, tmp_path: Path) -> None:
    good, rng = extract(pictures / "pets/train")[0], np.random.default_rng(0)
    folder = tmp_path / "pets" / "train"
    shutil.copytree(pictures / "pets" / "train", folder)
    bad = [0, 7, 8, 9, 10, 11, 12, 13, 23]  # of the blocks of seven rows, the second is bad altogether
    broken = [b"", b"no image", png(rng, 0)[:60], b"<html>404</html>"]
    for place, row in enumerate(bad):
        (folder / good.keys[row]).write_bytes(broken[place % len(broken)])
    images, outcome = extract(folder, batch_size=4)
    assert np.flatnonzero(images.status == 2).tolist() == bad
    assert np.isnan(images.features[:][bad]).all()
    np.testing.assert_array_equal(images.features[:][images.ok], good.features[:][images.ok])
    assert [failure.key for failure in outcome.failures] == [good.keys[row] for row in bad]
    assert all(failure.reason.isprintable() for failure in outcome.failures)
    assert (outcome.ok, outcome.failed, outcome.pending) == (15, 9, 0)


def test_a_block_of_bad_images_has_every_column(tmp_path: Path) -> None:
    samples = [(str(n), {"png": b"no image", "txt": b"a caption"}) for n in range(3)]
    write_tar(tmp_path / "bad.tar", samples)
    images, outcome = extract(tmp_path / "bad.tar", encoder=load_encoder("fake:mlp"), captions="txt")
    assert (images.ok.any(), outcome.failed) == (False, 3)
    for values, width in ((images.features[:], 24), (images.projected(), 12), (images.captions(), 12)):
        assert values.shape == (3, width)
        assert np.isnan(values).all()


def test_nothing_to_embed(tmp_path: Path) -> None:
    write_tar(tmp_path / "texts.tar", [("a", {"txt": b"only text"})])
    images, outcome = extract(tmp_path / "texts.tar")
    assert (images.status.tolist(), outcome.embedded) == ([2], 0)
    assert outcome.failures[0].reason.startswith("no image member in sample 'a' (looked for .jpg")
    write_tar(tmp_path / "nothing.tar", [])
    with pytest.raises(SourceError, match="no samples in 1 shard"):
        extract(tmp_path / "nothing.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images"):
        extract(tmp_path / "empty")


class Odd(FakeEncoder):
    """A fake whose features are not what they should be, in the rows where its first feature is positive."""

    has_text = False

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def images(self, batch: Any) -> ImageFeatures:
        features = super().images(batch).features
        features[features[:, 0] > 0, 5] = self.value
        return ImageFeatures(features)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_whose_features_are_not_finite_has_failed(pictures: Path, value: float) -> None:
    good = extract(pictures / "pets/train")[0].features[:]
    images, outcome = extract(pictures / "pets/train", encoder=Odd(value))
    bad = good[:, 0] > 0
    assert 0 < bad.sum() < 24
    np.testing.assert_array_equal(images.ok, ~bad)
    assert np.isnan(images.features[:][bad]).all()
    assert {(failure.stage, failure.reason) for failure in outcome.failures} == {
        ("model", "the model's output is not finite")
    }


def test_a_feature_that_float16_cannot_hold_is_an_error(pictures: Path) -> None:
    with pytest.raises(
        UsageError, match=r"features reach 7e\+04, which float16 cannot hold; use --dtype float32, with a --name"
    ):
        extract(pictures / "pets/train", encoder=Odd(70_000))


def test_captions_need_a_text_tower_and_an_error_in_a_worker_stays_one_line(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="fake has no text tower"):
        extract(pictures / "pets/train", encoder=Odd(0), captions="txt")
    write_tar(tmp_path / "x.tar", [("a", {"png": png(np.random.default_rng(0), 9), "txt": b"a"})])
    source = open_source(str(tmp_path / "x.tar"))
    store = Store.create(MemoryStore())
    split = list_rows(store, source)
    encoder = load_encoder("fake")
    store.add_model(encoder.provenance, encoder.projection)
    with (tmp_path / "x.tar").open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(SourceError, match=r"^x\.tar has changed since it was listed: \d+ bytes then, \d+ now"):
        embed_images(store, encoder, source, split, workers=1)


def test_other_classes_rows_or_models_under_the_same_name_are_refused(pictures: Path, tmp_path: Path) -> None:
    store, source = Store.create(MemoryStore()), pictures / "pets/train"
    extract(source, store)
    (tmp_path / "names.json").write_text(json.dumps(["ant", "bee", "whale"]))
    with pytest.raises(FingerprintMismatch, match=r"class names of pets/train changed.*ant"):
        extract(source, store, classes=str(tmp_path / "names.json"))
    with pytest.raises(FingerprintMismatch, match="24 were listed, and now only the first 5"):
        extract(source, store, limit=5)
    for other, field in (
        (load_encoder("fake:other", name="fake"), "pretrained"),
        (load_encoder("fake", dtype="float32"), "dtype"),
    ):
        with pytest.raises(FingerprintMismatch, match=f"another model under the name 'fake'; {field}: "):
            extract(source, store, other)


# Stopped and resumed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    location = tmp_path_factory.mktemp("whole") / "whole.zarr"
    extract(pictures / "tars/many.tar", Store.create(location), block_rows=4)
    return contents(location)


@pytest.mark.parametrize(
    ("signum", "code", "workers"),
    [
        pytest.param(signal.SIGKILL, -9, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 75, 1, marks=pytest.mark.slow),
        (signal.SIGINT, 75, 0),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(
    pictures: Path,
    tmp_path: Path,
    start: Start,
    command: Command,
    uninterrupted: dict[str, bytes],
    signum: int,
    code: int,
    workers: int,
) -> None:
    location, source = tmp_path / "stopped.zarr", pictures / "tars/many.tar"
    arguments = ["extract", source, "--store", location, "--model", "fake", "--block-rows", "4"]
    model = location / "models/fake/images/tars/test"
    with start(*arguments, "--workers", str(workers)) as process:
        while process.poll() is None and len(list(model.glob("status/c/*"))) < 5:
            time.sleep(0.005)
        process.send_signal(signum)
        stderr = process.communicate(timeout=60)[1]  # ends only when the workers, too, have ended
    assert process.returncode == code, stderr
    if code == 75:  # the workers of a killed process may complain
        assert "run the same command again to resume" in stderr
        assert "Traceback" not in stderr

    done = Store.open(location).images("fake", "tars", "test").ok.reshape(-1, 4).all(axis=1)
    assert 5 <= done.sum() < 150, "stopped in the middle"
    chunks = [path for n in np.flatnonzero(done) for path in (model / f"status/c/{n}", model / f"features/c/{n}/0")]
    before = [path.stat().st_mtime_ns for path in chunks]
    _, outcome = extract(source, Store.create(location))
    assert (outcome.ok, outcome.embedded) == (600, 600 - 4 * done.sum())
    assert [path.stat().st_mtime_ns for path in chunks] == before, "a finished block was done again"
    assert contents(location) == uninterrupted
    if workers == 0:
        third = command(*arguments, "--json")
        assert "600 rows = 600 ok + 0 failed + 0 pending, nothing left to do" in third.stderr
        assert json.loads(third.stdout)[0]["embedded"] == 0
        assert contents(location) == uninterrupted


def test_progress_counts_what_this_run_has_to_do(pictures: Path) -> None:
    memory = MemoryStore()
    extract(pictures / "pets/train", Store.create(memory))
    del memory._store_dict["models/fake/images/pets/train/status/c/1"]
    store, source, said = Store.create(memory), open_source(str(pictures / "pets/train")), []
    split = list_rows(store, source)
    embed_images(store, load_encoder("fake"), source, split, progress=lambda *call: said.append(call))
    assert {to_do for _, to_do in said} == {7}
    assert sum(done for done, _ in said) == 7


def test_only_the_blocks_whose_status_is_missing_are_done_again(pictures: Path) -> None:
    memory = MemoryStore()
    whole, _ = extract(pictures / "pets/train", Store.create(memory))
    expected = whole.features[:].tobytes()
    status = "models/fake/images/pets/train/status/c/1"
    assert status in memory._store_dict
    del memory._store_dict[status]
    used: list[str] = []
    encoder = FakeEncoder()
    encoder.preprocess = lambda image: used.append("image") or load_encoder("fake").preprocess(image)
    resumed, outcome = extract(pictures / "pets/train", Store.create(memory), encoder)
    assert (len(used), outcome.embedded, outcome.ok) == (7, 7, 24)
    assert resumed.features[:].tobytes() == expected


def test_only_a_want_of_memory_halves_the_batch(pictures: Path) -> None:
    class Broken(FakeEncoder):
        calls = 0

        def images(self, batch: Any) -> ImageFeatures:
            self.calls += 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    encoder = Broken()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        extract(pictures / "pets/train", encoder=encoder)
    assert encoder.calls == 1


def test_a_batch_is_asked_for_with_its_own_rows_alone(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with a list of shards or names, which would go to a worker with every batch."""
    asked: list[Rows] = []
    decode = Decoder.__getitem__

    def seen(self: Decoder, request: tuple[int, Rows]) -> Any:
        asked.append(request[1])
        return decode(self, request)

    monkeypatch.setattr(Decoder, "__getitem__", seen)
    extract(pictures / "pets/train", batch_size=5)
    assert sum(len(rows) for rows in asked) == 24
    assert max(len(rows) for rows in asked) == 5
    assert {(rows.shards, rows.class_names) for rows in asked} == {((), None)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_without_memory_is_no_fault_of_the_image(pictures: Path, workers: int) -> None:
    encoder: Any = FakeEncoder()
    encoder.preprocess = no_room
    with pytest.raises(SourceError, match="no memory to decode images"):
        extract(pictures / "pets/train", encoder=encoder, workers=workers)


def no_room(image: Any) -> Any:
    import torch

    return torch.empty(1 << 50)
