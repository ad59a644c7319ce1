"""`search`: where words occur, under paths that other commands take."""

from __future__ import annotations

import json

import pytest
from gguf import GGUFReader

from tests.golden import assert_golden
from tests.helpers import FIXTURES, run_cli

BASE = FIXTURES / "lora/base.gguf"


def found(path, *words, code=0):
    result = run_cli("search", path, *words, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("tensors", ["alice.ggcp", "wq", "name"]),
        ("keys", ["lora/base.gguf", "rope"]),
        ("tokens", ["vocab.gguf", "the", "--width", "40"]),
        ("nothing", ["alice.ggcp", "no-such-word"]),
    ],
)
def test_golden(name, args):
    assert_golden(f"search/{name}.txt", run_cli("search", *args, cwd=FIXTURES).stdout)


def test_all_keys_and_tensors_are_found():
    reader = GGUFReader(BASE)
    for word in ("attn", "LLAMA", "norm", "bos"):
        names = {name for name in (*reader.fields, *(each.name for each in reader.tensors)) if word.lower() in name}
        listed = {row["path"] for row in found(BASE, word)}
        assert {name for name in names if not name.startswith("GGUF.")} <= listed, word


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora/base.gguf", ["token"]),
        ("lora/base.ggjt", ["1"]),
        ("alice.ggcp", ["layers", "norm"]),
        ("v1-lbfgs.ggcp", ["lbfgs"]),
        ("lora/adam.ggla", ["lora"]),
    ],
)
def test_other_commands_take_the_paths(name, words):
    path = FIXTURES / name
    rows = json.loads(run_cli("tensors", path, "--json", check=True).stdout)
    data = {(row["offset"], row["nbytes"]) for row in rows}
    for row in found(path, *words)[::10]:
        assert all(word in f"{row['path']} {row['content']}".lower() for word in words)
        if row["size"]:
            (piece, *_) = json.loads(run_cli("hex", path, row["path"], "--json", check=True).stdout)
            assert (row["offset"], row["size"]) in data or row["offset"] == piece["offset"]


@pytest.mark.parametrize(
    ("name", "word", "path"),
    [
        ("alice.ggcp", "blk.0.attn_q.weight", "layers[0].wq"),
        ("lora/base.gguf", "layers[0].wq", "blk.0.attn_q.weight"),
        ("lora/base.ggjt", "blk.0.attn_q.weight", "layers.0.attention.wq.weight"),
    ],
)
def test_a_tensor_is_found_by_each_of_its_names(name, word, path):
    row, *_ = found(FIXTURES / name, word)
    assert row["path"] == path


def test_what_is_whole_of_a_damaged_file_is_searched(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes((FIXTURES / "alice.ggcp").read_bytes()[:500_000])
    assert [row["path"] for row in found(path, "wq", code=4)][:1] == ["layers[0].wq"]


@pytest.mark.parametrize("words", [["ſ"], ["\0"], ["[", "*"], [" "], ["--", "-x"]])
def test_odd_words(words):
    result = run_cli("search", FIXTURES / "vocab.gguf", *words)
    assert result.returncode in {0, 1}
    assert result.stderr == ""


def test_there_are_at_most_100():
    result = run_cli("search", FIXTURES / "alice.ggcp", "layers")
    assert len(result.stdout.splitlines()) == 102
    assert result.stdout.endswith("\nThese are the best 100; more words find fewer.\n")
