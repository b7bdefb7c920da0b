"""A billion rows, metadata only: what a store of that layout takes to open, list, resume and verify, in time and reads.

A billion images are 1,000 splits of a million rows. What costs is the number of nodes and blocks, not what is in a
row, so a block here has four rows in place of 16,384, and the number of blocks is the real one. All splits are there
with their metadata; their blocks are written for a few, because a billion rows have half a million of them and each
split's are read alike. What one such split costs is counted, and the page multiplies it.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import click
import numpy as np

from embedstore.records import OK, Rows
from embedstore.store import Store

ROWS = 1_000_000_000
SPLITS = 1_000
BLOCK_ROWS = 16_384
_ROWS_HERE = 4  # of a block
_BLOCKS = -(-ROWS // SPLITS // BLOCK_ROWS)
_WIDTH = 768


@click.command()
@click.option("--splits", default=SPLITS, show_default=True, help="With metadata.")
@click.option("--filled", default=3, show_default=True, help="Splits whose blocks are written.")
def scale(splits: int, filled: int) -> None:
    """Open, list, resume and verify a store laid out for a billion rows."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "store.zarr"
        began = time.perf_counter()
        _fill(place, splits, filled)
        click.echo(
            f"{splits:,} splits made in {time.perf_counter() - began:.0f} s, {_BLOCKS} blocks in {filled} of them"
        )
        counting = _counting(place)
        for what, run in _steps(counting, filled).items():
            counting.reads.clear()
            began = time.perf_counter()
            said = run()
            seconds = time.perf_counter() - began
            reads = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counting.reads.items()))
            click.echo(f"{what}: {seconds:.2f} s, {reads}; {said}")


def _fill(place: Path, splits: int, filled: int) -> None:
    from embedstore.testing import FakeEncoder

    store, encoder = Store.create(place), FakeEncoder(feature_dim=_WIDTH)
    store.add_model(encoder.provenance, encoder.projection)
    for number in range(splits):
        blocks = _BLOCKS if number < filled else 1
        dataset = "filled" if number < filled else "web"
        rows = store.add_rows(dataset, f"part-{number:04}", _rows(number, blocks * _ROWS_HERE), block_rows=_ROWS_HERE)
        writer = store.image_writer(encoder.provenance.name, rows)
        # Half of the blocks are done: a run that was stopped in the middle.
        for _, start, stop in list(rows.blocks())[: blocks // 2]:
            done = np.full(stop - start, OK, dtype=np.uint8)
            writer.write(start, stop, done, features=np.ones((stop - start, _WIDTH), dtype=np.float16))


def _rows(number: int, count: int) -> Rows:
    places = np.arange(count, dtype=np.int64)
    return Rows(
        keys=[f"{number:04}{place:06}" for place in range(count)],
        labels=np.full(count, -1, dtype=np.int32),
        shard=np.full(count, -1, dtype=np.int32),
        offset=places,
        length=places,
        shards=(),
        class_names=None,
        source=f"part-{number:04}",
    )


def _counting(place: Path) -> Any:
    from zarr.storage import LocalStore, WrapperStore

    class Counting(WrapperStore[LocalStore]):
        """Zarr makes itself copies of a store, so all of them count in one place."""

        reads: ClassVar[Counter[str]] = Counter()

        async def get(self, key: str, *args: Any, **more: Any) -> Any:
            self.reads["reads of metadata" if key.endswith("zarr.json") else "reads of blocks"] += 1
            return await super().get(key, *args, **more)

        def list_dir(self, prefix: str) -> Any:
            self.reads["listings"] += 1
            return super().list_dir(prefix)

        def list_prefix(self, prefix: str) -> Any:
            self.reads["listings"] += 1
            return super().list_prefix(prefix)

    return Counting(LocalStore(place))


def _steps(counting: Any, filled: int) -> dict[str, Callable[[], str]]:
    from embedstore.cli.overview import inventory

    store = Store.open(counting)
    (model,), names = store.models(), store.datasets()["filled"]

    def pending() -> int:
        writable = Store.open(counting, writable=True)
        return sum(len(writable.image_writer(model, writable.rows("filled", name)).pending()) for name in names)

    def verify() -> str:
        return f"{filled} splits, {len(list(store.verify(dataset='filled')))} problems"

    return {
        "open": lambda: f"format 1 at {Store.open(counting).location[:20]}…",
        "list splits": lambda: f"{len(store.splits()):,} splits",
        "list embedded": lambda: f"{len(store.embedded(model)):,} splits of one model",
        "ls": lambda: f"{sum(one['models'][model]['ok'] for one in inventory(store)):,} rows done",
        "resume": lambda: f"{pending():,} blocks to do in {filled} splits",
        "verify": verify,
    }
