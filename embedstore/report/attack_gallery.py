"""Images before and after an attack, what was added to them, and what they were to look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedstore.errors import EmbedstoreError, ImageError, NotAvailable
from embedstore.metrics import threshold95
from embedstore.records import Result, Rows
from embedstore.report.attack_files import Crafted
from embedstore.report.attacked import ADVERSARIAL, CLEAN
from embedstore.report.gallery import SIDE, Reader, jpeg
from embedstore.report.judged import Judged, best, judged
from embedstore.report.table import Cell
from embedstore.sources import Source, decode, open_source
from embedstore.store import Store

if TYPE_CHECKING:
    from PIL import Image

EACH = 6
_FACTORS = (100, 50, 20, 10, 5, 2, 1)
_ALMOST_ALL = 99.5  # percent of the pixels that an amplified difference does not clip
_GREY = 127


@dataclass(frozen=True)
class Morph:
    """One image. The four are JPEGs as ``data:`` URIs, None where there is none.

    ``before`` and ``after`` are the shares of the ID images that score lower, in [0, 1], and ``passes`` says whether it
    was rejected and is accepted, at the threshold that accepts 95 % of the ID images.
    """

    key: str
    name: str
    before: float
    after: float
    passes: bool
    clean: str | None
    adversarial: str | None
    difference: str | None
    target: str | None


@dataclass(frozen=True)
class AttackGallery:
    """Six images of one attack whose score rose most; none, and the reasons, where they cannot be had.

    ``label`` names the detector, ``factor`` by how much the differences are amplified.
    """

    id_dataset: str
    attack: str
    model: str
    label: str
    factor: int
    morphs: tuple[Morph, ...]
    reasons: tuple[str, ...] = ()


def attack_galleries(
    store: Store, cells: Iterable[Cell], results: Iterable[Result], attacks: Sequence[Crafted]
) -> list[AttackGallery]:
    """One per ID set and attack, by the best detector of the attacked model (of all, where that is not known)."""
    made = {attack.name: attack for attack in attacks}
    by_place: dict[tuple[str, str], list[Judged]] = {}
    for row in judged(cells, results, made):
        by_place.setdefault((row.id_dataset, row.attack), []).append(row)
    return [_gallery(store, best(rows, made[name].model), made[name]) for (_, name), rows in by_place.items()]


def _gallery(store: Store, row: Judged, attack: Crafted) -> AttackGallery:
    empty = AttackGallery(row.id_dataset, row.attack, row.model, row.label, 1, ())

    def without(why: str) -> AttackGallery:
        return AttackGallery(*_place(empty), 1, (), (why,))

    try:
        s_id, s_clean, s_adversarial = row.scores()
    except NotAvailable as error:
        return without(f"No images are chosen, because {error}.")
    if attack.paired is None:
        return without("The store does not hold the row lists, so that the images have no names.")
    if not attack.paired:
        return without("The clean and the adversarial rows do not have the same keys.")
    gain = np.nan_to_num(s_adversarial - s_clean, nan=-np.inf)
    order = np.argsort(-gain, kind="stable")
    chosen = [int(at) for at in order[:EACH] if np.isfinite(s_adversarial[at] - s_clean[at])]
    before, after = (Reader(store, f"{row.attack}/{split}") for split in (CLEAN, ADVERSARIAL))
    if before.split is None or after.split is None:
        return without(before.reason or after.reason)
    targets = _Targets(attack.folder)
    keys = [str(before.split.keys[at]) for at in chosen]
    pairs = [(_small(before.image(at)), _small(after.image(at))) for at in chosen]
    factor = _factor(pairs)
    known, least = s_id[~np.isnan(s_id)], threshold95(s_id)
    morphs = tuple(
        Morph(
            key=key,
            name=before.class_of(at),
            before=float(np.mean(known < s_clean[at])),
            after=float(np.mean(known < s_adversarial[at])),
            passes=bool(s_clean[at] < least <= s_adversarial[at]),
            clean=_uri(pair[0]),
            adversarial=_uri(pair[1]),
            difference=_difference(pair, factor),
            target=_uri(_small(targets.image(key))) if attack.targets != 0 else None,
        )
        for key, at, pair in zip(keys, chosen, pairs, strict=True)
    )
    reasons = dict.fromkeys(filter(None, (before.reason, after.reason, attack.targets != 0 and targets.reason)))
    return AttackGallery(*_place(empty), factor, morphs, tuple(str(reason) for reason in reasons))


def _place(gallery: AttackGallery) -> tuple[str, str, str, str]:
    return gallery.id_dataset, gallery.attack, gallery.model, gallery.label


class _Targets:
    """The images that were aimed at, by the keys of those that were perturbed; ``reason`` says why there are none."""

    def __init__(self, folder: Path | None) -> None:
        self.reason = ""
        self._source: Source | None = None
        self._rows: Rows | None = None
        self._at: Mapping[str, int] = {}
        if folder is None:
            self.reason = "The targets, if there were any, are not shown: the folder of the attack is not at hand."
            return
        try:
            self._source = open_source(str(folder / "target"), dataset="attack", split="target")
            self._rows = self._source.scan()
            self._at = {str(key): at for at, key in enumerate(self._rows.keys)}
        except EmbedstoreError as error:
            self.reason = f"The targets are not at hand: {str(error).split('. ')[0].rstrip('.')}."

    def image(self, key: str) -> Image.Image | None:
        if self._source is None or self._rows is None or key not in self._at:
            return None
        try:
            (payload,) = self._source.read(self._rows, self._at[key], self._at[key] + 1)
            return decode(payload)
        except (ImportError, ImageError, EmbedstoreError) as error:
            self.reason = f"Some targets cannot be read: {error}."
            return None


_Pair = tuple["Image.Image | None", "Image.Image | None"]


def _small(image: Image.Image | None) -> Image.Image | None:
    if image is not None:
        image.thumbnail((SIDE, SIDE))
    return image


def _uri(image: Image.Image | None) -> str | None:
    return None if image is None else jpeg(image)


def _change(pair: _Pair) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]] | None:
    """(H, W, 3) int16: adversarial minus clean, of the pictures as they are shown."""
    clean, adversarial = pair
    if clean is None or adversarial is None or clean.size != adversarial.size:
        return None
    return np.asarray(adversarial, dtype=np.int16) - np.asarray(clean, dtype=np.int16)


def _factor(pairs: Iterable[_Pair]) -> int:
    """The largest of some round numbers by which all but few differences can be amplified without being clipped."""
    changes = [change for pair in pairs if (change := _change(pair)) is not None]
    if not changes:
        return 1
    most = max(float(np.percentile(np.abs(change), _ALMOST_ALL)) for change in changes)
    return next((factor for factor in _FACTORS if factor * most <= _GREY), 1)


def _difference(pair: _Pair, factor: int) -> str | None:
    from PIL import Image

    change = _change(pair)
    if change is None:
        return None
    return jpeg(Image.fromarray(np.clip(_GREY + factor * change, 0, 255).astype(np.uint8)))
