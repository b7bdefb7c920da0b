"""Put the features of attacked images before rounding into a store, where every cheap step finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.attack.shards import OF_BLOCKS, read_attack, read_declaration
from embedstore.errors import FingerprintMismatch, UsageError
from embedstore.records import FAILED, OK, FloatArray, Provenance, Rows, Shard
from embedstore.store import Store


def store_features(store: Store, provenance: Provenance, out: Path, dataset: str) -> list[str]:
    """Store ``DATASET/float``, the features before rounding, and ``DATASET/step-K`` for every snapshot of an attack.

    Rows have the same keys, in the same order, as the shards beside them, so as ``DATASET/adversarial`` once those are
    extracted. Images that failed are failed rows, with their reason. What is stored is not stored again.

    Parameters
    ----------
    store : Store
        For writing; it knows the model.
    provenance : Provenance
        Of the model that was attacked.
    out : Path
        The folder of a finished attack.
    dataset : str

    Returns
    -------
    list of str
        The splits, as ``"DATASET/SPLIT"``.

    Raises
    ------
    NotAvailable
        The attack is not finished, or there is none.
    FingerprintMismatch
        It was made with another model, or the store holds another attack under these names.
    UsageError
        A feature does not fit the storage dtype.
    """
    found = read_attack(out)
    declaration = found.declaration
    if declaration["model"]["fingerprint"] != provenance.fingerprint():
        raise FingerprintMismatch(
            f"the attack in {out} was made with {declaration['model']['name']}, fingerprint "
            f"{declaration['model']['fingerprint'][:12]}; the model asked for is {provenance.name}, "
            f"{provenance.fingerprint()[:12]}"
        )
    store.check_model(provenance)
    refuse_other(store, out, dataset)
    names = store.rows(declaration["ood"]["dataset"], declaration["ood"]["split"]).class_names
    rows = _rows(found.arrays, names, _stamp(declaration), str(out))
    columns = {"float": "features"} | {f"step-{step}": f"step-{step}" for step in declaration["options"]["snapshots"]}
    for split, column in columns.items():
        stored = store.add_rows(dataset, split, rows, block_rows=int(declaration["block_rows"]))
        writer = store.image_writer(provenance.name, stored, projected=store.projection(provenance.name) is None)
        for _, start, stop in writer.pending():
            part = {name: values[start:stop] for name, values in found.arrays.items() if name not in OF_BLOCKS}
            reasons = {at: reason for at, reason in enumerate(part["reasons"].tolist()) if reason}
            status = np.where(part["reasons"] == "", OK, FAILED).astype(np.uint8)
            vectors = {"features": part[column]}
            if "projected" in writer.columns:
                vectors["projected"] = part[f"joint:{column}"]
            fitting = {name: _stored_as(provenance.dtype, values) for name, values in vectors.items()}
            writer.write(start, stop, status, reasons=reasons, **fitting)
    return [f"{dataset}/{split}" for split in columns]


def refuse_other(store: Store, out: Path, dataset: str) -> None:
    """Raise FingerprintMismatch if the store holds features under `dataset` that another attack than `out`'s made."""
    declaration = read_declaration(out)
    steps = [f"step-{step}" for step in declaration["options"]["snapshots"]]
    for split in ("float", *steps):
        if store.holds(dataset, split) and store.rows(dataset, split).shards != (_stamp(declaration),):
            raise FingerprintMismatch(
                f"the store holds {dataset}/{split} of another attack than the one in {out}; give this one another "
                f"name with --dataset"
            )


def _stamp(declaration: dict[str, Any]) -> Shard:
    """Stands where images have the file they lie in: rows of two attacks are different rows, whatever their keys."""
    return Shard(f"attack-{declaration['fingerprint']}", 0)


def _rows(arrays: dict[str, npt.NDArray[Any]], class_names: tuple[str, ...] | None, stamp: Shard, source: str) -> Rows:
    none = np.full(len(arrays["keys"]), -1)
    return Rows(
        keys=arrays["keys"].tolist(),
        labels=arrays["labels"],
        shard=np.zeros(len(none), dtype=np.int32),
        offset=none.astype(np.int64),
        length=none.astype(np.int64),
        shards=(stamp,),
        class_names=class_names,
        source=source,
    )


def _stored_as(dtype: str, values: FloatArray) -> FloatArray:
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    if largest > float(np.finfo(dtype).max):
        raise UsageError(f"features reach {largest:.4g}, which {dtype} cannot hold; embed with --dtype float32")
    return values.astype(dtype)
