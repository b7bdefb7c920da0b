"""Runs commands in children of a prepared process, and strikes at any step they take in the file system.

Run as a program it is the driver: a process that has imported everything and started nothing, and forks one child per
command. A child costs a twentieth of a new interpreter, so that hundreds of kills fit in a test run. In the child an
audit hook sees every step before it is taken; a step is where a fault strikes.

Linux only: fork, /proc and the file size limit.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import importlib
import json
import mmap
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

COMMON = ("--block-rows", "5", "--batch-size", "3", "--workers", "0", "--quiet")
# A command of this size takes a tenth of a second. What takes this long hangs, on however busy a machine.
PATIENCE = 60.0


@dataclass(frozen=True)
class Fault:
    """What happens at the `step`-th step (from 1) of its `kind`.

    ``kill``   SIGKILL before a step that changes what a reader sees: a rename, a new folder, a file removed or opened
               for writing in place. Temporary files are invisible, so these are all states a kill can leave.
    ``torn``   killed by the kernel three bytes into the writing of a file, temporary or not.
    ``full``   every write from then on fails three bytes into the file, as on a disk that is full.
    ``ENOSPC``, ``EROFS``, ``EIO``: every step from then on fails with that error.
    """

    kind: str
    step: int

    @property
    def kills(self) -> bool:
        return self.kind in ("kill", "torn")

    @property
    def message(self) -> str:
        """What a person must be told."""
        return os.strerror(errno.EFBIG if self.kind == "full" else getattr(errno, self.kind))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code or minus the signal, what it printed, and the steps it took by kind."""

    code: int
    output: str
    steps: dict[str, int]

    @property
    def hung(self) -> bool:
        return "Timeout (" in self.output  # faulthandler's word; the stacks of all threads follow


class Driver:
    """The other side of :func:`serve`."""

    def __init__(self, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EMBEDSTORE_")}
        # Threads that exist before the fork do not exist after it, but the locks that they held do.
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**clean, **single, **environment},
        )
        self._learned = False

    def extract(
        self,
        arguments: Sequence[str],
        store: Path,
        fault: Fault | None = None,
        *,
        plant: str | None = None,
        serial: bool = True,
        patience: float = PATIENCE,
    ) -> Ended:
        """Run one command to whatever end. `plant` names a bug of :data:`PLANTS`; `serial` makes steps reproducible."""
        request = {
            "arguments": ["extract", *COMMON, *arguments, "--store", str(store)],
            "store": str(store),
            "fault": asdict(fault) if fault else None,
            "plant": plant,
            "serial": serial,
            "patience": patience,
            "learn": not self._learned,
        }
        self._learned = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the driver ended with {self._process.wait()}; its stderr says why"
        return Ended(**json.loads(answer))

    def close(self) -> None:
        self._process.communicate()


# The driver -----------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests, one JSON object a line, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in ("embedstore.cli.console", "embedstore.extract", "embedstore.sources", "torch.utils.data"):
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        alone = threading.enumerate() == [threading.main_thread()] and len(os.listdir("/proc/self/task")) == 1
        assert alone, f"a fork would lose threads: {threading.enumerate()}"
        ended, learned = _forked(request)
        for name in learned:
            # What a command imports late is imported once here, instead of in every child.
            with suppress(Exception):
                importlib.import_module(name)
        answers.write(json.dumps(ended) + "\n")
        answers.flush()


