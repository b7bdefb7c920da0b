"""Image-text models, through open_clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders import runtime
from embedstore.encoders.base import Differentiable, ImageFeatures
from embedstore.encoders.gradients import differentiable_tower
from embedstore.encoders.heads import Head, split_head
from embedstore.encoders.sources import find_source, unavailable
from embedstore.encoders.spec import ModelSpec
from embedstore.errors import ModelUnavailable
from embedstore.records import FloatArray, Provenance, fingerprint

if TYPE_CHECKING:
    import PIL.Image
    import torch

_TEXTS_A_BATCH = 256

# What a tokenizer makes of these tells tokenizers apart that have the same class and vocabulary size.
_PROBES = ["a photo of a cat.", "A Photo, of the 2 cafés & <b>Straße</b>; 日本 🙂", ""]


def load_clip(spec: ModelSpec, *, device: str, precision: str, dtype: str) -> ClipEncoder:
    """Load an open_clip model; parameters and errors as :func:`embedstore.encoders.load_encoder`."""
    import open_clip

    where = runtime.find_device(device)
    source = find_source(spec)
    with runtime.silent_root_logger(), runtime.prompt_hub(source.remote):
        # open_clip, the hub's client, safetensors and torch.load raise what they like; here it gets one name.
        try:
            model = open_clip.create_model(
                source.model,
                source.pretrained,
                # ViT-B-32/openai was trained with QuickGELU, but the architecture ViT-B-32 is built without it:
                # open_clip warns and goes on with worse features. The tag knows better.
                force_quick_gelu=source.quick_gelu,
                require_pretrained=True,
                weights_only=True,
            )
            tokenizer = open_clip.get_tokenizer(source.model)
            config = open_clip.get_model_config(source.model)
        except Exception as error:
            raise unavailable(spec, source, error) from error
    model.eval().requires_grad_(False)
    sha256 = runtime.weights_sha256(model.state_dict())
    encoder = ClipEncoder(model.to(where), tokenizer, device=where, precision=precision)
    encoder.provenance = Provenance(
        name=spec.name,
        architecture=source.model if source.built_in else _describe(model, config),
        pretrained=source.label,
        weights_sha256=sha256,
        preprocess=runtime.as_json(model.visual.preprocess_cfg),
        tokenizer=_describe_tokenizer(tokenizer, config),
        quick_gelu=runtime.uses_quick_gelu(model),
        precision=precision,
        dtype=dtype,
        feature_dim=encoder.feature_dim,
        joint_dim=encoder.joint_dim,
        logit_scale=float(model.logit_scale.exp().item()),
        versions=runtime.package_versions(),
        parameters=runtime.parameters(model.visual),
        gflops=runtime.gflops(encoder.images, encoder.input_size),
    )
    return encoder


class ClipEncoder:
    """Fulfils :class:`embedstore.encoders.Encoder` for an open_clip model.

    Parameters
    ----------
    model : torch.nn.Module
        On ``device``, in evaluation mode. It stays whole and usable, as ``.model``.
    tokenizer : callable
        From a list of T texts to a tensor of T rows.
    device : torch.device
    precision : str

    Raises
    ------
    ModelUnavailable
        If features and projection, as taken apart here, do not give what the model's own ``encode_image`` does.
    """

    has_text = True
    provenance: Provenance

    def __init__(self, model: Any, tokenizer: Any, *, device: torch.device, precision: str) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.model = model
        self._tokenizer = tokenizer
        self._device = device
        self.device = str(device)
        self._precision = precision
        self._head: Head = split_head(model)
        config = PreprocessCfg(**model.visual.preprocess_cfg)
        self.preprocess: Callable[[PIL.Image.Image], Any] = image_transform_v2(config, is_train=False)
        self.projection: FloatArray | None = None
        if self._head.matrix is not None:
            self.projection = runtime.to_numpy(self._head.matrix)
        self.input_size: tuple[int, int, int] = config.input_size
        self.feature_dim, self.joint_dim = self._check()
        if self._head.matrix is None and self._head.rest is None:
            self.projection = np.eye(self.joint_dim, dtype=np.float32)

    def images(self, batch: torch.Tensor) -> ImageFeatures:
        """Embed a batch, (B, 3, H, W) float32, on its device or on the CPU."""
        with runtime.forward_pass(self._device, self._precision):
            features = self._head.features(batch.to(self._device, non_blocking=True))
            projected = None if self._head.rest is None else self._head.rest(features)
        return ImageFeatures(runtime.to_numpy(features), None if projected is None else runtime.to_numpy(projected))

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Embed T texts as unit vectors, (T, D) float32; what exceeds the context length is cut off."""
        vectors = np.zeros((len(texts), self.joint_dim), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_A_BATCH):
            tokens = self._tokenizer(list(texts[start : start + _TEXTS_A_BATCH])).to(self._device)
            with runtime.forward_pass(self._device, self._precision):
                encoded = self.model.encode_text(tokens, normalize=False)
            vectors[start : start + len(tokens)] = runtime.unit_rows(runtime.to_numpy(encoded))
        return vectors

    def differentiable(self) -> Differentiable:
        """The image tower for gradients; see :func:`embedstore.encoders.base.differentiable`."""
        return differentiable_tower(
            self.preprocess, self._head.features, self._project, device=self._device, precision=self._precision
        )

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        if self._head.rest is not None:
            return self._head.rest(features)
        return features if self._head.matrix is None else features @ self._head.matrix

    def _check(self) -> tuple[int, int]:
        """Compare with ``encode_image`` on one image; return Dp and D.

        Costs two passes of one image, and catches a tower that another release of open_clip built otherwise.
        """
        import torch

        image = torch.linspace(-1, 1, int(np.prod(self.input_size))).reshape(1, *self.input_size)
        found = self.images(image)
        with runtime.forward_pass(self._device, self._precision):
            expected = runtime.to_numpy(self.model.encode_image(image.to(self._device), normalize=False))
        joint = found.features if found.projected is None else found.projected
        if self.projection is not None and joint.ndim == 2:
            joint = joint @ self.projection
        # A wrong part of the model gives a cosine near 0; bf16 costs less than 0.001.
        if joint.ndim != 2 or joint.shape != expected.shape or not _cosine(joint[0], expected[0]) >= 0.99:
            raise ModelUnavailable(
                f"the image tower {type(self.model.visual).__name__} is built in a way not understood here: features "
                f"times projection differ from the model's own encode_image (shapes {joint.shape}, {expected.shape})"
            )
        return found.features.shape[1], joint.shape[1]


def _cosine(a: FloatArray, b: FloatArray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _describe(model: Any, config: Any) -> str:
    """Name a model that has no name of its own by its classes and its configuration, which the weights do not show."""
    return f"{type(model).__name__}-{type(model.visual).__name__}-{fingerprint(config)[:12]}"


def _describe_tokenizer(tokenizer: Any, config: Any) -> str:
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    parts = [type(tokenizer).__name__, f"context {tokenizer.context_length}", f"vocabulary {inner.vocab_size}"]
    name = config.get("text_cfg", {}).get("hf_tokenizer_name")
    if name:
        parts.insert(1, str(name))
    parts.append(f"probe {fingerprint(tokenizer(_PROBES).tolist())[:12]}")
    return ", ".join(parts)
