"""Interrupts extraction, resumes it, and says in words what is wrong with the store, in between and in the end."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner
from conftest import png, write_tar
from crash_driver import Driver, Ended, Fault

from embedstore.cli import main
from embedstore.errors import EmbedstoreError, NotAvailable, StoreNotFound
from embedstore.store import Store

Bytes = npt.NDArray[np.uint8]
PENDING = "rows that were finished are pending"


@dataclass(frozen=True)
class Scenario:
    """One `embedstore extract`, and the ones that come before it, uninterrupted.

    ``{data}`` in an argument stands for the folder that :func:`write_sources` fills. `redoes` says that the command
    begins finished blocks anew, so that they may be pending in between, and are written again if they are finished.
    """

    name: str
    arguments: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    redoes: bool = False


def write_sources(root: Path) -> None:
    """``pets/train.tar``: 14 pictures, two of them broken, most with a caption; ``pets/test.tar``: 4; class names."""
    rng = np.random.default_rng(0)
    samples: list[tuple[str, dict[str, bytes]]] = []
    for n in range(18):
        members = {"png": b"no image" if n in (3, 11) else png(rng, 60 + 9 * n), "cls": str(n % 2).encode()}
        if n % 3:
            members["txt"] = f"picture {n}".encode()
        samples.append((f"{n:02}", members))
    write_tar(root / "pets" / "train.tar", samples[:14])
    write_tar(root / "pets" / "test.tar", samples[14:])
    (root / "pets" / "classes.json").write_text('["cat", "dog"]')


# What a store holds ---------------------------------------------------------------------------------------------------


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a store but what a killed write leaves behind under a temporary name."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> Iterator[str]:
    """In words, for each way in which files can differ."""
    for problem, names in (
        ("missing", expected.keys() - found.keys()),
        ("too many", found.keys() - expected.keys()),
        ("different", {name for name in expected.keys() & found.keys() if found[name] != expected[name]}),
    ):
        if names:
            yield f"{len(names)} files {problem}: {', '.join(sorted(names)[:3])} …"


@dataclass
class State:
    """What a reader sees of a store, through the public names.

    `images` has, by model and split, the status and the bytes of every row: its features and all else that it has.
    """

    rows: dict[str, tuple[list[str], list[int]]] = field(default_factory=dict)
    images: dict[tuple[str, str], tuple[npt.NDArray[np.uint8], Bytes]] = field(default_factory=dict)
    texts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    blocks: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)


def state_of(location: Path) -> State:
    """Read everything; what a reader is refused is raised."""
    store, state = Store.open(location), State()
    for dataset, splits in store.datasets().items():
        for name in splits:
            split = store.rows(dataset, name)
            state.rows[split.name] = (list(split.keys), split.labels.tolist())
            state.blocks[split.name] = list(split.blocks())
    for model in store.models():
        for dataset, split in store.embedded(model):
            images = store.images(model, dataset, split)
            columns: list[Any] = [images.features[:]]
            if store.projection(model) is None:
                columns.append(images.projected())
            with suppress(NotAvailable):
                columns.append(images.captions())
            rows = [np.ascontiguousarray(column).view(np.uint8).reshape(len(images), -1) for column in columns]
            state.images[model, images.name] = (images.status, np.concatenate(rows, axis=1))
            assert np.isfinite(images.embedded()).all()
        for class_set, template_sets in store.class_sets(model).items():
            for template_set in template_sets:
                vectors = store.template_texts(model, class_set, template_set)
                state.texts[model, f"{class_set}/{template_set}"] = vectors.tobytes()
    return state


def wrong(location: Path, before: State | None, after: State) -> Iterator[str]:
    """What a reader must not see in an interrupted store: anything that neither `before` nor `after` has.

    Parameters
    ----------
    before : State, optional
        Of the store before the interrupted command, if there was one: nothing of it may be lost.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield from _wrong(location, before, after)
    yield from (f"reading warns: {text}" for text in sorted({str(warning.message) for warning in said}))


def _wrong(location: Path, before: State | None, after: State) -> Iterator[str]:
    try:
        found = state_of(location)
    except StoreNotFound:
        if before is not None:
            yield "the store is gone"
        return
    except (EmbedstoreError, AssertionError, OSError, ValueError) as error:
        yield f"cannot be read: {type(error).__name__}: {error}"
        return
    listed = CliRunner().invoke(main, ["ls", "--json", "--store", str(location)])
    if listed.exit_code != 0:
        yield f"ls ends with {listed.exit_code}: {listed.output}"
    whole = [after] if before is None else [before, after]
    for what in ("rows", "texts"):
        for name, value in getattr(found, what).items():
            if value not in [getattr(state, what).get(name) for state in whole]:
                yield f"{what} of {name} are half there, or others"
    for (model, split), (status, values) in found.images.items():
        allowed = [state.images[model, split] for state in whole if (model, split) in state.images]
        yield from (f"{model}, {split}: {problem}" for problem in _wrong_rows(status, values, allowed))
        for block, start, stop in found.blocks[split]:
            done = np.count_nonzero(status[start:stop])
            if 0 < done < stop - start and not (before and _was_short(before, (model, split), start + done)):
                yield f"{model}, {split}: block {block} is done in part"
    if before is not None:
        yield from _lost(found, before)


