"""What a method is, and what it returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy.typing as npt

from embedstore.errors import UnknownName, UsageError
from embedstore.records import FloatArray


@dataclass(frozen=True)
class Finding:
    """What a method computes: ``scores[score][set]`` is (M,) over the used rows of ``"name/split"``.

    ``predicted`` is the (M,) class of each ID test row by the classifier behind the method, where there is one.
    ``details`` is JSON that is worth keeping beside the scores.
    """

    scores: Mapping[str, Mapping[str, FloatArray]]
    predicted: npt.NDArray[Any] | None = None
    weights: Mapping[str, FloatArray] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A function from a study and options to a :class:`Finding`, and what its result depends on.

    Attributes
    ----------
    run : callable
        ``run(study, **options)``, its options keyword-only and each with a default; or, where ``seeded``,
        ``run(study, seeds, **options)``, which returns one finding per seed: several are trained together.
    summary : str
        One line for people.
    train, text : bool
        Whether it reads the ID train split, and the ID classes' prompts.
    seeded : bool
    """

    run: Callable[..., Any]
    summary: str
    train: bool = True
    text: bool = False
    seeded: bool = False

    def defaults(self) -> dict[str, Any]:
        """Every option with its default."""
        parameters = inspect.signature(self.run).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    def reads_text(self, options: Mapping[str, Any]) -> bool:
        """Whether the prompts matter with these options."""
        return self.text or options.get("labels", "true") != "true"

    def parse(self, name: str, option: str, text: str) -> Any:
        """The value that `text` means for an option of this method, which people call `name`.

        Raises
        ------
        UnknownName
            The method has no such option.
        UsageError
            The text does not fit the option's type.
        """
        if option not in self.defaults():
            raise UnknownName(f"option of {name}", option, self.defaults())
        kind = get_type_hints(self.run)[option]
        try:
            return _value(text, kind)
        except ValueError as error:
            wanted = getattr(kind, "__name__", str(kind))
            raise UsageError(f"--option {name}.{option}={text}: {text!r} is no {wanted}") from error


def _value(text: str, kind: Any) -> Any:
    """`text` as one of the types that options have: bool, int, float, str, tuple[str, …], or one of them or None."""
    kinds = getattr(kind, "__args__", ()) if getattr(kind, "__origin__", None) is None else ()
    if type(None) in kinds:
        return None if text.lower() == "none" else _value(text, next(each for each in kinds if each is not type(None)))
    if getattr(kind, "__origin__", None) is tuple:
        return tuple(text.split(","))
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise ValueError(text)
        return known[text.lower()]
    value = kind(text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(text)
    return value
