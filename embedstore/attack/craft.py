"""Attack a selection of images block by block, resumably."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.attack.aim import Aim
from embedstore.attack.block import BlockMaker, Drawn
from embedstore.attack.options import Options
from embedstore.attack.perturb import Batches
from embedstore.attack.selection import draw_pairs
from embedstore.attack.shards import (
    FORMAT,
    Attacked,
    blocks_of,
    declare,
    is_done,
    json_bytes,
    read_attack,
    was_declared,
    write_whole,
)
from embedstore.encoders import differentiable
from embedstore.errors import UsageError
from embedstore.records import IntArray, fingerprint
from embedstore.store import Images, Store

if TYPE_CHECKING:
    from embedstore.encoders import Differentiable, Encoder
    from embedstore.sources import Source


@dataclass(frozen=True)
class Side:
    """One split of a store, and where its images can be read again."""

    source: Source
    dataset: str
    split: str

    @property
    def name(self) -> str:
        """``dataset/split``."""
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class Progress:
    """How far an attack is.

    Attributes
    ----------
    done, total : int
        Images.
    step, steps : int
        Of the images in hand; equal when they have just been done.
    loss, similarity : float
        Their means; NaN where all of them failed, or where finished images were found.
    notes : tuple of str
        What a person should know, all of it so far: the batch was halved.
    """

    done: int
    total: int
    step: int
    steps: int
    loss: float = float("nan")
    similarity: float = float("nan")
    notes: tuple[str, ...] = ()


def attack(
    store: Store,
    encoder: Encoder,
    ood: Side,
    target: Side,
    out: Path,
    *,
    num: int,
    seed: int = 0,
    options: Options | None = None,
    aim: Aim | None = None,
    block_rows: int = 64,
    batch_size: int = 16,
    progress: Callable[[Progress], None] | None = None,
) -> Attacked:
    """Make `num` images of `ood` look to a model like images of `target`, and write them to a folder.

    A block, `block_rows` of the images, is done when all its files are there; each is written under another name and
    moved. What is done is not done again, so that after a kill the same call goes on, and ends with the same bytes: on
    the CPU to the last bit with the same number of threads and the same `batch_size`; on a GPU as far as the model's
    own kernels repeat themselves. One process a folder.

    Parameters
    ----------
    store : Store
        Holds both splits, embedded by this model: only images that it could embed are drawn. Nothing is written to it;
        see :func:`embedstore.attack.store_features`.
    out : Path
        See :mod:`embedstore.attack.shards` for what it will hold.
    num : int
    seed : int
        Of the selection and of the noise: the image of row r of the OOD split begins with the noise of (seed, r).
    options : Options, optional
        By default the released protocol.
    aim : Aim, optional
        By default the target images.
    batch_size : int
        Images at once; no part of what is asked for, since images do not depend on each other, but for rounding.
    progress : callable, optional

    Raises
    ------
    UsageError
        Fewer images than asked for; targets without a class where one is aimed at; an aim of another model's
        widths; something else in `out`.
    FingerprintMismatch
        `out` holds another attack, or the store another model of this name; the message names what differs.
    NotAvailable, UnknownName
        The model has no gradients; or the store does not have the splits, or not by this model.
    SourceError
        A source cannot be read; no fault of one image.
    ModelUnavailable
        There is not even memory for one image.
    """
    options, aim = options or Options(), aim or Aim()
    if block_rows < 1:
        raise UsageError(f"a block must have at least one row, not {block_rows}")
    model = differentiable(encoder)
    store.check_model(encoder.provenance)
    name = encoder.provenance.name
    images, aims = (store.images(name, side.dataset, side.split) for side in (ood, target))
    ood_rows, target_rows = draw_pairs(images.ok, aims.ok, num, seed)
    aim.check(aims.labels[target_rows], encoder.provenance.feature_dim, encoder.provenance.joint_dim)
    drawn = [
        Drawn(side.source, side.dataset, side.split, found.rows.row_list(), rows)
        for side, found, rows in ((ood, images, ood_rows), (target, aims, target_rows))
    ]
    content = {
        "format": FORMAT,
        "model": {"name": name, "fingerprint": encoder.provenance.fingerprint()},
        "num": num,
        "seed": seed,
        "block_rows": block_rows,
        "options": options.to_json(),
        "aim": aim.to_json(),
        "ood": _described(images, ood_rows),
        "target": _described(aims, target_rows),
        "keeps_pixels": keeps_pixels(model),
    }
    versions = {**encoder.provenance.versions, "webdataset": version("webdataset")}
    declare(out, {**content, "fingerprint": fingerprint(content), "versions": dict(sorted(versions.items()))})
    maker = BlockMaker(encoder, model, drawn[0], drawn[1], options, aim, seed)
    _make_all(maker, out, content, images.class_names, Batches(batch_size), progress or (lambda _: None))
    return read_attack(out)


def _described(images: Images, rows: IntArray) -> dict[str, Any]:
    return {
        "dataset": images.dataset,
        "split": images.split,
        "rows": images.rows.fingerprint,
        "selection": fingerprint(rows.tolist()),
    }


def keeps_pixels(model: Differentiable) -> bool:
    """Whether the model's preprocessing gives back an image of its own input size as it is.

    It does not where it scales to more than it crops (timm's ``crop_pct`` below 1): such a model, reading the shards of
    its own attack, sees other pixels than were attacked.
    """
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = (model.pixels(Image.fromarray(noise)) * 255).round().numpy().astype(np.uint8)  # (3, H, W)
    again = model.pixels(Image.fromarray(np.ascontiguousarray(seen.transpose(1, 2, 0))))
    return bool(np.array_equal((again * 255).round().numpy(), seen))


def _noted(out: Path, places: Sequence[tuple[int, int, int]], found: Set[int]) -> list[str]:
    """What to say of an attack that goes on."""
    done = sum(stop - start for block, start, stop in places if block in found)
    notes = [f"{done:,} of {places[-1][2]:,} images are done already"] if 0 < done < places[-1][2] else []
    return notes + [
        f"block {block} of {out} is damaged, and is made anew"
        for block, _, _ in places
        if block not in found and was_declared(out, block)
    ]


def _make_all(
    maker: BlockMaker,
    out: Path,
    content: Mapping[str, Any],
    class_names: tuple[str, ...] | None,
    batches: Batches,
    progress: Callable[[Progress], None],
) -> None:
    """Make the blocks that are missing."""
    total, steps = int(content["num"]), int(content["options"]["steps"])
    for folder in (*maker.folders, "float", "done"):
        (out / folder).mkdir(exist_ok=True)
    if class_names is not None:
        for folder in ("adversarial", "clean"):  # where `embedstore extract` looks for them
            write_whole(out / folder / "classes.json", lambda file: file.write(json_bytes(list(class_names))))
    places = list(blocks_of(content))
    found = {block for block, _, _ in places if is_done(out, block, maker.folders)}
    batches.notes += _noted(out, places, found)
    for block, start, stop in places:
        if block in found:
            progress(Progress(stop, total, steps, steps, notes=tuple(batches.notes)))
            continue

        def watch(done: int, step: int, loss: float, similarity: float, start: int = start) -> None:
            progress(Progress(start + done, total, step, steps, loss, similarity, tuple(batches.notes)))

        maker.make(out, block, start, stop, batches, watch)
