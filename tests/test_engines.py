"""Who embeds which block must not show in the store, and a process that dies must cost no more than its block."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from test_extract import Start, contents
from zarr.storage import MemoryStore

from embedstore.encoders import load_encoder
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import ModelUnavailable, SourceError, UnknownName, UsageError, WorkerLost
from embedstore.extract import BlockRunner, embed_blocks, embed_images, list_rows
from embedstore.extract.job import Job
from embedstore.extract.local import LocalCrew, device_of_this_process, devices_of
from embedstore.extract.outcome import Block, BlockReport
from embedstore.extract.schedule import Event, Idle, Lost, run_blocks, share_of
from embedstore.sources import open_source
from embedstore.store import Store

# The loop, with a crew that only pretends ---------------------------------------------------------------------------


class Pretended:
    """A crew without processes: `dies(block, how_often_so_far)` says whether working on a block kills the worker."""

    def __init__(self, size: int, dies: Callable[[Block, int], bool], starts: Callable[[int], bool] = bool) -> None:
        self.size, self._dies, self._starts = size, dies, starts
        self._said: list[tuple[int, Event]] = []
        self.worked_on: list[Block] = []
        self.starts, self.stopped = 0, False

    def start(self, worker: int) -> None:
        self.starts += 1
        self._said.append((worker, Idle() if self._starts(self.starts) else Lost("no GPU")))

    def give(self, worker: int, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self.worked_on.append(block)
            if self._dies(block, self.worked_on.count(block)):
                self._said.append((worker, Lost("killed by SIGKILL")))
                return
            self._said.append((worker, report(block)))
        self._said.append((worker, Idle()))

    def events(self) -> Iterator[tuple[int, Event]]:
        assert self._said, "the loop waits for workers that have nothing to do"
        yield self._said.pop(0)

    def stop(self) -> None:
        self.stopped = True


def report(block: Block) -> BlockReport:
    return BlockReport(block, block[2] - block[1], {}, {})


def blocks_of(count: int) -> list[Block]:
    return [(number, 2 * number, 2 * number + 2) for number in range(count)]


@given(st.integers(0, 40), st.integers(1, 5), st.dictionaries(st.integers(0, 39), st.integers(1, 2)))
def test_every_block_is_done_once_whatever_dies(count: int, size: int, deaths: dict[int, int]) -> None:
    crew = Pretended(size, lambda block, times: times <= deaths.get(block[0], 0))
    rows: list[int] = []
    done = [one.block for one in run_blocks(crew, blocks_of(count), rows.append)]
    assert sorted(done) == blocks_of(count)
    assert sum(rows) == 2 * count
    assert crew.stopped


class Restless(Pretended):
    """Workers also die while they have nothing to do, several at once, and come back in the same breath."""

    def __init__(self, size: int, deaths: Sequence[int]) -> None:
        super().__init__(size, lambda block, times: False)
        self._deaths = list(deaths)
        self._idle: set[int] = set()

    def give(self, worker: int, blocks: Sequence[Block]) -> None:
        assert worker in self._idle, "a round for a worker that has not said that it is idle"
        self._idle.discard(worker)
        super().give(worker, blocks)

    def events(self) -> Iterator[tuple[int, Event]]:
        assert self._said, "the loop waits for workers that have nothing to do"
        while self._said:  # all at once, as a crew of processes may
            worker, event = self._said.pop(0)
            if self._deaths and self._deaths.pop(0):
                self._said = [one for one in self._said if one[0] != worker]
                self._idle.discard(worker)
                yield worker, Lost("killed")
                continue
            if isinstance(event, Idle):
                self._idle.add(worker)
            yield worker, event


@given(st.integers(0, 20), st.integers(1, 4), st.lists(st.booleans().map(int), max_size=6))
def test_workers_that_die_idle_or_together_cost_no_block(count: int, size: int, deaths: list[int]) -> None:
    crew = Restless(size, [death if sum(deaths[:n]) < 2 else 0 for n, death in enumerate(deaths)])
    done = [one.block for one in run_blocks(crew, blocks_of(count), lambda rows: None)]
    assert sorted(done) == blocks_of(count)


@given(st.integers(1, 30), st.integers(1, 4), st.data())
def test_a_poisonous_block_is_reported_and_costs_no_other(count: int, size: int, data: st.DataObject) -> None:
    poison = data.draw(st.integers(0, count - 1))
    crew = Pretended(size, lambda block, times: block[0] == poison)
    done = []
    with pytest.raises(WorkerLost, match=rf"block {poison}, rows {2 * poison} to .*left pending.*SIGKILL"):
        done.extend(one.block for one in collect(run_blocks(crew, blocks_of(count), lambda rows: None), done))
    assert sorted(done) == [block for block in blocks_of(count) if block[0] != poison]
    assert crew.worked_on.count(blocks_of(count)[poison]) <= 5
    assert crew.stopped


def collect(reports: Iterator[BlockReport], into: list[Block]) -> Iterator[BlockReport]:
    for one in reports:
        into.append(one.block)
    yield from ()


def test_all_workers_take_part() -> None:
    given_to: set[int] = set()

    class Counting(Pretended):
        def give(self, worker: int, blocks: Sequence[Block]) -> None:
            given_to.add(worker)
            super().give(worker, blocks)

    list(run_blocks(Counting(4, lambda block, times: False), blocks_of(16), lambda rows: None))
    assert given_to == {0, 1, 2, 3}


def test_workers_that_never_start_end_the_run() -> None:
    crew = Pretended(2, lambda block, times: False, starts=lambda number: False)
    with pytest.raises(WorkerLost, match="before they embed anything: no GPU"):
        list(run_blocks(crew, blocks_of(4), lambda rows: None))
    assert crew.stopped


def test_an_error_of_a_worker_ends_the_run() -> None:
    class Refusing(Pretended):
        def events(self) -> Iterator[tuple[int, Event]]:
            yield 0, SourceError("the shard is gone")

    crew = Refusing(1, lambda block, times: False)
    with pytest.raises(SourceError, match="the shard is gone"):
        list(run_blocks(crew, blocks_of(4), lambda rows: None))
    assert crew.stopped


# Shares and devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (0, 1, None)),
        ("3/16", {"RANK": "1", "WORLD_SIZE": "2"}, (3, 16, "--share")),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, "RANK and WORLD_SIZE")),
        (None, {"SLURM_PROCID": "5", "SLURM_NTASKS": "8"}, (5, 8, "SLURM_PROCID and SLURM_NTASKS")),
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (0, 1, None)),
        (None, {"RANK": "1"}, (0, 1, None)),
        (
            None,
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "WORLD_SIZE": "3"},
            (1, 3, "RANK and WORLD_SIZE"),
        ),
    ],
)
def test_a_share_is_given_or_found(text: str | None, environment: dict[str, str], expected: tuple[Any, ...]) -> None:
    assert share_of(text, environment) == expected


@pytest.mark.parametrize("text", ["16/16", "3", "-1/2", "0/0", "a/b", "1/2/3"])
def test_a_share_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--share .* is not understood"):
        share_of(text, {})


@pytest.mark.parametrize(("rank", "world"), [("0", "0"), ("²", "2"), ("7", "4"), ("-1", "2"), ("x", "2")])
def test_an_environment_that_makes_no_sense_is_refused(rank: str, world: str) -> None:
    with pytest.raises(UsageError, match=f"RANK={rank} and WORLD_SIZE={world} are no share"):
        share_of(None, {"RANK": rank, "WORLD_SIZE": world})


@pytest.mark.parametrize("text", ["", "gpu", "cpu:0", "cpu:x", "0,0", "99", "cuda:99"])
def test_devices_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--devices"):
        devices_of(text)


@pytest.mark.parametrize(
    ("device", "environment", "gpus", "expected"),
    [
        ("auto", {"LOCAL_RANK": "5"}, 8, "cuda:5"),
        ("cuda", {"SLURM_LOCALID": "3"}, 8, "cuda:3"),
        ("auto", {"LOCAL_RANK": "5"}, 1, "auto"),  # the queue shows each process its own GPU only
        ("auto", {"LOCAL_RANK": "5"}, 0, "auto"),
        ("auto", {}, 8, "auto"),
        ("cuda:2", {"LOCAL_RANK": "5"}, 8, "cuda:2"),
        ("cpu", {"LOCAL_RANK": "5"}, 8, "cpu"),
    ],
)
def test_processes_of_one_machine_take_a_gpu_each(
    device: str, environment: dict[str, str], gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert device_of_this_process(device, environment) == expected


def test_devices_on_the_cpu() -> None:
    assert devices_of("cpu:3") == ["cpu"] * 3


def test_an_unknown_name_travels_between_processes() -> None:
    import pickle

    error = UnknownName("model", "x", ["y"])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UnknownName, str(error))


# Real processes -------------------------------------------------------------------------------------------------------


def words(pictures: Path, store: Path, *more: str) -> list[str]:
    source = str(pictures / "tars/many.tar")
    return ["extract", source, "--store", str(store), "--model", "fake", "--block-rows", "4", *more]


@pytest.fixture(scope="module")
def whole(pictures: Path, tmp_path_factory: pytest.TempPathFactory, command: Command) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("whole") / "s.zarr"
    assert command(*words(pictures, store)).returncode == 0
    return contents(store)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_blocks(store: Path, count: int) -> None:
    status = store / "models/fake/images/tars/test"
    until = time.monotonic() + 60
    while len(list(status.glob("status/c/*"))) < count:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_two_processes_write_what_one_does_even_if_one_is_killed(
    pictures: Path, tmp_path: Path, start: Start, whole: dict[str, bytes]
) -> None:
    store = tmp_path / "s.zarr"
    with start(*words(pictures, store, "--devices", "cpu:2")) as process:
        wait_for_blocks(store, 10)
        first, _ = workers = children(process.pid)
        os.kill(first, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=100)
        assert process.returncode == 0, stderr
    assert "600 ok + 0 failed + 0 pending" in stdout
    assert re.search(
        r"note: the process was killed by SIGKILL \(out of memory\?\), with \d+ blocks? unfinished", stdout
    )
    assert contents(store) == whole
    assert not any(alive(pid) for pid in workers)


def test_shares_add_up(pictures: Path, tmp_path: Path, command: Command, whole: dict[str, bytes]) -> None:
    store = tmp_path / "s.zarr"
    first = command(*words(pictures, store, "--share", "1/3"))
    assert "Share 1 of 3, from --share: 50 of 150 blocks" in first.stdout
    assert "200 ok + 0 failed + 400 pending" in first.stdout
    done = Store.open(store).images("fake", "tars", "test").ok.reshape(-1, 4).all(axis=1)
    assert np.flatnonzero(done).tolist() == list(range(1, 150, 3))
    for rank in ("0", "2"):
        assert command(*words(pictures, store), env={"RANK": rank, "WORLD_SIZE": "3"}).returncode == 0
    assert contents(store) == whole


@pytest.mark.parametrize(
    ("signum", "code", "decoders"),
    [
        (signal.SIGTERM, 75, "0"),
        pytest.param(signal.SIGINT, 75, "0", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "1", marks=pytest.mark.slow),
    ],
)
def test_stopped_processes_leave_nobody_behind(
    pictures: Path,
    tmp_path: Path,
    start: Start,
    command: Command,
    whole: dict[str, bytes],
    signum: int,
    code: int,
    decoders: str,
) -> None:
    store = tmp_path / "s.zarr"
    with start(*words(pictures, store, "--devices", "cpu:2", "--workers", decoders), start_new_session=True) as process:
        wait_for_blocks(store, 10)
        workers = children(process.pid)
        if signum == signal.SIGINT:
            os.killpg(process.pid, signum)  # a terminal sends it to everybody
        else:
            process.send_signal(signum)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert code == -9 or "Traceback" not in stderr
    until = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until, "a worker outlives the run"
        time.sleep(0.05)
    assert command(*words(pictures, store)).returncode == 0
    assert contents(store) == whole


class Deadly(Job):
    """A job whose model kills its process at the image with this key's pixels."""

    def open(self, device: str) -> BlockRunner:
        runner = super().open(device)
        usual, deadly = runner.encoder.images, Path(os.environ["DEADLY_ROW"]).read_bytes()

        def images(batch: Any) -> Any:
            if any(np.asarray(row).tobytes() == deadly for row in batch):
                os._exit(11)
            return usual(batch)

        runner.encoder.images = images  # type: ignore[method-assign]
        return runner


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_block_that_kills_its_process_is_left_out(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    source, encoder = open_source(str(pictures / "pets/train")), load_encoder("fake")
    store = Store.create(tmp_path / "s.zarr")
    split = list_rows(store, source, block_rows=4)
    store.add_model(encoder.provenance, encoder.projection)
    runner = BlockRunner(store, encoder, source, split, batch_size=4, workers=0)
    from embedstore.extract.loading import Batch, each_batch

    (batch,) = each_batch(split, [(9, 10)], source, encoder.preprocess)
    assert isinstance(batch, Batch)
    pixels = batch.pixels[0]
    (tmp_path / "deadly").write_bytes(np.asarray(pixels).tobytes())
    monkeypatch.setenv("DEADLY_ROW", str(tmp_path / "deadly"))
    job = Deadly(
        str(tmp_path / "s.zarr"),
        source,
        "pets",
        "train",
        "fake",
        None,
        "fp32",
        "float16",
        "exact",
        None,
        4,
        0,
        None,
        False,
    )

    def run(blocks: Sequence[Block], progress: Callable[[int], None]) -> Generator[BlockReport]:
        return run_blocks(LocalCrew(job, ["cpu"] * devices), blocks, progress)

    with pytest.raises(WorkerLost, match=r"block 2, rows 8 to 11, .*exit code 11"):
        embed_blocks(store, runner.writer, run)
    assert np.flatnonzero(store.images("fake", "pets", "train").status == 0).tolist() == [8, 9, 10, 11]


def test_a_store_that_refuses_is_no_fault_of_the_images(pictures: Path, tmp_path: Path, command: Command) -> None:
    store = tmp_path / "s.zarr"
    assert command(*words(pictures, store, "--share", "1/150")).returncode == 0
    (store / "models/fake/images/tars/test/features/c/0").write_text("in the way of a folder")
    ended = command(*words(pictures, store, "--devices", "cpu:2"))
    assert ended.returncode == 1, ended.stderr
    assert re.search(r"Error: \w+Error: .*features/c/0.* the same command goes on", ended.stderr, re.S), ended.stderr
    assert "ended its process" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_error_in_a_worker_is_the_commands_error(pictures: Path, tmp_path: Path, command: Command) -> None:
    store = tmp_path / "s.zarr"
    ended = command(*words(pictures, store, "--devices", "cpu:2", "--on-error", "stop"))
    assert ended.returncode == 0, ended.stderr
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.png").write_bytes(b"not a png")
    ended = command("extract", bad, "--store", store, "--model", "fake", "--devices", "cpu:1", "--on-error", "stop")
    assert ended.returncode == 1
    assert "'x.png' failed, and --on-error is stop: decode: not an image" in ended.stderr
    assert "Traceback" not in ended.stderr


# Out of memory --------------------------------------------------------------------------------------------------------


class Small(FakeEncoder):
    """Has memory for a few images."""

    most = 6

    def images(self, batch: Any) -> Any:
        from torch import OutOfMemoryError

        if len(batch) > self.most:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee documentation")
        return super().images(batch)


def test_out_of_memory_halves_the_batch_and_says_so_once(pictures: Path) -> None:
    source, encoder = open_source(str(pictures / "pets/train")), Small()
    memory, expected = (Store.create(MemoryStore()) for _ in range(2))
    for store, model, batch in ((memory, encoder, 16), (expected, FakeEncoder(), 4)):
        store.add_model(model.provenance, model.projection)
        split = list_rows(store, source, block_rows=7)
        outcome = embed_images(store, model, source, split, batch_size=batch, workers=0)
        assert (outcome.ok, outcome.embedded, outcome.pending) == (24, 24, 0)
        if model is encoder:
            assert outcome.notes == [
                "out of memory with 16 images at once; going on with 8",
                "out of memory with 8 images at once; going on with 4",
            ]
    got, want = (store.images("fake", "pets", "train").features[:] for store in (memory, expected))
    assert got.tobytes() == want.tobytes()


def test_out_of_memory_in_a_later_block_begins_no_block_twice(pictures: Path) -> None:
    source, encoder = open_source(str(pictures / "pets/train")), Small()
    encoder.most, calls = 99, list[int]()
    usual = encoder.images

    def images(batch: Any) -> Any:
        calls.append(len(batch))
        encoder.most = 4 if len(calls) > 2 else 99
        return usual(batch)

    encoder.images = images  # type: ignore[method-assign]
    store = Store.create(MemoryStore())
    store.add_model(encoder.provenance, encoder.projection)
    outcome = embed_images(store, encoder, source, list_rows(store, source, block_rows=8), batch_size=8, workers=0)
    assert calls == [8, 8, 8, 4, 4]
    assert (outcome.ok, outcome.tried) == (24, 24)


def test_no_memory_for_one_image_is_an_error(pictures: Path) -> None:
    source, encoder = open_source(str(pictures / "pets/train")), Small()
    encoder.most = 0
    store = Store.create(MemoryStore())
    store.add_model(encoder.provenance, encoder.projection)
    with pytest.raises(
        ModelUnavailable, match=r"no memory for one image: CUDA out of memory\. Tried to allocate 2 GiB\.$"
    ):
        embed_images(store, encoder, source, list_rows(store, source), batch_size=8, workers=0)
