"""The whole street in about a minute: no network, no GPU, real scans.

Paper: Adaloglou, Michels, Kaiser, Kollmann, "Adapting Contrastive Language-Image Pretrained (CLIP) Models for
Out-of-Distribution Detection" (arXiv 2303.05828). Its study, in miniature: are the features of a vision-language
model that classify better also those that tell better that an image belongs to none of the classes?

Command: ``embedstore demo`` (or ``make demo``). Cost: about a minute on two CPU cores, some twenty seconds of it for
the data and the six models, and 50 MB of disk. Everything lands in one folder, ``demo/``; what is there is not made
again, and nothing is ever deleted.

The cast:

- ``digits``: scikit-learn's handwritten digits zero to four, in-distribution (ID), half of the scans of each;
- ``other-digits``: five to nine, near out-of-distribution (OOD): the same pens, the same scanner, other classes;
- ``photo-patches``: cut from scikit-learn's two sample photographs, far OOD;
- six miniature CLIPs, two widths at three ages, trained here on the other half of the scans, of all ten digits, with
  captions: web-scale CLIP, too, has seen more than the classes that one asks about.

What one should see: the longer a model was trained, the better its features classify (20-NN accuracy from about 70 %
to 97 %) and the better they spot the other digits (1-NN AUROC from about 78 % to 98 %; R² near 0.9 over the six
models). Photo patches are so different that 1-NN finds nearly all of them with any model: there the R² has nothing to
explain. Pseudo-label probing (PLP) stands on a text tower that knows the class names: for the youngest models most
pseudo-labels are wrong and PLP guesses; for the oldest it is within three points of the probe with true labels. Unlike
in the paper (ImageNet, real CLIPs), MCM stays ahead of PLP on the other digits, also when PLP trains for 17,000 steps
instead of the 200 that 270 images make. A miniature shows how the study works, not how it comes out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedstore.cli import run_typed
from embedstore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from open_clip import CLIP
    from PIL.Image import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KNOWN = DIGITS[:5]  # in-distribution; the other five are near-OOD
SIDE = 32  # pixels of a written image; the scans themselves have 8 × 8
PATCHES = 450  # as many as there are other digits

WIDTHS = (64, 192)  # of the image tower
STEPS = (40, 65, 200)  # one training run a width, saved at three ages
BATCH = 64
MEAN, STD = 0.5, 0.5  # of the pixels, 0 to 1: the models see -1 to 1
PREPROCESS = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}

# Web captions speak in many ways. The prompts that the probes use later are among them, as they are on the web.
CAPTIONS = (
    "a photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of many {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a photo of the digit {}.",
    "a scan of the digit {}.",
    "a handwritten {}.",
    "the number {}.",
)


def main(out: str = "demo", seed: int = 0) -> None:
    """Make the data and the models where they are missing, then run the ordinary commands, printing each."""
    root = Path(out)
    claim(root, seed)
    with one_thread():
        prepare(root, seed)
        study(root)
    print(f"\nDone. Open {root / 'report' / 'report.html'}")


def prepare(root: Path, seed: int) -> None:
    """Make the data and the models where they are missing, each under another name until it is whole."""
    for part, make in (("data", write_images), ("models", train_clips)):
        if not (root / part).exists():
            print(f"Making {root / part}", flush=True)
            make(root / f"{part}.part", seed)
            (root / f"{part}.part").rename(root / part)


def study(root: Path) -> None:
    """Extract, probe, report: the commands that one would run on one's own images and models."""
    store, report = str(root / "store.zarr"), str(root / "report")
    models = [f"--model=local-dir:{root / 'models' / name(width, step)}" for width in WIDTHS for step in STEPS]
    # Run the models once over every image; from here on, nobody needs a model or an image again.
    for split in ("digits/train", "digits/test", "other-digits/test", "photo-patches/test"):
        run_typed("extract", str(root / "data" / split), "--store", store, *models)
    # Every classifier and every OOD score, from the cached features.
    run_typed("probe", "--store", store, "--id", "digits", "--ood", "other-digits", "--ood", "photo-patches")
    # Tables, plots, and R² across the models.
    run_typed("report", "--store", store, "--out", report)


def claim(root: Path, seed: int) -> None:
    """Mark `root` as a demo made with these settings; refuse a folder that is somebody else's or another demo's."""
    marker = root / "demo.json"
    settings = {"seed": seed, "classes": KNOWN, "patches": PATCHES, "widths": WIDTHS, "steps": STEPS, "batch": BATCH}
    text = json.dumps(settings) + "\n"
    if marker.exists() and marker.read_text() == text:
        return
    if root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty and not a demo with these settings. Choose another folder with --out.")
    root.mkdir(parents=True, exist_ok=True)
    marker.write_text(text)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: it sums in one order then, so that the models do not depend on the number of cores.

    For matrices this small it is no slower, and several times faster where other programs want the cores too.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_scans(seed: int) -> tuple[list[Image], NDArray[np.int64], NDArray[np.bool_]]:
    """Every scan as an image, the digit it shows, and whether the CLIPs may see it in their pre-training."""
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    seen, _ = train_test_split(np.arange(len(scans.target)), train_size=0.5, stratify=scans.target, random_state=seed)
    images = [enlarge(scan * (255 / 16)) for scan in scans.images]  # sixteen grey levels
    return images, scans.target, np.isin(np.arange(len(images)), seen)


