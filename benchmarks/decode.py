"""Extraction that decoding bounds: a model that costs nothing, photographs of 500 x 375 pixels, the transform of a ViT.

The reference is what decoding and transforming the same bytes takes in as many processes that do nothing else: no
shard is read, nothing is handed over, nothing is stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import cores
from benchmarks.overlap import pipeline, write_shard
from benchmarks.pairs import Disagreement, Reference, Stage, Timed
from embedstore.encoders import ImageFeatures
from embedstore.encoders.fast import fast_transform
from embedstore.records import Provenance

_BATCH, _NAME = 32, "test-0.tar"
_COSINE = 0.999


def decode(scale: float) -> Iterator[Stage]:
    """A shard of JPEGs through ``embedstore extract``, against Pillow and the transform alone."""
    with _shard(scale) as shard:
        yield Stage(
            f"extract {shard}, with a model that costs nothing",
            shard.extracted(Idle(_transform())),
            [Reference("Pillow and the transform alone", shard.alone, _same_count, aim=0.95)],
        )


def fast(scale: float) -> Iterator[Stage]:
    """The same with ``--decode fast``."""

    def same_pixels(ours: int, theirs: int) -> None:
        _same_count(ours, theirs)
        _agree(shard.pictures[:32])

    with _shard(0.75 * scale) as shard:  # or it would take more than two minutes
        yield Stage(
            f"the same with --decode fast ({shard})",
            shard.extracted(Idle(_fast_transform())),
            [
                Reference("--decode exact", shard.extracted(Idle(_transform())), same_pixels, aim=1.5),
                Reference("Pillow and the transform alone", shard.alone, _same_count),
            ],
        )


@dataclass(frozen=True)
class _Shard:
    """A shard of photographs, and a pool of processes that do nothing else than decode and transform."""

    folder: Path
    batches: int
    workers: int
    pool: Pool
    pictures: list[bytes]

    def __str__(self) -> str:
        return f"{self.batches * _BATCH:,} JPEGs of 500 x 375 to 224 x 224, {self.workers} processes"

    def alone(self) -> Timed:
        """In chunks of a batch, as many as the pipeline's clock sees; the pool has started before."""
        ones = self.pictures
        chunks = [[ones[(n * _BATCH + i) % len(ones)] for i in range(_BATCH)] for n in range(self.batches)]
        began = time.perf_counter()
        self.pool.map(_prepare, chunks, chunksize=1)
        return Timed(self.batches * _BATCH, time.perf_counter() - began)

    def extracted(self, encoder: Idle) -> Callable[[], Timed]:
        """All of ``embedstore extract``."""

        def run() -> Timed:
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                shard, store = self.folder / _NAME, Path(place, "s.zarr")
                speed = pipeline(encoder, shard, store, _margin(self.workers), _BATCH, self.workers)
            count = self.batches * _BATCH
            return Timed(count, count / speed.images_per_second)

        return run


@contextmanager
def _shard(scale: float) -> Iterator[_Shard]:
    workers, batches = cores(), max(4, int(40 * scale))
    with tempfile.TemporaryDirectory() as folder, _pool(workers) as pool:
        pictures = write_shard(Path(folder, _NAME), (batches + 2 * _margin(workers)) * _BATCH)
        yield _Shard(Path(folder), batches, workers, pool, pictures)


def _margin(workers: int) -> int:
    """Batches at either end in which not all processes are at work."""
    return 2 * workers + 1


def _same_count(ours: int, theirs: int) -> None:
    if ours != theirs:
        raise Disagreement(f"{ours} images against {theirs}")


class Idle:
    """Fulfils :class:`embedstore.encoders.Encoder` in no time: its features are a few pixels."""

    has_text = False
    device = "cpu"
    projection = np.eye(3, dtype=np.float32)
    provenance = Provenance(
        name="idle",
        architecture="none",
        pretrained="none",
        weights_sha256="0" * 64,
        preprocess={},
        tokenizer=None,
        quick_gelu=False,
        precision="fp32",
        dtype="float16",
        feature_dim=3,
        joint_dim=3,
    )

    def __init__(self, preprocess: Callable[[Any], Any]) -> None:
        self.preprocess = preprocess

    def images(self, batch: Any) -> ImageFeatures:
        """(B, 3) of (B, 3, H, W)."""
        return ImageFeatures(np.ascontiguousarray(batch[:, :, 0, 0].numpy()))

    def texts(self, texts: Any) -> Any:
        """Nobody asks."""
        raise NotImplementedError


def _transform() -> Callable[[Any], Any]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform: Callable[[Any], Any] = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    return transform


def _fast_transform() -> Callable[[Any], Any]:
    found = fast_transform(_transform())
    assert found is not None
    return found


def _pool(workers: int) -> Pool:
    # As extraction's workers: forked from a server that runs no threads, one thread each.
    pool = get_context("forkserver").Pool(workers, _start)
    pool.map(_prepare, [[]] * workers, chunksize=1)
    return pool


def _start() -> None:
    import torch

    global _prepared
    torch.set_num_threads(1)
    _prepared = _transform()


_prepared: Callable[[Any], Any] | None = None


def _prepare(pictures: list[bytes]) -> int:
    import io

    from PIL import Image

    assert _prepared is not None
    for raw in pictures:
        _prepared(Image.open(io.BytesIO(raw)).convert("RGB"))
    return len(pictures)


def _agree(pictures: list[bytes]) -> None:
    """Pixels, since there is no model: tests compare the embeddings of real photographs by real models."""
    from embedstore.sources import decode

    exact, fast = _transform(), _fast_transform()
    for raw in pictures:
        image = decode(raw)
        a, b = (np.asarray(transform(image), dtype=np.float64).ravel() for transform in (exact, fast))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        if not cosine > _COSINE:
            raise Disagreement(f"pixels of the two transforms have the cosine {cosine:.6f}")
