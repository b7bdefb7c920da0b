"""Memory: nothing grows with the rows, in any process, from the first header of a tar to the last block.

Rows are listed into a temporary file, read again from the store a block at a time, and each process that decodes is
given those of its batches. Pixels, features and reasons are never kept: a run of any length holds a few batches and a
block or two of them.

    python tests/test_memory.py 200000 2        # one measurement, printed
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.encoders import ImageFeatures
from embedstore.encoders.fake import FakeEncoder
from embedstore.extract import embed_images, list_rows
from embedstore.sources import open_source
from embedstore.store import Store

WIDTH = 1024
BATCH = 64
# Allocators, and spans of the row list that 10,000 rows do not fill. A copy of the list would be 20 MB, of the features
# 400 MB, and of the pixels 600 MB.
SLACK = 6 << 20


PICTURE = b"P6 2 2 255\n" + bytes(range(12))


def shard(path: Path, rows: int) -> Path:
    """A tar of so many rows, all one tiny picture; every tenth is none, for the ledger to have work."""
    with tarfile.open(path, "w") as tar:
        for row in range(rows):
            member = tarfile.TarInfo(f"key-{row:06}.ppm")
            member.size = len(PICTURE)
            tar.addfile(member, io.BytesIO(PICTURE if row % 10 else b"no picture" + bytes(len(PICTURE) - 10)))
            tar.members.clear()
    return path


class Wide(FakeEncoder):
    """A fake with features as wide as a large model's, quick enough for many rows."""

    def __init__(self) -> None:
        super().__init__(feature_dim=WIDTH)

    def images(self, batch: Any) -> ImageFeatures:
        return ImageFeatures(np.repeat(np.asarray(batch)[:, 0, 0, :1], WIDTH, axis=1))


def peak_bytes(process: int | str = "self") -> int:
    """The most that a process has ever had resident."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def decoders() -> list[int]:
    """Processes that decode: children of the fork server, which is a child of this process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            except OSError:  # it has just ended
                continue
    return [process for process, parent in parents.items() if parents.get(parent) == os.getpid()]


def measure(rows: int, workers: int) -> dict[str, Any]:
    """Embed so many rows into a store on disk: by how many bytes this process grew, and the peak of each decoder."""
    import torch.utils.data  # noqa: F401 (workers need it, and it must not count)

    with tempfile.TemporaryDirectory() as place:
        embed(shard(Path(place, "few-test-000000.tar"), 2000), 0)
        path = shard(Path(place, "many-test-000000.tar"), rows)
        return watched(path, workers)


def watched(path: Path, workers: int) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak: importing torch takes more than any run here
    before, peaks = peak_bytes(), dict[int, list[int]]()
    calls = 0

    def look(done: int, to_do: int) -> None:
        nonlocal calls
        calls += 1
        if workers and (calls % 50 == 1 or calls == to_do // BATCH):
            for process in decoders():
                peaks.setdefault(process, []).append(peak_bytes(process))

    embed(path, workers, look)
    return {"parent": peak_bytes() - before, "workers": [max(seen) for seen in peaks.values()]}


def embed(path: Path, workers: int, progress: Callable[[int, int], None] | None = None) -> None:
    encoder, source = Wide(), open_source(str(path))
    with tempfile.TemporaryDirectory() as place:
        store = Store.create(Path(place) / "s.zarr")
        split = list_rows(store, source, block_rows=1024)
        store.add_model(encoder.provenance, encoder.projection)
        outcome = embed_images(store, encoder, source, split, batch_size=BATCH, workers=workers, progress=progress)
        ledger = sum(1 for _ in store.images("fake", split.dataset, split.split).failures())
    failed = -(-len(split) // 10)
    assert (outcome.ok, outcome.failed, ledger) == (len(split) - failed, failed, failed)


def in_a_child(rows: int, workers: int) -> dict[str, Any]:
    """A process of its own: a peak is never forgotten."""
    words = [sys.executable, "-W", "ignore", __file__, str(rows), str(workers)]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=300).stdout)
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows() -> None:
    few, many = in_a_child(10_000, 2), in_a_child(200_000, 2)
    print(f"10,000 rows: {few}, 200,000 rows: {many} bytes")
    assert many["parent"] <= few["parent"] + SLACK
    assert len(few["workers"]) == len(many["workers"]) == 2
    assert max(many["workers"]) <= max(few["workers"]) + SLACK


# Read ahead -----------------------------------------------------------------------------------------------------------


class Tally:
    """The fake's transform, which leaves a byte in a file for every picture that it prepared."""

    def __init__(self, path: Path, preprocess: Any) -> None:
        self.path, self.preprocess = path, preprocess

    def __call__(self, image: Any) -> Any:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, b"1")  # whole, whoever else writes
        os.close(descriptor)
        return self.preprocess(image)


def test_decoders_do_not_run_ahead_of_a_slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})  # torch would warn of more workers than cores
    workers, batch = 2, 8
    waiting = []

    class Slow(FakeEncoder):
        embedded = 0

        def images(self, batch: Any) -> ImageFeatures:
            time.sleep(0.1)
            waiting.append((tmp_path / "tally").stat().st_size - self.embedded)
            self.embedded += len(batch)
            return super().images(batch)

    source = open_source(str(shard(tmp_path / "slow-test-000000.tar", 200)))
    encoder, store = Slow(), Store.create(tmp_path / "s.zarr")
    encoder.preprocess = Tally(tmp_path / "tally", encoder.preprocess)
    split = list_rows(store, source, block_rows=64)
    store.add_model(encoder.provenance, encoder.projection)
    embed_images(store, encoder, source, split, batch_size=batch, workers=workers)
    # Two batches a worker are ready or in the making, and one is in the model's hands.
    assert workers * batch < max(waiting) <= (2 * workers + 1) * batch


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
