"""What ``embedstore attack`` prints: progress, a table of means, and what one would type next."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from embedstore.attack import Attacked, Progress, Side

MADE = ("clean", "adversarial")  # the shards that are embedded, and the splits they become

_SECONDS_BETWEEN_LINES = 10.0
_MOST_FAILURES = 5


@contextmanager
def watching(to: Console, label: str, measured: str = "similarity") -> Iterator[Callable[[Progress], None]]:
    """A bar with steps, loss and what is measured on a terminal, a line now and then elsewhere; notes on either."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    def text(now: Progress) -> str:
        numbers = "" if math.isnan(now.loss) else f", loss {now.loss:.4f}, {measured} {now.similarity:.4f}"
        return f"step {now.step:,} of {now.steps:,}{numbers}"

    def noting(show: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """Also each note once, such as that memory ran out."""
        printed = 0

        def call(now: Progress) -> None:
            nonlocal printed
            for note in now.notes[printed:]:
                to.print(f"note: {note}", markup=False, soft_wrap=True)
            printed = len(now.notes)
            show(now)

        return call

    if not to.is_terminal:
        last = time.perf_counter()

        def line(now: Progress) -> None:
            nonlocal last
            if time.perf_counter() - last > _SECONDS_BETWEEN_LINES:
                last = time.perf_counter()
                to.print(f"{label}: {now.done:,} of {now.total:,} images, {text(now)}", markup=False)

        yield noting(line)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    with Bars(*columns, console=to, transient=True) as bars:
        task = bars.add_task(label, total=None, now="reading")
        yield noting(lambda now: bars.update(task, completed=now.done, total=now.total, now=text(now)))


def means(found: Attacked) -> dict[str, Any]:
    """Counts, and means over the images that did not fail; None where there is none."""
    import numpy as np

    def mean(name: str) -> float | None:
        values = found.arrays[name][np.isfinite(found.arrays[name])]
        return float(values.mean()) if len(values) else None

    similarity = {"before": "similarity_before", "after": "similarity", "rounded": "similarity_rounded"}
    return {
        "images": len(found),
        "failed": len(found.failed),
        "similarity": {when: mean(name) for when, name in similarity.items()},
        **{name: mean(name) for name in ("l2", "linf", "psnr")},
        "keeps_pixels": found.declaration["keeps_pixels"],
    }


def print_summary(to: Console, summary: dict[str, Any], found: Attacked) -> None:
    """The table of what :func:`means` found, the first failures, and what to know of the shards."""
    from rich.table import Table

    def number(value: float | None, digits: int = 3) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    closeness = "energy" if found.declaration["aim"]["kind"] == "energy" else "similarity"
    table = Table(title=f"{summary['dataset']} · {summary['model']}: means over images", title_justify="left")
    for title in ("images", "failed", f"{closeness} clean → perturbed → rounded", "L2", "L∞ · 255", "PSNR, dB"):
        table.add_column(title, justify="right")
    path = " → ".join(number(summary["similarity"][when]) for when in ("before", "after", "rounded"))
    most = None if summary["linf"] is None else 255 * summary["linf"]
    counts = f"{summary['images']:,}", f"{summary['failed']:,}"
    table.add_row(*counts, path, number(summary["l2"], 2), number(most, 1), number(summary["psnr"], 1))
    to.print(table)
    for key, reason in list(found.failed.items())[:_MOST_FAILURES]:
        to.print(f"  failed: {key!r}: {reason}", markup=False, soft_wrap=True)
    if not summary["keeps_pixels"]:
        to.print(
            "note: this model scales an image to more than it then cuts out, so that reading the shards it sees other "
            "pixels than were perturbed; NAME/float is what the attack achieved",
            soft_wrap=True,
        )
    to.print("Next:")


def next_commands(
    location: str, model: str, target: Side, dataset: str, out: str, targets: str | None
) -> Sequence[str]:
    """What one would type now, as shell lines: detection, the same without the targets, and transfer."""
    lines = []
    if target.split != "test":  # the ID test split cannot also be what is trained on
        train = [] if target.split == "train" else ["--train-split", target.split]
        probe = ["embedstore", "probe", "--store", location, "--model", model, "--id", target.dataset, *train]
        probe += [word for split in (*MADE, "float") for word in ("--ood", f"{dataset}:{split}")]
        lines += [probe, *([] if targets is None else [[*probe, "--without", targets]])]
    for split in MADE:
        words = ["embedstore", "extract", f"{out.rstrip('/')}/{split}", "--dataset", dataset, "--split", split]
        lines.append([*words, "--store", location, "--model", "ANOTHER"])
    return [shlex.join(words) for words in lines]
