"""tables.tex: the study as papers print it, one booktabs table per ID set, to be read in with \\input.

Rows are models and methods, columns OOD sets. What would not fit on a page is cut: after 48 lines, after four OOD sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from embedstore.report.attacked import in_main_table
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.means import Mean, over_seeds
from embedstore.report.names import DEFAULT_METRICS
from embedstore.report.summary import DASH, percent

MOST_LINES, MOST_SETS = 48, 4
_WIDEST_LABEL = 36  # letters; a longer one is broken, so that the numbers stay on the page

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\char36{}",  # \$ may need a font that a small TeX lacks
    "[": "{[}",  # after \\ this would be the height of the row
    "*": "{*}",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_\allowbreak{}",  # where a long name may be broken
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    # Pairs of these would become dashes and quotation marks.
    "-": "-{}",
    "`": r"\char96{}",
    "'": "'{}",
    "/": r"/\allowbreak{}",
    "·": r"$\cdot$",
    DASH: "--",
}
# Model, method, score and templates; OOD set and metric: what a number is of.
_Row = tuple[str, str, str, str, str]
_Numbers = Mapping[tuple[_Row, str, str], tuple[str, bool]]


def to_latex(content: Content) -> str:
    """The tables; AUROC and FPR95 in percent, means over the seeds, the best of each column of an ID set in bold.

    They need ``\\usepackage{booktabs}``. Every name is escaped; a letter beyond ASCII becomes its code, for pdfLaTeX
    knows few of them.
    """
    head = (
        f"% Written by embedstore {escape(content.version)}. Needs \\usepackage{{booktabs}}; then \\input{{tables}}.\n"
    )
    averaged, _ = in_main_table(content.means)
    sets = sorted({mean.id_dataset for mean in averaged})
    tables = [text for name in sets for text in _tables(name, [m for m in averaged if m.id_dataset == name], content)]
    return "\n".join([head, *tables] if tables else [head, "% There are no figures to print.\n"])


def escape(text: str) -> str:
    """Any text as what TeX prints as that text, on one line."""
    return "".join(_SPECIAL.get(letter) or _letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter.isspace() or (letter.isascii() and not letter.isprintable()):
        return " "
    return letter if letter.isascii() else rf"\texttt{{U+{ord(letter):04X}}}"


def _tables(id_dataset: str, table: Sequence[Mean], content: Content) -> Iterator[str]:
    oods = _ordered({mean.ood for mean in table}, content.groups)
    numbers = _numbers(table)
    rows: dict[_Row, Mean] = {}
    for mean in table:
        rows.setdefault(_row(mean), mean)
    ordered = sorted(rows.values(), key=lambda mean: (mean.model, mean.order))
    pages = _pages(ordered)
    parts = [(page, oods[first : first + MOST_SETS]) for first in range(0, len(oods), MOST_SETS) for page in pages]
    for number, (some, columns) in enumerate(parts, 1):
        caption = f"In-distribution data: {escape(id_dataset)}. AUROC and FPR95 in percent"
        caption += f", means {over_seeds(table)}" if over_seeds(table) else ""
        caption += "; the best of each column is bold"
        caption += ", of all parts of this table" if len(pages) > 1 else ""
        caption += f" (part {number} of {len(parts)})." if len(parts) > 1 else "."
        yield _table(caption, some, columns, numbers)


def _pages(rows: Sequence[Mean]) -> list[list[Mean]]:
    """As many rows a page as it has lines for; a long label takes several, and so does a new model."""
    pages: list[list[Mean]] = []
    lines = MOST_LINES
    for before, row in zip([None, *rows], rows, strict=False):
        taken = -(-len(row.label) // _WIDEST_LABEL) + (before is None or before.model != row.model)
        if lines + taken > MOST_LINES:
            pages.append([])
            lines = 1  # its model's name
        pages[-1].append(row)
        lines += taken
    return pages


def _ordered(oods: Iterable[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """As the benchmark has them, where there is one."""
    order = [ood for members in groups.values() for ood in members]
    return sorted(oods, key=lambda ood: (order.index(ood) if ood in order else len(order), ood))


def _row(mean: Mean) -> _Row:
    return (mean.model, mean.method, mean.variant, mean.score, mean.templates or "")


def _numbers(table: Iterable[Mean]) -> _Numbers:
    """Each number as printed, and whether it is the best of its column as stored: rounding would make ties."""
    columns: dict[tuple[str, str, str], list[tuple[_Row, float]]] = {}
    for mean in table:
        values = [
            (("accuracy", "", ""), mean.id_accuracy),
            (("auroc", mean.ood, ""), mean.auroc),
            # Another program's FPR95 is another quantity, and the smaller of two quantities is not the better one.
            (("fpr95", mean.ood, mean.metrics), mean.fpr95),
        ]
        for place, value in values:
            if value is not None:
                columns.setdefault(place, []).append((_row(mean), value))
    found = {}
    for (metric, ood, _), column in columns.items():
        best = (min if metric == "fpr95" else max)(value for _, value in column)
        found.update({(row, metric, ood): (percent(value), value == best) for row, value in column})
    return found


def _table(caption: str, rows: Sequence[Mean], oods: Sequence[str], numbers: _Numbers) -> str:
    wide = max(len(row.label) for row in rows) > _WIDEST_LABEL
    name = r"p{0.3\textwidth}" if wide else "l"
    rules = " ".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(len(oods)))
    heads = "".join(rf" & \multicolumn{{2}}{{c}}{{{escape(dataset_label(ood))}}}" for ood in oods)
    lines = [
        r"\begin{table*}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{@{{}}{name}{'r' * (1 + 2 * len(oods))}@{{}}}}",
        r"\toprule",
        rf" & ID{heads} \\",
        rules,
        "Method & acc." + " & AUROC & FPR95" * len(oods) + r" \\",
    ]
    model = None
    for row in rows:
        if row.model != model:
            model = row.model
            lines += [r"\midrule", rf"\multicolumn{{{2 + 2 * len(oods)}}}{{@{{}}l}}{{{escape(model)}}} \\"]
        cells = [("accuracy", ""), *((metric, ood) for ood in oods for metric in ("auroc", "fpr95"))]
        printed = [_number(numbers.get((_row(row), metric, ood))) for metric, ood in cells]
        label = (r"\raggedright " if wide else "") + escape(row.label)
        lines.append(f"{label} & {' & '.join(printed)} \\\\")
    other = sorted({row.metrics for row in rows} - {DEFAULT_METRICS})
    lines += [r"\bottomrule", r"\end{tabular}"]
    if other:
        names = " or ".join(f"metrics={escape(name)}" for name in other)
        lines.append(rf"\par Rows with {names} measure FPR95 as those programs do; it is compared among them only.")
    return "\n".join([*lines, r"\end{table*}", ""])


def _number(found: tuple[str, bool] | None) -> str:
    text, best = found or (DASH, False)
    text = escape(text)
    return rf"\textbf{{{text}}}" if best else text
