"""The engine for many machines: Ray. One actor per GPU, which holds the model; rounds of blocks are its tasks."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from embedstore.errors import EmbedstoreError, ModelUnavailable, UsageError
from embedstore.extract.job import Job
from embedstore.extract.outcome import Block, BlockReport
from embedstore.extract.schedule import Event, Idle, Lost, storage_trouble


class Worker:
    """What an actor does."""

    def __init__(self, job: Job, device: str) -> None:
        self._job, self._device = job, device
        self._runner: Any = None

    def run(self, blocks: Sequence[Block]) -> Iterator[BlockReport | EmbedstoreError]:
        """Embed a round. Errors of ours are sent as values: Ray would wrap them in classes of its own."""
        try:
            if self._runner is None:
                self._runner = self._job.open(self._device)
            yield from self._runner.run(blocks)
        except EmbedstoreError as error:
            yield error
        except OSError as error:
            yield storage_trouble(error)


class RayCrew:
    """Actors in a Ray cluster. Fulfils :class:`embedstore.extract.schedule.Crew`.

    Parameters
    ----------
    address : str or None
        Of the cluster; None for ``RAY_ADDRESS``, or else a Ray of its own on this machine.
    devices : str
        ``"all"``: one actor per GPU of the cluster, or per node where it has none. ``"cpu:4"``: four actors, one CPU
        each. The store and the source must be reachable from every node.
    """

    def __init__(self, job: Job, address: str | None, devices: str) -> None:
        ray = _ray()
        if not ray.is_initialized():
            _refuse_unreachable(address)
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
            except (ConnectionError, ValueError) as error:
                raise UsageError(f"there is no Ray cluster at {address or 'RAY_ADDRESS'}: {error}") from error
        self.size, device = _size(ray.cluster_resources(), sum(node["Alive"] for node in ray.nodes()), devices)
        options = {"num_cpus": 1, "num_gpus": 1 if device == "cuda" else 0, "max_restarts": 0}
        self._actor = ray.remote(Worker).options(**options)
        self._ray, self._job, self._device = ray, job, device
        self._actors: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def start(self, worker: int) -> None:
        """Create an actor; Ray finds a place for it, or waits for one."""
        self._actors[worker] = self._actor.remote(self._job, self._device)
        self.give(worker, [])  # an empty round: it loads the model

    def give(self, worker: int, blocks: Sequence[Block]) -> None:
        """Submit a round as one task whose results come one by one."""
        self._streams[worker] = (
            self._actors[worker].run.options(num_returns="streaming", max_task_retries=0).remote(list(blocks))
        )

    def events(self) -> Iterator[tuple[int, Event]]:
        """Wait until a task has yielded something, ended, or died."""
        by_stream = {stream: worker for worker, stream in self._streams.items()}
        ready, _ = self._ray.wait(list(by_stream), num_returns=1, fetch_local=False)
        for stream in ready:
            worker = by_stream[stream]
            try:
                yield worker, self._ray.get(next(stream))
            except StopIteration:
                del self._streams[worker]
                yield worker, Idle()
            except self._ray.exceptions.RayError as error:
                del self._streams[worker]
                self._ray.kill(self._actors[worker])
                yield worker, Lost(str(error).partition("\n")[0])

    def stop(self) -> None:
        """End the actors; the cluster goes on."""
        for actor in self._actors.values():
            self._ray.kill(actor)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ModelUnavailable("--engine ray needs Ray: pip install 'embedstore[ray]'") from error
    return ray


def _refuse_unreachable(address: str | None) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, _, port = (address or "").rpartition(":")
    if host.startswith("ray"):
        raise UsageError(f"--address {address}: give the cluster's own address, HOST:6379, not that of a Ray client")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise UsageError(f"there is no Ray cluster at {address}: {error}") from error


def _size(resources: dict[str, float], nodes: int, devices: str) -> tuple[int, str]:
    """How many actors, and on what."""
    gpus = int(resources.get("GPU", 0))
    kind, _, number = devices.partition(":")
    if kind == "cpu" and number.isdigit() and int(number) > 0:
        return int(number), "cpu"
    return (gpus, "cuda") if gpus else (nodes, "cpu")
