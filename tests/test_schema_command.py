"""`schema`: the reference must name every field that any checkpoint has, and nothing else."""

from __future__ import annotations

import json
import re

from ggcp_schema import open_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, run_cli


def test_text():
    assert_golden("schema/schema.txt", run_cli("schema", check=True).stdout)


def test_markdown():
    assert_golden("schema/schema.md", run_cli("schema", "--format", "markdown", check=True).stdout)


def test_json_is_the_same_reference():
    reference = json.loads(run_cli("schema", "--format", "json", check=True).stdout)
    assert reference == json.loads(run_cli("schema", "--json", check=True).stdout)
    text = run_cli("schema", check=True).stdout
    for section in reference["sections"]:
        assert f"\n{section['title']}\n" in text
        for field in section["fields"]:
            assert field["name"] in text


def test_every_field_of_every_genuine_file_is_in_the_reference_and_conversely():
    reference = json.loads(run_cli("schema", "--json", check=True).stdout)
    documented = set()
    for section in reference["sections"]:
        root = re.sub(r" \(.*\)|^file$", "", section["title"])
        documented |= {f"{root}.{field['name']}".lstrip(".") for field in section["fields"]}
    tensors = {f"tensor.{name}" for name in ("n_dims", "name_len", "type", "ne", "name", "padding", "data")}
    assert tensors <= documented

    seen = set()
    for path in GENUINE:
        with open_checkpoint(path) as ckpt:
            for span in ckpt.spans.values():
                name = re.sub(r"layers\[\d+\]", "layers[i]", span.path)
                name = re.sub(r"\.ne\[\d\]", ".ne", name)
                seen.add(name)
    for name in seen:
        stem, _, last = name.rpartition(".")
        assert name in documented or (stem in documented and f"tensor.{last}" in tensors), name

    leaves = {name for name in documented if not name.startswith("tensor.")}
    reached = {part for name in seen for part in (name, name.rpartition(".")[0], "layers", "hparams")}
    records = {"optimizer", "optimizer.params", "optimizer.params.adam", "optimizer.params.lbfgs", "optimizer.state"}
    assert leaves - reached - records == {"(end of file)"}


def test_unknown_format_is_a_usage_error():
    result = run_cli("schema", "--format", "xml")
    assert result.returncode == 2
    assert "markdown" in result.stderr


def test_it_needs_no_file():
    assert run_cli("schema", cwd=FIXTURES, check=True).stdout
