"""Bad images never stop a run and never vanish: what becomes of every kind of image, and of runs with bad ones.

One table says for each kind either which pixels are embedded, found without our decoder, or at which stage it fails and
what the ledger says. It is embedded whole, as a tar and as a folder, in this process and in workers.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import Command, write_tar
from PIL import Image

import embedstore.extract.loading
from embedstore.cli import main
from embedstore.encoders import ImageFeatures
from embedstore.encoders.fake import FakeEncoder, shrink
from embedstore.errors import ImageError, SourceError
from embedstore.extract import Outcome, embed_images, list_rows
from embedstore.records import FAILED, OK, Failure
from embedstore.sources import open_source
from embedstore.store import Images, Store

Picture = np.ndarray[Any, np.dtype[np.uint8]]

RNG = np.random.default_rng(0)
# 8 x 6 squares of colour: coarse, so that a turned, cut or otherwise wrong picture gives other features.
PICTURE: Picture = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
OTHER: Picture = 255 - PICTURE
GREY16 = RNG.integers(0, 65536, (6, 8), dtype=np.uint16).repeat(8, axis=0).repeat(8, axis=1)


def encoded(picture: Picture | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def stored(raw: bytes) -> Picture:
    """The pixels as they lie in the file, in its own mode."""
    return np.asarray(Image.open(io.BytesIO(raw)))


def png(width: int, height: int, lines: bytes, depth: int = 8, kind: int = 2) -> bytes:
    """A PNG written by hand: what Pillow cannot or will not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PICTURE, "PNG", exif=exif)


def damaged(raw: bytes, start: int, new: bytes) -> bytes:
    return raw[:start] + new + raw[start + len(new) :]


JPEG, PNG = encoded(PICTURE, "JPEG"), encoded(PICTURE, "PNG")
SPOILED = damaged(JPEG, len(JPEG) - 99, bytes(30))
CMYK = encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")
PALETTE = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
COLOURS = np.array(PALETTE.getpalette(), dtype=np.uint8).reshape(-1, 3)
DEEP = RNG.integers(0, 65536, (6, 8, 3), dtype=np.uint16)
LONG: Picture = RNG.integers(0, 256, (1, 20_000, 3), dtype=np.uint8)
WHITE: Picture = np.full((9, 9, 3), 255, dtype=np.uint8)


def by_hand(cmyk: Picture) -> Picture:
    """RGB of inks that lie one over the other, without a colour profile."""
    light = 255 - cmyk[..., 3:].astype(int)
    rgb: Picture = (light - np.rint(cmyk[..., :3] * light / 255)).astype(np.uint8)
    return rgb


# What EXIF's orientations mean: how the stored pixels are turned so that the picture stands upright.
UPRIGHT: dict[int, Callable[[Picture], Picture]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}

