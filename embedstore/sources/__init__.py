"""Where images come from: WebDataset tars, folders of images, torchvision's data sets. Local, or any fsspec URL.

source = open_source("s3://bucket/cifar10/train-{000000..000049}.tar")
rows = source.scan()                                  # names and places; no image is decoded
for payload in source.read(rows, 0, 100):
    image = decode(payload)                           # RGB, upright; ImageError where there is none
"""

from __future__ import annotations

from embedstore.errors import SourceError, UsageError, redact
from embedstore.sources.base import Payload, Source
from embedstore.sources.classes import read_classes
from embedstore.sources.commands import PIPE, open_commands
from embedstore.sources.folders import open_folder
from embedstore.sources.images import decode
from embedstore.sources.naming import choices, known_split, same_split
from embedstore.sources.places import FileSystem, base_name, border, entries, expand, locate, refuse_commands
from embedstore.sources.shards import open_tars
from embedstore.sources.vision import PREFIX, open_vision

__all__ = ["Payload", "Source", "decode", "open_source", "read_classes"]

_FORMS = (
    "a WebDataset shard or a range of them ('train-{000000..000009}.tar'), a quoted glob ('train-*.tar'), a folder of"
    " shards or of images, or torchvision:NAME"
)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")


def open_source(
    spec: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    classes: str | None = None,
    allow_commands: bool = False,
) -> Source:
    """Find out what ``spec`` means, and return the source that reads it. No image is read.

    Parameters
    ----------
    spec : str
        A ``.tar`` shard; a brace range of shards, taken in the order written; a glob of shards or a folder that holds
        shards, taken in sorted order; a folder of images, one sub-folder per class or flat; ``torchvision:NAME`` or
        ``torchvision:NAME@ROOT``. Local, or any URL that fsspec opens. In a folder that holds one sub-folder for each
        split, or shards of several, ``split`` chooses among them.
    dataset, split : str, optional
        What to call the rows; by default taken from the path.
    classes : str, optional
        A file of class names in label order, see :func:`read_classes`. Sub-folders are found in it by their names, or
        taken in sorted order where none of them is in it (WordNet ids). By default ``classes.json`` beside the shards,
        or the names of the sub-folders, or what torchvision says.
    allow_commands : bool
        Whether ``pipe:COMMAND`` may be a source: the command is run by the shell, and what it writes is a shard. Braces
        stand for several commands. Only for specs that the user wrote: a command can do whatever the user can.

    Returns
    -------
    Source

    Raises
    ------
    UsageError
        The spec is no source, would run a command without leave, or leaves open which split is meant.
    UnknownName
        A torchvision data set that does not exist or has no class indices.
    SourceError
        Nothing is there; or the class names cannot be read.
    """
    if not spec.strip():
        raise UsageError(f"no source given; give {_FORMS}")
    if spec.startswith(PREFIX):
        return open_vision(spec, dataset=dataset, split=split, classes=classes)
    if allow_commands and spec.startswith(PIPE):
        return open_commands(spec, dataset=dataset, split=split, classes=classes)
    refuse_commands(spec)
    fs, path = locate(spec)
    fs.invalidate_cache()  # what was listed earlier in this process may be out of date
    if _there(fs, path):
        # A name that exists is meant as it stands, whatever braces or brackets it has.
        if not fs.isdir(path):
            return open_tars(spec, [_tar(path)], dataset=dataset, split=split, classes=classes, choose=False)
        return _open_directory(spec, fs, path, dataset, split, classes)
    paths, choose = _expanded(spec, fs, path)
    return open_tars(spec, [_tar(path) for path in paths], dataset=dataset, split=split, classes=classes, choose=choose)


def _there(fs: FileSystem, path: str) -> bool:
    with border(redact(path)):
        return bool(fs.exists(path))


def _tar(path: str) -> str:
    name = base_name(path)
    if name.lower().endswith(_COMPRESSED):
        raise SourceError(f"{name} is compressed. Images are read by their place in the tar, so decompress it first")
    if not name.lower().endswith(".tar"):
        raise UsageError(f"{redact(path)} is a file, but no .tar shard. A source is {_FORMS}")
    return path


def _expanded(spec: str, fs: FileSystem, path: str) -> tuple[list[str], bool]:
    """Paths that a range or a glob stands for, and whether they were found (globbed) rather than written."""
    written = expand(path, redact(path)) if "{" in path else [path]
    paths: list[str] = []
    missing: list[str] = []
    globbed = False
    for part in written:
        is_glob = any(c in part for c in ("*[" if "://" in part else "*?["))  # in a URL, ? begins the query
        with border(redact(spec)):
            found = sorted(map(str, fs.glob(part))) if is_glob else [part] * fs.exists(part)
        globbed = globbed or is_glob
        if not found:
            missing.append(redact(part))
        paths += found
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SourceError(f"nothing at {', '.join(missing[:3])}{more} (looked for {redact(spec)}). Give {_FORMS}")
    return paths, globbed


def _open_directory(
    spec: str, fs: FileSystem, path: str, dataset: str | None, split: str | None, classes: str | None
) -> Source:
    """Open a folder of shards or of images, or the folder of one split in it."""
    files, folders = entries(fs, path)
    shards = [name for name in files if name.lower().endswith(".tar")]
    if not shards:
        below = _split_folder(path, folders, split)
        if below is not None:
            path = below
            shards = [name for name in entries(fs, path)[0] if name.lower().endswith(".tar")]
            if shards:
                return open_tars(spec, shards, dataset=dataset, split=split, classes=classes, choose=False)
    if shards:
        return open_tars(spec, shards, dataset=dataset, split=split, classes=classes, choose=True)
    return open_folder(spec, path, dataset=dataset, split=split, classes=classes)


def _split_folder(path: str, folders: list[str], split: str | None) -> str | None:
    """The sub-folder of the split that is meant; None where the sub-folders are no splits.

    They are if there are two of them or nothing else: "train" alone among other names is a class of vehicles.
    """
    names = {base_name(folder): folder for folder in folders}
    splits = [name for name in names if known_split(name)]
    if len(splits) < 2 and (not splits or len(splits) < len(names)):
        return None
    if split is None:
        raise UsageError(f"{redact(path)} has a folder for each split: {choices(splits)}. Choose one with --split")
    for name in sorted(names, key=lambda name: name != split):  # the very name first, then another spelling of it
        if same_split(name, split):
            return names[name]
    raise UsageError(f"{redact(path)} has no folder for split {split!r}; found {choices(splits)}")
