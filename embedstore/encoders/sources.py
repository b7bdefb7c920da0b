"""Where an open_clip model's configuration and weights come from, checked before anything is built.

open_clip falls back to random weights where it finds none; here that is always an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedstore.encoders.runtime import nearest, reason, without_network
from embedstore.encoders.spec import ModelSpec
from embedstore.errors import ModelUnavailable, UnknownName, UsageError

_WEIGHTS = ("*.safetensors", "*.bin", "*.pth")


@dataclass(frozen=True)
class Source:
    """What to tell open_clip, and what to tell the user if it fails.

    Attributes
    ----------
    model, pretrained : str, str or None
        open_clip's arguments.
    label : str
        For provenance: the tag, ``"local"``, or the repository on the hub.
    looked_for : str
    built_in : bool
        Whether ``model`` names one of open_clip's own architectures.
    remote : bool
        Whether files may have to come from the hub.
    quick_gelu : bool
        Whether the tag's weights were trained with QuickGELU.
    """

    model: str
    pretrained: str | None
    label: str
    looked_for: str
    built_in: bool = True
    remote: bool = False
    quick_gelu: bool = False


def find_source(spec: ModelSpec) -> Source:
    """Decide where a model comes from.

    Raises
    ------
    UsageError
        An architecture without weights.
    UnknownName
        An architecture or tag that open_clip does not know.
    ModelUnavailable
        Files that are not there.
    """
    if spec.architecture.startswith("local-dir:"):
        return _local(Path(spec.architecture.removeprefix("local-dir:")).expanduser().absolute())
    if spec.architecture.startswith("hf-hub:"):
        looked_for = f"{spec.architecture} on the Hugging Face Hub and in its cache"
        return Source(spec.architecture, None, spec.architecture, looked_for, built_in=False, remote=True)

    import open_clip

    if spec.architecture not in open_clip.list_models():
        known = nearest(
            spec.architecture, open_clip.list_models(), "open_clip.list_models(); for a folder, local-dir:PATH"
        )
        raise UnknownName("open_clip architecture", spec.architecture, known)
    if spec.weights is not None:
        path = _existing(spec.weights, spec.architecture)
        return Source(spec.architecture, str(path), "local", f"the file {path}")
    return _tag(spec.architecture, spec.pretrained)


def _local(folder: Path) -> Source:
    if not folder.is_dir():
        raise ModelUnavailable(
            f"there is no folder {folder}; local-dir: takes one with open_clip_config.json and weights"
        )
    if not (folder / "open_clip_config.json").is_file():
        raise ModelUnavailable(
            f"{folder} has no open_clip_config.json, which says what to build; it came with the weights"
        )
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelUnavailable(f"{folder} has no weights: looked for {', '.join(_WEIGHTS)}")
    return Source(f"local-dir:{folder}", None, "local", f"configuration and weights in {folder}", built_in=False)


def _existing(weights: str, architecture: str) -> Path:
    # In `ViT-B-32//data/w.pt` the path may be meant to begin before or after the second slash; the relative one is
    # what the grammar says and comes first. Three slashes are never in doubt.
    written = Path(weights).expanduser()
    for path in (written, Path("/") / written):
        if path.is_file():
            return path.absolute()
    raise ModelUnavailable(f"there is no weights file {written.absolute()} for {architecture}")


def _tag(architecture: str, tag: str | None) -> Source:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag is None:
        raise UsageError(
            f"{architecture!r} has no weights without a tag: write {architecture}/TAG with one of "
            f"{', '.join(sorted(tags)) or '(open_clip has none)'}, or {architecture}//WEIGHTS-FILE"
        )
    config = get_pretrained_cfg(architecture, tag)
    if not config:
        raise UnknownName(f"pretrained tag of {architecture}", tag, tags)
    place = f"{config['hf_hub']} on the Hugging Face Hub" if config.get("hf_hub") else str(config.get("url"))
    looked_for = f"weights at {place.replace('/ on', ' on')}, and in the cache"
    return Source(architecture, tag, tag, looked_for, remote=True, quick_gelu=bool(config.get("quick_gelu")))


def unavailable(spec: ModelSpec, source: Source, error: Exception) -> ModelUnavailable:
    """Say what was looked for, what went wrong, and how to supply the model otherwise."""
    message = f"the model {spec.name!r} could not be loaded. Looked for {source.looked_for}. {reason(error)}"
    if not source.remote:
        return ModelUnavailable(message)
    architecture = source.model if source.built_in else "ARCHITECTURE"
    files = f"local-dir:FOLDER (open_clip_config.json and weights) or {architecture}//WEIGHTS.safetensors"
    return ModelUnavailable(f"{message}\n{without_network(files)}")
