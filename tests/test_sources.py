"""WebDataset shards, held to the webdataset library; and how a spec becomes a source."""

from __future__ import annotations

import gc
import gzip
import io
import json
import pickle
import re
import tarfile
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import EmbedstoreError, ImageError, SourceError, UsageError, redact, scrub
from embedstore.sources import Source, decode, open_source
from embedstore.sources.naming import directory_names, safe_name, same_split, shard_group
from embedstore.sources.places import border
from embedstore.sources.tarindex import image_member, members, samples

SHARED = Path(__file__).parents[2] / "shared" / "data"
Members = list[tuple[str, bytes]]


def tar_bytes(files: Members, *, layout: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(path: Path, files: Members) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return str(path)


def simple(prefix: str, n: int, label: int = 0) -> Members:
    return [
        member
        for i in range(n)
        for member in [
            (f"{prefix}{i:03d}.png", f"image {prefix}{i}".encode() * (i + 1)),
            (f"{prefix}{i:03d}.cls", b"%d" % label),
            (f"{prefix}{i:03d}.txt", f"caption ü {i}".encode()),
        ]
    ]


def oracle(urls: list[str]) -> list[dict[str, object]]:
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its last shard to the garbage collector
        found = [dict(sample) for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)]
        gc.collect()
    return found


def assert_agrees(source: Source, urls: list[str], extensions: tuple[str, ...]) -> None:
    rows, expected = source.scan(), oracle(urls)
    assert list(rows.keys) == [sample["__key__"] for sample in expected]
    assert rows.labels.tolist() == [int(sample.get("cls", b"-1")) for sample in expected]  # type: ignore[call-overload]
    payloads = list(source.read(rows, 0, len(rows)))
    for payload, sample in zip(payloads, expected, strict=True):
        wanted = next((sample[ext] for ext in extensions if ext in sample), None)
        assert isinstance(payload, ImageError) if wanted is None else payload == wanted
    captions = list(source.captions(rows, 0, len(rows), "txt"))
    texts = [sample.get("txt") for sample in expected]
    assert captions == [text.decode() if isinstance(text, bytes) else None for text in texts]


# Laws, against webdataset


def test_shards_by_webdatasets_own_writer(tmp_path: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=7, verbose=0) as writer:
        for i in range(20):
            writer.write({"__key__": f"s{i:03d}", "jpg": bytes([i]) * (300 * i + 1), "cls": i % 3, "txt": f"no. {i}"})
    urls = [str(tmp_path / f"train-{i:06d}.tar") for i in range(3)]
    for spec in (str(tmp_path), str(tmp_path / "train-{000000..000002}.tar"), str(tmp_path / "train-*.tar")):
        source = open_source(spec)
        assert_agrees(source, urls, ("jpg",))
        assert (source.split, [s.name for s in source.scan().shards]) == ("train", [Path(u).name for u in urls])


WEIRD: Members = [
    ("__meta__", b"{}"),
    ("__index__/a.jpg", b"skipped"),
    ("dir.with.dots/sub/one.jpg", b"1"),
    ("dir.with.dots/sub/one.cls", b" 3\n"),
    ("two.seg.png", b"mask"),
    ("two.JPEG", b"2"),
    ("three..jpg", b"suffix is .jpg with a dot"),
    ("no dot at all", b"skipped"),
    (".hidden.jpg", b"skipped"),
    ("ünï cödé 日本.PNG", b"4"),
    ("ünï cödé 日本.txt", "größer".encode()),
    ("no-image.cls", b"7"),
    ("no-image.json", b"{}"),
    ("./dotted/five.webp", b""),
    ("a" * 150 + "/six.gif", b"long name"),
    ("marked.__bad__", b"1"),
    ("marked.jpg", b"dropped"),
    ("dir/__late__/x.jpg", b"metadata only at the top"),
    ("one.jpg", b"not the one in a directory"),
]


