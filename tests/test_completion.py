"""Tab completion knows what is inside the file on the command line: asked as the shells ask."""

from __future__ import annotations

import pytest

from tests.helpers import FIXTURES, TRUNCATED, run_cli

FILE = str(FIXTURES / "v1-adam.ggcp")


def complete(*words):
    """What bash is offered for the last word."""
    line = " ".join(["ggcp-schema", *words])
    env = {"_GGCP_SCHEMA_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return run_cli(env=env).stdout.split()


def test_commands():
    assert complete("du") == ["dump"]
    assert {"info", "dump", "schema"} <= set(complete(""))


@pytest.mark.parametrize("command", ["get", "dump", "hex"])
def test_field_paths_of_the_file(command):
    assert complete(command, FILE, "optimizer.st") == [
        path for path in complete(command, FILE, "optimizer.") if path.startswith("optimizer.st")
    ]
    assert complete(command, FILE, "hparams.n_e") == ["hparams.n_embd"]
    assert "layers[1].wq.ne[0]" in complete(command, FILE, "layers[1].wq.")
    assert complete(command, FILE, "nonsense") == []


@pytest.mark.parametrize("command", ["extract", "stats"])
def test_tensors_of_the_file(command):
    names = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
    assert complete(command, FILE, "layers[1].w") == [f"layers[1].{name}" for name in names]


def test_gguf_keys_and_tensors(tmp_path):
    gguf = tmp_path / "x.gguf"
    run_cli("convert", FILE, gguf, check=True)
    assert complete("get", str(gguf), "training.t") == ["training.type", "training.token_count"]
    assert "blk.0.attn_q.weight" in complete("get", str(gguf), "blk.0.attn_")


def test_damaged_and_missing_files_complete_what_there_is():
    assert "layers[0].w1" in complete("get", str(TRUNCATED), "layers[0].w1")
    assert complete("get", "/no/such/file", "x") == []


def test_the_shells_are_those_of_typer():
    for shell in ("bash", "zsh", "fish"):
        script = run_cli(env={"_GGCP_SCHEMA_COMPLETE": f"source_{shell}"}).stdout
        assert "_GGCP_SCHEMA_COMPLETE" in script
