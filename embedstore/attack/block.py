"""Make one block of an attack: read its images and targets, perturb, and lay out its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedstore.attack.aim import Aim
from embedstore.attack.options import Options
from embedstore.attack.perturb import Batches, Watch, perturb
from embedstore.attack.perturbed import Perturbed, nothing
from embedstore.attack.shards import json_bytes, member_key, png, write_block, write_shard
from embedstore.encoders.runtime import out_of_memory
from embedstore.errors import ImageError, one_line
from embedstore.records import FloatArray, IntArray, Rows
from embedstore.sources import decode

if TYPE_CHECKING:
    import torch

    from embedstore.encoders import Differentiable, Encoder
    from embedstore.sources import Source


@dataclass(frozen=True)
class Drawn:
    """Images of one split that take part, in order.

    Attributes
    ----------
    source : Source
    dataset, split : str
    rows : Rows
        All of the split.
    chosen : (N,) int64
        Those that take part.
    """

    source: Source
    dataset: str
    split: str
    rows: Rows
    chosen: IntArray

    def key(self, number: int) -> str:
        """Of image `number`."""
        return self.rows.keys[int(self.chosen[number])]

    def labels(self, start: int, stop: int) -> IntArray:
        """(stop - start,) int32: of the images ``[start, stop)``."""
        return self.rows.labels[self.chosen[start:stop]]

    def pixels(self, number: int, model: Differentiable) -> torch.Tensor | str:
        """(3, H, W) of image `number`; or, as text, at which stage it failed and why."""
        row = int(self.chosen[number])
        payload = next(iter(self.source.read(self.rows, row, row + 1)))
        if isinstance(payload, ImageError):
            return one_line("read", str(payload))
        try:
            image = decode(payload)
        except ImageError as error:
            return one_line("decode", str(error))
        try:
            return model.pixels(image).to(model.dtype)
        except Exception as error:  # whatever a transform raises on an odd image is that image's failure
            if out_of_memory(error):
                raise
            return one_line("preprocess", str(error) or type(error).__name__)

    def describe(self, number: int) -> dict[str, Any]:
        """Where image `number` comes from, as JSON."""
        row = int(self.chosen[number])
        return {"key": self.key(number), "dataset": self.dataset, "split": self.split, "row": row}


class BlockMaker:
    """Makes the blocks of one attack, in any order.

    Parameters
    ----------
    ood, target : Drawn
        N images each; image i is to become like target i.
    """

    def __init__(
        self, encoder: Encoder, model: Differentiable, ood: Drawn, target: Drawn, options: Options, aim: Aim, seed: int
    ) -> None:
        self._model, self._ood, self._target = model, ood, target
        self._options, self._aim, self._seed = options, aim, seed
        self._width = encoder.provenance.feature_dim
        self._joint_width = encoder.provenance.joint_dim
        self._mlp = encoder.projection is None

    @property
    def folders(self) -> list[str]:
        """Of the shards that a block has."""
        return ["adversarial", "clean", *(["target"] if self._aim.kind == "images" else [])]

    def make(self, out: Path, block: int, start: int, stop: int, batches: Batches, watch: Watch) -> None:
        """Make the images ``[start, stop)`` and write their files, the arrays last."""
        clean, targets, reasons = self._read(start, stop)
        good = np.flatnonzero([not reason for reason in reasons])
        made = self._perturb(start, good, clean, targets, batches, watch)
        for at, reason in zip(good.tolist(), made.reasons, strict=True):
            reasons[at] = reason or ""
        arrays = {name: _spread(values, good, stop - start) for name, values in self._measured(made).items()}
        adversarial = dict(zip(good.tolist(), made.rounded, strict=True))
        shards: dict[str, list[dict[str, bytes]]] = {folder: [] for folder in self.folders}
        for at, reason in enumerate(reasons):
            text = {"json": json_bytes(self._record(start + at, at, reason, arrays, made.trace_steps))}
            label = int(self._ood.labels(start + at, start + at + 1)[0])
            both = {**text, "cls": str(label).encode()} if label >= 0 else text
            shards["adversarial"].append(both if reason else {**both, "png": png(adversarial[at])})
            shards["clean"].append({**both, **_image(clean[at])})
            if "target" in shards:
                shards["target"].append({**text, **_image(targets[at])})
        keys = [member_key(self._ood.key(number)) for number in range(start, stop)]
        for folder, samples in shards.items():
            write_shard(out / folder, block, zip(keys, samples, strict=True))
        which = self._which(start, stop, keys, reasons)
        write_block(out, block, {**which, **arrays, "trace_steps": made.trace_steps}, shards)

    def _read(self, start: int, stop: int) -> tuple[list[torch.Tensor | str], list[torch.Tensor | str], list[str]]:
        """Pixels of images and targets, and why a pair cannot take part, or nothing."""
        clean = [self._ood.pixels(number, self._model) for number in range(start, stop)]
        targets: list[torch.Tensor | str] = []
        if self._aim.kind == "images":
            targets = [self._target.pixels(number, self._model) for number in range(start, stop)]
        reasons = [found if isinstance(found, str) else "" for found in clean]
        for at, found in enumerate(targets):
            if isinstance(found, str) and not reasons[at]:
                stage, _, why = found.partition(": ")
                reasons[at] = f"{stage}: its target {self._target.key(start + at)!r}: {why}"
        return clean, targets, reasons

    def _perturb(
        self,
        start: int,
        good: npt.NDArray[np.intp],
        clean: list[torch.Tensor | str],
        targets: list[torch.Tensor | str],
        batches: Batches,
        watch: Watch,
    ) -> Perturbed:
        import torch

        def chosen(pixels: list[torch.Tensor | str]) -> torch.Tensor:
            found = [pixels[at] for at in good.tolist()]
            return torch.stack([image for image in found if not isinstance(image, str)])

        if not len(good):
            return nothing(self._width, self._options)
        wanted = None
        if targets:
            wanted = features_of(self._model, chosen(targets), batches)
        labels = self._target.labels(start, start + len(clean))[good]
        objective = self._aim.objective(self._model, wanted, labels)
        rows = self._ood.chosen[start + good].tolist()
        seeds = [(self._seed, row) for row in rows]
        return perturb(self._model, chosen(clean), objective, self._options, seeds=seeds, batches=batches, watch=watch)

    def _measured(self, made: Perturbed) -> dict[str, FloatArray]:
        """The float arrays of the images that took part, by their names in a block's file."""
        without = ("images", "rounded", "trace_steps", "snapshots", "reasons")
        arrays = {each.name: getattr(made, each.name) for each in fields(made) if each.name not in without}
        arrays |= {f"step-{step}": found for step, found in made.snapshots.items()}
        if self._mlp:
            vectors = [name for name in arrays if name.startswith(("features", "step-"))]
            arrays |= {f"joint:{name}": self._joint(arrays[name]) for name in vectors}
        return arrays

    def _joint(self, features: FloatArray) -> FloatArray:
        import torch

        if not len(features):
            return np.empty((0, self._joint_width), dtype=np.float32)
        with torch.no_grad():
            found = self._model.joint(torch.from_numpy(features).to(self._model.device, self._model.dtype))
        joint: FloatArray = found.float().cpu().numpy()
        return joint

    def _which(self, start: int, stop: int, keys: list[str], reasons: list[str]) -> dict[str, npt.NDArray[Any]]:
        """Which images a block has, by their names in a block's file."""
        aimed = self._target.chosen[start:stop] if self._aim.kind != "energy" else np.full(stop - start, -1)
        return {
            "keys": np.array(keys),
            "reasons": np.array(reasons),
            "labels": self._ood.labels(start, stop).astype(np.int32),
            "ood_row": self._ood.chosen[start:stop].astype(np.int64),
            "target_row": aimed.astype(np.int64),
        }

    def _record(
        self, number: int, at: int, reason: str, arrays: Mapping[str, FloatArray], steps: IntArray
    ) -> dict[str, Any]:
        """What is to be known of an image, as JSON; None for what is not finite."""
        target = None
        if self._aim.kind != "energy":
            target = self._target.describe(number)
        if self._aim.by_class and target is not None:
            target["class"] = int(self._target.labels(number, number + 1)[0])
        similarity = {"before": "similarity_before", "after": "similarity", "rounded": "similarity_rounded"}
        trace = {"loss": "trace_loss", "similarity": "trace_similarity"}
        return {
            **self._ood.describe(number),
            "target": target,
            "failed": reason or None,
            "similarity": {name: _number(arrays[array][at]) for name, array in similarity.items()},
            **{name: _number(arrays[name][at]) for name in ("l2", "linf", "psnr")},
            "trace": {
                "steps": steps.tolist(),
                **{name: [_number(value) for value in arrays[array][at]] for name, array in trace.items()},
            },
        }


def features_of(model: Differentiable, images: torch.Tensor, batches: Batches) -> torch.Tensor:
    """(N, Dp) on the model's device: of clean images (N, 3, H, W), without gradients."""
    import torch

    def one(rows: slice) -> torch.Tensor:
        with torch.no_grad():
            return model.features(images[rows].to(model.device, model.dtype))

    return torch.cat(list(batches.over(len(images), one)))


def _image(pixels: torch.Tensor | str) -> dict[str, bytes]:
    """An image that could be read as a shard's member."""
    import torch

    if isinstance(pixels, str):
        return {}
    return {"png": png((pixels * 255).round().to(torch.uint8).numpy())}


def _spread(values: FloatArray, rows: npt.NDArray[np.intp], count: int) -> FloatArray:
    """(count, …): `values` in these rows, NaN in the others."""
    whole = np.full((count, *values.shape[1:]), np.nan, dtype=values.dtype)
    whole[rows] = values
    return whole


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
