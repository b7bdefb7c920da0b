"""Linear layers by the paper's recipe: what they are trained on, and the ones that are trained already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from embedstore.errors import NotAvailable, UsageError
from embedstore.evaluate.rows import chosen, gathered
from embedstore.evaluate.study import Study
from embedstore.labels import balanced, confidence, few_shot, pseudo_labels, pseudo_probabilities
from embedstore.probes import LinearProbe, fit_probes
from embedstore.records import FloatArray, IntArray, Result

# The recipe's batch sizes (protocol of the paper's code): 256 on CIFAR, 8,192 on ImageNet.
LARGE_TRAINING_SET, _BATCH, _LARGE_BATCH = 500_000, 256, 8192


@dataclass(frozen=True)
class Recipe:
    """What a linear layer is trained on, and how; a layer of one recipe and seed is trained once in a study.

    Attributes
    ----------
    labels : str
        ``"true"``, ``"pseudo"`` (hard pseudo-labels) or ``"soft"`` (the probabilities of the text encoder).
    threshold : float
        Pseudo-labels below this confidence are left out.
    temperature : float or None
        Of confidence and soft labels; None is 1 / the model's logit scale.
    shots : int or None
        That many rows per (pseudo-)class, drawn by the seed.
    balanced : bool
        Every (pseudo-)class equally often, drawn by the seed.
    epochs, batch_size, lr, weight_decay
        Of :class:`embedstore.LinearProbe`; a batch size of 0 is the paper's, 256 or (from 500,000 rows) 8,192.
    """

    labels: str = "true"
    threshold: float = 0.0
    temperature: float | None = None
    shots: int | None = None
    balanced: bool = False
    epochs: int = 100
    batch_size: int = 0
    lr: float = 1e-3
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class Layer:
    """A trained layer, and how many rows each class had to train on: (C,)."""

    probe: LinearProbe
    rows: tuple[int, ...]


def layers(study: Study, seeds: Sequence[int], recipe: Recipe) -> list[Layer]:
    """One trained layer per seed; those of one recipe that see the same rows are trained together, and only once."""
    wanted = [seed for seed in dict.fromkeys(seeds) if (recipe, seed) not in study.fitted]
    for seed in [seed for seed in wanted if (recipe, seed) in study.stored]:
        study.fitted[recipe, seed] = _read(study, recipe, seed)
    missing = [seed for seed in wanted if (recipe, seed) not in study.fitted]
    # Rows that are drawn differ from seed to seed, so there is nothing to share.
    together = [[seed] for seed in missing] if recipe.shots or recipe.balanced else [missing]
    for group in filter(None, together):
        study.fitted |= {(recipe, seed): layer for seed, layer in zip(group, _train(study, group, recipe), strict=True)}
    return [study.fitted[recipe, seed] for seed in seeds]


def keep_layers(study: Study, known: Iterable[Result]) -> None:
    """Remember which stored results hold a layer that this study would train again."""
    for result in known:
        same = (result.model, result.id_dataset) == (study.model, study.id_name)
        if not same or result.method not in ("plp", "linear"):
            continue
        options = {each.name: result.params[each.name] for each in fields(Recipe) if each.name in result.params}
        recipe = Recipe(**options)
        needs = study.training_fingerprints(text=recipe.labels != "true")
        # The fingerprints say what was read, and not which of the splits was the one to train on.
        same_split = result.params.get("train_split", "train") == study.train_split
        # A result's inputs name tested sets besides; but what it left out of training, this study must leave out.
        left_out = f"without/{study.id_name}/{study.train_split}"
        same_rows = result.inputs.get(left_out) == needs.get(left_out)
        if same_split and same_rows and needs.items() <= result.inputs.items():
            study.stored[recipe, result.params["seed"]] = result


def _train(study: Study, seeds: Sequence[int], recipe: Recipe) -> list[Layer]:
    rows, codes, soft = training(study, recipe, seeds[0])
    probes = [_blank(study, recipe, seed, len(rows)) for seed in seeds]
    # However few rows are drawn, all of them say what the features' mean and spread are.
    scale = study.feature_moments(labelled=recipe.labels == "true")
    if soft is None:
        fit_probes(probes, rows, codes, moments=scale)
    else:
        for probe in probes:
            probe.fit_soft(rows, soft, moments=scale)
    counts = tuple(np.bincount(codes, minlength=len(class_names(study, recipe.labels))).tolist())
    return [Layer(probe, counts) for probe in probes]


def _blank(study: Study, recipe: Recipe, seed: int, rows: int) -> LinearProbe:
    return LinearProbe(
        n_classes=len(class_names(study, recipe.labels)),
        seed=seed,
        device=study.device,
        epochs=recipe.epochs,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        batch_size=recipe.batch_size or (_LARGE_BATCH if rows >= LARGE_TRAINING_SET else _BATCH),
    )


def _read(study: Study, recipe: Recipe, seed: int) -> Layer:
    """A layer as a result keeps it."""
    result = study.stored[recipe, seed]
    rows = tuple(result.details["trained_on"])
    probe = _blank(study, recipe, seed, sum(rows))
    names = {"coef_": "coef", "intercept_": "intercept", "mean_": "mean", "scale_": "scale"}
    for name, kept in names.items():
        setattr(probe, name, np.asarray(result.weights[kept]))
    probe.classes_, probe.n_features_in_ = np.arange(len(rows)), probe.coef_.shape[1]
    return Layer(probe, rows)


def training(
    study: Study, recipe: Recipe, seed: int
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    """Features (M, Dp), class of each row (M,), and (M, C) probabilities where these are the labels."""
    rows, codes = labelled_rows(study, "pseudo" if recipe.labels == "soft" else recipe.labels)
    soft, index = _soft_labels(study, recipe, codes), np.arange(len(rows))
    if not 0 <= recipe.threshold <= 1:
        raise UsageError(f"threshold is a confidence, in [0, 1]; got {recipe.threshold}")
    if recipe.threshold:
        temperature = _temperature(study, recipe)
        sure = [confidence(part, study.text, temperature) for part in study.train_joint()]
        index = np.flatnonzero(np.concatenate(sure) >= recipe.threshold)
        if not len(index):
            raise NotAvailable(f"no train image has a pseudo-label of confidence {recipe.threshold:g} or more")
    if recipe.shots is not None:
        index = index[few_shot(codes[index], recipe.shots, seed)]
    if recipe.balanced:
        index = index[balanced(codes[index], seed)]
    if len(index) == len(rows) and not recipe.balanced:
        return rows, codes, soft
    soft = None if soft is None else chosen(soft, index, study.in_memory)
    return chosen(rows, index, study.in_memory), codes[index], soft


def labelled_rows(study: Study, labels: str) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Features (M, Dp) and class (M,) of every train row that has one: a true one, or a pseudo-label."""
    if labels == "true":
        rows, codes = study.labelled()
        return rows, codes.astype(np.int64)
    if labels == "pseudo":
        return study.train_features, pseudo_labels_of(study)
    raise UsageError(
        f"labels are 'true', 'pseudo' or, where a layer of the paper's recipe is trained, 'soft'; not {labels!r}"
    )


