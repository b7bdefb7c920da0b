"""docs/format.md and the bytes on disk: the golden store is rebuilt and compared, and read without embedstore."""

from __future__ import annotations

import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from golden_store import HOME, PROVENANCE, ROWS, build

from embedstore.store import Store


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_content_gives_the_golden_bytes(tmp_path: Path) -> None:
    build(tmp_path / "store")
    fresh, golden = files(tmp_path / "store"), files(HOME)
    assert sorted(fresh) == sorted(golden)
    assert [name for name in golden if fresh[name] != golden[name]] == []


def test_every_chunk_ends_with_its_crc32c() -> None:
    chunks = {name: raw for name, raw in files(HOME).items() if not name.endswith("zarr.json")}
    assert len(chunks) > 20
    for name, raw in chunks.items():
        assert google_crc32c.value(raw[:-4]) == int.from_bytes(raw[-4:], "little"), name


def test_zarr_alone_reads_it() -> None:
    group = zarr.open_group(HOME, mode="r")
    assert list(group["datasets/pets/train/key"][:]) == list(ROWS.keys)
    images = group["models/Tiny/golden/images/pets/train"]
    np.testing.assert_array_equal(images["status"][:], [1, 2, 0, 0, 1])
    features = images["features"][:]
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features[0], np.arange(3) / 8)
    assert np.isnan(features[1:4]).all()
    assert images["features"].metadata.dimension_names == ("row", "feature")


def test_block_is_chunk_and_a_feature_chunk_is_the_plain_little_endian_rows() -> None:
    raw = files(HOME)["models/Tiny/golden/images/pets/train/features/c/0/0"][:-4]
    np.testing.assert_array_equal(np.frombuffer(raw, "<f2").reshape(2, 3)[0], np.arange(3, dtype="<f2") / 8)
    for array in ("key", "label", "shard", "offset", "length"):
        metadata = json.loads(files(HOME)[f"datasets/pets/train/{array}/zarr.json"])
        assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [2]


def test_golden_store_opens_with_everything_in_it() -> None:
    store = Store.open(HOME)
    assert store.models() == ["Tiny/golden"]
    assert store.datasets() == {"pets": ["train"]}
    assert store.provenance("Tiny/golden") == PROVENANCE
    images = store.images("Tiny/golden", "pets", "train")
    assert images.class_names == ("cat", "dog")
    np.testing.assert_array_equal(images.labels, ROWS.labels)
    np.testing.assert_allclose(np.linalg.norm(store.texts("Tiny/golden", "pets"), axis=1), 1, atol=1e-6)
    (result,) = store.results()
    assert result.metrics["cosine"]["wild/test"]["auroc"] == 0.875
    np.testing.assert_array_equal(result.scores["cosine/pets/train"], [0.5, np.nan, 1.0])


def test_changing_a_byte_is_noticed(tmp_path: Path) -> None:
    """The comparison above can fail: one flipped bit in one chunk is one difference."""
    build(tmp_path / "store")
    chunk = tmp_path / "store/models/Tiny/golden/projection/c/0/0"
    raw = bytearray(chunk.read_bytes())
    raw[0] ^= 1
    chunk.write_bytes(raw)
    assert files(tmp_path / "store") != files(HOME)
    with pytest.raises(Exception, match="checksum"):
        Store.open(tmp_path / "store").projection("Tiny/golden")
