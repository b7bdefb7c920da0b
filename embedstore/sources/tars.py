"""Images in WebDataset shards: uncompressed tars whose members share a key."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import IO, Any

import numpy as np

from embedstore.errors import ImageError, SourceError, UsageError
from embedstore.records import Rows, Shard
from embedstore.sources.base import Payload
from embedstore.sources.classes import check_label, read_classes, read_classes_at
from embedstore.sources.images import IMAGE_EXTENSIONS
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
from embedstore.sources.places import base_name, border, locate, parent, redact
from embedstore.sources.tarindex import Member, Sample, image_member, members, samples

_LABEL_BYTES = 64  # a longer .cls is no integer; it is not worth reading to say so


class TarSource:
    """WebDataset shards, in order; made by :func:`embedstore.sources.open_source`.

    Parameters
    ----------
    spec : str
        What the user asked for. It names the file system; where it holds secrets, only the redacted form is shown.
    paths : sequence of str
        The shards, as that file system calls them.
    dataset, split : str
    class_names : tuple of str, or None
    """

    def __init__(
        self, spec: str, paths: Sequence[str], *, dataset: str, split: str, class_names: tuple[str, ...] | None
    ) -> None:
        self.dataset = dataset
        self.split = split
        self._spec = spec
        self._paths = tuple(paths)
        self._class_names = class_names
        # Of the shard whose captions were asked for last: its path, the extension, and where they lie.
        self._captions: tuple[str, str, dict[str, Member]] | None = None

    def __repr__(self) -> str:
        return f"<TarSource {redact(self._spec)}: {self.dataset}/{self.split}, {len(self._paths)} shard(s)>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the caption index behind: it can be large and is quickly made again."""
        return {**self.__dict__, "_captions": None}

    def scan(self) -> Rows:
        """List one row per sample, image or not, from the shards' headers and their ``.cls`` members.

        Raises
        ------
        SourceError
            A shard is missing, compressed, damaged or cut short; a key or suffix repeats; a label is no integer or has
            no class name. The message names the shard, and the key where there is one.
        """
        table = _Table(self._class_names)
        for path in self._paths:
            with self._open(path) as file:
                size = file.seek(0, 2)
                table.begin(Shard(base_name(path), size))
                for key, sample in samples(members(file, base_name(path)), base_name(path)):
                    table.add(key, sample, file)
        return table.rows(redact(self._spec))

    def read(self, rows: Rows, start: int, stop: int) -> Iterator[Payload]:
        """Yield each row's image bytes; each shard is opened once for each run of its rows."""
        for number, run in _runs(rows, start, stop):
            with self._open_checked(rows, number) as file:
                for row in run:
                    yield self._image(file, rows, row)

    def captions(self, rows: Rows, start: int, stop: int, extension: str) -> Iterator[str | None]:
        """Yield the text of each row's ``KEY.<extension>`` member; the shard's headers are read once.

        Bytes that are not UTF-8 become U+FFFD.
        """
        suffix = extension.lower().removeprefix(".")
        for number, run in _runs(rows, start, stop):
            with self._open_checked(rows, number) as file:
                where = self._caption_index(file, self._paths[number], suffix)
                for row in run:
                    member = where.get(rows.keys[row])
                    yield None if member is None else _text(file, member, base_name(self._paths[number]))

    def _open(self, path: str) -> IO[bytes]:
        fs, _ = locate(self._spec)
        with border(redact(path)):
            file: IO[bytes] = fs.open(path, "rb")
            return file

    def _open_checked(self, rows: Rows, number: int) -> IO[bytes]:
        """Open a shard that rows point into, and make sure that it is still the one they were read from."""
        listed = rows.shards[number]
        if number >= len(self._paths) or base_name(self._paths[number]) != listed.name:
            raise SourceError(
                f"the rows were listed from shard {number} = {listed.name!r}, which {redact(self._spec)} does not have"
                " in that place. Give the source that was scanned, or scan again under another data set name"
            )
        file = self._open(self._paths[number])
        with border(listed.name):
            size = file.seek(0, 2)
        if size != listed.size:
            file.close()
            raise SourceError(
                f"{listed.name} has changed since it was listed: {listed.size} bytes then, {size} now. Restore it, or"
                " scan again under another data set name"
            )
        return file

    def _image(self, file: IO[bytes], rows: Rows, row: int) -> Payload:
        offset, length = int(rows.offset[row]), int(rows.length[row])
        if offset < 0:
            return ImageError(
                f"no image member in sample {rows.keys[row]!r} (looked for .{', .'.join(IMAGE_EXTENSIONS)})"
            )
        return _bytes(file, Member(rows.keys[row], offset, length), rows.shards[int(rows.shard[row])].name)

    def _caption_index(self, file: IO[bytes], path: str, suffix: str) -> dict[str, Member]:
        if self._captions is None or self._captions[:2] != (path, suffix):
            name = base_name(path)
            where = {key: sample[suffix] for key, sample in samples(members(file, name), name) if suffix in sample}
            self._captions = (path, suffix, where)
        return self._captions[2]


