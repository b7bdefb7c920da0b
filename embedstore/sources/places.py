"""Paths and URLs, through fsspec: open them, list them, and never show a secret that is in them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from embedstore.errors import EmbedstoreError, SourceError, UsageError

FileSystem: TypeAlias = Any  # fsspec carries no types

# What can be the matter with one file alone. Other errors (EIO, EMFILE, a lost connection) say nothing about the file.
FILE_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError)

_COMMAND = re.compile(r"(pipe|cmd|command|exec|shell|sh|bash):", re.IGNORECASE)


def redact(spec: str) -> str:
    """A path or URL without ``user:password@``, and without query and fragment, where signed URLs keep secrets."""
    if "://" not in spec:
        return spec
    return re.sub(r"[?#].*", "", re.sub(r"//[^/]*@", "//", spec), flags=re.DOTALL)


def scrub(text: str) -> str:
    """A foreign message in which every URL is redacted."""
    return re.sub(r"[^\s'\"<>()]+://[^\s'\"<>()]+", lambda match: redact(match[0]), text)


def refuse_commands(spec: str) -> None:
    """Raise UsageError for a spec that other tools would run as a shell command; we run none."""
    if _COMMAND.match(spec) or spec.lstrip().startswith("|") or spec.rstrip().endswith("|"):
        raise UsageError(
            f"{spec.split(':')[0]}: … runs a command, and a source is never run. Give the shards' paths or URLs, for"
            " example 's3://bucket/train-{000000..000009}.tar', or copy them here first"
        )


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
        # A chained exception would print its own message, and with it the secrets of a URL.
        raise SourceError(unreadable(what, exc)) from (None if "://" in str(exc) else exc)


def unreadable(what: str, exc: Exception) -> str:
    """Say that ``what`` could not be read, and why, without secrets."""
    text = scrub(str(exc))
    return f"cannot read {what}: {type(exc).__name__}{': ' if text else ''}{text}"


def locate(spec: str) -> tuple[FileSystem, str]:
    """Return the file system that holds ``spec``, and the path of ``spec`` in it.

    Sources keep specs rather than file systems: an open connection neither pickles nor survives a fork.
    """
    import fsspec.core

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
