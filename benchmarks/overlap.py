"""How much of a model's own speed extraction keeps: pipeline images/s over bare images/s, the overlap ratio.

Bare is the same model, on the same device, going through batches that lie in the device's memory already. The pipeline
is what ``embedstore extract`` runs: shards read, JPEGs decoded by workers, features written to a store on disk. The two
take turns, so that whatever else happens on the machine happens to both.

The pipeline's clock runs over its middle: it starts once the workers have started and what they had ready by then is
used up, and stops while they still have as much to do as they may have ready. Long runs are like that middle.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

# Importing the command line has OpenMP's threads sleep while they wait, as every extraction does (see there).
import embedstore.cli  # noqa: F401
from benchmarks import machine
from embedstore.encoders import Encoder, ImageFeatures, load_encoder

_PICTURES = 256  # different ones; a shard repeats them under other keys
_WIDTH, _HEIGHT = 500, 375


class Speed(NamedTuple):
    """How fast the pipeline was, and the part of the time in which the model had nothing to do."""

    images_per_second: float
    idle: float


def random_clip(architecture: str, device: str, precision: str) -> Encoder:
    """An open_clip architecture with random weights: as fast as with trained ones, and needs no download."""
    import open_clip
    import torch

    from embedstore.encoders.clip import ClipEncoder
    from embedstore.encoders.runtime import find_device, silent_root_logger
    from embedstore.records import Provenance

    torch.manual_seed(0)
    where = find_device(device)
    with silent_root_logger():
        model = open_clip.create_model(architecture).eval().requires_grad_(False).to(where)
    encoder = ClipEncoder(model, None, device=where, precision=precision)
    encoder.has_text = False
    encoder.provenance = Provenance(
        name=f"random-{architecture}",
        architecture=architecture,
        pretrained="random",
        weights_sha256="",
        preprocess={},
        tokenizer=None,
        quick_gelu=False,
        precision=precision,
        dtype="float16",
        feature_dim=encoder.feature_dim,
        joint_dim=encoder.joint_dim,
    )
    return encoder


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG that is as hard to decode as a photograph: gradients, some noise, about 60 kB."""
    from PIL import Image

    y, x = np.mgrid[0 : 1 : _HEIGHT * 1j, 0 : 1 : _WIDTH * 1j]
    waves = [np.sin(rng.uniform(2, 40) * x + rng.uniform(2, 40) * y + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 128 + 70 * np.stack(waves, axis=2) + rng.normal(0, 12, (_HEIGHT, _WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_shard(path: Path, images: int) -> list[bytes]:
    """A WebDataset shard of so many JPEGs; return the different ones."""
    rng = np.random.default_rng(0)
    pictures = [photograph(rng) for _ in range(min(images, _PICTURES))]
    with tarfile.open(path, "w") as tar:
        for number in range(images):
            raw = pictures[number % len(pictures)]
            entry = tarfile.TarInfo(f"{number:08}.jpg")
            entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    return pictures


def bare(encoder: Encoder, batches: list[Any], images: int) -> float:
    """Images a second through the model alone; features come back to the CPU, as they must in any use."""
    done, began = 0, time.perf_counter()
    while done < images:
        for batch in batches:
            encoder.images(batch)
            done += len(batch)
    return done / (time.perf_counter() - began)


class Watched:
    """An encoder that notes when it began and ended each batch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.calls: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def images(self, batch: Any) -> ImageFeatures:
        """As the encoder's own."""
        began = time.perf_counter()
        made = self._encoder.images(batch)
        self.calls.append((began, time.perf_counter()))
        return made


def pipeline(encoder: Encoder, shard: Path, place: Path, margin: int, batch_size: int, workers: int) -> Speed:
    """Extract the shard, leaving out `margin` batches at either end."""
    from embedstore.extract import embed_images, list_rows
    from embedstore.sources import open_source
    from embedstore.store import Store

    source, store, watched = open_source(str(shard)), Store.create(place), Watched(encoder)
    rows = list_rows(store, source, block_rows=8 * batch_size)
    store.add_model(encoder.provenance, encoder.projection)
    outcome = embed_images(store, watched, source, rows, batch_size=batch_size, workers=workers)
    if outcome.ok != len(rows):
        raise click.ClickException(f"{outcome.failed} images failed: {outcome.failures[0].reason}")
    inside = watched.calls[margin:-margin]
    seconds = inside[-1][1] - watched.calls[margin - 1][1]
    at_work = sum(ended - began for began, ended in inside)
    return Speed(len(inside) * batch_size / seconds, 1 - at_work / seconds)


def hardware(encoder: Encoder) -> Iterator[str]:
    """What the numbers depend on, a line each."""
    from importlib.metadata import version

    import torch

    cores, load = machine.cores(), os.getloadavg()[0]
    used = torch.get_num_threads()
    yield f"cpu: {machine.cpu()}, {cores} cores, torch uses {used} of them; load when this began {load:.1f}"
    if encoder.device.startswith("cuda"):
        yield f"gpu: {torch.cuda.get_device_name(encoder.device)}, CUDA {torch.version.cuda}"
    names = ("embedstore", "torch", "open_clip_torch", "pillow", "numpy", "zarr")
    yield f"versions: Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in names)}"


@click.command()
@click.option(
    "--model",
    default="random:ViT-B-32",
    show_default=True,
    help="random:ARCHITECTURE of open_clip, or any model that extract takes.",
)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--images", type=click.IntRange(1), help="A repetition, beside the margins: 64 on a CPU, else 16,384.")
@click.option("--workers", type=click.IntRange(1), help="Processes that decode: one for each core but one, at most 8.")
@click.option("--batch-size", type=click.IntRange(1), help="8 on a CPU, 256 elsewhere.")
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(3))
def overlap(
    model: str,
    device: str,
    precision: str,
    images: int | None,
    workers: int | None,
    batch_size: int | None,
    repetitions: int,
) -> None:
    """Compare extraction with the bare forward pass, in turns; print the ratio and its spread."""
    import torch

    from embedstore.sources import decode

    random = model.startswith("random:")
    encoder = (
        random_clip(model.removeprefix("random:"), device, precision)
        if random
        else load_encoder(model, device=device, precision=precision)
    )
    on_cpu, cores = encoder.device == "cpu", machine.cores()
    workers = workers or max(1, min(8, cores - 1))
    batch_size = batch_size or (8 if on_cpu else 256)
    margin = 2 * workers + 1  # batches that may be ready, and the one in the model's hands
    count = -(-(images or (64 if on_cpu else 16_384)) // batch_size)
    for line in hardware(encoder):
        click.echo(line)
    click.echo(
        f"model: {encoder.provenance.name}, {precision} on {encoder.device}; {workers} workers; a repetition has "
        f"{count} batches of {batch_size} images, and {margin} more before and after"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures = write_shard(place / "test-0.tar", (count + 2 * margin) * batch_size)
        began = time.perf_counter()
        tensors = [encoder.preprocess(decode(raw)) for raw in pictures[: 4 * batch_size]]
        decoded = len(tensors) / (time.perf_counter() - began)
        size = sum(map(len, pictures)) / len(pictures) / 1000
        click.echo(f"images: JPEG, {_WIDTH} x {_HEIGHT}, {size:.0f} kB; one process decodes {decoded:.0f} a second")
        starts = range(0, len(tensors) - batch_size + 1, batch_size)
        batches = [torch.stack(tensors[start : start + batch_size]).to(encoder.device) for start in starts]
        bare(encoder, batches, batch_size)  # kernels are chosen, memory is taken
        ratios, left = [], []
        for number in range(repetitions):
            alone = bare(encoder, batches, count * batch_size)
            speed = pipeline(encoder, place / "test-0.tar", place / f"{number}.zarr", margin, batch_size, workers)
            ratios.append(speed.images_per_second / alone)
            click.echo(
                f"  bare {alone:.1f} images/s, pipeline {speed.images_per_second:.1f}: ratio {ratios[-1]:.3f}; "
                f"the model was idle {100 * speed.idle:.1f} % of the time"
            )
            fewer = _with_fewer_cores(encoder, batches, count * batch_size, cores - workers) if on_cpu else None
            if fewer is not None:
                left.append(speed.images_per_second / fewer)
                click.echo(f"  bare on {cores - workers} core(s), what decoding leaves: {fewer:.1f} images/s")
    click.echo(_summary("overlap ratio", ratios))
    if left:
        click.echo(_summary(f"against bare on {cores - workers} core(s)", left))


def _with_fewer_cores(encoder: Encoder, batches: list[Any], images: int, cores: int) -> float | None:
    """The bare pass with what the decoders leave of the CPU; None where that is nothing, or all there is."""
    import torch

    usual = torch.get_num_threads()
    if not 0 < cores < usual:
        return None
    torch.set_num_threads(cores)
    try:
        return bare(encoder, batches, images)
    finally:
        torch.set_num_threads(usual)


def _summary(name: str, ratios: list[float]) -> str:
    return f"{name}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f} of {len(ratios)}"
