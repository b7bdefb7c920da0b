"""Folders of images, held to torchvision's ImageFolder; and torchvision's own data sets, with no network."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from embedstore.errors import ImageError, SourceError, UnknownName, UsageError
from embedstore.records import Rows
from embedstore.sources import decode, open_source

FILES = [
    "zebra/b.png",
    "zebra/a.JPG",
    "zebra/sub/c.jpeg",
    "zebra/sub-2/d.png",
    "zebra/sub/deep.er/e.png",
    "Ape/x.webp",
    "ape/ü ñ.png",
    "b-c/1.png",
    "b/2.png",
    "b/x/3.png",
    "b-c/y/4.png",
]


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    root = tmp_path / "my zoo"
    for i, name in enumerate(FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        suffix = "PNG" if name.endswith(".png") else "WEBP" if name.endswith(".webp") else "JPEG"
        Image.new("RGB", (4, 4), (20 * i, 0, 0)).save(root / name, suffix)
    (root / "zebra" / "b.txt").write_text("eine Zebraherde ü", encoding="utf-8")
    (root / "zebra" / "notes.md").write_text("not an image")
    return root


def test_a_folder_is_read_as_torchvision_reads_it(zoo: Path) -> None:
    from torchvision.datasets import ImageFolder

    expected = ImageFolder(str(zoo))
    source = open_source(str(zoo))
    rows = source.scan()
    assert list(rows.keys) == [os.path.relpath(path, zoo) for path, _ in expected.samples]
    assert rows.labels.tolist() == expected.targets
    assert list(rows.class_names or ()) == expected.classes
    payloads = list(source.read(rows, 0, len(rows)))
    assert payloads == [Path(path).read_bytes() for path, _ in expected.samples]
    for payload, (image, _) in zip(payloads, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(decode(payload)), np.asarray(image))
    assert rows.length.tolist() == [len(payload) for payload in payloads if isinstance(payload, bytes)]
    assert set(rows.shard.tolist()) == {-1}
    assert set(rows.offset.tolist()) == {0}
    assert (source.dataset, source.split) == ("my-zoo", "test")
    copy = pickle.loads(pickle.dumps(source))
    for start, stop in ((0, 3), (2, 2), (7, 99), (-2, 9)):
        assert list(copy.read(rows, start, stop)) == payloads[start:stop]
    assert copy.scan().fingerprint() == rows.fingerprint()


def test_captions_lie_beside_the_images(zoo: Path) -> None:
    source = open_source(str(zoo))
    rows = source.scan()
    expected = ["eine Zebraherde ü" if key == "zebra/b.png" else None for key in rows.keys]
    assert list(source.captions(rows, 0, len(rows), "txt")) == expected
    (zoo / "zebra" / "b.txt").write_bytes(b"z\xffbra")
    assert [text for text in source.captions(rows, 0, len(rows), ".txt") if text] == ["z\ufffdbra"]


def test_a_folder_at_any_url(zoo: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in zoo.rglob("*"):
        if path.is_file():
            memory.pipe(f"/files/zoo/{path.relative_to(zoo)}", path.read_bytes())
    for hidden in (".a.png", "ape/.b.png", ".dir/c.png", "ape/.dir/d.png"):
        memory.pipe(f"/files/zoo/{hidden}", b"x")
    source = open_source("memory://files/zoo")
    rows, local = source.scan(), open_source(str(zoo)).scan()
    assert rows.fingerprint() == local.fingerprint()
    assert rows.class_names == local.class_names
    assert list(source.read(rows, 3, 5)) == list(open_source(str(zoo)).read(local, 3, 5))
    assert list(source.captions(rows, 5, 9, "txt")) == list(open_source(str(zoo)).captions(local, 5, 9, "txt"))


def test_a_flat_folder(tmp_path: Path) -> None:
    for name in ("10.png", "9.png", "a.jpg", ".hidden.png"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    (tmp_path / "photos" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "photos" / ".ipynb_checkpoints" / "c.png").write_bytes(b"x")
    rows = open_source(str(tmp_path / "photos")).scan()
    assert list(rows.keys) == ["10.png", "9.png", "a.jpg"]
    assert rows.labels.tolist() == [-1, -1, -1]
    assert rows.class_names is None
    (tmp_path / "c.txt").write_text("a\nb")
    assert open_source(str(tmp_path / "photos"), classes=str(tmp_path / "c.txt")).scan().class_names == ("a", "b")


def labels_by_folder(rows: Rows) -> dict[str, int]:
    return {key.partition("/")[0]: int(label) for key, label in zip(rows.keys, rows.labels, strict=True)}


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("Ape ape b b-c zebra", {"Ape": 0, "ape": 1, "b": 2, "b-c": 3, "zebra": 4}),
        ("zebra b-c ape b Ape", {"Ape": 4, "ape": 2, "b": 3, "b-c": 1, "zebra": 0}),
        ("yak zebra b-c emu ape b emu Ape", {"Ape": 7, "ape": 4, "b": 5, "b-c": 2, "zebra": 1}),
        ("one two two four five", {"Ape": 0, "ape": 1, "b": 2, "b-c": 3, "zebra": 4}),  # in place of n01440764 …
    ],
)
def test_class_names_give_the_labels(zoo: Path, tmp_path: Path, names: str, labels: dict[str, int]) -> None:
    (tmp_path / "c.txt").write_text(names.replace(" ", "\n"))
    rows = open_source(str(zoo), classes=str(tmp_path / "c.txt")).scan()
    assert rows.class_names == tuple(names.split())
    assert labels_by_folder(rows) == labels
    assert list(rows.keys) == list(open_source(str(zoo)).scan().keys)  # the order of the rows is the folders' own


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("one two", "has 5 class folders, but 2 class names were given, and no folder's name occurs"),
        ("one two three four five six", "has 5 class folders, but 6 class names were given"),
        ("zebra ape b b_c Ape", r"class folder\(s\) 'b-c' do not occur among the 5 class names given"),
        ("zebra one two three four", r"class folder\(s\) 'Ape', 'ape', 'b', 'b-c' do not occur"),
        ("zebra ape b b-c Ape ape", r"class name\(s\) 'ape' were given more than once"),
    ],
)
def test_class_names_that_do_not_fit(zoo: Path, tmp_path: Path, names: str, message: str) -> None:
    (tmp_path / "c.txt").write_text(names.replace(" ", "\n"))
    with pytest.raises(SourceError, match=message):
        open_source(str(zoo), classes=str(tmp_path / "c.txt")).scan()


def test_links_are_followed_but_not_in_circles(zoo: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / "ape").symlink_to(zoo / "ape")
    (links / "zebra").mkdir()
    (links / "zebra" / "b.png").symlink_to(zoo / "zebra" / "b.png")
    (links / "zebra" / "gone.png").symlink_to(zoo / "nothing.png")
    (links / "zebra" / "round").symlink_to(links)
    source = open_source(str(links))
    rows = source.scan()
    assert list(rows.keys) == ["ape/ü ñ.png", "zebra/b.png", "zebra/gone.png"]
    assert rows.length.tolist() == [*((zoo / name).stat().st_size for name in rows.keys[:2]), -1]
    good, also_good, gone = source.read(rows, 0, 3)
    assert isinstance(good, bytes)
    assert also_good == (zoo / "zebra" / "b.png").read_bytes()
    assert isinstance(gone, ImageError)


def test_a_file_that_goes_or_changes_fails_alone(zoo: Path) -> None:
    source = open_source(str(zoo))
    rows = source.scan()
    (zoo / rows.keys[1]).unlink()
    (zoo / rows.keys[2]).write_bytes(b"other")
    payloads = list(source.read(rows, 0, len(rows)))
    assert [i for i, payload in enumerate(payloads) if isinstance(payload, ImageError)] == [1, 2]
    assert "cannot read ape/ü ñ.png: FileNotFoundError" in str(payloads[1])
    assert "b/2.png has changed since it was listed" in str(payloads[2])


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, IsADirectoryError])
def test_what_is_the_files_own_fault_fails_alone(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    source = open_source(str(zoo))
    rows = source.scan()
    break_reading(monkeypatch, "b/2.png", error("no"))
    assert [isinstance(payload, ImageError) for payload in source.read(rows, 1, 4)] == [False, True, False]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O"), OSError(errno.EMFILE, "too many"), OSError(errno.ENOTCONN, "gone"), OSError()]
)
def test_a_broken_disk_is_no_fault_of_the_images(zoo: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    source = open_source(str(zoo))
    rows = source.scan()
    break_reading(monkeypatch, "b/2.png", error)
    payloads = source.read(rows, 1, 4)
    assert isinstance(next(payloads), bytes)
    with pytest.raises(SourceError, match=r"cannot read .*my zoo/b/2\.png: OSError"):
        next(payloads)


def break_reading(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    from fsspec.implementations.local import LocalFileSystem

    whole = LocalFileSystem.open

    def broken(self: LocalFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(name):
            raise error
        return whole(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "open", broken)


def test_images_at_the_top_and_below_are_refused(zoo: Path) -> None:
    (zoo / "top.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"images at the top \('top\.png'\) and in sub-folders"):
        open_source(str(zoo)).scan()


def test_a_class_folder_without_images_is_named(zoo: Path) -> None:
    (zoo / "annotations").mkdir()
    with pytest.raises(SourceError, match=r"no images in class folder\(s\) 'annotations'"):
        open_source(str(zoo)).scan()


def test_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            (tmp_path / "pets" / split / name / f"{split}.png").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"a folder for each split: 'train', 'valid'\. Choose one with --split"):
        open_source(str(tmp_path / "pets"))
    with pytest.raises(UsageError, match="has no folder for split 'test'; found 'train', 'valid'"):
        open_source(str(tmp_path / "pets"), split="test")
    source = open_source(str(tmp_path / "pets"), split="validation")
    assert (source.dataset, source.split) == ("pets", "validation")
    assert list(source.scan().keys) == ["cat/valid.png", "dog/valid.png"]
    source = open_source(str(tmp_path / "pets" / "valid"))
    assert (source.dataset, source.split, source.scan().class_names) == ("pets", "val", ("cat", "dog"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        (tmp_path / "vehicles" / name).mkdir(parents=True)
        (tmp_path / "vehicles" / name / "0.png").write_bytes(b"x")
    assert open_source(str(tmp_path / "vehicles"), split="train").scan().class_names == ("bus", "car", "train")


# torchvision


def write_mnist(root: Path, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The four files of MNIST's format, idx: a magic number, the dimensions, the bytes."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
        images, labels = images[::-1], labels[::-1]
    return images, labels  # of the train split, again


def test_mnist_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = write_mnist(tmp_path, 12)
    source = open_source(f"torchvision:MNIST@{tmp_path}", split="train")
    rows = source.scan()
    assert (source.dataset, source.split) == ("mnist", "train")
    assert rows.labels.tolist() == labels.tolist()
    assert rows.labels.dtype == np.int32
    assert list(rows.keys)[:2] == ["00000000", "00000001"]
    assert rows.class_names is not None
    assert (len(rows.class_names), rows.class_names[0]) == (10, "0 - zero")
    assert set(rows.shard) == set(rows.offset) == set(rows.length) == {-1}
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    for i, payload in enumerate(copy.read(rows, 3, 8), start=3):
        np.testing.assert_array_equal(np.asarray(decode(payload))[..., 0], images[i])
    monkeypatch.setenv("EMBEDSTORE_DATA", str(tmp_path))
    test = open_source("torchvision:MNIST").scan()
    assert test.labels.tolist() == labels[::-1].tolist()
    with pytest.raises(UsageError, match="torchvision:MNIST has no captions"):
        list(source.captions(rows, 0, 1, "txt"))


def test_the_first_rows_of_a_scan_can_be_read(tmp_path: Path) -> None:
    images, _ = write_mnist(tmp_path, 12)
    source = open_source(f"torchvision:MNIST@{tmp_path}", split="train")
    rows = source.scan()
    columns = {name: getattr(rows, name)[:5] for name in ("keys", "labels", "shard", "offset", "length")}
    payloads = list(source.read(dataclasses.replace(rows, **columns), 0, 99))
    assert len(payloads) == 5
    for payload, image in zip(payloads, images[:5], strict=True):
        np.testing.assert_array_equal(np.asarray(decode(payload))[..., 0], image)
    columns = {name: [*getattr(rows, name), *getattr(rows, name)] for name in columns}
    columns["keys"] = [f"{number:08d}" for number in range(24)]
    with pytest.raises(SourceError, match="has 12 images in split 'train' now, but number 23 was listed"):
        list(source.read(dataclasses.replace(rows, **columns), 0, 24))


def test_torchvision_names_and_splits(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown torchvision data set 'CIFAR'\. .*Known: CIFAR10, CIFAR100"):
        open_source("torchvision:CIFAR")
    with pytest.raises(UnknownName, match="CocoDetection"):
        open_source("torchvision:CocoDetection")
    with pytest.raises(UsageError, match="torchvision:MNIST has no split 'val'; it has 'train' and 'test'"):
        open_source(f"torchvision:MNIST@{tmp_path}", split="val").scan()
    with pytest.raises(UsageError, match=r"torchvision:SVHN has no split 'dev': .*'extra'"):
        open_source(f"torchvision:SVHN@{tmp_path}", split="dev").scan()


def test_every_torchvision_name_exists() -> None:
    import torchvision.datasets

    from embedstore.sources.vision import DATASETS

    assert list(DATASETS) == sorted(DATASETS)
    assert [name for name in DATASETS if not hasattr(torchvision.datasets, name)] == []


@pytest.mark.parametrize("name", ["CIFAR10", "DTD", "Country211"])
def test_without_files_or_network(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.error
    import urllib.request

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(SourceError) as caught:
        open_source(f"torchvision:{name}@{tmp_path}", split="test").scan()
    message = str(caught.value)
    assert f"torchvision:{name} is not in {tmp_path}" in message
    assert "downloading failed: URLError" in message
    assert f"put torchvision's files there, or give their root as torchvision:{name}@/its/root" in message


def test_what_cannot_be_downloaded_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is not in .*, and torchvision cannot download it: put torchvision's files"):
        open_source(f"torchvision:FER2013@{tmp_path}", split="test").scan()


class Fake:
    """A data set as torchvision's are, for what MNIST does not show."""

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "valid"):
            raise ValueError(f"Unknown value {split!r} for argument split. Valid values are {{'train', 'valid'}}.")
        if not download and not os.path.exists(root):
            raise RuntimeError("Dataset not found")
        os.makedirs(root, exist_ok=True)
        print("Files already downloaded and verified")
        self._samples = [("a", 2), ("b", None), ("c", 0)]
        self.classes = [("tench", "Tinca tinca"), ("goldfish",), ("shark",)]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        if index == 1:
            raise OSError("broken file")
        return Image.new("L", (2, 2), index), self._samples[index][1]


