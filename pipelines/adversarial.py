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

Cost: two attacks, and PGD once for each ``--budget``: by default six times ``--num`` images with 250 forward and
backward passes each. That is a GPU's work for a large model, and minutes an attack on a CPU for a small one with
``--num 64``. A ``--snapshot`` costs room for its features, and no pass. What follows is cheap. Features on the way and
before rounding exist of the attacked model alone; the other models judge the images of PGD's largest budget only.

What is known: the notebook released with the paper attacks 1,000 images of ViT-bigG-14 and evaluates 1-NN, before and
after the targets are deleted. Its values are not at hand, so none is claimed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import click
from embedstore.pipelines import correlation

from embedstore import Attacked, Result, Store, attack_success, read_attack
from embedstore.cli import attacked, run_typed

BEGIN, END = "<!-- adversarial -->", "<!-- /adversarial -->"
KINDS = ("clean", "adversarial", "float")
ID = "cifar100"
METHODS = ("knn", "mcm", "plp", "linear", "mahalanobis", "prototypes")
FOLLOWED = ("knn", "mcm", "linear")  # over steps and budgets
STEPS, BUDGETS = (0, 10, 50, 100, 150, 200, 250), (1, 2, 4, 8)
_several = partial(click.option, multiple=True, show_default=True)


@click.command()
@click.option("--data", metavar="DIR", help="Folder of local data sets. torchvision's downloads if not given.")
@click.option("--model", required=True, metavar="MODEL", help="The model to fool.")
@_several("--other", "others", metavar="MODEL", help="Judges the same images. Repeatable.")
@click.option("--defence", default="jpeg:75", show_default=True, help="The attacked model behind it judges them, too.")
@click.option("--num", default=1000, show_default=True, type=int, help="How many images to perturb.")
@click.option("--steps", default=250, show_default=True, type=int)
@_several(
    "--snapshot", "snapshots", default=STEPS, type=int, help="Judge smooth after so many steps, too, if it has them."
)
@_several("--budget", "budgets", default=BUDGETS, type=int, help="Attack by PGD within linf=BUDGET/255. Repeatable.")
@click.option("--limit", metavar="N", help="Take only the first N train images.")
@click.option("--test-limit", metavar="N", help="Take only the first N test images of each set; at least --num.")
@_several("--method", "methods", default=METHODS)
@click.option("--out", default="adversarial", show_default=True, metavar="DIR", help="Where everything goes.")
@click.option("--into", metavar="FILE", help="Also put the tables into this file, between two marked lines.")
def main(
    data: str | None,
    model: str,
    others: tuple[str, ...],
    defence: str,
    num: int,
    steps: int,
    snapshots: tuple[int, ...],
    budgets: tuple[int, ...],
    limit: str | None,
    test_limit: str | None,
    methods: tuple[str, ...],
    out: str,
    into: str | None,
) -> None:
    """Embed, attack in several ways, let other models look, detect, and write the tables."""
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

    kept = [step for step in sorted(set(snapshots)) if step <= steps]
    attacks = {
        "smooth": ["--preset", "smooth", *(word for step in kept for word in ("--snapshot", str(step)))],
        "patchy": ["--preset", "patchy"],
        **{f"pgd-{size}": ["--optimizer", "pgd", "--budget", f"linf={size}/255"] for size in sorted(set(budgets))},
    }
    sides = ("--ood", "cifar10:test", "--target", f"{ID}:train", "--num", str(num), "--steps", str(steps))
    for name, how in attacks.items():
        names = ("--out", f"{out}/{name}", "--dataset", f"cifar10-{name}")
        run_typed("attack", *store, "--model", model, *sides, *how, *names)
    made = {name: read_attack(Path(out, name)) for name in attacks}
    judged_by_all = ["smooth", "patchy", f"pgd-{max(budgets)}"]
    for name in judged_by_all:
        for split in ("clean", "adversarial"):
            for judges in (plain, behind):
                extract(f"{out}/{name}/{split}", f"cifar10-{name}", split, judges)

    own = [*(f"{name}:{split}" for name in attacks for split in KINDS), *(f"smooth:step-{step}" for step in kept)]
    embedded = [f"{name}:{split}" for name in judged_by_all for split in ("clean", "adversarial")]
    chosen = [word for method in methods for word in ("--method", method)]
    for judge in Store.open(f"{out}/store.zarr").models():
        sets = [word for each in (own if judge == fooled(made) else embedded) for word in ("--ood", f"cifar10-{each}")]
        # Once with the train images that were aimed at among those that images are compared with, and once without.
        for bank in ((), ("--without", f"{out}/smooth/targets.txt")):  # the same seed, so the same targets in all
            run_typed("probe", *store, "--model", judge, "--id", ID, *sets, *chosen, *bank, "--quiet")

    text = tables(list(Store.open(f"{out}/store.zarr").results()), made, judged_by_all)
    click.echo(f"\n{text}")
    Path(out, "tables.md").write_text(text)
    if into is not None:
        correlation.put(text, into, BEGIN, END)


def fooled(made: Mapping[str, Attacked]) -> str:
    """The name of the attacked model."""
    return str(made["smooth"].declaration["model"]["name"])