def _wrong_rows(status: Any, values: Bytes, allowed: Sequence[tuple[Any, Bytes]]) -> Iterator[str]:
    """Rows that are finished, but not as in any of the whole stores."""
    good = status == 0
    for other_status, others in allowed:
        n = min(len(status), len(other_status))
        if others.shape[1] == values.shape[1]:
            good[:n] |= (status[:n] == other_status[:n]) & (values[:n] == others[:n]).all(axis=1)
    if not good.all():
        yield f"rows {np.flatnonzero(~good).tolist()} are marked finished with other values"


def _was_short(before: State, name: tuple[str, str], rows: int) -> bool:
    """Whether that many rows were all there were: the last block of a split that is being extended."""
    return name in before.images and len(before.images[name][0]) == rows


def _lost(found: State, before: State) -> Iterator[str]:
    """What was there before, and is not any more."""
    for what in ("rows", "texts", "images"):
        yield from (f"{what} of {name} are gone" for name in getattr(before, what).keys() - getattr(found, what).keys())
    for name, (status, _) in before.images.items():
        if name in found.images and (found.images[name][0][: len(status)][status != 0] == 0).any():
            yield f"{PENDING}: {name}"


# Trials ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """A scenario without interruption: the store before, the end of the command, and the store after it."""

    arguments: tuple[str, ...]
    prepared: Path | None
    before: State | None
    ended: Ended
    files: dict[str, bytes]
    after: State


@dataclass
class Bench:
    """Where trials take place. `kills` counts the processes that were killed, `struck` the faults of other kinds."""

    root: Path
    driver: Driver
    kills: int = 0
    struck: int = 0
    references: dict[str, Reference] = field(default_factory=dict)

    def reference(self, scenario: Scenario) -> Reference:
        """The uninterrupted store of `scenario`, made when first asked for."""
        if scenario.name not in self.references:
            self.references[scenario.name] = self._reference(scenario)
        return self.references[scenario.name]

    def _reference(self, scenario: Scenario) -> Reference:
        home = self.root / scenario.name
        data, store, prepared, before = self.root / "data", home / "whole.zarr", None, None
        if not data.exists():
            write_sources(data)
        home.mkdir()
        for command in scenario.before:
            ended = self.driver.extract([word.format(data=data) for word in command], store)
            assert ended.code in (0, 3), ended.output
        if scenario.before:
            prepared = home / "prepared.zarr"
            shutil.copytree(store, prepared)
            before = state_of(prepared)
        arguments = tuple(word.format(data=data) for word in scenario.arguments)
        ended = self.driver.extract(arguments, store)
        assert ended.code in (0, 3), ended.output
        return Reference(arguments, prepared, before, ended, contents(store), state_of(store))

    def trial(self, scenario: Scenario, *faults: Fault, plant: str | None = None, serial: bool = True) -> list[str]:
        """Run into each fault in turn, each time on what the one before has left, then to the end; what is wrong.

        A fault whose step the command does not reach is none: then the command must end as if there were none.
        """
        reference, store = self.reference(scenario), self.root / "trial.zarr"
        problems: list[str] = []
        if reference.prepared is not None:
            shutil.copytree(reference.prepared, store)
        for fault in faults:
            ended = self.driver.extract(reference.arguments, store, fault, plant=plant, serial=serial)
            reached = ended.steps[fault.kind] >= fault.step
            self.kills += reached and fault.kills
            self.struck += reached and not fault.kills
            problems += _wrong_end(ended, fault if reached else None, reference)
            found = wrong(store, reference.before, reference.after)
            problems += [problem for problem in found if not (scenario.redoes and PENDING in problem)]
        ended = self.driver.extract(reference.arguments, store, serial=serial)
        problems += [f"resumed: {problem}" for problem in _wrong_end(ended, None, reference)]
        problems += [f"resumed: {problem}" for problem in differences(contents(store), reference.files)]
        shutil.rmtree(store)
        return [f"{scenario.name}, {faults}: {problem}" for problem in problems]


def _wrong_end(ended: Ended, fault: Fault | None, reference: Reference) -> Iterator[str]:
    """What is wrong with how a command ended: killed, with one clear line, or as the uninterrupted one."""
    if ended.hung:
        yield f"hangs:\n{ended.output}"
    elif fault is None:
        if (ended.code, ended.output) != (reference.ended.code, reference.ended.output):
            yield f"ends with {ended.code}: {ended.output}"
    elif fault.kills:
        if ended.code >= 0:
            yield f"was to be killed, and ends with {ended.code}: {ended.output}"
    elif ended.code != 1 or not clear(ended.output, fault.message):
        yield f"should fail with one line on {fault.message!r}, and ends with {ended.code}: {ended.output}"


def clear(output: str, message: str) -> bool:
    """Whether `output` is one line that says `message`."""
    return output.startswith("Error: ") and message in output and output.count("\n") == 1
