"""Writing and reading a store against numpy's own files and plain Zarr. All of it in the page cache, for all alike."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from benchmarks.features import WIDTH, clouds
from benchmarks.pairs import Disagreement, Reference, Run, Stage, Timed
from embedstore.records import Provenance, Rows
from embedstore.store import Split, Store

Half = npt.NDArray[np.float16]

_MODEL = Provenance(
    name="made-up",
    architecture="none",
    pretrained="none",
    weights_sha256="0" * 64,
    preprocess={},
    tokenizer=None,
    quick_gelu=False,
    precision="fp32",
    dtype="float16",
    feature_dim=WIDTH,
    joint_dim=WIDTH,
)


def store(scale: float) -> Iterator[Stage]:
    """200,000 rows, written and read; 2,000 rows drawn at random."""
    X = clouds(int(200_000 * scale), 100)[0].astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield from _writing(X, place)
        yield from _reading(X, place)


def _writing(X: Half, place: Path) -> Iterator[Stage]:
    file, plain = place / "written.npy", place / "plain.zarr"
    with_rows, features_only = place / "all.zarr", place / "features.zarr"

    def listed() -> None:
        _with_rows(features_only, len(X))

    numpy_save = _writes(file, lambda: np.save(file, X), lambda: np.load(file))
    in_zarr = _writes(plain, lambda: _write_zarr(plain, X), lambda: _read_zarr(plain))
    size = f"{len(X):,} x {WIDTH} float16"
    yield Stage(
        f"write {size} into a store that has the row list",
        _writes(
            features_only, lambda: _write_features(features_only, X), lambda: read_store(features_only), before=listed
        ),
        [
            Reference("numpy.save", numpy_save, _same_when_read, aim=0.5),
            Reference("zarr with its defaults", in_zarr, _same_when_read, aim=1.0),
        ],
    )
    yield Stage(
        f"write {size} into a new store, row list and keys included",
        _writes(with_rows, lambda: write_store(with_rows, X), lambda: read_store(with_rows)),
        [Reference("numpy.save", numpy_save, _same_when_read)],
    )


def _reading(X: Half, place: Path) -> Iterator[Stage]:
    made, file, plain = place / "read.zarr", place / "read.npy", place / "read-plain.zarr"
    write_store(made, X)
    np.save(file, X)
    _write_zarr(plain, X)
    yield Stage(
        f"open and read {len(X):,} x {WIDTH} float16",
        lambda: read_store(made),
        [
            Reference("numpy.load", lambda: np.load(file), _same, aim=0.7),
            Reference("zarr with its defaults", lambda: _read_zarr(plain), _same, aim=1.0),
        ],
    )
    yield Stage(
        f"open and read {len(X):,} x {WIDTH} float16 by Zarr's own means: images.features[:]",
        lambda: Store.open(made).images(_MODEL.name, "made-up", "train").features[:],
        [Reference("zarr with its defaults", lambda: _read_zarr(plain), _same, aim=1.0)],
    )
    drawn = np.sort(np.random.default_rng(0).choice(len(X), min(2000, len(X)), replace=False))
    yield Stage(
        f"open and read {len(drawn):,} random rows of {len(X):,}",
        lambda: Store.open(made).images(_MODEL.name, "made-up", "train").features.oindex[drawn],
        [
            Reference("numpy.load, mapped", lambda: np.load(file, mmap_mode="r")[drawn], _same),
            Reference("zarr with its defaults", lambda: zarr.open_array(plain, mode="r").oindex[drawn], _same, aim=1.0),
        ],
        limit=0.2,
    )


def _writes(path: Path, write: Run, read: Run, before: Callable[[], None] = lambda: None) -> Run:
    """A run that times the writing alone; its answer is how to read what was written."""

    def run() -> Timed:
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        before()
        os.sync()  # nobody writes while the disk is busy with what the one before has left
        began = perf_counter()
        write()
        return Timed(read, perf_counter() - began)

    return run


def _with_rows(path: Path, n_rows: int) -> tuple[Store, Split]:
    """A new store that knows which rows there are to be."""
    made = Store.create(path)
    made.add_model(_MODEL, None)
    rows = Rows(
        keys=[f"{number:08}" for number in range(n_rows)],
        labels=np.zeros(n_rows, dtype=np.int32),
        shard=np.full(n_rows, -1, dtype=np.int32),
        offset=np.zeros(n_rows, dtype=np.int64),
        length=np.zeros(n_rows, dtype=np.int64),
        shards=(),
        class_names=None,
        source="made-up",
    )
    return made, made.add_rows("made-up", "train", rows)


def _write_features(path: Path, X: Half) -> None:
    """What extraction does with features: block after block, each with its status."""
    made = Store.open(path, writable=True)
    split = made.rows("made-up", "train")
    writer = made.image_writer(_MODEL.name, split)
    for _, start, stop in split.blocks():
        writer.write(start, stop, np.ones(stop - start, dtype=np.uint8), features=X[start:stop])


def write_store(path: Path, X: Half) -> None:
    """Row list and features into a new store."""
    _with_rows(path, len(X))
    _write_features(path, X)


def read_store(path: Path) -> Any:
    """Open it, and read all features."""
    images = Store.open(path).images(_MODEL.name, "made-up", "train")
    return images.part("features", 0, len(images))


def _write_zarr(path: Path, X: Half) -> None:
    zarr.create_array(path, shape=X.shape, dtype=X.dtype)[:] = X


def _read_zarr(path: Path) -> Any:
    return zarr.open_array(path, mode="r")[:]


def _same(ours: Any, theirs: Any) -> None:
    if not np.array_equal(ours, theirs):
        raise Disagreement("the rows that are read are not equal")


def _same_when_read(ours: Run, theirs: Run) -> None:
    _same(ours(), theirs())
