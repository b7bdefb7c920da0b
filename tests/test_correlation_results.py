"""Points from results: which figures make a point, and which are never mixed."""

import numpy as np
import pytest

from embedstore.errors import UnknownName
from embedstore.points import result_points
from embedstore.records import Result


def result(model, method, auroc, *, accuracy=None, day=1, ood="cifar100/test", variant="", absent=None, **params):
    metrics = {} if auroc is None else {"s": {ood: {"auroc": auroc, "fpr95": 1 - auroc, "n_id": 5}}}
    return Result(
        model=model, id_dataset="cifar10", method=method, params={"metrics": "default", **params}, inputs={},
        id_accuracy=accuracy, metrics=metrics, variant=variant, absent=absent, created=f"2025-01-0{day}",
    )  # fmt: skip


def xy(points):
    return dict(zip(points.models, zip(points.x.tolist(), points.y.tolist(), strict=True), strict=True))


def test_one_point_a_model_and_the_mean_of_its_seeds():
    found = result_points([
        result("a", "knn", 0.6, accuracy=0.5), result("b", "knn", 0.7, accuracy=0.9),
        result("b", "linear", 0.75, accuracy=0.1, seed=0), result("b", "linear", 0.25, accuracy=0.1, seed=1),
        result("a", "linear", 0.5, accuracy=0.1, seed=0),
    ])  # fmt: skip
    assert list(found) == ["cifar10: knn · s, cifar100/test", "cifar10: linear · s, cifar100/test"]
    assert xy(found["cifar10: knn · s, cifar100/test"]) == {"a": (0.5, 0.6), "b": (0.9, 0.7)}
    assert xy(found["cifar10: linear · s, cifar100/test"]) == {"a": (0.5, 0.5), "b": (0.9, 0.5)}


def test_x_can_be_any_methods_accuracy_and_y_any_metric():
    results = [result("a", "knn", 0.6, accuracy=0.5), result("a", "linear", 0.8, accuracy=0.9, seed=0)]
    found = result_points(results, accuracy_method="linear", metric="fpr95", methods=["knn"])
    assert list(found) == ["cifar10: knn · s, cifar100/test"]
    assert xy(found["cifar10: knn · s, cifar100/test"]) == {"a": (0.9, 1 - 0.6)}
    with pytest.raises(UnknownName, match=r"unknown metric 'aurok'. Did you mean 'auroc'\?"):
        result_points(results, metric="aurok")
    assert result_points([]) == {}


def test_the_newest_counts_and_another_ood_set_does_not_hide_an_older_one():
    found = result_points([
        result("a", "knn", 0.9, accuracy=0.7, day=3),
        result("a", "knn", 0.1, accuracy=0.2, day=1),
        result("a", "knn", 0.4, accuracy=0.7, day=2, ood="sun/test"),
    ])  # fmt: skip
    assert xy(found["cifar10: knn · s, cifar100/test"]) == {"a": (0.7, 0.9)}
    assert xy(found["cifar10: knn · s, sun/test"]) == {"a": (0.7, 0.4)}


def test_variants_template_sets_and_metric_sets_are_never_averaged():
    found = result_points([
        result("a", "knn", 0.6, accuracy=0.5, variant="metrics=official", metrics="official"),
        result("a", "knn", 0.7, accuracy=0.9, variant="k=10", k=10),
        result("a", "mcm", 0.3, templates="plp"), result("a", "mcm", 0.2, templates="mcm"),
    ])  # fmt: skip
    assert {name: xy(points)["a"] for name, points in found.items()} == {
        "cifar10: knn (metrics=official) · s, cifar100/test": (0.5, 0.6),
        "cifar10: knn (k=10) · s, cifar100/test": (0.5, 0.7),
        "cifar10: mcm (plp) · s, cifar100/test": (0.5, 0.3),
        "cifar10: mcm (mcm) · s, cifar100/test": (0.5, 0.2),
    }
    lacking = result("b", "mcm", None, absent="no prompts", templates="openai80")
    one = result_points([result("a", "knn", 0.6, accuracy=0.5), result("a", "mcm", 0.3, templates="plp"), lacking])
    assert "cifar10: mcm · s, cifar100/test" in one, "nothing to tell apart"


def test_what_has_no_accuracy_is_named_and_what_is_absent_is_not_there():
    found = result_points([
        result("b", "knn", 0.6), result("a", "knn", 0.7, accuracy=0.5), result("c", "knn", None, absent="no train"),
    ])  # fmt: skip
    points = found["cifar10: knn · s, cifar100/test"]
    assert points.models == ("a",)
    assert points.left_out == ("b: no ID accuracy",)
    np.testing.assert_array_equal(points.y, [0.7])
    assert points.benchmark is points.family is None
