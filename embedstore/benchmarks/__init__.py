"""Benchmarks as data: which in-distribution (ID) data set against which OOD sets, one TOML file each.

Each file beside this one is a benchmark that has a name, and anyone's own file is as good: :func:`load_benchmark` takes
its path. docs/methods.md shows the fields. (The folder ``benchmarks/`` at the top of the repository is something else:
it times the code.)
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from os import PathLike, fspath
from typing import Any, TypeVar

from embedstore.errors import SourceError, UnknownName, UsageError
from embedstore.prompts import CLASS_LISTS, TEMPLATES
from embedstore.store.layout import check_name

_SUFFIX = ".toml"
_TYPES = {
    "str": (str, "a string"),
    "int | None": (int, "a whole number"),
    "tuple[str, ...]": (list, "a list of strings"),
}


@dataclass(frozen=True)
class IdSet:
    """The in-distribution data set.

    Attributes
    ----------
    name : str
        Of the data set in the store; its class names go by the same name there.
    title : str
        For people.
    where : str
        Where to get it: the official page, and what to take from there.
    train, test : str
        The splits to fit on and to test on.
    train_size, test_size, classes : int or None
        How many images and classes there should be; None where no source was found.
    class_names : tuple of str
        In label order; empty where they are not the benchmark's to say, or come from ``class_list``.
    class_list : str
        A list that :func:`embedstore.prompts.class_list` knows; else empty.
    templates : str
        The template set of the prompts, as :func:`embedstore.prompts.templates` knows it.
    extract : str
        SOURCE for ``embedstore extract``, where one command can fetch the images itself; else empty.
    """

    name: str
    title: str
    where: str
    train: str = "train"
    test: str = "test"
    train_size: int | None = None
    test_size: int | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    class_list: str = ""
    templates: str = "plp"
    extract: str = ""


@dataclass(frozen=True)
class OodSet:
    """One out-of-distribution set.

    Attributes
    ----------
    name, split : str
        Of the data set and split in the store.
    title, where, extract : str
        As in :class:`IdSet`.
    group : str
        ``"near"``, ``"far"``, or whatever the benchmark averages over.
    size : int or None
        How many images there should be; None where no source was found.
    source : str
        The paper that made it an OOD set.
    cautions : tuple of str
        What a reader of its numbers should know.
    """

    name: str
    title: str
    where: str
    group: str = "ood"
    split: str = "test"
    size: int | None = None
    source: str = ""
    extract: str = ""
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """An ID data set and its OOD sets.

    Attributes
    ----------
    name, title, source : str
        Name, heading, and the paper or code that the choice of sets follows.
    id : IdSet
    ood : tuple of OodSet
        In the file's order.
    cautions : tuple of str
    """

    name: str
    title: str
    source: str
    id: IdSet
    ood: tuple[OodSet, ...]
    cautions: tuple[str, ...] = ()

    @property
    def groups(self) -> dict[str, tuple[OodSet, ...]]:
        """The OOD sets by group, in the file's order."""
        names = dict.fromkeys(ood.group for ood in self.ood)
        return {name: tuple(ood for ood in self.ood if ood.group == name) for name in names}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Its cautions and those of its OOD sets, these with the set's name."""
        return (*self.cautions, *(f"{ood.name}: {text}" for ood in self.ood for text in ood.cautions))

    @property
    def expected(self) -> dict[tuple[str, str], int | None]:
        """How many images each data set's split should have, None where that is not known. ID train and test first."""
        found = {(self.id.name, self.id.train): self.id.train_size, (self.id.name, self.id.test): self.id.test_size}
        return found | {(ood.name, ood.split): ood.size for ood in self.ood}


@dataclass(frozen=True)
class Missing:
    """A split that a benchmark needs and a store lacks.

    ``size`` is None where it is not known; ``command`` puts it into the store, with STORE, MODEL and perhaps FOLDER (of
    its images) and NAMES (a file of its class names) to be filled in.
    """

    dataset: str
    split: str
    title: str
    size: int | None
    where: str
    command: str


