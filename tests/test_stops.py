"""What stops, stops there: recipes, odd images, models that cannot be had."""

from __future__ import annotations

import errno
import importlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import synchronize
from pathlib import Path
from typing import Any

import click
import pytest
from zarr.storage import MemoryStore

import embedstore.extract
from embedstore.cli import main, run_typed
from embedstore.encoders import load_encoder
from embedstore.errors import ModelUnavailable
from embedstore.extract import embed_images, embed_texts, list_rows
from embedstore.extract.loading import report_unless_alone
from embedstore.records import Failure
from embedstore.sources import open_source
from embedstore.store import Store


def test_a_recipe_does_not_go_on_after_a_stopped_command(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedstore.extract, "embed_blocks", stop)
    with pytest.raises(click.exceptions.Exit) as ended:
        run_typed("extract", str(pictures / "pets/train"), "--store", str(tmp_path / "s.zarr"), "--model", "fake")
    assert ended.value.exit_code == 75


def test_a_full_disk_is_said_to_be_the_stores(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedstore.extract, "list_rows", full)
    words = ["extract", str(pictures / "pets/train"), "--store", str(tmp_path / "s.zarr"), "--model", "fake"]
    with pytest.raises(
        click.ClickException, match="No space left on device where the store lies; what is done is kept"
    ):
        main(words, standalone_mode=False)


def test_an_image_that_cannot_be_preprocessed_fails_alone(pictures: Path) -> None:
    encoder = load_encoder("fake")
    usual, seen = encoder.preprocess, []

    def odd(image: Any) -> Any:
        seen.append(image)
        if len(seen) == 2:
            raise RuntimeError("height and width must be > 0")
        return usual(image)

    encoder.preprocess = odd  # type: ignore[misc]
    store = Store.create(MemoryStore())
    source = open_source(str(pictures / "pets/train"))
    split = list_rows(store, source)
    store.add_model(encoder.provenance, encoder.projection)
    outcome = embed_images(store, encoder, source, split, workers=0)
    assert (outcome.ok, outcome.failed) == (len(split) - 1, 1)
    why = "cannot be pre-processed at 20 × 20 pixels: height and width must be > 0"
    assert outcome.failures == [Failure(1, str(split.keys[1]), None, 0, "preprocess", why)]


def test_texts_that_are_not_finite_are_refused() -> None:
    encoder = load_encoder("fake")
    encoder.texts = lambda texts: encoder.__class__().texts(texts) * float("nan")  # type: ignore[method-assign]
    store = Store.create(MemoryStore())
    store.add_model(encoder.provenance, encoder.projection)
    with pytest.raises(ModelUnavailable, match="not finite"):
        embed_texts(store, encoder, "pets", ["cat", "dog"], ["plp"])
    assert store.class_sets("fake") == {}


def test_nothing_is_stored_for_a_model_that_cannot_be_had(pictures: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    words = ["extract", str(pictures / "pets/train"), "--store", str(store), "--model", "local-dir:nowhere"]
    with pytest.raises(click.ClickException):
        main([*words, "--limit", "3"], standalone_mode=False)
    assert not store.exists()
    main(["extract", str(pictures / "pets/train"), "--store", str(store), "--model", "fake"], standalone_mode=False)
    words = ["probe", "--store", str(store), "--id", "pets", "--ood", "cars", "--model", "typo"]
    with pytest.raises(click.ClickException, match="unknown model 'typo'"):
        main([*words, "--results", str(tmp_path / "r.zarr")], standalone_mode=False)
    assert not (tmp_path / "r.zarr").exists()


@pytest.mark.parametrize(("nohup", "code"), [(False, 75), (True, 0)])
def test_a_session_that_is_cut_off_stops_unless_nohup(
    pictures: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], nohup: bool, code: int
) -> None:
    store = tmp_path / "s.zarr"
    words = ["extract", pictures / "tars/many.tar", "--store", store, "--model", "fake", "--block-rows", "4"]

    def in_a_session() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    with start(*words, preexec_fn=in_a_session) as process:
        while process.poll() is None and len(list(store.glob("models/fake/images/tars/test/status/c/*"))) < 5:
            time.sleep(0.005)
        process.send_signal(signal.SIGHUP)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert ("Stopping …\nStopped." in stderr) == (code == 75)
    assert "Traceback" not in stderr


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0, 4.0, 5.0])
def test_a_command_that_is_stopped_while_its_decoders_start_says_only_that(
    pictures: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]], seconds: float
) -> None:
    words = ["extract", pictures / "tars/many.tar", "--store", tmp_path / "s.zarr", "--model", "fake", "--workers", "2"]
    with start(*words) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode in (75, 0), stderr  # a quick machine may be done by then
    # The server that forks decoders may be at it only now, for a process that is gone.
    assert "forkserver.py" not in stderr


def test_a_worker_is_silent_about_a_process_that_is_gone_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def semaphore() -> None:
        synchronize.SemLock.__setstate__(object.__new__(synchronize.SemLock), (0, 0, 1, "/there-is-none"))

    def file() -> None:
        Path("/there/is/none").read_bytes()

    def pipe() -> None:
        raise BrokenPipeError

    def said(fails: Callable[[], None]) -> str:
        with pytest.raises((FileNotFoundError, BrokenPipeError)) as caught:
            fails()
        report_unless_alone(caught.type, caught.value, caught.value.__traceback__)
        return capsys.readouterr().err

    assert said(semaphore) == said(pipe) == ""
    assert "FileNotFoundError" in said(file)
    assert "Traceback" in said(file)
    sys.excepthook, usual = None, sys.excepthook  # type: ignore[assignment]
    try:
        importlib.import_module("embedstore.extract.forked")
        assert sys.excepthook is report_unless_alone
    finally:
        sys.excepthook = usual
