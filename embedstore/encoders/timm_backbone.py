"""Image-only backbones, through timm. They have no text tower, so what needs class names is not available for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedstore.encoders import runtime
from embedstore.encoders.base import Differentiable, ImageFeatures
from embedstore.encoders.gradients import differentiable_tower
from embedstore.encoders.spec import ModelSpec
from embedstore.errors import ModelUnavailable, NotAvailable, UnknownName
from embedstore.records import FloatArray, Provenance

if TYPE_CHECKING:
    import PIL.Image
    import torch


def load_timm(spec: ModelSpec, *, device: str, precision: str, dtype: str) -> TimmEncoder:
    """Load a timm model without its classifier; parameters and errors as :func:`embedstore.encoders.load_encoder`."""
    import timm

    where = runtime.find_device(device)
    _check_name(spec)
    with runtime.silent_root_logger(), runtime.prompt_hub(spec.weights is None):
        # timm, the hub's client, safetensors and torch.load raise what they like; here it gets one name.
        try:
            model: Any = timm.create_model(spec.architecture, pretrained=spec.weights is None, num_classes=0)
            if spec.weights is not None:
                _load_weights(model, spec.weights)
        except Exception as error:
            raise _unavailable(spec, error) from error
    model.eval().requires_grad_(False)
    sha256 = runtime.weights_sha256(model.state_dict())
    encoder = TimmEncoder(model.to(where), device=where, precision=precision)
    width = encoder.projection.shape[0]
    encoder.provenance = Provenance(
        name=spec.name,
        architecture=f"timm:{spec.architecture}",
        pretrained="local" if spec.weights else str(model.pretrained_cfg.get("tag") or "default"),
        weights_sha256=sha256,
        preprocess=runtime.as_json(encoder.preprocess_config),
        tokenizer=None,
        quick_gelu=runtime.uses_quick_gelu(model),
        precision=precision,
        dtype=dtype,
        feature_dim=width,
        joint_dim=width,
        versions=runtime.package_versions(),
        parameters=runtime.parameters(model),
        gflops=runtime.gflops(encoder.images, encoder.preprocess_config["input_size"]),
    )
    return encoder


class TimmEncoder:
    """Fulfils :class:`embedstore.encoders.Encoder` for a timm model with ``num_classes=0``: its pooled output.

    Raises
    ------
    ModelUnavailable
        If the model does not give one vector per image.
    """

    has_text = False
    provenance: Provenance

    def __init__(self, model: Any, *, device: torch.device, precision: str) -> None:
        import torch
        from timm import data
        from torchvision.transforms import Compose

        self.model = model
        self._device = device
        self.device = str(device)
        self._precision = precision
        timm_data: Any = data
        self.preprocess_config: dict[str, Any] = timm_data.resolve_model_data_config(model)
        transform = timm_data.create_transform(**self.preprocess_config, is_training=False)
        self.preprocess: Callable[[PIL.Image.Image], Any] = Compose([to_rgb, *transform.transforms])
        probe = self.images(torch.zeros(1, *self.preprocess_config["input_size"])).features
        if probe.ndim != 2:
            raise ModelUnavailable(f"the model gives an array {probe.shape[1:]} per image, and not one vector")
        self.projection: FloatArray = np.eye(probe.shape[1], dtype=np.float32)

    def images(self, batch: torch.Tensor) -> ImageFeatures:
        """Embed a batch, (B, 3, H, W) float32, on its device or on the CPU."""
        with runtime.forward_pass(self._device, self._precision):
            return ImageFeatures(runtime.to_numpy(self.model(batch.to(self._device, non_blocking=True))))

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Raise NotAvailable."""
        raise NotAvailable(
            f"{self.provenance.name} is an image-only model and cannot embed texts: zero-shot classes, pseudo-labels "
            "and captions need an image-text model, such as ViT-B-32/laion2b_s34b_b79k"
        )

    def differentiable(self) -> Differentiable:
        """The backbone for gradients; see :func:`embedstore.encoders.base.differentiable`."""
        return differentiable_tower(
            self.preprocess, self.model, lambda features: features, device=self._device, precision=self._precision
        )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Three channels; timm's transform leaves this to timm's own data sets, and fails on a grey image."""
    return image.convert("RGB")


def _check_name(spec: ModelSpec) -> None:
    import timm

    if spec.architecture.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    base, _, tag = spec.architecture.partition(".")
    if not timm.is_model(base):
        raise UnknownName("timm model", base, runtime.nearest(base, timm.list_models(), "timm.list_models()"))
    if tag and not timm.models.is_model_pretrained(spec.architecture):
        names = timm.list_models(f"{base}.*", pretrained=True)
        raise UnknownName(f"pretrained tag of {base}", tag, [name.partition(".")[2] for name in names])


def _load_weights(model: Any, weights: str) -> None:
    """Load a checkpoint strictly but for its classifier.

    timm's own way (``pretrained_cfg_overlay``) is not strict without a classifier: a file of another model would load
    nothing, and say so only in its log.
    """
    import timm

    path = Path(weights).expanduser()
    path = path if path.is_file() else Path("/") / path
    state = timm.models.load_state_dict(str(path), weights_only=True)
    # The convention of timm's model files for checkpoints in their authors' own layout.
    remap = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if remap is not None:
        state = remap(state, model)
    names = model.pretrained_cfg.get("classifier") or ()
    for name in (names,) if isinstance(names, str) else names:
        state.pop(f"{name}.weight", None)
        state.pop(f"{name}.bias", None)
    model.load_state_dict(state, strict=True)


def _unavailable(spec: ModelSpec, error: Exception) -> ModelUnavailable:
    message = f"the timm model {spec.architecture!r} could not be loaded"
    reason = runtime.reason(error)
    if spec.weights is not None:
        return ModelUnavailable(f"{message} from {Path(spec.weights).expanduser().absolute()}. {reason}")
    return ModelUnavailable(
        f"{message}. Looked for its weights on the Hugging Face Hub and in the cache. {reason}\n"
        + runtime.without_network(f"timm:{spec.architecture}//WEIGHTS.safetensors")
    )
