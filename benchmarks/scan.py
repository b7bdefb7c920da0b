"""Listing what is in tar shards: headers alone, as `embedstore extract` does before the first image is read."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pairs import Disagreement, Reference, Stage
from embedstore.sources import open_source

_SHARDS = 10
_BODY = 60_000  # bytes of an image; none of them are written, the files are sparse


def scan(scale: float) -> Iterator[Stage]:
    """200,000 images with labels, 400,000 members in ten shards."""
    images = int(200_000 * scale)
    with tempfile.TemporaryDirectory() as folder:
        paths = [_shard(Path(folder, f"train-{n:06}.tar"), n, images // _SHARDS) for n in range(_SHARDS)]

        def theirs() -> int:
            count = 0
            for path in paths:
                with tarfile.open(path, "r:") as tar:
                    count += sum(member.name.endswith(".jpg") for member in tar)
            return count

        def same(ours: Any, count: int) -> None:
            if len(ours) != count or not (ours.length == _BODY).all():
                raise Disagreement(f"{len(ours)} images against {count}")

        yield Stage(
            f"list {images:,} images with labels in {_SHARDS} shards ({images * (_BODY + 2048) / 1e9:.0f} GB, sparse)",
            lambda: open_source(str(Path(folder))).scan(),
            [Reference("for member in tarfile.open(shard), names alone", theirs, same, aim=2.0)],
        )


def _shard(path: Path, number: int, images: int) -> Path:
    """As webdataset writes them: KEY.cls, KEY.jpg."""
    label = b"7".ljust(512, b"\0")
    with path.open("wb") as file:
        for place in range(images):
            for suffix, size in (("cls", 1), ("jpg", _BODY)):
                entry = tarfile.TarInfo(f"{number:06}{place:08}.{suffix}")
                entry.size = size
                file.write(entry.tobuf(tarfile.USTAR_FORMAT))
                if suffix == "cls":
                    file.write(label)
                else:
                    file.seek(-(-_BODY // 512) * 512, 1)
        file.write(b"\0" * 1024)
    return path
