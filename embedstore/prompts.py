"""Class names and templates: from names to the prompts that a text encoder reads.

A zero-shot classifier compares an image with sentences such as "a photo of a cat.". A *template* is such a sentence
with ``{}`` where the class name goes; a *template set* is a named tuple of them. C is the number of classes,
P of templates, D the width of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from embedstore.errors import UnknownName, UsageError

# The five of Adaloglou et al. (arXiv 2303.05828), which are also the released code's of MCM (Ming et al. 2022).
PLP = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of many {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
)

# The one prompt that the released code of MCM (Ming et al., arXiv 2211.13445) scores with; no full stop.
MCM = ("a photo of a {}",)


def _from_open_clip(attribute: str) -> tuple[str, ...]:
    """One of open_clip's lists. Its templates are functions of the class name, so "{}" as the name gives the text."""
    from open_clip import zero_shot_metadata

    return tuple(template("{}") for template in getattr(zero_shot_metadata, attribute))


# Functions, because reading open_clip's lists imports torch, which nothing downstream of extraction may need.
TEMPLATES: dict[str, Callable[[], tuple[str, ...]]] = {
    "plp": lambda: PLP,
    "mcm": lambda: MCM,
    "simple": partial(_from_open_clip, "SIMPLE_IMAGENET_TEMPLATES"),
    "openai80": partial(_from_open_clip, "OPENAI_IMAGENET_TEMPLATES"),
}


def _openai_imagenet() -> tuple[str, ...]:
    from open_clip import zero_shot_metadata

    return tuple(zero_shot_metadata.IMAGENET_CLASSNAMES)


def _first_synonyms_of_imagenet() -> tuple[str, ...]:
    from timm import data

    timm_data: Any = data  # it exports without saying so to type checkers
    known = timm_data.ImageNetInfo("imagenet-1k")
    return tuple(known.index_to_description(label).partition(",")[0] for label in range(known.num_classes()))


# ImageNet's folders go by WordNet ids, so its names must come from elsewhere, and papers differ in which they took.
CLASS_LISTS: dict[str, Callable[[], tuple[str, ...]]] = {
    "imagenet:openai": _openai_imagenet,
    "imagenet:first-synonym": _first_synonyms_of_imagenet,
}


def class_list(name: str) -> tuple[str, ...]:
    """Return the 1,000 names of ImageNet's classes, in the order of their WordNet ids.

    Parameters
    ----------
    name : str
        ``"imagenet:openai"``, curated by the makers of CLIP, from open_clip; MCM's released code has the same.
        ``"imagenet:first-synonym"``, WordNet's first, from timm, as in the released code of Adaloglou et al.: two pairs
        of classes share a name there (crane, maillot), and 637 names are those of the other list.

    Raises
    ------
    UnknownName
    """
    if name not in CLASS_LISTS:
        raise UnknownName("class list", name, CLASS_LISTS)
    return CLASS_LISTS[name]()


def templates(name: str) -> tuple[str, ...]:
    """Return the templates of a set, each with one ``{}``.

    Parameters
    ----------
    name : str
        ``"plp"`` (5, the default of the paper), ``"mcm"`` (1), ``"simple"`` (7) or ``"openai80"`` (80), the last two
        from open_clip.

    Raises
    ------
    UnknownName
    """
    if name not in TEMPLATES:
        raise UnknownName("template set", name, TEMPLATES)
    return TEMPLATES[name]()


def fill(template: str, name: str) -> str:
    """Put a class name into a template; braces in the name stay as they are, which ``str.format`` would not grant."""
    return template.replace("{}", name)


def prompts(class_names: Sequence[str], template_set: str) -> list[list[str]]:
    """All prompts, C lists of P, in the order of the names and of the set.

    Raises
    ------
    UnknownName
        For the template set.
    UsageError
        For class names that :func:`check_class_names` refuses.
    """
    check_class_names(class_names)
    chosen = templates(template_set)
    return [[fill(template, name) for template in chosen] for name in class_names]


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class names that cannot be meant: none at all, one string for a list, or names without a letter.

    Raises
    ------
    UsageError
        Naming the positions of the empty names.
    """
    if isinstance(names, str):
        raise UsageError(f"class names must be a list of strings, not the one string {names!r}")
    if len(names) == 0:
        raise UsageError("the list of class names is empty; give one name per class, in label order")
    strange = [i for i, name in enumerate(names) if not isinstance(name, str)]
    if strange:
        raise UsageError(f"class names must be strings; number {strange[0]} is {names[strange[0]]!r}")
    empty = [i for i, name in enumerate(names) if not name.strip()]
    if empty:
        raise UsageError(f"class names must not be empty; these are: numbers {', '.join(map(str, empty))}")


def duplicates(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Names that several classes share, with the classes' indices, in order of first appearance.

    Equal names give equal text vectors, and argmax takes the first: the later classes never get an image. ImageNet's
    WordNet names lose two classes so (crane 134 and 517, maillot 638 and 639) without a word from the released code.
    """
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(name, []).append(i)
    return [(name, where) for name, where in places.items() if len(where) > 1]
