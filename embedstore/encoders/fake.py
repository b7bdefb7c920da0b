"""An encoder without a model: tiny, deterministic, numpy only.

Its features depend on the picture (a fixed random projection of 16 x 16 pixels), so that classes that look different
can be told apart; its texts are hashes and mean nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders.base import Differentiable, ImageFeatures
from embedstore.records import FloatArray, Provenance

if TYPE_CHECKING:
    import PIL.Image
    import torch

SIDE = 16


def shrink(image: PIL.Image.Image) -> FloatArray:
    """RGB, squashed to 16 x 16, in [-1, 1]: (3, 16, 16) float32."""
    return (np.asarray(_small(image), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


def _small(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


class FakeEncoder:
    """Fulfils :class:`embedstore.encoders.Encoder` on the CPU in microseconds.

    Parameters
    ----------
    variant : str
        Seeds the weights: another variant is another model. The variant ``"mlp"`` has an MLP head.
    name : str, optional
        Its name in the store; ``"fake"`` or ``"fake-VARIANT"`` if not given.
    precision, dtype : str
        Recorded; the arithmetic is always float64.
    feature_dim, joint_dim : int
        Dp and D.
    mlp : bool, optional
        Whether the head is an MLP rather than a matrix, so that ``projection`` is None.
    """

    has_text = True
    device = "cpu"

    def __init__(
        self,
        variant: str = "",
        *,
        name: str | None = None,
        precision: str = "fp32",
        dtype: str = "float16",
        feature_dim: int = 24,
        joint_dim: int = 12,
        mlp: bool | None = None,
    ) -> None:
        seed = int.from_bytes(hashlib.sha256(variant.encode()).digest()[:8], "little")
        rng = np.random.default_rng(seed)
        pixels = 3 * SIDE * SIDE
        # The factor 2 spreads the features over most of (-1, 1) without saturating tanh.
        self._body = rng.standard_normal((pixels, feature_dim)) * (2 / np.sqrt(pixels))
        self._head = (rng.standard_normal((feature_dim, joint_dim)) / np.sqrt(feature_dim)).astype(np.float32)
        self._mlp = variant == "mlp" if mlp is None else mlp
        self.preprocess: Callable[[PIL.Image.Image], Any] = shrink
        self.projection: FloatArray | None = None if self._mlp else self._head
        self.provenance = Provenance(
            name=name or (f"fake-{variant}" if variant else "fake"),
            architecture="fake-mlp" if self._mlp else "fake",
            pretrained=variant or "default",
            weights_sha256=hashlib.sha256(self._body.tobytes() + self._head.tobytes()).hexdigest(),
            preprocess={"size": [SIDE, SIDE], "mode": "RGB", "resize_mode": "squash", "interpolation": "bicubic"},
            tokenizer="sha256",
            quick_gelu=False,
            precision=precision,
            dtype=dtype,
            feature_dim=feature_dim,
            joint_dim=joint_dim,
            logit_scale=100.0,
            versions={"numpy": version("numpy"), "pillow": version("pillow")},
        )

    def images(self, batch: Any) -> ImageFeatures:
        """Embed (B, 3, 16, 16), an array or a CPU tensor.

        Row by row, because a matrix product over the batch may round a row differently in another batch, and tests
        compare bytes.
        """
        rows = np.asarray(batch, dtype=np.float64).reshape(len(batch), self._body.shape[0])
        features = self._rows([np.tanh(row @ self._body) for row in rows], self._body.shape[1])
        if not self._mlp:
            return ImageFeatures(features)
        projected = [np.tanh(row.astype(np.float64) @ self._head) for row in features]
        return ImageFeatures(features, self._rows(projected, self._head.shape[1]))

    def differentiable(self) -> Differentiable:
        """The same function in torch, in float64 throughout, so that finite differences can check gradients.

        Row by row too: what becomes of an image does not depend on its batch, to the last bit.
        """
        import torch

        body, head = torch.from_numpy(self._body), torch.from_numpy(self._head.astype(np.float64))

        def pixels(image: PIL.Image.Image) -> torch.Tensor:
            small = np.asarray(_small(image), dtype=np.float64)
            return torch.from_numpy(small.transpose(2, 0, 1) / 255)

        def features(batch: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.tanh((row * 2 - 1).reshape(-1) @ body) for row in batch])

        def joint(vectors: torch.Tensor) -> torch.Tensor:
            projected = torch.stack([row @ head for row in vectors])
            return torch.tanh(projected) if self._mlp else projected

        return Differentiable(pixels, features, joint, torch.device("cpu"), torch.float64)

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors that depend on each text's SHA-256 alone, (T, D) float32."""
        return self._rows([self._text(text) for text in texts], self._head.shape[1])

    def _text(self, text: str) -> FloatArray:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self._head.shape[1])
        unit: FloatArray = vector / np.linalg.norm(vector)
        return unit

    @staticmethod
    def _rows(rows: list[FloatArray], width: int) -> FloatArray:
        return np.array(rows, dtype=np.float32).reshape(len(rows), width)
