"""A small study on made-up features, in a store in memory, for the tests of `probe`."""

from __future__ import annotations

from typing import Any

import numpy as np
from zarr.storage import MemoryStore

from embedstore.evaluate import Study
from embedstore.records import Provenance, Rows
from embedstore.store import Store

NAMES = ("cat", "dog", "fish")
PROVENANCE = Provenance(
    name="m",
    architecture="synthetic",
    pretrained="none",
    weights_sha256="0" * 64,
    preprocess={},
    tokenizer="none",
    quick_gelu=False,
    precision="fp32",
    dtype="float32",
    feature_dim=6,
    joint_dim=4,
    logit_scale=20.0,
)
PROJECTION = np.random.default_rng(7).standard_normal((6, 4)).astype(np.float32)
TEXT = np.random.default_rng(8).standard_normal((3, 1, 4)).astype(np.float32)


def features(seed: int, labels: np.ndarray, spread: float = 1.2) -> np.ndarray:
    """Three overlapping clouds, so that no method is perfect."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((4, 6)) + 0.5
    return (centres[labels] + spread * rng.standard_normal((len(labels), 6))).astype(np.float32)


LABELS = {"train": np.arange(60) % 3, "test": np.arange(30) % 3, "ood": np.full(25, 3)}
X = {name: features(seed, labels) for seed, (name, labels) in enumerate(LABELS.items())}


def put(
    store: Store,
    name: str,
    values: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    names: tuple[str, ...] | None = NAMES,
    model: str = "m",
    status: np.ndarray | None = None,
    **columns: np.ndarray,
) -> None:
    """Write one split in blocks of five rows; those with a 0 in `status` are not written."""
    n = len(values)
    rows = Rows(
        keys=[f"{i}" for i in range(n)],
        labels=np.full(n, -1, np.int32) if labels is None else labels.astype(np.int32),
        shard=np.full(n, -1, np.int32),
        offset=np.zeros(n, np.int64),
        length=np.zeros(n, np.int64),
        shards=(),
        class_names=None if labels is None else names,
        source=name,
    )
    split = store.add_rows(*name.split("/"), rows, block_rows=5)
    writer = store.image_writer(model, split, projected=bool(columns))
    status = np.ones(n, np.uint8) if status is None else status
    for _, start, stop in split.blocks():
        mine = {key: column[start:stop].copy() for key, column in {"features": values, **columns}.items()}
        for column in mine.values():
            column[status[start:stop] != 1] = np.nan
        if status[start:stop].all():
            failed = np.flatnonzero(status[start:stop] == 2).tolist()
            writer.write(start, stop, status[start:stop], reasons=dict.fromkeys(failed, "decode: no image"), **mine)


def study(*, texts: bool = True, train: bool = True, ood: tuple[str, ...] = ("cars",), **splits: Any) -> Study:
    """The study of ``pets`` against ``cars``; ``train_split``, ``test_split``, ``ood_split`` change what is put."""
    store = Store.create(MemoryStore())
    store.add_model(PROVENANCE, PROJECTION)
    if texts:
        store.add_texts("m", "pets", "plp", names=NAMES, templates=["{}"], vectors=TEXT)
    given = {
        "train": {"values": X["train"], "labels": LABELS["train"], **splits.get("train_split", {})},
        "test": {"values": X["test"], "labels": LABELS["test"], **splits.get("test_split", {})},
        "ood": {"values": X["ood"], **splits.get("ood_split", {})},
    }
    if train:
        put(store, "pets/train", **given["train"])
    put(store, "pets/test", **given["test"])
    put(store, "cars/test", **given["ood"])
    return Study(store, "m", "pets", ood)
