"""Paths and URLs, through fsspec: open them, list them, and never show a secret that is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from embedstore.errors import USER_IN_URL, EmbedstoreError, SourceError, UsageError, redact, scrub

FileSystem: TypeAlias = Any  # fsspec carries no types

# What can be the matter with one file alone. Other errors (EIO, EMFILE, a lost connection) say nothing about the file.
FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError)

_MOST_SHARDS = 100_000
_COMMAND = re.compile(r"(pipe|cmd|command|exec|shell|sh|bash):", re.IGNORECASE)


def refuse_commands(spec: str) -> None:
    """Raise UsageError for a spec that would run a command, or something like one, when it is opened."""
    if _COMMAND.match(spec) or spec.lstrip().startswith("|") or spec.rstrip().endswith("|"):
        raise UsageError(
            f"{spec.split(':')[0]}: … runs a command, and none is run unless it is allowed: with --allow-commands,"
            " 'pipe:COMMAND' is, and nothing else. Or give the shards' paths or URLs, for example"
            " 's3://bucket/train-{000000..000009}.tar'"
        )
    # None of fsspec's protocols starts a process. sftp and ssh speak SFTP to the host in the URL and run nothing on it;
    # git and github read objects; zip, tar and the caches read what they are given. But the file that reference: opens
    # names other files, anywhere, this machine included, through templates that old versions of fsspec let run code.
    if re.search(r"(^|::)reference(:|$)", spec, re.IGNORECASE):
        raise UsageError(
            "reference: lets one file say which others are read, and it is not used. Give the shards' URLs"
        )


def expand(pattern: str, shown: str, *, escape: bool = True) -> list[str]:
    """What the braces in ``pattern`` stand for, in the order written.

    Parameters
    ----------
    shown : str
        What messages call it.
    escape : bool
        Whether a backslash takes a brace's meaning away, and is then dropped.
    """
    import itertools

    import braceexpand

    # braceexpand writes out each range before anything else, so a mistyped one would fill the memory.
    ends = [abs(int(last) - int(first)) for first, last in re.findall(r"(-?\d+)\.\.(-?\d+)", pattern)]
    too_many = max(ends, default=0) > _MOST_SHARDS
    try:
        every = () if too_many else braceexpand.braceexpand(pattern, escape=escape)
        found = list(itertools.islice(every, _MOST_SHARDS + 1))
    except ValueError as exc:
        raise UsageError(f"cannot expand the braces of {shown}: {type(exc).__name__}") from None
    if too_many or len(found) > _MOST_SHARDS:
        raise UsageError(f"{shown} stands for more than {_MOST_SHARDS} shards; is a range mistyped?")
    return found


def own_fault(exc: OSError) -> str:
    """What is the matter with one file, after one of FILE_ERRORS: the same words from every file system and place."""
    numbers = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR}
    kind = next(kind for kind in numbers if isinstance(exc, kind))
    return f"{kind.__name__}: {os.strerror(numbers[kind])}"


@contextlib.contextmanager
def border(what: str) -> Iterator[None]:
    """Translate whatever is raised inside into a SourceError about ``what``.

    Every fsspec plugin has exceptions of its own (botocore's, aiohttp's …) with no common base below Exception, and a
    damaged tar makes the parser raise nearly anything; hence the wide net.
    """
    try:
        yield
    except EmbedstoreError:
        raise
    except Exception as exc:
        # A chained exception would print its own message, and those behind it, and with them the secrets of a URL.
        raise SourceError(unreadable(what, exc)) from (None if _shows_urls(exc) else exc)


def _shows_urls(exc: BaseException | None) -> bool:
    while exc is not None:
        if "://" in str(exc):
            return True
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return False


def unreadable(what: str, exc: Exception) -> str:
    """Say that ``what`` could not be read, and why, without secrets."""
    text = scrub(str(exc)) or ("no answer in time" if isinstance(exc, TimeoutError) else "")
    return f"cannot read {what}: {type(exc).__name__}{': ' if text else ''}{text}"


def locate(spec: str) -> tuple[FileSystem, str]:
    """Return the file system that holds ``spec``, and the path of ``spec`` in it.

    Sources keep specs rather than file systems: an open connection neither pickles nor survives a fork.
    """
    import fsspec.core

    if re.match(r"s3a?://", spec) and USER_IN_URL.search(spec):
        raise UsageError(
            f"{redact(spec)}: user and password in the URL are not used. Put the key into the environment, as"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into ~/.aws/credentials"
        )
    if "://" in spec and (user := USER_IN_URL.search(spec)) and "/" in user[0][2:]:
        # Any parser would take a piece of the password for the host or port, and say so.
        raise UsageError(f"{redact(spec)}: a / in the URL's user or password must be written as %2F")
    try:
        fs, path = fsspec.core.url_to_fs(spec)
    except ImportError as exc:
        raise SourceError(f"cannot reach {redact(spec)}: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"cannot understand {redact(spec)}: {scrub(str(exc))}") from exc
    return fs, str(path)


def base_name(path: str) -> str:
    """The last part of a path or URL, without secrets."""
    return redact(path).rstrip("/").rsplit("/", 1)[-1]


def parent(path: str) -> str:
    """Everything before the last part of a path or URL, without secrets; without a slash at the end."""
    return redact(path).rstrip("/").rpartition("/")[0]


def entries(fs: FileSystem, directory: str) -> tuple[list[str], list[str]]:
    """Paths of the files and of the sub-directories right inside a directory, hidden ones left out, each sorted."""
    with border(redact(directory)):
        listing = [entry for entry in fs.ls(directory, detail=True) if not base_name(entry["name"]).startswith(".")]
        # A local link is neither file nor directory in fsspec's listing, though it leads to one.
        is_folder = {
            entry["name"]: entry["type"] == "directory" or (entry["type"] != "file" and fs.isdir(entry["name"]))
            for entry in listing
            if entry["name"].rstrip("/") != directory.rstrip("/")
        }
    folders = sorted(name for name, folder in is_folder.items() if folder)
    return sorted(name for name, folder in is_folder.items() if not folder), folders
