"""A whole attack: which images, what files, and that a killed one goes on."""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from conftest import png, write_folder, write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from embedstore.attack import Aim, Attacked, Options, Progress, Side, attack, draw_pairs, read_attack, store_features
from embedstore.attack.craft import keeps_pixels
from embedstore.attack.shards import is_done, member_key, original_key, read_block, write_block, write_shard
from embedstore.cli import main
from embedstore.encoders import differentiable
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import FingerprintMismatch, NotAvailable, SourceError, StoreCorrupt, UsageError
from embedstore.sources import decode, open_source
from embedstore.sources.tarindex import members, samples
from embedstore.store import Store

pytestmark = pytest.mark.slow

OPTIONS = Options(steps=6, every=3, snapshots=(3, 6), smoothness=0.0, lr=0.01)


@pytest.fixture
def store(fake_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fake_store, tmp_path / "store.zarr"))


def run(store: Path, pictures: Path, out: Path, **more: Any) -> Attacked:
    """Ten images of cars/test towards pets/train, in blocks of 4."""
    settings: dict[str, Any] = {"num": 10, "seed": 3, "block_rows": 4, "batch_size": 3, "options": OPTIONS, **more}
    encoder = settings.pop("encoder", FakeEncoder())
    sides = [Side(open_source(str(pictures / name)), *name.split("/")) for name in ("cars/test", "pets/train")]
    return attack(Store.open(store), encoder, *sides, out, **settings)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def read_shards(folder: Path) -> dict[str, dict[str, bytes]]:
    """By webdataset itself."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last shard to the garbage collector
        found = [dict(sample) for sample in webdataset.WebDataset(urls, shardshuffle=False)]
        gc.collect()
    return {sample["__key__"]: {k: v for k, v in sample.items() if not k.startswith("__")} for sample in found}


# Which images --------------------------------------------------------------------------------------------------------


def test_targets_are_those_of_the_released_code() -> None:
    everything = np.ones(50_000, dtype=bool)
    ood, target = draw_pairs(np.ones(10_000, dtype=bool), everything, 1000, seed=0)
    assert target[:5].tolist() == [2732, 43567, 42613, 45891, 21243]
    assert len(np.unique(target)) == 990
    assert len(np.unique(ood)) == 1000
    again = draw_pairs(np.ones(10_000, dtype=bool), everything, 1000, seed=0)
    np.testing.assert_array_equal(ood, again[0])
    assert (draw_pairs(np.ones(10_000, dtype=bool), everything, 1000, seed=1)[0] != ood).any()


def test_only_embedded_images_are_drawn() -> None:
    ok = np.zeros(20, dtype=bool)
    ok[[3, 5, 8, 13]] = True
    ood, target = draw_pairs(ok, np.roll(ok, 1), 4, seed=0)
    assert sorted(ood.tolist()) == [3, 5, 8, 13]
    assert set(target.tolist()) <= {4, 6, 9, 14}
    with pytest.raises(UsageError, match="5 images are to be attacked, but 4 of the 20 are embedded; ask for 1 to 4"):
        draw_pairs(ok, ok, 5, seed=0)
    with pytest.raises(UsageError, match="none of the 20 images to attack"):
        draw_pairs(ok & False, ok, 1, seed=0)
    with pytest.raises(UsageError, match="none of the 20 targets"):
        draw_pairs(ok, ok & False, 1, seed=0)
    for number, seed in ((0, 0), (1, -1), (1, 2**32)):
        with pytest.raises(UsageError):
            draw_pairs(ok, ok, number, seed)


# Keys ----------------------------------------------------------------------------------------------------------------

ODD = [
    "a b",
    "a.b.c",
    "cat/0.png",
    "x/./y",
    "../up",
    "/root",
    "end/",
    "/",
    "__meta__/x",
    "__a__",
    "a%2Eb",
    "Käse\n日本",
    ".",
]


@given(st.one_of(st.sampled_from(ODD), st.text(st.characters(codec="utf-8"), min_size=1)))
def test_any_key_survives_a_webdataset(key: str) -> None:
    member = member_key(key)
    assert original_key(member) == key
    assert not Path(member).is_absolute()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for suffix in ("json", "png"):
            tar.addfile(tarfile.TarInfo(f"{member}.{suffix}"))
    file.seek(0)
    ((found, sample),) = samples(members(file, "x.tar"), "x.tar")
    assert found == member
    assert sorted(sample) == ["json", "png"]


def test_plain_keys_stay_and_odd_ones_differ() -> None:
    assert [member_key(key) for key in ("test-00012", "dir/a_b~c")] == ["test-00012", "dir/a_b~c"]
    assert len({member_key(key) for key in ODD}) == len(ODD)


# Files ---------------------------------------------------------------------------------------------------------------


def test_what_an_attack_leaves_behind(store: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = run(store, pictures, out)
    names = {f"{folder}/{block:06d}.tar" for folder in ("adversarial", "clean", "target") for block in range(3)}
    names |= {f"float/{block:06d}.npz" for block in range(3)} | {"attack.json"}
    names |= {f"done/{block:06d}.json" for block in range(3)}
    assert set(files(out)) == names | {"adversarial/classes.json", "clean/classes.json"}

    cars, pets = (Store.open(store).images("fake", *name) for name in (("cars", "test"), ("pets", "train")))
    ood, target = draw_pairs(cars.ok, pets.ok, 10, seed=3)
    assert [original_key(key) for key in made.arrays["keys"]] == cars.keys[ood].tolist()
    np.testing.assert_array_equal(made.arrays["ood_row"], ood)
    np.testing.assert_array_equal(made.arrays["target_row"], target)
    assert not made.failed

    encoder = FakeEncoder()
    shards = {name: read_shards(out / name) for name in ("adversarial", "clean", "target")}
    for i, key in enumerate(made.arrays["keys"].tolist()):
        adversarial, clean, wanted = (shards[name][key] for name in ("adversarial", "clean", "target"))
        record = json.loads(adversarial["json"])
        assert (record["key"], record["row"]) == (cars.keys[ood[i]], ood[i])
        assert record["target"]["key"] == pets.keys[target[i]]
        assert adversarial["cls"] == clean["cls"] == str(cars.labels[ood[i]]).encode()
        assert record["trace"]["steps"] == [0, 3, 6]
        assert record["failed"] is None
        pixels = {
            name: np.asarray(Image.open(io.BytesIO(sample["png"])))
            for name, sample in (("adversarial", adversarial), ("clean", clean), ("target", wanted))
        }
        # The clean image and the target as the model sees them; and features of what the files hold.
        for name, row, split in (("clean", ood[i], "cars/test"), ("target", target[i], "pets/train")):
            keys = (cars if name == "clean" else pets).keys
            seen = encoder.preprocess(decode((pictures / split / keys[row]).read_bytes()))
            np.testing.assert_allclose(pixels[name].transpose(2, 0, 1) / 127.5 - 1, seen, atol=1e-6)
        vectors = encoder.images(np.stack([encoder.preprocess(Image.fromarray(each)) for each in pixels.values()]))
        a, c, t = vectors.features.astype(np.float64)
        np.testing.assert_allclose(made.arrays["features_rounded"][i], a, atol=1e-6)
        np.testing.assert_allclose(made.arrays["features_clean"][i], c, atol=1e-6)
        for vector, name in ((c, "before"), (a, "rounded")):
            cosine = vector @ t / np.linalg.norm(vector) / np.linalg.norm(t)
            assert record["similarity"][name] == pytest.approx(cosine, abs=1e-6)
        assert record["similarity"]["after"] > record["similarity"]["before"]
        assert record["psnr"] == pytest.approx(10 * np.log10(3 * 16 * 16 / record["l2"] ** 2))


def test_the_bytes_do_not_depend_on_time_batch_or_place(
    store: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, pictures, tmp_path / "a")
    monkeypatch.setattr("time.time", lambda: 1e9)
    run(store, pictures, tmp_path / "a % b" / "{000..001}", batch_size=7)
    assert files(tmp_path / "a") == files(tmp_path / "a % b" / "{000..001}")


def test_odd_keys_and_modes_go_through(tmp_path: Path) -> None:
    """Grey, palette, RGBA, 16 bits: through the same decoder as extraction; and keys that WebDatasets mangle."""
    folder = tmp_path / "odd"
    rng = np.random.default_rng(5)
    pixels = Image.open(io.BytesIO(png(rng, 120)))
    modes = {"grey": "L", "palette": "P", "rgba": "RGBA", "a.b c": "RGB", "ü\n%2E": "LA", "bits": "I;16"}
    folder.mkdir()
    for name, mode in modes.items():
        image = Image.fromarray(np.asarray(pixels.convert("L")).astype(np.uint16) * 257) if "16" in mode else pixels
        (image if "16" in mode else image.convert(mode)).save(folder / f"{name}.png")
    write_folder(tmp_path / "pets" / "train", ["cat"], 3, seed=0)
    for source in ("odd", "pets/train"):
        arguments = ["extract", str(tmp_path / source), "--store", str(tmp_path / "s"), "--model", "fake", "--quiet"]
        main(arguments, standalone_mode=False)
    sides = [
        Side(open_source(str(tmp_path / "odd")), "odd", "test"),
        Side(open_source(str(tmp_path / "pets/train")), "pets", "train"),
    ]
    made = attack(Store.open(tmp_path / "s"), FakeEncoder(), *sides, tmp_path / "out", num=6, options=OPTIONS)
    assert not made.failed
    assert {original_key(key) for key in made.arrays["keys"]} == {f"{name}.png" for name in modes}
    stored = Store.open(tmp_path / "s").images("fake", "odd", "test").embedded()
    rows = made.arrays["ood_row"]
    np.testing.assert_allclose(made.arrays["features_clean"], stored[rows], atol=1e-3)  # stored as float16
    found = read_shards(tmp_path / "out" / "adversarial")
    assert {json.loads(sample["json"])["key"] for sample in found.values()} == {f"{name}.png" for name in modes}


def test_extracted_again_the_files_give_the_features_after_rounding(
    store: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = run(store, pictures, out)
    assert made.declaration["keeps_pixels"] is True
    for split in ("adversarial", "clean"):
        arguments = ["extract", str(out / split), "--dataset", "attacked", "--split", split, "--store", str(store)]
        main([*arguments, "--model", "fake", "--quiet"], standalone_mode=False)
    assert store_features(Store.open(store, writable=True), FakeEncoder().provenance, out, "attacked") == [
        "attacked/float",
        "attacked/step-3",
        "attacked/step-6",
    ]
    opened = Store.open(store)
    of = {"adversarial": "features_rounded", "clean": "features_clean", "float": "features", "step-3": "step-3"}
    for split, name in {**of, "step-6": "features"}.items():
        images = opened.images("fake", "attacked", split)
        assert images.keys.tolist() == made.arrays["keys"].tolist()
        assert images.class_names == ("bus", "van")
        np.testing.assert_array_equal(images.labels, made.arrays["labels"])
        np.testing.assert_allclose(images.embedded(), made.arrays[name], atol=1e-3)  # stored as float16
    main(["verify", "--store", str(store)], standalone_mode=False)


# Going on ------------------------------------------------------------------------------------------------------------


def test_what_is_done_is_not_done_again(store: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(store, pictures, out)
    whole = files(out)
    (out / "clean" / "000001.tar").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("0000*")}
    seen: list[Progress] = []
    run(store, pictures, out, progress=seen.append)
    assert files(out) == whole
    again = {path for path in out.rglob("0000*") if stamps.get(path) != path.stat().st_mtime_ns}
    assert {path.stem for path in again} == {"000001"}
    assert [(each.done, each.step) for each in seen] == [
        (4, 6),
        (4, 0),
        (4, 3),
        (7, 6),
        (7, 0),
        (7, 3),
        (8, 6),
        (10, 6),
    ]
    assert all(np.isfinite(each.similarity) for each in seen[1:-1])


@pytest.fixture(scope="module")
def finished(fake_store: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(fake_store, pictures, out)
    return out


@pytest.mark.parametrize(
    "name", ["float/000001.npz", "adversarial/000001.tar", "target/000001.tar", "done/000001.json"]
)
@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: raw[:-70], lambda raw: flipped(raw, len(raw) // 2, 1)])
def test_a_damaged_block_is_made_anew(
    store: Path, pictures: Path, finished: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    out, whole = Path(shutil.copytree(finished, tmp_path / "out")), files(finished)
    (out / name).write_bytes(damage(whole[name]))
    if name.endswith("npz"):
        with pytest.raises(StoreCorrupt, match=r"000001\.npz is damaged"):
            read_attack(out)
    seen: list[Progress] = []
    run(store, pictures, out, progress=seen.append)
    assert files(out) == whole
    assert seen[-1].notes == ("6 of 10 images are done already", f"block 1 of {out} is damaged, and is made anew")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    folder=st.sampled_from(["float", "done", "clean"]), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_no_flipped_bit_goes_unnoticed(finished: Path, tmp_path: Path, folder: str, share: float, bit: int) -> None:
    (file,) = (finished / folder).glob("000001.*")
    raw = file.read_bytes()
    out = tmp_path / "out"
    if not out.exists():
        shutil.copytree(finished, out)
    (out / folder / file.name).write_bytes(flipped(raw, int(share * len(raw)), 1 << bit))
    assert not is_done(out, 1, ["adversarial", "clean", "target"])
    if folder == "float":
        with pytest.raises(StoreCorrupt, match="is damaged"):
            read_block(out, 1)
    (out / folder / file.name).write_bytes(raw)
    assert is_done(out, 1, ["adversarial", "clean", "target"])


def flipped(raw: bytes, at: int, bits: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]


@pytest.mark.slow
def test_a_shard_holds_its_block_however_many_images_that_has(tmp_path: Path) -> None:
    """webdataset's own limit is 100,000."""
    write_shard(tmp_path, 0, ((f"{n:06}", {"cls": b"1"}) for n in range(100_001)))
    with tarfile.open(tmp_path / "000000.tar") as tar:
        assert sum(1 for _ in tar) == 100_001


