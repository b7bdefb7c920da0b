"""How time and memory grow: every stage at N, 2N, 4N and 8N rows, each in a process of its own.

Time is that of the processor, all threads together, so that other work on the machine counts little. Memory is the
peak above what the data and the imported libraries take. The exponent is the slope of the logarithms: 1 is linear.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.features import WIDTH, clouds
from benchmarks.results import seconds

TIMES = (1, 2, 4, 8)
_MEGABYTE = 1e6
Work = Callable[[], object]


@dataclass(frozen=True)
class Point:
    """One stage at one size: processor seconds, and bytes of peak memory that the work added."""

    rows: int
    seconds: float
    bytes: int


@click.command()
@click.option("--stage", "names", multiple=True, help="Only this one; repeatable.")
@click.option("--scale", default=1.0, show_default=True, type=click.FloatRange(0.01, 10), help="Times the rows of N.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw them there.")
@click.option("--point", type=(str, int), hidden=True)
def growth(names: tuple[str, ...], scale: float, plot: Path | None, point: tuple[str, int] | None) -> None:
    """Measure every stage at N, 2N, 4N and 8N, and print how it grows."""
    if point is not None:
        found = measure(STAGES[point[0]][1], point[1])
        click.echo(json.dumps(vars(found)))
        return
    click.echo(f"| stage | rows | processor time | exponent | memory at {TIMES[-1]}N | exponent |")
    click.echo("|---|---|---:|---:|---:|---:|")
    measured = {}
    for name in names or STAGES:
        measured[name] = points = [_in_a_process(name, int(times * scale * STAGES[name][0])) for times in TIMES]
        cells = [name, f"{points[0].rows:,} to {points[-1].rows:,}"]
        cells += [f"{seconds(points[0].seconds)} to {seconds(points[-1].seconds)}"]
        cells += [f"{exponent([one.seconds for one in points]):.2f}", f"{points[-1].bytes / _MEGABYTE:,.0f} MB"]
        cells += [f"{exponent([one.bytes for one in points]):.2f}" if points[0].bytes > 5 * _MEGABYTE else "–"]
        click.echo(f"| {' | '.join(cells)} |")
    if plot is not None:
        draw(measured, plot)


def exponent(values: Sequence[float]) -> float:
    """Of growth with the number of rows: the slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(TIMES), np.log(np.maximum(values, 1e-9)), 1)[0])


def measure(prepare: Callable[[int, Path], Work], rows: int) -> Point:
    """Run one stage once on so many rows, after a run on few that loads and compiles whatever there is to."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "warm").mkdir()
        prepare(500, Path(folder) / "warm")()
        (Path(folder) / "real").mkdir()
        work = prepare(rows, Path(folder) / "real")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of preparing
        before, began = _peak(), time.process_time()
        work()
        return Point(rows, time.process_time() - began, max(_peak() - before, 0))


def draw(measured: dict[str, list[Point]], path: Path) -> None:
    """Both quantities against the rows, on logarithmic axes, a panel each."""
    import matplotlib

    matplotlib.rcParams.update({"svg.hashsalt": "embedstore", "font.size": 8})
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name, of in zip(
        figure.subplots(1, 2),
        ("processor seconds", "memory added (MB)"),
        (lambda one: one.seconds, lambda one: max(one.bytes, _MEGABYTE) / _MEGABYTE),
        strict=True,
    ):
        for stage, points in measured.items():
            axes.loglog(
                [one.rows for one in points], [of(one) for one in points], marker="o", markersize=3, label=stage
            )
        axes.set(xlabel="rows", ylabel=name)
        axes.grid(color="#dddddd", linewidth=0.5)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _in_a_process(name: str, rows: int) -> Point:
    command = [sys.executable, "-m", "benchmarks", "growth", "--point", name, str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return Point(**json.loads(done.stdout.splitlines()[-1]))


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


# Stages ---------------------------------------------------------------------------------------------------------------


def _extraction(rows: int, place: Path) -> Work:
    from embedstore.extract import embed_images, list_rows
    from embedstore.sources import open_source
    from embedstore.store import Store
    from embedstore.testing import FakeEncoder

    shard = place / "test-0.tar"
    _write_shard(shard, rows)
    encoder = FakeEncoder(feature_dim=64)

    def work() -> None:
        source, store = open_source(str(shard)), Store.create(place / "s.zarr")
        split = list_rows(store, source, block_rows=1024)
        store.add_model(encoder.provenance, encoder.projection)
        embed_images(store, encoder, source, split, workers=0)

    return work


def _write_shard(path: Path, rows: int) -> None:
    import io
    import tarfile

    picture = b"P6 4 4 255\n" + bytes(range(48))
    with tarfile.open(path, "w") as tar:
        for row in range(rows):
            entry = tarfile.TarInfo(f"{row:08}.ppm")
            entry.size = len(picture)
            tar.addfile(entry, io.BytesIO(picture))


def _listing(rows: int, place: Path) -> Work:
    from embedstore.sources import open_source

    shard = place / "test-0.tar"
    _write_shard(shard, rows)
    return lambda: open_source(str(shard)).scan()


def _probe(rows: int, place: Path) -> Work:
    from embedstore.probes import LinearProbe

    X, labels = clouds(rows, 100)
    return lambda: LinearProbe(epochs=2).fit(X, labels)


def _neighbours(rows: int, place: Path) -> Work:
    from embedstore.neighbors import nearest

    X, _ = clouds(rows + 500, 100)
    return lambda: nearest(X[:500], X[500:], 1)


def _mahalanobis(rows: int, place: Path) -> Work:
    from embedstore.scores import MahalanobisDetector

    X, labels = clouds(rows, 100)
    return lambda: MahalanobisDetector().fit(X, labels).score_samples(X)


def _metrics(rows: int, place: Path) -> Work:
    from embedstore.metrics import ood_metrics

    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, rows), rng.normal(0, 1, rows)
    return lambda: ood_metrics(inside, outside)


def _written(rows: int, place: Path) -> Work:
    from benchmarks.store import write_store

    X = np.ones((rows, WIDTH), dtype=np.float16)
    return lambda: write_store(place / "s.zarr", X)


def _read(rows: int, place: Path) -> Work:
    from benchmarks.store import read_store

    _written(rows, place)()
    return lambda: read_store(place / "s.zarr")


# N, and what prepares the work on so many rows.
STAGES: dict[str, tuple[int, Callable[[int, Path], Any]]] = {
    "listing a tar": (10_000, _listing),
    "extraction, a model that costs nothing": (2_000, _extraction),
    "writing features": (10_000, _written),
    "reading features": (10_000, _read),
    "linear probe, 2 epochs, 100 classes": (4_000, _probe),
    "500 nearest neighbours": (10_000, _neighbours),
    "Mahalanobis, 100 classes": (10_000, _mahalanobis),
    "metrics of N + N scores": (50_000, _metrics),
}
