"""A row list in a temporary file: however many rows a source has, listing them takes the same memory."""

from __future__ import annotations

import contextlib
import json
import operator
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import numpy as np

from embedstore.errors import SourceError
from embedstore.records import Rows

PART_ROWS = 4096  # what a source collects before it hands it on, and what is read back at once
_CACHE_KIB = 2048  # what SQLite keeps of the file in memory
_NUMBERS = {"labels": np.int32, "shard": np.int32, "offset": np.int64, "length": np.int64}


class Listing(Rows):
    """Rows in a temporary file: a part of them is read when it is asked for, a whole column only if somebody wants it.

    ``part(0, None)`` is all of them as plain rows, in memory. The file has no name and goes with this object. It lies
    where SQLite puts such files: in ``SQLITE_TMPDIR`` or ``TMPDIR``, else in ``/var/tmp`` or ``/tmp``.

    Parameters
    ----------
    parts : iterable of Rows
        One after the other they are the list; there is at least one, and the last one has all shards.
    limit : int, optional
        Keep only so many rows. All parts are gone through all the same, and must be sound.

    Raises
    ------
    SourceError
        A key comes twice, or there is no room for the file.
    """

    def __init__(self, parts: Iterable[Rows], limit: int | None = None) -> None:
        with _room():
            # Closed by whoever collects garbage, in whatever thread.
            file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._set(_rows=0, _last="", _file=file)
            for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
                self._file.execute(f"PRAGMA {pragma}")
            self._file.execute("CREATE TABLE parts (first INTEGER PRIMARY KEY, keys, labels, shard, offset, length)")
            self._file.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID")
            self._file.execute("BEGIN")
        for part in parts:
            self._set(shards=part.shards, class_names=part.class_names, source=part.source)
            for start in range(0, len(part), PART_ROWS):
                self._add(part.part(start, start + PART_ROWS))
        if limit is not None:
            self._set(_rows=min(limit, self._rows))

    def _set(self, **values: Any) -> None:
        self.__dict__.update(values)  # past what makes Rows immutable

    def __getattr__(self, name: str) -> Any:
        """Read all columns into memory as soon as somebody wants one as a whole."""
        if name not in ("keys", *_NUMBERS):
            raise AttributeError(f"a row list has no {name!r}")
        whole = self.part(0, None)
        self._set(keys=whole.keys, **{column: getattr(whole, column) for column in _NUMBERS})
        return self.__dict__[name]

    def __len__(self) -> int:
        return int(self._rows)

    def __reduce__(self) -> tuple[type[Rows], tuple[Any, ...]]:
        """A copy, in this process or another, is plain rows in memory: the file cannot be shared."""
        whole = self.part(0, None)
        return Rows, tuple(getattr(whole, field.name) for field in fields(Rows))

    def __del__(self) -> None:
        if "_file" in self.__dict__:  # else it could not even be opened
            self._file.close()

    def part(self, start: int, stop: int | None) -> Rows:
        """The rows of the slice, in memory, with all the shards."""
        start, stop, _ = slice(start, stop).indices(len(self))
        numbers = {
            name: np.concatenate([np.empty(0, dtype), *self._read(name, start, stop)])
            for name, dtype in _NUMBERS.items()
        }
        keys = list(chain.from_iterable(self._read("keys", start, stop)))
        return Rows(keys, **numbers, shards=self.shards, class_names=self.class_names, source=self.source)

    def fingerprint(self) -> str:
        """As of any rows; it is computed once."""
        if "_fingerprint" not in self.__dict__:
            self._set(_fingerprint=super().fingerprint())
        return str(self._fingerprint)

    def pieces(self, column: str) -> Iterator[Any]:
        """One column, some thousand rows at a time."""
        return self._read(column, 0, len(self))

    def _read(self, column: str, start: int, stop: int) -> Iterator[Any]:
        query = (
            f"SELECT first, {column} FROM parts"  # noqa: S608 (a name from the list above)
            " WHERE first >= (SELECT max(first) FROM parts WHERE first <= ?) AND first < ? ORDER BY first"
        )
        with _room():
            for first, stored in self._file.execute(query, (start, stop)):
                piece = json.loads(stored) if column == "keys" else np.frombuffer(stored, _NUMBERS[column])
                yield piece[max(0, start - first) : stop - first]

    def _add(self, piece: Rows) -> None:
        first = len(self)
        numbers = [np.ascontiguousarray(getattr(piece, name), dtype).tobytes() for name, dtype in _NUMBERS.items()]
        with _room():
            self._file.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)", (first, json.dumps(piece.keys), *numbers))
        self._set(_rows=first + len(piece))
        # Keys that ascend, as those of most shards do, cannot repeat. Once they do not, all are looked up.
        if self._last is None:
            self._look_up(first, piece.keys)
        elif _ascend([self._last, *piece.keys]):
            self._set(_last=piece.keys[-1])
        else:
            self._set(_last=None)
            row = 0
            for keys in self.pieces("keys"):
                self._look_up(row, keys)
                row += len(keys)

    def _look_up(self, first: int, keys: Sequence[str]) -> None:
        """Note the keys of rows from `first` on; SourceError if one was noted before."""
        keyed = ((_raw(key), row) for row, key in enumerate(keys, first))
        with _room():
            try:
                self._file.executemany("INSERT INTO seen VALUES (?, ?)", keyed)
            except sqlite3.IntegrityError:
                raise self._repeated(first, keys) from None

    def _repeated(self, first: int, keys: Sequence[str]) -> SourceError:
        """What to say of the first of these keys that was listed before."""
        for row, key in enumerate(keys, first):
            (earlier,) = self._file.execute("SELECT row FROM seen WHERE key = ?", (_raw(key),)).fetchone()
            if earlier != row:
                break
        places = [_place(self.part(number, number + 1)) for number in (earlier, row)]
        return SourceError(
            f"key {key!r} is in {places[0]} and again in {places[1]}; keys must be unique in a split."
            " Are two splits or data sets mixed, or a sample's members not side by side?"
        )


def _ascend(keys: Sequence[str]) -> bool:
    return all(map(operator.lt, keys, keys[1:]))


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _place(row: Rows) -> str:
    return row.shards[int(row.shard[0])].name if row.shard[0] >= 0 else row.source


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise SourceError(
            f"the list of rows, in a temporary file, cannot go on: {error}; set TMPDIR to a folder with more room"
        ) from error
