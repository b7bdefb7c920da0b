"""Reading a store that may be damaged: whatever is wrong becomes a :class:`Problem`, never an exception."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.sync import sync

from embedstore.errors import StoreCorrupt, UsageError
from embedstore.store import layout

Node: TypeAlias = "zarr.Group | zarr.Array[Any]"

# What Zarr, and code that takes attributes at their word, raise over metadata that somebody or something has changed.
# OSError and what network libraries raise are not among them: that a store cannot be reached just now is no damage.
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    MemoryError,  # a shape of 10**15 rows
    StoreCorrupt,
    UsageError,
)
_CHUNK = re.compile(r"(.+)/c(?:/\d+)*")
_METADATA = "zarr.json"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a store.

    Attributes
    ----------
    where : str
        Path of the node in the store: ``models/<model>/images/<data set>/<split>/features``.
    what : str
        What is wrong, in words.
    block : (int, int, int), or None
        Number, first row and last row + 1 of the block that it is about.
    mends : bool
        Whether embedding that block again mends it. Everything else needs a backup, or what the words say.
    """

    where: str
    what: str
    block: tuple[int, int, int] | None = None
    mends: bool = False


@dataclass(frozen=True)
class Form:
    """What docs/format.md says of an array; a width of None is any. ``grown`` allows more rows than these."""

    shape: tuple[int | None, ...]
    chunks: tuple[int, ...] | None  # None: one chunk
    dtype: str | None
    fill: Any
    dimensions: tuple[str, ...]
    grown: bool = False

    def differs(self, array: zarr.Array[Any]) -> str | None:
        """How an array departs from this form; None if it does not."""
        if len(array.shape) != len(self.shape) or not all(map(self._fits, self.shape, array.shape)):
            return f"its shape is {array.shape}, and should be {self.shape}"
        chunks = tuple(max(1, size) for size in self.chunks or array.shape)
        dtype = array.dtype if self.dtype is None else _dtype(self.dtype)
        metadata: Any = array.metadata
        codecs = [codec.to_dict() for codec in metadata.codecs]
        names = ["vlen-utf8" if dtype == _dtype("string") else "bytes", "crc32c"]
        for what, found, wanted in (
            ("chunks", array.chunks, chunks),
            ("dtype", array.dtype, dtype),
            ("codecs", [codec["name"] for codec in codecs], names),
            ("dimension names", metadata.dimension_names or (), self.dimensions),
        ):
            if found != wanted:
                return f"its {what}: {found}, and should be {wanted}"
        if "big" in str(codecs[0]):
            return "it is stored big-endian, and should be little-endian"
        fill = array.fill_value
        if not (fill == self.fill or (fill != fill and self.fill != self.fill)):  # NaN is not itself
            return f"its fill value is {fill!r}, and should be {self.fill!r}"
        return None

    def _fits(self, wanted: int | None, found: int) -> bool:
        return wanted is None or found == wanted or (self.grown and found > wanted)


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtypes.StringDType() if name == "string" else np.dtype(name)


