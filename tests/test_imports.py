"""Names that tests import from the package exist, also in tests that run in another environment."""

from __future__ import annotations

import ast
from importlib import import_module, util
from pathlib import Path

import pytest

ELSEWHERE = sorted(path for name in ("torch", "kaitai") for path in Path(__file__).parent.joinpath(name).glob("*.py"))


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: place.name)
def test_tests_of_other_environments_import_names_that_exist(place: Path):
    for node in ast.walk(ast.parse(place.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ggcp_schema"):
            module = import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or util.find_spec(f"{node.module}.{name}"), (node.module, name)
