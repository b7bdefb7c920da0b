"""Shards that commands write: ``pipe:aws s3 cp s3://bucket/train-{000..009}.tar -``, where the user allows it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any

from embedstore.errors import SourceError, UsageError, redact, scrub
from embedstore.sources.classes import read_classes
from embedstore.sources.places import base_name, expand, parent
from embedstore.sources.shards import names_of
from embedstore.sources.tars import TarSource

PIPE = "pipe:"

# The one that is being read and the one before: batches come in order, and each may take as much disk as a shard.
_KEPT = 2
_COPY_BYTES = 1 << 20
# 141: a part of a pipe was cut off by a later one that had enough, as `head` has; webdataset lets it pass, too.
_GOOD = (0, 141)


class CommandSource(TarSource):
    """Shards that commands write to their standard output; made by :func:`embedstore.sources.open_source`.

    Images are read by their place in a shard, so each process keeps the output of the last commands in temporary files
    that have no name (in ``TMPDIR``). A command is run again where its output is asked for later, and must then write
    as many bytes. What a command says of itself may be secret, so messages and rows show only the shard's name.
    """

    def __init__(
        self, commands: Sequence[str], *, dataset: str, split: str, class_names: tuple[str, ...] | None
    ) -> None:
        names = [shard_name(command) for command in commands]
        shown = PIPE + names[0] + (f" … {names[-1]}" if len(names) > 1 else "")
        super().__init__(shown, commands, dataset=dataset, split=split, class_names=class_names)
        self._outputs = Outputs()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind, too; see the class above."""
        return {**super().__getstate__(), "_outputs": Outputs()}

    def _files(self) -> Outputs:
        return self._outputs

    def _name(self, path: str) -> str:
        return shard_name(path)

    _shown = _name


class Outputs:
    """What the last commands wrote, for one process; as much of a file system as reading a shard takes."""

    async_impl = False

    def __init__(self) -> None:
        self._spools: dict[str, IO[bytes]] = {}

    def open(self, command: str, mode: str = "rb") -> IO[bytes]:
        """Open the output of a command, running it if that is not at hand."""
        if command not in self._spools:
            while len(self._spools) >= _KEPT:
                self._spools.pop(next(iter(self._spools))).close()
            self._spools[command] = _run(command)
        return io.BufferedReader(_View(os.dup(self._spools[command].fileno())))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the files behind: another process runs the commands itself."""
        return {"_spools": {}}

    def __del__(self) -> None:
        for spool in self._spools.values():
            spool.close()


class _View(io.RawIOBase):
    """A file descriptor read from a position of its own; those made with dup alone share one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._at = descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at, os.fstat(self._descriptor).st_size)[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _run(command: str) -> IO[bytes]:
    """Run a command; return what it wrote. SourceError, with the exit code and its last words, where it fails."""
    # bash, where there is one, for a pipe in the command that breaks in its first half fails there as a whole.
    bash = shutil.which("bash")
    shell = [bash, "-o", "pipefail", "-c"] if bash else ["sh", "-c"]
    with contextlib.ExitStack() as on_failure, tempfile.TemporaryFile() as errors:
        spool = on_failure.enter_context(tempfile.TemporaryFile())
        # Through a pipe of ours, so that a command that is left behind ends when this process does.
        with subprocess.Popen(  # noqa: S603  # the user asked for it, and allowed it
            [*shell, command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            try:
                shutil.copyfileobj(process.stdout, spool, _COPY_BYTES)  # type: ignore[arg-type]  # it is no None
            except BaseException:
                process.kill()
                raise
        if process.returncode not in _GOOD:
            words = _last_line(errors)
            raise SourceError(
                f"the command for {shard_name(command)} ended with exit code {process.returncode}"
                f"{': ' if words else ''}{words}"
            )
        spool.flush()
        on_failure.pop_all()
    return spool


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2000))
    lines = errors.read().decode("utf-8", errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return scrub("".join(c if c.isprintable() else " " for c in last).strip())[:300]


def _shard_word(command: str) -> str | None:
    """The path or URL in a command that is called something.tar; None if there is not exactly one."""
    parts = shlex.shlex(command, posix=True, punctuation_chars=True)  # which parts words at ; and | too
    parts.commenters, parts.whitespace_split = "", True
    try:
        words = list(parts)
    except ValueError:  # a quote that is not closed is the shell's business
        words = command.split()
    tars = {word for word in words if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+@=-]*\.tar", base_name(word))}
    return tars.pop() if len(tars) == 1 else None


def shard_name(command: str) -> str:
    """What to call the shard that a command writes: the ``….tar`` in it, else a name made from all of it."""
    word = _shard_word(command)
    return base_name(word) if word else f"pipe-{hashlib.sha256(command.encode()).hexdigest()[:12]}.tar"


def open_commands(spec: str, *, dataset: str | None, split: str | None, classes: str | None) -> CommandSource:
    """Make a source of ``pipe:COMMAND``, or of the commands that its braces stand for; runs none of them.

    Raises
    ------
    UsageError
        There is no command; or nothing in it says what to call the data set, and no name was given.
    """
    command = spec.removeprefix(PIPE).strip()
    if not command:
        raise UsageError("pipe: needs a command, such as 'pipe:aws s3 cp s3://bucket/train-{000..009}.tar -'")
    commands = expand(command, PIPE + "…", escape=False) if "{" in command else [command]
    words = [_shard_word(command) for command in commands]
    if dataset is None and (words[0] is None or not parent(words[0])):
        raise UsageError("nothing in the command says what to call the data set; say it with --dataset")
    paths = [word or shard_name(command) for word, command in zip(words, commands, strict=True)]
    dataset, split, _ = names_of(PIPE + redact(base_name(paths[0])), paths, dataset, split)
    return CommandSource(commands, dataset=dataset, split=split, class_names=read_classes(classes) if classes else None)
