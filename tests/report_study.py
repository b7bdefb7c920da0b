"""Results made by hand, for the tests of the report."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from typing import Any

import numpy as np

from embedstore.records import Provenance, Result
from embedstore.report import absences, cells, correlations
from embedstore.report.content import Content
from embedstore.report.page import render

SCORES = {"knn": ["cosine"], "mcm": ["msp"], "plp": ["msp", "energy"], "linear": ["msp"], "mahalanobis": ["distance"]}
# Every method of today with the scores that it has by default, and what it depends on.
ALL_SCORES = {
    "knn": ["cosine"],
    "mcm": ["msp"],
    "zero-shot": ["max-logit", "energy", "entropy", "gen", "scaled-msp", "scaled-energy", "scaled-entropy"],
    "combined": ["sum"],
    "plp": ["msp", "energy"],
    "linear": ["msp", "energy"],
    "logistic": ["msp", "energy"],
    "mahalanobis": ["distance"],
    "relative-mahalanobis": ["distance"],
    "kmeans-mahalanobis": ["distance"],
    "prototypes": ["cosine"],
    "residual": ["residual"],
    "vim": ["vim"],
    "nnguide": ["guided-energy"],
}
SEEDED = {"plp", "linear", "logistic", "kmeans-mahalanobis", "vim", "nnguide"}
PROMPTED = {"mcm", "zero-shot", "combined", "plp"}
LAYER = "scores=msp+energy+l1, logit_distance=True, metrics=official"  # as the official preset has it
HOSTILE = ["<script>alert(1)</script>", "</script><b>", "\"'><img src=http://evil.example/x>", "<!--", "{{ 7 * 7 }}"]


def metrics(auroc: float, **more: float) -> dict[str, float]:
    values = {"auroc": auroc, "fpr95": 1 - auroc / 3, "aupr_in": 0.1 + 0.2, "aupr_out": 2 / 3, "n_id": 40, "n_ood": 70}
    return {**values, **more}


def result(model: str = "a", method: str = "knn", **changes: Any) -> Result:
    """A result of `method` on the ID set ``digits`` against ``far/test``."""
    known: dict[str, Any] = {
        "model": model,
        "id_dataset": "digits",
        "method": method,
        "params": {"seed": 0, "templates": "plp"},
        "inputs": {"images/digits/test": "1", "images/far/test": "2"},
        "id_accuracy": 0.9,
        "metrics": {score: {"far/test": metrics(0.8)} for score in {**ALL_SCORES, **SCORES}[method]},
        "created": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
    }
    return Result(**{**known, **changes})


def study(models: int = 5, oods: tuple[str, ...] = ("far/test", "near/test"), **changes: Any) -> list[Result]:
    """Every method for several models, with numbers that have no short decimal form."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(models):
        for method, scores in SCORES.items():
            accuracy = 0.6 + 0.05 * index + rng.uniform(0, 0.03)
            table = {s: {o: metrics(0.7 + 0.04 * index + rng.uniform(0, 0.05)) for o in oods} for s in scores}
            found.append(result(f"model{index}", method, **{"id_accuracy": accuracy, "metrics": table, **changes}))
    return found


def run(model: str, method: str, variant: str = "", seed: int = 0, templates: str = "plp", **changes: Any) -> Result:
    """A result as `probe` stores it today: seed and prompts only where the method reads them, intervals in metrics."""
    params = {"metrics": "default"} | ({"seed": seed} if method in SEEDED else {})
    params |= {"templates": templates} if method in PROMPTED else {}
    table = changes.pop("metrics", None) or {
        score: {"far/test": measured(0.8)} for score in changes.pop("scores", ALL_SCORES[method])
    }
    return result(model, method, **{"params": params, "variant": variant, "metrics": table, **changes})


def measured(auroc: float, **more: float) -> dict[str, float]:
    bounds = {"auroc_low": auroc - 0.0123, "auroc_high": auroc + 0.0098, "fpr95_low": 0.701, "fpr95_high": 0.7654}
    return metrics(auroc, **{**bounds, **more})


def full(models: int = 3, oods: tuple[str, ...] = ("far/test", "near/test")) -> list[Result]:
    """Every method of today and some variants with long names, for several models."""
    rng = np.random.default_rng(0)
    more = ["msp", "energy", "l1", "logit-distance", "relative-logit-distance"]
    rows = [(method, "", scores) for method, scores in ALL_SCORES.items()]
    rows += [("knn", "k=10, metric=l2, reduce=kth", ["distance"]), ("plp", LAYER, more), ("linear", LAYER, more)]
    return [
        run(
            f"ViT-B-{index}/laion2b_s34b_b79k",
            method,
            variant,
            id_accuracy=0.6 + 0.1 * index + rng.uniform(0, 0.05),
            metrics={s: {o: measured(0.7 + 0.05 * index + rng.uniform(0, 0.1)) for o in oods} for s in scores},
        )
        for index in range(models)
        for method, variant, scores in rows
    ]