class _Table:
    """The row list while it grows: compact columns, because there may be a hundred million rows."""

    def __init__(self, class_names: tuple[str, ...] | None) -> None:
        self.class_names = class_names
        self.shards: list[Shard] = []
        self.seen: dict[str, int] = {}  # key to shard, in row order
        self.labels, self.shard = array("i"), array("i")
        self.offset, self.length = array("q"), array("q")

    def begin(self, shard: Shard) -> None:
        self.shards.append(shard)

    def add(self, key: str, sample: Sample, file: IO[bytes]) -> None:
        number, shard = len(self.shards) - 1, self.shards[-1].name
        first = self.seen.setdefault(key, number)
        if len(self.seen) == len(self.labels):  # nothing was added
            raise SourceError(
                f"key {key!r} is in {self.shards[first].name} and again in {shard}; keys must be unique in a split."
                " Are two splits or data sets mixed, or a sample's members not side by side?"
            )
        image = image_member(sample)
        self.labels.append(_label(key, sample, file, shard, self.class_names))
        self.shard.append(number)
        self.offset.append(-1 if image is None else image.offset)
        self.length.append(-1 if image is None else image.length)

    def rows(self, source: str) -> Rows:
        if not self.seen:
            raise SourceError(
                f"{source}: no samples in {len(self.shards)} shard(s): {choices(s.name for s in self.shards)}"
            )
        return Rows(
            keys=list(self.seen),
            labels=np.array(self.labels, dtype=np.int32),
            shard=np.array(self.shard, dtype=np.int32),
            offset=np.array(self.offset, dtype=np.int64),
            length=np.array(self.length, dtype=np.int64),
            shards=tuple(self.shards),
            class_names=self.class_names,
            source=source,
        )


def _runs(rows: Rows, start: int, stop: int) -> Iterator[tuple[int, Iterator[int]]]:
    """Rows of a slice, in order, in runs that lie in the same shard."""
    wanted = range(*slice(start, stop).indices(len(rows)))
    return groupby(wanted, key=lambda row: int(rows.shard[row]))


def _bytes(file: IO[bytes], member: Member, shard: str) -> bytes:
    with border(shard):
        file.seek(member.offset)
        data = file.read(member.length)
    if len(data) != member.length:
        raise SourceError(f"{shard}: {member.name!r} should have {member.length} bytes, but {len(data)} came")
    return data


def _text(file: IO[bytes], member: Member, shard: str) -> str:
    return _bytes(file, member, shard).decode("utf-8", errors="replace")


def _label(key: str, sample: Sample, file: IO[bytes], shard: str, class_names: tuple[str, ...] | None) -> int:
    member = sample.get("cls")
    if member is None:
        return -1
    text = _bytes(file, member._replace(length=min(member.length, _LABEL_BYTES)), shard)
    if member.length > _LABEL_BYTES or not re.fullmatch(rb"\s*[+-]?[0-9]{1,10}\s*", text):
        raise SourceError(f"{shard}: label of {key!r} must be an integer; its .cls says {text[:20]!r}")
    label = int(text)
    if not -1 <= label < 2**31:
        raise SourceError(f"{shard}: label of {key!r} must be -1 (unknown) or a class index; its .cls says {label}")
    check_label(label, class_names, f"{shard}: {key!r}")
    return label


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
    directory = parent(paths[0])
    default_dataset, directory_split = directory_names(directory)
    found = {known_split(shard_group(base_name(path))) for path in paths}
    if split is None and len(found - {None}) > 1:
        raise UsageError(
            f"{redact(spec)} mixes shards of {choices(filter(None, found))}; say with --split what to call them"
        )
    default_split = found.pop() if len(found) == 1 else None
    return TarSource(
        spec,
        paths,
        dataset=check_name("data set", dataset) if dataset else default_dataset,
        split=check_name("split", split) if split else safe_name(default_split or directory_split or DEFAULT_SPLIT),
        class_names=read_classes(classes) if classes else _classes_beside(spec, paths[0], directory_split is not None),
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
