"""CIFAR-10 images that are made to look like CIFAR-100 ones to a model: what becomes of detection.

Paper: Adaloglou, Michels, Kaiser, Kollmann, "Adapting Contrastive Language-Image Pretrained (CLIP) Models for
Out-of-Distribution Detection" (arXiv 2303.05828), its third finding: a small, smooth perturbation made in feature space
fools even billion-parameter models. CIFAR-10 test images are perturbed towards CIFAR-100 train images and judged by
detectors of CIFAR-100; docs/adversarial.md explains the method.

Command, on local data and models (see ``cifar.py`` for what ``--data`` holds)::

    python pipelines/adversarial.py --data path/to/data --model local-dir:path/to/lite0-112 \
        --other local-dir:path/to/lite0-160

writes store, images and ``tables.md`` into ``--out``; with ``--into docs/results.md`` the tables also go there, between
the lines ``<!-- adversarial -->`` and ``<!-- /adversarial -->``.

Cost: three attacks of ``--num`` images, each 250 forward and backward passes an image: a GPU's work for a large model,
minutes on a CPU for a small one with ``--num 64``. What follows is cheap.

What is known: the notebook released with the paper attacks 1,000 images of ViT-bigG-14 and evaluates 1-NN, before and
after the targets are deleted. Its values are not at hand, so none is claimed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from embedstore.pipelines import correlation

from embedstore import Result, Store
from embedstore.cli import run_typed

BEGIN, END = "<!-- adversarial -->", "<!-- /adversarial -->"
ATTACKS = {
    "smooth": ("--preset", "smooth"),
    "patchy": ("--preset", "patchy"),
    "pgd": ("--optimizer", "pgd", "--budget", "linf=8/255"),
}
KINDS = ("clean", "adversarial", "float")
ID = "cifar100"


@click.command()
@click.option("--data", metavar="DIR", help="Folder of local data sets. torchvision's downloads if not given.")
@click.option("--model", required=True, metavar="MODEL", help="The model to fool.")
@click.option("--other", "others", multiple=True, metavar="MODEL", help="Judges the same images. Repeatable.")
@click.option("--defence", default="jpeg:75", show_default=True, help="The attacked model behind it judges them, too.")
@click.option("--num", default=1000, show_default=True, type=int, help="How many images to perturb.")
@click.option("--steps", default=250, show_default=True, type=int)
@click.option("--limit", metavar="N", help="Take only the first N train images.")
@click.option("--test-limit", metavar="N", help="Take only the first N test images of each set; at least --num.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=("knn", "mcm", "plp", "linear", "mahalanobis", "prototypes"),
    show_default=True,
)
@click.option("--out", default="adversarial", show_default=True, metavar="DIR", help="Where everything goes.")
@click.option("--into", metavar="FILE", help="Also put the tables into this file, between two marked lines.")
def main(
    data: str | None,
    model: str,
    others: tuple[str, ...],
    defence: str,
    num: int,
    steps: int,
    limit: str | None,
    test_limit: str | None,
    methods: tuple[str, ...],
    out: str,
    into: str | None,
) -> None:
    """Embed, attack in three ways, let other models look, detect, and write the tables."""
    if into is not None:
        correlation.put("", into, BEGIN, END, dry_run=True)  # before hours of work, not after
    store = ("--store", f"{out}/store.zarr")
    plain = [word for each in (model, *others) for word in ("--model", each)]
    behind = ["--model", model, "--defence", defence]
    limits = {"train": limit, "test": test_limit}

    def extract(source: str, dataset: str, split: str, judges: Sequence[str]) -> None:
        first = ("--limit", str(limits[split])) if limits.get(split) else ()
        run_typed("extract", source, "--dataset", dataset, "--split", split, *store, *judges, *first)

    places = {name: f"{data}/{name}" if data else f"torchvision:{name.upper()}" for name in (ID, "cifar10")}
    for judges in (plain, behind):
        extract(places[ID], ID, "train", judges)
        extract(places[ID], ID, "test", judges)
    extract(places["cifar10"], "cifar10", "test", plain)

    sides = ("--ood", "cifar10:test", "--target", f"{ID}:train")
    for kind, how in ATTACKS.items():
        size = ("--num", str(num), "--steps", str(steps))
        run_typed("attack", *store, "--model", model, *sides, *size, *how, "--out", f"{out}/{kind}")
        for split in ("clean", "adversarial"):
            for judges in (plain, behind):
                extract(f"{out}/{kind}/{split}", f"cifar10-{kind}", split, judges)

    # Once with the train images that were aimed at among those that images are compared with, and once without.
    sets = [word for kind in ATTACKS for split in KINDS for word in ("--ood", f"cifar10-{kind}:{split}")]
    chosen = [word for method in methods for word in ("--method", method)]
    for bank in ((), ("--without", f"{out}/smooth/targets.txt")):  # the same seed, so the same targets in all three
        run_typed("probe", *store, "--id", ID, *sets, *chosen, *bank, "--quiet")

    text = tables(list(Store.open(f"{out}/store.zarr").results()), Path(out))
    click.echo(f"\n{text}")
    Path(out, "tables.md").write_text(text)
    if into is not None:
        correlation.put(text, into, BEGIN, END)


def tables(results: Sequence[Result], out: Path) -> str:
    """The images, and for each attack what detectors made of them, as Markdown; percent."""
    attacked = json.loads((out / "smooth" / "attack.json").read_text())["model"]["name"]
    parts = [f"### The images: means of each attack on {attacked}\n\n{images(out)}"]
    found = newest(results)
    models = sorted({model for model, _, _ in found}, key=lambda name: (name != attacked, name))
    parts.append(
        f"In the tables below: AUROC of {ID} test images against the clean and the perturbed images, with all {ID} "
        f"train images / without those that were aimed at."
    )
    for kind in ATTACKS:
        for model in models:
            mine = {(method, bank): each for (of, method, bank), each in found.items() if of == model}
            judge = f"{model}, the attacked model" if model == attacked else model
            parts.append(f"### {kind}, judged by {judge}\n\n{judged(mine, kind)}")
    widest = max((width for each in found.values() for width in _widths(each)), default=0.0)
    parts.append(
        f"Of the images that a detector rejects when they are clean (their number in brackets), at the threshold that "
        f"accepts 95 % of the {ID} test images, *success* is the share that it accepts when perturbed. No AUROC's 95 % "
        f"interval (DeLong) is wider than ± {100 * widest:.1f}."
    )
    return "\n\n".join(parts) + "\n"


def images(out: Path) -> str:
    """What each attack did to its images, from the arrays beside them (docs/adversarial.md)."""
    rows = []
    for kind in ATTACKS:
        blocks = []
        for path in sorted((out / kind / "float").glob("*.npz")):
            with np.load(path) as arrays:
                blocks.append(dict(arrays))
        all_of = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        good = all_of["reasons"] == ""
        mean = {name: all_of[name][good].mean() for name in ("l2", "linf", "psnr")}
        path_of = [all_of[name][good].mean() for name in ("similarity_before", "similarity", "similarity_rounded")]
        similarity = " → ".join(f"{value:.3f}" for value in path_of)
        norms = [f"{mean['l2']:.2f}", f"{255 * mean['linf']:.1f}", f"{mean['psnr']:.1f}"]
        rows.append([kind, f"{len(good):,}", f"{int((~good).sum()):,}", similarity, *norms])
    header = ["attack", "images", "failed", "similarity clean → perturbed → rounded", "L2", "L∞ · 255", "PSNR, dB"]
    return correlation.markdown(header, rows)


def newest(results: Sequence[Result]) -> dict[tuple[str, str, str], Result]:
    """By model, method and bank, ``"all"`` or ``"rest"``, the last results of the methods' defaults on CIFAR-100."""
    found = {}
    for result in results:  # oldest first
        bank = "rest" if any(name.startswith("without/") for name in result.inputs) else "all"
        defaults = not result.variant or result.variant.startswith("train_left_out=")
        if result.absent is None and result.id_dataset == ID and defaults:
            found[result.model, result.method, bank] = result
    return found