def enlarge(pixels: NDArray[Any]) -> Image:
    """Turn 8 × 8 grey values or colours, 0 to 255, into a smooth image of SIDE × SIDE pixels."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(pixels.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def write_images(folder: Path, seed: int) -> None:
    """Write the scans that no model has seen, and the photo patches, as DATASET/SPLIT/CLASS/NUMBER.png."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    images, digits, seen = load_scans(seed)
    unseen = np.flatnonzero(~seen)
    train, _ = train_test_split(unseen, train_size=0.6, stratify=digits[unseen], random_state=seed)
    for row in unseen:
        word = DIGITS[digits[row]]
        known = "digits/train" if row in train else "digits/test"
        split = known if word in KNOWN else "other-digits/test"
        save_png(images[row], folder / split / word / f"{row:04}.png")
    write_patches(folder / "photo-patches/test", seed)


def write_patches(folder: Path, seed: int) -> None:
    """Cut squares of several sizes out of two photographs, every other one in grey."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(PATCHES):
        photo = photos[number % 2]
        side = int(rng.choice([16, 32, 64, 128]))
        left, top = int(rng.integers(photo.width - side)), int(rng.integers(photo.height - side))
        # Down to the scans' 8 × 8 first, so that sharpness alone does not give a patch away.
        patch = photo.crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BOX)
        pixels = np.asarray(patch.convert("L") if number % 4 < 2 else patch)
        save_png(enlarge(pixels), folder / ("china", "flower")[number % 2] / f"{number:04}.png")


def save_png(image: Image, path: Path) -> None:
    """Write one image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def name(width: int, step: int) -> str:
    """Name a model by its width and its age, so that sorting by name sorts by both."""
    return f"clip-w{width:03}-s{step:03}"


def config(width: int) -> dict[str, Any]:
    """One of open_clip's own configurations, only very small."""
    return {
        "embed_dim": 32,
        "vision_cfg": {"layers": 1, "width": width, "head_width": 32, "image_size": SIDE, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }


def train_clips(folder: Path, seed: int) -> None:
    """Train one CLIP of each width on the seen scans of all ten digits, and save it at each age."""
    import numpy as np
    import open_clip
    import torch

    images, digits, seen = load_scans(seed)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])[seen])[:, None] / 255  # (N, 1, H, W)
    labels = torch.from_numpy(digits[seen])
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    captions = torch.stack([tokenize([caption.format(word) for word in DIGITS]) for caption in CAPTIONS])  # (P, 10, 16)

    for width in WIDTHS:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            train_clip(width, pixels, labels, captions, folder)


def train_clip(width: int, pixels: torch.Tensor, labels: torch.Tensor, captions: torch.Tensor, folder: Path) -> None:
    """Train one CLIP contrastively: each image towards its caption, away from the captions of other digits."""
    import open_clip
    import torch
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    cfg = config(width)
    model = open_clip.CLIP(cfg["embed_dim"], CLIPVisionCfg(**cfg["vision_cfg"]), CLIPTextCfg(**cfg["text_cfg"]))
    # The captions use 26 of the 49,408 tokens; random vectors do for these, and training skips a huge table.
    model.token_embedding.requires_grad_(False)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=max(STEPS), pct_start=0.1)

    for step in range(1, max(STEPS) + 1):
        rows = torch.randint(len(labels), (BATCH,))
        wordings = torch.randint(len(captions), (BATCH,))
        image, text, scale = model(augment(pixels[rows]), captions[wordings, labels[rows]])
        loss = contrast(scale * image @ text.T, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in STEPS:
            save_clip(model, cfg, folder / name(width, step))
            print(f"  {name(width, step)}: loss {loss.item():.2f}", flush=True)


def contrast(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CLIP's loss (InfoNCE, both ways), where all captions of the same digit are right.

    On the web, hardly any two images of a batch share a caption, and CLIP's target is the diagonal. Here a batch shows
    every digit about six times: the diagonal alone would push a three away from the caption of the next three.
    """
    from torch.nn.functional import cross_entropy

    same = (labels[:, None] == labels).float()  # (B, B)
    target = same / same.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def augment(pixels: torch.Tensor) -> torch.Tensor:
    """Turn, scale and shift each scan a little, add noise, and normalise as `PREPROCESS` says: (B, 3, H, W)."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape)

    batch = len(pixels)
    angle, zoom, shift = between(-0.25, 0.25, batch), between(0.85, 1.15, batch), between(-0.125, 0.125, 2, batch)
    cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
    moves = torch.stack([cos, -sin, shift[0], sin, cos, shift[1]], dim=1).view(batch, 2, 3)
    # What comes in from outside is black, as the scans' background is.
    moved = grid_sample(pixels, affine_grid(moves, list(pixels.shape), align_corners=False), align_corners=False)
    return ((moved + 0.05 * torch.randn(pixels.shape) - MEAN) / STD).expand(-1, 3, -1, -1)


def save_clip(model: CLIP, cfg: dict[str, Any], folder: Path) -> None:
    """Save a model as open_clip's ``local-dir:`` expects it, in half precision: these models lose nothing by it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    settings = {"model_cfg": cfg, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
