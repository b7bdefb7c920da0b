"""Ray as the engine: the same store, whatever happens to its nodes."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from test_extract import Start, contents

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra `ray`"),
    # Ray's own: it warns of its future, and leaves sockets and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::ResourceWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that runs no blocks, and two nodes that do, on this machine."""
    from ray.cluster_utils import Cluster

    # Without these, a minute passes before Ray believes that a node is gone.
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def words(pictures: Path, store: Path, *more: str) -> list[str]:
    source = str(pictures / "tars/many.tar")
    return ["extract", source, "--store", str(store), "--model", "fake", "--block-rows", "4", *more]


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_writes_what_one_process_does(
    pictures: Path, tmp_path: Path, start: Start, command: Command, cluster: Any
) -> None:
    whole, store = tmp_path / "whole.zarr", tmp_path / "s.zarr"
    assert command(*words(pictures, whole)).returncode == 0
    ray = ["--engine", "ray", "--address", cluster.address, "--devices", "cpu:2"]
    with start(*words(pictures, store, *ray)) as process:
        status, until = store / "models/fake/images/tars/test/status/c", time.monotonic() + 100
        while process.poll() is None and len(list(status.glob("*"))) < 10:
            assert time.monotonic() < until
            time.sleep(0.01)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr
    assert "600 ok + 0 failed + 0 pending" in stdout
    assert contents(store) == contents(whole)


def test_no_cluster_is_one_clear_line(pictures: Path, tmp_path: Path, command: Command) -> None:
    ended = command(*words(pictures, tmp_path / "s.zarr", "--engine", "ray", "--address", "127.0.0.1:1"))
    assert ended.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in ended.stderr
    assert "Traceback" not in ended.stderr
