"""Which shards a path, a glob or a folder means, and what they and their classes are called."""

from __future__ import annotations

from collections.abc import Sequence

from embedstore.errors import UsageError, redact
from embedstore.sources.classes import read_classes, read_classes_at
from embedstore.sources.naming import (
    DEFAULT_SPLIT,
    check_name,
    choices,
    directory_names,
    known_split,
    safe_name,
    same_split,
    shard_group,
)
from embedstore.sources.places import base_name, border, locate, parent
from embedstore.sources.tars import TarSource


def open_tars(
    spec: str,
    paths: Sequence[str],
    *,
    dataset: str | None,
    split: str | None,
    classes: str | None,
    choose: bool,
) -> TarSource:
    """Make a source of shards, choosing among splits where ``paths`` were found rather than written.

    Parameters
    ----------
    choose : bool
        True for a folder or glob: keep the shards of one split. False where the user wrote each shard down.
    """
    if choose:
        paths = _of_split(spec, paths, split)
    dataset, split, in_split = names_of(redact(spec), paths, dataset, split)
    names = read_classes(classes) if classes else _classes_beside(spec, paths[0], in_split)
    return TarSource(spec, paths, dataset=dataset, split=split, class_names=names)


def names_of(shown: str, paths: Sequence[str], dataset: str | None, split: str | None) -> tuple[str, str, bool]:
    """Data set and split of some shards, as given or as paths say; and whether they lie in a split's own folder."""
    default_dataset, directory_split = directory_names(parent(paths[0]))
    found = {known_split(shard_group(base_name(path))) for path in paths}
    if split is None and len(found - {None}) > 1:
        raise UsageError(f"{shown} mixes shards of {choices(filter(None, found))}; say with --split what to call them")
    default_split = found.pop() if len(found) == 1 else None
    return (
        check_name("data set", dataset) if dataset else default_dataset,
        check_name("split", split) if split else safe_name(default_split or directory_split or DEFAULT_SPLIT),
        directory_split is not None,
    )


def _of_split(spec: str, paths: Sequence[str], split: str | None) -> list[str]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(shard_group(base_name(path)), []).append(path)
    splits = [group for group in groups if known_split(group)]
    if split is None:
        if splits and len(groups) > 1:
            raise UsageError(
                f"{redact(spec)} holds shards of several splits: {choices(groups)}. Choose one with --split, or give a"
                f" glob such as '{splits[0]}-*.tar'"
            )
        return list(paths)
    for group, members_of_group in groups.items():
        if same_split(group, split):
            return members_of_group
    # One kind of shard may be stored under a name of one's own, but train shards as "test" would be a mistake.
    if len(groups) > 1 or (splits and known_split(split)):
        raise UsageError(
            f"{redact(spec)} holds no shards of split {split!r}; found {choices(groups)}. To store shards under a"
            " name of your own, write them down: 'path/name-{000000..000009}.tar'"
        )
    return list(paths)


def _classes_beside(spec: str, shard: str, in_split: bool) -> tuple[str, ...] | None:
    """Names from classes.json beside the shards, or one level up where the shards lie in a split's own folder."""
    fs, _ = locate(spec)
    directories = [parent(shard)]
    if in_split:
        directories.append(parent(directories[0]))
    for directory in directories:
        candidate = f"{directory}/classes.json"
        with border(candidate):
            found = fs.exists(candidate)
        if found:
            return read_classes_at(fs, candidate, candidate)
    return None