def benchmark_names() -> list[str]:
    """The names that :func:`load_benchmark` knows, sorted."""
    beside = files(__name__).iterdir()
    return sorted(file.name.removesuffix(_SUFFIX) for file in beside if file.name.endswith(_SUFFIX))


def load_benchmark(name_or_path: str | PathLike[str]) -> Benchmark:
    """Read a benchmark by its name, or from a TOML file of one's own.

    Parameters
    ----------
    name_or_path : str or path
        One of :func:`benchmark_names`, or the path of a file; a str is a path where it ends with ``.toml``.

    Raises
    ------
    UnknownName
        No benchmark has that name.
    SourceError
        The file cannot be read.
    UsageError
        The file is not a benchmark: names the file, and the field that is missing, unknown or wrong.
    """
    place = fspath(name_or_path)
    if isinstance(name_or_path, str) and not place.endswith(_SUFFIX):
        if place not in benchmark_names():
            raise UnknownName("benchmark", place, benchmark_names())
        return _benchmark(place + _SUFFIX, (files(__name__) / (place + _SUFFIX)).read_bytes())
    try:
        with open(place, "rb") as file:
            content = file.read()
    except OSError as error:
        raise SourceError(f"cannot read the benchmark {place}: {error.strerror or error}") from error
    return _benchmark(place, content)


def missing(benchmark: Benchmark, have: Mapping[str, Collection[str]]) -> list[Missing]:
    """What a store lacks for a benchmark, and where to get it.

    Parameters
    ----------
    benchmark : Benchmark
    have : mapping of str to collection of str
        The store's data sets and their splits, as ``Store.datasets()`` returns them.

    Returns
    -------
    list of Missing
        ID train and test first, then the OOD sets in the file's order; empty where nothing is missing.
    """
    about = {(benchmark.id.name, split): benchmark.id for split in (benchmark.id.train, benchmark.id.test)}
    texts: dict[tuple[str, str], IdSet | OodSet] = {**{(ood.name, ood.split): ood for ood in benchmark.ood}, **about}
    found = []
    for (dataset, split), size in benchmark.expected.items():
        if split not in have.get(dataset, ()):
            one = texts[dataset, split]
            command = f"embedstore extract {one.extract or 'FOLDER'} --store STORE --model MODEL"
            command += f" --dataset {dataset} --split {split}"
            if isinstance(one, IdSet):
                # A folder's sub-folders would name the classes: n01440764 for ImageNet.
                command += "" if one.extract else f" --classes {one.class_list or 'NAMES'}"
                command += f" --templates {one.templates}"
            found.append(Missing(dataset, split, one.title, size, one.where, command))
    return found


def sizes(benchmark: Benchmark, have: Mapping[tuple[str, str], int]) -> list[str]:
    """Where a store's splits are larger or smaller than the benchmark says, one sentence each.

    Numbers on a part of a set are not comparable with published ones, and a split of another size is another split.

    Parameters
    ----------
    benchmark : Benchmark
    have : mapping of (data set, split) to int
        How many images the store has; what is not in it, or of unknown size in the benchmark, is passed over.
    """
    return [
        f"{dataset}/{split} has {have[dataset, split]:,} images, and the benchmark {benchmark.name} expects {size:,}"
        for (dataset, split), size in benchmark.expected.items()
        if size is not None and have.get((dataset, split), size) != size
    ]


def classes(benchmark: Benchmark, have: Sequence[str]) -> list[str]:
    """Where a store's class names are not those of the benchmark, in a sentence; empty where they are.

    Other names are other prompts, so that zero-shot results and pseudo-labels are not comparable.

    Parameters
    ----------
    benchmark : Benchmark
    have : sequence of str
        The names in label order, as ``Store.text_info(...)["names"]``.
    """
    name, wanted = benchmark.id.name, benchmark.id.class_names
    count = benchmark.id.classes or len(wanted) or len(have)
    if len(have) != count:
        return [f"{name} has {len(have):,} classes, and the benchmark {benchmark.name} expects {count:,}"]
    others = [label for label, (mine, its) in enumerate(zip(have, wanted or have, strict=True)) if mine != its]
    if not others:
        return []
    first = others[0]
    return [
        f"{len(others):,} of {count:,} class names of {name} are not those of the benchmark {benchmark.name}: "
        f"class {first} is {have[first]!r}, there {wanted[first]!r}"
    ]


