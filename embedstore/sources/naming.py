"""What a path says about the data set and split that lie there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from embedstore.errors import UsageError

# What people call splits, and the one spelling that a store uses.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "dev",
}
DEFAULT_SPLIT = "test"


def known_split(name: str) -> str | None:
    """The canonical spelling of a split's name; None where it is not one that we know."""
    return SPLITS.get(name.lower())


def same_split(a: str, b: str) -> bool:
    """Whether two names mean the same split: ``valid`` and ``validation`` do."""
    return a == b or (known_split(a) or a) == (known_split(b) or b)


def shard_group(name: str) -> str:
    """What a shard is one of: ``train`` for ``train-000007.tar`` or ``x-training-01-of-10.tar``; else its prefix."""
    stem = name[:-4] if name.lower().endswith(".tar") else name
    prefix = re.sub(r"[-_.]of[-_.]\d+$", "", stem).rstrip("0123456789-_.")
    for token in re.split(r"[-_.]", prefix):
        split = known_split(token)
        if split:
            return split
    return prefix


def safe_name(name: str) -> str:
    """A name that a store accepts: other characters become ``-``, and it starts with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9._+@=-]", "-", name).lstrip("._+@=-") or "data"


def check_name(kind: str, name: str) -> str:
    """Return a name that somebody chose, or raise UsageError if a store could not hold it."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+@=-]*", name):
        raise UsageError(
            f"{name!r} cannot name a {kind}: use letters, digits and ._+@=- and start with a letter or digit,"
            f" for example {safe_name(name)!r}"
        )
    return name


def directory_names(directory: str) -> tuple[str, str | None]:
    """Data set and split as a directory's path says them: ``("x", "train")`` for ``/data/x/training``."""
    parts = [part for part in directory.split("/") if part]
    split = known_split(parts[-1]) if parts else None
    if split and len(parts) > 1:
        parts.pop()
    return safe_name(parts[-1] if parts else ""), split


def choices(names: Iterable[str]) -> str:
    """Names for an error message, quoted and sorted; the first few of many."""
    ordered = sorted(set(names))
    more = f" and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    return ", ".join(repr(name) for name in ordered[:8]) + more
