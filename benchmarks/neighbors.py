"""Nearest neighbours against a bare matrix product, scikit-learn, and torch."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.features import WIDTH, clouds
from benchmarks.pairs import Reference, Stage, Timed, close

_SHARE = 5  # of the queries one in so many is enough for what takes the same for each
_CHUNK = 1024  # queries at once: with 50,000 bank rows, 205 MB of similarities


def knn(scale: float) -> Iterator[Stage]:
    """The cosine to the nearest of 50,000 rows, for 10,000 rows."""
    import torch

    from embedstore.neighbors import nearest

    queries, bank = np.split(clouds(int(60_000 * scale), 100)[0], [int(10_000 * scale)])
    starts = range(0, len(queries), _CHUNK)
    kept = np.empty((_CHUNK, len(bank)), dtype=np.float32)  # made once, so that the floor is the product alone

    def product() -> None:
        for start in starts:
            part = queries[start : start + _CHUNK]
            np.matmul(part, bank.T, out=kept[: len(part)])

    def in_scikit_learn() -> Timed:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="cosine").fit(bank)
        some = queries[: -(-len(queries) // _SHARE)]
        began = perf_counter()
        found = search.kneighbors(some)[0]
        return Timed(1 - found, (perf_counter() - began) * len(queries) / len(some))

    def in_torch() -> Any:
        unit, among = (torch.nn.functional.normalize(torch.from_numpy(rows)) for rows in (queries, bank))
        return torch.cat([torch.topk(unit[start : start + _CHUNK] @ among.T, 1).values for start in starts]).numpy()

    def same(ours: Any, theirs: Any) -> None:
        close(ours[0][: len(theirs)], theirs, 1e-5)

    def same_as_product(ours: Any, _: None) -> None:
        some = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries[:100], bank)]
        close(ours[0][:100, 0], (some[0] @ some[1].T).max(axis=1), 1e-5)

    yield Stage(
        f"nearest of {len(bank):,} rows for {len(queries):,}, {WIDTH} wide, cosine, float32",
        lambda: nearest(queries, bank, 1),
        [
            Reference("the matrix product alone (numpy)", product, same_as_product, aim=1 / 1.5),
            Reference(
                f"scikit-learn NearestNeighbors, brute (1 of {_SHARE} timed, scaled)", in_scikit_learn, same, aim=1.0
            ),
            Reference(f"torch.topk of {_CHUNK:,} rows of similarities at a time", in_torch, same, aim=1.0),
        ],
    )
