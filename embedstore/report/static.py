"""The plots for papers: SVG and PDF by Matplotlib, the same bytes for the same results.

For each ID set and OOD set three, which is what a paper prints: the R² scatter of the default method, the ROC curves of
the best methods, and the AUROC of every model. Everything else is on the page, where one can choose.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.report.attacked import in_main_table
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.distributions import Curve
from embedstore.report.fits import MIN_MODELS, Correlation
from embedstore.report.means import Mean
from embedstore.report.plots import DEFAULT_LABEL
from embedstore.report.summary import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = "figures"
MOST_CURVES = 5  # of the page's eight: more can not be told apart in black and white
_WIDTH, _HEIGHT = 3.4, 2.9  # inches: one column of a paper

# Okabe and Ito's colours, which most colour-blind readers tell apart; the dashes are for print in black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)))
_LOOK: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it would be anyway; to find out, Matplotlib measures all that is around it
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "pdf.fonttype": 42,  # fonts that journals accept
    "svg.hashsalt": "embedstore",  # ids that are the same every time
    "text.parse_math": False,  # a name with two dollar signs is a name
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}

# The kinds of file; neither says when it was made.
_ABOUT: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def figures(content: Content, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, bytes]:
    """Every figure that the results are enough for, as SVG and as PDF, by file name (``"figures/r2-digits-far.svg"``).

    A character that a file name should not have becomes ``_``; a number follows where two names would be one.

    Parameters
    ----------
    progress : callable
        Told after every figure how many files it gave, and how many all of them will give.
    """
    import matplotlib

    found: dict[str, bytes] = {}
    wanted = list(_wanted(content))
    # Whoever runs this may have a style of his own, which is for his own plots.
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_LOOK)
        for kind, id_dataset, ood, height, draw in wanted:
            stem = _unused("-".join([kind, *(_safe(name) for name in (id_dataset, dataset_label(ood)))]), found)
            title = f"{kind}: {_plain(id_dataset)} against {_plain(dataset_label(ood))}"
            for suffix, content_bytes in _files(draw, height, title):
                found[f"{FOLDER}/{stem}.{suffix}"] = content_bytes
            progress(len(_ABOUT), len(_ABOUT) * len(wanted))
    return found


_Drawing = Callable[["Axes"], None]


def _wanted(content: Content) -> Iterator[tuple[str, str, str, float, _Drawing]]:
    """Kind, ID set, OOD set, height in inches and what draws it."""
    for fit in _default_fits(content.correlations):
        yield "r2", fit.id_dataset, fit.ood, _HEIGHT, partial(_relation, fit=fit)
    drawn: dict[tuple[str, str], list[Curve]] = {}
    for curve in content.curves:
        drawn.setdefault((curve.id_dataset, curve.ood), []).append(curve)
    for (id_dataset, ood), some in drawn.items():
        yield "roc", id_dataset, ood, _HEIGHT, partial(_roc, curves=some[:MOST_CURVES])
    columns: dict[tuple[str, str], list[Mean]] = {}
    for mean in in_main_table(content.means)[0]:
        if mean.auroc is not None:
            columns.setdefault((mean.id_dataset, mean.ood), []).append(mean)
    for (id_dataset, ood), column in sorted(columns.items()):
        bars = _bars(column)
        if len(bars) > 1:
            yield "auroc", id_dataset, ood, 0.9 + 0.19 * len(bars), partial(_auroc, bars=bars)


def _default_fits(fits: Iterable[Correlation]) -> list[Correlation]:
    """Of each ID set those of the method that the page opens with."""
    found: dict[str, dict[str, list[Correlation]]] = {}
    for fit in fits:
        if len(fit.points) >= MIN_MODELS:
            found.setdefault(fit.id_dataset, {}).setdefault(fit.label, []).append(fit)
    return [fit for by_label in found.values() for fit in by_label.get(DEFAULT_LABEL) or next(iter(by_label.values()))]


def _relation(axes: Axes, fit: Correlation) -> None:
    x, y = (np.array([100 * getattr(point, name) for point in fit.points]) for name in ("id_accuracy", "auroc"))
    line, about = fit.line, "no R²"
    if line is not None:
        low, high = line.r_squared_interval()
        falls = ", falling" if fit.falls else ""
        about = f"R² {line.r_squared:.2f} (95 % interval {low:.2f}–{high:.2f}), {line.n} models{falls}"
        across = np.linspace(x.min(), x.max(), 60)
        axes.plot(across, 100 * line.intercept + line.slope * across, color=_COLOURS[1], linewidth=1.2)
        low_edge, high_edge = (100 * edge for edge in line.band(across / 100))
        axes.fill_between(across, low_edge, high_edge, color=_COLOURS[1], alpha=0.18, linewidth=0)
    axes.scatter(x, y, s=16, color=_COLOURS[0], zorder=3)
    # The band of a few models would leave no room for them.
    give = 0.2 * float(np.ptp(y)) or 1.0
    axes.set_ylim(float(y.min()) - give, float(y.max()) + give)
    axes.set_xlabel(f"ID accuracy on {_plain(fit.id_dataset)}, 20-NN (%)")
    axes.set_ylabel(f"AUROC of {_plain(fit.label)} (%)")
    axes.set_title(_title(f"{dataset_label(fit.ood)}\n{about}"))


def _roc(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve, colour, dash in zip(curves, _COLOURS, _DASHES, strict=False):
        label = f"{percent(curve.auroc)}  {_plain(curve.label, 28)}"
        fpr, tpr = (100 * np.array(values) for values in (curve.fpr, curve.tpr))
        axes.plot(fpr, tpr, color=colour, linestyle=dash, linewidth=1.2, label=label)
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=0.6)
    axes.set(xlim=(0, 100), ylim=(0, 101))
    axes.set_xlabel("OOD images accepted (FPR, %)")
    axes.set_ylabel("ID images accepted (TPR, %)")
    first = curves[0]
    axes.set_title(_title(f"{first.model}\n{first.id_dataset} against {dataset_label(first.ood)}"))
    axes.legend(title="AUROC", title_fontsize=7, alignment="left", loc="lower right")


def _bars(column: Sequence[Mean]) -> list[Mean]:
    """One table row, the best by its mean over the models that most of the table rows have, for every model."""
    rows: dict[tuple[str, ...], list[Mean]] = {}
    for mean in column:
        rows.setdefault((mean.method, mean.variant, mean.score, mean.templates or ""), []).append(mean)
    most = max(len(row) for row in rows.values())
    whole = [row for row in rows.values() if len(row) == most]
    best = max(whole, key=lambda row: sum(mean.auroc or 0.0 for mean in row))
    return sorted(best, key=lambda mean: (mean.auroc or 0.0, mean.model))


def _auroc(axes: Axes, bars: Sequence[Mean]) -> None:
    values = np.array([100 * (mean.auroc or 0.0) for mean in bars])
    places = np.arange(len(bars))
    # From chance, which is 50 and not 0.
    axes.barh(places, values - 50, left=50, height=0.7, color=_COLOURS[0])
    for place, mean in enumerate(bars):
        if mean.auroc_interval is not None:
            axes.plot([100 * end for end in mean.auroc_interval], [place, place], color="black", linewidth=0.9)
    axes.set_yticks(places, [_plain(mean.model, 32) for mean in bars])
    axes.axvline(50, color="#999999", linewidth=0.6)
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.set_xlabel("AUROC (%)" + (", 95 % interval" if any(mean.auroc_interval for mean in bars) else ""))
    axes.set_title(_title(f"{dataset_label(bars[0].ood)}\n{bars[0].label}", 36))


def _files(draw: _Drawing, height: float, title: str) -> Iterator[tuple[str, bytes]]:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(_WIDTH, height))
    draw(figure.subplots())
    # Once is enough. An engine that the figure has would run, and all be drawn, once more for each of the files.
    ConstrainedLayoutEngine().execute(figure)
    for suffix, metadata in _ABOUT.items():
        file = io.BytesIO()
        figure.savefig(file, format=suffix, metadata={"Title": title, **metadata})
        yield suffix, file.getvalue()


def _title(text: str, width: int = 52) -> str:
    lines = (textwrap.fill(_plain(line, 100), width) for line in text.split("\n"))
    return "\n".join(lines)


def _plain(text: str, longest: int = 60) -> str:
    """A name on one line, without what a font or an XML file cannot hold."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+@=-]", "_", name)[:80]


def _unused(stem: str, found: Iterable[str]) -> str:
    taken = {name.lower() for name in found}
    stems = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1 << 20))
    return next(one for one in stems if f"{FOLDER}/{one}.svg".lower() not in taken)