def test_other_shapes_of_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "DTD", Fake)
    source = open_source(f"torchvision:DTD@{tmp_path / 'new'}", split="val")
    rows = source.scan()
    assert rows.labels.tolist() == [2, -1, 0]
    assert rows.class_names == ("tench", "goldfish", "shark")
    first, broken, last = source.read(rows, 0, 3)
    assert isinstance(broken, ImageError)
    assert "00000001: OSError: broken file" in str(broken)
    assert (decode(first).getpixel((0, 0)), decode(last).getpixel((0, 0))) == ((0, 0, 0), (2, 2, 2))
    assert capsys.readouterr().out == ""  # stdout belongs to --json
    (tmp_path / "c.txt").write_text("only\ntwo")
    with pytest.raises(SourceError, match=r"torchvision:DTD: label 2, but there are 2 class names"):
        open_source(f"torchvision:DTD@{tmp_path / 'new'}", split="val", classes=str(tmp_path / "c.txt")).scan()


class Files:
    """A data set that opens its files late, as Caltech101 does."""

    classes = ("only",)

    def __init__(self, root: str) -> None:
        self.paths = sorted(Path(root).iterdir())
        self.targets = [0] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.paths[index]), 0


# Pillow leaves the file of a damaged image to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broken_disk_under_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    import torchvision.datasets

    for name in ("0.png", "1.png", "2.png", "3.png", "4.png"):
        Image.effect_noise((32, 32), 50).save(tmp_path / name)
    monkeypatch.setattr(torchvision.datasets, "Caltech101", Files)
    source = open_source(f"torchvision:Caltech101@{tmp_path}")
    rows = source.scan()
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    payloads = list(source.read(rows, 0, 5))
    assert [isinstance(payload, ImageError) for payload in payloads] == [False, True, True, True, False]
    assert "00000001: FileNotFoundError" in str(payloads[1])

    whole = builtins.open

    def broken(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).endswith("4.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", broken)
    with pytest.raises(SourceError, match=r"cannot read torchvision:Caltech101: 00000004: OSError: \[Errno 5\]"):
        list(source.read(rows, 4, 5))


def test_importing_the_room_loads_no_library() -> None:
    import subprocess
    import sys

    heavy = "torch", "torchvision", "webdataset", "PIL", "fsspec", "braceexpand"
    code = f"import embedstore.sources, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
