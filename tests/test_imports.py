"""Names that tests import from the package exist, also in tests that run in another environment."""

from __future__ import annotations

import ast
import re
from functools import cache
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


PACKAGE = ROOT / "ggcp_schema"
FORMATS = PACKAGE / "formats"
FAMILIES = {path.parent.name for path in FORMATS.glob("*/__init__.py")}
ALLOWED = {
    "__init__.py": {"ggcp"},  # the return type of `open_checkpoint`, for type checkers
    "formats/__init__.py": {"ggcp"},  # the registry; as above
    "cli/verify.py": {"gguf"},  # its outputs are GGUF files
    "mapping/gguf.py": {"gguf"},  # as above: it reads what it wrote
    "mapping/verify.py": {"gguf"},  # as above
    "mapping/verify_adapter.py": {"gguf"},  # as above
    "huggingface/sentencepiece_writer.py": {"sentencepiece"},  # an output too
    "mapping/vocabulary.py": {"sentencepiece"},  # no format of the registry: it has no magic
}
"""The families of formats that a module outside of them imports, with the reason."""


@cache
def imported(path: Path) -> list[list[str]]:
    """Return the parts of the modules from which a module imports names."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return [str(node.module).split(".") for node in nodes if isinstance(node, ast.ImportFrom)]


def test_no_other_module_outside_of_a_format_imports_it():
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(FORMATS).parts[0] if path.is_relative_to(FORMATS) else ""
        if own in FAMILIES:
            continue
        for module in imported(path):
            if module[:2] == ["ggcp_schema", "formats"] and module[2:3] and module[2] in FAMILIES:
                found.setdefault(path.relative_to(PACKAGE).as_posix(), set()).add(module[2])
    assert found == ALLOWED


def test_folders_import_only_what_stands_before_them_in_the_list_of_contributing():
    text = (ROOT / "docs" / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    folders = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert {*folders} == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    for path in PACKAGE.glob("*/**/*.py"):
        folder = path.relative_to(PACKAGE).parts[0]
        for module in imported(path):
            if module[:1] == ["ggcp_schema"] and module[1:2] and module[1] in folders:
                assert folders.index(module[1]) <= folders.index(folder), (path, module)
