"""The whole grid: many models, CIFAR-10 and CIFAR-100 both ways, far-OOD sets, every method; and R² over the models.

Paper: Adaloglou, Michels, Kaiser, Kollmann, "Adapting Contrastive Language-Image Pretrained (CLIP) Models for
Out-of-Distribution Detection" (arXiv 2303.05828), its correlation study: x is the ID accuracy of a 20-NN classifier, y
the AUROC of a score, each model a point.

Command, on local data and models (see ``cifar.py``, which does the first half, for what ``--data`` holds)::

    python pipelines/correlation.py --data path/to/data --far textures --far mnist --model local-dir:path/to/model …

writes the store, the report and ``tables.md`` into ``--out``; with ``--into docs/results.md`` the tables also go there,
between the lines ``<!-- grid -->`` and ``<!-- end of grid -->``.

Cost: every image goes through every model once; what follows takes minutes on two CPU cores, and each method's seconds
are in the tables.

What is known: R² of at least 0.92 over ten CLIP models on four benchmarks (abstract). Which models and benchmarks, and
the single values, were not at hand.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from embedstore.pipelines import cifar

from embedstore import Result, Store, correlate, result_points
from embedstore.cli import run_typed
from embedstore.errors import NotAvailable

BEGIN, END = "<!-- grid -->", "<!-- end of grid -->"
NEAR = {"cifar10": "cifar100/test", "cifar100": "cifar10/test"}


@click.command()
@click.option("--data", required=True, metavar="DIR", help="Folder of local data sets.")
@click.option("--model", "models", multiple=True, required=True, metavar="MODEL", help="Repeatable; three at least.")
@click.option("--far", multiple=True, metavar="NAME", help="Far-OOD set: a folder in --data. Repeatable.")
@click.option("--limit", metavar="N", help="Take only the first N images of every split.")
@click.option("--test-limit", metavar="N", help="The same for the splits that are tested.")
@click.option("--out", default="grid", show_default=True, metavar="DIR", help="Where the store and the tables go.")
@click.option("--into", metavar="FILE", help="Also put the tables into this file, between two marked lines.")
def main(
    data: str,
    models: tuple[str, ...],
    far: tuple[str, ...],
    limit: str | None,
    test_limit: str | None,
    out: str,
    into: str | None,
) -> None:
    """Extract, probe with every method, correlate, and write the tables."""
    if len(set(models)) < 3:
        raise click.UsageError("R² over the models needs three of them at least; repeat --model")
    if into is not None:
        put("", into, BEGIN, END, dry_run=True)  # before hours of work, not after
    arguments = ["--data", data, "--out", out, *(["--limit", limit] if limit else [])]
    arguments += ["--test-limit", test_limit] if test_limit else []
    arguments += [word for model in models for word in ("--model", model)]
    arguments += [word for name in far for word in ("--far", name)]
    cifar.main(args=arguments, standalone_mode=False)
    run_typed("correlation", "--store", f"{out}/store.zarr", "--method", "knn")
    text = tables(list(Store.open(f"{out}/store.zarr").results()))
    Path(out, "tables.md").write_text(text)
    if into is not None:
        put(text, into, BEGIN, END)


def put(text: str, into: str, begin: str, end: str, *, dry_run: bool = False) -> None:
    """Replace what stands between two marks in a file; with `dry_run` only see whether they are there."""
    place = Path(into)
    whole = place.read_text()
    if begin not in whole or end not in whole:
        raise click.UsageError(f"{into} has no lines {begin} and {end} to put the tables between")
    if not dry_run:
        marked = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
        place.write_text(marked.sub(lambda _: f"{begin}\n\n{text}\n{end}", whole))


def tables(results: Sequence[Result]) -> str:
    """The newest results as Markdown: a chapter per ID set, percent."""
    newest = {(r.id_dataset, _label(r), r.model, r.params.get("seed")): r for r in results if r.absent is None}
    parts = []
    for id_name, near in NEAR.items():
        mine = [result for result in newest.values() if result.id_dataset == id_name]
        far = sorted({ood for result in mine for by in result.metrics.values() for ood in by} - {near})
        named = ", ".join(name.split("/")[0] for name in far)
        against = f"### {id_name} against {near.split('/')[0]}: AUROC ± half of its 95 % interval / FPR95"
        parts += [f"### {id_name}: ID accuracy\n\n{accuracies(mine)}", f"{against}\n\n{grid(mine, [near])}"]
        if far:
            parts.append(f"### {id_name} against far sets ({named}): mean AUROC / mean FPR95\n\n{grid(mine, far)}")
        title = f"### {id_name}: 20-NN accuracy against the AUROC of 1-NN, over the models"
        parts.append(f"{title}\n\n{correlations(mine)}")
    title = "### Cost of each method, seconds for all models and both ID sets"
    parts.append(f"{title}\n\n{costs(newest.values())}")
    return "\n\n".join(parts) + "\n"


def accuracies(results: Sequence[Result]) -> str:
    """Methods down, models across."""
    models = sorted({result.model for result in results})
    rows = []
    for label in dict.fromkeys(_label(result) for result in results):
        by_model = {result.model: result.id_accuracy for result in results if _label(result) == label}
        if any(value is not None for value in by_model.values()):
            rows.append([label, *(percent(by_model.get(model)) for model in models)])
    return markdown(["classifier", *models], rows)


def grid(results: Sequence[Result], sets: Sequence[str]) -> str:
    """Methods and scores down; models, and for a single set R² over them, across."""
    models = sorted({result.model for result in results})
    x = _knn_accuracy(results)
    rows = []
    for label, score in dict.fromkeys((_label(result), score) for result in results for score in result.metrics):
        found = {r.model: r.metrics[score] for r in results if _label(r) == label and score in r.metrics}
        whole = {model: by for model, by in found.items() if all(name in by for name in sets)}
        row = [f"{label} · {score}", *(_cell([whole[m][n] for n in sets]) if m in whole else "–" for m in models)]
        if len(sets) == 1:
            y = {model: by[sets[0]]["auroc"] for model, by in whole.items()}
            row.append(_r_squared(x, y))
        rows.append(row)
    return markdown(["method · score", *models, *(["R² [95 %]"] if len(sets) == 1 else [])], rows)


def correlations(results: Sequence[Result]) -> str:
    """R² of every OOD set with interval, rank correlations, and the model it rests on most."""
    rows = []
    for name, points in result_points(results, methods=["knn"]).items():
        try:
            found = correlate(points.x, points.y)
        except NotAvailable as error:
            rows.append([name, str(len(points.models)), str(error), *["–"] * 4])
            continue
        pairs = zip(found.without, points.models, strict=True)
        without = [(abs(value - found.r_squared), value, model) for value, model in pairs if value is not None]
        influence = f"{max(without)[1]:.2f} without {max(without)[2]}" if without else "–"
        ranks = [f"{found.pearson:.2f}", f"{found.spearman:.2f}", f"{found.kendall:.2f}"]
        low, high = found.interval
        rows.append([name, str(found.n), f"{found.r_squared:.2f} [{low:.2f}, {high:.2f}]", *ranks, influence])
    return markdown(["against", "models", "R² [95 %]", "Pearson", "Spearman", "Kendall", "most influential"], rows)


def costs(results: Iterable[Result]) -> str:
    """Seconds of each method; what several methods share (features read, layers trained) is paid by the first."""
    seconds: dict[str, float] = {}
    for result in results:
        seconds[_label(result)] = seconds.get(_label(result), 0) + result.seconds
    rows = [[label, f"{value:.1f}"] for label, value in seconds.items()]
    return markdown(["method", "seconds"], [*rows, ["all", f"{sum(seconds.values()):.0f}"]])


def _label(result: Result) -> str:
    prompts = result.params.get("templates", "plp")
    marks = ", ".join(filter(None, [result.variant, "" if prompts == "plp" else prompts]))
    return f"{result.method} ({marks})" if marks else result.method


def _knn_accuracy(results: Iterable[Result]) -> dict[str, float]:
    return {r.model: r.id_accuracy for r in results if _label(r) == "knn" and r.id_accuracy is not None}


def _cell(values: Sequence[Mapping[str, float]]) -> str:
    auroc, fpr95 = (statistics.fmean(value[name] for value in values) for name in ("auroc", "fpr95"))
    around = f" ± {50 * (values[0]['auroc_high'] - values[0]['auroc_low']):.1f}" if len(values) == 1 else ""
    return f"{100 * auroc:.1f}{around} / {100 * fpr95:.1f}"


def _r_squared(x: Mapping[str, float], y: Mapping[str, float]) -> str:
    both = sorted(set(x) & set(y))
    try:
        found = correlate([x[model] for model in both], [y[model] for model in both])
    except NotAvailable:
        return "–"
    low, high = found.interval
    return f"{found.r_squared:.2f} [{low:.2f}, {high:.2f}]{' falling' if found.slope < 0 else ''}"


def percent(value: float | None) -> str:
    """Of a fraction, one digit."""
    return "–" if value is None else f"{100 * value:.1f}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
