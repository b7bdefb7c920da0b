"""Sources are written by others: they must not reach outside, fill the memory, or be blamed in words that change."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import re
import resource
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedstore.errors import ImageError, SourceError, UsageError
from embedstore.records import Rows
from embedstore.sources import decode, open_source, read_classes

# Nothing in a tar is a file ---------------------------------------------------------------------------------------

HOSTILE = ["../../x.png", "/etc/x.png", "a/../../../y.png", "..", "C:\\x.png", "a\0b.png", "\x1b[31m.png"]
LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A tar of members that a careless program would write, or follow, to where they point."""
    path = tmp_path / "deep" / "in" / "folders" / "hostile.tar"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for number, kind in enumerate(LINKS):
            link = tarfile.TarInfo(f"link{number}.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        for name in HOSTILE:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


def everything(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


def test_a_tar_writes_nothing_and_links_lead_nowhere(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile.parent)
    before = everything(tmp_path), os.listdir("/etc")
    opened = watch_opens(monkeypatch)
    source = open_source(str(hostile))
    rows = source.scan()
    payloads = list(source.read(rows, 0, len(rows)))
    list(source.captions(rows, 0, len(rows), "txt"))
    assert list(rows.keys) == ["../../x", "/etc/x", "a/../../../y", "C:\\x", "\x1b[31m"]
    assert payloads[:3] == [b"../../x.png", b"/etc/x.png", b"a/../../../y.png"]
    assert (everything(tmp_path), os.listdir("/etc")) == before
    assert {path for path in opened if not path.endswith((".py", ".pyc"))} <= {str(hostile)}


def watch_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every path that fsspec opens from now on."""
    from fsspec.implementations.local import LocalFileSystem

    opened: list[str] = []
    whole = LocalFileSystem.open

    def watched(self: LocalFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(path))
        return whole(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "open", watched)
    return opened


# Rows that somebody else wrote ------------------------------------------------------------------------------------


def rows_of(key: str, length: int = 5, *, offset: int = 0, shards: tuple[Any, ...] = ()) -> Rows:
    column = np.array([length], dtype=np.int64)
    return Rows(
        keys=[key],
        labels=np.array([-1], dtype=np.int32),
        shard=np.array([0 if shards else -1], dtype=np.int32),
        offset=np.array([offset], dtype=np.int64),
        length=column,
        shards=shards,
        class_names=None,
        source="elsewhere",
    )


@pytest.mark.parametrize("url", ["", "memory:/"])
@pytest.mark.parametrize(
    "key", ["../secret.png", "a/../../secret.png", "/secret.png", "./../secret.png", "a//b.png", ""]
)
def test_a_key_does_not_lead_out_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, key: str
) -> None:
    import fsspec

    root = f"{url}{tmp_path}/images"
    fs, _ = fsspec.core.url_to_fs(root)
    for name in ("images/a/b.png", "secret.png", "secret.txt"):
        fs.makedirs(str(tmp_path / name).rpartition("/")[0], exist_ok=True)
        fs.pipe_file(str(tmp_path / name), b"12345")
    source = open_source(root)
    assert list(source.read(rows_of("a/b.png"), 0, 1)) == [b"12345"]
    key = key.replace("/secret", f"{tmp_path}/secret") if key.startswith("/") else key
    opened = watch_opens(monkeypatch)
    (payload,) = source.read(rows_of(key), 0, 1)
    assert isinstance(payload, ImageError)
    assert str(payload) == f"{key!r} would lie outside of the folder; it is not read"
    assert opened == []
    if key:  # its caption would be the hidden file .txt, and inside
        with pytest.raises(SourceError, match="would lie outside of") as caught:
            list(source.captions(rows_of(key), 0, 1, "txt"))
        assert repr(key)[1:-5] in str(caught.value)
    assert opened == []


def test_an_extension_does_not_lead_out_either(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    source = open_source(str(tmp_path / "images"))
    with pytest.raises(SourceError, match="would lie outside of"):
        list(source.captions(source.scan(), 0, 1, "/../../secret"))


@pytest.mark.parametrize(("offset", "length"), [(0, 10**9), (10**15, 5), (1_000, 50_000)])
def test_rows_beyond_the_end_of_a_shard(hostile: Path, offset: int, length: int) -> None:
    source = open_source(str(hostile))
    rows = rows_of("a", length, offset=offset, shards=source.scan().shards)
    with pytest.raises(
        SourceError, match=r"hostile\.tar: the rows say that 'a' ends at byte \d+, but the shard has \d+"
    ):
        list(source.read(rows, 0, 1))


@pytest.mark.parametrize("length", [2**40, -7])
def test_an_image_larger_than_any_is_not_read(hostile: Path, length: int) -> None:
    source = open_source(str(hostile))
    (payload,) = source.read(rows_of("a", length, shards=source.scan().shards), 0, 1)
    assert isinstance(payload, ImageError)
    assert f"a: not read: {length} bytes" in str(payload)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"12345")
    os.truncate(tmp_path / "a.png", (1 << 30) + 1)  # a hole, not a gigabyte
    source = open_source(str(tmp_path))
    opened = watch_opens(monkeypatch)
    large, good = source.read(source.scan(), 0, 2)
    assert str(large) == "a.png: not read: 1073741825 bytes, and an image has at most 1073741824"
    assert good == b"12345"
    assert [Path(path).name for path in opened] == ["b.png"]


def test_a_caption_larger_than_any_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, size in (("a.png", 3), ("a.txt", (1 << 20) + 1)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
    source = open_source(str(tmp_path / "x.tar"))
    with pytest.raises(SourceError, match=r"x\.tar: caption of 'a' has 1048577 bytes; at most 1048576 are read"):
        list(source.captions(source.scan(), 0, 1, "txt"))


# Class names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'["' + b"a" * (16 << 20) + b'"]', "more than 16 MiB; that is no list of class names"),
        (b'{"classes":' * 50_000, "not valid JSON: RecursionError"),
        (b"[" * 10**6 + b"]" * 10**6, "not valid JSON: RecursionError"),
        (b"[" + b"1" * 10_000 + b"]", "not valid JSON: ValueError"),
        (b'["cat", NaN]', "class 1 must be a string; found float"),
        (b'["cat", null]', "class 1 must be a string; found NoneType"),
        (b'{"classes": "cat"}', "expected a list of names in label order; found str"),
        ('["cat\x9b31m"]'.encode(), "class 0 holds a control character"),
        (b'["a\\nb"]', "class 0 holds a control character"),
        (b'["a\\u0000"]', "class 0 holds a control character"),
    ],
)
def test_hostile_class_names(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "classes.json").write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_classes(tmp_path / "classes.json")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_messages_about_hostile_names_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"\x1b[31m" * 9: 1}))
    with pytest.raises(SourceError) as caught:
        read_classes(tmp_path / "classes.json")
    assert str(caught.value).isprintable()


# Sizes of images --------------------------------------------------------------------------------------------------


def png(width: int, height: int, body: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
def test_odd_shapes(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(buffer, "PNG")
    image = decode(buffer.getvalue())
    assert (image.size, image.getpixel((0, 0))) == (size, (1, 2, 3))


def test_a_bomb_fails_before_its_pixels_are_allocated() -> None:
    whole = zlib.compressobj(9)
    rows = b"".join(whole.compress(bytes(1 + 3 * 20_000)) for _ in range(2_000)) + whole.flush()
    bomb = png(20_000, 20_000, rows)  # of which a tenth is there
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="too many pixels, perhaps a decompression bomb"):
        decode(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_compressed_text_in_an_image_is_no_bomb_either() -> None:
    text = zlib.compress(b"x" * 100_000_000)
    data = b"Comment\0\0" + text
    raw = png(1, 1, zlib.compress(b"\0\1\2\3"))
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(raw[:33] + chunk + raw[33:])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


# The same words every time ----------------------------------------------------------------------------------------


class Odd:
    """A torchvision data set whose images fail in ways that name memory or files."""

    classes = ("only",)

    def __init__(self, root: str) -> None:
        self.root, self.targets = root, [0] * 4

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 0:
            return Image.open(io.BytesIO(b"no image")), 0
        if index == 1:
            return Image.open(os.path.join(self.root, "gone.png")), 0
        if index == 2:
            raise ValueError(f"cannot use {object()!r} of {self.root}")
        raise RuntimeError("403 for https://user:secret@host/x?X-Amz-Signature=secret")


def all_reasons(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every kind of ImageError that sources make, of the same images in the folder ``root``."""
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "Caltech101", Odd)
    truncated = png(50, 50, zlib.compress(b"\0" * 100))
    contents = [b"", b"no image", b"<html>", truncated, png(100_000, 100_000, b""), b"GIF89a" + b"\1" * 30]
    (root / "f").mkdir(parents=True)
    with tarfile.open(root / "x.tar", "w") as tar:
        for number, content in enumerate(contents):
            info = tarfile.TarInfo(f"{number}.png" if content else f"{number}.cls")
            info.size = len(content or b"1")
            tar.addfile(info, io.BytesIO(content or b"1"))
    for number in range(4):
        (root / "f" / f"{number}.png").write_bytes(b"x")
    (root / "f" / "4.png").symlink_to(root / "nowhere")
    tars, folder = open_source(str(root / "x.tar")), open_source(str(root / "f"))
    found = folder.scan().part(0, None)
    (root / "f" / "0.png").unlink()
    (root / "f" / "1.png").write_bytes(b"changed")
    (root / "f" / "2.png").unlink()
    (root / "f" / "2.png").mkdir()
    vision = open_source(f"torchvision:Caltech101@{root}")
    found = dataclasses.replace(found, keys=[*found.keys[:3], "../3.png", found.keys[4]])
    for source, rows in ((tars, tars.scan()), (folder, found), (vision, vision.scan())):
        for payload in source.read(rows, 0, len(rows)):
            with pytest.raises(ImageError) as caught:
                decode(payload)
            yield str(caught.value)
    with pytest.raises(ImageError) as caught:
        decode(b"")
    yield str(caught.value)


def test_reasons_do_not_differ_from_run_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, again = (list(all_reasons(tmp_path / name, monkeypatch)) for name in ("one", "two/deeper"))
    assert once == again
    assert len(once) == 16
    assert len(set(once)) == 16, "each has a reason of its own"
    for reason in once:
        assert not re.search(r"0x[0-9a-f]{6}|secret|/tmp|pytest", reason), reason
        assert str(tmp_path) not in reason


# Commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """Shards ``set/train-0.tar`` to ``-2.tar`` of four images each; and ``log``, to count runs in."""
    (tmp_path / "set").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "set" / f"train-{number}.tar", "w") as tar:
            for i in range(4):
                for suffix in ("png", "txt"):
                    info = tarfile.TarInfo(f"{number}-{i}.{suffix}")
                    info.size = 3
                    tar.addfile(info, io.BytesIO(f"{number}-{i}".encode()))
    return tmp_path


