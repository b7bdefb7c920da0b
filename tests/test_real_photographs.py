"""Real photographs and small real CLIP-type models, from the folder `shared` beside the repository, where there is one.

The figures on each model card were measured by its makers with other code (OpenVINO for the images), on their own draws
of 2,000 CIFAR test images and 500 traffic signs and digits; docs/results.md looks into the differences.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from embedstore.encoders import load_encoder
from embedstore.evaluate import Study, run_methods
from embedstore.extract import embed_images, embed_texts, list_rows
from embedstore.records import Result
from embedstore.sources import open_source
from embedstore.store import Store

SHARED = Path(__file__).parents[2] / "shared"
MODEL = "lite0-80"
SIZES = {
    "cifar10/test": 2000,
    "cifar100/test": 2000,
    "gtsrb32/test": 500,
    "textures-dtd10/test": 600,
    "mnist/test": 500,
    "scenes-intel6/test": 900,
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="needs ../shared with real images and models"),
]


def embed(store: Store, name: str, limit: int) -> None:
    dataset, split = name.split("/")
    encoder = load_encoder(f"local-dir:{SHARED / 'models' / MODEL}")
    source = open_source(str(SHARED / "data" / dataset), split=split)
    stored = list_rows(store, source, limit=limit)
    store.add_model(encoder.provenance, encoder.projection)
    if stored.class_names:
        embed_texts(store, encoder, dataset, stored.class_names, ["plp"])
    outcome = embed_images(store, encoder, source, stored)
    assert (outcome.ok, outcome.failed, outcome.pending) == (limit, 0, 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """CIFAR-10 (5,000 for training), CIFAR-100 and three far-OOD sets, embedded by one model."""
    made = Store.create(tmp_path_factory.mktemp("real") / "store.zarr")
    for name, limit in {"cifar10/train": 5000, **SIZES}.items():
        embed(made, name, limit)
    return made


@pytest.fixture(scope="module")
def results(store: Store) -> dict[str, Result]:
    oods = ["cifar100", "gtsrb32", "textures-dtd10", "mnist", "scenes-intel6"]
    study = Study(store, MODEL, "cifar10", oods)
    return {result.method: result for result in run_methods(study)}


def card() -> dict[str, float]:
    text = (SHARED / "models" / MODEL / "MODEL_CARD.md").read_text()
    return {name: float(value) for name, value in re.findall(r"^\| (\S+) \| ([0-9.]+) \|$", text, re.MULTILINE)}


def images_by_webdataset(dataset: str, split: str, count: int) -> list[object]:
    import webdataset
    from PIL import Image

    shard = min((SHARED / "data" / dataset).glob(f"{split}-*.tar"))
    samples = list(webdataset.WebDataset([str(shard)], shardshuffle=False))
    return [Image.open(io.BytesIO(sample.get("png") or sample["jpg"])).convert("RGB") for sample in samples[:count]]


def naive_features(dataset: str, split: str, count: int) -> np.ndarray:
    """What a user would write: webdataset, open_clip's transform, the trunk."""
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{SHARED / 'models' / MODEL}")
    model.eval()
    pixels = torch.stack([transform(image) for image in images_by_webdataset(dataset, split, count)])
    with torch.inference_mode():
        found: np.ndarray = model.visual.trunk(pixels).numpy()
    return found


# webdataset never closes the shards that it opens.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_cached_features_and_their_auroc_are_those_of_a_naive_pipeline(store: Store) -> None:
    naive = {name: naive_features(*name.split("/"), 300) for name in ("cifar10/train", "cifar10/test", "gtsrb32/test")}
    cached = {name: store.images(MODEL, *name.split("/")).features[:300].astype(np.float32) for name in naive}
    for name, X in naive.items():
        cosine = (X * cached[name]).sum(1) / np.linalg.norm(X, axis=1) / np.linalg.norm(cached[name], axis=1)
        assert cosine.min() > 0.99999, name

    def auroc(features: dict[str, np.ndarray]) -> float:
        bank = NearestNeighbors(n_neighbors=1, metric="cosine").fit(features["cifar10/train"])
        scores = [-bank.kneighbors(features[name])[0][:, 0] for name in ("cifar10/test", "gtsrb32/test")]
        return float(roc_auc_score([1] * 300 + [0] * 300, np.concatenate(scores)))

    assert auroc(naive) == pytest.approx(auroc(cached), abs=1e-3)


def test_figures_agree_with_the_model_card(results: dict[str, Result]) -> None:
    expected = card()
    knn, mcm = results["knn"].metrics["cosine"], results["mcm"].metrics["msp"]
    found = {
        "knn_cifar10": results["knn"].id_accuracy,
        "zs_cifar10": results["mcm"].id_accuracy,
        "auroc_1nn_c10->c100": knn["cifar100/test"]["auroc"],
        "auroc_1nn_c10->gtsrb": knn["gtsrb32/test"]["auroc"],
        "auroc_1nn_c10->textures": knn["textures-dtd10/test"]["auroc"],
        "auroc_1nn_c10->mnist": knn["mnist/test"]["auroc"],
        "auroc_mcm_tau1_c10->c100": mcm["cifar100/test"]["auroc"],
        "auroc_mcm_tau1_c10->gtsrb": mcm["gtsrb32/test"]["auroc"],
        "auroc_mcm_tau1_c10->textures": mcm["textures-dtd10/test"]["auroc"],
        "auroc_mcm_tau1_c10->mnist": mcm["mnist/test"]["auroc"],
    }
    off = {name: (value, expected[name]) for name, value in found.items() if abs(value - expected[name]) > 0.02}
    assert off == {}


def test_methods_are_ordered_as_expected(results: dict[str, Result]) -> None:
    near = {(m, score): by["cifar100/test"]["auroc"] for m, r in results.items() for score, by in r.metrics.items()}
    assert near["linear", "msp"] > near["plp", "msp"]
    assert near["knn", "cosine"] > near["mcm", "msp"]
    assert results["linear"].id_accuracy > results["plp"].id_accuracy
    assert all(result.absent is None for result in results.values())


def test_captions_lie_nearer_to_their_own_image(tmp_path: Path) -> None:
    """Flickr8k: an image's own caption is closer than another image's, far more often than not."""
    store = Store.create(tmp_path / "store.zarr")
    encoder = load_encoder(f"local-dir:{SHARED / 'models' / MODEL}")
    source = open_source(str(SHARED / "data" / "flickr8k-128px"), split="test")
    stored = list_rows(store, source, limit=200)
    store.add_model(encoder.provenance, encoder.projection)
    embed_images(store, encoder, source, stored, captions="txt")
    images = store.images(MODEL, "flickr8k-128px", "test")
    joint, captions = images.projected(), images.captions()
    np.testing.assert_allclose(np.linalg.norm(captions, axis=1), 1, atol=2e-3)
    similarity = joint / np.linalg.norm(joint, axis=1, keepdims=True) @ captions.T
    own = np.diag(similarity)[:, None]
    assert (own > similarity).mean() > 0.85
