"""How a model is spelled on a command line, and what it is called in a store.

    ViT-B-32/laion2b_s34b_b79k      architecture and pretrained tag of open_clip: the canonical spelling
    ViT-B-32,tag   ViT-B-32:tag     the same in other tools' spellings; also ViT-B/32,tag
    ViT-B-32//weights.safetensors   an architecture of open_clip with weights from a file
    hf-hub:org/repo                 an open_clip model on the Hugging Face Hub
    local-dir:PATH                  an open_clip model in a folder: open_clip_config.json and weights
    timm:NAME   timm:NAME//FILE     an image-only backbone of timm
    fake   fake:VARIANT             a tiny deterministic encoder for tests and demonstrations

``open_clip:`` before any of the first five is understood. Everything here is work on strings: no import, no disk.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from embedstore.errors import UsageError

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@=:-]*")


@dataclass(frozen=True)
class ModelSpec:
    """One model, as asked for.

    Attributes
    ----------
    kind : str
        ``"open_clip"``, ``"timm"`` or ``"fake"``.
    architecture : str
        As the library knows it, ``hf-hub:`` and ``local-dir:`` included.
    pretrained : str or None
        The tag; for a fake its variant.
    weights : str or None
        Path of a weights file.
    name : str
        What it is called in a store: safe as a relative path, never a path of this machine.
    """

    kind: str
    architecture: str
    pretrained: str | None
    weights: str | None
    name: str


def parse_model(spec: str, *, name: str | None = None) -> ModelSpec:
    """Read a model's spelling.

    A bare word is kept as it is, because it may be a name in a store; whether it can be loaded is for
    :func:`embedstore.encoders.load_encoder` to say. Parsing a name gives that name again.

    Parameters
    ----------
    spec : str
    name : str, optional
        What it shall be called instead.

    Raises
    ------
    UsageError
        For an empty part, or a name that cannot be one in a store.
    """
    if spec.startswith(("/", "./", "../", "~")):
        raise UsageError(
            f"{spec!r} is a path: write local-dir:{spec} for a folder, ARCHITECTURE//{spec} for a weights file"
        )
    parsed = _read(spec)
    if name is not None:
        parsed = replace(parsed, name=name)
    if not all(_PART.fullmatch(part) for part in parsed.name.split("/")):
        raise UsageError(
            f"{parsed.name!r} cannot be a model's name in a store: it must be parts separated by '/', each of letters, "
            f"digits and . _ + @ = : - that begins with a letter or digit; choose another name for {spec!r} with --name"
        )
    # Every command accepts names as well as spellings, so a name that reads as the spelling of another would be lost.
    if _read(parsed.name).name != parsed.name:
        raise UsageError(
            f"{parsed.name!r} cannot be a model's name in a store, because it reads as a spelling of "
            f"{_read(parsed.name).name!r}; choose another with --name"
        )
    return parsed


def _read(spec: str) -> ModelSpec:
    if spec == "fake" or spec.startswith("fake:"):
        variant = _after("fake:", spec) if spec != "fake" else None
        return ModelSpec("fake", "fake", variant, None, f"fake-{variant}" if variant else "fake")
    if spec.startswith("timm:"):
        architecture, weights = _weights(_after("timm:", spec), spec)
        return ModelSpec("timm", architecture, None, weights, _stem(weights) if weights else f"timm:{architecture}")
    return _read_open_clip(spec.removeprefix("open_clip:"), spec)


def _read_open_clip(text: str, spec: str) -> ModelSpec:
    if text.startswith("hf-hub:"):
        _after("hf-hub:", text)
        return ModelSpec("open_clip", text, None, None, text)
    if text.startswith("local-dir:"):
        path = _after("local-dir:", text)
        return ModelSpec("open_clip", text, None, None, os.path.basename(path.rstrip("/")))
    architecture, weights = _weights(text, spec)
    if weights:
        return ModelSpec("open_clip", architecture.replace("/", "-"), None, weights, _stem(weights))
    for separator in (",", ":"):
        if separator in text:
            architecture, tag = _parts(text, separator, spec)
            architecture = architecture.replace("/", "-")  # OpenAI's own spelling, ViT-B/32
            return ModelSpec("open_clip", architecture, tag, None, f"{architecture}/{tag}")
    if "/" in text:
        architecture, tag = _parts(text, "/", spec)
        return ModelSpec("open_clip", architecture, tag, None, text)
    if not text:
        raise UsageError(f"{spec!r} names no model; write it like ViT-B-32/laion2b_s34b_b79k")
    return ModelSpec("open_clip", text, None, None, text)


def _after(prefix: str, text: str) -> str:
    rest = text.removeprefix(prefix)
    if not rest:
        raise UsageError(f"{text!r} has nothing after {prefix!r}")
    return rest


def _parts(text: str, separator: str, spec: str) -> tuple[str, str]:
    first, _, second = text.partition(separator)
    if not first or not second:
        raise UsageError(f"{spec!r} has an empty part beside {separator!r}; write it like ViT-B-32/laion2b_s34b_b79k")
    return first, second


def _weights(text: str, spec: str) -> tuple[str, str | None]:
    return _parts(text, "//", spec) if "//" in text else (text, None)


def _stem(path: str) -> str:
    return PurePosixPath(path).stem
