"""Small data sets of random pictures, a store of their fake embeddings, and the installed command."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine with other work.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def png(rng: np.random.Generator, brightness: float) -> bytes:
    from PIL import Image

    pixels = np.clip(rng.normal(brightness, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_folder(root: Path, classes: Sequence[str], each: int, seed: int) -> None:
    """One sub-folder per class; the classes differ in brightness."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.png").write_bytes(png(rng, 60 + 70 * label))


def write_tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> None:
    """A WebDataset shard: for each sample its key and its members by extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, content in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``pets/train`` (24 pictures), ``pets/test`` (18), ``cars/test`` (10), ``flat/test`` (6, no labels).

    And shards: ``tars/pets-train.tar`` holds the images of ``pets/train``, every other one with a caption;
    ``tars/many.tar`` 600 images, enough for a run to be stopped in the middle of it.
    """
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root / "pets" / "train", ["cat", "dog", "fish"], 8, seed=0)
    write_folder(root / "pets" / "test", ["cat", "dog", "fish"], 6, seed=1)
    write_folder(root / "cars" / "test", ["bus", "van"], 5, seed=2)
    write_folder(root / "flat", ["test"], 6, seed=3)
    samples = []
    for number, path in enumerate(sorted((root / "pets" / "train").rglob("*.png"))):
        members = {"png": path.read_bytes(), "cls": str(number // 8).encode()}
        if number % 2:
            members["txt"] = f"picture {number}".encode()
        samples.append((f"{path.parent.name}/{path.stem}", members))
    write_tar(root / "tars" / "pets-train.tar", samples)
    few = [members["png"] for _, members in samples]
    many = [(f"{n:04}", {"png": few[n % len(few)], "cls": str(n % 3).encode()}) for n in range(600)]
    write_tar(root / "tars" / "many.tar", many)
    return root


@pytest.fixture(scope="session")
def fake_store(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of `pictures`, embedded by two fake models in blocks of 8 rows. Copy it before writing to it."""
    from embedstore.cli import main

    location = tmp_path_factory.mktemp("stores") / "fake.zarr"
    for source in ("pets/train", "pets/test", "cars/test", "flat/test"):
        arguments = ["extract", str(pictures / source), "--store", str(location), "--quiet", "--block-rows", "8"]
        main([*arguments, "--model", "fake", "--model", "fake:other"], standalone_mode=False)
    return location


def as_in_a_terminal() -> None:
    # Whoever starts the tests in the background makes them, and all that they start, deaf to SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts the installed command in a process of its own."""
    installed = Path(sys.executable).with_name("embedstore")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDSTORE_")}

    def start(*args: str | Path, env: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [installed, *args], env={**clean, **(env or {})}, **{"preexec_fn": as_in_a_terminal, **pipes, **more}
        )

    return start


@pytest.fixture(scope="session")
def command(start: Callable[..., subprocess.Popen[str]]) -> Command:
    """Runs the installed command in a process of its own to its end."""

    def run(*args: str | Path, timeout: float = 120, **more: Any) -> subprocess.CompletedProcess[str]:
        with start(*args, **more) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            finally:
                process.kill()
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def demo(command: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which `embedstore demo` ran, and what it said. Once a session, however many processes test."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo-of-the-session"
    folder.mkdir(exist_ok=True)
    said = folder / "said.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            first = command("demo", cwd=folder, env={"HF_HUB_OFFLINE": "1"}, timeout=900)
            assert first.returncode == 0, first.stderr
            said.write_text(first.stdout)
    return folder, said.read_text()
