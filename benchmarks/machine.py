"""What measured numbers depend on: the machine, the libraries, and what else was running."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("embedstore", "numpy", "scipy", "torch", "faiss-gpu", "faiss-cpu", "scikit-learn", "zarr")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def cpu() -> str:
    """Its name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def machine() -> dict[str, Any]:
    """JSON: ``cpu``, ``cores``, ``ram_gb``, ``python``, ``versions`` by library, ``date`` and ``load`` as of now."""
    return {
        "cpu": cpu(),
        "cores": cores(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        "date": datetime.now(UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