# Name: extension, bytes, and the pixels (H, W, 3) or the stage and what the reason says.
TABLE: dict[str, tuple[str, bytes, Picture | tuple[str, str]]] = {
    "png": ("png", PNG, PICTURE),
    "jpeg": ("jpg", JPEG, stored(JPEG)),
    "jpeg called png": ("png", JPEG, stored(JPEG)),
    "jpeg with rubbish behind it": ("jpg", JPEG + b"rubbish" * 100, stored(JPEG)),
    # libjpeg makes what it can of a damaged scan, as every browser does, and so is that embedded.
    "jpeg with a damaged scan": ("jpg", SPOILED, stored(SPOILED)),
    "cmyk": ("jpg", CMYK, by_hand(stored(CMYK))),
    "grey": ("png", encoded(PICTURE[..., 0], "PNG"), PICTURE[..., [0, 0, 0]]),
    "black and white": (
        "png",
        encoded(Image.fromarray(PICTURE[..., 0] > 99), "PNG"),
        (PICTURE[..., [0, 0, 0]] > 99).astype(np.uint8) * 255,
    ),
    "16-bit grey": (
        "png",
        encoded(Image.fromarray(GREY16), "PNG"),
        np.rint(GREY16 / 257).astype(np.uint8)[..., None].repeat(3, axis=2),
    ),
    # Of 16 bits a colour, Pillow reads the high eight.
    "16-bit colour": (
        "png",
        png(8, 6, b"".join(b"\0" + line.astype(">u2").tobytes() for line in DEEP), depth=16),
        (DEEP >> 8).astype(np.uint8),
    ),
    "transparent": ("png", encoded(np.dstack([PICTURE, OTHER[..., 0]]), "PNG"), PICTURE),
    "transparent palette": (
        "png",
        encoded(PALETTE, "PNG", transparency=bytes([0, 99, 200])),
        COLOURS[np.asarray(PALETTE)],
    ),
    "animated gif": (
        "gif",
        encoded(PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(OTHER)]),
        COLOURS[np.asarray(PALETTE)],
    ),
    "animated webp": (
        "webp",
        encoded(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(OTHER)]),
        PICTURE,
    ),
    **{f"exif {number}": ("png", turned(number), upright(PICTURE)) for number, upright in UPRIGHT.items()},
    "1 x 1": ("png", encoded(PICTURE[:1, :1], "PNG"), PICTURE[:1, :1]),
    "500 x 1": ("png", encoded(LONG[:, :500], "PNG"), LONG[:, :500]),
    # A model's transform would make gigabytes of these, scaling the short side to its own.
    "501 x 1": ("png", encoded(LONG[:, :501], "PNG"), ("preprocess", "501 × 1 pixels, more than 500 times as long as")),
    "20,000 x 1": ("png", encoded(LONG, "PNG"), ("preprocess", "20000 × 1 pixels, more than 500 times as long")),
    "1 x 20,000": ("png", encoded(LONG.transpose(1, 0, 2), "PNG"), ("preprocess", "1 × 20000 pixels, more than 500")),
    "truncated jpeg": ("jpg", JPEG[: len(JPEG) // 2], ("decode", r"cannot be decoded \(\d+ bytes\): OSError: .*runca")),
    "truncated png": ("png", PNG[: len(PNG) // 2], ("decode", "cannot be decoded .*truncated")),
    "corrupt jpeg": (
        "jpg",
        damaged(JPEG, JPEG.index(b"\xff\xdb") + 2, b"\xff\xff"),
        ("decode", "cannot be decoded .*OSError"),
    ),
    "corrupt png": ("png", damaged(PNG, PNG.index(b"IDAT") + 14, b"\xff\0\xff"), ("decode", "broken data stream")),
    "png without pixels": ("png", png(10, 10, b""), ("decode", "cannot be decoded")),
    "zero bytes": ("jpg", b"", ("decode", "the image is empty: 0 bytes")),
    "web page": ("jpg", b"<!DOCTYPE html>\n<h1>404</h1>", ("decode", r"a web page or XML \(28 bytes")),
    "text": ("png", b"no image", ("decode", r"not an image in a format that is read \(8 bytes, starts with b'no im")),
    "eps": ("jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ("decode", "not an image in a format")),
    "decompression bomb": ("png", png(100_000, 100_000, b""), ("decode", "too many pixels, perhaps a decompression")),
    "odd for the transform": ("png", encoded(PICTURE[:7, :7], "PNG"), ("preprocess", r"at 7 × 7 pixels: two lines, <")),
    "odd for the model": ("png", encoded(WHITE, "PNG"), ("model", "the model's output is not finite")),
    # Names
    "a  name with spaces ": ("png", b"no image", ("decode", "not an image")),
    "Straße 画像 🙂": ("png", b"no image", ("decode", "not an image")),
    "two\nlines": ("png", b"no image", ("decode", "not an image")),
    "[red]not[bold] :smile:": ("png", b"no image", ("decode", "not an image")),
    "\x1b[31mred\u202e": ("png", b"no image", ("decode", "not an image")),
    "Straße 画像\n[bold] 🙂": ("png", PNG, PICTURE),
}


def picky(image: Image.Image) -> Any:
    """The fake's transform, but it dislikes 7 x 7 pixels, in the words that libraries use."""
    if image.size == (7, 7):
        raise RuntimeError(f"two\nlines, {object()} and a \x1b[31mcolour")
    return shrink(image)


class Picky(FakeEncoder):
    """A fake that cannot embed plain white."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = picky

    def images(self, batch: Any) -> ImageFeatures:
        features = super().images(batch).features
        features[np.asarray(batch).reshape(len(batch), -1).min(axis=1) == 1] = np.nan
        return ImageFeatures(features)


def write_source(form: str, root: Path) -> Path:
    """The table as one shard, or as a flat folder; and one more sample whose image cannot be had."""
    if form == "tar":
        samples = [(name, {extension: raw}) for name, (extension, raw, _) in TABLE.items()]
        write_tar(root / "bad.tar", [*samples, ("no image member", {"txt": b"a caption", "json": b"{}"})])
        return root / "bad.tar"
    (root / "images").mkdir()
    for name, (extension, raw, _) in TABLE.items():
        (root / "images" / f"{name}.{extension}").write_bytes(raw)
    (root / "images" / "link to nothing.png").symlink_to(root / "nothing")
    (root / "images" / "notes.txt").write_text("no image, and not called one")
    return root / "images"


def embed(
    source: Path, location: Path, *, listed: Callable[[], None] = lambda: None, **options: Any
) -> tuple[Images, Outcome, bytes]:
    """Embed with the picky fake; the embeddings, the outcome, and the bytes of the ledger.

    `listed` is called between listing the rows and reading them.
    """
    store, encoder = Store.create(location), Picky()
    opened = open_source(str(source))
    split = list_rows(store, opened, block_rows=4)
    store.add_model(encoder.provenance, encoder.projection)
    listed()
    outcome = embed_images(store, encoder, opened, split, **options)
    images = Store.open(location).images("fake", split.dataset, split.split)
    chunks = sorted((location / f"models/fake/images/{split.name}/failure/c").glob("*"))
    return images, outcome, b"".join(path.name.encode() + path.read_bytes() for path in chunks)


def features(picture: Picture) -> np.ndarray[Any, Any]:
    batch = shrink(Image.fromarray(picture))[None]
    return FakeEncoder().images(batch).features[0].astype(np.float16)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["tar", "folder"])
def test_every_kind_of_image_is_embedded_or_in_the_ledger(form: str, workers: int, tmp_path: Path) -> None:
    source = write_source(form, tmp_path)
    images, outcome, ledger = embed(source, tmp_path / "s.zarr", workers=workers, batch_size=3)

    absent = "no image member" if form == "tar" else "link to nothing"
    why = "no image member in sample" if form == "tar" else "cannot read link to nothing.png: FileNotFoundError"
    table = {**TABLE, absent: ("png", b"", ("read", why))}
    name_of = {name if form == "tar" else f"{name}.{extension}": name for name, (extension, _, _) in table.items()}
    assert sorted(images.keys) == sorted(name_of), "nothing vanishes"

    good = {name: expected for name, (_, _, expected) in table.items() if not isinstance(expected, tuple)}
    names = [name_of[key] for key in images.keys]
    assert {name for name, ok in zip(names, images.ok, strict=True) if ok} == set(good)
    for name, vector in zip(names, images.features[:], strict=True):
        if name in good:
            np.testing.assert_array_equal(vector, features(good[name]), err_msg=name)
        else:
            assert np.isnan(vector).all(), name

    failures = list(images.failures())
    assert [failure.row for failure in failures] == [row for row, name in enumerate(names) if name not in good]
    offsets = dict.fromkeys(table, -1 if form == "tar" else 0)
    if form == "tar":
        with tarfile.open(source) as tar:
            offsets |= {name: tar.getmember(f"{name}.{table[name][0]}").offset_data for name in TABLE}
    for failure in failures:
        name = name_of[failure.key]
        stage, reason = table[name][2]
        assert failure.key == images.keys[failure.row]
        assert (failure.stage, failure.shard) == (stage, "bad.tar" if form == "tar" else None), name
        assert failure.offset == offsets[name], name
        assert re.search(reason, failure.reason), (name, failure.reason)
        assert failure.reason.isprintable(), name
    assert outcome.failures == failures
    counts = [int((images.status == code).sum()) for code in (OK, FAILED, 0)]
    assert [outcome.ok, outcome.failed, outcome.pending] == counts == [len(good), len(table) - len(good), 0]

    # The ledger's text is the same in every run, whoever decodes: the addresses that libraries print are not.
    again = embed(source, tmp_path / "again.zarr", workers=0, batch_size=64)[2]
    assert ledger == again != b""


def test_more_than_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    size = (1 << 30) + 1
    (tmp_path / "images").mkdir()
    with (tmp_path / "images" / "huge.png").open("wb") as file:
        file.truncate(size)  # a hole: it takes no room
    info = tarfile.TarInfo("huge.png")
    info.size = size
    with (tmp_path / "huge.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate(512 + size // 512 * 512 + 512 + 1024)
    for number, (source, offset) in enumerate([(tmp_path / "images", 0), (tmp_path / "huge.tar", 512)]):
        failure = next(embed(source, tmp_path / f"{number}.zarr")[0].failures())
        assert (failure.stage, failure.offset) == ("read", offset)
        assert re.search(r"not read: 1073741825 bytes, and an image has at most 1073741824", failure.reason)


# Whole runs -----------------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    """The command, in this process."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def words(source: Path, location: Path) -> list[str | Path]:
    return ["extract", source, "--store", location, "--model", "fake", "--block-rows", "4", "--batch-size", "3"]


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def statuses(location: Path, name: str = "bad/test") -> list[int]:
    dataset, split = name.split("/")
    found: list[int] = Store.open(location).images("fake", dataset, split).status.tolist()
    return found


def ledger(location: Path) -> list[Failure]:
    return list(Store.open(location).images("fake", "bad", "test").failures())


def shard(path: Path, rows: int, bad: tuple[int, ...], first: int = 0) -> Path:
    """Rows ``k00``, ``k01`` … of which some are no images."""
    samples = [(f"k{first + n:02}", {"png": b"no image" if n in bad else PNG}) for n in range(rows)]
    write_tar(path, samples)
    return path


# Blocks of four rows: failures in the first three and the last.
BAD = (1, 4, 5, 9, 17)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A shard of 20 rows, five bad; and the store that one run makes of it."""
    root = tmp_path_factory.mktemp("twenty")
    source = shard(root / "bad" / "test-0.tar", 20, BAD)
    assert run(*words(source, root / "s.zarr")).exit_code == 3
    assert statuses(root / "s.zarr") == [2 if row in BAD else 1 for row in range(20)]
    return source, contents(root / "s.zarr")


def test_a_batch_and_a_shard_that_are_entirely_corrupt(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    shard(folder / "test-0.tar", 7, (0, 1, 2))  # the first batch
    shard(folder / "test-1.tar", 8, tuple(range(8)), first=7)  # a whole block of it, too
    shard(folder / "test-2.tar", 5, (), first=15)
    result = run(*words(folder, tmp_path / "s.zarr"))
    assert result.exit_code == 3
    assert "20 rows = 9 ok + 11 failed + 0 pending" in result.stdout
    bad = [0, 1, 2, *range(7, 15)]
    assert statuses(tmp_path / "s.zarr") == [2 if row in bad else 1 for row in range(20)]
    assert [(failure.row, failure.shard) for failure in ledger(tmp_path / "s.zarr")] == [
        (row, f"test-{0 if row < 7 else 1}.tar") for row in bad
    ]
    vectors = Store.open(tmp_path / "s.zarr").images("fake", "bad", "test").features[:]
    assert (vectors[[row for row in range(20) if row not in bad]] == features(PICTURE)).all()


def test_an_empty_data_set_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "readme.txt").write_text("no image")
    write_tar(tmp_path / "nothing.tar", [])
    write_tar(tmp_path / "meta.tar", [("__about__/notes", {"txt": b"metadata is no sample"})])
    for source, message in (
        ("empty", "no images"),
        ("texts", "no images"),
        ("nothing.tar", "no samples in 1 shard"),
        ("meta.tar", "no samples in 1 shard"),
    ):
        result = run(*words(tmp_path / source, tmp_path / "s.zarr"))
        assert result.exit_code == 1
        assert re.fullmatch(rf"Error: .*{message}.*\n", result.stderr), result.stderr
    assert Store.open(tmp_path / "s.zarr").datasets() == {}


def test_a_split_in_which_every_image_failed(fake_store: Path, tmp_path: Path, command: Command) -> None:
    location = tmp_path / "s.zarr"
    shutil.copytree(fake_store, location)
    result = run(*words(shard(tmp_path / "bad" / "test-0.tar", 6, tuple(range(6))), location))
    assert result.exit_code == 3
    assert "6 rows = 0 ok + 6 failed + 0 pending" in result.stdout
    for id_name, ood in (("pets", "bad"), ("bad", "pets")):
        result = command("probe", "--store", location, "--id", id_name, "--ood", ood, "--model", "fake")
        assert result.returncode == 1
        assert re.fullmatch(r"Error: bad/test has no finished rows for fake; .*\n", result.stderr), result.stderr
    result = command("ls", "--store", location)
    assert result.returncode == 0
    assert "0 (6 failed)" in result.stdout


def test_odd_names_are_printed_harmlessly(tmp_path: Path, command: Command) -> None:
    names = ["a  b ", "画像", "two\nlines", "[red]x[/red]", "[/]", "\x1b[31mred\u202e"]
    write_tar(tmp_path / "bad" / "test-0.tar", [(name, {"png": f"[bold]{name}".encode()}) for name in names])
    result = command(*words(tmp_path / "bad" / "test-0.tar", tmp_path / "s.zarr"), "--verbose")
    assert (result.returncode, result.stderr) == (3, "")
    lines = [line for line in result.stdout.splitlines() if line.startswith("  failed: ")]
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"  failed: {name!r}: decode: not an image")
        assert line.isprintable()
    assert [failure.key for failure in ledger(tmp_path / "s.zarr")] == names


@pytest.mark.parametrize(("name", "encoding"), [(":smile:", "utf-8"), ("画像", "ascii")])
def test_names_are_printed_as_they_are(tmp_path: Path, command: Command, name: str, encoding: str) -> None:
    write_tar(tmp_path / "bad" / "test-0.tar", [(name, {"png": b"no image"})])
    source, location = tmp_path / "bad" / "test-0.tar", tmp_path / "s.zarr"
    result = command(*words(source, location), env={"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (3, "")
    assert (repr(name) if encoding == "utf-8" else "decode: not an image") in result.stdout


# Shards that are not whole --------------------------------------------------------------------------------------------


def test_a_tar_cut_anywhere_is_refused_at_the_scan_and_named(tmp_path: Path) -> None:
    whole = shard(tmp_path / "bad" / "test-0.tar", 5, ()).read_bytes()
    with tarfile.open(tmp_path / "bad" / "test-0.tar") as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512  # here the zero blocks begin that close a tar
    cuts = {*range(0, end, 97), *range(0, end + 1, 512), *(last.offset_data + n for n in (-1, 0, 1)), end + 100}
    for cut in sorted(cuts):
        (tmp_path / "bad" / "test-0.tar").write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"test-0\.tar"):
            open_source(str(tmp_path / "bad" / "test-0.tar")).scan()
    result = run(*words(tmp_path / "bad", tmp_path / "s.zarr"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert Store.open(tmp_path / "s.zarr").datasets() == {}


@pytest.mark.parametrize(("workers", "after"), [(0, 0), (1, 0), (0, 6)])
def test_a_tar_cut_after_the_scan_stops_the_run_and_fails_no_image(tmp_path: Path, workers: int, after: int) -> None:
    path = shard(tmp_path / "bad" / "test-0.tar", 12, (0,))
    done = 0

    def cut(rows: int = 0, _: int = 0) -> None:
        nonlocal done
        done += rows
        if done >= after:
            os.truncate(path, 3000)

    with pytest.raises(SourceError, match=r"^test-0\.tar has changed since it was listed: \d+ bytes then, 3000 now"):
        embed(path, tmp_path / "s.zarr", listed=cut, progress=cut, workers=workers, batch_size=3)
    first = [2, 1, 1, 1] if after else [0] * 4
    assert statuses(tmp_path / "s.zarr") == [*first, *[0] * 8], "finished blocks are kept, and no more"
    assert [failure.row for failure in ledger(tmp_path / "s.zarr")] == [0] * (after > 0)


def test_a_key_in_two_shards_is_refused_naming_both(tmp_path: Path) -> None:
    shard(tmp_path / "bad" / "test-0.tar", 3, ())
    shard(tmp_path / "bad" / "test-1.tar", 3, (), first=2)
    result = run(*words(tmp_path / "bad", tmp_path / "s.zarr"))
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: key 'k02' is in test-0\.tar and again in test-1\.tar; .*\n", result.stderr)
    assert Store.open(tmp_path / "s.zarr").datasets() == {}


# Budgets, stopping, trying again --------------------------------------------------------------------------------------


def test_on_error_stop_names_the_image_and_keeps_the_blocks_before(
    twenty: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    source, whole = twenty[0], shard(tmp_path / "bad" / "test-0.tar", 20, (9, 10))
    for path, key, done in ((source, "k01", 0), (whole, "k09", 8)):
        location = tmp_path / f"{key}.zarr"
        result = run(*words(path, location), "--on-error", "stop")
        assert result.exit_code == 1
        assert re.fullmatch(rf"Error: '{key}' failed, and --on-error is stop: decode: not an image .*\n", result.stderr)
        assert statuses(location) == [1] * done + [0] * (20 - done)
        assert ledger(location) == []
    assert run(*words(source, tmp_path / "k01.zarr")).exit_code == 3
    assert contents(tmp_path / "k01.zarr") == twenty[1]
    good = shard(tmp_path / "good" / "test-0.tar", 5, ())
    assert run(*words(good, tmp_path / "good.zarr"), "--on-error", "stop").exit_code == 0


# The budget, how many rows had failed when it was exceeded, and which blocks were done then.
@pytest.mark.parametrize(
    ("budget", "failed", "allowed", "blocks"),
    [("0", 1, 0, 1), ("3", 4, 3, 3), ("10%", 3, 2, 2), ("24.9%", 5, 4, 5)],
)
def test_more_failures_than_allowed_stop_the_run_and_keep_its_blocks(
    twenty: tuple[Path, dict[str, bytes]], tmp_path: Path, budget: str, failed: int, allowed: int, blocks: int
) -> None:
    source, uninterrupted = twenty
    location = tmp_path / "s.zarr"
    result = run(*words(source, location), "--max-failures", budget)
    assert result.exit_code == 4
    said = (
        rf"Error: {failed} of 20 images of bad/test failed, and {allowed} may\. The last: 'k\d\d': decode: not an .*\n"
    )
    assert re.fullmatch(said, result.stderr), result.stderr
    expected = [2 if row in BAD else 1 for row in range(4 * blocks)]
    assert statuses(location) == expected + [0] * (20 - 4 * blocks)
    assert [failure.row for failure in ledger(location)] == [row for row in BAD if row < 4 * blocks]

    again = run(*words(source, location), "--max-failures", budget)
    assert again.exit_code == 4, "those that failed before count"
    assert statuses(location) == expected + [0] * (20 - 4 * blocks)
    last = run(*words(source, location), "--max-failures", "5")
    assert last.exit_code == 3
    assert "20 rows = 15 ok + 5 failed + 0 pending" in last.stdout
    assert contents(location) == uninterrupted


@pytest.mark.parametrize("budget", ["5", "25%", "50%", "100%"])
def test_no_more_failures_than_allowed(twenty: tuple[Path, dict[str, bytes]], tmp_path: Path, budget: str) -> None:
    assert run(*words(twenty[0], tmp_path / "s.zarr"), "--max-failures", budget).exit_code == 3
    assert contents(tmp_path / "s.zarr") == twenty[1]
    good = shard(tmp_path / "bad" / "test-0.tar", 4, ())
    assert run(*words(good, tmp_path / "good.zarr"), "--max-failures", "0").exit_code == 0


@pytest.mark.parametrize("budget", ["-1", "half", "5 %", "%", "1.5"])
def test_a_budget_that_is_none_is_a_usage_error(tmp_path: Path, budget: str) -> None:
    result = run(*words(tmp_path, tmp_path / "s.zarr"), f"--max-failures={budget}")
    assert (result.exit_code, budget in result.stderr) == (2, True)
    assert not (tmp_path / "s.zarr").exists()


def test_json_carries_the_failures(twenty: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    result = run(*words(twenty[0], tmp_path / "s.zarr"), "--json")
    (outcome,) = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (outcome["rows"], outcome["ok"], outcome["failed"], outcome["pending"]) == (20, 15, 5, 0)
    with tarfile.open(twenty[0]) as tar:
        offsets = [tar.getmember(f"k{row:02}.png").offset_data for row in BAD]
    assert [(f["row"], f["key"], f["shard"], f["offset"], f["stage"]) for f in outcome["failures"]] == [
        (row, f"k{row:02}", "test-0.tar", offset, "decode") for row, offset in zip(BAD, offsets, strict=True)
    ]
    assert all(f["reason"].startswith("not an image in a format that is read") for f in outcome["failures"])


def test_failed_images_are_tried_again_only_when_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, location = tmp_path / "bad" / "test", tmp_path / "s.zarr"
    folder.mkdir(parents=True)
    for row in range(20):
        (folder / f"k{row:02}.png").write_bytes(encoded(np.full((9, 9, 3), row, dtype=np.uint8), "PNG"))
    assert run(*words(folder, tmp_path / "never failed.zarr")).exit_code == 0

    decode, seen, broken = embedstore.extract.loading.decode, list[int](), set(BAD)

    def flaky(payload: Any) -> Image.Image:
        image = decode(payload)
        row = image.getpixel((0, 0))[0]  # type: ignore[index]
        seen.append(row)
        if row in broken:
            raise ImageError("a bad day")
        return image

    monkeypatch.setattr(embedstore.extract.loading, "decode", flaky)
    assert run(*words(folder, location)).exit_code == 3
    first = contents(location)
    seen.clear()
    assert run(*words(folder, location)).exit_code == 3, "done, but some failed"
    assert (seen, contents(location)) == ([], first)
    assert run(*words(folder, location), "--retry-failed").exit_code == 3
    assert seen == [*range(12), *range(16, 20)], "the blocks that hold a failed image"
    assert contents(location) == first, "the same failures are the same bytes"
    broken -= {4, 17}
    assert run(*words(folder, location), "--retry-failed", "--max-failures", "2").exit_code == 4
    assert [failure.row for failure in ledger(location)] == [1, 5, 9, 17], "17 was not reached"
    broken.clear()
    result = run(*words(folder, location), "--retry-failed")
    assert result.exit_code == 0
    assert "20 rows = 20 ok + 0 failed + 0 pending" in result.stdout
    assert ledger(location) == []
    assert contents(location) == contents(tmp_path / "never failed.zarr")
