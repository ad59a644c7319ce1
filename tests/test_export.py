"""`export`: the keys and tensors of the model, and the command. What llama.cpp makes of it is in test_export_llama."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from ggcp_schema import FileError, UsageError, convert, open_checkpoint
from ggcp_schema.gguf.entries import TensorEntry, key_values
from ggcp_schema.gguf.export import export_model
from ggcp_schema.gguf.keys import tensor_name
from ggcp_schema.gguf.model import export_entries, hparam_keys, model_of, model_tensors
from ggcp_schema.gguf.reader import open_gguf
from ggcp_schema.gguf.resume import resume_entries
from ggcp_schema.gguf.vocabulary import read_vocabulary
from ggcp_schema.gguf.writer import write_gguf
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_model, run_cli
from tests.vocabularies import ggml_file, make, sentencepiece_model, tokens

VOCAB = FIXTURES / "vocab.gguf"
TWINS = [path for path in GENUINE if path.name.startswith("twin-")]
OUR_OWN_KEYS = {
    "general.name": "STRING",
    "general.size_label": "STRING",
    "general.quantization_version": "UINT32",
    "llama.attention.head_count_kv": "UINT32",
    "llama.vocab_size": "UINT32",
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def in_words(path: Path) -> dict[str, Any]:
    """A GGUF file in the words of the fixtures' `.model.json`, as gguf reads it."""
    reader = GGUFReader(path)
    keys = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF."):
            continue
        value = field.contents()
        if isinstance(value, list):
            text = json.dumps(value, ensure_ascii=False).encode()
            value = {"len": len(value), "sha256": hashlib.sha256(text).hexdigest()}
        keys[name] = {"type": "/".join(kind.name for kind in field.types), "value": value}
    tensors = [
        {
            "name": tensor.name,
            "shape": [int(n) for n in tensor.shape],
            "dtype": tensor.tensor_type.name,
            "sha256": hashlib.sha256(tensor.data.tobytes()).hexdigest(),
        }
        for tensor in reader.tensors
    ]
    return {"kv": keys, "tensors": tensors}


