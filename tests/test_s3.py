"""Sources and stores on object storage, against a real server that speaks S3, over a line that is not always good."""

from __future__ import annotations

import logging
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import fsspec.asyn
import pytest
from conftest import Command, write_folder, write_tar
from s3_server import Proxy

from embedstore.encoders import load_encoder
from embedstore.errors import EmbedstoreError, ImageError, SourceError, UsageError
from embedstore.extract import Outcome, embed_images, embed_texts, list_rows
from embedstore.sources import open_source, read_classes
from embedstore.store import Images, Store

pytestmark = pytest.mark.slow

pytest.importorskip("s3fs", reason="the s3 extra is not installed")
moto_server = pytest.importorskip("moto.server", reason="moto, which plays the server, is not installed")

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[tuple[str, int]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def s3(s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """The way to the server, in the environment as a user would have it; with an empty bucket called ``bucket``."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    proxy = Proxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no config"))
    # As often as ever, but without waiting seconds in between.
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    urllib.request.urlopen(f"http://{s3_server[0]}:{s3_server[1]}/moto-api/reset", data=b"").close()
    _forget_connections().mkdir("bucket")
    proxy.requests.clear()
    yield proxy
    proxy.stop()
    _forget_connections()


def _forget_connections() -> Any:
    """Close the connections that this process keeps, ours and Zarr's; they belong to the server of one test."""
    from zarr.core.sync import sync

    kind = fsspec.get_filesystem_class("s3")
    for fs in kind._cache.values():
        client = getattr(fs, "_s3creator", None)
        if client is not None and fs.asynchronous:
            sync(client.__aexit__(None, None, None))
        elif client is not None:
            fsspec.asyn.sync(fs.loop, client.__aexit__, None, None, None)
    kind.clear_instance_cache()
    return fsspec.filesystem("s3")


def upload(local: Path, remote: str) -> None:
    fs = fsspec.filesystem("s3")
    for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
        if path.is_file():
            name = f"/{path.relative_to(local)}" if local.is_dir() else ""
            fs.pipe_file(remote + name, path.read_bytes())


def extract(source: str | Path, location: str | Path, **options: Any) -> tuple[Images, Outcome]:
    """What the command does, in this process."""
    store, encoder = Store.create(str(location)), load_encoder("fake")
    opened = open_source(str(source))
    split = list_rows(store, opened, block_rows=options.pop("block_rows", 20))
    store.add_model(encoder.provenance, encoder.projection)
    if split.class_names:
        embed_texts(store, encoder, split.dataset, split.class_names, ["plp"])
    outcome = embed_images(store, encoder, opened, split, workers=0, **options)
    return store.images("fake", split.dataset, split.split), outcome


def chunks(location: str | Path) -> dict[str, bytes]:
    """Every chunk of a store; the metadata say where the images came from."""
    fs, root = fsspec.core.url_to_fs(str(location))
    names = [name for name in fs.find(root) if "/c/" in name or name.endswith("/c")]
    return {name.removeprefix(root): fs.cat_file(name) for name in names}


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 20 pictures each, with captions and classes.json."""
    folder = tmp_path_factory.mktemp("shards") / "pets"
    files = sorted((pictures / "pets" / "train").rglob("*.png"))
    for number in range(3):
        samples = [
            (f"{number}-{i:02}", {"png": files[(20 * number + i) % 24].read_bytes(), "txt": b"pet %d" % i, "cls": b"1"})
            for i in range(20)
        ]
        write_tar(folder / f"train-{number:03}.tar", samples)
    (folder / "classes.json").write_text('{"classes": ["cat", "dog"]}')
    return folder


@pytest.fixture(scope="module")
def local(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    location = tmp_path_factory.mktemp("local") / "store.zarr"
    _, outcome = extract(shards, location, captions="txt")
    assert (outcome.ok, outcome.failed) == (60, 0)
    return chunks(location)


# The same bytes -------------------------------------------------------------------------------------------------------


def test_a_store_on_s3_of_shards_on_s3_has_the_same_bytes_as_locally(
    s3: Proxy, shards: Path, local: dict[str, bytes]
) -> None:
    upload(shards, "bucket/wds/pets")
    images, outcome = extract("s3://bucket/wds/pets", "s3://bucket/stores/x.zarr", captions="txt")
    assert (outcome.ok, images.class_names) == (60, ("cat", "dog"))
    assert chunks("s3://bucket/stores/x.zarr") == local
    again = Store.open("s3://bucket/stores/x.zarr").images("fake", "pets", "train")
    assert again.features[:].tobytes() == images.features[:].tobytes()


@pytest.mark.parametrize("name", ["pets", "pets/train-*.tar", "pets/train-{000..002}.tar"])
def test_ways_to_say_which_shards(s3: Proxy, shards: Path, name: str) -> None:
    upload(shards, "bucket/pets")
    source = open_source(f"s3://bucket/{name}")
    rows, expected = source.scan(), open_source(str(shards)).scan()
    assert rows.fingerprint() == expected.fingerprint()
    assert (rows.class_names, rows.source) == (("cat", "dog"), f"s3://bucket/{name}")
    assert (source.dataset, source.split) == ("pets", "train")
    assert list(source.read(rows, 15, 45)) == list(open_source(str(shards)).read(rows, 15, 45))
    assert read_classes("s3://bucket/pets/classes.json") == ("cat", "dog")


def test_shards_added_in_the_meantime_are_found(s3: Proxy, shards: Path) -> None:
    upload(shards / "train-000.tar", "bucket/pets/train-000.tar")
    assert len(open_source("s3://bucket/pets/*.tar").scan()) == 20
    boto = s3_client()
    boto.put_object(Bucket="bucket", Key="pets/train-001.tar", Body=(shards / "train-001.tar").read_bytes())
    assert len(open_source("s3://bucket/pets/*.tar").scan()) == 40
    assert len(open_source("s3://bucket/pets").scan()) == 40


def s3_client() -> Any:
    """Somebody else, who changes the bucket behind our back."""
    import boto3

    return boto3.client("s3")


def test_a_folder_of_images(s3: Proxy, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", ["cat", "dog"], 20, seed=5)
    (tmp_path / "pets" / "cat" / "odd [1] *.png").write_bytes((tmp_path / "pets" / "cat" / "1.png").read_bytes())
    (tmp_path / "pets" / "cat" / "3.txt").write_text("a cat")
    upload(tmp_path / "pets", "bucket/pets")
    remote, source = open_source("s3://bucket/pets"), open_source(str(tmp_path / "pets"))
    rows = remote.scan()
    assert rows.fingerprint() == source.scan().fingerprint()
    fsspec.filesystem("s3").invalidate_cache()  # a worker has listed nothing
    s3.requests.clear()
    assert list(remote.read(rows, 0, 41)) == list(source.read(rows, 0, 41))
    assert len(s3.requests) == 41
    assert list(remote.captions(rows, 0, 41, "txt")) == list(source.captions(rows, 0, 41, "txt"))


# A line that is not always good ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "every"), [("503", 11), ("cut", 9), ("hang up", 7)])
def test_extraction_survives_a_flaky_line(
    s3: Proxy, shards: Path, local: dict[str, bytes], fault: str, every: int
) -> None:
    upload(shards, "bucket/pets")

    def sometimes(number: int, method: str, path: str) -> str:
        return fault if number % every == 0 and (fault != "cut" or method == "GET") else ""

    s3.fault = sometimes
    _, outcome = extract("s3://bucket/pets", "s3://bucket/x.zarr", captions="txt", batch_size=5)
    s3.fault = lambda *_: ""
    assert (outcome.ok, outcome.failed) == (60, 0)
    assert s3.faults >= 10, "the line was bad enough to be worth a test"
    assert chunks("s3://bucket/x.zarr") == local


def test_a_folder_survives_a_flaky_line(s3: Proxy, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", ["cat", "dog"], 20, seed=5)
    upload(tmp_path / "pets", "bucket/pets")
    s3.fault = lambda number, method, path: ("cut", "", "hang up", "")[number % 4]
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    assert list(source.read(rows, 0, 40)) == [(tmp_path / "pets" / key).read_bytes() for key in rows.keys]
    assert s3.faults >= 20


@pytest.mark.parametrize("kind", ["tar", "folder"])
@pytest.mark.parametrize("end", ["refused", "always 503"])
def test_a_dead_server_is_no_fault_of_the_images(s3: Proxy, pictures: Path, kind: str, end: str) -> None:
    if kind == "tar":
        upload(pictures / "tars" / "pets-train.tar", "bucket/pets/train.tar")
    else:
        upload(pictures / "pets" / "train", "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    if end == "refused":
        s3.stop()
    else:
        s3.fault = lambda *_: "503"
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot read .*(Could not connect|Service ?Unavailable)") as caught:
        list(source.read(rows, 0, 8))
    assert not isinstance(caught.value, ImageError)
    assert time.monotonic() - began < 60
    with pytest.raises(SourceError):
        open_source("s3://bucket/pets")


def test_a_server_that_takes_connections_and_never_answers(
    s3: Proxy, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(shards, "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    list(source.read(rows, 0, 1))
    monkeypatch.setattr("embedstore.sources.reading._PATIENCE_SECONDS", 1.0)
    s3.fault = lambda *_: "hang up"
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot read train-000\.tar: FSTimeoutError"):
        list(source.read(rows, 0, 8))
    assert time.monotonic() - began < 10


# Who is at fault ------------------------------------------------------------------------------------------------------


def test_an_image_that_is_gone_or_changed_fails_alone(s3: Proxy, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", ["cat", "dog"], 4, seed=5)
    upload(tmp_path / "pets", "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    fs = fsspec.filesystem("s3")
    fs.rm("bucket/pets/cat/1.png")
    fs.pipe_file("bucket/pets/cat/2.png", b"")
    fs.pipe_file("bucket/pets/dog/0.png", b"x" * 10_000)
    fs.pipe_file("bucket/pets/dog/1.png", b"short")
    payloads = list(source.read(rows, 0, 8))
    size = int(rows.length[4])
    assert {key: str(p) for key, p in zip(rows.keys, payloads, strict=True) if isinstance(p, ImageError)} == {
        "cat/1.png": "cannot read cat/1.png: FileNotFoundError: No such file or directory",
        "cat/2.png": f"cat/2.png has changed since it was listed: {rows.length[2]} bytes then, 0 now",
        "dog/0.png": f"dog/0.png has changed since it was listed: {size} bytes then, more than {size} now",
        "dog/1.png": f"dog/1.png has changed since it was listed: {rows.length[5]} bytes then, 5 now",
    }


def test_a_folder_that_is_gone_is_no_fault_of_the_images(s3: Proxy, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", ["cat", "dog"], 4, seed=5)
    upload(tmp_path / "pets", "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    fsspec.filesystem("s3").rm("bucket/pets", recursive=True)
    with pytest.raises(SourceError, match=r"cannot read bucket/pets: FileNotFoundError") as caught:
        list(source.read(rows, 0, 8))
    assert not isinstance(caught.value, ImageError)


def test_a_shard_that_changed_is_refused(s3: Proxy, shards: Path) -> None:
    upload(shards, "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    s3_client().put_object(Bucket="bucket", Key="pets/train-001.tar", Body=b"x" * 100_000)
    assert len(list(source.read(rows, 0, 20))) == 20
    with pytest.raises(
        SourceError, match=r"train-001\.tar has changed since it was listed: \d+ bytes then, 100000 now"
    ):
        list(source.read(rows, 15, 25))
    with pytest.raises(SourceError, match=r"train-001\.tar has changed"):
        list(source.captions(rows, 20, 25, "txt"))


# What it costs --------------------------------------------------------------------------------------------------------


def test_images_are_read_by_range_and_many_at_once(s3: Proxy, shards: Path) -> None:
    upload(shards, "bucket/pets")
    source = open_source("s3://bucket/pets/train-{000..002}.tar")
    rows = source.scan()
    s3.requests.clear()
    for start in range(0, 60, 5):
        assert len(list(source.read(rows, start, start + 5))) == 5
    # Each once: on a busy machine the client may repeat one that it thinks lost.
    requests = list({(request.method, request.path, request.range): request for request in s3.requests}.values())
    asked = [(request.method, request.range is not None) for request in requests]
    assert asked.count(("HEAD", False)) == 3, "each shard once: is it the one that was listed?"
    assert asked.count(("GET", True)) == 12, "one range a batch"
    assert len(asked) == 15
    sizes = [(shards / shard.name).stat().st_size for shard in rows.shards]
    assert sum(request.bytes for request in requests) < sum(sizes)


def test_far_images_are_read_apart_and_large_batches_in_pieces(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedstore.sources.reading._GAP_BYTES", 10_000)
    monkeypatch.setattr("embedstore.sources.reading._SPAN_BYTES", 50_000)
    images = [os.urandom(9_000) for _ in range(20)]
    samples = [(f"{i:02}", {"jpg": image, "bin": b"x" * (20_000 * (i == 3))}) for i, image in enumerate(images)]
    write_tar(tmp_path / "x.tar", samples)
    upload(tmp_path / "x.tar", "bucket/x.tar")
    source = open_source("s3://bucket/x.tar")
    rows = source.scan()
    list(source.read(rows, 0, 1))
    s3.requests.clear()
    assert list(source.read(rows, 0, 20)) == images
    assert max(request.bytes for request in s3.requests) <= 50_000
    assert len(s3.requests) == 5  # images 0 to 3, which the gap ends; and 16 in fours and fives
    assert sum(request.bytes for request in s3.requests) < 20 * 11_000


def test_a_batch_of_captions_costs_no_request_of_its_own(s3: Proxy, shards: Path) -> None:
    upload(shards, "bucket/pets")
    source = open_source("s3://bucket/pets")
    rows = source.scan()
    s3.requests.clear()
    texts = [text for start in range(0, 60, 5) for text in source.captions(rows, start, start + 5, "txt")]
    assert texts == [f"pet {i}" for i in range(20)] * 3
    assert len(s3.requests) <= 9


# Secrets --------------------------------------------------------------------------------------------------------------


def test_credentials_are_in_no_message_and_not_in_the_store(s3: Proxy, shards: Path) -> None:
    upload(shards, "bucket/pets")
    texts = [repr(open_source("s3://bucket/pets")), repr(open_source("s3://bucket/pets/train-000.tar").scan())]
    for source in (
        f"s3://{KEY}:{SECRET}@bucket/pets",
        f"s3://{KEY}:{SECRET}@bucket/pets/train-{{000..002}}.tar",
        f"s3a://{KEY}:{SECRET}@bucket/pets/*.tar",
        f"s3://{KEY}@bucket/pets",
        "s3://bucket/nothing.tar",
        "s3://no-such-bucket/x.tar",
        "s3://bad_bucket!/x.tar",
        f"{s3.url}/bucket/pets/train-000.tar?X-Amz-Credential={KEY}&X-Amz-Signature={SECRET}",
        f"{s3.url}/bucket/pets/nothing.tar?X-Amz-Credential={KEY}&X-Amz-Signature={SECRET}",
        f"http://{KEY}:{SECRET}@{s3.url[7:]}/bucket/nothing.tar",
    ):
        texts.append(_message_of(source))
    s3.fault = lambda *_: "503"
    texts.append(_message_of("s3://bucket/pets"))
    s3.fault = lambda *_: ""
    extract("s3://bucket/pets/train-000.tar", "s3://bucket/x.zarr")
    fs = fsspec.filesystem("s3")
    texts += [content.decode("latin-1") for content in fs.cat(fs.find("bucket/x.zarr")).values()]
    for text in texts:
        for secret in (KEY, SECRET, SECRET.split("/")[0], SECRET.split("/")[-1]):
            assert secret not in text


def _message_of(spec: str) -> str:
    """All that a traceback would show, or else what the source says of itself."""
    import traceback

    try:
        source = open_source(spec)
        return repr(source) + repr(source.scan().source)
    except EmbedstoreError as error:
        return "".join(traceback.format_exception(error)).replace(spec, "")


def test_credentials_in_a_url_of_s3_are_refused_with_advice(s3: Proxy) -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/x\.tar: .*AWS_ACCESS_KEY_ID"):
        open_source(f"s3://{KEY}:{SECRET}@bucket/x.tar")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, "EndpointConnectionError"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_clear_line(
    command: Command, tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    here = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        **environment,
    }
    alone = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    ended = command("ls", "--store", "s3://bucket/x.zarr", env={**here, **alone})
    assert ended.returncode == 1, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stderr
