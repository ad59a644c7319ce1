"""`schema`: the reference as text, Markdown and JSON."""

from __future__ import annotations

import json

import pytest

from ggcp_schema import FORMATS
from tests.golden import assert_golden
from tests.helpers import assert_no_traceback, run_cli


@pytest.mark.parametrize("name", ["ggcp", "gguf", "ggjt"])
def test_text(name):
    assert_golden(f"schema/{name}.txt", run_cli("schema", name, check=True).stdout)


def test_kaitai():
    """tests/kaitai compiles every specification and reads files with it."""
    assert_golden("schema/ggcp.ksy", run_cli("schema", "--format", "ksy", check=True).stdout)


def test_imhex():
    """tests/inspect/test_hexpat.py checks the syntax of every pattern."""
    assert_golden("schema/ggcp.hexpat", run_cli("schema", "--format", "hexpat", check=True).stdout)


def test_ggcp_is_the_default():
    assert run_cli("schema", check=True).stdout == run_cli("schema", "GGCP", check=True).stdout


@pytest.mark.parametrize("name", FORMATS)
def test_json(name):
    result = run_cli("schema", name, "--format", "json", check=True)
    reference = json.loads(result.stdout)
    assert reference["format"] == name
    assert bytes.fromhex(reference["magic"]) == FORMATS[name].magic
    assert [field["name"] for field in reference["root"]["fields"]] == [
        field.name for field in FORMATS[name].schema.subcons
    ]
    assert run_cli("schema", name, "--json", check=True).stdout == result.stdout


@pytest.mark.parametrize("name", FORMATS)
def test_lines_fit_and_lose_no_word(name):
    wide, narrow = (run_cli("schema", name, *width, check=True).stdout for width in ((), ("--width", "80")))
    assert narrow.split() == wide.split()
    table = narrow.partition("\n\nn_ff")[0]  # formulas in the functions' descriptions are not broken
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize(
    ("args", "said"), [(["--format", "xml"], "markdown"), (["ggfu"], "Did you mean gguf?"), (["x"], "ggcp, gguf")]
)
def test_what_there_is_instead(args, said):
    result = run_cli("schema", *args)
    assert result.returncode == 2
    assert said in result.stderr
    assert_no_traceback(result)
