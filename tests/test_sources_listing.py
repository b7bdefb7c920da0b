"""Row lists in a temporary file: the same rows as in memory, however they came in, and no memory for each of them."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.records import Rows, Shard
from embedstore.sources import open_source
from embedstore.sources.listing import PART_ROWS, Listing

COLUMNS = ("labels", "shard", "offset", "length")
SHARDS = (Shard("a.tar", 10), Shard("b.tar", 20))


def made(keys: list[str], seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    small, large = (rng.integers(-1, most, (2, len(keys))) for most in (2, 2**62))
    labels, shard = small.astype(np.int32)
    return Rows(keys, labels, shard, large[0], large[1], SHARDS, ("x", "y"), "somewhere")


def parts(rows: Rows, cuts: list[int]) -> list[Rows]:
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    return [rows.part(start, stop) for start, stop in itertools.pairwise(edges)]


def equal(found: Rows, expected: Rows) -> bool:
    same = list(found.keys) == list(expected.keys) and found.shards == expected.shards
    columns = [(getattr(found, name), getattr(expected, name)) for name in COLUMNS]
    return same and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in columns)


# Any text that a tar or a file system can name a member by: line breaks, quotes, bytes that are not UTF-8.
KEYS = st.lists(st.text(st.characters(exclude_categories=[]) | st.just("\udc80"), min_size=1), unique=True, max_size=30)


def encodable(keys: list[str]) -> list[str]:
    """Lone surrogates other than those that stand for bytes are in no key."""
    return [key for key in keys if not any("\ud800" <= c <= "\udc7f" or "\udd00" <= c <= "\udfff" for c in key)]


@given(keys=KEYS, cuts=st.lists(st.integers(0, 30), max_size=4), seed=st.integers(0, 5), data=st.data())
@settings(max_examples=150, deadline=None)
def test_it_has_the_rows_of_its_parts(keys, cuts, seed, data):
    rows = made(encodable(keys), seed)
    listing = Listing(parts(rows, cuts))
    assert len(listing) == len(rows)
    assert listing.fingerprint() == rows.fingerprint()
    start, stop = (data.draw(st.none() | st.integers(-35, 35)) for _ in range(2))
    assert equal(listing.part(start or 0, stop), rows.part(start or 0, stop))
    assert equal(listing, rows)  # and its columns as a whole
    assert [key for piece in listing.pieces("keys") for key in piece] == list(rows.keys)
    assert (listing.class_names, listing.source) == (rows.class_names, rows.source)


def test_parts_longer_than_what_is_read_at_once():
    rows = made([f"{n:05}" for n in range(2 * PART_ROWS + 10)])
    listing = Listing([rows])
    assert equal(listing, rows)
    for start, stop in ((PART_ROWS - 1, PART_ROWS + 1), (PART_ROWS, 2 * PART_ROWS), (5, 2 * PART_ROWS + 3)):
        assert equal(listing.part(start, stop), rows.part(start, stop))
    assert [len(piece) for piece in listing.pieces("length")] == [PART_ROWS, PART_ROWS, 10]


@pytest.mark.parametrize("limit", [1, 4095, 4096, 5000, 10_000])
def test_a_limit_keeps_the_first_rows_and_all_shards(limit):
    rows = made([f"{n:05}" for n in range(6000)])
    listing, expected = Listing(parts(rows, [100, 4500]), limit), rows.part(0, limit)
    assert len(listing) == min(limit, 6000)
    assert listing.shards == SHARDS
    assert equal(listing.part(0, None), expected)
    assert listing.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize(
    ("first", "again"),
    [(0, 1), (0, PART_ROWS - 1), (PART_ROWS - 1, PART_ROWS), (3, 2 * PART_ROWS), (2 * PART_ROWS, 2 * PART_ROWS + 4)],
)
def test_a_key_that_comes_twice_is_refused_and_both_places_are_named(first, again, ascending):
    keys = [f"{n:05}" for n in range(2 * PART_ROWS + 5)]
    if not ascending:
        keys = [keys[n * 3 % len(keys)] for n in range(len(keys))]
    keys[again] = keys[first]
    rows = made(keys)
    rows.shard[:] = 0
    rows.shard[again:] = 1
    with pytest.raises(
        SourceError, match=rf"key '{keys[first]}' is in a\.tar and again in b\.tar; keys must be unique"
    ):
        Listing([rows])
    with pytest.raises(SourceError, match="must be unique"):
        Listing([rows], limit=1)  # what is beyond the limit must be sound, too


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))])
def test_a_copy_is_plain_rows_and_the_original_lives_on(copied):
    rows = made(["b", "a"])
    listing = Listing([rows])
    found = copied(listing)
    assert type(found) is Rows
    assert equal(found, rows)
    del found
    assert equal(listing.part(0, None), rows)


def test_there_is_no_other_attribute():
    with pytest.raises(AttributeError, match="no 'label'"):
        _ = Listing([made(["a"])]).label


def test_no_room_is_said():
    script = (
        "import resource; from tests.test_sources_listing import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n Listing([made([f'{n:050}' for n in range(100_000)])])\n"
        "except SourceError as error:\n print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot go on" in done.stdout
    assert "TMPDIR" in done.stdout


# Memory ---------------------------------------------------------------------------------------------------------------


def tar(folder: Path, rows: int) -> str:
    path = folder / f"n{rows}-test-000000.tar"
    with tarfile.open(path, "w") as file:
        for row in range(rows):
            member = tarfile.TarInfo(f"{row:08}.jpg")
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))
    return str(path)


def classes(folder: Path, rows: int) -> str:
    for number in range(rows // 500):
        inside = folder / f"of{rows}" / f"class{number:03}"
        inside.mkdir(parents=True)
        for image in range(500):
            (inside / f"{image:03}.jpg").touch()
    return str(folder / f"of{rows}")


@pytest.mark.parametrize(("make", "few", "many"), [(tar, 5_000, 40_000), (classes, 1_000, 8_000)])
def test_listing_takes_no_memory_for_each_row(tmp_path, make, few, many):
    """Python's memory; SQLite's is bounded by its cache, and test_memory.py sees to the whole of it."""

    def peak(source: str) -> int:
        tracemalloc.start()
        rows = open_source(source, dataset="d").scan()
        rows.fingerprint()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(rows) in (few, many)
        return found

    short, long = make(tmp_path, few), make(tmp_path, many)
    peak(short)  # imports
    assert peak(long) < 1.25 * peak(short)