def test_weird_names_group_as_in_webdataset(tmp_path: Path) -> None:
    shard = write(tmp_path / "x" / "test.tar", WEIRD)
    extensions = ("jpg", "jpeg", "png", "webp", "gif", "seg.png", ".jpg")
    assert_agrees(open_source(shard), [shard], extensions)


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_links_and_directories(tmp_path: Path, layout: int) -> None:
    shard = tmp_path / "s.tar"
    with tarfile.open(shard, "w", format=layout) as tar:
        for kind, name in ((tarfile.DIRTYPE, "d.x"), (tarfile.SYMTYPE, "l.jpg"), (tarfile.LNKTYPE, "h.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere"
            tar.addfile(info)
        info = tarfile.TarInfo("d.x/" + "n" * 90 + "/real.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert_agrees(open_source(str(shard)), [str(shard)], ("jpg",))


names = st.one_of(
    st.from_regex(r"(d[.]d/)?[ab]([.](jpg|JPG|cls|txt|seg[.]png|__key__|__bad__))?", fullmatch=True),
    st.sampled_from(["__m__", "__m__/a.jpg", "a/__m__/b.jpg", ".a", "a.", "a..jpg", "./a.jpg", "d/.jpg"]),
    st.text(st.sampled_from("a.b/_ü "), min_size=1, max_size=8),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names, st.binary(max_size=3)), max_size=12))
def test_any_members_group_as_in_webdataset(files: Members) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    raw = tar_bytes(files)
    shard = {"url": "s.tar", "stream": io.BytesIO(raw)}
    try:
        expected = [
            (s["__key__"], {k: v for k, v in s.items() if k not in ("__key__", "__url__")})
            for s in group_by_keys(tar_file_expander([shard]))
        ]
    except ValueError:
        with pytest.raises(SourceError, match="twice"):
            list(samples(members(io.BytesIO(raw), "s.tar"), "s.tar"))
        return
    found = [
        (key, {suffix: raw[m.offset : m.offset + m.length] for suffix, m in sample.items()})
        for key, sample in samples(members(io.BytesIO(raw), "s.tar"), "s.tar")
    ]
    assert found == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared real data (../shared/data) is not here")
@pytest.mark.parametrize("name", ["imagenet1k-sample", "flickr8k-128px"])
def test_real_shards_as_webdataset_reads_them(name: str) -> None:
    folder = SHARED / name
    source = open_source(str(folder), split="test")
    assert (source.dataset, source.split) == (name, "test")
    assert_agrees(source, sorted(map(str, folder.glob("test-*.tar"))), ("jpg", "jpeg", "png"))
    rows = source.scan()
    if (folder / "classes.json").is_file():
        assert list(rows.class_names or ()) == json.loads((folder / "classes.json").read_text())["classes"]
    (payload,) = source.read(rows, 5, 6)
    assert decode(payload).mode == "RGB"


# read and captions


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for i in range(3):
        write(folder / f"train-{i:03d}.tar", simple(f"{i}-", 4, label=i))
    (folder / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    return folder


@given(start=st.integers(-2, 14), stop=st.integers(-2, 14))
@settings(max_examples=60, deadline=None)
def test_reading_a_range_is_slicing_the_whole(tmp_path_factory: pytest.TempPathFactory, start: int, stop: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "sliced"
    if not folder.exists():
        for i in range(3):
            write(folder / f"{i}.tar", simple(f"{i}-", 4))
    source = open_source(str(folder))
    rows = source.scan()
    assert list(source.read(rows, start, stop)) == list(source.read(rows, 0, 12))[start:stop]
    assert list(source.captions(rows, start, stop, "txt")) == list(source.captions(rows, 0, 12, ".TXT"))[start:stop]


def test_offsets_point_at_the_bytes(shards: Path) -> None:
    rows = open_source(str(shards)).scan()
    for i, payload in enumerate(open_source(str(shards)).read(rows, 0, 12)):
        raw = (shards / rows.shards[rows.shard[i]].name).read_bytes()
        assert raw[rows.offset[i] : rows.offset[i] + rows.length[i]] == payload
    assert [s.size for s in rows.shards] == [(shards / s.name).stat().st_size for s in rows.shards]
    assert (rows.labels.dtype, rows.shard.dtype) == (np.int32, np.int32)
    assert (rows.offset.dtype, rows.length.dtype) == (np.int64, np.int64)
    assert rows.class_names == ("a", "b", "c")


def test_pickled_sources_read_the_same(shards: Path) -> None:
    source = open_source(str(shards))
    raw = pickle.dumps(source)
    rows = source.scan()
    list(source.captions(rows, 0, 3, "txt"))
    assert pickle.dumps(source) == raw  # the caption index stays behind
    copy = pickle.loads(raw)
    assert list(copy.read(rows, 0, 12)) == list(source.read(rows, 0, 12))
    assert copy.scan().fingerprint() == rows.fingerprint()
    assert (copy.dataset, copy.split) == ("pets", "train")


def test_captions_are_read_in_one_pass_per_shard(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import embedstore.sources.tars as tars

    passes: list[str] = []
    monkeypatch.setattr(tars, "members", lambda file, name: passes.append(name) or members(file, name))
    source = open_source(str(shards))
    rows = source.scan()
    passes.clear()
    texts = [text for i in range(12) for text in source.captions(rows, i, i + 1, "txt")]
    assert texts == [f"caption ü {i}" for i in range(4)] * 3
    assert passes == ["train-000.tar", "train-001.tar", "train-002.tar"]
    assert list(source.captions(rows, 0, 2, "nothing")) == [None, None]


def test_a_caption_that_is_no_utf8_loses_only_its_odd_bytes(tmp_path: Path) -> None:
    files = [("k.jpg", b"1"), ("k.txt", b"caf\xe9 au lait"), ("l.jpg", b"1"), ("l.txt", b"tea")]
    source = open_source(write(tmp_path / "s.tar", files))
    assert list(source.captions(source.scan(), 0, 2, "txt")) == ["caf\ufffd au lait", "tea"]


def test_a_shard_that_changed_is_refused(shards: Path) -> None:
    source = open_source(str(shards))
    rows = source.scan()
    write(shards / "train-001.tar", simple("new", 9))
    assert len(list(source.read(rows, 0, 4))) == 4
    with pytest.raises(SourceError, match=r"train-001\.tar has changed since it was listed: \d+ bytes then, \d+ now"):
        list(source.read(rows, 0, 12))
    (shards / "train-000.tar").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*train-000\.tar: FileNotFoundError"):
        list(source.read(rows, 0, 1))


def test_rows_of_other_shards_are_refused(shards: Path) -> None:
    rows = open_source(str(shards)).scan()
    other = open_source(str(shards / "train-{002,001}.tar"))
    with pytest.raises(
        SourceError, match=r"shard 0 = 'train-000\.tar', which .* does not have\. Give the source that was scanned"
    ):
        list(other.read(rows, 0, 1))


def test_shards_are_found_by_their_names(shards: Path) -> None:
    # A stored row list grows at its end, though the new shard may come first in the folder.
    late_first = open_source(str(shards / "train-{002,000,001}.tar")).scan()
    expected = [
        payload
        for i in (2, 0, 1)
        for payload in open_source(str(shards / f"train-00{i}.tar")).read(
            open_source(str(shards / f"train-00{i}.tar")).scan(), 0, 4
        )
    ]
    source = open_source(str(shards))
    assert [shard.name[6:9] for shard in source.scan().shards] == ["000", "001", "002"]
    assert list(source.read(late_first, 0, 12)) == expected
    assert list(source.read(late_first, 3, 9)) == expected[3:9]
    (shards / "train-001.tar").write_bytes(tar_bytes([("x.jpg", b"1"), ("x.txt", b"other")]))
    assert list(source.captions(late_first, 0, 8, "txt")) == [f"caption ü {i}" for i in range(4)] * 2
    with pytest.raises(SourceError, match=r"train-001\.tar has changed"):
        list(source.captions(late_first, 8, 9, "txt"))


def test_two_shards_of_one_name_are_told_apart_by_their_places_only(shards: Path) -> None:
    (shards / "more").mkdir()
    (shards / "more" / "train-000.tar").write_bytes(tar_bytes(simple("m-", 4)))
    both = open_source(str(shards / "{more/,}train-000.tar"), dataset="x")
    rows = both.scan()
    assert [payload[:8] for payload in both.read(rows, 0, 8)][::4] == [b"image m-", b"image 0-"]
    three = open_source(str(shards / "{train-002,more/train-000,train-000}.tar"), dataset="x")
    with pytest.raises(SourceError, match=r"shard 0 = 'train-000\.tar', which .* has several of"):
        list(three.read(rows, 0, 1))


def test_shards_come_in_written_order_for_braces_and_sorted_for_globs(shards: Path) -> None:
    def order(spec: str) -> list[str]:
        return [shard.name[6:9] for shard in open_source(spec).scan().shards]

    assert order(str(shards / "train-{002,000}.tar")) == ["002", "000"]
    assert order(str(shards / "train-00[12].tar")) == ["001", "002"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    shard = write(tmp_path / "odd [1] {a,b}" / "x*.tar", simple("s", 2))
    assert len(open_source(shard).scan()) == 2


def test_any_fsspec_url(shards: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe(f"/bucket/pets/{path.name}", path.read_bytes())
    local = open_source(str(shards)).scan()
    for spec in ("memory://bucket/pets", "memory://bucket/pets/*.tar", "memory://bucket/pets/train-{000..002}.tar"):
        source = open_source(spec)
        rows = source.scan()
        assert rows.fingerprint() == local.fingerprint()
        assert rows.class_names == ("a", "b", "c")
        assert (source.dataset, source.split, rows.source) == ("pets", "train", spec)
        assert list(pickle.loads(pickle.dumps(source)).read(rows, 5, 7)) == list(source.read(rows, 5, 7))


# Which member is the image


@pytest.mark.parametrize(
    ("suffixes", "chosen"),
    [
        ("png jpg", "jpg"),
        ("seg.png png", "png"),
        ("seg.png depth.jpg", "depth.jpg"),
        ("b.png a.png", "b.png"),
        ("json txt", None),
        ("png.txt", None),
    ],
)
def test_image_member(suffixes: str, chosen: str | None) -> None:
    from embedstore.sources.tarindex import Member

    member = image_member({s: Member(s, 0, 0) for s in suffixes.split()})
    assert (member and member.name) == chosen


def test_a_sample_without_an_image_is_a_row_that_says_so(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "s.tar", [("a.cls", b"1"), ("b.jpg", b"x")]))
    rows = source.scan()
    assert (rows.offset[0], rows.length[0]) == (-1, -1)
    payload, other = source.read(rows, 0, 2)
    assert isinstance(payload, ImageError)
    assert str(payload).startswith("no image member in sample 'a'")
    assert other == b"x"


# Splits and names


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    for split in ("train", "validation", "extra"):
        write(tmp_path / "set" / f"{split}-000.tar", simple(split, 2))
    return tmp_path / "set"


def test_a_folder_of_several_splits_needs_one_to_be_chosen(mixed: Path) -> None:
    with pytest.raises(UsageError, match=r"several splits: 'extra', 'train', 'val'\. Choose one with --split"):
        open_source(str(mixed))
    for split, shard in (("train", "train"), ("val", "validation"), ("validation", "validation"), ("extra", "extra")):
        source = open_source(str(mixed), split=split)
        assert source.split == split
        assert [s.name for s in source.scan().shards] == [f"{shard}-000.tar"]
    with pytest.raises(UsageError, match=r"no shards of split 'test'; found 'extra', 'train', 'val'"):
        open_source(str(mixed / "*.tar"), split="test")


def test_one_kind_of_shard_may_be_renamed_but_not_into_another_split(shards: Path) -> None:
    assert open_source(str(shards), split="train-5k").split == "train-5k"
    with pytest.raises(UsageError, match="no shards of split 'test'; found 'train'"):
        open_source(str(shards), split="test")
    assert open_source(str(shards / "train-{000,001}.tar"), split="test", dataset="x").split == "test"


def test_written_shards_of_two_splits_need_a_name(mixed: Path) -> None:
    with pytest.raises(UsageError, match=r"mixes shards of 'train', 'val'; say with --split"):
        open_source(str(mixed / "{train,validation}-000.tar"))
    assert len(open_source(str(mixed / "{train,validation}-000.tar"), split="all").scan()) == 4


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "wds_pets" / split / "0.tar", simple(split, 2))
    (tmp_path / "wds_pets" / "classes.json").write_text('["cat"]')
    with pytest.raises(UsageError, match=r"a folder for each split: 'test', 'train'\. Choose one with --split"):
        open_source(str(tmp_path / "wds_pets"))
    source = open_source(str(tmp_path / "wds_pets"), split="test")
    assert (source.dataset, source.split, source.scan().class_names) == ("wds_pets", "test", ("cat",))
    assert open_source(str(tmp_path / "wds_pets" / "train" / "*.tar")).split == "train"


def test_names_from_paths() -> None:
    assert directory_names("/data/x/Training") == ("x", "train")
    assert directory_names("bucket/my set!") == ("my-set-", None)
    assert directory_names("") == ("data", None)
    assert [safe_name(n) for n in ("..", "_a", "ä/b", "v1.0+x")] == ["data", "a", "b", "v1.0+x"]
    groups = {"train-000007.tar": "train", "in1k-validation-0001-of-0100.tar": "val", "000.tar": "", "dev_3.tar": "dev"}
    assert {name: shard_group(name) for name in groups} == groups
    assert same_split("valid", "validation")
    assert not same_split("dev", "val")


def test_given_names_win_and_are_checked(shards: Path) -> None:
    source = open_source(str(shards), dataset="mine", split="train")
    assert (source.dataset, source.split) == ("mine", "train")
    with pytest.raises(UsageError, match=r"'my set' cannot name a data set: .* for example 'my-set'"):
        open_source(str(shards), dataset="my set")
    with pytest.raises(UsageError, match="cannot name a split"):
        open_source(str(shards / "train-000.tar"), split="../x")


# Bad input: each message says what and where


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("k.jpg", b"1"), ("k.JPG", b"2")], r"bad\.tar: sample 'k' has \.jpg twice"),
        ([("k.jpg", b"1"), ("k.cls", b"cat")], r"bad\.tar: label of 'k' must be an integer; its \.cls says b'cat'"),
        ([("k.jpg", b"1"), ("k.cls", b"1_0")], r"label of 'k' must be an integer"),
        ([("k.jpg", b"1"), ("k.cls", b"1" + b" " * 80)], r"label of 'k' must be an integer"),
        ([("k.jpg", b"1"), ("k.cls", b"-2")], r"must be -1 \(unknown\) or a class index; its \.cls says -2"),
        ([("k.jpg", b"1"), ("k.cls", b"2147483648")], r"its \.cls says 2147483648"),
        ([("k.jpg", b"1"), ("l.jpg", b"1"), ("k.cls", b"1")], r"key 'k' is in bad\.tar and again in bad\.tar"),
        ([], r"no samples in 1 shard\(s\): 'bad\.tar'"),
        ([("README", b"")], r"no samples"),
    ],
)
def test_bad_members(tmp_path: Path, files: Members, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(write(tmp_path / "bad.tar", files)).scan()


def test_a_key_in_two_shards(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, [("k.jpg", b"1")])
    with pytest.raises(SourceError, match=r"key 'k' is in a\.tar and again in b\.tar; keys must be unique"):
        open_source(str(tmp_path)).scan()


def test_labels_beyond_the_class_names(shards: Path) -> None:
    (shards / "classes.json").write_text('["a", "b"]')
    with pytest.raises(SourceError, match=r"train-002\.tar: '2-000': label 2, but there are 2 class names"):
        open_source(str(shards)).scan()
    (shards / "names.txt").write_text("x\ny\nz\n")
    assert open_source(str(shards), classes=str(shards / "names.txt")).scan().class_names == ("x", "y", "z")


def test_a_tar_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = tar_bytes([("k1.jpg", b"x" * 700), ("k1.cls", b"1"), ("k2.jpg", b"y" * 100)])
    end = 512 + 1024 + 1024 + 1024  # headers and data, before the zero blocks
    shard = tmp_path / "cut.tar"
    for size in [*range(0, end + 1, 100), 512, 1536, 2048, 2560, end, end + 511]:
        shard.write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"cut\.tar"):
            open_source(str(shard)).scan()
    shard.write_bytes(whole[: end + 512])
    assert len(open_source(str(shard)).scan()) == 2


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    raw = bytearray(tar_bytes([("k1.jpg", b"x"), ("k2.jpg", b"y"), ("k3.jpg", b"z")]))
    raw[1024 + 150] ^= 1  # in the second header's checksum: tarfile would end here without a word
    shard = tmp_path / "rot.tar"
    shard.write_bytes(raw)
    with pytest.raises(SourceError, match=r"rot\.tar is damaged at byte 1024"):
        open_source(str(shard)).scan()


