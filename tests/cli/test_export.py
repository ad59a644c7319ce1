"""`export`: what it prints, its options, and what it refuses. What llama.cpp makes of the result is tested apart."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, TRUNCATED, assert_no_traceback, run_cli
from tests.mapping import gguf_files
from tests.vocabularies import ggml_file, make

ADAM = FIXTURES / "v1-adam.ggcp"
FF48 = FIXTURES / "twin-ff48.v1.ggcp"
VOCAB = FIXTURES / "vocab.gguf"
COMMON = ("--vocab", VOCAB, "--ctx", "16")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
JSON_KEYS = {
    *("input", "output", "kind", "rms_eps", "rms_eps_reason", "notes", "findings", "conclusions"),
    *("keys", "tensors", "files", "written", "size", "not_finite", "replaced", "vocabulary"),
}


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *messages: str) -> None:
    """Check that there are one or two lines on stderr, and nothing on stdout."""
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (code, "")
    for message in messages:
        assert message in result.stderr
    assert result.stderr.startswith("ggcp-schema: ")
    assert len(result.stderr.splitlines()) <= 2
    assert not CONTROL.search(result.stderr)


def built(path: Path, **options: Any) -> Path:
    path.write_bytes(build_checkpoint(**({"n_vocab": 5, "n_embd": 8, "n_head": 2, "n_rot": 4} | options)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A vocabulary of five tokens."""
    path = tmp_path / "five.ggjt"
    path.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", b"a", b" b"]))
    return path


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """A checkpoint whose model is whole, and whose optimizer ends within v."""
    path = tmp_path / "cut here.ggcp"
    path.write_bytes(ADAM.read_bytes()[:180_000])
    return path


# What it prints --------------------------------------------------------------------------------------------


def test_the_summary(out: Path) -> None:
    result = run_cli("export", FF48, out, "--vocab", FIXTURES / "vocab.ggjt", "--ctx", "16", "--verify", check=True)
    assert result.stderr == ""
    source, epsilon, context, vocabulary, note, wrote, run = result.stdout.splitlines()
    assert source.startswith(f"{FF48}: 2 layers, n_embd 16, n_vocab 320, 16,976 parameters, Adam at iteration 6, ")
    assert epsilon == "epsilon: 1e-5"
    assert context == "context length: 16 tokens (stated by the user)"
    assert note == "note: hparams.n_mult: n_ff is 48 according to w1, but 256 according to n_embd and n_mult (256)"
    assert vocabulary == f"vocabulary: {FIXTURES / 'vocab.ggjt'}, ggjt version 3, 320 tokens"
    found = gguf_files.read_gguf(out)
    counts = f"{len(found['kv'])} keys, {len(found['tensors'])} tensors, {out.stat().st_size:,} bytes"
    assert wrote.startswith(f"wrote {out}: {counts} (")
    assert wrote.endswith(", every byte compared")
    assert shlex.split(run) == ["run:", "llama-completion", "-m", str(out), "-p", "Once upon a time"]


