"""Class names, in label order, from a file that somebody else wrote."""

from __future__ import annotations

import json
import os

from embedstore.errors import SourceError, redact
from embedstore.prompts import class_list
from embedstore.sources.places import FileSystem, border, locate

_MOST_BYTES = 16 << 20  # ImageNet-21k with all its synonyms takes one of them


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names in label order.

    Three forms: a JSON list of strings, ``{"classes": [...]}`` (other fields are ignored), or a text file with one
    name a line. Names may repeat (ImageNet has two cranes); an empty one may not, because in a text file it would shift
    every label after it.

    Parameters
    ----------
    path : str or path
        A local path or any fsspec URL; or ``imagenet:NAME``, a list that :func:`embedstore.prompts.class_list` knows.

    Returns
    -------
    tuple of C str

    Raises
    ------
    SourceError
        The file is missing or holds something else; the message names the file and what was found.
    UnknownName
        There is no such list.
    """
    spec = os.fspath(path)
    if spec.startswith("imagenet:"):
        return class_list(spec)
    return read_classes_at(*locate(spec), redact(spec))


def read_classes_at(fs: FileSystem, place: str, shown: str) -> tuple[str, ...]:
    """:func:`read_classes` for a file system already at hand; messages call the file ``shown``."""
    with border(f"class names from {shown}"), fs.open(place, "rb") as file:
        raw: bytes = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise SourceError(f"{shown}: more than {_MOST_BYTES >> 20} MiB; that is no list of class names")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise SourceError(f"{shown}: class names must be UTF-8 text; byte {exc.start} is not") from exc
    # JSON by what it says as well as by name: `--classes names.txt` may well hold a list.
    if shown.lower().endswith(".json") or text.lstrip().startswith(("[", "{")):
        names = _from_json(text, shown)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    return _checked(names, shown)


def _from_json(text: str, shown: str) -> list[object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SourceError(f"{shown}: not valid JSON: {type(exc).__name__}: {exc}") from exc
    if isinstance(value, dict):
        if "classes" not in value:
            fields = ", ".join(repr(name)[:40] for name in list(value)[:5]) or "none"
            raise SourceError(f'{shown}: expected {{"classes": [names in label order]}}; found an object with {fields}')
        value = value["classes"]
    if not isinstance(value, list):
        raise SourceError(f"{shown}: expected a list of names in label order; found {type(value).__name__}")
    return value


def _checked(names: list[object] | list[str], shown: str) -> tuple[str, ...]:
    if not names:
        raise SourceError(f"{shown}: holds no class names")
    checked = []
    for label, name in enumerate(names):
        if not isinstance(name, str):
            raise SourceError(f"{shown}: class {label} must be a string; found {type(name).__name__} {repr(name)[:60]}")
        if not name.strip():
            raise SourceError(f"{shown}: class {label} has an empty name; every label needs one, in order")
        # Neither can go into a store's JSON and out to a terminal unharmed.
        if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in name):
            raise SourceError(f"{shown}: class {label} holds a control character or half a surrogate: {name[:60]!a}")
        checked.append(name)
    return tuple(checked)


def check_label(label: int, class_names: tuple[str, ...] | None, where: str) -> None:
    """Raise SourceError, naming both numbers, if a label has no class name though there are names."""
    if class_names is not None and label >= len(class_names):
        raise SourceError(
            f"{where}: label {label}, but there are {len(class_names)} class names, for labels from 0"
            f" to {len(class_names) - 1}. Give the right list with --classes"
        )
