"""Extraction that decoding bounds: a model that costs nothing, photographs of 500 x 375 pixels, the transform of a ViT.

The reference is what decoding and transforming the same bytes takes in as many processes that do nothing else: no
shard is read, nothing is handed over, nothing is stored.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
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

_BATCH = 32
_COSINE = 0.999


def decode(scale: float) -> Iterator[Stage]:
    """A shard of JPEGs through ``embedstore extract``, exact and fast, against Pillow and the transform alone."""
    workers = cores()
    margin = 2 * workers + 1
    batches = max(4, int(40 * scale))
    exact, fast = Idle(_transform()), Idle(_fast_transform())
    with tempfile.TemporaryDirectory() as folder, _pool(workers) as pool:
        shard = Path(folder, "test-0.tar")
        pictures = write_shard(shard, (batches + 2 * margin) * _BATCH)
        count = batches * _BATCH

        def alone() -> Timed:
            """In chunks of a batch, as many as the pipeline's clock sees; the pool has started before."""
            chunks = [[pictures[(n * _BATCH + i) % len(pictures)] for i in range(_BATCH)] for n in range(batches)]
            began = time.perf_counter()
            pool.map(_prepare, chunks, chunksize=1)
            return Timed(count, time.perf_counter() - began)

        def extract(encoder: Idle) -> Callable[[], Timed]:
            def run() -> Timed:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    speed = pipeline(encoder, shard, Path(place, "s.zarr"), margin, _BATCH, workers)
                return Timed(count, count / speed.images_per_second)

            return run

        def same_count(ours: int, theirs: int) -> None:
            if ours != theirs:
                raise Disagreement(f"{ours} images against {theirs}")

        def same_pixels(ours: int, theirs: int) -> None:
            same_count(ours, theirs)
            _agree(pictures[:32])

        size = f"{count:,} JPEGs of 500 x 375 to 224 x 224, {workers} processes"
        yield Stage(
            f"extract {size}, with a model that costs nothing",
            extract(exact),
            [Reference("Pillow and the transform alone", alone, same_count, aim=0.95)],
        )
        yield Stage(
            f"the same with --decode fast ({size})",
            extract(fast),
            [
                Reference("--decode exact", extract(exact), same_pixels, aim=1.5),
                Reference("Pillow and the transform alone", alone, same_count),
            ],
        )


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
