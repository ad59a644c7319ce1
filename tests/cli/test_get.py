"""`get`: one value, plain or as JSON, from every format."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from gguf import GGUFReader

from ggcp_schema import open_checkpoint
from tests.helpers import FEW, FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty, thinned
from tests.samples import FAST, KINDS, TOKENS, sample

ADAM = FIXTURES / "v1-adam.ggcp"


OTHERS = [FIXTURES / "vocab.gguf", FIXTURES / "vocab.ggjt"]
FILES = thinned([*GENUINE, *OTHERS], [*FEW, *OTHERS])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_get_gives_what_dump_gives(path):
    leaves = json.loads(run_cli("dump", path, "--json", check=True).stdout)
    for leaf in (leaf for leaf in leaves[:: max(1, len(leaves) // 6)] if leaf["type"] != "data"):
        assert json.loads(run_cli("get", path, leaf["path"], "--json", check=True).stdout) == leaf


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train_its", "12\n"),
        ("hparams.n_embd", "16\n"),
        ("layers[1].wq.ne[0]", "16\n"),
        ("layers[1].wq.ne", "16\n16\n"),
        ("layers[1].wq.name", "layers.1.attention.wq.weight\n"),
        ("norm.padding", "0000000000\n"),
        ("optimizer.type", "adam\n"),
        ("optimizer.layout", "v1\n"),
        ("optimizer.state.fx_best", "5.7699394\n"),
        ("norm.data[0:2]", "-0.09677223\n-0.07023363\n"),
        ("norm.data[4:4]", ""),
        ("optimizer.state.pf.data", ""),
    ],
)
def test_get_is_plain(path, expected):
    result = run_cli("get", ADAM, path, check=True)
    assert result.stdout == expected
    assert not result.stderr


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "v0-adam.ggcp", "twin-lbfgs.v1.ggcp"])
def test_slices_are_those_of_the_converted_file(name, tmp_path):
    gguf = tmp_path / "x.gguf"
    run_cli("convert", FIXTURES / name, gguf, check=True)
    flat = next(t for t in GGUFReader(gguf).tensors if t.name == "blk.0.attn_q.weight").data.reshape(-1)
    for file in (FIXTURES / name, gguf):
        for text, part in (("[0:4]", slice(0, 4)), ("[-3:]", slice(-3, None)), ("[5]", slice(5, 6)), ("", slice(None))):
            out = run_cli("get", file, f"layers[0].wq.data{text}", check=True).stdout
            assert np.array_equal(np.array(out.split(), np.float32), flat[part]), (file, text)


def test_row_and_column_are_those_of_numpy():
    with open_checkpoint(ADAM) as ckpt:
        array, moments = ckpt["tok_embeddings"].array(), ckpt.moments("layers[0].w1")["m"]
        assert array.shape == (320, 16)
        assert ckpt.get("tok_embeddings[319,2]") == ckpt.get("tok_embeddings[-1, -14]") == array[319, 2]
        assert ckpt.get("optimizer.state.m[layers[0].w1][40,3]") == moments[40, 3]
        assert np.array_equal(ckpt.get("optimizer.state.m[layers[0].w1][40,1:3]"), moments[40, 1:3])
        assert ckpt.get("norm[3]") == ckpt["norm"].array()[3]
        for index in (np.s_[0, 0:3], np.s_[-1, :], np.s_[319, -2:], np.s_[7, 5:2]):
            row, part = index
            text = f"{row},{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}"
            assert np.array_equal(ckpt.get(f"tok_embeddings[{text}]"), array[index]), text
    for wrong in ("tok_embeddings[2,319]", "tok_embeddings[0,-17]", "tok_embeddings[0,0,0]", "tok_embeddings[320,:]"):
        result = run_cli("get", ADAM, wrong)
        assert result.returncode == 2
        assert "It has 5,120 elements in 320 rows of 16. Give [i], [a:b], [row,column] or [row,a:b]" in result.stderr
    assert "Give [i] or [a:b];" in run_cli("get", ADAM, "norm[0,0]").stderr


@pytest.mark.parametrize("kind", ["gguf", "gguf-big"])
def test_keys(kind, tmp_path):
    path = sample(kind, tmp_path)

    def get(name):
        return run_cli("get", path, name, check=True).stdout

    assert get("x.float64") == f"{math.pi}\n"
    assert get("x.float32") == "0.1\n"
    assert get("x.uint64") == f"{1 << 63}\n"
    assert get("x.string") == "tab\tand \x1b[31mred\n"  # to a pipe it goes as it is
    assert get("tokenizer.ggml.tokens[0:4]") == "<unk>\n▁a\n\\n\n日本語\n"  # a line for each
    assert get("tokenizer.ggml.tokens[-1]") == "x" * 40 + "\n"
    assert get("tokenizer.ggml.scores[1:3]") == "-1.5\n2.5\n"
    assert get("x.numbers[97:]") == "97\n98\n99\n"
    assert get("half[1:3]") == get("blk.0.attn_q.weight[1:3]") == get("brain[1:3]") == "-0.875\n-0.75\n"
    found = json.loads(run_cli("get", path, "tokenizer.ggml.tokens", "--json", check=True).stdout)
    assert (found["type"], found["value"]) == ("string", TOKENS)


@pytest.mark.parametrize("kind", KINDS)
def test_json_says_where_the_values_lie(kind, tmp_path):
    path = sample(kind, tmp_path)
    name = "half" if kind.startswith("gguf") else "layers.0.attention.wq.weight"
    found = json.loads(run_cli("get", path, f"{name}[2:5]", "--json", check=True).stdout)
    assert list(found) == ["path", "type", "offset", "size", "value"]
    assert (found["type"], found["size"]) == ("f16", 6)
    raw = path.read_bytes()[found["offset"] : found["offset"] + found["size"]]
    assert found["value"] == FAST.reshape(-1)[2:5].tolist()
    assert np.frombuffer(raw, ">f2" if kind == "gguf-big" else "<f2").tolist() == found["value"]


def test_json_of_what_json_does_not_know(tmp_path):
    data = bytearray(ADAM.read_bytes())
    data[20608:20620] = np.array([np.nan, np.inf, -np.inf], "<f4").tobytes()
    path = tmp_path / "odd.ggcp"
    path.write_bytes(data)
    assert json.loads(run_cli("get", path, "norm.data[0:3]", "--json", check=True).stdout)["value"] == [
        "NaN",
        "Infinity",
        "-Infinity",
    ]
    assert run_cli("get", path, "norm.data[0:3]", check=True).stdout == "NaN\nInfinity\n-Infinity\n"
    assert json.loads(run_cli("get", path, "norm.data[4:4]", "--json", check=True).stdout)["value"] == []
    inference = json.loads(run_cli("get", path, "optimizer.inference", "--json", check=True).stdout)["value"]
    assert inference["by_records"] == "adam"


@pytest.mark.parametrize(
    "path", ["norm.data[-]", "hparams", "layers[9]", "norm.data[99]", f"norm.data[{'9' * 5000}]", "nonsense"]
)
def test_errors_are_one_or_two_lines(path):
    for more in ([], ["--json"]):
        result = run_cli("get", ADAM, path, *more)
        assert result.returncode == 2
        assert not result.stdout
        assert result.stderr.count("\n") <= 2
        assert_no_traceback(result)


def test_what_is_whole_in_a_damaged_file_is_printed_and_the_damage_told():
    result = run_cli("get", TRUNCATED, "train_its")
    assert (result.returncode, result.stdout) == (0, "0\n")
    assert "layers[0].w3.padding" in result.stderr
    data = run_cli("get", TRUNCATED, "norm.data[-1]", check=True)
    assert float(data.stdout)
    assert data.stderr == result.stderr


def test_an_element_counted_from_the_end_of_a_list_that_damage_ended_may_be_another_one(tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes((FIXTURES / "vocab.gguf").read_bytes()[:4500])  # 299 of 320 tokens
    for index, code in (("0", 0), ("1:3", 0), ("-2", 4), ("-3:-1", 4)):
        assert run_cli("get", path, f"tokenizer.ggml.tokens[{index}]").returncode == code, index


def test_elements_of_a_list_that_damage_ended(tmp_path):
    """The file ends in the second of the two dimensions."""
    path = tmp_path / "cut.ggcp"
    with open_checkpoint(ADAM) as file:
        path.write_bytes(ADAM.read_bytes()[: file.find("output.ne[1]").offset])
    paths = {"norm.ne": (0, "16\n"), "output.ne[0]": (0, "16\n"), "output.ne": (4, "16\n"), "output.ne[1]": (4, "")}
    for where, expected in paths.items():
        result = run_cli("get", path, where)
        assert (result.returncode, result.stdout) == expected, where
    wholes = {where: run_cli("hex", path, where).returncode for where in ("hparams", "norm", "output", "output.type")}
    assert wholes == {"hparams": 0, "norm": 0, "output": 4, "output.type": 0}


def test_data_in_a_hole_is_not_said_to_be_whole(tmp_path):
    path = tmp_path / "hole.ggcp"
    with open_checkpoint(ADAM) as file:
        start = file.find("layers[0].wq").offset
    path.write_bytes(ADAM.read_bytes()[:start] + b"\xa5" * 128 + ADAM.read_bytes()[start + 128 :])
    for name in ("layers[0].wq.data[0:2]", "layers[0].wq[0]", "blk.0.attn_q.weight[-2:]", "layers[0].wq.data"):
        assert run_cli("get", path, name).returncode == 4, name
    assert run_cli("get", path, "layers[0].wk.data[0:2]", check=True).stdout
    for name in ("layers[0].wq", "blk.0.attn_q.weight"):
        result = run_cli("extract", path, name, tmp_path / "x.npy")
        assert (result.returncode, "n_dims" in result.stderr) == (4, True)


def test_text_cannot_act_on_the_terminal(tmp_path):
    path = sample("gguf", tmp_path)
    _, screen = run_pty("get", path, "x.string", env={"NO_COLOR": "1"})
    assert screen == "tab\\tand \\x1b[31mred\n"


def test_moments_of_a_parameter():
    """In this file x equals the weights; the order of its vectors is proven."""
    file = FIXTURES / "v0-adam.ggcp"
    weights = run_cli("get", file, "layers[0].wq.data[0:4]", check=True).stdout
    assert run_cli("get", file, "optimizer.state.x[layers[0].wq][0:4]", check=True).stdout == weights
    assert run_cli("get", file, "optimizer.state.x[blk.0.attn_q.weight][0:4]", check=True).stdout == weights


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("layers[0].wq[3]", "layers[0].wq[ROW,:]"),
        ("blk.0.attn_q.weight[0:2]", "blk.0.attn_q.weight[ROW,:]"),
        ("layers[0].wq.data[3]", ""),
        ("layers[0].wq[0,3]", ""),
        ("norm[3]", ""),
    ],
)
def test_an_index_that_may_be_meant_as_that_of_a_row_is_explained(path, note):
    text = run_cli("get", FIXTURES / "v1-adam.ggcp", path, check=True).stderr
    assert text == (f"ggcp-schema: elements count in file order; {note} is a row\n" if note else "")