def _soft_labels(study: Study, recipe: Recipe, codes: IntArray) -> FloatArray | None:
    if recipe.labels != "soft":
        return None
    temperature = _temperature(study, recipe)
    parts = (pseudo_probabilities(part, study.text, temperature) for part in study.train_joint())
    return gathered(parts, (len(codes), len(study.text)), np.float32, study.in_memory)


def pseudo_labels_of(study: Study) -> npt.NDArray[np.int64]:
    """(M,) hard pseudo-labels of the finished train rows."""
    if "pseudo-labels" not in study.fitted:
        parts = [pseudo_labels(part, study.text) for part in study.train_joint()]
        study.fitted["pseudo-labels"] = np.concatenate(parts)
    labels: npt.NDArray[np.int64] = study.fitted["pseudo-labels"]
    return labels


def enough(study: Study, what: str, rows: int) -> None:
    """:class:`NotAvailable` if there are fewer train rows than something needs."""
    found = len(study.train_features)
    if found < rows:
        raise NotAvailable(f"{what} needs {rows:,} finished rows, and {study.train.name} has {found:,}")


def class_names(study: Study, labels: str) -> list[str]:
    """Names of the classes that the labels are indices into."""
    return study.class_names if labels == "true" else list(study.text_info["names"])


def _temperature(study: Study, recipe: Recipe) -> float:
    """What cosines are divided by before a softmax; 1 / the model's logit scale if nothing else is asked for."""
    if recipe.temperature is not None:
        return recipe.temperature
    scale = study.provenance.logit_scale
    if scale is None:
        raise NotAvailable(f"{study.model} has no logit scale; give the temperature of soft labels with --option")
    return 1 / scale
