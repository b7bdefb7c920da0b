"""Images that ID train, ID test and OOD sets share, by name; and the test rows to leave out because of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from embedstore.evaluate.study import Study
from embedstore.leaks import THRESHOLD, Leak, near_duplicates, same_bytes
from embedstore.records import IntArray
from embedstore.sources import open_source
from embedstore.store import Images


@dataclass(frozen=True)
class Duplicate:
    """One image that two sets share.

    Attributes
    ----------
    seen, tested : str
        ``"name/split"``: where the image is seen first (ID train or ID test), and the set that is tested with it again.
    seen_row, tested_row : int
    seen_key, tested_key : str
    cosine : float or None
        Of the features; None where the files were compared, byte by byte.
    exact : bool
    """

    seen: str
    tested: str
    seen_row: int
    tested_row: int
    seen_key: str
    tested_key: str
    cosine: float | None
    exact: bool


def duplicates(study: Study, threshold: float = THRESHOLD) -> list[Duplicate]:
    """What ID train shares with the tested sets, and ID test with the OOD sets, by the features before projection.

    Parameters
    ----------
    threshold : float
        See :func:`embedstore.leaks.near_duplicates`, which is called with it.

    Raises
    ------
    UsageError
        As :func:`embedstore.leaks.near_duplicates`.
    """
    found: list[Duplicate] = []
    for seen, tested in _pairs(study):
        one = study.train_features if study.has_train and seen is study.train else seen.embedded()
        leaks = near_duplicates(one, tested.embedded(), threshold)
        of_seen = study.train_rows if study.has_train and seen is study.train else seen.ok
        found += _named(seen, tested, leaks, np.flatnonzero(of_seen), np.flatnonzero(tested.ok))
    return found


def same_files(study: Study) -> list[Duplicate]:
    """The same by the bytes of the image files, read from where they were extracted.

    Raises
    ------
    SourceError, UsageError
        A source is no longer there, or is another one.
    """
    digests: dict[str, list[bytes | None]] = {}
    found: list[Duplicate] = []
    for seen, tested in _pairs(study):
        for images in (seen, tested):
            if images.name not in digests:
                digests[images.name] = list(_digests(images))
        leaks = same_bytes(digests[seen.name], digests[tested.name])
        found += _named(seen, tested, leaks, np.arange(len(seen)), np.arange(len(tested)))
    return found


def rows_to_leave_out(found: Iterable[Duplicate]) -> dict[str, IntArray]:
    """The rows of each tested set that are duplicates, ascending: what ``Study(without=…)`` takes."""
    rows: dict[str, set[int]] = {}
    for one in found:
        rows.setdefault(one.tested, set()).add(one.tested_row)
    return {name: np.array(sorted(places), dtype=np.int64) for name, places in rows.items()}


def _pairs(study: Study) -> Iterator[tuple[Images, Images]]:
    if study.has_train:
        for tested in study.tested.values():
            yield study.train, tested
    for tested in study.ood.values():
        yield study.test, tested


def _named(seen: Images, tested: Images, leaks: list[Leak], of_a: IntArray, of_b: IntArray) -> Iterator[Duplicate]:
    for leak in leaks:
        a, b = int(of_a[leak.a]), int(of_b[leak.b])
        names = (seen.name, tested.name, a, b, str(seen.keys[a]), str(tested.keys[b]))
        yield Duplicate(*names, leak.cosine, leak.exact)


def _digests(images: Images) -> Iterator[bytes | None]:
    """Of each image's bytes, in order of rows; None where the source gives no bytes, or not these."""
    rows = images.rows.row_list()
    source = open_source(rows.source, dataset=images.rows.dataset, split=images.rows.split)
    for payload in source.read(rows, 0, len(rows)):
        yield hashlib.sha256(payload).digest() if isinstance(payload, bytes) else None