def built(path: Path, **options: Any) -> Path:
    path.write_bytes(build_checkpoint(**({"n_vocab": 5, "n_embd": 8, "n_head": 2, "n_rot": 4} | options)))
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A vocabulary of five tokens."""
    path = tmp_path / "five.ggjt"
    path.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", b"a", b" b"]))
    return path


# What it holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.name)
def test_twins_become_what_the_trainer_itself_exported(path: Path, out: Path) -> None:
    export_model(path, out, vocab=VOCAB, context_length=16, verify=True)
    found, expected = in_words(out), expected_model(path)
    assert found["tensors"] == expected["tensors"]
    no_such_token = {key for key, entry in expected["kv"].items() if entry["value"] == 4294967295}
    assert len(no_such_token) == 2
    ours = {key: found["kv"].pop(key) for key in OUR_OWN_KEYS}
    assert found["kv"] == {key: entry for key, entry in expected["kv"].items() if key not in no_such_token}
    assert {key: entry["type"] for key, entry in ours.items()} == OUR_OWN_KEYS
    assert ours["general.name"]["value"] == path.name.removesuffix(".ggcp")
    assert ours["llama.attention.head_count_kv"]["value"] == expected["kv"]["llama.attention.head_count"]["value"]
    assert ours["llama.vocab_size"]["value"] == 320


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_the_gguf_checkpoint_exports_to_the_same_file(path: Path, tmp_path: Path, out: Path) -> None:
    resume, again = tmp_path / "resume.gguf", tmp_path / "again.gguf"
    convert(path, resume)
    export_model(path, out, vocab=VOCAB, context_length=16, name="one")
    export_model(resume, again, vocab=VOCAB, context_length=16, name="one")
    assert again.read_bytes() == out.read_bytes()


def test_the_epsilon_is_what_is_asked_else_what_a_gguf_states_else_the_default(tmp_path: Path, out: Path) -> None:
    path, resume = FIXTURES / "v1-adam.ggcp", tmp_path / "resume.gguf"
    convert(path, resume, rms_eps=5e-6)
    for source, asked, expected in ((path, None, 1e-5), (resume, None, 5e-6), (resume, 1e-6, 1e-6), (path, 1e-6, 1e-6)):
        export_model(source, out, vocab=VOCAB, context_length=16, rms_eps=asked, force=True)
        assert np.float32(in_words(out)["kv"]["llama.attention.layer_norm_rms_epsilon"]["value"]) == np.float32(
            expected
        )


def test_a_partial_rotation_is_saved_as_factors(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", n_embd=32, n_rot=8)
    export_model(source, out, vocab=five, context_length=16, verify=True)
    reader = GGUFReader(out)
    assert reader.fields["llama.rope.dimension_count"].contents() == 16
    factors = reader.tensors[-1]
    assert (factors.name, factors.tensor_type.name, list(factors.shape)) == ("rope_freqs.weight", "F32", [8])
    angles = 10000.0 ** (-np.arange(0, 16, 2) / 16) / factors.data.astype(np.float64)
    np.testing.assert_allclose(angles[:4], 10000.0 ** (-np.arange(0, 8, 2) / 8), rtol=1e-7)
    assert (angles[4:] * (1 << 32) < 2.0**-24).all()


def test_a_whole_rotation_needs_no_factors(tmp_path: Path, five: Path) -> None:
    with open_checkpoint(built(tmp_path / "in")) as ckpt:
        model = model_of(ckpt)
        assert [entry.name for entry in model_tensors(model)] == [tensor_name(path) for path in ckpt.model_tensors]
        entries = export_entries(model, read_vocabulary(five).keys, context_length=16)
    assert (
        set(hparam_keys(model))
        < set(hparam_keys(model, 16))
        < {entry for entry in key_values(entries) if not isinstance(entry.value, list)}
    )


@pytest.mark.parametrize(("name", "expected"), [(None, "in"), ("Ünï", "Ünï"), ("", None)])
def test_name(name: str | None, expected: str | None, tmp_path: Path, five: Path, out: Path) -> None:
    export_model(built(tmp_path / "in.ggcp"), out, vocab=five, context_length=16, name=name)
    assert in_words(out)["kv"].get("general.name", {"value": None})["value"] == expected


@pytest.mark.parametrize("n_embd", [8, 512])
def test_size_label_counts_the_model_alone(n_embd: int, tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", n_embd=n_embd, n_rot=n_embd // 2, data=lambda count: np.zeros(count, "<f4"))
    export_model(source, out, vocab=five, context_length=16)
    n_params = sum(int(np.prod(tensor.shape)) for tensor in GGUFReader(out).tensors)
    label = in_words(out)["kv"]["general.size_label"]["value"]
    scale = {"K": 1e3, "M": 1e6}[label[-1]]
    assert abs(float(label[:-1]) * scale - n_params) <= 0.05 * scale


# What cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"n_head": 0}, "n_embd 8 cannot be shared among n_head 0 heads"),
        ({"n_head": 3}, "n_embd 8 cannot be shared among n_head 3 heads"),
        ({"n_rot": 6}, "n_rot 6 is more than the head size 4"),
        ({"n_rot": 3}, "n_rot 3 or head size 4 is odd"),
        ({"n_head": 8, "n_rot": 0}, "n_rot 0 or head size 1 is odd"),
        ({"n_layer": 0}, "no layers"),
    ],
)
def test_a_model_that_llama_cpp_cannot_run(
    options: dict[str, int], found: str, tmp_path: Path, five: Path, out: Path
) -> None:
    with pytest.raises(UsageError, match=found):
        export_model(built(tmp_path / "in", **options), out, vocab=five, context_length=16)
    assert not out.exists()


@pytest.mark.parametrize("context_length", [0, -1, 1 << 32])
def test_context_length_must_fit(context_length: int, tmp_path: Path, five: Path, out: Path) -> None:
    with pytest.raises(UsageError, match=str(context_length)):
        export_model(built(tmp_path / "in"), out, vocab=five, context_length=context_length)


@pytest.mark.parametrize("rms_eps", [0.0, -1e-5, float("nan"), float("inf"), 1e-50])
def test_epsilon_must_make_sense(rms_eps: float, tmp_path: Path, five: Path, out: Path) -> None:
    with pytest.raises(UsageError, match="RMS epsilon"):
        export_model(built(tmp_path / "in"), out, vocab=five, context_length=16, rms_eps=rms_eps)


def test_a_vocabulary_of_another_size(five: Path, out: Path) -> None:
    with pytest.raises(UsageError, match=r"has 5 tokens; .* with 320") as caught:
        export_model(FIXTURES / "v1-adam.ggcp", out, vocab=five, context_length=16)
    assert "--vocab-model" in caught.value.hint


def test_an_exported_model_is_a_model_already(tmp_path: Path, out: Path) -> None:
    export_model(FIXTURES / "v1-adam.ggcp", out, vocab=VOCAB, context_length=16)
    with pytest.raises(UsageError, match="is a model already"):
        export_model(out, tmp_path / "again.gguf", vocab=VOCAB, context_length=16)


@pytest.mark.parametrize("missing", ["token_embd.weight", "output.weight", "blk.1.ffn_down.weight"])
def test_a_gguf_without_one_of_the_tensors(missing: str, tmp_path: Path, out: Path) -> None:
    part = tmp_path / "part.gguf"
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        write_gguf(part, [entry for entry in resume_entries(ckpt) if getattr(entry, "name", "") != missing])
    with pytest.raises(UsageError, match=f"{missing} is missing"):
        export_model(part, out, vocab=VOCAB, context_length=16)


def test_a_gguf_with_tensors_of_another_shape(tmp_path: Path, out: Path) -> None:
    odd = tmp_path / "odd.gguf"
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        swapped = {"blk.0.attn_norm.weight": ckpt.layers[0].wq}
        write_gguf(
            odd,
            [
                TensorEntry(entry.name, swapped.get(entry.name, entry.source))
                if isinstance(entry, TensorEntry)
                else entry
                for entry in resume_entries(ckpt)
            ],
        )
    with pytest.raises(UsageError, match=r"blk.0.attn_norm.weight is F32 \[16, 16\], not F32 \[16\]"):
        export_model(odd, out, vocab=VOCAB, context_length=16)


@pytest.mark.parametrize("missing", ["llama.block_count", "llama.attention.head_count", "llama.rope.dimension_count"])
def test_a_gguf_without_one_of_the_keys(missing: str, tmp_path: Path, out: Path) -> None:
    part = tmp_path / "part.gguf"
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        write_gguf(part, [entry for entry in resume_entries(ckpt) if getattr(entry, "key", "") != missing])
    with pytest.raises(UsageError, match=f"has no number {missing}"):
        export_model(part, out, vocab=VOCAB, context_length=16)


@pytest.mark.parametrize("which", ["input", "vocabulary", "existing"])
def test_output_replaces_no_input_and_nothing_unasked(which: str, tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in")
    out.write_text("mine")
    target = {"input": source, "vocabulary": five, "existing": out}[which]
    before = target.read_bytes()
    with pytest.raises(FileError):
        export_model(source, target, vocab=five, context_length=16, force=which != "existing")
    assert target.read_bytes() == before


# The command -----------------------------------------------------------------------------------------------


def test_command_writes_and_says_what(out: Path) -> None:
    source = FIXTURES / "twin-ff48.v1.ggcp"
    result = run_cli(
        "export", source, out, "--vocab", FIXTURES / "vocab.ggjt", "--context-length", "16", "--verify", check=True
    )
    assert result.stderr == ""
    for words in ("16,976 parameters", "320 tokens", "ggjt version 3", "context length: 16", "every byte compared"):
        assert words in result.stdout
    assert "RMS epsilon: 1e-05 by default" in result.stdout
    assert "5e-6 from 25 July" in result.stdout
    assert "hparams.n_mult" in result.stdout
    with open_gguf(out) as gguf:
        assert f"{len(gguf.keys)} keys, {len(gguf.tensors)} tensors" in result.stdout


def test_command_says_that_a_rotation_is_partial(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", n_embd=32, n_rot=8)
    result = run_cli("export", source, out, "--vocab", five, "--context-length", "16", check=True)
    assert "8 of each head's 16 dimensions" in result.stdout


def test_command_json_describes_it_without_the_vocabulary_s_lists(out: Path) -> None:
    result = run_cli(
        "export", FIXTURES / "v1-adam.ggcp", out, "--vocab", VOCAB, "--context-length", "16", "--json", check=True
    )
    told = json.loads(result.stdout)
    assert result.stderr == ""
    assert told["size"] == out.stat().st_size
    assert told["written"] is True
    assert told["vocabulary"] == {"path": str(VOCAB), "kind": "GGUF", "n_tokens": 320, "note": None}
    keys = {entry["key"]: entry for entry in told["keys"]}
    assert keys["tokenizer.ggml.tokens"]["length"] == 320
    assert "value" not in keys["tokenizer.ggml.tokens"]
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        assert [tensor["source"] for tensor in told["tensors"]] == list(ckpt.model_tensors)


def test_command_dry_run_writes_nothing_even_over_a_file(out: Path) -> None:
    out.write_text("mine")
    common = ("export", FIXTURES / "v1-adam.ggcp", out, "--vocab", VOCAB, "--context-length", "16", "--dry-run")
    result = run_cli(*common, check=True)
    assert out.read_text() == "mine"
    assert "would write" in result.stdout
    assert "tokenizer.ggml.tokens ARRAY/STRING [320 items]" in result.stdout
    told = json.loads(run_cli(*common, "--json", check=True).stdout)
    assert (told["written"], told["size"]) == (False, None)


def test_command_quiet_says_nothing(out: Path) -> None:
    result = run_cli(
        "export", FIXTURES / "v1-adam.ggcp", out, "--vocab", VOCAB, "--context-length", "1", "-q", check=True
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert out.exists()


@pytest.mark.parametrize(
    ("source", "options", "code", "said"),
    [
        ("v1-adam.ggcp", ["--vocab", "vocab.gguf"], 2, "--context-length"),
        ("v1-adam.ggcp", ["--context-length", "16"], 2, "--vocab"),
        ("v1-adam.ggcp", ["--vocab", "vocab.gguf", "--context-length", "0"], 2, "--context-length"),
        ("v1-adam.ggcp", ["--vocab", "vocab.gguf", "--context-length", "4294967296"], 2, "--context-length"),
        ("v1-adam.ggcp", ["--vocab", "none.gguf", "--context-length", "16"], 2, "No such file"),
        ("v1-adam.ggcp", ["--vocab", "v1-adam.ggcp", "--context-length", "16"], 2, "is a ggcp checkpoint"),
        ("v1-adam.ggcp", ["--vocab", "vocab.gguf", "--context-length", "16", "--rms-eps", "0"], 2, "RMS epsilon"),
        ("vocab.gguf", ["--vocab", "vocab.gguf", "--context-length", "16"], 2, "has a vocabulary"),
        ("vocab.ggjt", ["--vocab", "vocab.gguf", "--context-length", "16"], 4, "a ggjt model or vocabulary file"),
        (TRUNCATED.name, ["--vocab", "vocab.gguf", "--context-length", "16"], 4, "too short"),
    ],
)
def test_command_refuses(source: str, options: list[str], code: int, said: str, out: Path) -> None:
    result = run_cli("export", source, out, *options, cwd=FIXTURES)
    assert result.returncode == code
    assert said in result.stderr
    assert result.stdout == ""
    assert_no_traceback(result)
    assert not out.exists()


def test_command_lets_nothing_through_that_a_terminal_obeys(tmp_path: Path) -> None:
    """A name, a path and a token that would clear the screen; the token's text may be in an error too."""
    evil = "\x1b[2J\x07"
    source, out = built(tmp_path / f"{evil}.ggcp"), tmp_path / f"{evil}.gguf"
    vocab = tmp_path / f"{evil}.ggjt"
    vocab.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", evil.encode(), b"b"]))
    common = ("export", source, out, "--vocab", vocab, "--context-length", "16", "--name", evil)
    for result in (run_cli(*common, "--dry-run"), run_cli(*common), run_cli(*common)):
        assert_no_traceback(result)
        assert not {"\x1b", "\x07"} & set(result.stdout + result.stderr)
    assert json.loads(run_cli(*common, "--json", "--force", check=True).stdout)["output"] == str(out)
    assert in_words(out)["kv"]["general.name"]["value"] == evil
    vocab.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", evil.encode(), evil.encode()]))
    result = run_cli(*common)
    assert result.returncode == 2
    assert "tokens 3 and 4" in result.stderr
    assert not {"\x1b", "\x07"} & set(result.stderr)


def test_command_takes_a_file_name_that_is_not_text(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / os.fsdecode(b"\xffname.ggcp"))
    run_cli("export", source, out, "--vocab", five, "--context-length", "16", check=True)
    assert in_words(out)["kv"]["general.name"]["value"] == "\N{REPLACEMENT CHARACTER}name"


def test_command_says_what_a_vocabulary_lacks(out: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.bin"
    vocab.write_bytes(make("ggml"))
    result = run_cli("export", FIXTURES / "v1-adam.ggcp", out, "--vocab", vocab, "--context-length", "16", check=True)
    assert "the file has no scores" in result.stdout


def test_command_takes_a_sentencepiece_model_of_any_name(out: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "any.bin"
    vocab.write_bytes(sentencepiece_model(tokens()))
    result = run_cli("export", FIXTURES / "v1-adam.ggcp", out, "--vocab", vocab, "--context-length", "16", check=True)
    assert "320 tokens" in result.stdout
    assert "sentencepiece model" in result.stdout
    assert result.stderr == ""
