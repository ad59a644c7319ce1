"""`tensors`: the table, JSON, moments, damaged files, narrow terminals."""

from __future__ import annotations

import hashlib
import json

import gguf
import numpy as np
import pytest

from ggcp_schema import open_file
from tests.golden import assert_golden
from tests.helpers import (
    FIXTURES,
    GENUINE,
    ONE_OF_EACH,
    TRUNCATED,
    assert_no_traceback,
    expected_resume,
    run_cli,
    run_pty,
    thinned,
)
from tests.samples import KINDS, sample

KEYS = ["path", "gguf_name", "shape", "offset", "nbytes", "type", "role", "description"]
HOSTILE = "\x1b[31mred[/bold]\r\n[link=x]\u202e"
WITH_RESUME = [path for path in GENUINE if not path.name.startswith(("alice", "rotmax8"))]
NORMS_IN_ORDER = [
    *("layers[0].attention_norm", "layers[0].ffn_norm", "layers[1].attention_norm", "layers[1].ffn_norm"),
    "norm",
]


def listed(path, *options):
    return json.loads(run_cli("tensors", path, "--json", *options, check=True).stdout)


def hostile_gguf(path):
    """A GGUF file with a tensor whose name is meant for the terminal."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(HOSTILE, np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "name", ["v0-adam.ggcp", "v1-adam.ggcp", "v1-lbfgs.ggcp", "v1-adam-past5.ggcp", "twin-ff48.v0.ggcp", TRUNCATED.name]
)
def test_table(name):
    result = run_cli("tensors", name, cwd=FIXTURES)
    assert_golden(f"tensors/{name}.txt", result.stdout)
    assert result.returncode == (4 if name == TRUNCATED.name else 0)


def test_moments():
    result = run_cli("tensors", "v1-adam.ggcp", "--moments", cwd=FIXTURES, check=True)
    assert_golden("tensors/moments.txt", result.stdout)
    undecided = FIXTURES / "orders" / "17a-B-3.ggcp"
    assert len(listed(undecided, "--moments", "--order", "C")) == 2 * 30
    unknown = run_cli("tensors", undecided, "--moments")
    wrong = run_cli("tensors", FIXTURES / "v1-adam.ggcp", "--moments", "--order", "C")
    assert (unknown.returncode, wrong.returncode) == (2, 2)
    assert "--order" in unknown.stderr
    assert "order C was stated, but the bytes prove A" in wrong.stderr


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_checkpoint_of_finetune_has_the_names_and_roles_that_it_has_as_gguf(name, tmp_path):
    path = FIXTURES / "lora" / f"{name}.ggcl"
    run_cli("convert", path, tmp_path / "resume.gguf", check=True)
    of_gguf = {row["gguf_name"]: (row["role"], row["shape"]) for row in listed(tmp_path / "resume.gguf")}
    rows = listed(path)
    assert {row["gguf_name"]: (row["role"], row["shape"]) for row in rows if row["shape"]} == of_gguf
    assert {row["role"] for row in rows} == {"model", name}
    with open_file(path) as file:
        found = [file.find(row["gguf_name"]).path for row in rows if row["shape"]]
        assert found == [tensor.path for tensor in file.tensors.values() if not tensor.is_null]
    assert run_cli("tensors", path, check=True).stdout.split()[:3] == ["tensor", "GGUF", "name"]


@pytest.mark.parametrize(
    ("pattern", "option", "expected"),
    [
        ("layers[*].wq", [], ["layers[0].wq", "layers[1].wq"]),
        ("blk.1.attn_?.weight", [], ["layers[1].wq", "layers[1].wk", "layers[1].wv"]),
        ("norm", [], ["norm"]),
        ("norm", ["--moments"], ["optimizer.state.m[norm]", "optimizer.state.v[norm]"]),
        ("optimizer.state.v[*norm]", [], [f"optimizer.state.v[{name}]" for name in NORMS_IN_ORDER]),
    ],
)
def test_a_pattern_selects_as_in_stats(pattern, option, expected):
    rows = listed(FIXTURES / "v1-adam.ggcp", pattern, *option)
    assert [row["path"] for row in rows] == expected
    measured = run_cli("stats", FIXTURES / "v1-adam.ggcp", pattern, *option, "--json", check=True).stdout
    assert [row["path"] for row in json.loads(measured)] == expected
    result = run_cli("tensors", FIXTURES / "v1-adam.ggcp", "nothing*")
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize("path", thinned(WITH_RESUME, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_json_places_the_data_where_the_trainer_put_it(path):
    data, rows = path.read_bytes(), listed(path)
    assert all(list(row) == KEYS for row in rows)
    found = [
        {
            "name": row["gguf_name"],
            "shape": row["shape"],
            "dtype": row["type"],
            "sha256": hashlib.sha256(data[row["offset"] : row["offset"] + row["nbytes"]]).hexdigest(),
        }
        for row in rows
        if row["gguf_name"]
    ]
    assert found == expected_resume(path)["tensors"]
    for row in rows:
        if not row["gguf_name"]:
            assert row["shape"] is None or row["description"].endswith("not converted")


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "twin-lbfgs.v1.ggcp"])
def test_a_gguf_has_the_paths_names_and_roles_of_its_checkpoint(name, tmp_path):
    run_cli("convert", FIXTURES / name, tmp_path / "resume.gguf", check=True)
    same = ("path", "gguf_name", "shape", "nbytes", "type", "role")
    old, new = (
        [{key: row[key] for key in same} for row in listed(file)]
        for file in (FIXTURES / name, tmp_path / "resume.gguf")
    )
    assert new == [row for row in old if row["gguf_name"]]


def test_roles_in_words():
    roles = {row["path"]: row["description"] for row in listed(FIXTURES / "twin-adam.v0.ggcp")}
    assert roles["layers[0].wq"] == "model"
    assert roles["optimizer.state.v"] == "Adam second moments (v)"
    assert roles["optimizer.state.x"] == "Adam parameters (x), not converted"


def test_an_adapter_has_the_names_that_its_checkpoint_has_in_gguf():
    """The converter of 2023 and the trainer wrote them; the adapter has the names of the trainer's models."""
    resume = json.loads((FIXTURES / "lora" / "adam.resume.json").read_text("utf-8"))
    names = {tensor["name"] for tensor in resume["tensors"] if not tensor["name"].startswith("optimizer.")}
    assert {row["gguf_name"] for row in listed(FIXTURES / "lora" / "adam.ggla")} == names
    rows = [listed(FIXTURES / "lora" / name) for name in ("feb2024-adam.ggla", "feb2024-adam.checkpoint.gguf")]
    adapter, checkpoint = ({row["gguf_name"] for row in found if row["role"] == "model"} for found in rows)
    assert adapter == checkpoint
    values = [
        run_cli("get", FIXTURES / "lora" / "adam.ggla", f"{name}.data[0:2]", check=True).stdout
        for name in ("blk.1.attn_q.weight.lora_b", "layers.1.attention.wq.weight.loraB")
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind, tmp_path):
    path = sample(kind, tmp_path)
    rows = listed(path)
    assert {"F32", "F16"} < {row["type"] for row in rows}
    data = path.read_bytes()
    for row in rows:
        if row["type"] == "F32":
            order = ">" if kind == "gguf-big" else "<"
            values = np.frombuffer(data, f"{order}f4", int(np.prod(row["shape"])), row["offset"])
            assert (np.abs(values) <= 2).all()
            assert (values * 8 == np.round(values * 8)).all()
    assert "Q" in run_cli("tensors", path, check=True).stdout


