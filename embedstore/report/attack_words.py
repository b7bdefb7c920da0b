"""What became of attacked images, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from embedstore.metrics import Success
from embedstore.records import Provenance
from embedstore.report.attack_files import Crafted
from embedstore.report.attacked import ADVERSARIAL, CLEAN
from embedstore.report.judged import Judged, best
from embedstore.report.means import Mean
from embedstore.report.summary import count, listing, percent, whole


def role(model: str, attack: Crafted, models: Mapping[str, Provenance | None]) -> str:
    """What a model is to an attack; empty where it is not known which one was attacked."""
    if attack.model is None:
        return ""
    if model == attack.model:
        return "attacked"
    defence = _defence(model, attack, models)
    return f"defence: the attacked model behind {defence}" if defence else "transfer"


def _defence(model: str, attack: Crafted, models: Mapping[str, Provenance | None]) -> str | None:
    """That of a model which is the attacked one behind it: by its weights, or by its name where these are not known."""
    made, plain = models.get(model), models.get(attack.model or "")
    if made is None or made.defence is None:
        return None
    if plain is not None:
        same = made.weights_sha256 == plain.weights_sha256
    else:
        same = model == f"{attack.model}+{made.defence.replace(':', '')}"
    return made.defence if same else None


def lead(
    rows: Sequence[Judged],
    aimed: Mapping[str, Mean],
    wins: Mapping[int, Success],
    attack: Crafted,
    models: Mapping[str, Provenance | None],
) -> Iterable[str]:
    """What the attack does to the detector that looked best, whether the bank is to blame, and to other models.

    Parameters
    ----------
    rows : sequence of Judged
        Of one attack and ID set.
    aimed : mapping of str to Mean
        By split, the detector that was aimed at; empty where there is none in particular.
    wins : mapping of int to Success
        By place in `rows`.
    models : mapping of str to Provenance or None
        What is known of the models, by name.
    """
    row = best(rows, attack.model)
    attacked = row.model == attack.model
    of = f"of {row.model}, the model that was attacked, " if attacked else ""
    who = row.label if attacked else f"{row.label} of {row.model}"
    drop = tenths(row.clean - row.adversarial)
    yield (
        f"On the clean images the best detector {of}is {who}, with an AUROC of "
        f"{_measured(row.known[CLEAN], in_words=True)}. On the adversarial images its AUROC is "
        f"{_measured(row.known[ADVERSARIAL])}, {_change(drop)}."
    )
    if drop > 0:
        # Without its files nobody knows whether there were any targets.
        yield from _undone(row, drop, aimed=attack.folder is not None and attack.targets != 0)
    won = wins.get(list(rows).index(row))
    if won is not None and won.rejected:
        yield (
            f"At the threshold that accepts 95 % of the ID images it rejects {count(won.rejected, 'clean image')}, of "
            f"which it accepts {won.accepted:,} when adversarial."
        )
    if aimed:
        yield _aimed(aimed, row)
    if attacked:
        # Each by the detector that one would have chosen for it.
        others = sorted({other.model for other in rows} - {row.model})
        finest = {model: best([one for one in rows if one.model == model], model) for model in others}
        defended = {model: defence for model in others if (defence := _defence(model, attack, models))}
        if defended:
            yield _defended([(defence, finest[model]) for model, defence in defended.items()])
        if defended.keys() != finest.keys():
            yield _transferred([one for model, one in finest.items() if model not in defended])


def _aimed(known: Mapping[str, Mean], shown: Judged) -> str:
    """What became of the detector that the attack was made against, after the one that is `shown`."""
    mean = known[CLEAN]
    if mean.label == shown.label:
        return "That is the detector that was aimed at."
    drop = tenths((mean.auroc or 0.0) - (known[ADVERSARIAL].auroc or 0.0))
    numbers = f"from {_measured(mean)} to {_measured(known[ADVERSARIAL])}, {_change(drop)}"
    return f"The AUROC of the detector that was aimed at, {mean.label}, goes {numbers}."


def _defended(finest: Sequence[tuple[str, Judged]]) -> str:
    """What the images do to the attacked model behind defences, by the best detector of each."""
    if len(finest) == 1:
        ((defence, one),) = finest
        change = f"from {_share(one.clean)} to {_share(one.adversarial)}"
        return (
            f"Behind the defence {defence} the AUROC of its best detector, {one.label} of {one.model}, goes {change}."
        )
    which = listing(defence for defence, _ in finest)
    return (
        f"Behind the defences {which} the AUROC of the best detector changes by {_range([one for _, one in finest])}."
    )


def _transferred(finest: Sequence[Judged]) -> str:
    """What the images do to models that they were not made with, by the best detector of each."""
    if len(finest) == 1:
        (one,) = finest
        change = f"from {_share(one.clean)} to {_share(one.adversarial)}"
        return f"The images were not made with {one.model}: the AUROC of its best detector, {one.label}, goes {change}."
    return (
        f"The images were not made with {len(finest)} of the models: there the AUROC of the best detector changes by "
        f"{_range(finest)}."
    )


def _range(finest: Iterable[Judged]) -> str:
    changes = sorted((one.adversarial - one.clean for one in finest), key=tenths)
    return f"{signed(changes[0])} to {whole(f'{signed(changes[-1])} points')}"


def _change(drop: float) -> str:
    """Of an AUROC, which is lower by so many points."""
    return f"{_points(drop)} less" if drop > 0 else "no less" if drop == 0 else f"{_points(-drop)} more"


def _undone(row: Judged, drop: float, *, aimed: bool) -> Iterable[str]:
    """What is regained without the images that were `aimed` at, if any were."""
    if row.reads_train is False and aimed:
        yield "It reads no train image, so that it makes no difference to it whether the targets are among them."
    if not row.without or row.reads_train is False:
        return
    value = row.auroc(ADVERSARIAL, without=True) or 0.0
    regained = tenths(value - row.adversarial)
    if regained >= drop:
        end = "no less than on the clean images before, so that this undoes the attack"
    elif regained <= 0:
        end = "that brings nothing back"
    else:
        part = "more than half" if 2 * regained > drop else "no more than half"
        end = f"that brings back {regained:.1f} of the {_points(drop)}, {part}"
    yield f"With the targets left out of the train images it is {_measured(row.without[ADVERSARIAL])}: {end}."


def tenths(fraction: float) -> float:
    """Percentage points as they are printed, so that sentences compare what a reader sees."""
    return round(100 * fraction, 1) + 0.0


def _points(value: float) -> str:
    return whole(f"{value:.1f} points")


def _measured(mean: Mean, *, in_words: bool = False) -> str:
    """An AUROC with its 95 % interval, where it has one; `in_words` says that it is one."""
    bounds = mean.auroc_interval
    said = f"{whole('95 % interval')} " if in_words else ""
    return _share(mean.auroc or 0.0) + (f" ({said}{percent(bounds[0])}–{percent(bounds[1])})" if bounds else "")


def _share(fraction: float) -> str:
    return whole(f"{percent(fraction)} %")


def signed(fraction: float) -> str:
    """A difference of fractions in points: ``"+1.2"``."""
    value = tenths(fraction)
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if value else "0.0"