def piped(folder: Path) -> str:
    return f"pipe:echo run >> {folder}/log; cat {folder}/set/train-{{0..2}}.tar"


def runs(folder: Path) -> int:
    return (folder / "log").read_text().count("run") if (folder / "log").exists() else 0


def test_no_command_is_run_unless_allowed(logged: Path) -> None:
    for spec in (piped(logged), f"cmd:touch {logged}/log", f"touch {logged}/log |", f"| touch {logged}/log"):
        with pytest.raises(UsageError, match="--allow-commands"):
            open_source(spec)
        if not spec.startswith("pipe:"):
            with pytest.raises(UsageError):
                open_source(spec, allow_commands=True)
    assert runs(logged) == 0
    open_source(piped(logged), allow_commands=True)
    assert runs(logged) == 0, "not before it is scanned"


def test_what_commands_write_is_read_as_files_are(logged: Path) -> None:
    source, files = open_source(piped(logged), allow_commands=True), open_source(str(logged / "set"))
    rows = source.scan()
    assert rows.fingerprint() == files.scan().fingerprint()
    assert (source.dataset, source.split, rows.source) == ("set", "train", "pipe:train-0.tar … train-2.tar")
    assert list(source.read(rows, 1, 11)) == list(files.read(rows, 1, 11))
    assert list(source.captions(rows, 0, 12, "txt")) == list(files.captions(rows, 0, 12, "txt"))
    assert list(pickle.loads(pickle.dumps(source)).read(rows, 3, 6)) == list(files.read(rows, 3, 6))


