"""Models that turn images and texts into vectors: open_clip, timm, and a fake for tests.

One function, :func:`load_encoder`, and one small protocol, :class:`Encoder`. Nothing here imports torch until a model
is loaded.
"""

from __future__ import annotations

from embedstore.encoders.base import Differentiable, Encoder, ImageFeatures, differentiable
from embedstore.encoders.spec import ModelSpec, parse_model
from embedstore.errors import UnknownName

__all__ = [
    "DECODERS",
    "DTYPES",
    "PRECISIONS",
    "Differentiable",
    "Encoder",
    "ImageFeatures",
    "ModelSpec",
    "differentiable",
    "load_encoder",
    "parse_model",
]

PRECISIONS = ("fp32", "bf16", "fp16")
DTYPES = ("float16", "float32")
DECODERS = ("exact", "fast")


def load_encoder(
    spec: str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    dtype: str = "float16",
    name: str | None = None,
    decode: str = "exact",
) -> Encoder:
    """Load a model, frozen and in evaluation mode.

    Parameters
    ----------
    spec : str
        See :mod:`embedstore.encoders.spec` for the spellings.
    device : str
        As torch names it: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` … or ``"auto"``.
    precision : {"fp32", "bf16", "fp16"}
        What the forward pass computes in; results are float32 in any case.
    dtype : {"float16", "float32"}
        What the features will be stored as; only recorded here.
    name : str, optional
        Its name in the store, instead of the one that follows from ``spec``.
    decode : {"exact", "fast"}
        ``"fast"`` scales images with torch in place of Pillow: another model for the store, whose features agree.

    Raises
    ------
    UsageError
        A spelling, name or device that cannot be right; an architecture without weights.
    UnknownName
        An architecture, tag, precision or dtype that nobody knows.
    ModelUnavailable
        The weights cannot be had, or do not fit.
    """
    if precision not in PRECISIONS:
        raise UnknownName("precision", precision, PRECISIONS)
    if dtype not in DTYPES:
        raise UnknownName("storage dtype", dtype, DTYPES)
    if decode not in DECODERS:
        raise UnknownName("way to decode", decode, DECODERS)
    encoder = _load(parse_model(spec, name=name), device=device, precision=precision, dtype=dtype)
    if decode == "exact":
        return encoder
    from embedstore.encoders.fast import with_fast_transform

    return with_fast_transform(encoder)


def _load(model: ModelSpec, *, device: str, precision: str, dtype: str) -> Encoder:
    if model.kind == "fake":
        from embedstore.encoders.fake import FakeEncoder

        return FakeEncoder(model.pretrained or "", name=model.name, precision=precision, dtype=dtype)
    if model.kind == "timm":
        from embedstore.encoders.timm_backbone import load_timm

        return load_timm(model, device=device, precision=precision, dtype=dtype)
    from embedstore.encoders.clip import load_clip

    return load_clip(model, device=device, precision=precision, dtype=dtype)