def judged(by_bank: Mapping[tuple[str, str], Result], kind: str) -> str:
    """Methods and scores down; AUROC on clean and on perturbed images, and success, across."""
    rows = []
    # A method that reads no train image has the same result with and without the targets, and is stored once.
    scores = dict.fromkeys((method, score) for (method, _), each in by_bank.items() for score in each.metrics)
    for method, score in scores:
        banks = [by_bank[method, bank] for bank in ("all", "rest") if (method, bank) in by_bank]
        cells = [_both([_auroc(each, score, f"cifar10-{kind}/{split}") for each in banks]) for split in KINDS]
        success = _both([_success(each, score, f"cifar10-{kind}") for each in banks])
        rows.append([f"{method} · {score}", *cells, success])
    return correlation.markdown(["method · score", "clean", "adversarial", "before rounding", "success"], rows)


def fooled(s_id: Any, s_clean: Any, s_perturbed: Any) -> tuple[int, int]:
    """How many images are rejected when clean and accepted when perturbed, and how many are rejected when clean.

    An image is accepted at a score of at least t, the largest threshold that accepts 95 % of the ID images. (N,) scores
    of ID images, and (M,) of the others; images without a score, NaN, do not count.
    """
    s_id, s_clean, s_perturbed = (np.asarray(each, dtype=np.float64) for each in (s_id, s_clean, s_perturbed))
    s_id = np.sort(s_id[~np.isnan(s_id)])
    threshold = s_id[len(s_id) // 20]
    rejected = (s_clean < threshold) & ~np.isnan(s_perturbed)
    return int((rejected & (s_perturbed >= threshold)).sum()), int(rejected.sum())


def _auroc(result: Result, score: str, name: str) -> str:
    return correlation.percent(result.metrics[score].get(name, {}).get("auroc"))


def _success(result: Result, score: str, dataset: str) -> str:
    paths = [f"{score}/{name}" for name in (f"{ID}/test", f"{dataset}/clean", f"{dataset}/adversarial")]
    if not all(path in result.scores for path in paths):
        return "–"
    won, rejected = fooled(*(result.scores[path] for path in paths))
    return f"{correlation.percent(won / rejected if rejected else None)} ({rejected:,})"


def _both(cells: Sequence[str]) -> str:
    return cells[0] if len(set(cells)) == 1 else " / ".join(cells)


def _widths(result: Result) -> Iterator[float]:
    for by_set in result.metrics.values():
        yield from ((each["auroc_high"] - each["auroc_low"]) / 2 for each in by_set.values() if "auroc_low" in each)


if __name__ == "__main__":
    main()
