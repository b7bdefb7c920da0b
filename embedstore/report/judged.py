"""What detectors make of attacked images: of every model and method the best score, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from embedstore.errors import NotAvailable
from embedstore.records import FloatArray, Result
from embedstore.report.attack_files import Crafted
from embedstore.report.attacked import ADVERSARIAL, CLEAN, LEFT_OUT, attacks
from embedstore.report.choice import result_of
from embedstore.report.distributions import scores_of
from embedstore.report.means import Mean, means
from embedstore.report.names import RowOrder, options, row_order
from embedstore.report.summary import once
from embedstore.report.table import Cell, tested_split, when
from embedstore.report.table import cells as cells_of

_OTHERS = "the train images that were left out are not those that it aimed at"
_UNKNOWN = "train images were left out, and whether they are those that it aimed at is not known"

# Whose method and score an attack on each kind of aim is made against.
_JUDGES = {"texts": ("mcm", "msp"), "energy": ("linear", "energy"), "prototypes": ("prototypes", "cosine")}

# Model, ID set, method, options without the images that were left out, score, template set.
_Row = tuple[str, str, str, frozenset[tuple[str, str]], str, str | None]


@dataclass(frozen=True)
class Judged:
    """The best score of one method of one model, by its AUROC on the clean images, against one attack.

    Attributes
    ----------
    attack : str
        The data set.
    label : str
        The name of the table row.
    known : mapping of str to Mean
        By split: ``clean``, ``adversarial``, and of ``float`` and ``step-K`` those that there are; all have an AUROC.
    without : mapping of str to Mean
        The same with the targets left out of the train images, of those that were tested so: `known` itself where the
        method reads no train image. Empty where there is none of the adversarial images.
    reads_train : bool or None
        Whether it does; None where that is not known.
    left_out : int or None
        How many images were left out.
    unproven : str
        Why there is no `without` although images were left out; empty otherwise.
    result : Result or None
        With scores on the clean and the adversarial images, of the first seed.
    """

    id_dataset: str
    attack: str
    model: str
    method: str
    score: str
    label: str
    order: tuple[RowOrder, str]
    known: Mapping[str, Mean]
    without: Mapping[str, Mean] = field(default_factory=dict)
    reads_train: bool | None = None
    left_out: int | None = None
    unproven: str = ""
    result: Result | None = None

    def auroc(self, split: str, *, without: bool = False) -> float | None:
        """In [0, 1], of all train images or `without` the targets; None where it was not tested so."""
        known = self.without if without else self.known
        return known[split].auroc if split in known else None

    @property
    def clean(self) -> float:
        """AUROC."""
        return self.known[CLEAN].auroc or 0.0

    @property
    def adversarial(self) -> float:
        """AUROC."""
        return self.known[ADVERSARIAL].auroc or 0.0

    def scores(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(N,) of the ID images, (M,) of the clean and (M,) of the adversarial images, NaN where one has none.

        Raises
        ------
        NotAvailable
            There are none; the message says why.
        """
        if self.result is None:
            both = f"`embedstore probe --ood {self.attack}:{CLEAN} --ood {self.attack}:{ADVERSARIAL}` does that"
            raise NotAvailable(f"no single result has the scores of both, clean and adversarial; {both}")
        sets = tested_split(self.result), f"{self.attack}/{CLEAN}", f"{self.attack}/{ADVERSARIAL}"
        s_id, clean, adversarial = (scores_of(self.result, self.score, name) for name in sets)
        if clean.shape != adversarial.shape:
            raise NotAvailable(f"there are {len(clean):,} clean and {len(adversarial):,} adversarial images")
        return s_id, clean, adversarial


def judged(cells: Iterable[Cell], results: Iterable[Result], made: Mapping[str, Crafted]) -> list[Judged]:
    """By ID set and attack, the attacked model first; methods in reading order.

    Parameters
    ----------
    made : mapping of str to Crafted
        What is known of the attacks, by name.
    """
    cells = list(cells)
    if not attacks(cell.ood for cell in cells):
        return []
    by_place: dict[tuple[str, str], list[Mean]] = {}
    for mean in once(means(cells)):
        if mean.auroc is not None:
            by_place.setdefault((mean.id_dataset, mean.ood.partition("/")[0]), []).append(mean)
    newest = sorted(results, key=when, reverse=True)
    found = []
    for (_, name), table in sorted(by_place.items()):
        if attacks(mean.ood for mean in table):
            found += _against(table, made.get(name, Crafted(name)), newest)
    return found


def best(rows: Sequence[Judged], model: str | None) -> Judged:
    """Of the highest AUROC on the clean images, which is by what one would have chosen it; of `model` if it has any."""
    mine = [row for row in rows if row.model == model] or list(rows)
    return max(sorted(mine, key=lambda row: (row.order, row.model)), key=lambda row: row.clean)


