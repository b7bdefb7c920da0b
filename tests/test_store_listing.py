"""What listing a store costs, in reads: a store may have a thousand splits and lie behind a network."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from zarr.storage import LocalStore, WrapperStore

from embedstore.cli.overview import inventory
from embedstore.records import OK, Rows
from embedstore.store import Store
from embedstore.testing import FakeEncoder


class Counting(WrapperStore[LocalStore]):
    """Counts what is read of what. Zarr makes itself a copy for reading, so all count in one place."""

    reads: ClassVar[Counter[str]] = Counter()

    async def get(self, key: str, *args: Any, **more: Any) -> Any:
        self.reads[key.rpartition("/")[2]] += 1
        return await super().get(key, *args, **more)

    def list_dir(self, prefix: str) -> Any:
        self.reads["(listing)"] += 1
        return super().list_dir(prefix)


def images(count: int) -> Rows:
    return Rows(
        keys=[f"{number:03}" for number in range(count)],
        labels=np.zeros(count, dtype=np.int32),
        shard=np.full(count, -1, dtype=np.int32),
        offset=np.full(count, -1, dtype=np.int64),
        length=np.full(count, -1, dtype=np.int64),
        shards=(),
        class_names=("a",),
        source="nowhere",
    )


def filled(place: Path, splits: int) -> Counting:
    store = Store.create(place)
    for name in ("", "other"):
        encoder = FakeEncoder(name)
        store.add_model(encoder.provenance, encoder.projection)
        for number in range(splits):
            rows = store.add_rows("web", f"part-{number:04}", images(6), block_rows=4)
            writer = store.image_writer(encoder.provenance.name, rows)
            features = np.ones((4, 24), dtype=np.float16)
            writer.write(0, 4, np.full(4, OK, dtype=np.uint8), features=features)
    return Counting(LocalStore(place))


def test_a_list_of_splits_reads_each_once(tmp_path: Path) -> None:
    counting = filled(tmp_path / "s", 12)
    store = Store.open(counting)
    counting.reads.clear()
    assert store.datasets() == {"web": [f"part-{number:04}" for number in range(12)]}
    assert counting.reads["(listing)"] == 2  # of the data sets, and of the splits of one
    assert counting.reads["zarr.json"] <= 12 + 3
    counting.reads.clear()
    assert len(store.embedded("fake")) == 12
    assert (counting.reads["(listing)"], counting.reads["zarr.json"]) == (2, 12 + 2)


@pytest.mark.parametrize("splits", [3, 12])
def test_the_inventory_s_reads_grow_with_the_splits_alone(tmp_path: Path, splits: int) -> None:
    counting = filled(tmp_path / "s", splits)
    store = Store.open(counting)
    counting.reads.clear()
    found = inventory(store)
    counts = {"ok": 4, "failed": 0, "pending": 2}
    assert [one["models"] for one in found] == [{"fake": counts, "fake-other": counts}] * splits
    # Of each split its row list, and of each model its embeddings, their array of states and its two blocks.
    assert splits * 5 <= counting.reads["zarr.json"] <= splits * 5 + 20
    assert counting.reads.total() - counting.reads["zarr.json"] <= splits * 2 * 2 + 20


def test_a_split_costs_the_same_to_add_however_many_there_are(tmp_path: Path) -> None:
    def reads(splits: int) -> int:
        counting = filled(tmp_path / str(splits), splits)
        store = Store.open(counting, writable=True)
        counting.reads.clear()
        store.image_writer("fake", store.add_rows("web", "one-more", images(6), block_rows=4))
        return counting.reads.total()

    assert 0 < reads(3) == reads(12)
