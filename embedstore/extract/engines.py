"""Who runs the blocks: this process, a process per device, or Ray."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from embedstore.errors import UsageError
from embedstore.extract.blocks import BlockRunner
from embedstore.extract.job import Job
from embedstore.extract.local import LocalCrew, devices_of
from embedstore.extract.ray_engine import RayCrew
from embedstore.extract.schedule import run_blocks

if TYPE_CHECKING:
    from embedstore.extract import RunBlocks

ENGINES = ("local", "ray")


def check_engine(*, engine: str, devices: str | None, address: str | None) -> None:
    """Raise UsageError for choices that contradict each other, or devices that are not there."""
    if engine == "ray":
        if devices not in (None, "all") and not re.fullmatch(r"cpu:[1-9][0-9]*", devices):
            raise UsageError(f"--devices {devices} with --engine ray: give all, or cpu:4 for four actors without a GPU")
        return
    if address is not None:
        raise UsageError("--address is that of a Ray cluster; add --engine ray")
    if devices is not None:
        devices_of(devices)


def choose_engine(
    runner: BlockRunner,
    location: str,
    model: str,
    *,
    engine: str = "local",
    devices: str | None = None,
    address: str | None = None,
) -> RunBlocks:
    """What runs blocks as `runner` would: itself, or processes that each load the model anew.

    Parameters
    ----------
    runner
        In this process; it has begun the split in the store.
    location, model : str
        Where the store is, and which model, as the other processes can find them.
    engine : {"local", "ray"}
    devices : str, optional
        See :func:`embedstore.extract.local.devices_of` and :class:`embedstore.extract.ray_engine.RayCrew`.
    address : str, optional
        Of the Ray cluster.

    Raises
    ------
    UsageError
        Contradicting or impossible choices.
    """
    check_engine(engine=engine, devices=devices, address=address)
    if engine == "local" and devices is None:
        return runner.run
    if "://" not in location and location.startswith("<"):
        raise UsageError(f"other processes cannot reach {location}; use a store on disk")
    made_by = runner.encoder.provenance
    job = Job(
        location=location,
        source=runner.source,
        dataset=runner.split.dataset,
        split=runner.split.split,
        model=model,
        name=made_by.name,
        precision=made_by.precision,
        dtype=made_by.dtype,
        decode=made_by.decode,
        defence=made_by.defence,
        batch_size=runner.batch_size,
        workers=runner.workers,
        captions=runner.captions,
        stop_on_error=runner.stop_on_error,
    )
    if engine == "ray":
        return partial(run_blocks, RayCrew(job, address, devices or "all"))
    return partial(run_blocks, LocalCrew(job, devices_of(devices or "all")))