def test_damage_is_named_after_what_can_be_read():
    result = run_cli("tensors", TRUNCATED, "--json")
    assert [row["path"] for row in json.loads(result.stdout)][-1] == "layers[0].w2"
    assert result.returncode == 4
    assert "layers[0].w3.padding at offset 52147" in result.stderr
    assert_no_traceback(result)


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_keeps_the_names_the_shapes_and_the_places(columns):
    path = FIXTURES / "v0-adam.ggcp"
    code, narrow = run_pty("tensors", path, columns=columns, env={"NO_COLOR": "1"})
    assert code == 0
    assert max(map(len, narrow.splitlines())) <= columns
    words = narrow.split()
    for row in listed(path):
        assert row["path"] in words
        assert f"{row['offset']:,}" in words
    assert run_cli("tensors", path, "--width", str(columns)).stdout == narrow


def test_a_wide_terminal_gets_the_table():
    path = FIXTURES / "v0-adam.ggcp"
    assert run_pty("tensors", path, columns=200, env={"NO_COLOR": "1"})[1] == run_cli("tensors", path).stdout


def test_json_has_the_names_of_the_file(tmp_path):
    path = hostile_gguf(tmp_path / "hostile.gguf")
    assert listed(path)[0]["gguf_name"] == HOSTILE
    assert listed(path)[0]["path"] is None


def test_that_there_are_no_tensors_is_said_in_a_sentence(tmp_path):
    vocab, cut = FIXTURES / "vocab.gguf", tmp_path / "cut.ggcp"
    cut.write_bytes(TRUNCATED.read_bytes()[:60])
    for path, code, said in ((vocab, 0, "The file has no tensors."), (cut, 4, "No tensor is known to be whole.")):
        result = run_cli("tensors", path)
        assert (result.returncode, result.stdout) == (code, f"{said}\n")
        assert run_cli("stats", path).stdout == f"{said}\n"
        assert run_cli("tensors", path, "--json").stdout == "[]\n"


def test_a_part_of_a_name_is_meant_as_a_pattern_and_a_pattern_is_no_path():
    alice, cut = FIXTURES / "alice.ggcp", TRUNCATED
    assert run_cli("tensors", alice, "attention").stderr.endswith("\nDid you mean '*attention*'?\n")
    assert "Did you mean" not in run_cli("tensors", cut, "attention").stderr
    for command in ("get", "hex", "dump"):
        assert "`tensors`, `stats` and `extract` take patterns" in run_cli(command, alice, "layers[*].wq").stderr


@pytest.mark.parametrize(
    ("args", "is_used"),
    [
        (("tensors", FIXTURES / "alice.ggcp"), False),
        (("tensors", FIXTURES / "lora" / "base.gguf", "--moments"), False),
        (("tensors", FIXTURES / "alice.ggcp", "--moments"), True),
        (("stats", FIXTURES / "alice.ggcp", "norm"), False),
        (("stats", FIXTURES / "alice.ggcp", "optimizer.state.v[norm]"), True),
        (("extract", FIXTURES / "alice.ggcp", "norm", "out.npy", "--force"), False),
        (("extract", FIXTURES / "alice.ggcp", "optimizer.state.v[norm]", "out.npy", "--force"), True),
    ],
)
def test_an_order_that_changes_nothing_is_named(args, is_used, tmp_path):
    result = run_cli(*args, "--order", "C", cwd=tmp_path, check=True)
    assert (result.stderr == "") == is_used
    assert is_used or result.stderr.startswith("ggcp-schema: --order changes nothing here: ")