class Column:
    """An array of which every chunk can be asked for, and is either whole or said to be damaged."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        begin = f"{array.store_path.path}/"
        self._there = frozenset(key.removeprefix(begin) for key in _keys(array.store_path.store, begin))

    def has(self, block: int) -> bool:
        """Whether the chunk of a block is there."""
        place = (block, *[0] * (self.array.ndim - 1)) if self.array.ndim else ()
        return self.array.metadata.encode_chunk_key(place) in self._there

    def begun(self) -> bool:
        """Whether any chunk is there."""
        return any(key.startswith("c") for key in self._there)

    def read(self, block: int, start: int, stop: int) -> npt.NDArray[Any]:
        """One block; StoreCorrupt says why there is none."""
        if not self.has(block):
            raise StoreCorrupt("its chunk is missing")
        return self._read(slice(start, stop))

    def whole(self) -> npt.NDArray[Any]:
        """An array that is one chunk."""
        if self.array.size and not self.has(0):
            raise StoreCorrupt("its chunk is missing")
        return self._read(...)

    def _read(self, selection: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(self.array[selection])
        except (ValueError, MemoryError) as error:  # zarr's crc32c codec has no exception type of its own
            raise StoreCorrupt(f"its chunk is damaged: {error}") from error


@dataclass
class Survey:
    """Every node of a store, opened; None stands for one whose metadata is damaged, which is among the problems.

    ``computed`` holds fingerprints of row lists that differ from the stored ones.
    """

    nodes: dict[str, Node | None] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    leftovers: int = 0

    def content(self, path: str, kind: str) -> dict[str, Any] | None:
        """What a node that is complete declares; None where there is no such node."""
        node = self.nodes.get(path)
        content: Any = None if node is None else dict(node.attrs).get(layout.ATTRIBUTE)
        return content if isinstance(content, dict) and content.get("kind") == kind else None

    def below(self, path: str) -> Iterator[str]:
        """Paths of the nodes below one, in order."""
        begin = f"{path}/"
        for at in range(bisect.bisect_left(self._paths, begin), len(self._paths)):
            if not self._paths[at].startswith(begin):
                return
            yield self._paths[at]

    @cached_property
    def _paths(self) -> list[str]:
        return sorted(self.nodes)

    def damaged(self, path: str) -> bool:
        """Whether the node is there and cannot be opened: that is said already."""
        return path in self.nodes and self.nodes[path] is None

    def column(self, path: str, form: Form, problems: list[Problem]) -> Column | None:
        """The array at `path`; None, and a problem unless it is known already, where it is not what it should be."""
        if self.damaged(path):
            return None
        node = self.nodes.get(path)
        differs = form.differs(node) if isinstance(node, zarr.Array) else "this array is missing"
        if differs or not isinstance(node, zarr.Array):
            problems.append(Problem(path, f"{differs}. Restore its {_METADATA}"))
            return None
        return Column(node)


def survey(root: zarr.Group, wanted: Callable[[str], bool]) -> Survey:
    """Find and open every node whose path is wanted: by the names of what lies there, since metadata may be damaged."""
    found = Survey()
    begin = f"{root.store_path.path}/".lstrip("/")
    nodes, arrays = set[str](), set[str]()
    for key in _keys(root.store_path.store, begin):
        parent, _, name = key.removeprefix(begin).rpartition("/")
        if name.endswith(_PARTIAL):
            found.leftovers += 1
        elif name == _METADATA:
            nodes.add(parent)
        elif chunk := _CHUNK.fullmatch(key.removeprefix(begin)):
            arrays.add(chunk[1])
    # The groups above a node, and an array whose chunks are there, must have metadata; or readers pass over it all.
    needed = arrays | {"/".join(path.split("/")[:depth]) for path in nodes for depth in range(1, path.count("/") + 1)}
    for path in sorted((nodes | needed) - {""}):
        if not wanted(path):
            continue
        found.nodes[path], why = _opened(root, path) if path in nodes else (None, f"its {_METADATA} is missing")
        if found.nodes[path] is None:
            advice = "Restore it; if a writer was killed just here, the same command again makes it anew"
            found.problems.append(Problem(path, f"{why}. {advice}. What lies below was not checked"))
    return found


def _opened(root: zarr.Group, path: str) -> tuple[Node | None, str]:
    try:
        node = root.get(path)
        declared = {} if node is None else dict(node.attrs).get(layout.ATTRIBUTE, {})
        if isinstance(declared, dict):
            return node, f"its {_METADATA} is no Zarr metadata"
        return None, f"its attribute {layout.ATTRIBUTE!r} is {declared!r}, and should be an object"
    except DAMAGE as error:
        return None, f"its {_METADATA} cannot be read: {type(error).__name__}: {error}"


def _keys(store: Any, prefix: str) -> Sequence[str]:
    """Every object whose key begins so."""

    async def collect() -> list[str]:
        return [key async for key in (store.list_prefix(prefix) if prefix else store.list())]

    return sync(collect())
