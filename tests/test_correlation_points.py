"""Published numbers from a CSV: what is read, and what is refused by line and column."""

import numpy as np
import pytest

from embedstore.errors import SourceError, UnknownName, UsageError
from embedstore.points import read_points

GOOD = """model,params,accuracy,auroc,benchmark,family
RN50,102,71.6,63.1,cifar10,CLIP
"ViT-B/16, openai",150, 90.8 ,92.28,cifar10,CLIP
RN50,102,40.3,,cifar100,CLIP

DINO,86,80,77.5,cifar10,other
"""


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(path, **changes):
    return read_points(path, **{"accuracy_unit": "percent", "metric_unit": "percent", **changes})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_points_are_read_as_fractions(tmp_path, encoding):
    found = read(written(tmp_path, GOOD, encoding))
    assert found.models == ("RN50", "ViT-B/16, openai", "DINO")
    np.testing.assert_array_equal(found.x, np.array([71.6, 90.8, 80]) / 100)
    np.testing.assert_array_equal(found.y, np.array([63.1, 92.28, 77.5]) / 100)
    assert found.benchmark == ("cifar10",) * 3
    assert found.family == ("CLIP", "CLIP", "other")
    assert found.left_out == ("line 4, RN50: no auroc",)


def test_any_columns_and_a_unit_for_each(tmp_path):
    text = "fpr95,model,zeroshot\r\n55.5,a,0.5\r\n0.5,b,1\r\n"
    found = read(
        written(tmp_path, text), accuracy="zeroshot", metric="fpr95", accuracy_unit="fraction", metric_unit="percent"
    )
    np.testing.assert_array_equal(found.x, [0.5, 1])
    np.testing.assert_array_equal(found.y, [0.555, 0.005])
    assert found.benchmark is found.family is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,accuracy,auroc\na,50,sixty\n", r"line 2, column 'auroc': 'sixty' is not a number between 0 and 100"),
        ('model,accuracy,auroc\na,50,60\nb,"87,6",60\n', r"line 3, column 'accuracy': '87,6'"),
        ("model,accuracy,auroc\na,50,nan\n", r"line 2, column 'auroc': 'nan'"),
        ("model,accuracy,auroc\na,50,-1\n", r"line 2, column 'auroc': '-1'"),
        ("model,accuracy,auroc\na,101,60\n", r"line 2, column 'accuracy': '101'"),
        ("model,accuracy,auroc\na,50,0.6\nb,60,0.7\n", r"column 'auroc': no value exceeds 1.*fraction"),
        ("model,accuracy,auroc\na,50\n", r"line 2: 2 cells under 3 columns"),
        ("model,accuracy,auroc\na,50,60,70\n", r"line 2: 4 cells under 3 columns"),
        ("model,accuracy,auroc\n,50,60\n", r"line 2, column 'model': is empty"),
        ("model,accuracy,auroc\na,50,60\nb,1,2\na,50,60\n", r"line 4: 'a' was already on line 2"),
        (
            "model,accuracy,auroc,benchmark\na,50,60,x\na,50,60,y\na,5,6,y\n",
            r"line 4: 'a' in benchmark 'y' was already on line 3",
        ),
        ("model,accuracy,auroc,auroc\na,1,2,3\n", r"line 1: the column 'auroc' is there twice"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('model,accuracy,auroc\n"a,50,60\n', "not a comma-separated file"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        read(written(tmp_path, text))
    assert "points.csv" in str(caught.value)


def test_units_are_never_guessed(tmp_path):
    path = written(tmp_path, GOOD)
    with pytest.raises(TypeError):
        read_points(path)
    with pytest.raises(UnknownName, match=r"unknown unit 'percents'.*Did you mean 'percent'"):
        read(path, accuracy_unit="percents")
    with pytest.raises(UsageError, match=r"column 'accuracy': '71.6' is not a number between 0 and 1, as a fraction"):
        read(path, accuracy_unit="fraction")


def test_a_column_or_file_that_is_not_there(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown column of .*'acuracy'. Did you mean 'accuracy'"):
        read(written(tmp_path, GOOD), accuracy="acuracy")
    with pytest.raises(UnknownName, match=r"'model'. .*Known: accuracy, auroc, name"):
        read(written(tmp_path, "name,accuracy,auroc\na,1,2\n"))
    with pytest.raises(SourceError, match=r"cannot read .*nothing.csv: No such file"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(UsageError, match="UTF-8"):
        read(written(tmp_path, "model,accuracy,auroc\né,1,2\n", "latin-1"))
