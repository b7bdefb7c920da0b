"""The images that fool a detector: OOD images that it takes for ID, and ID images that it takes for OOD."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedstore.errors import EmbedstoreError, ImageError, NotAvailable, StoreCorrupt
from embedstore.records import Rows
from embedstore.report.choice import Detector
from embedstore.report.distributions import scores_against
from embedstore.report.lacks import Lack
from embedstore.report.separation import missing_scores
from embedstore.report.table import Cell, tested_split
from embedstore.sources import Source, decode, open_source
from embedstore.store import Split, Store

if TYPE_CHECKING:
    from PIL import Image

EACH = 8
SIDE = 96  # pixels
_QUALITY = 80  # even of noise, the 144 thumbnails of two detectors and eight OOD sets are less than 2 MB as text

_NO_ROWS = "The store does not hold the row list, so that the images have no names."

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Picture:
    """One image.

    ``name`` is that of its class, empty where unknown; ``share`` the part of the other kind that scores lower (of an
    OOD image) or higher (of an ID image), in [0, 1]; ``image`` a JPEG as ``data:`` URI, None where it was not read.
    """

    key: str
    name: str
    share: float
    image: str | None


@dataclass(frozen=True)
class Strip:
    """Eight images of one split that fool one detector, the most fooling first; none, and the reason, without rows.

    ``split`` is ``"name/split"``; ``reason`` says why there are no images, or no keys; empty where all is there.
    """

    split: str
    label: str
    pictures: tuple[Picture, ...]
    reason: str = ""


@dataclass(frozen=True)
class Gallery:
    """One ID set: by detector the ID images that look OOD, by OOD set and detector the OOD images that look ID."""

    id_dataset: str
    model: str
    labels: tuple[str, ...]
    own: tuple[Strip, ...]
    others: Mapping[str, tuple[Strip, ...]]

    @property
    def reasons(self) -> list[str]:
        """Why images are missing, a sentence each, with the splits that it is about."""
        about: dict[str, dict[str, None]] = {}
        for strip in (*self.own, *(strip for strips in self.others.values() for strip in strips)):
            if strip.reason:
                about.setdefault(strip.reason, {})[strip.split] = None
        return [f"{', '.join(splits)}: {reason}" for reason, splits in about.items()]


def galleries(store: Store, detectors: Mapping[str, Sequence[Detector]]) -> list[Gallery]:
    """One per ID set: by its best label-free detector and its best one, where their scores are stored."""
    readers: dict[str, Reader] = {}
    found = []
    for id_dataset, ranked in detectors.items():
        chosen = _chosen(ranked)
        strips = [_strips(store, detector, readers) for detector in chosen]
        own = tuple(strip for strip, _ in strips if strip is not None)
        oods = sorted({strip.split for _, others in strips for strip in others})
        others = {ood: tuple(s for _, those in strips for s in those if s.split == ood) for ood in oods}
        if own or others:
            found.append(Gallery(id_dataset, chosen[0].model, tuple(one.label for one in chosen), own, others))
    return found


def missing_galleries(
    detectors: Mapping[str, Sequence[Detector]], cells: Iterable[Cell], galleries: Iterable[Gallery]
) -> list[Lack]:
    """Why there are no images of an ID set, or none of a detector or an OOD set."""
    shown = {
        (part.id_dataset, strip.label, ood)
        for part in galleries
        for ood, strips in part.others.items()
        for strip in strips
    }
    chosen = {name: _chosen(ranked) for name, ranked in detectors.items()}
    return missing_scores("the images that fool a detector", chosen, cells, shown)


def _chosen(ranked: Sequence[Detector]) -> list[Detector]:
    """The best without labels, and the best, which may be the same."""
    free = next((detector for detector in ranked if detector.label_free), None)
    return list({one.label: one for one in (free, *ranked[:1]) if one is not None}.values())


def _strips(store: Store, detector: Detector, readers: dict[str, Reader]) -> tuple[Strip | None, list[Strip]]:
    """The ID images, against all OOD images together, and the OOD images of each set."""
    own, others, every, name = np.empty(0), [], [], ""
    for ood in sorted(detector.results):
        try:
            own, s_ood = scores_against(detector, ood)
        except NotAvailable:
            continue  # missing_galleries() says so
        name = tested_split(detector.results[ood])
        every.append(s_ood[~np.isnan(s_ood)])
        others.append(_strip(_reader(store, ood, readers), detector.label, s_ood, own[~np.isnan(own)]))
    if not every:
        return None, []
    # Negated, the ID images that look OOD are those with the highest scores too.
    return _strip(_reader(store, name, readers), detector.label, -own, -np.concatenate(every)), others


def _reader(store: Store, name: str, readers: dict[str, Reader]) -> Reader:
    return readers.setdefault(name, Reader(store, name))


def _strip(reader: Reader, label: str, scores: Float64, rivals: Float64) -> Strip:
    """The images with the highest scores, each with the share of ``rivals`` (M,) that score lower."""
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")[::-1]
    rows = [int(row) for row in order[:EACH] if not np.isnan(scores[row])]
    if reader.split is None or len(reader.split) < len(scores):
        return Strip(reader.name, label, (), reader.reason or _NO_ROWS)
    pictures = tuple(
        Picture(
            key=str(reader.split.keys[row]),
            name=reader.class_of(row),
            share=float(np.mean(rivals < scores[row])),
            image=reader.thumbnail(row),
        )
        for row in rows
    )
    return Strip(reader.name, label, pictures, reader.reason)


class Reader:
    """Thumbnails of one split, if its source is at hand.

    Attributes
    ----------
    split : Split or None
        None where the store does not know it, or cannot read it.
    reason : str
        Why the row list or an image could not be read; the last reason, empty where all could.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name, self.reason = name, ""
        dataset, _, split = name.partition("/")
        self.split: Split | None = None
        if store.holds(dataset, split):
            rows = store.rows(dataset, split)
            try:
                rows.keys, rows.labels  # noqa: B018 - both are read when first asked for
                self.split = rows
            except StoreCorrupt as error:
                self.reason = f"The row list is damaged, so that the images have no names: {error}."
        self._opened: tuple[Source, Rows] | None = None
        self._gone = False

    def class_of(self, row: int) -> str:
        """The name of an image's class; empty where it is not known."""
        names = self.split.class_names if self.split is not None else None
        label = int(self.split.labels[row]) if self.split is not None else -1
        return names[label] if names is not None and 0 <= label < len(names) else ""

    def thumbnail(self, row: int) -> str | None:
        """A JPEG of at most 96 × 96 pixels as ``data:`` URI; None, and a ``reason``, where it cannot be had."""
        image = self.image(row)
        return None if image is None else jpeg(image)

    def image(self, row: int) -> Image.Image | None:
        """In its own size; None, and a ``reason``, where it cannot be had."""
        if self._gone:
            return None
        try:
            source, rows = self._source()
            (payload,) = source.read(rows, row, row + 1)
            return decode(payload)
        except ImportError as error:
            self._give_up(f"Images are read with Pillow, and it cannot be had: {error}.")
        except ImageError as error:
            self.reason = f"Some images cannot be read: {error}"
        except EmbedstoreError as error:
            # What to do about it is said to whoever extracts; here the finding is enough.
            self._give_up(f"The images are not at hand: {str(error).split('. ')[0].rstrip('.')}.")
        return None

    def _source(self) -> tuple[Source, Rows]:
        if self._opened is None and self.split is not None:
            source = at_hand(self.split)
            self._opened = source, self.split.row_list()
        if self._opened is None:
            raise EmbedstoreError(f"{self.name} is not in the store")
        return self._opened

    def _give_up(self, reason: str) -> None:
        self._gone, self.reason = True, reason


def at_hand(split: Split) -> Source:
    """The source of a split, if it lies on this machine; a report makes no request and no download.

    Raises
    ------
    EmbedstoreError
        It does not, or is not what it was; the message says so.
    """
    if "://" in split.source:
        raise EmbedstoreError(f"they lie at {split.source}, and a report asks no other machine for them")
    if split.source.startswith("torchvision:"):
        raise EmbedstoreError(f"they come from {split.source}, which may have to download them")
    return open_source(split.source, dataset=split.dataset, split=split.split)


def jpeg(image: Image.Image) -> str:
    """At most 96 × 96 pixels as ``data:`` URI. Shrinks the image itself."""
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    # Without the comment, which Pillow would take along, and which may be long or private.
    image.save(file, "JPEG", quality=_QUALITY, optimize=True, comment=b"")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
