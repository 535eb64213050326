"""The layout of the code: which files import which, and which names are public."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import kpflow_sklearn

ROOT = Path(kpflow_sklearn.__file__).parents[1]
FILES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("*.py"))]
FACES = ("", ".cells", ".datasets", ".operators", ".plotting", ".results", ".spectra")
# This file measures single stages of an analysis, which have no public names.
MEASURES_STAGES = "tests/tools/benchmarks/spectra.py"


def imported_names(path: Path) -> list[str]:
    """Return the full names that a file imports."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    statements = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return [f"{node.module}.{alias.name}" for node in statements for alias in node.names]


def private_folders(names: list[str]) -> set[str]:
    """Return the folders of the package whose private files or names are among those imported."""
    folders = set()
    for package, *parts in (name.split(".") for name in names):
        if package == "kpflow_sklearn" and parts[0] != "_common":
            start = int(parts[0] == "_cli")
            private = [k for k, part in enumerate(parts) if k >= start and part.startswith("_")]
            folders |= {".".join(parts[: private[0]])} if private else set()
    return folders


def test_private_files_are_imported_only_by_the_tests_that_mirror_their_folder():
    for file in FILES:
        names = imported_names(ROOT / file)
        assert [name for name in names if ".test_" in name] == [], file
        mirrored = ".".join(Path(file).parent.parts[1:])
        related = {
            folder
            for folder in private_folders(names)
            if f"{mirrored}.".startswith(f"{folder}.") or folder.startswith(f"{mirrored}.")
        }
        assert private_folders(names) == related or file == MEASURES_STAGES, file


@pytest.mark.parametrize("face", FACES)
def test_only_public_names_are_listed(face):
    module = importlib.import_module(f"kpflow_sklearn{face}")
    listed = dir(module)
    private = {name for name in listed if name.startswith("_")}
    assert private == (set() if face else {"__version__"})
    assert set(module.__all__) <= set(listed)
    assert all(hasattr(module, name) for name in listed)


def constants_of(path: Path) -> set[str]:
    """Return the upper-case names that a file assigns, except those that begin with "_"."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assigned = [node for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [t for a in assigned for t in getattr(a, "targets", None) or [a.target]]
    names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return {n for n in names if n.isupper() and len(n) > 1 and not n.startswith("_")}


def test_a_constant_has_a_name_of_its_own():
    """One name stands for one thing; names that begin with "_" belong to their file."""
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "kpflow_sklearn").rglob("*.py")):
        for name in constants_of(path):
            places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