def test_batches_in_order_run_each_command_once(logged: Path) -> None:
    source = open_source(piped(logged), allow_commands=True)
    rows = source.scan()
    assert runs(logged) == 3
    fresh = open_source(piped(logged), allow_commands=True)
    before = len(os.listdir("/proc/self/fd"))
    for start in range(12):
        list(fresh.read(rows, start, start + 1))
        list(fresh.captions(rows, start, start + 1, "txt"))
    assert runs(logged) == 6
    assert len(os.listdir("/proc/self/fd")) == before + 2, "two outputs are kept, however many are read"


def test_two_readers_of_one_output_do_not_disturb_each_other() -> None:
    from embedstore.sources.commands import Outputs

    outputs, command = Outputs(), "head -c 300000 /dev/urandom"
    with outputs.open(command) as one, outputs.open(command) as other:
        pairs = [(one.read(30_000), other.read(30_000)) for _ in range(10)]
    assert all(a == b and len(a) == 30_000 for a, b in pairs)
    assert len({a for a, _ in pairs}) == 10


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-command x.tar", r"the command for x\.tar ended with exit code 127: .*command not found"),
        ("cat /nothing/x.tar", r"the command for x\.tar ended with exit code 1: cat: .*No such file or directory"),
        ("echo first >&2; echo last >&2; echo >&2; exit 7 # x.tar", r"exit code 7: last$"),
        ("false | cat; cat x.tar", r"exit code 1"),
        ("(echo x.tar; exit 3) | cat", r"exit code 3"),
        ("echo 403 for https://u:secret@h/x.tar?secret >&2; exit 1", r"exit code 1: 403 for https://h/x\.tar$"),
        ("head -c 100 TMP/set/train-0.tar", r"train-0\.tar"),
        ("true x.tar", r"cannot read x\.tar as a tar"),
    ],
)
def test_commands_that_fail(logged: Path, command: str, message: str) -> None:
    source = open_source("pipe:" + command.replace("TMP", str(logged)), allow_commands=True, dataset="x")
    with pytest.raises(SourceError, match=message) as caught:
        source.scan()
    assert "secret" not in str(caught.value) + repr(source)


