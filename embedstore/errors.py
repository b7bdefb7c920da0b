"""Every error that embedstore raises on purpose, as one small tree.

    EmbedstoreError
    ├── UsageError            the request itself cannot be right
    │   └── UnknownName       a name nobody knows; the message lists the known ones
    ├── SourceError           images, shards or class names that cannot be read
    │   └── ImageError        one image that cannot be decoded; the others go on
    ├── ModelUnavailable      a model that cannot be loaded: no weights, no network, no such architecture
    ├── NotAvailable          a step needs something (labels, class names, finished rows) that the store does not hold
    ├── TooManyFailures       more images failed than the run was allowed
    ├── WorkerLost            a process that embeds images dies again and again on the same block
    └── StoreError            anything wrong with a store
        ├── StoreNotFound     nothing there, or something that is not a store of ours
        ├── StoreCorrupt      a store of ours that contradicts itself
        └── FingerprintMismatch   same name, different content; the message names the field that differs

Each message says what was asked, what was found, and what to do. The command line maps these classes to exit codes;
no other module knows about exit codes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# A password that nobody encoded may hold slashes, as those of Amazon do; what follows host: is digits, a port.
USER_IN_URL = re.compile(r"//(?:[^/]*@|[^/@]*:(?!\d+(?:/|$))[^@]*@)")
_MOST_LETTERS = 400  # of a reason in the ledger


def redact(spec: str) -> str:
    """A path or URL without ``user:password@``, and without query and fragment, where signed URLs keep secrets."""
    if "://" not in spec:
        return spec
    return re.sub(r"[?#].*", "", USER_IN_URL.sub("//", spec), flags=re.DOTALL)


def scrub(text: str) -> str:
    """A foreign message in which every URL is redacted, and no object's address in memory is left."""
    text = re.sub(r"[^\s'\"<>()]+://[^\s'\"<>()]+", lambda match: redact(match[0]), text)
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def one_line(stage: str, reason: str) -> str:
    """``"STAGE: why"`` in one printable line of bounded length, the same in every run: the ledger's bytes depend on it.

    Libraries put line breaks, control characters, secrets of URLs and addresses of objects into their messages.
    """
    text = " ".join(scrub(reason).split())
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return f"{stage}: {text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + '…'}"


class EmbedstoreError(Exception):
    """Base of every error in this module."""


class UsageError(EmbedstoreError, ValueError):
    """The request cannot be right, whatever the data."""


class UnknownName(UsageError, LookupError):
    """A name that nobody knows.

    Parameters
    ----------
    kind : str
        What was asked for, in the singular: ``"model"``, ``"data set"``, ``"method"``.
    asked : str
    known : iterable of str
        Every name that would have worked; listed in the message, the closest first where one is close.
    """

    def __init__(self, kind: str, asked: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(asked, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listing = f"Known: {', '.join(names)}." if names else f"There is no {kind} yet."
        super().__init__(f"unknown {kind} {asked!r}.{hint} {listing}")

    def __reduce__(self) -> tuple[object, ...]:
        # By its message: workers send their errors to the process that started them.
        return _restored, (str(self),)


def _restored(message: str) -> UnknownName:
    error = UnknownName.__new__(UnknownName, message)
    error.args = (message,)
    return error


class SourceError(EmbedstoreError, OSError):
    """Images, shards or class names that cannot be read."""


class ImageError(SourceError):
    """One image that cannot be had or decoded; its row is marked failed and the others go on."""


class ModelUnavailable(EmbedstoreError, RuntimeError):
    """A model that cannot be loaded."""


class NotAvailable(EmbedstoreError, LookupError):
    """A step needs something that the store does not hold."""


class TooManyFailures(EmbedstoreError, RuntimeError):
    """More images failed than the run was allowed; what it did is kept."""


class WorkerLost(EmbedstoreError, RuntimeError):
    """A process that embeds images dies again and again on the same block; the other blocks are done."""


class StoreError(EmbedstoreError):
    """Anything wrong with a store."""


class StoreNotFound(StoreError, FileNotFoundError):
    """Nothing at that address, or something that is not a store of ours."""


class StoreCorrupt(StoreError):
    """A store of ours that contradicts itself."""


class FingerprintMismatch(StoreError):
    """Same name, different content."""
