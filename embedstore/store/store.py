"""The store: one Zarr v3 group with rows, models, embeddings, prompts and results (docs/format.md specifies it)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from embedstore.errors import (
    FingerprintMismatch,
    NotAvailable,
    StoreCorrupt,
    StoreNotFound,
    UnknownName,
    redact,
)
from embedstore.records import FloatArray, Provenance, Result, Rows
from embedstore.store import images, layout, opening, results, splits, texts, verify
from embedstore.store.damage import Problem, survey
from embedstore.store.images import Images, ImageWriter
from embedstore.store.opening import Location
from embedstore.store.splits import Split

DEFAULT_BLOCK_ROWS = 1024


class Store:
    """Features, prompts and results of any number of models and data sets.

    Open one with :meth:`open` or :meth:`create`. A location is a path, a URL that fsspec understands, or a Zarr store
    object (``zarr.storage.MemoryStore()`` in tests and notebooks).
    """

    def __init__(self, root: zarr.Group, location: str) -> None:
        self._root = root
        self.location = location

    @classmethod
    def create(cls, location: Location) -> Store:
        """Create a store, or open the one that is there, for writing.

        Raises
        ------
        StoreNotFound
            If something that is not a store of ours is in the way.
        """
        return cls(opening.created(location), str(location))

    @classmethod
    def open(cls, location: Location, *, writable: bool = False) -> Store:
        """Open an existing store.

        Raises
        ------
        StoreNotFound
            If there is nothing, or something that is not a store of ours.
        StoreCorrupt
            If it was written in a format that this version does not know.
        """
        return cls(opening.opened(location, writable=writable), str(location))

    @classmethod
    def find(cls, location: Location) -> Store | None:
        """The store at a location, for reading; None where there is nothing. Raises as :meth:`open` otherwise."""
        try:
            return cls.open(location)
        except StoreNotFound:
            if opening.is_taken(location):
                raise
            return None

    def __repr__(self) -> str:
        return f"Store({redact(self.location)!r})"

    # Rows -------------------------------------------------------------------------------------------------------------

    def datasets(self) -> dict[str, list[str]]:
        """Splits by data set, sorted."""
        found: dict[str, list[str]] = {}
        for rows in self.splits():
            found.setdefault(rows.dataset, []).append(rows.split)
        return found

    def splits(self) -> list[Split]:
        """The row lists of all splits, sorted by data set and split; their columns are not read."""
        found = layout.find(self._root, "datasets", splits.KIND)
        return [Split(self._root, path.split("/")[0], path.split("/")[1], content) for path, content in found]

    def holds(self, dataset: str, split: str) -> bool:
        """Whether there is a row list of that split."""
        return splits.stored_split(self._root, dataset, split) is not None

    def rows(self, dataset: str, split: str) -> Split:
        """The row list of one split; :class:`UnknownName` if it was never extracted."""
        found = splits.stored_split(self._root, dataset, split)
        if found is None:
            known = self.datasets()
            if dataset not in known:
                raise UnknownName("data set", dataset, known)
            raise UnknownName("split", f"{dataset}/{split}", [f"{dataset}/{name}" for name in known[dataset]])
        return found

    def add_rows(
        self,
        dataset: str,
        split: str,
        rows: Rows,
        *,
        block_rows: int = DEFAULT_BLOCK_ROWS,
        extend: bool = False,
        retry_failed: bool = False,
    ) -> Split:
        """Store the row list of one split; the same rows again, in any order, are a no-op.

        Parameters
        ----------
        block_rows : int
            Of a new split; a stored one keeps its own.
        extend : bool
            Append the rows that the stored list does not have. Stored rows keep their numbers and finished blocks
            their bytes; a last block that was short is pending again, and every model has the new rows pending.
        retry_failed : bool
            An image that no model has embedded may have another length now: it has been mended.

        Raises
        ------
        FingerprintMismatch
            If stored rows are missing or other now, if class names are other ones, or if rows are new and not to be
            appended.
        """
        if self.holds(dataset, split):
            self._catch_up(dataset, split)
        replaceable = self._never_embedded(dataset, split) if retry_failed else None
        splits.write_rows(self._root, dataset, split, rows, block_rows, extend=extend, replaceable=replaceable)
        return self._catch_up(dataset, split)

    def _catch_up(self, dataset: str, split: str) -> Split:
        """Let every model's embeddings know of the rows that the split has now; also of those of a killed writer."""
        stored = self.rows(dataset, split)
        for model in self.models() if stored.earlier else ():
            if layout.committed(self._root, images.path_of(model, dataset, split), images.KIND) is not None:
                images.lengthen(self._root, model, stored)
        return stored

    def merge_rows(
        self, dataset: str, split: str, rows: Rows, *, extend: bool = False, retry_failed: bool = False
    ) -> Rows:
        """The rows as :meth:`add_rows` would store them; it raises the same, and nothing is written."""
        splits.check_keys(rows)
        if not self.holds(dataset, split):
            return rows
        replaceable = self._never_embedded(dataset, split) if retry_failed else None
        return splits.merge_rows(self.rows(dataset, split), rows, extend=extend, replaceable=replaceable)

    def _never_embedded(self, dataset: str, split: str) -> npt.NDArray[np.bool_] | None:
        """(N,) bool: the rows that are ok in no model; None where the split is not stored."""
        if not self.holds(dataset, split):
            return None
        never = np.ones(len(self.rows(dataset, split)), dtype=bool)
        for model in self.models():
            if layout.committed(self._root, images.path_of(model, dataset, split), images.KIND) is not None:
                never &= ~self.images(model, dataset, split).ok
        return never

    # Models -----------------------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return [path for path, _ in layout.find(self._root, "models", "model", inside=frozenset({"images", "texts"}))]

    def provenance(self, model: str) -> Provenance:
        """What made a model's embeddings; :class:`UnknownName` if the store does not know it."""
        content = layout.committed(self._root, f"models/{model}", "model")
        if content is None:
            raise UnknownName("model", model, self.models())
        return Provenance.from_json(content["provenance"])

    def fingerprint(self, model: str) -> str:
        """SHA-256 (hex) of a model's provenance, as its writer computed it: other versions may know other fields."""
        self.provenance(model)
        content = layout.committed(self._root, f"models/{model}", "model") or {}
        return str(content["fingerprint"])

    def projection(self, model: str) -> FloatArray | None:
        """(Dp, D) float32: the image head; None where it is not one matrix."""
        self.provenance(model)
        group = layout.group_at(self._root, f"models/{model}")
        return layout.read(layout.array_at(group, "projection")) if "projection" in group else None

    def add_model(self, provenance: Provenance, projection: FloatArray | None) -> None:
        """Store what a model is; the same model again is a no-op.

        Raises
        ------
        FingerprintMismatch
            If another model is stored under this name; the message names the field that differs.
        """
        name = layout.check_name("model", provenance.name)
        if layout.committed(self._root, f"models/{name}", "model") is not None:
            self.check_model(provenance)
            return
        group = layout.make_group(self._root, f"models/{name}")
        if projection is not None:
            array = layout.create_array(
                group,
                "projection",
                shape=projection.shape,
                chunks=projection.shape,
                dtype="float32",
                dimensions=("feature", "joint"),
            )
            array[:] = projection
        layout.commit(group, "model", fingerprint=provenance.fingerprint(), provenance=provenance.to_json())

    def check_model(self, provenance: Provenance) -> None:
        """Raise FingerprintMismatch if another model is stored under this name; the message names the difference."""
        difference = self.provenance(provenance.name).difference(provenance)
        if difference is not None:
            raise FingerprintMismatch(
                f"the store holds another model under the name {provenance.name!r}; {difference} (stored against "
                f"asked). Use the stored setting, or give this one a name of its own with --name"
            )

    # Images -----------------------------------------------------------------------------------------------------------

    def embedded(self, model: str) -> list[tuple[str, str]]:
        """``(data set, split)`` of everything that a model has embedded or begun to, sorted."""
        found = layout.find(self._root, f"models/{model}/images", images.KIND)
        return [(path.split("/")[0], path.split("/")[1]) for path, _ in found]

    def images(self, model: str, dataset: str, split: str) -> Images:
        """A model's embeddings of one split, read lazily.

        Raises
        ------
        UnknownName
            If the store does not know the model, data set or split.
        NotAvailable
            If this model never embedded that split.
        StoreCorrupt
            If the embeddings belong to rows or a model that the store no longer has.
        """
        provenance, rows = self.provenance(model), self.rows(dataset, split)
        stored = layout.committed(self._root, images.path_of(model, dataset, split), images.KIND)
        if stored is None and rows.shards and not any(shard.size for shard in rows.shards):
            # No file holds these rows: an attack on features left them (DATASET/float, DATASET/step-K).
            raise NotAvailable(
                f"{model} has no features of {rows.name}, and cannot have any: `embedstore attack` computed them with "
                f"the model that it attacked, and no file holds these images; {dataset}/adversarial is what files hold"
            )
        if stored is None:
            raise NotAvailable(
                f"{model} has not embedded {rows.name}; run `embedstore extract … --dataset {dataset} --split {split}` "
                f"with that model"
            )
        images.check_belongs(stored, model, self.fingerprint(model), rows)
        return Images(self._root, provenance, rows, stored)

    def each_images(self, model: str, splits: Iterable[Split]) -> Iterator[tuple[Split, Images | StoreCorrupt]]:
        """What a model has embedded of those of :meth:`splits` that it has begun, or why it cannot be read.

        One listing for all: :meth:`images` for one after the other would read the model each time.
        """
        provenance, mark = self.provenance(model), self.fingerprint(model)
        begun = dict(layout.find(self._root, f"models/{model}/images", images.KIND))
        for rows in splits:
            if rows.name in begun:
                try:
                    images.check_belongs(begun[rows.name], model, mark, rows)
                except StoreCorrupt as error:
                    yield rows, error
                else:
                    yield rows, Images(self._root, provenance, rows, begun[rows.name])

    def began(self, model: str, dataset: str, split: str) -> datetime | None:
        """When a model's embeddings of a split were begun, or last extended, UTC; None where no local file says so."""
        return layout.began(self._root, images.path_of(model, dataset, split))

    def image_writer(self, model: str, rows: Split, *, projected: bool = False, captions: bool = False) -> ImageWriter:
        """The writer of a model's embeddings of one split; begins or resumes it.

        Parameters
        ----------
        projected : bool
            Store the joint space too, for an image head that is not one matrix.
        captions : bool
            Store each image's own caption too.
        """
        return images.create(
            self._root, self.provenance(model), self.fingerprint(model), rows, projected=projected, captions=captions
        )

    # Prompts ----------------------------------------------------------------------------------------------------------

    def class_sets(self, model: str) -> dict[str, list[str]]:
        """Template sets by class set, sorted, that a model has embedded."""
        return texts.sets(self._root, model)

    def texts(self, model: str, class_set: str, templates: str = "plp") -> FloatArray:
        """(C, D) float32: one unit vector per class, the normalised mean over the templates.

        Raises
        ------
        UnknownName
            If the store does not know the model.
        NotAvailable
            If these prompts were not embedded.
        """
        return texts.ensemble(self.template_texts(model, class_set, templates))

    def template_texts(self, model: str, class_set: str, templates: str = "plp") -> FloatArray:
        """(C, P, D) float32: one unit vector per class and template."""
        return layout.read(self._text_array(model, class_set, templates))

    def text_info(self, model: str, class_set: str, templates: str = "plp") -> dict[str, Any]:
        """``names`` (C), ``templates`` (P) and ``fingerprint`` of stored prompts."""
        content: Any = dict(self._text_array(model, class_set, templates).attrs)[layout.ATTRIBUTE]
        return dict(content)

    def has_texts(
        self, model: str, class_set: str, template_set: str, names: Sequence[str], templates: Sequence[str]
    ) -> bool:
        """Whether these prompts are stored; :class:`FingerprintMismatch` if others are, under the same names."""
        return texts.has(self._root, model, class_set, template_set, names, templates)

    def add_texts(
        self,
        model: str,
        class_set: str,
        template_set: str,
        *,
        names: Sequence[str],
        templates: Sequence[str],
        vectors: FloatArray,
    ) -> None:
        """Store (C, P, D) unit vectors; the same names and templates again are a no-op.

        Raises
        ------
        FingerprintMismatch
            If other names or templates are stored under these names.
        """
        if not self.has_texts(model, class_set, template_set, names, templates):
            content = {"names": list(names), "templates": list(templates)}
            mark = self.fingerprint(model)
            texts.write(self._root, model, mark, class_set, template_set, content, vectors)

    def _text_array(self, model: str, class_set: str, templates: str) -> zarr.Array[Any]:
        return texts.array(self._root, self.provenance(model), class_set, templates)

    # Results ----------------------------------------------------------------------------------------------------------

    def add_result(self, result: Result) -> None:
        """Store what a method found; the same parameters and inputs again replace it."""
        results.write(self._root, result)

    def results(self) -> Iterator[Result]:
        """Every stored result, oldest first; its scores and weights are read when looked up."""
        return results.read_all(self._root)

    # Soundness --------------------------------------------------------------------------------------------------------

    def verify(
        self,
        *,
        models: Sequence[str] = (),
        dataset: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Problem]:
        """Read every chunk of the store, and yield what breaks a promise of docs/format.md.

        In memory are one block of one array, eight bytes for each row of a split and the names of an array's chunks.

        Parameters
        ----------
        models : sequence of str
            Only these; all if empty.
        dataset : str, optional
            Only this data set.
        progress : callable, optional
            Called with the rows (of row lists and of embeddings) read since the last call, and all there are to read.

        Raises
        ------
        OSError
            The store cannot be read just now. That is no damage.
        """
        return verify.verify(self._root, models, dataset, progress)

    def forget_damaged(self, problems: Iterable[Problem]) -> dict[str, list[tuple[int, int, int]]]:
        """Make the damaged blocks pending again, so that embedding them again mends them; touch nothing else.

        Returns
        -------
        dict of str to list of (int, int, int)
            Number, first row and last row + 1 of the blocks, by the path of the embeddings they belong to.
        """
        return verify.repair(self._root, problems)

    def leftovers(self) -> int:
        """How many temporary files killed writers left behind; every reader passes over them."""
        return survey(self._root, lambda path: False).leftovers
