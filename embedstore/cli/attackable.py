"""What ``embedstore attack`` needs before it loads a model: hours of work should not end in a refusal."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from embedstore import errors
from embedstore.cli.attacked import MADE

if TYPE_CHECKING:
    from embedstore.attack import Aim, Side
    from embedstore.records import Provenance, Result
    from embedstore.store import Store

TOWARDS = {"image": "images", "prototype": "prototypes", "text": "texts", "probe": "energy"}


def plain_model(store: Store, spelled: str, name: str | None) -> Provenance:
    """What the store knows of the model to fool.

    Raises
    ------
    NotAvailable
        Nothing; or it sees images through a defence, which gradients do not pass.
    """
    from embedstore.encoders import parse_model

    called = parse_model(spelled, name=name).name
    try:
        stored = store.provenance(called)
    except errors.UnknownName as error:
        raise errors.NotAvailable(
            f"{error} Both data sets must have been embedded by the model that is attacked: run `embedstore extract` "
            f"with --model {spelled}" + (f" --name {name}" if name else "")
        ) from error
    if stored.defence is not None:
        raise errors.NotAvailable(
            f"{called} sees images through the defence {stored.defence}, which gradients do not pass; attack the plain "
            f"model, and extract what that makes with --defence {stored.defence}"
        )
    return stored


def side(store: Store, text: str, split: str, source: str | None, option: str) -> Side:
    """One split of the store, with the source of its images: where it was, or where somebody says it is.

    Raises
    ------
    UnknownName
        The store has no such split.
    NotAvailable
        It holds features that were never of images.
    SourceError
        Its images are not there any more.
    FingerprintMismatch
        They are others than were extracted.
    """
    from embedstore.attack import Side
    from embedstore.sources import open_source

    dataset, _, asked = text.partition(":")
    rows = store.rows(dataset, asked or split)
    if rows.shards and not any(shard.size for shard in rows.shards):
        raise errors.NotAvailable(
            f"{rows.name} has no images: it holds features that an attack made; give the split of its images, "
            f"{dataset}:{MADE[1]}"
        )
    place = f"{option}-source {source}" if source else f"{rows.source}, where {rows.name} was extracted from,"
    try:
        found = open_source(source or rows.source, dataset=rows.dataset, split=rows.split)
        # Names of classes may have come from a file of their own; everything else must be as it was stored.
        now = replace(found.scan().part(0, None), class_names=None)
    except (errors.SourceError, errors.UsageError) as error:
        if source is not None:
            raise
        raise errors.SourceError(
            f"{error}\n{rows.name} was extracted from {rows.source}; say with {option}-source where its images are now"
        ) from error
    try:
        store.merge_rows(rows.dataset, rows.split, now, extend=True)
    except errors.FingerprintMismatch as error:
        raise errors.FingerprintMismatch(
            f"{place} does not hold the images that were extracted; give the place that does with {option}-source. "
            f"What differs: {error}"
        ) from error
    return Side(found, rows.dataset, rows.split)


def default_name(ood: str, out: Path) -> str:
    """What the images are called in the store: after the OOD set and the folder, as ``cifar10-smooth``."""
    from embedstore.sources.naming import safe_name

    folder = safe_name(out.absolute().name)
    return folder if folder == ood or folder.startswith(f"{ood}-") else f"{ood}-{folder}"


def check_folder(out: str) -> None:
    """Raise UsageError unless images can be written to a folder of that name, where nothing foreign is."""
    from embedstore.attack import refuse_foreign

    if re.match(r"[A-Za-z0-9+]+:", out) or "::" in out or out.startswith("|") or out.endswith("|"):
        raise errors.UsageError(f"--out {out!r} must be a folder of this machine, and no URL or command")
    there = next(each for each in (Path(out), *Path(out).absolute().parents) if os.path.lexists(each))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise errors.UsageError(f"--out {out} cannot be written: {there} is no folder that you may write to")
    refuse_foreign(Path(out))


def check_name_is_free(store: Store, dataset: str, out: Path, sides: tuple[Side, Side], steps: tuple[int, ...]) -> None:
    """Raise UsageError or FingerprintMismatch if the store holds something else under the name of what is to be made.

    Rows cannot be replaced, neither those of images nor those of another attack.
    """
    from embedstore.attack import refuse_other
    from embedstore.sources.naming import check_name

    check_name("data set", dataset)
    own = (*MADE, "float")
    others = {split for split in store.datasets().get(dataset, []) if split not in own and split[:5] != "step-"}
    if others or dataset in {each.dataset for each in sides}:
        raise errors.UsageError(
            f"{dataset} is a data set of other images; give those that are to be made a --dataset of their own"
        )
    if (out / "attack.json").is_file():
        refuse_other(store, out, dataset)
        return
    for split in (*own, *(f"step-{step}" for step in steps)):
        if store.holds(dataset, split):
            raise errors.UsageError(
                f"the store holds {dataset}/{split} already, from {store.rows(dataset, split).source}; give what is to "
                f"be made another name with --dataset, or go on with that attack by its folder with --out"
            )


def aim_of(store: Store, model: str, target: Side, towards: str, templates: str) -> Aim:
    """What features are pulled towards, from what the store holds of the target's data set.

    Raises
    ------
    NotAvailable
        The store has no labels, prompts or probe of it.
    """
    import numpy as np

    from embedstore.attack import Aim

    kind = TOWARDS[towards]
    if kind == "texts":
        return Aim(kind, vectors=store.texts(model, target.dataset, templates), templates=templates)
    if kind == "energy":
        found = _probe(store, model, target.dataset)
        return Aim(kind, probe={name: np.asarray(found.weights[name]) for name in found.weights})
    if kind == "images":
        return Aim()
    from embedstore.scores import PrototypeDetector

    images = store.images(model, target.dataset, target.split)
    labels = images.labels[images.ok]
    if not (labels >= 0).any():
        raise errors.NotAvailable(f"{images.name} has no labels, so there are no prototypes of its classes")
    means = PrototypeDetector().fit(images.embedded()[labels >= 0], labels[labels >= 0])
    vectors = np.zeros((int(labels.max()) + 1, means.prototypes_.shape[1]))  # of a class without images: never drawn
    vectors[means.classes_] = means.prototypes_
    return Aim(kind, vectors=vectors)


def _probe(store: Store, model: str, dataset: str) -> Result:
    """The linear layer of the defaults and the least seed, or else the newest of all."""
    found = [
        each
        for each in store.results()
        if (each.model, each.id_dataset, each.method, each.absent) == (model, dataset, "linear", None)
    ]
    if not found:
        raise errors.NotAvailable(
            f"the store holds no linear probe of {dataset} by {model}; train one with `embedstore probe --id {dataset} "
            f"--method linear` and any --ood"
        )
    return max(found, key=lambda each: (not each.variant, -int(each.params["seed"]), each.created))


def check_draw(store: Store, model: str, sides: tuple[Side, Side], num: int, seed: int, aim: Aim) -> None:
    """Raise what :func:`embedstore.attack.attack` would of too few images, or of targets that cannot be aimed at."""
    from embedstore.attack import draw_pairs

    images, targets = (store.images(model, side.dataset, side.split) for side in sides)
    _, drawn = draw_pairs(images.ok, targets.ok, num, seed)
    made_by = store.provenance(model)
    aim.check(targets.labels[drawn], made_by.feature_dim, made_by.joint_dim)
