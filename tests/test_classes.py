"""Class names from files that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from embedstore.errors import SourceError
from embedstore.sources import read_classes


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("c.json", '["cat", "dog"]', ("cat", "dog")),
        ("c.json", '{"classes": ["cat", "dog"], "licence": "CC0"}', ("cat", "dog")),
        ("c.txt", "cat\r\n traffic light \n\n", ("cat", "traffic light")),
        ("c.txt", '{"classes": ["by content"]}', ("by content",)),
        ("c.json", '\ufeff["byte order mark"]', ("byte order mark",)),
        ("c", "crane\nhumbug\ncrane", ("crane", "humbug", "crane")),
        ("c.txt", "été 日本", ("été 日本",)),
    ],
)
def test_forms(tmp_path: Path, name: str, content: str, names: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert read_classes(tmp_path / name) == names


def test_a_url() -> None:
    fsspec.filesystem("memory").pipe("/names/c.txt", b"a\nb")
    assert read_classes("memory://names/c.txt") == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b"{", "not valid JSON: JSONDecodeError"),
        ("c.json", b"[" * 100_000, "not valid JSON: RecursionError"),
        ("c.json", b"cat\ndog", "not valid JSON"),
        ("c.json", b'{"0": "cat"}', r"expected \{\"classes\": \[.*found an object with '0'"),
        ("c.json", b"{}", "found an object with none"),
        ("c.json", b'"cat"', "expected a list of names in label order; found str"),
        ("c.json", b'{"classes": {"cat": 0}}', "expected a list of names in label order; found dict"),
        ("c.json", b'["cat", 7]', "class 1 must be a string; found int 7"),
        ("c.json", b'["cat", ["a", "b"]]', "class 1 must be a string; found list"),
        ("c.json", b'["cat", " "]', "class 1 has an empty name"),
        ("c.json", b'["\\u001b[31m"]', "class 0 holds a control character"),
        ("c.json", b'["\\ud800"]', "class 0 holds a control character or half a surrogate"),
        ("c.json", b"[]", "holds no class names"),
        ("c.txt", b"", "holds no class names"),
        ("c.txt", b"cat\n\ndog", "class 1 has an empty name"),
        ("c.txt", b"caf\xe9", "must be UTF-8 text; byte 3 is not"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_classes(tmp_path / name)
    assert f"/{name}: " in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read class names from .*c\.json: FileNotFoundError"):
        read_classes(tmp_path / "c.json")
