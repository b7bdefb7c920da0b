"""The frozen records that travel between rooms: rows, provenance, results.

They hold data and nothing else: no files, no models, no store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]

# Row status, as stored (docs/format.md).
PENDING, OK, FAILED = 0, 1, 2

# Where an image can fail: its bytes cannot be had; are no image; do not survive the transform; give no finite vector.
STAGES = ("read", "decode", "preprocess", "model")


def fingerprint(value: object) -> str:
    """SHA-256 (hex) of a JSON-like value, independent of key order and white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def rows_fingerprint(rows: npt.ArrayLike) -> str:
    """SHA-256 (hex) of some row numbers (K,), in any order: how a result names the rows that were left out."""
    return hashlib.sha256(np.sort(np.asarray(rows, dtype="<i8")).tobytes()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """One file that holds many images.

    ``name`` is its base name, ``size`` its bytes.
    """

    name: str
    size: int


@dataclass(frozen=True)
class Rows:
    """The row list of one split: which images there are, in which order. Fixed before any of them is embedded.

    Attributes
    ----------
    keys : sequence of N str
        Unique. The WebDataset ``__key__``, or the path relative to the folder.
    labels : (N,) int32
        Class index, -1 where unknown.
    shard : (N,) int32
        Index into ``shards``, -1 where the image is a file of its own.
    offset, length : (N,) int64
        Where the image's bytes lie in its shard or file; -1 where the source has no bytes, or no image for this row.
    shards : tuple of Shard
    class_names : tuple of str, or None
        Names in label order, where the source knows them.
    source : str
        Where the rows came from, without secrets.
    """

    keys: Sequence[str]
    labels: IntArray
    shard: IntArray
    offset: IntArray
    length: IntArray
    shards: tuple[Shard, ...]
    class_names: tuple[str, ...] | None
    source: str

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, start: int, stop: int | None) -> Rows:
        """The rows of the slice, with all the shards."""
        columns = ("keys", "labels", "shard", "offset", "length")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in columns})

    def pieces(self, column: str) -> Iterator[Any]:
        """One column in pieces, one after the other: here it is in memory, and comes as a whole."""
        yield getattr(self, column)

    def same(self, other: Rows) -> bool:
        """Whether keys, labels, places and shards are the same; names and source apart."""
        columns = ("labels", "shard", "offset", "length")
        alike = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in columns)
        return alike and list(self.keys) == list(other.keys) and self.shards == other.shards

    def fingerprint(self) -> str:
        """SHA-256 (hex) of keys, labels, places and shard sizes: equal if and only if the row lists are."""
        digest = hashlib.sha256()
        for keys in self.pieces("keys"):
            for key in keys:
                raw = key.encode("utf-8", "surrogateescape")
                digest.update(len(raw).to_bytes(8, "little") + raw)
        for column, dtype in (("labels", "<i4"), ("shard", "<i4"), ("offset", "<i8"), ("length", "<i8")):
            for piece in self.pieces(column):
                digest.update(np.ascontiguousarray(piece, dtype=dtype).tobytes())
        digest.update(fingerprint([asdict(shard) for shard in self.shards]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Failure:
    """What became of one image that has no embedding.

    Attributes
    ----------
    row : int
    key : str
    shard : str or None
        Name of the shard; None where the image is a file of its own.
    offset : int
        Where in its shard or file the image's bytes begin; -1 where there is none.
    stage : str
        One of :data:`STAGES`.
    reason : str
        One printable line, the same in every run.
    """

    row: int
    key: str
    shard: str | None
    offset: int
    stage: str
    reason: str


_LATER = ("parameters", "gflops")  # fields of Provenance that early versions did not write
RECORDED_ONLY = ("versions", *_LATER)  # fields that are no part of its fingerprint


@dataclass(frozen=True)
class Provenance:
    """What made a model's embeddings: enough to notice, before any number is wrong, that something differs.

    ``versions`` (of the libraries), ``parameters`` and ``gflops`` are recorded but not part of the fingerprint:
    upgrading torch must not orphan a store that took GPU-days. Everything else is.

    Attributes
    ----------
    name : str
        The model's name in the store.
    architecture, pretrained : str
        As the library that built it names them; ``pretrained`` is a tag, or ``"local"``.
    weights_sha256 : str
        Of the parameters and buffers actually loaded, in float precision as loaded.
    preprocess : mapping
        Image size, resize mode, interpolation, mean, std …
    tokenizer : str or None
        None where the model has no text tower.
    quick_gelu : bool
    precision : str
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: what the forward pass computes in.
    dtype : str
        ``"float16"`` or ``"float32"``: what features are stored as.
    feature_dim, joint_dim : int
        Widths before (Dp) and after (D) the projection.
    logit_scale : float or None
        The factor (already exponentiated) that the model multiplies cosines with.
    versions : mapping of str to str
    parameters : int or None
        Of the image tower; None where an early version wrote this.
    gflops : float or None
        Of one image: 1e9 floating-point operations, two for each multiplication with addition, to three digits.
    """

    name: str
    architecture: str
    pretrained: str
    weights_sha256: str
    preprocess: Mapping[str, Any]
    tokenizer: str | None
    quick_gelu: bool
    precision: str
    dtype: str
    feature_dim: int
    joint_dim: int
    logit_scale: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    gflops: float | None = None

    @property
    def decode(self) -> str:
        """How images were made into pixels: ``"exact"`` or ``"fast"``."""
        return str(self.preprocess.get("decode", "exact"))

    @property
    def defence(self) -> str | None:
        """What images went through before the model saw them, as ``"jpeg:75"``; None where nothing."""
        found = self.preprocess.get("defence")
        return None if found is None else str(found)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; :meth:`from_json` reads it back."""
        value = asdict(self)
        return {name: value[name] for name in value if name not in _LATER or value[name] is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Provenance:
        """Read what :meth:`to_json` wrote; unknown fields of a newer writer are ignored."""
        return cls(**{f.name: value[f.name] for f in fields(cls) if f.name in value})

    def identity(self) -> dict[str, Any]:
        """Everything that must not differ, as JSON so that stored and fresh compare."""
        value: dict[str, Any] = json.loads(json.dumps(self.to_json()))
        return {name: value[name] for name in value if name not in RECORDED_ONLY}

    def fingerprint(self) -> str:
        """SHA-256 (hex) of :meth:`identity`."""
        return fingerprint(self.identity())

    def difference(self, other: Provenance) -> str | None:
        """The first field in which two models differ, as ``"field: mine against theirs"``; None if they agree."""
        mine, theirs = self.identity(), other.identity()
        for name in mine:
            if mine[name] != theirs[name]:
                return f"{name}: {mine[name]!r} against {theirs[name]!r}"
        return None


@dataclass(frozen=True)
class Result:
    """What one method found for one model and one in-distribution (ID) data set against some OOD sets.

    Attributes
    ----------
    model, id_dataset, method : str
    params : mapping
        The method's hyper-parameters, seed and splits; JSON.
    inputs : mapping of str to str
        Fingerprint of everything read, by what it is (``"model"``, ``"images/cifar10/train"``, ``"texts/…"``).
    id_accuracy : float or None
        Accuracy in [0, 1] of the classifier behind the method on the ID test split; None where labels are missing.
    metrics : mapping
        ``{score: {"name/split" of the OOD set: {metric: float}}}``; the metrics are ``auroc``, ``fpr95``, ``aupr_in``,
        ``aupr_out`` in [0, 1], and the sizes ``n_id`` and ``n_ood``.
    variant : str
        The options in which the method differs from its defaults, as ``"k=10, metric=l2"``; empty for the defaults.
    details : mapping
        What else the method found, by name; JSON. ``agreement`` of pseudo-labels with true labels, say.
    absent : str or None
        Why there are no metrics, where the method could not run.
    scores : mapping of ``"score/name/split"`` to (N,) float64
        Per image of a split, higher = more in-distribution, NaN where the image was not embedded.
    weights : mapping of str to array
        What was learned, where it is small enough to keep (a linear probe's coefficients).
    notes : tuple of str
        Things a reader should know: unfinished rows, classes without images.
    seconds : float
        Wall time that computing it took.
    created : str
        ISO 8601, UTC.
    version : str
        Of embedstore.
    """

    model: str
    id_dataset: str
    method: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    id_accuracy: float | None = None
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    variant: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    absent: str | None = None
    scores: Mapping[str, FloatArray] = field(default_factory=dict)
    weights: Mapping[str, FloatArray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    created: str = ""
    version: str = ""

    def key(self) -> str:
        """Twelve hex digits that name this result among its method's: a hash of parameters and inputs."""
        return fingerprint({"params": dict(self.params), "inputs": dict(self.inputs)})[:12]
