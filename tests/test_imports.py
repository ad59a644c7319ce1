"""Names that tests import from the package exist, also in tests that run in another environment."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

ROOT = Path(__file__).parent.parent
ELSEWHERE = sorted(path for name in ("torch", "kaitai") for path in (ROOT / "tests" / name).glob("*.py"))


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: place.name)
def test_tests_of_other_environments_import_names_that_exist(place: Path):
    for node in ast.walk(ast.parse(place.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("ggcp_schema", "tests.")):
            names = {alias.name for alias in node.names}
            assert names <= names_of(str(node.module)), (node.module, names)


def names_of(module: str) -> set[str]:
    """Return the names in a module: of the package by importing it, of the tests by reading it."""
    if module.startswith("ggcp_schema"):
        found = import_module(module)
        return {*dir(found), *(item.name for item in iter_modules(getattr(found, "__path__", ())))}
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        return {item.stem for item in path.glob("*.py")}
    found: set[str] = set()
    for node in ast.parse(path.with_suffix(".py").read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return found