def test_ctx_is_short_for_context_length(tmp_path: Path) -> None:
    for option, name in (("--ctx", "a"), ("--context-length", "b")):
        run_cli("export", ADAM, tmp_path / name, "--vocab", VOCAB, option, "32", "--name", "x", check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert gguf_files.value(tmp_path / "a", "llama.context_length") == 32


def test_name_and_epsilon(out: Path) -> None:
    text = run_cli("export", ADAM, out, *COMMON, "--name", "Tëst", "--rms-eps", "3e-6", check=True).stdout
    assert "epsilon: 3e-6 (stated by the user)" in text
    assert gguf_files.value(out, "general.name") == "Tëst"
    assert gguf_files.value(out, "llama.attention.layer_norm_rms_epsilon") == np.float32(3e-6)


def test_a_partial_rotation_is_explained(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", n_embd=32, n_rot=8)
    text = run_cli("export", source, out, "--vocab", five, "--ctx", "16", check=True).stdout
    assert (
        "rotation: n_rot 8 of heads of 16 dimensions is written as rope.dimension_count 16 and rope.freq_base" in text
    )


def test_json(out: Path) -> None:
    result = run_cli("export", ADAM, out, *COMMON, "--json", check=True)
    content = json.loads(result.stdout)
    assert result.stderr == ""
    assert set(content) == JSON_KEYS
    assert (content["kind"], content["written"], content["size"]) == ("model", True, out.stat().st_size)
    assert content["vocabulary"] == {"path": str(VOCAB), "kind": "GGUF", "tokens": 320, "note": None}
    keys = {entry["key"]: entry for entry in content["keys"]}
    assert keys["tokenizer.ggml.tokens"] == {
        "key": "tokenizer.ggml.tokens",
        "type": "ARRAY/STRING",
        "length": 320,
    }
    assert list(keys) == list(gguf_files.read_gguf(out)["kv"])
    sources = [tensor["source"] for tensor in content["tensors"]]
    assert [gguf_files.tensor_name(source) for source in sources] == [tensor["name"] for tensor in content["tensors"]]


def test_a_dry_run_writes_nothing_even_over_a_file(out: Path) -> None:
    out.write_text("mine")
    text = run_cli("export", ADAM, out, *COMMON, "--dry-run", check=True).stdout
    assert f"would write {out}: 23 keys, 21 tensors" in text
    assert "  tokenizer.ggml.tokens ARRAY/STRING [320 elements]" in text
    assert "wrote" not in text
    content = json.loads(run_cli("export", ADAM, out, *COMMON, "--dry-run", "--json", check=True).stdout)
    assert (content["written"], content["size"]) == (False, None)
    assert out.read_text() == "mine"


def test_no_sync(out: Path) -> None:
    with mock.patch("os.fsync", side_effect=os.fsync) as fsync:
        run_cli("export", ADAM, out, *COMMON, "--no-sync", check=True)
        assert not fsync.called
        run_cli("export", ADAM, out, *COMMON, "-f", check=True)
        assert fsync.called


def test_what_a_vocabulary_lacks_is_said(out: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.bin"
    vocab.write_bytes(make("ggml"))
    common = ("export", ADAM, out, "--vocab", vocab, "--ctx", "16")
    text = run_cli(*common, check=True).stdout
    assert re.search(r"^vocabulary: .*no scores", text, re.MULTILINE)
    note = json.loads(run_cli(*common, "--json", "--force", check=True).stdout)["vocabulary"]["note"]
    assert "no scores" in note


def test_a_sentencepiece_model_of_any_name(out: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "any.bin"
    vocab.write_bytes(make("sentencepiece"))
    result = run_cli("export", ADAM, out, "--vocab", vocab, "--ctx", "16", check=True)
    assert f"vocabulary: {vocab}, sentencepiece model, 320 tokens\n" in result.stdout
    assert result.stderr == ""


# Inputs ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_convert_wrote(tmp_path: Path, out: Path) -> None:
    resume, again = tmp_path / "resume.gguf", tmp_path / "again.gguf"
    run_cli("convert", ADAM, resume, check=True)
    text = run_cli("export", resume, again, *COMMON, "--name", "x", check=True).stdout
    assert "epsilon: 1e-6, a guess (or 5e-6)" in text
    run_cli("export", ADAM, out, *COMMON, "--name", "x", check=True)
    assert again.read_bytes() == out.read_bytes()
    assert_refused(run_cli("export", resume, out, "-f"), 2, f"Missing option --vocab: {resume} contains no vocabulary")


def test_a_checkpoint_that_a_trainer_saved_needs_no_options(tmp_path: Path, out: Path) -> None:
    source = gguf_files.write_as_trainer(tmp_path / "in.gguf", ADAM, order=("A", "B"))
    text = run_cli("export", source, out, "--verify", check=True).stdout
    assert "epsilon: 1e-5 (stored in the file)" in text
    assert "context length: 16 tokens (stored in the file)" in text
    assert f"vocabulary: {source}, " in text
    assert gguf_files.value(out, "tokenizer.ggml.tokens") == gguf_files.value(VOCAB, "tokenizer.ggml.tokens")
    model = gguf_files.data(out)
    assert all((model[name] == values).all() for name, values in gguf_files.data(source).items() if name in model)
    assert not any(name.startswith("optimizer.") for name in model)


def test_weights_that_are_not_finite_are_noted(tmp_path: Path, five: Path, out: Path) -> None:
    """Only the data of the embeddings, of 5 rows of 8 numbers, has such values; strict refuses them while copying."""

    def draw(count: int) -> np.ndarray:
        values = np.linspace(-1, 1, count, dtype="<f4")
        if count == 40:
            values[[3, 4, 20]] = np.nan, np.inf, -np.inf
        return values

    source = built(tmp_path / "in.ggcp", data=draw)
    common = ("export", source, out, "--vocab", five, "--ctx", "16")
    lines = run_cli(*common, check=True).stdout.splitlines()
    noted = [line for line in lines if "NaN" in line]
    assert noted == [f"note: {name}: 3 values are NaN or infinite" for name in ("token_embd.weight", "output.weight")]
    content = json.loads(run_cli(*common, "--force", "--json", check=True).stdout)
    assert content["not_finite"] == {"token_embd.weight": 3, "output.weight": 3}
    out.write_text("mine")
    assert_refused(run_cli(*common, "--force", "--strict"), 2, "token_embd.weight has values that are NaN or infinite")
    assert out.read_text() == "mine"


def test_strict_refuses_findings(out: Path) -> None:
    assert_refused(run_cli("export", FF48, out, *COMMON, "--strict"), 2, "hparams.n_mult", "Nothing was written")
    assert not out.exists()
    run_cli("export", ADAM, out, *COMMON, "--strict", check=True)


def test_names_that_contradict_places_are_told(tmp_path: Path, five: Path, out: Path) -> None:
    exchanged = {"tok_embeddings.weight": b"output.weight", "output.weight": b"tok_embeddings.weight"}
    source = built(tmp_path / "in.ggcp", name=lambda label: exchanged.get(label, label.encode()))
    common = ("export", source, out, "--vocab", five, "--ctx", "16")
    text = run_cli(*common, check=True).stdout
    assert re.findall(r"^note: (\S+):", text, re.MULTILINE) == ["tok_embeddings.name", "output.name"]
    assert_refused(run_cli(*common, "--force", "--strict"), 2, "tok_embeddings.name", "output.weight")


# Damage ----------------------------------------------------------------------------------------------------


def test_a_model_whose_vocabulary_may_be_damaged_needs_another(tmp_path: Path) -> None:
    """`info` says so, and what was lost is said where the model is made of the rest."""
    source, path, out = FIXTURES / "truth" / "jan24-D.gguf", tmp_path / "hole.gguf", tmp_path / "out.gguf"
    data = source.read_bytes()
    at = data.index(b"llama.rope.freq_base")
    path.write_bytes(data[: at - 8] + b"\xff" * 20 + data[at + 12 :])
    assert f"ggcp-schema export --partial {path} --vocab VOCABULARY\n" in run_cli("info", path).stdout
    assert_refused(run_cli("export", "--partial", path, out), 4, "metadata_kv[10]", "\nGive the file that was")
    text = run_cli("export", "--partial", path, out, "--vocab", source, check=True).stdout
    assert re.search(r"\ndamaged: only the model was read; lost: metadata_kv\[10\].* counts as not stated\n", text)


def test_the_command_that_exports_a_damaged_file_has_all_that_is_needed(cut: Path) -> None:
    message = run_cli("export", cut).stderr
    assert message.endswith(f"Run: ggcp-schema export --partial '{cut}' --vocab VOCABULARY\n")


def test_a_damaged_file_whose_model_is_whole(cut: Path, tmp_path: Path, out: Path) -> None:
    """The error names the command that exports it, which runs as it stands."""
    result = run_cli("export", cut, out, *COMMON, "--name", "it's")
    assert_refused(result, 4, "optimizer.state.v.data", "the file is 25,196 bytes too short\nAll tensors of the model")
    assert not out.exists()
    command = shlex.split(result.stderr.partition("Run: ")[2])
    assert command[0] == "ggcp-schema"
    text = run_cli(*command[1:], check=True).stdout
    assert text.startswith(f"{cut}: damaged, 22 whole tensors before optimizer.state.v.data, 180,000 bytes")
    assert "\ndamaged: only the model was read; lost: optimizer.state.v.data and what follows it\n" in text
    run_cli("export", ADAM, tmp_path / "whole.gguf", *COMMON, "--name", "it's", check=True)
    whole, rescued = gguf_files.data(tmp_path / "whole.gguf"), gguf_files.data(out)
    assert whole.keys() == rescued.keys()
    assert all((whole[name] == rescued[name]).all() for name in whole)


def test_partial_changes_nothing_for_a_whole_file(tmp_path: Path) -> None:
    for name, option in (("a", ()), ("b", ("--partial",))):
        run_cli("export", ADAM, tmp_path / name, *COMMON, "--name", "x", *option, check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("option", [(), ("--partial",)], ids=["", "partial"])
def test_a_model_that_is_not_whole_is_never_exported(option: tuple[str, ...], out: Path) -> None:
    result = run_cli("export", TRUNCATED, out, *COMMON, *option)
    message = (
        "The model is not whole: the file has 11 of its 12 tensors, which `ggcp-schema extract --partial` can save."
    )
    assert_refused(result, 4, "at least 13 bytes too short", message)
    assert not out.exists()


# Refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "code", "messages"),
    [
        (ADAM.name, [], 2, ["Missing option --vocab: v1-adam.ggcp contains no vocabulary\nGive the file that was the"]),
        (ADAM.name, ["--ctx", "16"], 2, ["Missing option --vocab: ", "--vocab-model (ggml-vocab.bin)"]),
        (ADAM.name, ["--vocab", VOCAB.name, "--ctx", "0"], 2, ["0"]),
        (ADAM.name, ["--vocab", VOCAB.name, "--ctx", "4294967296"], 2, ["4294967296"]),
        (ADAM.name, ["--vocab", "none.gguf", "--ctx", "16"], 2, ["none.gguf: No such file"]),
        (ADAM.name, ["--vocab", ADAM.name, "--ctx", "16"], 2, ["v1-adam.ggcp"]),
        (ADAM.name, ["--vocab", "README.md", "--ctx", "16"], 2, ["README.md"]),
        (ADAM.name, ["--vocab", VOCAB.name, "--ctx", "16", "--rms-eps", "0"], 2, ["RMS epsilon must be between"]),
        (
            ADAM.name,
            ["--vocab", "alice-vocab.gguf", "--ctx", "16"],
            2,
            ["the vocabulary has 768 tokens; the model v1-adam.ggcp was trained with 320", "--vocab-model"],
        ),
        (VOCAB.name, ["--vocab", VOCAB.name, "--ctx", "16"], 2, ["vocab.gguf is a vocabulary"]),
        ("vocab.ggjt", ["--vocab", VOCAB.name, "--ctx", "16"], 2, ["vocab.ggjt is a vocabulary"]),
        ("none.ggcp", ["--vocab", VOCAB.name, "--ctx", "16"], 2, ["none.ggcp: No such file"]),
    ],
)
def test_refused(source: str, options: list[str], code: int, messages: list[str], out: Path) -> None:
    assert_refused(run_cli("export", source, out, *options, cwd=FIXTURES), code, *messages)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_head": 0}, "n_head 0"),
        ({"n_head": 3}, "n_head 3"),
        ({"n_rot": 3}, "n_rot (3)"),
        ({"n_rot": 6}, "n_rot is 6"),
        ({"n_layer": 0}, "it has no layers"),
    ],
)
def test_a_model_that_llama_cpp_cannot_run(
    options: dict[str, int], message: str, tmp_path: Path, five: Path, out: Path
) -> None:
    result = run_cli("export", built(tmp_path / "in", **options), out, "--vocab", five, "--ctx", "16")
    assert_refused(result, 2, message, "llama.cpp cannot run this model.")
    assert not out.exists()


def test_an_unknown_target(out: Path) -> None:
    run_cli("export", ADAM, out, *COMMON, "--to", "gguf", check=True)
    refused = run_cli("export", ADAM, out, *COMMON, "--to", "resume", "--force")
    assert_refused(refused, 2, "'resume' is not among what can be exported to", "Choose from: gguf")


def test_outputs_that_are_refused(tmp_path: Path, five: Path) -> None:
    source = built(tmp_path / "in.ggcp")
    common = ("--vocab", five, "--ctx", "16")
    before = sorted(os.listdir(tmp_path))
    for output, message in (
        (source, "output and input are the same file"),
        (five, "output and input are the same file"),
        (tmp_path, "is a directory"),
        ("-", "cannot write to standard output"),
        (tmp_path / "none" / "out", "does not exist"),
    ):
        assert_refused(run_cli("export", source, output, *common, "--force", cwd=tmp_path), 2, message)
    assert sorted(os.listdir(tmp_path)) == before
    (tmp_path / "old").write_text("mine")
    result = run_cli("export", source, tmp_path / "old", *common)
    assert_refused(result, 2, f"{tmp_path / 'old'} already exists\nUse --force to overwrite it.\n")
    assert (tmp_path / "old").read_text() == "mine"


def test_a_name_is_stored_as_it_is_and_an_error_quotes_a_token_escaped(tmp_path: Path, five: Path, out: Path) -> None:
    evil = "\x1b[2J\x07"
    source, vocab = built(tmp_path / "in.ggcp"), tmp_path / "twice.ggjt"
    run_cli("export", source, out, "--vocab", five, "--ctx", "16", "--name", evil, check=True)
    assert gguf_files.value(out, "general.name") == evil
    vocab.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", evil.encode(), evil.encode()]))
    result = run_cli("export", source, out, "--vocab", vocab, "--ctx", "16", "--force")
    assert_no_traceback(result)
    assert result.returncode in {2, 4}
    assert not CONTROL.search(result.stderr)


def test_a_file_name_that_is_not_utf8(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / os.fsdecode(b"\xffname.ggcp"))
    run_cli("export", source, out, "--vocab", five, "--ctx", "16", check=True)
    assert gguf_files.value(out, "general.name") == "\N{REPLACEMENT CHARACTER}name"
