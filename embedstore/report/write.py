"""Write a report's files."""

from __future__ import annotations

import os
from pathlib import Path

from embedstore.errors import UsageError
from embedstore.report.content import gather
from embedstore.report.exports import to_csv, to_json
from embedstore.report.page import render
from embedstore.store import Store


def write_report(store: Store, out: str | Path, *, title: str | None = None) -> Path:
    """Write ``report.html``, ``results.csv`` and ``results.json`` into the folder `out`, which is made if missing.

    Each file is whole or not there: an existing one is replaced in one step. All are computed before the first is
    written.

    Returns
    -------
    Path
        Of ``report.html``.

    Raises
    ------
    NotAvailable
        If the store holds no results at all.
    UsageError
        If `out` is a file.
    """
    content = gather(store)
    texts = {
        "results.csv": to_csv(content),
        "results.json": to_json(content),
        "report.html": render(content, title),
    }
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder} is not a folder; give --out a folder for the report's files") from error
    for name, text in texts.items():
        _replace(folder / name, text)
    return folder / "report.html"


def _replace(path: Path, text: str) -> None:
    # The temporary file lies in the same folder, since a rename is one step only within a file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Half of a surrogate pair (from a file name that is not UTF-8) has no bytes, and must not cost the report.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