@pytest.mark.parametrize("content", [b"<html>" * 300, b"\x89PNG\r\n\x1a\n" * 200, b"x"])
def test_not_a_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(SourceError, match=r"cannot read x\.tar as a tar"):
        open_source(str(tmp_path / "x.tar")).scan()


def test_compressed_tars(tmp_path: Path) -> None:
    raw = gzip.compress(tar_bytes(simple("s", 2)))
    (tmp_path / "x.tar").write_bytes(raw)
    with pytest.raises(SourceError, match=r"x\.tar is compressed with gzip\. .* decompress it"):
        open_source(str(tmp_path / "x.tar")).scan()
    (tmp_path / "x.tar.gz").write_bytes(raw)
    with pytest.raises(SourceError, match=r"x\.tar\.gz is compressed\. .* decompress it"):
        open_source(str(tmp_path / "x.tar.gz"))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", UsageError, "no source given"),
        ("pipe:curl -s http://u:pw@h/x.tar", UsageError, r"pipe: … runs a command, .* with --allow-commands"),
        ("cat x.tar |", UsageError, "runs a command"),
        ("reference://x.json", UsageError, "reference: lets one file say which others are read"),
        ("zip://x.tar::reference://::s3://bucket/x.json", UsageError, "reference: lets one file"),
        ("https://u:p/w@host/x.tar", UsageError, r"https://host/x\.tar: a / in the URL's user or password .* as %2F"),
        ("s3://KEY:SECRET@bucket/x.tar", UsageError, r"s3://bucket/x\.tar: user and password .* AWS_ACCESS_KEY_ID"),
        ("zzz://bucket/x.tar", UsageError, "cannot understand zzz://bucket/x.tar: Protocol not known: zzz"),
        ("TMP/nothing.tar", SourceError, r"nothing at .*/nothing\.tar"),
        ("TMP/nothing-{0..9}.tar", SourceError, r"nothing at .*nothing-2\.tar and 7 more \(looked for .*\{0\.\.9\}"),
        ("TMP/*.tar", SourceError, r"nothing at .*/\*\.tar"),
        ("TMP/x-{0..9.tar", UsageError, "cannot expand the braces"),
        ("TMP/x-{0..99999999999}.tar", UsageError, "more than 100000 shards"),
        ("TMP/x-{0..999}-{0..999}.tar", UsageError, "more than 100000 shards"),
        ("TMP/cat.png", UsageError, r"cat\.png is a file, but no \.tar shard"),
        ("TMP/*.png", UsageError, r"cat\.png is a file, but no \.tar shard"),
        ("TMP/empty", SourceError, r"empty: no images \(looked for \.jpg, .*\) and no \.tar shards"),
    ],
)
def test_bad_specs(tmp_path: Path, spec: str, error: type[EmbedstoreError], message: str) -> None:
    (tmp_path / "cat.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        open_source(spec.replace("TMP", str(tmp_path))).scan()


def test_secrets_are_hidden() -> None:
    url = "https://user:p@ss@host/set/x.tar?X-Amz-Signature=abc#frag"
    assert redact(url) == "https://host/set/x.tar"
    assert redact("s3://bucket/a@1/x.tar") == "s3://bucket/a@1/x.tar"
    assert redact("odd?name#1.tar") == "odd?name#1.tar"
    assert redact("s3://KEY:SEC/RET@bucket/a@1/x.tar") == "s3://bucket/a@1/x.tar"
    assert redact("http://host:8080/a@1/x.tar") == "http://host:8080/a@1/x.tar"
    assert scrub("bad <X object at 0x7f00abc0>") == "bad <X object>"
    assert scrub(f"404 for url='{url}'") == "404 for url='https://host/set/x.tar'"
    with pytest.raises(SourceError) as caught, border("x.tar"):
        raise RuntimeError(f"403 for {url}")
    assert str(caught.value) == "cannot read x.tar: RuntimeError: 403 for https://host/set/x.tar"
    assert caught.value.__cause__ is None
    with pytest.raises(SourceError) as caught, border("x.tar"):
        raise RuntimeError("failed") from OSError(f"403 for {url}")
    assert caught.value.__cause__ is None, "a cause of the cause would be printed too"


def test_secrets_are_hidden_in_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/user:secret@host/set/x.tar", tar_bytes([("k.jpg", b"1"), ("k.cls", b"q")]))
    source = open_source("memory://user:secret@host/set/x.tar")
    assert "secret" not in repr(source)
    with pytest.raises(SourceError) as caught:
        source.scan()
    assert "secret" not in str(caught.value)
    memory.pipe("/user:secret@host/set/x.tar", tar_bytes([("k.jpg", b"1")]))
    rows = source.scan()
    assert "secret" not in rows.source + rows.shards[0].name
    with pytest.raises(SourceError) as caught:
        open_source("memory://user:secret@host/set/y-{0..3}.tar")
    assert re.search(r"\(looked for memory://host/set/y-\{0\.\.3\}\.tar\)", str(caught.value))
