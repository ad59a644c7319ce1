"""Names that tests import from the package exist, also in tests that run in another environment (tests/torch)."""

from __future__ import annotations

import ast
from importlib import import_module, util
from pathlib import Path

import pytest

TORCH = sorted((Path(__file__).parent / "torch").glob("*.py"))


@pytest.mark.parametrize("place", TORCH, ids=lambda place: place.name)
def test_tests_of_torch_import_names_that_exist(place: Path):
    for node in ast.walk(ast.parse(place.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ggcp_schema"):
            module = import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or util.find_spec(f"{node.module}.{name}"), (node.module, name)
