"""The engine for one machine: a process per device."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from embedstore.errors import EmbedstoreError, UsageError
from embedstore.extract.job import Job
from embedstore.extract.loading import end_with_parent
from embedstore.extract.outcome import Block
from embedstore.extract.schedule import Event, Idle, Lost, storage_trouble


def device_of_this_process(device: str, environment: Mapping[str, str]) -> str:
    """``"auto"`` and ``"cuda"`` as one of several processes on a machine means them: each another GPU.

    `environment` has ``LOCAL_RANK`` (torchrun) or ``SLURM_LOCALID``. A queue may show each process its own GPU only.
    """
    local = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", ""))
    if device not in ("auto", "cuda") or not local.isdecimal():
        return device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.device_count() > 1 else device


def devices_of(text: str) -> list[str]:
    """The devices that ``--devices`` means: ``"all"`` GPUs, GPUs ``"0,1"``, or ``"cpu:2"`` processes on the CPU.

    Raises
    ------
    UsageError
        It means nothing, or a device that this machine does not have.
    """
    kind, _, number = text.partition(":")
    if kind == "cpu" and number.isdigit() and int(number) > 0:
        return ["cpu"] * int(number)
    import torch

    there = torch.cuda.device_count()
    if text == "all":
        if not there:
            raise UsageError("--devices all: torch sees no GPU here; --devices cpu:2 runs two processes on the CPU")
        return [f"cuda:{index}" for index in range(there)]
    chosen = [part.strip().removeprefix("cuda:") for part in text.split(",")]
    if not all(part.isdigit() for part in chosen):
        raise UsageError(f"--devices {text} is not understood; give all, the numbers of GPUs (0,1), or cpu:2")
    if len(set(chosen)) < len(chosen) or any(int(part) >= there for part in chosen):
        raise UsageError(f"--devices {text}: torch sees {there} GPUs here, numbered from 0; give each once")
    return [f"cuda:{part}" for part in chosen]


class LocalCrew:
    """One process per device. Fulfils :class:`embedstore.extract.schedule.Crew`."""

    def __init__(self, job: Job, devices: Sequence[str]) -> None:
        self.size = len(devices)
        self._job, self._devices = job, devices
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}

    def start(self, worker: int) -> None:
        """Start a process of its own interpreter: a fork would copy the threads of this one, and CUDA, half alive."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        threads = max(1, (os.cpu_count() or 1) // self.size)
        process = context.Process(target=_serve, args=(self._job, self._devices[worker], threads, there))
        process.start()
        there.close()  # so that the end of the process is the end of what can be read here
        self._workers[worker] = process, here

    def give(self, worker: int, blocks: Sequence[Block]) -> None:
        """Send a round."""
        try:
            self._workers[worker][1].send(list(blocks))
        except OSError:  # it has just died, which events() will say
            return

    def events(self) -> Iterator[tuple[int, Event]]:
        """Wait for messages, and for the ends of processes."""
        by_connection = {connection: worker for worker, (_, connection) in self._workers.items()}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            process, connection = self._workers[worker]
            try:
                yield worker, connection.recv()
            except (EOFError, OSError):
                process.join()
                connection.close()
                del self._workers[worker]  # or the next wait() would trip over it
                yield worker, Lost(_how_it_ended(process.exitcode))

    def stop(self) -> None:
        """End the processes; each ends its own loaders."""
        for process, connection in self._workers.values():
            connection.close()
            process.terminate()
        for process, _ in self._workers.values():
            process.join()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        known = {int(one): one.name for one in signal.Signals}
        return f"the process was killed by {known.get(-code, f'signal {-code}')} (out of memory?)"
    return f"the process ended with exit code {code}; see what it printed"


def _serve(job: Job, device: str, threads: int, connection: Connection) -> None:
    """In a worker: load the model, then embed what is asked for until there is nobody to ask."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the one that was started decides
    try:
        runner = job.open(device)
        if device == "cpu" and "OMP_NUM_THREADS" not in os.environ and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        connection.send(Idle())
        while (blocks := _received(connection)) is not None:
            for report in runner.run(blocks):
                connection.send(report)
            connection.send(Idle())
    except EmbedstoreError as error:
        connection.send(error)
    except BrokenPipeError:
        return  # nobody is there to be told
    except OSError as error:
        connection.send(storage_trouble(error))


def _received(connection: Connection) -> list[Block] | None:
    try:
        blocks: list[Block] = connection.recv()
    except (EOFError, OSError):
        return None
    return blocks