def seeded(models: int = 5, seeds: int = 3, oods: tuple[str, ...] = ("far/test", "near/test")) -> list[Result]:
    """:func:`study` with several seeds, on which the probes alone depend."""
    found = []
    for seed in range(seeds):
        for item in study(models, oods):
            shift = 0.01 * seed if item.method in ("plp", "linear") else 0.0
            table = {
                score: {ood: {**values, "auroc": values["auroc"] - shift} for ood, values in by_set.items()}
                for score, by_set in item.metrics.items()
            }
            accuracy = None if item.id_accuracy is None else item.id_accuracy - shift
            params = {**item.params, "seed": seed}
            found.append(dataclasses.replace(item, params=params, metrics=table, id_accuracy=accuracy))
    return found


def attacked(
    name: str = "far-smooth", models: tuple[str, ...] = ("a", "b"), steps: tuple[int, ...] = (), n: int = 60
) -> list[Result]:
    """What three methods made of an attack on the first model, with and without 7 targets among the train images.

    AUROCs and FPR95 are those of the scores, as scikit-learn has it.
    """
    from sklearn.metrics import roc_auc_score

    found = []
    kinds = {"clean": 0.0, "adversarial": 2.0, "float": 2.2, **{f"step-{step}": 0.01 * step for step in steps}}
    for at, model in enumerate(models):
        splits = {split: shift for split, shift in kinds.items() if at == 0 or split in ("clean", "adversarial")}
        for method, score, strength in (("knn", "cosine", 1.0), ("mcm", "msp", 0.2), ("plp", "energy", 0.6)):
            for left_out in (0, 7) if method != "mcm" else (0,):
                rng = np.random.default_rng(len(method) + 10 * at)
                s_id, base = rng.normal(2.0, 1.0, 80), rng.normal(0.0, 1.0, n)
                scores = {f"{score}/digits/test": s_id}
                table: dict[str, Any] = {}
                for split, shift in splits.items():
                    moved = shift * strength / (1 + at) / (4 if left_out else 1)
                    s_ood = base + moved
                    scores[f"{score}/{name}/{split}"] = s_ood
                    auroc = roc_auc_score([1] * 80 + [0] * n, np.concatenate((s_id, s_ood)))
                    accepted = np.mean(s_ood >= np.sort(s_id)[4])  # of 80, four lie below
                    table[f"{name}/{split}"] = metrics(float(auroc), fpr95=float(accepted), n_id=80, n_ood=n)
                inputs = {"images/digits/test": "1", **({} if method == "mcm" else {"images/digits/train": "2"})}
                variant = f"train_left_out={left_out}" if left_out else ""
                found.append(run(model, method, variant, metrics={score: table}, scores=scores, inputs=inputs))
    return found


def content(results: list[Result], **changes: Any) -> Content:
    """What a results-only store would give, without a store: names need not be ones that a store accepts."""
    table = cells(results)
    return Content(
        **{
            "location": "clip.zarr",
            "version": "0.1.0",
            "cells": tuple(table),
            "absences": tuple(absences(results)),
            "correlations": tuple(correlations(table)),
            "results": tuple(results),
            "models": {item.model: None for item in results},
            **changes,
        },
    )


def provenance(name: str = "a", **changes: Any) -> Provenance:
    known: dict[str, Any] = {
        "name": name,
        "architecture": "ViT-Test",
        "pretrained": "tag",
        "weights_sha256": "0123456789abcdef" * 4,
        "preprocess": {"size": 96},
        "tokenizer": "words",
        "quick_gelu": False,
        "precision": "fp32",
        "dtype": "float16",
        "feature_dim": 8,
        "joint_dim": 4,
        "versions": {"torch": "2.8.0"},
    }
    return Provenance(**{**known, **changes})


def hostile(text: str) -> list[Result]:
    """A study in which every name and remark that could reach the page is `text`."""
    table = {f"{text}": {f"{text}/{text}": metrics(0.5), "far/test": metrics(0.6)}}
    results = [
        result(f"{text}{index}", id_dataset=text, metrics={**table, "cosine": table[text]}, notes=(text,))
        for index in range(3)
    ]
    results = [dataclasses.replace(item, id_accuracy=0.5 + 0.1 * n) for n, item in enumerate(results)]
    return [*results, result(text, "mcm", id_dataset=text, metrics={}, absent=text)]


class Page(HTMLParser):
    """Tags in order, the text that a reader sees, and every attribute; complains about tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = self.scripts = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts += data
        else:
            self.text += data


def page(results: list[Result], title: str | None = None, **changes: Any) -> Page:
    return Page(render(content(results, **changes), title))
