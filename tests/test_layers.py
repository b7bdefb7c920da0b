"""The house's floors: a module imports only from floors below its own, and heavy imports sleep.

An AST walk over every import of every module, wherever in the file it stands (so a lazy import cannot climb either).
Names used for type annotations only (under ``TYPE_CHECKING``) obey the same rule.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "embedstore"

FLOORS = {
    0: {"errors", "records"},
    1: {"store", "prompts", "metrics", "neighbors"},
    2: {"sources", "encoders", "labels", "probes", "scores", "correlation", "points", "leaks", "benchmarks"},
    3: {"extract", "attack", "evaluate", "report", "testing"},
    4: {"cli", "__init__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

HEAVY = {"torch", "torchvision", "open_clip", "timm", "faiss", "sklearn", "scipy", "ray", "plotly", "matplotlib", "PIL"}
HEAVY |= {"webdataset"}
# A base class cannot sleep: modules that define estimators need it when they are loaded.
ALLOWED_AT_TOP = {"sklearn.base"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[str]:
    """Dotted names of everything that a module imports, at any depth."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor they reach"
            module = node.module or ""
            # `from embedstore import errors` reaches a room through the face.
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "embedstore" else [module]
    return names


def climbing(path: Path, source: str) -> list[str]:
    room = room_of(path)
    found = []
    for name in imported(ast.parse(source)):
        parts = name.split(".")
        if parts[0] != "embedstore" or parts[1] == room:
            continue
        if FLOOR[parts[1]] >= FLOOR[room]:
            found.append(f"{path.name} (floor {FLOOR[room]}) imports {name} (floor {FLOOR[parts[1]]})")
    return found


def awake(source: str) -> list[str]:
    """Heavy modules imported when the module itself is, not inside a function or for type checkers only."""

    def statements(body: list[ast.stmt]) -> list[ast.stmt]:
        found = []
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                found += statements(node.orelse)
                continue
            found.append(node)
            for field in ("body", "orelse", "finalbody", "handlers"):
                found += statements(getattr(node, field, []))
        return found

    names = []
    for node in statements(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return [name for name in names if name.split(".")[0] in HEAVY and name not in ALLOWED_AT_TOP]


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_and_heavy_ones_sleep(path: Path) -> None:
    source = path.read_text()
    assert climbing(path, source) == []
    assert awake(source) == []


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    assert {room_of(path) for path in MODULES} == set(FLOOR)


def test_what_is_installed_is_what_is_here() -> None:
    """An editable install finds everything; a wheel holds what pyproject.toml names."""
    wanted = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {".".join(("embedstore", *path.parent.relative_to(PACKAGE).parts)) for path in MODULES}
    assert sorted(wanted["packages"]) == sorted(packages | {"embedstore.pipelines"})
    named = set()
    for package, patterns in wanted["package-data"].items():
        folder = PACKAGE.joinpath(*package.split(".")[1:])
        named |= {path for pattern in patterns for path in folder.glob(pattern)}
    other = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert named == other


@pytest.mark.parametrize(
    "planted",
    [
        "from embedstore.evaluate import Study",
        "import embedstore.cli",
        "from embedstore import report",
        "def f():\n    from embedstore.labels import pseudo_labels",
        "if TYPE_CHECKING:\n    from embedstore.scores import energy",
    ],
)
@pytest.mark.parametrize("path", ["points.py", "probes/linear.py"])
def test_a_planted_climb_is_caught(path: str, planted: str) -> None:
    assert climbing(PACKAGE / path, planted)
    assert not climbing(PACKAGE / path, "from embedstore.records import Rows\nimport numpy")


@pytest.mark.parametrize(
    "planted",
    [
        "import torch",
        "from PIL import Image",
        "try:\n    import faiss\nfinally:\n    pass",
        "class A:\n    import timm",
    ],
)
def test_a_planted_heavy_import_is_caught(planted: str) -> None:
    assert awake(planted)
    assert not awake(
        "def f():\n    import torch\nif TYPE_CHECKING:\n    import torch\nfrom sklearn.base import BaseEstimator"
    )


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.splitlines()[-1].split()}


def test_importing_embedstore_and_asking_for_help_load_nothing_heavy() -> None:
    light = HEAVY | {"numpy", "zarr", "rich"}
    assert loaded_by("import embedstore") & light == set()
    assert loaded_by("from embedstore.cli import main\nmain(['--help'], standalone_mode=False)") & light == set()
    assert "torch" in loaded_by("import torch"), "the check can fail"


def test_public_names_are_listed_once_exist_and_shadow_no_module() -> None:
    import embedstore

    assert embedstore.__all__ == sorted(set(embedstore.__all__))
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    for name in embedstore.__all__:
        assert getattr(embedstore, name).__name__ == name
        assert name not in modules, "after `import embedstore.x` the attribute x is the module"
    typed = {
        alias.name
        for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("embedstore.")
        for alias in node.names
    }
    assert typed == set(embedstore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = embedstore.nothing


def test_recipes_use_the_front_door_only() -> None:
    import embedstore

    allowed = {f"embedstore.{name}" for name in embedstore.__all__}
    allowed |= {"embedstore.cli", "embedstore.errors", "embedstore.pipelines"}  # a recipe may be made of another
    recipes = sorted((PACKAGE.parent / "pipelines").glob("*.py"))
    assert recipes
    for path in recipes:
        names = {name for name in imported(ast.parse(path.read_text())) if name.split(".")[0] == "embedstore"}
        assert names <= allowed, path.name