def tables(results: Sequence[Result], made: Mapping[str, Attacked], judged_by_all: Sequence[str]) -> str:
    """The images, curves of the attacked model, and what detectors made of some attacks, as Markdown; percent."""
    target, found = fooled(made), newest(results)
    parts = [f"### The images: means of each attack on {target}\n\n{images(made)}"]
    followed = [found[target, method, "all"] for method in FOLLOWED if (target, method, "all") in found]
    if followed:
        parts.append(f"### smooth over its steps, judged by {target}\n\n{by_steps(followed, made['smooth'])}")
        sizes = [name for name in made if name.startswith("pgd-")]
        parts.append(f"### PGD over its L∞ budgets, judged by {target}\n\n{by_budget(followed, sizes)}")
    parts.append(
        f"In the tables below: AUROC of {ID} test images against the clean and the perturbed images, with all {ID} "
        f"train images / without those that were aimed at. Above, with all of them."
    )
    models = sorted({model for model, _, _ in found}, key=lambda name: (name != target, name))
    for kind in judged_by_all:
        for model in models:
            mine = {(method, bank): each for (of, method, bank), each in found.items() if of == model}
            judge = f"{model}, the attacked model" if model == target else model
            parts.append(f"### {kind}, judged by {judge}\n\n{judged(mine, kind)}")
    widest = max((width for each in found.values() for width in _widths(each)), default=0.0)
    parts.append(
        f"Of the images that a detector rejects when they are clean (their number in brackets), at the threshold that "
        f"accepts 95 % of the {ID} test images, *success* is the share that it accepts when perturbed. No AUROC's 95 % "
        f"interval (DeLong) is wider than ± {100 * widest:.1f}."
    )
    return "\n\n".join(parts) + "\n"


def images(made: Mapping[str, Attacked]) -> str:
    """What each attack did to its images, from the arrays beside them (docs/adversarial.md)."""
    rows = []
    for kind, attack in made.items():
        mean = attacked.means(attack)
        similarity = " → ".join(_number(mean["similarity"][when], 3) for when in ("before", "after", "rounded"))
        largest = None if mean["linf"] is None else 255 * mean["linf"]
        norms = [_number(mean["l2"], 2), _number(largest, 1), _number(mean["psnr"], 1)]
        rows.append([kind, f"{mean['images']:,}", f"{mean['failed']:,}", similarity, *norms])
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


def by_steps(results: Sequence[Result], attack: Attacked) -> str:
    """A table of the features on the way; the last ones are those before rounding."""
    how = attack.declaration["options"]
    splits = {str(step): f"step-{step}" for step in how["snapshots"]} | {str(how["steps"]): "float"}
    rows = {"clean": "clean", **splits, "rounded": "adversarial"}
    return curve("steps", results, {label: f"cifar10-smooth/{split}" for label, split in rows.items()})


def by_budget(results: Sequence[Result], kinds: Sequence[str]) -> str:
    """A table of the images as files have them."""
    rows = {f"{kind.removeprefix('pgd-')}/255": f"cifar10-{kind}/adversarial" for kind in kinds}
    return curve("budget", results, {"clean": f"cifar10-{kinds[-1]}/clean", **rows})


def curve(of: str, results: Sequence[Result], rows: Mapping[str, str]) -> str:
    """OOD sets down; AUROC and success of the score that is best when clean, of each result, across."""
    best = [(each, max(each.metrics, key=lambda s: each.metrics[s][rows["clean"]]["auroc"])) for each in results]
    cells = {label: [cell(*each, name) for each in best for cell in (_auroc, _success)] for label, name in rows.items()}
    header = [title for each, score in best for title in (f"{each.method} · {score}", "success")]
    return correlation.markdown([of, *header], [[label, *values] for label, values in cells.items()])


def judged(by_bank: Mapping[tuple[str, str], Result], kind: str) -> str:
    """Methods and scores down; AUROC on clean and on perturbed images, and success, across."""
    rows = []
    # A method that reads no train image has the same result with and without the targets, and is stored once.
    scores = dict.fromkeys((method, score) for (method, _), each in by_bank.items() for score in each.metrics)
    for method, score in scores:
        banks = [by_bank[method, bank] for bank in ("all", "rest") if (method, bank) in by_bank]
        cells = [_both([_auroc(each, score, f"cifar10-{kind}/{split}") for each in banks]) for split in KINDS]
        won = _both([_success(each, score, f"cifar10-{kind}/adversarial") for each in banks])
        rows.append([f"{method} · {score}", *cells, won])
    return correlation.markdown(["method · score", "clean", "adversarial", "before rounding", "success"], rows)


def _auroc(result: Result, score: str, name: str) -> str:
    return correlation.percent(result.metrics[score].get(name, {}).get("auroc"))


def _success(result: Result, score: str, name: str) -> str:
    clean = f"{name.partition('/')[0]}/clean"
    paths = [f"{score}/{each}" for each in (f"{ID}/test", clean, name)]
    if name == clean or not all(path in result.scores for path in paths):
        return "–"
    won = attack_success(*(result.scores[path] for path in paths))
    return f"{correlation.percent(won.share)} ({won.rejected:,})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _both(cells: Sequence[str]) -> str:
    return cells[0] if len(set(cells)) == 1 else " / ".join(cells)


def _widths(result: Result) -> Iterator[float]:
    for by_set in result.metrics.values():
        yield from ((each["auroc_high"] - each["auroc_low"]) / 2 for each in by_set.values() if "auroc_low" in each)


if __name__ == "__main__":
    main()
