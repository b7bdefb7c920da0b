"""What changed between a stored row list and the source as it is now: said by name, refused, or appended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedstore.errors import FingerprintMismatch
from embedstore.records import Rows, Shard

_ADVICE = "Extract it under another --dataset or --split name, or into another store"
_MOST_NAMES = 3


def merged(
    name: str, stored: Rows, now: Rows, *, extend: bool, replaceable: npt.NDArray[np.bool_] | None = None
) -> Rows:
    """The stored rows, in their order, and behind them those that are new, in the order of the scan.

    The order in which a source lists its rows may change (a new file sorts between two old ones); a stored row keeps
    its number for ever.

    Parameters
    ----------
    name : str
        What messages call the split.
    extend : bool
        Whether new rows are allowed.
    replaceable : (N,) bool, optional
        Stored rows whose image may have another length now: no model has embedded it.

    Raises
    ------
    FingerprintMismatch
        Rows are missing or not the same any more, or new and not allowed; the message names them.
    """
    shards = _merged_shards(name, stored, now)
    number_of = {shard: number for number, shard in enumerate(shards)}
    renumbered = np.array([number_of[shard] for shard in now.shards] or [-1], dtype=np.int32)
    shard = np.where(now.shard < 0, -1, renumbered[now.shard]).astype(np.int32)  # (N,) in terms of `shards`
    row_of = {key: row for row, key in enumerate(now.keys)}
    if len(now) < len(stored) and list(now.keys) == list(stored.keys[: len(now)]):
        what = f"{len(stored):,} were listed, and now only the first {len(now):,} of them (another --limit?)"
        raise _changed(name, what)
    gone = [key for key in stored.keys if key not in row_of]
    if gone:
        raise _changed(name, f"{len(gone):,} of {len(stored):,} images are missing now: {_some(gone)}")
    old = np.array([row_of[key] for key in stored.keys], dtype=np.int64)
    columns = (
        ("label", stored.labels, now.labels),
        ("length", stored.length, now.length),
        ("offset", stored.offset, now.offset),
        ("shard", stored.shard, shard),
    )
    for column, then, today in columns:
        changed = then != today[old]
        if column == "length" and replaceable is not None:
            changed &= ~replaceable
        differs = np.flatnonzero(changed)
        if len(differs):
            row = differs[0]
            more = f" (and so for {len(differs) - 1:,} more)" if len(differs) > 1 else ""
            values = f"was {then[row]}, and is {today[old[row]]} now"
            mended = column == "length" and replaceable is None
            advice = f"If it was mended, --retry-failed embeds it, unless a model has before. {_ADVICE}"
            what = f"the {column} of {stored.keys[row]!r} {values}{more}"
            raise _changed(name, what, advice if mended else _ADVICE)
    new = np.setdiff1d(np.arange(len(now)), old)
    if len(new) and not extend:
        verb = "image is" if len(new) == 1 else "images are"
        what = f"{len(new):,} {verb} new: {_some([now.keys[row] for row in new[: _MOST_NAMES + 1]])}"
        raise _changed(name, what, "Append them with --extend, or extract under another --dataset or --split name")
    order = np.concatenate([old, new])
    return Rows(
        keys=[now.keys[row] for row in order],
        labels=now.labels[order],
        shard=shard[order],
        offset=now.offset[order],
        length=now.length[order],
        shards=shards,
        class_names=now.class_names,
        source=now.source,
    )


def refuse_other_names(name: str, stored: tuple[str, ...] | None, now: tuple[str, ...] | None) -> None:
    """Raise FingerprintMismatch if class names were stored and are others now."""
    if stored is None or now is None or stored == now:
        return
    pairs = enumerate(zip(stored, now, strict=False))
    other = next((f"class {label} was {a!r}, and is {b!r} now" for label, (a, b) in pairs if a != b), None)
    what = other or f"there were {len(stored)}, and are {len(now)} now"
    raise FingerprintMismatch(f"the class names of {name} changed since they were stored: {what}. {_ADVICE}")


def _merged_shards(name: str, stored: Rows, now: Rows) -> tuple[Shard, ...]:
    sizes = {shard.name: shard.size for shard in now.shards}
    if len(sizes) < len(now.shards):
        raise _changed(name, "and several shards have the same name, so that old and new cannot be told apart")
    for shard in stored.shards:
        if shard.name not in sizes:
            raise _changed(name, f"shard {shard.name} is missing now")
        if shard not in now.shards:
            raise _changed(name, f"{shard.name} ({shard.size} bytes) is now {sizes[shard.name]} bytes")
    known = set(stored.shards)
    return stored.shards + tuple(shard for shard in now.shards if shard not in known)


def _changed(name: str, what: str, advice: str = _ADVICE) -> FingerprintMismatch:
    return FingerprintMismatch(f"the rows of {name} changed since they were stored: {what}. {advice}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_MOST_NAMES])) + (" …" if len(names) > _MOST_NAMES else "")
