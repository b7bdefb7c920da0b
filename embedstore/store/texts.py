"""Embedded prompts: one unit vector per class and template, and the ensemble over templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from embedstore.errors import FingerprintMismatch, NotAvailable
from embedstore.records import FloatArray, Provenance, fingerprint
from embedstore.store import layout

KIND = "texts"


def ensemble(vectors: FloatArray) -> FloatArray:
    """One unit vector per class: the mean of its prompts' unit vectors, normalised again.

    Parameters
    ----------
    vectors : (C, P, D) float
        Normalised here in any case, so that a long vector does not outvote the others.

    Returns
    -------
    (C, D) float32
        Computed in float64. Zero where the prompts cancel out; NaN where a prompt is.
    """
    return _unit(_unit(np.asarray(vectors, dtype=np.float64)).mean(axis=1)).astype(np.float32)


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: FloatArray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms != 0)
    return units


def path_of(model: str, class_set: str, template_set: str) -> str:
    """Where in the store these prompts lie."""
    return f"models/{model}/texts/{class_set}/{template_set}"


def sets(root: zarr.Group, model: str) -> dict[str, list[str]]:
    """Template sets by class set, sorted."""
    group = layout.node_at(root, f"models/{model}/texts")
    if not isinstance(group, zarr.Group):
        return {}
    complete = {
        name: [key for key in _arrays(group, name) if layout.committed(group, f"{name}/{key}", KIND)]
        for name in layout.children(group, zarr.Group)
    }
    return {name: found for name, found in complete.items() if found}


def array(root: zarr.Group, provenance: Provenance, class_set: str, template_set: str) -> zarr.Array[Any]:
    """(C, P, D): stored prompts of a model; NotAvailable, saying what there is, if they were not embedded."""
    path = path_of(provenance.name, class_set, template_set)
    if layout.committed(root, path, KIND) is None:
        if provenance.tokenizer is None:
            raise NotAvailable(f"{provenance.name} has no text tower")
        have = [f"{name}/{inner}" for name, found in sets(root, provenance.name).items() for inner in found]
        raise NotAvailable(
            f"{provenance.name} has no prompts {class_set}/{template_set} (it has: {', '.join(have) or 'none'}); "
            f"extract {class_set} again with --templates {template_set}, and with --classes FILE where it names no "
            "classes"
        )
    return layout.array_at(root, path)


def _arrays(group: zarr.Group, class_set: str) -> list[str]:
    return layout.children(layout.group_at(group, class_set), zarr.Array)


def has(
    root: zarr.Group, model: str, class_set: str, template_set: str, names: Sequence[str], templates: Sequence[str]
) -> bool:
    """See :meth:`embedstore.Store.has_texts`."""
    stored = layout.committed(root, path_of(model, class_set, template_set), KIND)
    if stored is None:
        return False
    for what, mine in (("names", list(names)), ("templates", list(templates))):
        if stored[what] != mine:
            raise FingerprintMismatch(
                f"the prompts {class_set}/{template_set} of {model} were made with other {what}: {stored[what]} "
                f"stored, {mine} now. Use another --dataset name or another store"
            )
    return True


def write(
    root: zarr.Group,
    model: str,
    model_fingerprint: str,
    class_set: str,
    template_set: str,
    content: dict[str, Any],
    vectors: FloatArray,
) -> None:
    """Store (C, P, D) unit vectors as one chunk: whole or not at all."""
    layout.check_name("class set", class_set)
    layout.check_name("template set", template_set)
    array = layout.create_array(
        layout.make_group(root, f"models/{model}/texts/{class_set}"),
        template_set,
        shape=vectors.shape,
        chunks=vectors.shape,
        dtype="float32",
        dimensions=("class", "template", "joint"),
    )
    array[:] = np.asarray(vectors, dtype=np.float32)
    layout.commit(array, KIND, fingerprint=fingerprint([model_fingerprint, content]), **content)