@pytest.mark.parametrize("torn", [False, True], ids=["before a rename", "in a file"])
def test_stopped_anywhere_it_ends_with_the_same_bytes(
    store: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    run(store, pictures, tmp_path / "whole")
    out = tmp_path / "out"
    replace_file, stops = os.replace, 0

    class Stopped(BaseException):
        pass

    def strike(at: int) -> None:
        count = 0

        def hit(source: Any, target: Any) -> None:
            nonlocal count
            if str(target).startswith(str(out)):
                count += 1
                if count == at:
                    if torn:
                        Path(source).write_bytes(Path(source).read_bytes()[:100])
                    raise Stopped
            replace_file(source, target)

        monkeypatch.setattr("os.replace", hit)

    for at in range(1, 40):
        shutil.rmtree(out, ignore_errors=True)
        strike(at)
        try:
            run(store, pictures, out)
        except Stopped:
            stops += 1
            monkeypatch.setattr("os.replace", replace_file)
            if at > 1:
                with pytest.raises(NotAvailable, match="not finished"):
                    read_attack(out)
            run(store, pictures, out)
        else:
            break
        assert files(out) == files(tmp_path / "whole"), at
    assert stops == 1 + 2 + 3 * 5  # the declaration, the classes' names, and five files a block


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_attack_craft import run
moved, replace = 0, os.replace
def kill(source, target):
    global moved
    moved += str(target).startswith(sys.argv[4])
    if moved == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = kill
run(*map(Path, sys.argv[2:5]))
"""


@pytest.mark.slow
def test_killed_it_goes_on(store: Path, pictures: Path, tmp_path: Path) -> None:
    run(store, pictures, tmp_path / "whole")
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), *map(str, (store, pictures, out))]
    ended = subprocess.run(arguments, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert 0 < len(files(out)) < len(files(tmp_path / "whole"))
    run(store, pictures, out)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed is 3 there, and 4 is asked for"),
        ({"num": 9}, "num is 10 there, and 9 is asked for"),
        ({"block_rows": 5}, "block_rows is 4 there, and 5 is asked for"),
        ({"options": replace(OPTIONS, steps=7)}, r"options\.steps is 6 there, and 7 is asked for"),
        ({"options": replace(OPTIONS, smoothness=1.0)}, r"options\.smoothness is 0\.0 there, and 1\.0"),
        ({"aim": Aim("prototypes", vectors=np.eye(3, 24))}, r"aim\.kind is 'images' there, and 'prototypes'"),
        ({"encoder": FakeEncoder("other")}, r"model\.name is 'fake' there, and 'fake-other'"),
    ],
)
def test_another_attack_is_refused(
    store: Path, pictures: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run(store, pictures, tmp_path / "out")
    with pytest.raises(FingerprintMismatch, match=message):
        run(store, pictures, tmp_path / "out", **change)


def test_foreign_folders_are_left_alone(store: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists and holds no attack of ours"):
        run(store, pictures, pictures)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="exists and holds no attack of ours"):
        run(store, pictures, tmp_path / "file")
    with pytest.raises(NotAvailable, match="there is no attack in"):
        read_attack(tmp_path)
    for text, kind, message in (
        ("{", StoreCorrupt, "damaged"),
        ("[]", UsageError, "format 1"),
        ('{"format": 2}', UsageError, "format 1"),
    ):
        (tmp_path / "attack.json").write_text(text)
        with pytest.raises(kind, match=message):
            read_attack(tmp_path)


# Failures ------------------------------------------------------------------------------------------------------------


class Choking(FakeEncoder):
    """Its gradients of dark images are not finite."""

    def differentiable(self) -> Any:
        view = super().differentiable()

        def features(pixels: Any) -> Any:
            dark = pixels.mean(dim=(1, 2, 3)) < 0.35
            return view.features(pixels).where(~dark[:, None], float("nan"))

        return replace(view, features=features)


def test_an_image_that_fails_is_named_and_the_others_go_on(store: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bus = sorted(path for path in (pictures / "cars" / "test").rglob("*.png"))
    made = run(store, pictures, out, encoder=Choking(), aim=Aim("prototypes", vectors=np.ones((3, 24))))
    failed = made.failed
    assert set(failed) == {f"bus/{number}.png" for number in range(5)}
    assert len(bus) == 10
    assert set(failed.values()) == {"model: the loss is not finite after 0 steps"}
    adversarial, clean = read_shards(out / "adversarial"), read_shards(out / "clean")
    for key, sample in adversarial.items():
        record = json.loads(sample["json"])
        assert ("png" not in sample) == (record["key"] in failed)
        assert record["failed"] == failed.get(record["key"])
        assert "png" in clean[key]
        assert (record["similarity"]["after"] is None) == ("png" not in sample)
        assert record["target"]["class"] in (0, 1, 2)
    # In the store they are failed rows, and the reasons are kept.
    store_features(Store.open(store, writable=True), FakeEncoder().provenance, out, "attacked")
    stored = Store.open(store).images("fake", "attacked", "float")
    assert {original_key(failure.key): f"{failure.stage}: {failure.reason}" for failure in stored.failures()} == failed
    np.testing.assert_array_equal(np.isfinite(stored.features[:]).all(axis=1), stored.ok)


def test_images_that_cannot_be_read_any_more_fail(store: Path, pictures: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(pictures / "cars", tmp_path / "cars"))
    shutil.copytree(pictures / "pets", tmp_path / "pets")
    size = (changed / "test/van/2.png").stat().st_size
    (changed / "test/van/2.png").write_bytes(b"no image".ljust(size))
    (changed / "test/bus/1.png").unlink()
    made = run(store, tmp_path, tmp_path / "out")
    assert made.failed["van/2.png"].startswith("decode: not an image")
    assert made.failed["bus/1.png"].startswith("read: ")
    assert len(made.failed) == 2
    with pytest.raises(SourceError):  # a shard that is gone is no fault of an image
        open_source(str(tmp_path / "gone.tar"))


def test_a_target_that_cannot_be_read_fails_its_pair(store: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "cars", tmp_path / "cars")
    shutil.copytree(pictures / "pets", tmp_path / "pets")
    for path in (tmp_path / "pets" / "train").rglob("*.png"):
        path.write_bytes(b"no image".ljust(path.stat().st_size))
    made = run(store, tmp_path, tmp_path / "out")
    assert len(made.failed) == 10
    assert all("its target" in reason and reason.startswith("decode: ") for reason in made.failed.values())
    assert made.arrays["trace_loss"].shape == (10, 3)
    assert set(store_features(Store.open(store, writable=True), FakeEncoder().provenance, tmp_path / "out", "all")) > {
        "all/float"
    }


# Other aims ----------------------------------------------------------------------------------------------------------


def test_other_aims_are_reached(store: Path, pictures: Path, tmp_path: Path) -> None:
    pets = Store.open(store).images("fake", "pets", "train")
    prototypes = np.stack([pets.embedded()[pets.labels == label].mean(axis=0) for label in range(3)])
    texts = FakeEncoder().texts(["cat", "dog", "fish"])
    probe = {
        "coef": prototypes,
        "intercept": np.zeros(3),
        "mean": np.zeros(24),
        "scale": np.ones(24),
    }
    for aim in (Aim("prototypes", vectors=prototypes), Aim("texts", vectors=texts), Aim("energy", probe=probe)):
        made = run(store, pictures, tmp_path / aim.kind, aim=aim)
        assert (made.arrays["similarity"] > made.arrays["similarity_before"]).all(), aim.kind
        assert not (tmp_path / aim.kind / "target").exists()
        targets = made.arrays["target_row"]
        if aim.kind == "energy":
            assert (targets == -1).all()
            continue
        view = FakeEncoder()
        joint = made.arrays["features"] @ view.projection if aim.kind == "texts" else made.arrays["features"]
        aimed = (texts if aim.kind == "texts" else prototypes)[pets.labels[targets]]
        cosine = (joint * aimed).sum(1) / np.linalg.norm(joint, axis=1) / np.linalg.norm(aimed, axis=1)
        np.testing.assert_allclose(made.arrays["similarity"], cosine, atol=1e-5)


def test_an_mlp_head_has_its_joint_features_stored(pictures: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    for source in ("cars/test", "pets/train"):
        arguments = ["extract", str(pictures / source), "--store", str(store), "--model", "fake:mlp", "--quiet"]
        main(arguments, standalone_mode=False)
    encoder = FakeEncoder("mlp")
    run(store, pictures, tmp_path / "out", encoder=encoder)
    store_features(Store.open(store, writable=True), encoder.provenance, tmp_path / "out", "attacked")
    found = Store.open(store).images("fake-mlp", "attacked", "float")
    head = encoder._head.astype(np.float64)
    np.testing.assert_allclose(found.projected(), np.tanh(found.embedded() @ head), atol=3e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "stars"}, "aims at images"),
        ({"kind": "texts"}, "needs vectors"),
        ({"vectors": np.eye(3)}, "takes no vectors"),
        ({"kind": "energy"}, "needs a probe's coef"),
        ({"kind": "images", "probe": {"coef": np.eye(3)}}, "were given"),
        ({"kind": "texts", "vectors": np.full((2, 3), np.nan)}, "finite"),
        ({"kind": "texts", "vectors": np.zeros(3)}, "finite"),
    ],
)
def test_aims_that_are_none(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Aim(**wrong)


@pytest.mark.parametrize(
    ("aim", "message"),
    [
        (Aim("prototypes", vectors=np.ones((2, 23))), "must be 24 wide for this model, not 23"),
        (Aim("texts", vectors=np.ones((2, 24))), "must be 12 wide for this model, not 24"),
        (Aim("prototypes", vectors=np.zeros((2, 24))), "10 of 10 targets have none"),
        (
            Aim(
                "energy", probe={"coef": np.eye(9), "intercept": np.zeros(9), "mean": np.zeros(9), "scale": np.ones(9)}
            ),
            r"features are 24 wide, the probe's \(9, 9\)",
        ),
    ],
)
def test_aims_of_another_width_are_refused(store: Path, pictures: Path, tmp_path: Path, aim: Aim, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(store, pictures, tmp_path / "out", aim=aim)
    assert not (tmp_path / "out").exists()


def test_targets_without_a_class_are_refused(store: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"class among the 1 that have a vector; \d+ of 10 targets have none"):
        run(store, pictures, tmp_path / "out", aim=Aim("prototypes", vectors=np.eye(1, 24)))


def test_out_of_memory_is_told_and_kept_in_mind(store: Path, pictures: Path, tmp_path: Path) -> None:
    sizes: list[int] = []

    class Small(FakeEncoder):
        def differentiable(self) -> Any:
            view = super().differentiable()

            def features(pixels: Any) -> Any:
                sizes.append(len(pixels))
                if len(pixels) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return view.features(pixels)

            return replace(view, features=features)

    seen: list[Progress] = []
    run(store, pictures, tmp_path / "small", encoder=Small(), batch_size=4, progress=seen.append)
    run(store, pictures, tmp_path / "whole")
    assert files(tmp_path / "small") == files(tmp_path / "whole")
    assert sizes.count(4) == 1
    assert seen[-1].notes == ("out of memory with 4 images at once; going on with 2",)


def test_two_attacks_do_not_share_a_name(store: Path, pictures: Path, tmp_path: Path) -> None:
    """Keys, labels and numbers are the same in both."""
    for out, steps in (("a", 6), ("b", 7)):
        run(store, pictures, tmp_path / out, options=replace(OPTIONS, steps=steps))
    opened, made_by = Store.open(store, writable=True), FakeEncoder().provenance
    store_features(opened, made_by, tmp_path / "a", "attacked")
    before = opened.images("fake", "attacked", "float").embedded()
    with pytest.raises(FingerprintMismatch, match="holds attacked/float of another attack than the one in"):
        store_features(opened, made_by, tmp_path / "b", "attacked")
    np.testing.assert_array_equal(opened.images("fake", "attacked", "float").embedded(), before)
    store_features(opened, made_by, tmp_path / "a", "attacked")


def test_an_attack_that_was_made_again_otherwise_is_another(store: Path, pictures: Path, tmp_path: Path) -> None:
    """As on a GPU whose kernels do not repeat themselves, after the folder was lost."""
    run(store, pictures, tmp_path / "a")
    opened, made_by = Store.open(store, writable=True), FakeEncoder().provenance
    store_features(opened, made_by, tmp_path / "a", "attacked")
    block = read_block(tmp_path / "a", 2)
    block["features"] = block["features"] * np.float32(1.001)
    write_block(tmp_path / "a", 2, block, ["adversarial", "clean", "target"])
    with pytest.raises(FingerprintMismatch, match="attacked/float"):
        store_features(opened, made_by, tmp_path / "a", "attacked")


def test_another_models_attack_is_not_stored(store: Path, pictures: Path, tmp_path: Path) -> None:
    run(store, pictures, tmp_path / "out")
    with pytest.raises(FingerprintMismatch, match="was made with fake"):
        store_features(Store.open(store, writable=True), FakeEncoder("other").provenance, tmp_path / "out", "x")
    assert "x" not in Store.open(store).datasets()


def test_a_model_that_crops_inside_what_it_scales_does_not_keep_pixels() -> None:
    view = differentiable(FakeEncoder())
    assert keeps_pixels(view)

    def cropped(image: Any) -> Any:
        return view.pixels(image.crop((1, 1, image.width - 1, image.height - 1)))

    assert not keeps_pixels(replace(view, pixels=cropped))


def test_tars_are_attacked_too(pictures: Path, tmp_path: Path) -> None:
    """Rows far apart in shards, and a split with shards of its own."""
    write_folder(tmp_path / "pets" / "train", ["cat"], 3, seed=0)
    rng = np.random.default_rng(0)
    for shard in range(2):
        content = [(f"{shard}{n}", {"png": png(rng, 20 * n), "txt": b"x"}) for n in range(5)]
        write_tar(tmp_path / "tars" / f"test-{shard:06d}.tar", content)
    for source in ("tars", "pets/train"):
        arguments = ["extract", str(tmp_path / source), "--store", str(tmp_path / "s"), "--model", "fake", "--quiet"]
        main(arguments, standalone_mode=False)
    sides = [
        Side(open_source(str(tmp_path / "tars")), "tars", "test"),
        Side(open_source(str(tmp_path / "pets/train")), "pets", "train"),
    ]
    made = attack(Store.open(tmp_path / "s"), FakeEncoder(), *sides, tmp_path / "out", num=10, options=OPTIONS)
    assert sorted(made.arrays["keys"].tolist()) == sorted(f"{shard}{n}" for shard in range(2) for n in range(5))
    assert all("cls" not in sample for sample in read_shards(tmp_path / "out" / "clean").values())
    assert not (tmp_path / "out" / "clean" / "classes.json").exists()
