"""`dump`, `get` and `hex` show the one index of the file: they must agree with the bytes, and with each other."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings

from ggcp_schema import open_checkpoint
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty
from tests.strategies import checkpoints

FORMATS = {"u8": "<B", "u32": "<I", "i32": "<i", "i64": "<q"}


def assert_tiles(leaves, data):
    """The leaves cover the bytes without gap or overlap, and each says what its bytes say."""
    end = 0
    for leaf in leaves:
        assert list(leaf) == ["path", "type", "offset", "size", "value"]
        assert leaf["offset"] == end, leaf
        end += leaf["size"]
        raw = data[leaf["offset"] : end]
        if leaf["type"] in FORMATS:
            assert struct.unpack(FORMATS[leaf["type"]], raw)[0] == leaf["value"], leaf
        elif leaf["type"] == "f32" and not isinstance(leaf["value"], str):
            assert struct.unpack("<f", raw)[0] == leaf["value"], leaf
        elif leaf["type"] == "padding":
            assert bytes.fromhex(leaf["value"]) == raw
        elif leaf["type"] == "data":
            assert leaf["value"] is None
            assert leaf["offset"] % 32 == 0  # of the file
    assert end == len(data)


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_json_tiles_a_genuine_file(path):
    leaves = json.loads(run_cli("dump", path, "--json", check=True).stdout)
    assert_tiles(leaves, path.read_bytes())
    assert len({leaf["path"] for leaf in leaves}) == len(leaves)


@settings(max_examples=60)
@given(checkpoints())
def test_leaves_tile_any_checkpoint(tmp_path_factory, built):
    from ggcp_schema.cli.dump import json_value
    from ggcp_schema.cli.output import to_json

    path = tmp_path_factory.getbasetemp() / "any.ggcp"
    path.write_bytes(built.data)
    with open_checkpoint(path) as ckpt:
        leaves = [
            {"path": s.path, "type": s.kind, "offset": s.offset, "size": s.size, "value": to_json(json_value(s))}
            for s in ckpt.spans.values()
        ]
    assert_tiles(leaves, built.data)


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_top_level(path):
    assert_golden(f"dump/{path.name}.txt", run_cli("dump", path.name, "--depth", "1", cwd=FIXTURES, check=True).stdout)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("whole", ["v1-adam-past5.ggcp"]),
        ("params", ["v0-adam.ggcp", "optimizer.params"]),
        ("raw", ["v1-adam-raw-params.ggcp", "optimizer", "--depth", "1"]),
        ("tensor", ["v1-lbfgs.ggcp", "layers[0].w2"]),
        ("pf-full", ["v1-adam-past5.ggcp", "optimizer.state.pf.data", "--full"]),
        ("null", ["v1-adam.ggcp", "optimizer.state.pf"]),
    ],
)
def test_tree(name, args):
    assert_golden(f"dump/{name}.txt", run_cli("dump", *args, cwd=FIXTURES, check=True).stdout)


def test_long_lists_are_abridged_unless_full(tmp_path):
    path = tmp_path / "deep.ggcp"
    path.write_bytes(build_checkpoint(n_layer=9))
    short, full = (run_cli("dump", path, *more, check=True).stdout for more in ([], ["--full"]))
    assert "… 6 more" in short
    assert "layers[5]" not in short
    assert "layers[8]" in short
    assert all(f"layers[{i}]" in full for i in range(9))


def test_damaged_file_is_shown_up_to_the_damage():
    result = run_cli("dump", TRUNCATED, "--json")
    assert result.returncode == 4
    leaves = json.loads(result.stdout)
    assert leaves[-1]["path"] == "layers[0].w3.name"
    assert_tiles(leaves, TRUNCATED.read_bytes())
    assert "layers[0].w3.padding at offset 52147" in result.stderr


def test_a_path_behind_the_damage_is_the_damage():
    for command in (["dump"], ["get"], ["hex"]):
        result = run_cli(*command, TRUNCATED, "optimizer.nx")
        assert result.returncode == 4, command
        assert "layers[0].w3.padding" in result.stderr
        assert not result.stdout


def test_an_unknown_path_names_the_nearest():
    for command in ("dump", "get", "hex"):
        result = run_cli(command, FIXTURES / "v1-adam.ggcp", "layers[1].qw")
        assert result.returncode == 2
        assert "layers[1].wq" in result.stderr
        assert_no_traceback(result)


def test_head_ends_quietly(tmp_path):
    import subprocess
    import sys

    path = tmp_path / "deep.ggcp"
    path.write_bytes(build_checkpoint(n_layer=200))
    command = f"{sys.executable} -m ggcp_schema dump {path} --full | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["offset", "size", "type", "field"]
    assert not result.stderr


@pytest.mark.parametrize("columns", [30, 80, 250])
def test_nothing_is_lost_at_any_width(columns):
    path = FIXTURES / "v1-adam.ggcp"
    piped = run_cli("dump", path, check=True).stdout
    _, screen = run_pty("dump", path, columns=columns, env={"NO_COLOR": "1"})
    assert screen == piped


def test_a_tensor_name_cannot_speak_to_the_terminal(tmp_path):
    path = tmp_path / "names.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"\x1b[31m[bold]\xff\x9b\r\n"))
    _, screen = run_pty("dump", path, env={"NO_COLOR": "1"})
    assert "\x1b" not in screen
    assert "\x9b" not in screen
    assert '"\\x1b[31m[bold]\\xff\\x9b\\r\\n"' in screen
    leaf = json.loads(run_cli("dump", path, "norm.name", "--json", check=True).stdout)[0]
    assert leaf["value"] == "\x1b[31m[bold]\\xff\\x9b\r\n"


# get -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_get_gives_what_dump_gives(path):
    leaves = json.loads(run_cli("dump", path, "--json", check=True).stdout)
    for leaf in (leaf for leaf in leaves[:: max(1, len(leaves) // 6)] if leaf["type"] != "data"):
        found = json.loads(run_cli("get", path, leaf["path"], "--json", check=True).stdout)
        assert found == leaf


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_get_slices_in_ggml_order(path, tmp_path):
    gguf = tmp_path / "x.gguf"
    run_cli("convert", path, gguf, check=True)
    flat = next(t for t in GGUFReader(gguf).tensors if t.name == "blk.0.attn_q.weight").data.reshape(-1)
    for file in (path, gguf):
        for text, part in (("[0:4]", slice(0, 4)), ("[-3:]", slice(-3, None)), ("[5]", slice(5, 6)), ("", slice(None))):
            out = run_cli("get", file, f"layers[0].wq.data{text}", check=True).stdout
            assert np.array_equal(np.array(out.split(), np.float32), flat[part]), (file, text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train_its", "12\n"),
        ("hparams.n_embd", "16\n"),
        ("layers[1].wq.ne[0]", "16\n"),
        ("layers[1].wq.name", "layers.1.attention.wq.weight\n"),
        ("norm.padding", "0000000000\n"),
        ("optimizer.type", "adam\n"),
        ("optimizer.layout", "v1\n"),
        ("optimizer.state.fx_best", "5.7699394\n"),
        ("norm.data[4:4]", ""),
    ],
)
def test_get_is_plain(path, expected):
    result = run_cli("get", FIXTURES / "v1-adam.ggcp", path, check=True)
    assert result.stdout == expected
    assert not result.stderr


def test_get_a_gguf_key(tmp_path):
    gguf = tmp_path / "x.gguf"
    run_cli("convert", FIXTURES / "v1-adam.ggcp", gguf, check=True)
    assert run_cli("get", gguf, "optimizer.type", check=True).stdout == "adam\n"
    assert run_cli("get", gguf, "optimizer.just_initialized", check=True).stdout == "false\n"
    assert run_cli("get", gguf, "blk.1.ffn_up.weight[0:2]", check=True).stdout.count("\n") == 2
    result = run_cli("get", gguf, "optimizer.typ")
    assert result.returncode == 2
    assert "optimizer.type" in result.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hparams", "It has n_vocab, n_embd, n_mult, n_head, n_layer, n_rot."),
        ("layers", "It has [0], [1]."),
        ("layers[1].wq", "It has n_dims, name_len, type, ne, name, padding, data."),
        ("norm.data[16]", "It has 16 elements."),
        ("norm.data[-17]", "It has 16 elements."),
        ("norm.data[]", "It has 16 elements."),
        ("optimizer.state.pf.data[0]", "It has 0 elements."),
    ],
)
def test_get_says_what_there_is_instead(path, said):
    result = run_cli("get", FIXTURES / "v1-adam.ggcp", path)
    assert result.returncode == 2
    assert said in result.stderr
    assert not result.stdout
    assert_no_traceback(result)


# hex -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("norm", ["v1-adam-past5.ggcp", "norm"]),
        ("offset", ["v1-adam-past5.ggcp", "0x28:40"]),
        ("path-length", ["v1-adam-past5.ggcp", "norm.data:70"]),
        ("params", ["v0-adam.ggcp", "optimizer.params"]),
        ("end", ["v1-adam.ggcp", "205190"]),
    ],
)
def test_hex(name, args):
    assert_golden(f"hex/{name}.txt", run_cli("hex", *args, cwd=FIXTURES, check=True).stdout)


@pytest.mark.parametrize("path", [*GENUINE, TRUNCATED], ids=lambda path: path.name)
def test_hex_rows_are_the_bytes_of_the_file(path):
    start, size = 20, 30_000
    result = run_cli("hex", path, f"{start}:{size}")
    at = start
    for line in result.stdout.splitlines():
        offset, digits = int(line[:8], 16), line[10:60]
        assert offset == at
        at += len(bytes.fromhex(digits))
        assert bytes.fromhex(digits) == path.read_bytes()[offset:at]
    assert at == start + size


def test_hex_behind_the_damage_belongs_to_no_field(tmp_path):
    path = tmp_path / "bad.ggcp"
    data = bytearray((FIXTURES / "v1-adam.ggcp").read_bytes())
    data[44:48] = struct.pack("<I", 9)  # n_dims of tok_embeddings
    path.write_bytes(data)
    result = run_cli("hex", path, "40:8", "--json")
    assert result.returncode == 4
    rows = json.loads(result.stdout)
    assert [(row["path"], row["offset"], row["hex"]) for row in rows] == [
        ("hparams.n_rot", 40, "08000000"),
        (None, 44, "09000000"),
    ]


@pytest.mark.parametrize("where", ["205196", "-1", "0x", "norm:", "norm:x", ":", "999999999999:1"])
def test_hex_refuses_what_is_not_there(where):
    result = run_cli("hex", "--", FIXTURES / "v1-adam.ggcp", where)
    assert result.returncode == 2, where
    assert_no_traceback(result)


def test_hex_colours_each_field():
    _, screen = run_pty("hex", FIXTURES / "v1-adam.ggcp", "0:12")
    assert len({line.split("\x1b[")[1].split("m")[0] for line in screen.splitlines()}) == 3
