"""Builds the store whose bytes tests/golden/ pins. Run `python tests/golden_store.py` only when the format changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from zarr.abc.store import Store as ZarrStore

from embedstore.records import Provenance, Result, Rows, Shard
from embedstore.store import Store

HOME = Path(__file__).parent / "golden" / "format-1.zarr"

ROWS = Rows(
    keys=["a/0", "a/1", "b/ünïcode 2", "b/3", "b/4"],
    labels=np.array([0, 0, 1, 1, -1], dtype=np.int32),
    shard=np.array([0, 0, 0, 1, 1], dtype=np.int32),
    offset=np.array([512, 2048, 4096, 512, -1], dtype=np.int64),
    length=np.array([700, 800, 900, 1000, -1], dtype=np.int64),
    shards=(Shard("train-0.tar", 10240), Shard("train-1.tar", 10240)),
    class_names=("cat", "dog"),
    source="train-{0..1}.tar",
)

PROVENANCE = Provenance(
    name="Tiny/golden",
    architecture="Tiny",
    pretrained="golden",
    weights_sha256="0" * 64,
    preprocess={"size": [8, 8], "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    tokenizer="words",
    quick_gelu=False,
    precision="fp32",
    dtype="float16",
    feature_dim=3,
    joint_dim=2,
    logit_scale=100.0,
    versions={"torch": "2.0"},
)


def build(location: str | Path | ZarrStore) -> Store:
    """Five rows in blocks of two, of which the middle block is not embedded yet; one failed row; prompts; a result."""
    store = Store.create(location)
    split = store.add_rows("pets", "train", ROWS, block_rows=2)
    store.add_model(PROVENANCE, np.array([[1, 0], [0, 1], [0.5, -0.5]], dtype=np.float32))
    writer = store.image_writer("Tiny/golden", split, captions=True)
    for start, stop in ((0, 2), (4, 5)):
        status = np.where(np.arange(start, stop) == 1, 2, 1).astype(np.uint8)
        features = np.arange(3 * start, 3 * stop, dtype=np.float32).reshape(-1, 3) / 8
        features[status == 2] = np.nan
        reasons = {1: "decode: not an image"} if start == 0 else {}
        angles = np.where(status == 2, np.nan, np.arange(start, stop))
        captions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        writer.write(start, stop, status, reasons=reasons, features=features, captions=captions)
    vectors = np.array([[[1, 0], [0.6, 0.8]], [[0, 1], [-0.8, 0.6]]], dtype=np.float32)
    store.add_texts("Tiny/golden", "pets", "plp", names=["cat", "dog"], templates=["a {}.", "the {}."], vectors=vectors)
    store.add_result(
        Result(
            model="Tiny/golden",
            id_dataset="pets",
            method="knn",
            params={"k": 1, "seed": 0},
            inputs={"model": PROVENANCE.fingerprint()},
            id_accuracy=0.75,
            metrics={"cosine": {"wild/test": {"auroc": 0.875, "fpr95": 0.25}}},
            scores={"cosine/pets/train": np.array([0.5, np.nan, 1.0])},
            weights={"coef": np.array([[1.0, 2.0]], dtype=np.float32)},
            notes=("a note",),
            seconds=0.5,
            created="2026-01-01T00:00:00+00:00",
            version="0.1.0",
        )
    )
    return store


if __name__ == "__main__":
    shutil.rmtree(HOME, ignore_errors=True)
    build(HOME)