def test_a_pipe_that_has_enough_is_no_failure(logged: Path) -> None:
    # As webdataset's users cut samples off; `yes` ends by SIGPIPE.
    command = f"pipe:yes | head -c 0; cat {logged}/set/train-0.tar; yes | head -c 0"
    assert len(open_source(command, allow_commands=True).scan()) == 4


def test_a_command_that_writes_something_else_the_second_time(logged: Path) -> None:
    source = open_source(f"pipe:cat {logged}/set/train-0.tar", allow_commands=True)
    rows = source.scan()
    with (logged / "set" / "train-0.tar").open("ab") as file:
        file.write(bytes(512))
    assert len(list(source.read(rows, 0, 4))) == 4, "what it wrote is still at hand"
    with pytest.raises(SourceError, match=r"train-0\.tar has changed since it was listed"):
        list(pickle.loads(pickle.dumps(source)).read(rows, 0, 4))


def test_what_commands_are_called(logged: Path) -> None:
    from embedstore.sources.commands import shard_name

    assert shard_name("aws s3 cp s3://b/set/train-000.tar -") == "train-000.tar"
    assert shard_name("curl -s 'https://h/x.tar?sig=a/b' | cat") == "x.tar"
    assert re.fullmatch(r"pipe-[0-9a-f]{12}\.tar", shard_name("cat a.tar b.tar"))
    assert re.fullmatch(r"pipe-[0-9a-f]{12}\.tar", shard_name("python make.py 'odd name!.tar'"))
    assert shard_name("make 1") != shard_name("make 2")
    with pytest.raises(UsageError, match="say it with --dataset"):
        open_source("pipe:python make.py", allow_commands=True)
    with pytest.raises(UsageError, match="needs a command"):
        open_source("pipe: ", allow_commands=True)
    source = open_source("pipe:token=secret python make.py {a..c}", allow_commands=True, dataset="made", split="val")
    assert (source.dataset, source.split, "secret" in repr(source)) == ("made", "val", False)