def _forked(request: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    gc.collect()
    gc.freeze()
    gc.disable()
    counts = mmap.mmap(-1, len(KINDS) * 4)  # shared with the child, and there when the child is not
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(request, writing, memoryview(counts).cast("i"))
    os.close(writing)
    output = _until_end(reading, request["patience"] + 10)
    os.close(reading)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # a child that hangs beyond help, or processes that it left behind
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text, _, learned = output.decode(errors="replace").partition("\0")
    steps = dict(zip(KINDS, memoryview(counts).cast("i"), strict=True))
    return {"code": code, "output": text, "steps": steps}, learned.split()


def _until_end(pipe: int, patience: float) -> bytes:
    """What comes out of `pipe` until the child and all that it started have closed it."""
    found, deadline = b"", time.monotonic() + patience
    while select.select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
        more = os.read(pipe, 1 << 16)
        if not more:
            return found
        found += more
    return found + b"Timeout (of the driver: no stacks, or a process was left behind)"


def _child(request: dict[str, Any], output: int, counts: memoryview) -> NoReturn:
    import zarr

    from embedstore.cli import main

    code = 70
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.dump_traceback_later(request["patience"], exit=True, file=2)
        if request["serial"]:
            zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})
        if request["plant"]:
            PLANTS[request["plant"]]()
        fault = Fault(**request["fault"]) if request["fault"] else None
        if fault is not None and fault.kind == "torn":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.addaudithook(_hook(request["store"], fault, counts))
        main(args=request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if request["learn"]:
            os.write(output, ("\0" + " ".join(sys.modules)).encode())
        os._exit(code)


# Steps and faults -----------------------------------------------------------------------------------------------------

KINDS = ("kill", "torn", "full", "ENOSPC", "EROFS", "EIO")
# For each event of a step: where its arguments have the path that changes, and the folder that this is relative to.
_PLACES = {
    "open": (0, None),
    "os.truncate": (0, None),
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TORN_AFTER = 3  # bytes; the smallest file of a store, a status chunk of one row, has five


def step_at(event: str, args: tuple[Any, ...], store: str) -> tuple[str, frozenset[str]]:
    """The path of a step in `store`, and the kinds of fault that count it; none where `event` is no step there."""
    nothing: tuple[str, frozenset[str]] = ("", frozenset())
    place = _PLACES.get(event)
    if place is None or (event == "open" and not args[2] & _FOR_WRITING) or isinstance(args[place[0]], int):
        return nothing
    path = os.fsdecode(args[place[0]])
    folder = -1 if place[1] is None else args[place[1]]
    path = os.path.abspath(path if folder < 0 else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path))
    if path != store and not path.startswith(store + os.sep):
        return nothing
    if event in ("os.mkdir", "os.link") and os.path.lexists(path):
        return nothing  # it will say so, and change nothing
    errors = {"EROFS", "EIO"} if event in ("os.remove", "os.rmdir") else {"EROFS", "EIO", "ENOSPC"}
    writes = {"torn", "full"} if event == "open" else set()
    changes = set() if path.endswith(".partial") else {"kill"}
    return path, frozenset(errors | writes | changes)


def _hook(store: str, fault: Fault | None, counts: memoryview) -> Callable[[str, tuple[Any, ...]], None]:
    lock = threading.Lock()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        path, kinds = step_at(event, args, store)
        if not kinds:
            return
        with lock:
            for kind in kinds:
                counts[KINDS.index(kind)] += 1
            now = fault is not None and fault.kind in kinds and counts[KINDS.index(fault.kind)] >= fault.step
        if now and fault is not None:
            _strike(fault, path)

    return hook


def _strike(fault: Fault, path: str) -> None:
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # not a step further
    if fault.kind in ("torn", "full"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (_TORN_AFTER, resource.RLIM_INFINITY))
        return
    number = getattr(errno, fault.kind)
    raise OSError(number, os.strerror(number), path)


# Bugs to plant, so that it is known that they would be found ----------------------------------------------------------


def _status_first() -> None:
    """A block is marked done before it is."""
    from embedstore.store import ImageWriter

    def write(self: Any, start: int, stop: int, status: Any, **columns: Any) -> None:
        self._arrays["status"][start:stop] = status
        for name, values in columns.items():
            self._arrays[name][start:stop] = values

    ImageWriter.write = write  # type: ignore[method-assign]


def _in_place() -> None:
    """A file is written where it will be read, not moved there."""
    import zarr.storage._local as local

    def put(path: Path, value: Any, exclusive: bool = False) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb" if exclusive else "wb") as file:
            return file.write(value.as_buffer_like())

    local._put = put


def _swallow() -> None:
    """A block that cannot be written is passed over."""
    from embedstore.store import ImageWriter

    write = ImageWriter.write

    def careless(self: Any, *args: Any, **columns: Any) -> None:
        with suppress(OSError):
            write(self, *args, **columns)

    ImageWriter.write = careless  # type: ignore[method-assign]


def _hang() -> None:
    """Waits for what never comes."""
    from embedstore.store import ImageWriter

    ImageWriter.write = lambda *args, **columns: threading.Event().wait()  # type: ignore[method-assign,assignment]


PLANTS = {"status first": _status_first, "in place": _in_place, "swallow": _swallow, "hang": _hang}


if __name__ == "__main__":
    serve()
