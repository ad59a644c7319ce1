"""Tab completion knows what is inside the file on the command line: asked as the shells ask."""

from __future__ import annotations

import os

import pytest

from tests.helpers import FIXTURES, TRUNCATED, run_cli
from tests.samples import KINDS, sample

FILE = str(FIXTURES / "v1-adam.ggcp")
VOCAB = str(FIXTURES / "vocab.gguf")


def complete(*words):
    """What bash is offered for the last word."""
    line = " ".join(["ggcp-schema", *map(str, words)])
    env = {"_GGCP_SCHEMA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return run_cli(env=env).stdout.split()


def test_commands_and_formats():
    assert complete("du") == ["dump"]
    assert {"info", "dump", "schema"} <= set(complete(""))
    assert complete("schema", "gg") == ["ggcp", "gguf", "ggjt", "ggmf", "ggml", "ggla", "ggcl"]
    assert complete("schema", "x") == []


def test_words_that_options_take():
    assert complete("export", "--to", "") == ["gguf", "hf", "adapter", "peft"]
    assert complete("convert", "--order", "") == ["A", "B", "C", "D"]
    assert complete("info", "--sort", "s") == ["samples", "state"]
    assert complete("schema", "--json-of", "d") == ["dump", "diff"]
    assert complete("--color", "a") == ["auto", "always"]


@pytest.mark.parametrize("command", ["get", "dump", "hex"])
def test_one_level_at_a_time(command):
    assert complete(command, FILE, "")[:6] == [
        "magic",
        "version",
        "train_its",
        "train_samples",
        "train_tokens",
        "hparams",
    ]
    assert complete(command, FILE, "hparams.n_e") == ["hparams.n_embd"]
    assert complete(command, FILE, "layers[") == ["layers[0]", "layers[1]"]
    assert complete(command, FILE, "layers[0].") == [
        f"layers[0].{name}" for name in ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
    ]
    assert complete(command, FILE, "layers[1].wq.ne[") == ["layers[1].wq.ne[0]", "layers[1].wq.ne[1]"]
    assert complete(command, FILE, "nonsense") == []


def test_the_only_field_is_offered_with_those_in_it():
    """A single proposal would be followed by a space."""
    assert complete("get", FILE, "lay") == ["layers", "layers[0]", "layers[1]"]
    assert complete("get", FILE, "layers[1]")[:2] == ["layers[1]", "layers[1].attention_norm"]


@pytest.mark.parametrize("command", ["extract", "stats"])
def test_tensors(command):
    names = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    assert complete(command, FILE, "layers[1].w") == [f"layers[1].{name}" for name in names]
    assert complete(command, FILE, "layers[") == ["layers[0].", "layers[1]."]
    assert complete(command, FILE, "train") == []


@pytest.mark.parametrize("command", ["get", "stats"])
def test_moments_of_parameters(command):
    assert complete(command, FILE, "optimizer.state.m[la") == [
        f"optimizer.state.m[layers[{index}]." for index in (0, 1)
    ]
    assert complete(command, FILE, "optimizer.adam.first_moments[n") == ["optimizer.adam.first_moments[norm]"]
    assert complete(command, FILE, "norm[n") == []


def test_gguf_keys_and_tensors(tmp_path):
    path = sample("gguf", tmp_path)
    assert complete("get", VOCAB, "tokenizer.ggml.to") == ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"]
    assert "general." in complete("get", VOCAB, "gene") or complete("get", VOCAB, "gene")[0].startswith("general.")
    assert complete("get", path, "blk") == ["blk.0.attn_q.weight"]
    assert complete("get", path, "quant") == ["quantized"]
    assert complete("get", VOCAB, "metadata_kv[3].") == [
        f"metadata_kv[3].{name}" for name in ("key", "value_type", "value")
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_completes_its_first_field(kind, tmp_path):
    assert complete("dump", sample(kind, tmp_path), "ma") == ["magic"]


def test_long_lists_are_cut(tmp_path):
    assert len(complete("get", VOCAB, "metadata_kv[10].value.array[")) == 100
    assert complete("get", VOCAB, "metadata_kv[10].value.array[31") == [
        f"metadata_kv[10].value.array[{index}]" for index in (31, *range(310, 320))
    ]


def test_damaged_and_missing_files_complete_what_there_is(tmp_path):
    assert "layers[0].w1" in complete("get", TRUNCATED, "layers[0].w1")
    assert complete("get", "/no/such/file", "x") == []
    (tmp_path / "empty").touch()
    assert complete("get", tmp_path / "empty", "x") == []
    assert complete("get", os.fspath(tmp_path), "x") == []
    assert complete("get", FILE, "[[[") == complete("get", FILE, "layers[0]]..") == []


def test_the_shells_are_those_of_typer():
    for shell in ("bash", "zsh", "fish"):
        script = run_cli(env={"_GGCP_SCHEMA_COMPLETE": f"source_{shell}"}).stdout
        assert "_GGCP_SCHEMA_COMPLETE" in script
