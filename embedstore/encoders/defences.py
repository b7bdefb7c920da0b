"""Simple defences against adversarial images: what an image goes through before a model sees it.

A defended model is another model: its features are others, and a store keeps both. The defence works on the image at
the model's input size, after scaling and cutting: there it is equally strong on every image, whatever the size of the
file that the image comes from, and an attack's shards are of that size anyway.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from embedstore.encoders import fake
from embedstore.encoders.base import seeing_through
from embedstore.encoders.fast import FastTransform
from embedstore.encoders.levels import TO_TENSOR, Levels, levels
from embedstore.errors import NotAvailable, UsageError

if TYPE_CHECKING:
    import PIL.Image

    from embedstore.encoders.base import Encoder

_FORMS = "jpeg:QUALITY (1 to 100), blur:RADIUS in pixels, or resize:SHARE of the side (between 0 and 1)"


@dataclass(frozen=True)
class Defence:
    """One defence; from an RGB image to one of the same size, the same for the same pixels.

    Attributes
    ----------
    kind : str
        ``"jpeg"``: JPEG encoding and decoding, by Pillow with its defaults (Guo et al., arXiv 1711.00117).
        ``"blur"``: Pillow's Gaussian blur.
        ``"resize"``: scaled to a random side and put at a random place on black, after Xie et al. (arXiv 1711.01991),
        who enlarge where this shrinks, since the input size stays. Random, but drawn from a hash of the pixels.
    strength : float
        The quality; the radius in pixels; the smallest share of the side.

    Raises
    ------
    UsageError
        An unknown kind, or a strength out of its range.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        fits = {
            "jpeg": self.strength in range(1, 101),
            "blur": 0 < self.strength < float("inf"),
            "resize": 0 < self.strength < 1,
        }
        if not fits.get(self.kind, False):
            raise UsageError(f"there is no defence {self}; give {_FORMS}")

    @classmethod
    def parse(cls, text: str) -> Defence:
        """Read ``"jpeg:75"``, ``"blur:1.0"`` or ``"resize:0.9"``; UsageError for anything else."""
        kind, _, number = text.partition(":")
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", number):
            raise UsageError(f"the defence {text!r} is not understood; give {_FORMS}")
        return cls(kind, float(number))

    def __str__(self) -> str:
        return f"{self.kind}:{self._digits}"

    @property
    def suffix(self) -> str:
        """What it adds to a model's name, as in ``MODEL+jpeg75``."""
        return f"+{self.kind}{self._digits}"

    @property
    def _digits(self) -> str:
        """The strength, so that :meth:`parse` reads the same number again."""
        return np.format_float_positional(self.strength, trim="-")

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """RGB, of the same size."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return {"jpeg": _jpeg, "blur": _blur, "resize": _resize}[self.kind](rgb, self.strength)


def _jpeg(image: PIL.Image.Image, quality: float) -> PIL.Image.Image:
    from PIL import Image

    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _blur(image: PIL.Image.Image, radius: float) -> PIL.Image.Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(radius))


def _resize(image: PIL.Image.Image, share: float) -> PIL.Image.Image:
    from PIL import Image

    rng = np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest()))
    scale = rng.uniform(share, 1)
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
    padded = Image.new("RGB", image.size)
    padded.paste(image.resize((width, height), Image.Resampling.BILINEAR), (int(left), int(top)))
    return padded


@dataclass(frozen=True)
class Defended:
    """A model's transform with a defence in it; pickles like the transform itself.

    Attributes
    ----------
    fit : callable
        From an image to one of the model's input size.
    defence : Defence
    normalize : callable
        From such an image to what the model takes.
    """

    fit: Callable[[PIL.Image.Image], PIL.Image.Image]
    defence: Defence
    normalize: Callable[[PIL.Image.Image], Any]

    def __call__(self, image: PIL.Image.Image) -> Any:
        """What the model takes."""
        return self.normalize(self.defence(self.fit(image)))

    @property
    def levels(self) -> Levels | None:
        """Its halves, where the model's own transform has any."""
        last = levels(self.normalize)
        if last is None:
            return None
        from torchvision.transforms import Compose

        return replace(last, to_bytes=Compose([self.fit, self.defence, last.to_bytes]))


@dataclass(frozen=True)
class _Fitted:
    """The image that a fast transform makes before it normalises."""

    transform: FastTransform

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.transform.to_bytes(image).numpy().transpose(1, 2, 0)))


def with_defence(encoder: Encoder, defence: Defence) -> Encoder:
    """The same encoder, which now sees every image through a defence; its provenance says so.

    Gradients do not pass it: the encoder cannot be attacked any more, only what an attack on the plain one made be
    embedded.

    Raises
    ------
    UsageError
        Its transform is not one that this can be put into.
    """
    parts = _parts(encoder.preprocess)
    if parts is None:
        raise UsageError(
            f"--defence {defence} goes between scaling an image and making a tensor of it, and the transform of "
            f"{encoder.provenance.name} has no such place: {' '.join(str(encoder.preprocess).split())[:200]}"
        )
    changed: Any = seeing_through(encoder, Defended(parts[0], defence, parts[1]), defence=str(defence))
    changed.differentiable = _Refusal(encoder.provenance.name, defence)
    return encoder


def _parts(preprocess: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """What gives an image of the model's input size, and what follows."""
    if preprocess is fake.shrink:
        return fake._small, fake.shrink  # which leaves a small image as it is
    if isinstance(preprocess, FastTransform):
        return _Fitted(preprocess), replace(preprocess, size=preprocess.crop)
    steps = list(getattr(preprocess, "transforms", ()))
    tensor = [at for at, step in enumerate(steps) if type(step).__name__ in TO_TENSOR]
    if not tensor:
        return None
    from torchvision.transforms import Compose

    return Compose(steps[: tensor[0]]), Compose(steps[tensor[0] :])


@dataclass(frozen=True)
class _Refusal:
    """Stands where an encoder has its differentiable view."""

    name: str
    defence: Defence

    def __call__(self) -> NoReturn:
        raise NotAvailable(
            f"{self.name} sees images through the defence {self.defence}, which gradients do not pass, so it cannot be "
            f"attacked; attack the plain model, and extract what that makes with --defence {self.defence}"
        )
