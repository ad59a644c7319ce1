"""`schema --json-of`: what a command prints must follow the schema that is made from the types of which it is made."""

from __future__ import annotations

import functools
import json
from importlib import import_module
from inspect import signature

import pytest
from jsonschema import Draft202012Validator

from ggcp_schema import FORMATS
from ggcp_schema.cli.app import COMMANDS
from ggcp_schema.cli.schema import WITH_JSON
from tests.helpers import FIXTURES, ONE_OF_EACH, TRUNCATED, run_cli, thinned

OTHERS = sorted(FIXTURES.rglob("*.gg[ujlc][ftal]"), key=lambda path: path.suffix)  # at least three of each format
FILES = [TRUNCATED, *ONE_OF_EACH, *OTHERS]
SMALL, ADAM, VOCABULARY = FIXTURES / "v1-adam.ggcp", FIXTURES / "alice.ggcp", FIXTURES / "alice-vocab.gguf"


@functools.cache
def validator(command):
    schema = json.loads(run_cli("schema", "--json-of", command, check=True).stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def assert_follows(command, *arguments):
    result = run_cli(command, *arguments, "--json")
    assert result.stdout, result.stderr
    document = json.loads(result.stdout)
    validator(command).validate(document)
    return document


@pytest.mark.parametrize("path", thinned(FILES, [TRUNCATED, *FILES[1::3]]), ids=lambda path: path.name)
def test_what_is_read_of_every_file(path):
    assert_follows("validate", path, "--data")
    rows = assert_follows("dump", path)
    assert_follows("get", path, rows[0]["path"])
    assert_follows("hex", path, rows[0]["path"])
    assert_follows("tensors", path)
    assert_follows("search", path, "a")
    assert_follows("info", path, "-v")
    assert_follows("stats", path)
    has_adapter = path.suffix in {".ggla", ".ggcl"} or ".checkpoint" in path.name  # which no model has
    assert_follows("diff", path, path if has_adapter else SMALL)


@pytest.mark.parametrize("name", ["alice.ggcp", "alice-vocab.gguf", "v0-adam.ggcp"])
def test_health(name):
    assert "verdict" in assert_follows("stats", FIXTURES / name, "--health")


@pytest.mark.parametrize("command", ["info", "validate"])
def test_what_cannot_be_read(command, tmp_path):
    for path in (tmp_path / "missing", FIXTURES / "README.md"):
        assert assert_follows(command, path)["error"]["message"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_reference_of_every_format(name):
    assert_follows("schema", name)


def test_what_is_written(tmp_path):
    checkpoint, model, folder = (tmp_path / name for name in ("resume.gguf", "model.gguf", "folder"))
    assert_follows("convert", ADAM, checkpoint)
    assert_follows("convert", ADAM, tmp_path / "other.gguf", "--dry-run")
    assert "vocabulary" in assert_follows("export", ADAM, model, "--vocab", VOCABULARY, "--ctx", "64")
    assert_follows("verify", ADAM, checkpoint)
    assert_follows("export", ADAM, folder, "--to", "hf", "--vocab", VOCABULARY, "--ctx", "64")
    assert assert_follows("verify", ADAM, folder)["folder"] == str(folder)
    assert_follows("extract", ADAM, "layers[0].*", tmp_path / "layer.safetensors")
    edited, repaired = tmp_path / "edited.ggcp", tmp_path / "repaired.ggcp"
    assert assert_follows("edit", ADAM, edited, "train_its=7")["changes"]
    damaged = tmp_path / "damaged.ggcp"
    offset = next(row["offset"] for row in assert_follows("dump", edited) if row["path"] == "norm.name_len")
    data = bytearray(edited.read_bytes())
    data[offset] ^= 0x40
    damaged.write_bytes(data)
    assert assert_follows("repair", damaged, repaired)["changes"]


@pytest.mark.parametrize("command", WITH_JSON)
def test_no_other_key_is_allowed(command):
    def objects(schema):
        if "anyOf" in schema:
            return [each for one in schema["anyOf"] for each in objects(one)]
        return objects(schema["items"]) if "items" in schema else [schema]

    for each in objects(validator(command).schema):
        assert each["additionalProperties"] is False
        assert each["required"]


def test_every_command_with_json_has_a_schema():
    """What `--json` prints is a type that is called JSON, in the module of the command."""
    modules = {name: import_module(f"ggcp_schema.cli.{name}") for names in COMMANDS.values() for name in names}
    prints = {name for name, module in modules.items() if "as_json" in signature(getattr(module, name)).parameters}
    assert prints == {name for name, module in modules.items() if hasattr(module, "JSON")} == set(WITH_JSON)


def test_a_command_without_a_schema():
    result = run_cli("schema", "--json-of", "browse")
    assert result.returncode == 2
    assert "validate" in result.stderr