Record = TypeVar("Record", IdSet, OodSet, Benchmark)


def _benchmark(place: str, content: bytes) -> Benchmark:
    try:
        table = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{place} is not TOML: {error}") from error
    inside, sets = table.pop("id", None), table.pop("ood", None)
    if not isinstance(inside, dict):
        raise UsageError(f"{place}: the table [id] is missing; it names the in-distribution data set")
    if not isinstance(sets, list) or not sets or not all(isinstance(one, dict) for one in sets):
        raise UsageError(f"{place}: there is no OOD set; give at least one table [[ood]]")
    ood = tuple(_record(OodSet, one, place, f"ood number {i + 1}: ") for i, one in enumerate(sets))
    made = _record(Benchmark, table, place, "", id=_record(IdSet, inside, place, "id: "), ood=ood)
    if made.id.templates not in TEMPLATES:
        unknown = UnknownName("template set", made.id.templates, TEMPLATES)
        raise UsageError(f"{place}: id: field 'templates': {unknown}")
    if made.id.class_names and made.id.classes not in (None, len(made.id.class_names)):
        raise UsageError(
            f"{place}: id: field 'class_names' has {len(made.id.class_names)} names, and 'classes' is {made.id.classes}"
        )
    if made.id.class_list and made.id.class_list not in CLASS_LISTS:
        unknown = UnknownName("class list", made.id.class_list, CLASS_LISTS)
        raise UsageError(f"{place}: id: field 'class_list': {unknown}")
    if made.id.train == made.id.test:
        raise UsageError(f"{place}: id: fields 'train' and 'test' are both {made.id.train!r}")
    places = [(made.id.name, made.id.train), (made.id.name, made.id.test), *((one.name, one.split) for one in ood)]
    twice = [f"{dataset}/{split}" for dataset, split in places if places.count((dataset, split)) > 1]
    if twice:
        raise UsageError(f"{place}: {twice[0]} is there twice; an OOD set must be another one than the rest")
    return made


def _record(kind: type[Record], table: dict[str, Any], place: str, inside: str, **made: Any) -> Record:
    """One table as a dataclass, every field checked against its annotation."""
    known = {field.name: field for field in fields(kind) if field.name not in made}
    for name in table:
        if name not in known:
            raise UsageError(f"{place}: {inside}{UnknownName('field', name, known)}")
    values = {}
    for name, field in known.items():
        if name not in table:
            if field.default is MISSING:
                raise UsageError(f"{place}: {inside}field {name!r} is missing")
            continue
        values[name] = _value(table[name], str(field.type), f"{place}: {inside}field {name!r}")
    for name in ("name", "split", "train", "test"):
        if name in values:
            try:
                check_name("data set" if name == "name" else "split", values[name])
            except UsageError as error:
                raise UsageError(f"{place}: {inside}field {name!r}: {error}") from error
    return kind(**values, **made)


def _value(value: Any, annotation: str, what: str) -> Any:
    of, wanted = _TYPES[annotation]
    good = isinstance(value, of) and not isinstance(value, bool)
    if of is list:
        good = good and all(isinstance(one, str) and one.strip() for one in value)
        value = tuple(value) if good else value
    if not good:
        raise UsageError(f"{what} must be {wanted}, not {value!r}")
    if of is int and value < 1:
        raise UsageError(f"{what} must be at least 1, not {value}")
    if of is str and not value.strip():
        raise UsageError(f"{what} is empty; leave it out where there is nothing to say")
    return value
