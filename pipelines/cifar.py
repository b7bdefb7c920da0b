"""CIFAR-10 against CIFAR-100, both ways, and against far-OOD sets.

Paper: Adaloglou, Michels, Kaiser, Kollmann, "Adapting Contrastive Language-Image Pretrained (CLIP) Models for
Out-of-Distribution Detection" (arXiv 2303.05828). Two of its four benchmarks; the far-OOD sets are ours.

Command: ``python pipelines/cifar.py`` downloads CIFAR and a CLIP ViT-B/16 through torchvision and open_clip.
Without a network, name local ones; repeat ``--model`` and the report gets its R²::

    python pipelines/cifar.py --data path/to/data --far textures --far mnist --model local-dir:path/to/model

where ``path/to/data`` holds the folders ``cifar10`` and ``cifar100`` (WebDataset shards ``train-*.tar`` and
``test-*.tar``, or image folders ``train/`` and ``test/``) and those of the far-OOD sets.

Cost: 120,000 images of the two CIFARs and the far-OOD sets go through the model once, minutes on a GPU. Everything
after that takes a few minutes on a CPU, most of it for the two linear layers.

What is known: the paper's abstract (v1) reports 87.6 % AUROC on CIFAR-100 → CIFAR-10 for the unsupervised 1-NN with the
largest public ViT, and 97.4 % for a supervised probe; open_clip lists zero-shot accuracies of 90.8 % (CIFAR-10) and
66.9 % (CIFAR-100) for ViT-B-16/openai. No other figure of its CIFAR tables was at hand, so none is claimed here.
"""

from __future__ import annotations

import click

from embedstore.cli import run_typed


@click.command()
@click.option("--data", metavar="DIR", help="Folder of local data sets. torchvision's downloads if not given.")
@click.option("--model", "models", multiple=True, default=("ViT-B-16/openai",), show_default=True, metavar="MODEL")
@click.option(
    "--far",
    multiple=True,
    metavar="NAME",
    help="Far-OOD set: a folder in --data, or as torchvision calls it. [default: SVHN and DTD, if no --data]",
)
@click.option("--limit", metavar="N", help="Take only the first N images of every split.")
@click.option("--test-limit", metavar="N", help="The same for the splits that are tested.")
@click.option("--out", default="cifar", show_default=True, metavar="DIR", help="Where the store and the report go.")
def main(
    data: str | None,
    models: tuple[str, ...],
    far: tuple[str, ...],
    limit: str | None,
    test_limit: str | None,
    out: str,
) -> None:
    """Embed both CIFARs and the far-OOD sets, probe both ways, write the report."""
    store = ("--store", f"{out}/store.zarr")
    named = [word for model in models for word in ("--model", model)]
    limits = {"train": limit, "test": test_limit or limit}

    def extract(name: str, split: str) -> str:
        """Embed one split; return the data set's name in the store."""
        source, dataset = f"{data}/{name}" if data else f"torchvision:{name}", name.lower()
        first = ("--limit", limits[split]) if limits[split] else ()
        run_typed("extract", source, "--dataset", dataset, "--split", split, *store, *named, *first)
        return dataset

    for cifar in ("cifar10", "cifar100") if data else ("CIFAR10", "CIFAR100"):
        extract(cifar, "train")
        extract(cifar, "test")
    others = [extract(name, "test") for name in far or (() if data else ("SVHN", "DTD"))]

    # Train on one, detect the other and everything far away.
    for known, unknown in (("cifar10", "cifar100"), ("cifar100", "cifar10")):
        run_typed("probe", *store, "--id", known, *(word for name in (unknown, *others) for word in ("--ood", name)))

    run_typed("report", *store, "--out", f"{out}/report", "--title", "CIFAR-10 and CIFAR-100")


if __name__ == "__main__":
    main()
