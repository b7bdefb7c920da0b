"""Everything downstream at the size of ImageNet: 1.28 million training rows, 50,000 to test, four OOD sets of 10,000.

Features are made up; what is measured is time and memory, method by method, each in a process of its own on one store.
Training is cut to one epoch (``--epochs``), and what 100 would take is said beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.features import WIDTH
from benchmarks.results import seconds
from embedstore.records import OK, Provenance, Rows

TRAIN, TEST, OOD, SETS, CLASSES = 1_281_167, 50_000, 10_000, 4, 1_000
METHODS = ("mcm", "zero-shot", "plp", "mahalanobis", "knn")
_BLOCK = 16_384
_MODEL = Provenance(
    name="made-up",
    architecture="none",
    pretrained="none",
    weights_sha256="0" * 64,
    preprocess={},
    tokenizer="none",
    quick_gelu=False,
    precision="fp32",
    dtype="float16",
    feature_dim=WIDTH,
    joint_dim=512,
    logit_scale=100.0,
)


@click.command()
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.001, 1), help="Times the rows.")
@click.option("--method", "methods", multiple=True, help="Only this one; repeatable.")
@click.option("--epochs", default=1, show_default=True, help="Of PLP.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--store", "kept", type=click.Path(path_type=Path), help="Where the store is, or is to be kept.")
@click.option("--one", type=(str, click.Path(path_type=Path)), hidden=True)
def downstream(
    scale: float, methods: tuple[str, ...], epochs: int, device: str, kept: Path | None, one: tuple[str, Path] | None
) -> None:
    """Run methods on a store as large as ImageNet's, and say how long each takes and how much memory."""
    if one is not None:
        click.echo(json.dumps(_run(*one, epochs, device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = kept or Path(folder, "store.zarr")
        if not place.exists():
            began = time.perf_counter()
            _fill(place, scale)
            click.echo(f"store of {int(TRAIN * scale):,} training rows made in {time.perf_counter() - began:.0f} s")
        click.echo("| method | time | processor time | peak memory | |")
        click.echo("|---|---:|---:|---:|---|")
        for method in methods or METHODS:
            command = [sys.executable, "-m", "benchmarks", "downstream", "--epochs", str(epochs), "--device", device]
            done = subprocess.run(  # noqa: S603
                [*command, "--one", method, str(place)], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            note = f"{epochs} epoch(s); each takes {seconds(found['epoch'])}" if found["epoch"] else ""
            cells = (method, seconds(found["wall"]), seconds(found["cpu"]), f"{found['peak'] / 1e9:.1f} GB", note)
            click.echo(f"| {' | '.join(cells)} |")


def _run(method: str, place: Path, epochs: int, device: str) -> dict[str, Any]:
    from embedstore.evaluate import Study, run_methods
    from embedstore.store import Store

    options = {"plp": {"epochs": epochs}} if method == "plp" else {}

    def once(options: dict[str, Any]) -> float:
        began = time.perf_counter()
        study = Study(Store.open(place), _MODEL.name, "id", [f"ood{n}" for n in range(SETS)], device=device)
        for result in run_methods(study, [method], options=options):
            if result.absent is not None:
                raise click.ClickException(result.absent)
        return time.perf_counter() - began

    cpu = time.process_time()
    wall = once(options)
    found = {"wall": wall, "cpu": time.process_time() - cpu, "peak": _peak(), "epoch": None}
    if method == "plp":
        # The first run has imported what there is to import, and read the files from disk.
        shorter = once(options)
        found["epoch"] = max(once({"plp": {"epochs": epochs + 1}}) - shorter, 0.0) or None
    return found


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _fill(place: Path, scale: float) -> None:
    from embedstore.store import Store

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    projection = rng.standard_normal((WIDTH, _MODEL.joint_dim), dtype=np.float32) / np.sqrt(WIDTH)
    store = Store.create(place)
    store.add_model(_MODEL, projection)
    joint = centres @ projection
    vectors = joint / np.linalg.norm(joint, axis=1, keepdims=True)
    names = [f"class {n}" for n in range(CLASSES)]
    store.add_texts(
        _MODEL.name, "id", "plp", names=names, templates=["{}"], vectors=vectors[:, None].astype(np.float32)
    )
    sizes = {"id/train": TRAIN, "id/test": TEST, **{f"ood{n}/test": OOD for n in range(SETS)}}
    for name, size in sizes.items():
        rows = store.add_rows(*name.split("/"), _rows(int(size * scale), names), block_rows=_BLOCK)
        writer = store.image_writer(_MODEL.name, rows)
        inside = name.startswith("id/")
        for _, start, stop in rows.blocks():
            noise = rng.standard_normal((stop - start, WIDTH), dtype=np.float32)
            middle = centres[rows.labels[start:stop]] if inside else 0.0
            features = (noise + 0.35 * middle).astype(np.float16)
            writer.write(start, stop, np.full(stop - start, OK, dtype=np.uint8), features=features)


def _rows(count: int, names: list[str]) -> Rows:
    places = np.arange(count, dtype=np.int64)
    unknown = np.full(count, -1, dtype=np.int32)
    keys = [f"{place:08}" for place in range(count)]
    return Rows(keys, (places % CLASSES).astype(np.int32), unknown, places, places, (), tuple(names), "made-up")
