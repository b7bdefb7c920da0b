"""Write a report's files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from embedstore.errors import UsageError
from embedstore.report.compare import compare
from embedstore.report.content import Content, gather
from embedstore.report.exports import comparison_csv, to_csv, to_json
from embedstore.report.latex import to_latex
from embedstore.report.narrow import EVERYTHING, Narrowing
from embedstore.report.page import render
from embedstore.report.static import FOLDER, figures
from embedstore.store import Store

# What a report may have written and the next one may not: an old figure beside a new table misleads.
_MAY_GO = re.compile(rf"{FOLDER}/[A-Za-z0-9._+@=-]+\.(svg|pdf)|comparison\.csv")


@dataclass(frozen=True)
class Written:
    """A report that lies in a folder: ``page`` is its ``report.html``, ``files`` all of it, the page last.

    ``notes`` say what could not be written.
    """

    page: Path
    files: tuple[Path, ...]
    content: Content
    notes: tuple[str, ...] = ()


def write_report(
    store: Store,
    out: str | Path,
    *,
    title: str | None = None,
    narrowing: Narrowing = EVERYTHING,
    other: Store | datetime | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write ``report.html``, ``results.csv``, ``results.json``, ``tables.tex`` and ``figures/`` into the folder `out`.

    The folder is made if missing. Each file is whole or not there: an existing one is replaced in one step. All are
    computed before the first is written. Figures and a comparison that an earlier report left there, and this one does
    not have, are removed; docs/report.md tells what each file holds.

    Parameters
    ----------
    title : str, optional
        The page's heading.
    narrowing : Narrowing
        What the report is about; everything that the store holds if not given.
    other : Store or datetime, optional
        What to compare with: another store, or what this one held before then. Adds ``comparison.csv``, and a section.
    progress : callable
        Told now and then how many more of the files are made, and how many there will be.

    Raises
    ------
    NotAvailable
        If the store, or what it is compared with, holds no results at all, or none of what the report is narrowed to.
    UnknownName
        If there are no results of a model or method that it is narrowed to.
    UsageError
        If `out` is a file or a store.
    """
    folder = _folder(out)
    content = gather(store, narrowing)
    comparison = None if other is None else compare(content, store, other, narrowing)
    texts: dict[str, Callable[[], str]] = {
        "results.csv": lambda: to_csv(content),
        "tables.tex": lambda: to_latex(content),
        **({} if comparison is None else {"comparison.csv": lambda: comparison_csv(comparison)}),
        "results.json": lambda: to_json(content, names, comparison),
        "report.html": lambda: render(content, title, comparison),
    }
    drawn, notes = _figures(content, lambda done, drawings: progress(done, drawings + len(texts)))
    names = [*drawn, *texts]
    files: dict[str, str | bytes] = {**drawn}
    for name, make in texts.items():
        files[name] = make()
        progress(1, len(names))
    (folder / FOLDER if any("/" in name for name in files) else folder).mkdir(parents=True, exist_ok=True)
    earlier = _written(folder / "results.json")
    for name, text in files.items():
        _replace(folder / name, text)
    for name in earlier:
        if name not in files and _MAY_GO.fullmatch(name):
            (folder / name).unlink(missing_ok=True)
    return Written(folder / "report.html", tuple(folder / name for name in files), content, notes)


def _folder(out: str | Path) -> Path:
    """Where the files go; refused, before anything is computed, where they cannot or should not."""
    folder = Path(out)
    above = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not above.is_dir():
        raise UsageError(f"{above} is not a folder; give --out a folder for the report's files")
    if any((path / "zarr.json").exists() for path in (folder, *folder.resolve().parents)):
        raise UsageError(f"{folder} is a store, or lies in one; give --out another folder for the report's files")
    return folder


def _figures(content: Content, progress: Callable[[int, int], None]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The figures, and what to say where there are none: results are read on machines that cannot draw, too."""
    try:
        return figures(content, progress), ()
    except ImportError as error:
        return {}, (f"no figures, because Matplotlib cannot be loaded: {error}",)


def _written(path: Path) -> Iterable[str]:
    """The files that an earlier report says it wrote; none if it says nothing that can be understood."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    names = value.get("files") if isinstance(value, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _replace(path: Path, text: str | bytes) -> None:
    # The temporary file lies in the same folder, since a rename is one step only within a file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Half of a surrogate pair (from a file name that is not UTF-8) has no bytes, and must not cost the report.
        temporary.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
