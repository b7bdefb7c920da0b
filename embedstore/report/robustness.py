"""The section on attacks: AUROC on clean and on adversarial images, how many pass that did not before, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from embedstore.errors import NotAvailable
from embedstore.metrics import Success, attack_success
from embedstore.report.attack_files import Crafted
from embedstore.report.attack_gallery import AttackGallery
from embedstore.report.attack_plots import Stages, curves, explained, series
from embedstore.report.attack_words import lead, role, signed
from embedstore.report.attacked import ADVERSARIAL, CLEAN, FLOAT, steps_of
from embedstore.report.commands import dataset_label
from embedstore.report.content import Content
from embedstore.report.judged import Judged, aimed_at, judged
from embedstore.report.lacks import Lack, some
from embedstore.report.names import label
from embedstore.report.plots import Drawing, drawing
from embedstore.report.summary import DASH, percent


@dataclass(frozen=True)
class Line:
    """A row of a table: ``series`` is the number of its line in the plots, None where it has none."""

    label: str
    series: int | None
    values: tuple[str, ...]


@dataclass(frozen=True)
class Against:
    """One ID set and one attack.

    ``said`` is what was done to the images, empty where nobody knows; ``models`` has of every model its role
    (``"attacked"``, ``"transfer"``, ``"defence: …"``, empty where that is not known) and its lines under ``columns``.
    """

    attack: str
    said: str
    lead: tuple[str, ...]
    columns: tuple[str, ...]
    models: tuple[tuple[str, str, tuple[Line, ...]], ...]
    fine: tuple[str, ...]
    gallery: AttackGallery | None


@dataclass(frozen=True)
class Robustness:
    """One ID set; ``drawing`` is None without curves, ``stages`` holds the numbers of those over steps.

    ``explained`` says what the curves are; ``some_methods`` is true where there are more methods than lines can be told
    apart.
    """

    id_dataset: str
    attacks: tuple[Against, ...]
    drawing: Drawing | None
    explained: str
    stages: tuple[Stages, ...]
    some_methods: bool


def robustness(content: Content) -> tuple[list[Robustness], list[Lack]]:
    """One per ID set that was tested against an attack's images; and what is not shown of each, and why.

    Reads per-image scores, of one row after the other.
    """
    made = {attack.name: attack for attack in content.attacks}
    rows = judged(content.cells, content.results, made)
    found, lacks = [], list[Lack]()
    for number, name in enumerate(sorted({cell.id_dataset for cell in content.cells})):
        here = [row for row in rows if row.id_dataset == name]
        if not here:
            continue  # nothing is missing where nobody attacked
        lines = series(here)
        panels, stages = curves(here, made, lines)
        drawn = drawing(f"robust-{number}", "Model", panels) if panels else None
        parts, missing = [], list[Lack]()
        for attack in dict.fromkeys(row.attack for row in here):
            mine = [row for row in here if row.attack == attack]
            wins, why_not = _successes(mine, made.get(attack, Crafted(attack)))
            known = made.get(attack, Crafted(attack))
            parts.append(_against(content, mine, wins, known, lines if drawn else {}))
            missing += _lacks(mine, why_not, known)
        some_methods = len({row.method for row in here}) > len(lines)
        found.append(Robustness(name, tuple(parts), drawn, explained(panels), tuple(stages), some_methods))
        lacks += [*missing, *_undrawn(name, here, made, panels)]
    return found, lacks


def _successes(rows: Sequence[Judged], attack: Crafted) -> tuple[dict[int, Success], dict[str, list[Judged]]]:
    """By place in `rows`; and rows without, by the reason."""
    found, why_not = {}, dict[str, list[Judged]]()
    for at, row in enumerate(rows):
        try:
            if attack.paired is False:
                raise NotAvailable("the clean and the adversarial rows do not have the same keys")
            found[at] = attack_success(*row.scores())
        except NotAvailable as error:
            why_not.setdefault(str(error), []).append(row)
    return found, why_not


def _against(
    content: Content,
    rows: Sequence[Judged],
    wins: Mapping[int, Success],
    attack: Crafted,
    lines: Mapping[str, int],
) -> Against:
    place = (rows[0].id_dataset, attack.name)
    galleries = (one for one in content.attack_galleries if (one.id_dataset, one.attack) == place)
    columns = {
        "Clean": [percent(row.clean) for row in rows],
        "Adversarial": [percent(row.adversarial) for row in rows],
        "Difference": [signed(row.adversarial - row.clean) for row in rows],
        "Before rounding": [percent(row.auroc(FLOAT)) for row in rows],
        "Clean without targets": [percent(row.auroc(CLEAN, without=True)) for row in rows],
        "Without targets": [percent(row.auroc(ADVERSARIAL, without=True)) for row in rows],
        "FPR95": [percent(row.known[ADVERSARIAL].fpr95) for row in rows],
        "Success": [_won(wins.get(at)) for at in range(len(rows))],
    }
    columns = {name: texts for name, texts in columns.items() if set(texts) != {DASH}}
    models: dict[str, list[Line]] = {}
    for at, row in enumerate(rows):
        values = tuple(texts[at] for texts in columns.values())
        models.setdefault(row.model, []).append(Line(row.label, lines.get(row.method), values))
    return Against(
        attack=attack.name,
        said=attack.said,
        lead=tuple(lead(rows, aimed_at(content.means, place[0], attack), wins, attack, content.models)),
        columns=tuple(columns),
        models=tuple((model, role(model, attack, content.models), tuple(those)) for model, those in models.items()),
        fine=tuple(_fine(rows, columns, attack)),
        gallery=next(galleries, None),
    )


def _fine(rows: Sequence[Judged], columns: Mapping[str, object], attack: Crafted) -> Iterable[str]:
    """What the columns are, of those that there are, and why nothing more is known of the attack."""
    if "Without targets" in columns:
        numbers = sorted({row.left_out for row in rows if row.left_out is not None})
        which = " or ".join(f"{number:,} train images" for number in numbers) or "train images"
        what = "on the adversarial images"
        if "Clean without targets" in columns:
            what = "on the clean images and on the adversarial ones"
        yield (
            f"Without targets: AUROC {what} with {which} left out, those that were aimed at; of a method that reads no "
            f"train image nothing changes."
        )
    if "Success" in columns:
        more = "; of several seeds, the first" if any(row.known[CLEAN].seeds > 1 for row in rows) else ""
        yield (
            "Success: of the images that a detector rejects when clean (their number in brackets), the share that it "
            f"accepts when adversarial, at the threshold that accepts 95 % of the ID test images{more}."
        )
    if attack.folder is None:
        yield f"Which model was attacked, and what was aimed at, is not known: {attack.reason}."


def _won(found: Success | None) -> str:
    return DASH if found is None else f"{percent(found.share)} ({found.rejected:,})"


def _lacks(rows: Sequence[Judged], why_not: Mapping[str, Sequence[Judged]], attack: Crafted) -> Iterable[Lack]:
    name, against = rows[0].id_dataset, f"against {attack.name}"
    for why, those in why_not.items():
        labels = [label(row.label, row.model) for row in those]
        which = "" if len(those) == len(rows) else f" of {some(labels)}"
        yield Lack(name, f"the attack's success {against}{which}", why)
    if not any(FLOAT in row.known for row in rows):
        yield Lack(name, f"AUROC before rounding {against}", _unrounded(rows, attack))
    unproven: dict[str, list[str]] = {}
    for row in rows:
        if row.unproven:
            unproven.setdefault(row.unproven, []).append(label(row.label, row.model))
    what = f"AUROC {against} without the images that were aimed at"
    what += ", if any were" if attack.folder is None else ""
    for why, labels in unproven.items():
        yield Lack(name, f"{what}, of {some(labels)}", why)
    if attack.targets != 0 and not unproven and not any(row.without for row in rows):
        which = "any" if attack.folder is None else "them"
        why = f"no method that read train images was tested with {which} left out; `embedstore probe --without`"
        yield Lack(name, what, f"{why} does that, with the targets.txt of an attack towards images")


def _unrounded(rows: Sequence[Judged], attack: Crafted) -> str:
    """Why there are no features before rounding. Only the attack can make them, and only of the model it attacked."""
    if attack.model is not None and all(row.model != attack.model for row in rows):
        return f"only {attack.model}, the model that was attacked, has these features, and there is no result of it"
    who = f"{attack.model}, " if attack.model is not None else ""
    return (
        f"{attack.name}:{FLOAT} was not tested with {who}the attacked model, which alone has it; `embedstore probe "
        f"--ood` does that"
    )


def _undrawn(
    id_dataset: str, rows: Sequence[Judged], made: Mapping[str, Crafted], panels: Mapping[str, object]
) -> Iterable[Lack]:
    names = list(dict.fromkeys(row.attack for row in rows))
    stepped = {row.attack for row in rows for split in row.known if steps_of(f"{row.attack}/{split}") is not None}
    without = [name for name in names if name not in stepped]
    if without:
        why = (
            "no features of steps on the way were tested; `embedstore attack --snapshot` keeps them, of the attacked "
            "model alone"
        )
        yield Lack(id_dataset, f"AUROC against steps, of {some(without)}", why)
    unknown = [name for name in names if name not in made or made[name].folder is None]
    reasons: dict[str, list[str]] = {}
    for name in unknown:
        reasons.setdefault(made.get(name, Crafted(name)).reason, []).append(name)
    for why, some_names in reasons.items():
        what = f"the images of {some(some_names)}, which model was attacked, what was aimed at, and how that compares"
        yield Lack(id_dataset, what, why)
    oods = [made[name].ood for name in names if name in made and made[name].ood is not None]
    for ood in dict.fromkeys(oods):
        if oods.count(ood) == 1 and ood is not None:
            why = "there is one attack, and it takes two"
            yield Lack(id_dataset, f"AUROC by attack on {dataset_label(ood)}", why)
