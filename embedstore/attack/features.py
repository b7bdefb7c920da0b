"""Put the features of attacked images before rounding into a store, where every cheap step finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedstore.attack.shards import arrays_digest, read_attack, read_declaration
from embedstore.errors import FingerprintMismatch
from embedstore.records import FAILED, OK, Provenance, Rows, Shard
from embedstore.store import Store, as_stored


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
    rows = _rows(found.arrays, names, Shard(_stamp(declaration) + arrays_digest(out), 0), str(out))
    columns = {"float": "features"} | {f"step-{step}": f"step-{step}" for step in declaration["options"]["snapshots"]}
    for split, column in columns.items():
        stored = store.add_rows(dataset, split, rows, block_rows=int(declaration["block_rows"]))
        writer = store.image_writer(provenance.name, stored, projected=store.projection(provenance.name) is None)
        for _, start, stop in writer.pending():
            part = {name: values[start:stop] for name, values in found.arrays.items() if name != "trace_steps"}
            reasons = {at: reason for at, reason in enumerate(part["reasons"].tolist()) if reason}
            status = np.where(part["reasons"] == "", OK, FAILED).astype(np.uint8)
            vectors = {"features": part[column]}
            if "projected" in writer.columns:
                vectors["projected"] = part[f"joint:{column}"]
            fitting = {name: as_stored(provenance.dtype, values, name) for name, values in vectors.items()}
            writer.write(start, stop, status, reasons=reasons, **fitting)
    return [f"{dataset}/{split}" for split in columns]


def refuse_other(store: Store, out: Path, dataset: str) -> None:
    """Raise FingerprintMismatch if the store holds features under `dataset` that another attack than `out`'s made."""
    declaration = read_declaration(out)
    steps = [f"step-{step}" for step in declaration["options"]["snapshots"]]
    for split in ("float", *steps):
        if not store.holds(dataset, split):
            continue
        shards = store.rows(dataset, split).shards
        if not shards or not shards[0].name.startswith(_stamp(declaration)):
            raise FingerprintMismatch(
                f"the store holds {dataset}/{split} of another attack than the one in {out}; give this one another "
                f"name with --dataset"
            )


def _stamp(declaration: dict[str, Any]) -> str:
    """Begins what stands where other rows have their file: rows of two attacks are different, whatever their keys."""
    return f"attack-{declaration['fingerprint']}-"


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