def aimed_at(averaged: Iterable[Mean], id_dataset: str, attack: Crafted) -> Mapping[str, Mean]:
    """By split, what became of the detector that an attack on texts, a probe or prototypes was made against.

    Of the attacked model, of the defaults or else the only one; empty where it is not among the results, both of its
    clean and its adversarial images. An attack on images is made against no detector in particular.
    """
    if attack.kind not in _JUDGES or attack.id_dataset != id_dataset:
        return {}
    key = (attack.model, id_dataset, *_JUDGES[attack.kind])
    mine = [mean for mean in averaged if (mean.model, mean.id_dataset, mean.method, mean.score) == key]
    rows: dict[_Row, dict[str, Mean]] = {}
    for mean in once(mine):
        name, _, split = mean.ood.partition("/")
        other_prompts = None not in (mean.templates, attack.templates) and mean.templates != attack.templates
        whole = LEFT_OUT not in options(mean.variant)
        if name == attack.name and mean.auroc is not None and whole and not other_prompts:
            rows.setdefault(_row(mean), {})[split] = mean
    found = {row: known for row, known in rows.items() if {CLEAN, ADVERSARIAL} <= known.keys()}
    defaults = {row: known for row, known in found.items() if not {name for name, _ in row[3]} - {"metrics"}}
    chosen = list((defaults or found).values())
    return chosen[0] if len(chosen) == 1 else {}


def _against(table: Sequence[Mean], attack: Crafted, newest: Sequence[Result]) -> list[Judged]:
    whole: dict[_Row, dict[str, Mean]] = {}
    lessened: set[_Row] = set()
    for mean in table:
        split = mean.ood.partition("/")[2]
        if LEFT_OUT not in options(mean.variant):
            whole.setdefault(_row(mean), {})[split] = mean
        elif split == ADVERSARIAL:
            lessened.add(_row(mean))
    every: dict[tuple[str, str], list[tuple[_Row, dict[str, Mean]]]] = {}
    for row, known in whole.items():
        if {CLEAN, ADVERSARIAL} <= known.keys():
            every.setdefault((row[0], row[2]), []).append((row, known))
    chosen = [max(rows, key=lambda pair: pair[1][CLEAN].auroc or 0.0) for rows in every.values()]
    without = _without_targets(attack, newest) if lessened else {}
    found = []
    for row, known in chosen:
        one = _judged(known, attack.name, newest)
        if row in without:
            left_out = _number(options(without[row][ADVERSARIAL].variant).get(LEFT_OUT))
            one = replace(one, without=without[row], left_out=left_out, reads_train=True)
        elif row in lessened and attack.targets != 0:
            one = replace(one, unproven=_OTHERS if attack.aimed else f"{_UNKNOWN}: {attack.unaimed}")
        elif without and one.reads_train is False:
            one = replace(one, without=known)
        found.append(one)
    return sorted(found, key=lambda one: (one.model != attack.model, one.model, one.order))


def _without_targets(attack: Crafted, results: Sequence[Result]) -> dict[_Row, dict[str, Mean]]:
    """By split, by results that left out the very rows that were aimed at: as many others are of another attack.

    Only rows that have the adversarial images.
    """
    those = [result for result in results if attack.is_without_targets(result)]
    found: dict[_Row, dict[str, Mean]] = {}
    for mean in means(cells_of(those)):
        name, _, split = mean.ood.partition("/")
        if name == attack.name and mean.auroc is not None:
            found.setdefault(_row(mean), {})[split] = mean
    return {row: by_split for row, by_split in found.items() if ADVERSARIAL in by_split}


def _judged(known: Mapping[str, Mean], attack: str, newest: Sequence[Result]) -> Judged:
    mean = known[CLEAN]
    result = result_of(mean, newest, f"{attack}/{ADVERSARIAL}")
    return Judged(
        id_dataset=mean.id_dataset,
        attack=attack,
        model=mean.model,
        method=mean.method,
        score=mean.score,
        label=mean.label,
        order=(row_order(mean.method, mean.variant, mean.score), mean.templates or ""),
        known=known,
        reads_train=None if result is None else _reads_train(result),
        result=result,
    )


def _reads_train(result: Result) -> bool:
    own, tested = f"images/{result.id_dataset}/", f"images/{tested_split(result)}"
    return any(name.startswith(own) and name != tested for name in result.inputs)


def _row(mean: Mean) -> _Row:
    others = frozenset(pair for pair in options(mean.variant).items() if pair[0] != LEFT_OUT)
    return (mean.model, mean.id_dataset, mean.method, others, mean.score, mean.templates)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
