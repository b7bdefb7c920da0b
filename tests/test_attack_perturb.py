"""The attack itself, on the fake encoder in float64, where the truth can be computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedstore import LinearProbe, energy
from embedstore.attack import PRESETS, Batches, Budget, Options, Perturbed, perturb
from embedstore.attack.budget import Room
from embedstore.attack.objective import ProbeEnergy, Toward, probe_energy, smoothness
from embedstore.encoders import differentiable
from embedstore.encoders.fake import FakeEncoder
from embedstore.errors import ModelUnavailable, NotAvailable, UsageError

FAKE = differentiable(FakeEncoder())
SHORT = Options(steps=25, every=5)


def images(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, 16, 16)) / 255)


def seeds(count: int, seed: int = 0) -> list[tuple[int, int]]:
    return [(seed, row) for row in range(count)]


def toward(count: int, seed: int = 99) -> Toward:
    return Toward(FAKE.features(images(count, seed)))


def arrays_of(made: Perturbed) -> dict[str, Any]:
    found = {each.name: getattr(made, each.name) for each in fields(made) if each.name not in ("snapshots", "reasons")}
    return found | {f"step-{step}": array for step, array in made.snapshots.items()}


# The terms -----------------------------------------------------------------------------------------------------------


def test_smoothness_is_that_of_a_naive_loop() -> None:
    rho = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    dy, dx = np.zeros_like(rho), np.zeros_like(rho)
    for b, c, y, x in np.ndindex(*rho.shape):
        if y + 1 < rho.shape[2]:
            dy[b, c, y, x] = rho[b, c, y + 1, x] - rho[b, c, y, x]
        if x + 1 < rho.shape[3]:
            dx[b, c, y, x] = rho[b, c, y, x + 1] - rho[b, c, y, x]
    expected = [(dy[b] ** 2).mean() + (dx[b] ** 2).mean() for b in range(2)]
    found = smoothness(torch.from_numpy(rho))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # Of the batch, as the released code means over it.
    np.testing.assert_allclose(found.mean(), (dy**2).mean() + (dx**2).mean(), rtol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(1)
    clean, rho = images(2), torch.from_numpy(0.01 * rng.standard_normal((2, 3, 16, 16)))
    text = torch.from_numpy(rng.standard_normal((2, 12)))
    probe = ProbeEnergy(torch.from_numpy(rng.standard_normal((5, 24))), torch.from_numpy(rng.standard_normal(5)))
    for objective in (toward(2), Toward(text, joint=True), probe):

        def loss(change: Any, objective: Any = objective) -> Any:
            found = objective(FAKE, FAKE.features(clean + change), slice(0, 2))
            return (5e3 * smoothness(change) - found).sum()

        change = rho.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(change), change)
        for _ in range(10):
            way = torch.from_numpy(rng.standard_normal(rho.shape))
            slope = (loss(rho + 1e-6 * way) - loss(rho - 1e-6 * way)) / 2e-6
            np.testing.assert_allclose((gradient * way).sum(), slope, rtol=1e-6)


def test_a_probes_energy_is_the_one_that_is_scored() -> None:
    rng = np.random.default_rng(2)
    X, y = rng.normal(3, 2, (60, 24)).astype(np.float32), rng.integers(0, 4, 60)
    probe = LinearProbe(epochs=3).fit(X, y)
    objective = probe_energy(FAKE, probe.coef_, probe.intercept_, probe.mean_, probe.scale_)
    found = objective(FAKE, torch.from_numpy(X.astype(np.float64)), slice(0, 60))
    np.testing.assert_allclose(found, energy(probe.decision_function(X)), rtol=1e-6)
    with pytest.raises(UsageError, match="a probe is coef"):
        probe_energy(FAKE, probe.coef_, probe.intercept_, probe.mean_[:3], probe.scale_)


# The loop ------------------------------------------------------------------------------------------------------------


def released_loop(clean: Any, targets: Any, rho: Any, steps: int, lr: float, weight: float) -> Any:
    """The loop of clip-ood-adversarial-examples.ipynb, restated: one loss for the whole batch."""
    rho = torch.nn.Parameter(torch.clamp(rho, -clean, 1 - clean))
    adam = torch.optim.Adam([rho], lr=lr)
    for _ in range(steps):
        features = FAKE.features(clean + rho)
        cosine = torch.nn.functional.cosine_similarity(features, targets).mean()
        dy = torch.nn.functional.pad(rho[:, :, 1:] - rho[:, :, :-1], (0, 0, 0, 1))
        dx = torch.nn.functional.pad(rho[:, :, :, 1:] - rho[:, :, :, :-1], (0, 1))
        loss = -cosine + weight * ((dy**2).mean() + (dx**2).mean())
        adam.zero_grad()
        loss.backward()
        adam.step()
        rho.data = torch.clamp(rho.data, -clean, 1 - clean)
    return (clean + rho).detach().numpy()


@pytest.mark.parametrize("name", ["smooth", "patchy"])
@pytest.mark.parametrize(("batch", "tolerance"), [(1, 1e-9), (16, 2e-4)])
def test_it_is_the_released_loop(name: str, batch: int, tolerance: float) -> None:
    options = replace(PRESETS[name], steps=60)
    clean, objective = images(batch), toward(batch)
    found = perturb(FAKE, clean, objective, options, seeds=seeds(batch))
    noise = np.stack([np.random.default_rng([0, row]).standard_normal((3, 16, 16)) for row in range(batch)])
    expected = released_loop(
        clean, objective.targets, torch.from_numpy(1e-3 * noise), 60, 1e-3, 5e3 if name == "smooth" else 0.0
    )
    # With one image to the last digits; with 16, but for the eps of Adam, which the batch's mean makes 16 times larger.
    np.testing.assert_allclose(found.images, expected, rtol=0, atol=tolerance)
    assert np.abs(expected - clean.numpy()).max() > 100 * tolerance


def test_similarity_rises_and_is_what_the_features_say() -> None:
    options = replace(PRESETS["patchy"], steps=100, every=10, snapshots=(0, 50, 100))
    clean, objective = images(12), toward(12)
    made = perturb(FAKE, clean, objective, options, seeds=seeds(12))
    assert (np.diff(made.trace_similarity.mean(axis=0)) > 0).all()
    assert (made.similarity > made.similarity_before + 0.2).all()
    assert made.trace_steps.tolist() == list(range(0, 101, 10))
    targets = objective.targets.numpy()

    def cosine(features: Any) -> Any:
        wide = features.astype(np.float64)
        return (wide * targets).sum(1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(targets, axis=1)

    for features, similarity in (
        (made.features_clean, made.similarity_before),
        (made.features, made.similarity),
        (made.features_rounded, made.similarity_rounded),
        (made.snapshots[0], made.trace_similarity[:, 0]),
        (made.snapshots[50], made.trace_similarity[:, 5]),
        (made.snapshots[100], made.similarity),
    ):
        assert features.dtype == np.float32
        np.testing.assert_allclose(cosine(features), similarity, atol=1e-6)
    # The other numbers, from the pixels.
    change = made.images - clean.numpy()
    np.testing.assert_allclose(made.l2, np.sqrt((change**2).sum(axis=(1, 2, 3))))
    np.testing.assert_allclose(made.linf, np.abs(change).max(axis=(1, 2, 3)))
    np.testing.assert_allclose(made.psnr, 10 * np.log10(1 / (change**2).mean(axis=(1, 2, 3))))
    np.testing.assert_array_equal(made.rounded, np.rint(made.images * 255))
    again = FAKE.features(torch.from_numpy(made.rounded / 255)).numpy()
    np.testing.assert_allclose(made.features_rounded, again, atol=1e-6)
    np.testing.assert_allclose(made.trace_loss, -made.trace_similarity)  # patchy: nothing but similarity


def test_smoothness_makes_it_smoother() -> None:
    rough, smooth = (
        perturb(FAKE, images(6), toward(6), replace(PRESETS[name], steps=60), seeds=seeds(6))
        for name in ("patchy", "smooth")
    )
    change = [torch.from_numpy(made.images) - images(6) for made in (rough, smooth)]
    assert (smoothness(change[1]) < smoothness(change[0]) / 10).all()
    assert (smooth.trace_loss[:, -1] < smooth.trace_loss[:, 0]).all()


def test_the_same_seed_gives_the_same_image_whatever_the_batch() -> None:
    options = replace(SHORT, snapshots=(10,))
    wanted = arrays_of(perturb(FAKE, images(10), toward(10), options, seeds=seeds(10)))
    for size in (1, 3, 7):
        found = arrays_of(perturb(FAKE, images(10), toward(10), options, seeds=seeds(10), batches=Batches(size)))
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    other = perturb(FAKE, images(10), toward(10), options, seeds=seeds(10, seed=1))
    assert (other.images != wanted["images"]).any(axis=(1, 2, 3)).all()


def test_the_model_is_not_trained_and_the_caller_keeps_its_gradients() -> None:
    clean = images(2)
    before = clean.clone()
    with torch.no_grad():  # gradients are taken all the same
        perturb(FAKE, clean, toward(2), SHORT, seeds=seeds(2))
    assert torch.equal(clean, before)
    assert clean.grad is None


# Budgets -------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    size=st.floats(1e-9, 3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1e-8, 1e-3, 0.1, 10.0]),
    seed=st.integers(0, 2**20),
    edge=st.booleans(),
)
def test_budget_and_valid_pixels_hold_exactly(
    norm: str, size: float, dtype: Any, scale: float, seed: int, edge: bool
) -> None:
    if norm == "linf":
        size = min(size, 0.999)
    rng = np.random.default_rng(seed)
    clean = torch.from_numpy(rng.random((3, 3, 4, 5))).to(dtype)
    if edge:
        clean = clean.round()  # nowhere to go but inwards
    room = Room(clean, Budget(norm, size))
    rho = torch.from_numpy(scale * rng.standard_normal(clean.shape)).to(dtype)
    made = room.images(room.project(rho)).numpy().astype(np.float64)
    assert made.min() >= 0
    assert made.max() <= 1
    change = (made - clean.numpy().astype(np.float64)).reshape(3, -1)
    lengths = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    assert (lengths <= size).all()
    # And they are used: what the ball cuts off is as long as it allows, but for the dtype's rounding.
    if norm == "l2":
        asked = np.linalg.norm(Room(clean, None).project(rho).double().numpy().reshape(3, -1), axis=1)
        rounding = 30 * torch.finfo(dtype).eps
        np.testing.assert_allclose(lengths, np.minimum(asked, size), rtol=1e-5, atol=rounding)


@pytest.mark.parametrize(
    "options",
    [
        replace(SHORT, budget=Budget.parse("linf=8/255")),
        replace(SHORT, budget=Budget.parse("l2=0.5"), smoothness=0.0),
        replace(SHORT, budget=Budget.parse("linf=8/255"), optimizer="pgd", smoothness=0.0),
    ],
    ids=["adam linf", "adam l2", "pgd"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_attack_stays_in_its_budget_and_works(options: Options, dtype: str) -> None:
    model = FAKE if dtype == "float64" else replace(FAKE, features=narrow, dtype=torch.float32)
    clean = images(8).to(model.dtype)
    objective = Toward(toward(8).targets.to(model.dtype))
    made = perturb(model, clean, objective, options, seeds=seeds(8))
    assert made.images.dtype == dtype
    change = (made.images.astype(np.float64) - clean.numpy().astype(np.float64)).reshape(8, -1)
    assert options.budget is not None
    measured = np.abs(change).max(axis=1) if options.budget.norm == "linf" else np.linalg.norm(change, axis=1)
    assert (measured <= options.budget.size).all()
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert (made.similarity > made.similarity_before).all()
    if (
        options.budget.norm == "linf"
    ):  # pixels of files lie on the grid of 8 bits, and so does the budget: it holds there
        assert np.abs(made.rounded.astype(int) - np.rint(clean.numpy() * 255).astype(int)).max() <= 8


def narrow(pixels: Any) -> Any:
    return FAKE.features(pixels.double()).float()


def test_pgd_takes_steps_of_one_length_along_the_sign() -> None:
    options = Options(steps=1, budget=Budget("linf", 0.1), optimizer="pgd", lr=0.02, init_scale=0.0, smoothness=0.0)
    clean = images(2) * 0.5 + 0.25
    objective = toward(2)
    made = perturb(FAKE, clean, objective, options, seeds=seeds(2))
    pixels = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(FAKE, FAKE.features(pixels), slice(0, 2)).sum(), pixels)
    np.testing.assert_allclose(made.images, clean + 0.02 * gradient.sign(), atol=1e-12)
    assert replace(options, lr=None, steps=50).step_size == pytest.approx(2.5 * 0.1 / 50)


@pytest.mark.parametrize(
    ("text", "norm", "size"),
    [("linf=8/255", "linf", 8 / 255), ("l2=2.5", "l2", 2.5), (" linf = .03 ", "linf", 0.03), ("l2=1e-2", "l2", 0.01)],
)
def test_budgets_are_read(text: str, norm: str, size: float) -> None:
    budget = Budget.parse(text)
    assert (budget.norm, budget.size) == (norm, size)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text",
    ["", "linf", "l1=3", "linf=-1", "linf=0", "l2=1/0", "l2=nan", "linf=8/255/2", "l2=1e999", "linf=8", "linf=1"],
)
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"every": 0},
        {"lr": 0.0},
        {"smoothness": -1.0},
        {"init_scale": float("nan")},
        {"optimizer": "sgd"},
        {"optimizer": "pgd"},
        {"optimizer": "pgd", "budget": Budget("l2", 1.0)},
        {"snapshots": (251,)},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Options(**wrong)


# What can go wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["loss", "gradient", "later", "end"])
def test_an_image_whose_loss_is_not_finite_fails_alone(when: str) -> None:
    clean, objective = images(4), toward(4)
    calls = 0

    def features(pixels: Any) -> Any:
        nonlocal calls
        calls += 1
        found = FAKE.features(pixels)
        bad = torch.zeros_like(found)
        if when == "loss" or (when == "later" and calls > 10) or (when == "end" and calls > SHORT.steps):
            bad[2] = float("nan")
        if when == "gradient":
            bad[2] = (pixels[2] * 0).sum().sqrt()  # 0, and its derivative infinite
        return found + bad

    made = perturb(replace(FAKE, features=features), clean, objective, SHORT, seeds=seeds(4))
    assert [reason is None for reason in made.reasons] == [True, True, False, True]
    steps = {"loss": "loss is not finite after 0", "gradient": "gradient is not finite after 0"}
    steps |= {"later": "loss is not finite after 10", "end": "similarity is not finite"}
    assert made.reasons[2] is not None
    assert made.reasons[2].startswith("model: the ")
    assert steps[when] in made.reasons[2]
    alone = perturb(FAKE, clean, objective, SHORT, seeds=seeds(4))
    for row in (0, 1, 3):
        np.testing.assert_array_equal(made.images[row], alone.images[row])
        assert np.isfinite(made.features[row]).all()
    if when != "end":
        np.testing.assert_array_equal(made.images[2], clean[2])
    for name in ("features", "features_rounded", "similarity", "psnr", "trace_similarity"):
        assert np.isnan(getattr(made, name)[2]).all(), name


def no_room_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB\nand more")


def no_room_on_the_cpu() -> None:
    torch.empty(1 << 50)


@pytest.mark.parametrize("no_room", [no_room_on_a_gpu, no_room_on_the_cpu])
def test_out_of_memory_the_batch_is_halved(no_room: Callable[[], None]) -> None:
    sizes = []

    def features(pixels: Any) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            no_room()
        return FAKE.features(pixels)

    batches = Batches(10)
    made = perturb(replace(FAKE, features=features), images(10), toward(10), SHORT, seeds=seeds(10), batches=batches)
    wanted = perturb(FAKE, images(10), toward(10), SHORT, seeds=seeds(10))
    np.testing.assert_array_equal(made.images, wanted.images)
    assert batches.size == 2
    assert batches.notes == [
        "out of memory with 10 images at once; going on with 5",
        "out of memory with 5 images at once; going on with 2",
    ]
    assert sizes.count(10) == sizes.count(5) == 1


def test_no_memory_for_one_image() -> None:
    def features(_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore")

    with pytest.raises(ModelUnavailable, match=r"no memory for one image: CUDA out of memory\.$"):
        perturb(replace(FAKE, features=features), images(3), toward(3), SHORT, seeds=seeds(3))


def test_a_model_without_gradients_is_refused() -> None:
    class Blind:
        provenance = FakeEncoder().provenance

    with pytest.raises(NotAvailable, match="fake gives no gradients: Blind has no"):
        differentiable(Blind())  # type: ignore[arg-type]
    cut = replace(FAKE, features=lambda pixels: FAKE.features(pixels).detach())
    with pytest.raises(NotAvailable, match="no gradient back to the pixels"):
        perturb(cut, images(2), toward(2), SHORT, seeds=seeds(2))


@pytest.mark.parametrize(
    "wrong", [images(2)[0], images(2) * 2 - 1, images(2)[:, :2], images(2)[:0], images(2) * np.nan]
)
def test_images_that_are_none_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"images must be|clean pixels"):
        perturb(FAKE, wrong, toward(2), SHORT, seeds=seeds(2))


def test_progress_is_told() -> None:
    seen: list[tuple[int, int, float, float]] = []
    made = perturb(
        FAKE,
        images(5),
        toward(5),
        SHORT,
        seeds=seeds(5),
        batches=Batches(3),
        watch=lambda done, step, loss, similarity: seen.append((done, step, loss, similarity)),
    )
    assert [(done, step) for done, step, *_ in seen] == [
        *((0, step) for step in range(0, 25, 5)),
        (3, 25),
        *((3, step) for step in range(0, 25, 5)),
        (5, 25),
    ]
    assert seen[0][3] == pytest.approx(made.trace_similarity[:3, 0].mean())
    assert seen[-1][2] == pytest.approx(made.trace_loss[3:, -1].mean())
