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
    "defended",
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
    defence: str | None = None,
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
    defence : str, optional
        ``"jpeg:75"``, ``"blur:1.0"`` or ``"resize:0.9"``: what images go through before the model sees them. Another
        model for the store, by default called as :func:`defended` says. See :mod:`embedstore.encoders.defences`.

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
    encoder = _load(defended(spec, defence, name=name), device=device, precision=precision, dtype=dtype)
    if decode == "fast":
        from embedstore.encoders.fast import with_fast_transform

        encoder = with_fast_transform(encoder)
    if defence is not None:
        from embedstore.encoders.defences import Defence, with_defence

        encoder = with_defence(encoder, Defence.parse(defence))
    return encoder


def defended(spec: str, defence: str | None, *, name: str | None = None) -> ModelSpec:
    """The model that a spelling means, called ``MODEL+jpeg75`` behind a defence unless it is given a name.

    Raises
    ------
    UsageError
        A spelling, name or defence that cannot be right.
    """
    model = parse_model(spec, name=name)
    if defence is None:
        return model
    from embedstore.encoders.defences import Defence

    found = Defence.parse(defence)
    return model if name is not None else parse_model(spec, name=model.name + found.suffix)


def _load(model: ModelSpec, *, device: str, precision: str, dtype: str) -> Encoder:
    if model.kind == "fake":
        from embedstore.encoders.fake import FakeEncoder

        return FakeEncoder(model.pretrained or "", name=model.name, precision=precision, dtype=dtype)
    if model.kind == "timm":
        from embedstore.encoders.timm_backbone import load_timm

        return load_timm(model, device=device, precision=precision, dtype=dtype)
    from embedstore.encoders.clip import load_clip

    return load_clip(model, device=device, precision=precision, dtype=dtype)
