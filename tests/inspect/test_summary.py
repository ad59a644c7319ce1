"""Summaries of every kind of file, the condition of damaged ones, and the commands that are recommended."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import struct
import subprocess

import gguf
import numpy as np
import pytest
from hypothesis import given

from ggcp_schema import convert, export_model, open_file
from ggcp_schema.cli.output import to_json
from ggcp_schema.errors import shell_word
from ggcp_schema.inspect.damage import missing_tensors
from ggcp_schema.inspect.summary import summarize, summary_lines
from tests.builder import build_checkpoint
from tests.helpers import FEW, FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, expected_resume, run_cli, thinned
from tests.samples import GGML_KINDS, sample
from tests.strategies import checkpoints

ADAM = FIXTURES / "v1-adam.ggcp"


def summary_of(path):
    with open_file(path, partial=True) as file:
        return summarize(file)


def lines_of(path):
    return dict(summary_lines(summary_of(path)))


def built(path, **options):
    path.write_bytes(build_checkpoint(**options))
    return path


# Whole files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_genuine_files(path):
    summary = summary_of(path)
    bytes_ = summary.bytes
    assert sum(bytes_.values()) == summary.size == path.stat().st_size
    if not (FIXTURES / path.name.replace(".v0", "").replace(".v1", "").replace(".ggcp", ".resume.json")).exists():
        return
    expected = {key: entry["value"] for key, entry in expected_resume(path)["kv"].items()}
    kind = expected["optimizer.type"]
    assert (summary.train_its, summary.train_samples, summary.train_tokens) == tuple(
        expected[f"training.{unit}_count"] for unit in ("iteration", "sample", "token")
    )
    assert (summary.hparams["n_embd"], summary.n_ff) == (
        expected["llama.embedding_length"],
        expected["llama.feed_forward_length"],
    )
    optimizer = summary.optimizer
    assert (optimizer.type, optimizer.iter) == (kind, expected["optimizer.iteration_count"])
    assert (optimizer.past, optimizer.n_params) == (
        expected["optimizer.convergence_past_count"],
        expected["optimizer.parameter_count"],
    )
    assert summary.n_params == optimizer.n_params
    assert summary.losses.best == expected[f"optimizer.{kind}.best_loss"]


@pytest.mark.parametrize("path", ORDERS, ids=lambda path: path.name)
def test_order_and_scale_are_those_of_the_flags_that_the_file_was_made_with(path):
    known = json.loads((FIXTURES / "orders" / "orders.json").read_text())[path.name]
    summary = summary_of(path)
    assert summary.order.order == (known["order"] if known.get("decidable", True) else None)
    if known.get("gradient") and summary.order.order:
        assert summary.scale.summed == (known["gradient"] == "sum")


@pytest.mark.parametrize("fixture", ["v1-adam.ggcp", "twin-lbfgs.v0.ggcp", "v1-adam-past5.ggcp"])
def test_a_converted_file_says_the_same(fixture, tmp_path):
    out = tmp_path / "resume.gguf"
    convert(FIXTURES / fixture, out)
    old, new = summary_of(FIXTURES / fixture), summary_of(out)
    assert new.kind == "gguf-resume"
    assert new.rms_eps == pytest.approx(old.rms_eps, rel=1e-6)  # stored as float32
    same = ("train_its", "train_samples", "train_tokens", "context", "n_ff", "n_params")
    assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]
    assert [new.hparams[name] for name in ("n_vocab", "n_embd", "n_head", "n_layer", "n_rot")] == [
        old.hparams[name] for name in ("n_vocab", "n_embd", "n_head", "n_layer", "n_rot")
    ]
    assert (new.losses.best, new.losses.past) == (old.losses.best, old.losses.past)
    assert new.bytes["model"] == old.bytes["model"]
    assert sum(new.bytes.values()) == new.size
    assert new.order.order == "C"


def test_v0_waste_is_the_five_tensors_that_no_reader_needs():
    summary = summary_of(FIXTURES / "v0-adam.ggcp")
    padding = summary.bytes["waste"] - 5 * 4 * summary.n_params
    assert 0 <= padding < 32 * 20


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_models_of_2023(kind, tmp_path):
    summary = summary_of(sample(kind, tmp_path))
    assert (summary.kind, summary.format) == ("ggml-model", kind.rstrip("123"))
    assert (summary.n_tokens, summary.n_params, summary.n_ff) == (5, 6 + 24 + 192, 3)
    assert summary.tensor_types == {"F32": 1, "F16": 1, "Q4_0": 1}
    assert sum(summary.bytes.values()) == summary.size


def test_vocabularies():
    for path in (FIXTURES / "vocab.ggjt", FIXTURES / "vocab.gguf"):
        summary = summary_of(path)
        assert summary.kind.endswith("-vocabulary")
        assert summary.n_tokens == 320
        assert "vocabulary" in dict(summary_lines(summary))["what"]


def test_the_context_of_the_training_is_computed_from_its_counts(tmp_path):
    assert summary_of(FIXTURES / "alice.ggcp").context.tokens == 64
    assert summary_of(built(tmp_path / "x.ggcp", train=(1, 3, 100))).context.tokens is None
    assert summary_of(built(tmp_path / "x.ggcp", train=(1, 0, 0))).context.tokens is None


@pytest.mark.parametrize("samples", [1000, 100_000])
def test_that_a_context_changed_is_not_said_where_the_count_may_have_wrapped(samples, tmp_path):
    """A context of 2**17 - 1 tokens or less needs 2**15 samples for 2**32 tokens."""
    text = summary_of(built(tmp_path / "x.ggcp", train=(1, samples, samples * 50 + 1))).context.text
    assert "changed during the training" in text
    assert ("or the count of tokens wrapped at 2**32" in text) is (samples >= 1 << 15)


@given(checkpoints())
def test_any_checkpoint_is_summarized(tmp_path_factory, checkpoint):
    path = tmp_path_factory.getbasetemp() / "any.ggcp"
    path.write_bytes(checkpoint.data)
    summary = summary_of(path)
    assert summary.layout == checkpoint.layout
    assert sum(summary.bytes.values()) == len(checkpoint.data)
    assert all(text == text.strip() and "\n" not in text for _, text in summary_lines(summary))


# GGUF ------------------------------------------------------------------------------------------------------


def gguf_with(path, keys, tensors=()):
    """A GGUF file with these keys, as (adder of GGUFWriter, key, value)."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, key, value in keys:
        getattr(writer, add)(key, value)
    for name, shape in tensors:
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ODD = {
    "training.iteration_count": ("add_string", "many"),
    "training.sample_count": ("add_float32", 1.5),
    "training.token_count": ("add_array", [1, 2]),
    "training.file_version": ("add_bool", True),
    "optimizer.type": ("add_uint32", 1),
    "optimizer.iteration_count": ("add_string", ""),
    "optimizer.adam.best_loss": ("add_uint32", 5),
    "llama.attention.layer_norm_rms_epsilon": ("add_string", "tiny"),
    "llama.rope.dimension_count": ("add_array", [8]),
    "llama.rope.freq_base": ("add_uint32", 10000),
    "llama.embedding_length": ("add_float32", 16.0),
    "tokenizer.ggml.tokens": ("add_uint32", 3),
}


@pytest.mark.parametrize("missing", [None, *ODD])
def test_training_keys_of_odd_types_or_missing_ones(missing, tmp_path):
    keys = [(add, key, value) for key, (add, value) in ODD.items() if key != missing]
    keys += [("add_string", "training.type", "train_model")]
    summary = summary_of(gguf_with(tmp_path / "odd.gguf", keys, [("token_embd.weight", (4, 2))]))
    assert summary.kind == "gguf-resume"
    assert summary.train_its is None
    assert summary.next == (f"ggcp-schema browse {tmp_path / 'odd.gguf'}",)
    assert summary_lines(summary)


def test_a_checkpoint_of_finetune_is_no_model(tmp_path):
    keys = [
        ("add_string", "training.type", "finetune_lora"),
        ("add_string", "optimizer.type", "adam"),
        ("add_uint32", "training.iteration_count", 7),
        ("add_uint32", "llama.embedding_length", 16),
    ]
    path = gguf_with(tmp_path / "lora.gguf", keys, [("optimizer.adam.first_moments", (4,))])
    summary = summary_of(path)
    assert (summary.kind, summary.train_its) == ("gguf-finetune", 7)
    assert "LoRA" in dict(summary_lines(summary))["what"]
    assert not any("export" in command or "convert" in command for command in summary.next)


def test_a_checkpoint_that_contains_its_vocabulary_is_a_checkpoint(tmp_path):
    convert(ADAM, tmp_path / "resume.gguf")
    reader = gguf.GGUFReader(tmp_path / "resume.gguf")
    writer = gguf.GGUFWriter(tmp_path / "trainer.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(key, field.contents(), field.types[0])
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(320)])
    writer.add_uint32("llama.context_length", 48)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    summary = summary_of(tmp_path / "trainer.gguf")
    assert (summary.kind, summary.n_tokens) == ("gguf-resume", 320)
    exports = [command for command in summary.next if "export" in command]
    assert len(exports) == 1  # and no folder: the tokenizer is not stated
    assert not any("--vocab" in export or "--context-length" in export for export in exports)


def test_a_float64_is_a_float64(tmp_path):
    keys = [
        ("add_float64", "llama.attention.layer_norm_rms_epsilon", 1.25e-6),
        ("add_uint32", "llama.context_length", 8),
    ]
    summary = summary_of(gguf_with(tmp_path / "model.gguf", keys, [("norm", (2,))]))
    assert summary.kind == "gguf-model"
    assert summary.rms_eps == 1.25e-6
    assert dict(summary_lines(summary))["RMS epsilon"] == "1.25e-6, stored in the file"


# Damaged files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(ONE_OF_EACH, FEW), ids=lambda path: path.name)
def test_the_size_of_the_whole_file_is_computed_from_a_part_of_it(path, tmp_path):
    data, cut = path.read_bytes(), tmp_path / "cut.ggcp"
    with open_file(path) as file:
        state = file.find("optimizer.just_initialized").end
        model_end = file.find("optimizer").offset
        n_ff_known = file.find("layers[0].w1.data").offset
    for size in (state, (state + len(data)) // 2, len(data) - 20, len(data) - 1):
        cut.write_bytes(data[:size])
        condition = summary_of(cut).condition
        assert len(data) in condition.whole_sizes.values()
        assert condition.model_is_whole
    for size in (n_ff_known, model_end - 1):
        cut.write_bytes(data[:size])
        condition = summary_of(cut).condition
        assert condition.least_size == model_end
        assert not condition.model_is_whole
        assert not condition.whole_sizes


def test_what_is_whole_of_a_file_that_is_cut_in_v(tmp_path):
    data, path = ADAM.read_bytes(), tmp_path / "cut.ggcp"
    with open_file(ADAM) as file:
        v = file.tensors["optimizer.state.v"]
    path.write_bytes(data[: v.offset + 1000])
    lines = dict(summary_lines(summary_of(path)))
    assert lines["damage"].startswith("model whole; optimizer cut in v (optimizer.state.v.data at offset ")
    assert lines["whole"] == "the model, 21 tensors with 16,976 parameters; of the optimizer's state m"
    assert lines["cut"] == f"optimizer.state.v lacks 66,904 of its {67904:,} bytes (66.3 KiB)"
    missing = len(data) - v.offset - 1000
    assert lines["lost"].startswith(f"{missing:,} (")
    assert f"of the {len(data):,} bytes" in lines["lost"]


def test_the_type_of_a_truncated_v1_file_is_open_if_it_could_be_either(tmp_path):
    data, path = (FIXTURES / "v1-lbfgs.ggcp").read_bytes(), tmp_path / "cut.ggcp"
    with open_file(FIXTURES / "v1-lbfgs.ggcp") as file:
        path.write_bytes(data[: file.tensors["optimizer.state.xp"].offset])
    condition = summary_of(path).condition
    assert set(condition.whole_sizes) == {"adam", "lbfgs"}
    assert condition.whole_sizes["lbfgs"] == len(data)
    assert " if the optimizer is L-BFGS" in dict(summary_lines(summary_of(path)))["lost"]


def test_bytes_after_the_end(tmp_path):
    path = tmp_path / "long.ggcp"
    path.write_bytes(ADAM.read_bytes() + b"xyz")
    summary = summary_of(path)
    assert summary.condition is None
    assert dict(summary_lines(summary))["note"] == "trailing: 3 more bytes after the end of the file"
    assert any(" convert " in command for command in summary.next)


def test_a_wrong_value_in_the_optimizer(tmp_path):
    data, path = bytearray(ADAM.read_bytes()), tmp_path / "wrong.ggcp"
    with open_file(ADAM) as file:
        struct.pack_into("<I", data, file.find("optimizer.version").offset, 77)
    path.write_bytes(data)
    assert summary_of(path).condition.verdict == "model whole; optimizer damaged in version"


def test_a_truncated_gguf_file(tmp_path):
    convert(ADAM, tmp_path / "whole.gguf")
    data = (tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (len(data) - 1, len(data) - 70_000, len(data) // 3, 800, 300):
        cut.write_bytes(data[:size])
        summary = summary_of(cut)
        assert summary.damage is not None
        assert list(summary.condition.whole_sizes.values()) in ([len(data)], [])
        assert summary.condition.model_is_whole == (size > len(data) // 2)
    assert summary_of(tmp_path / "whole.gguf").condition is None


@pytest.mark.parametrize("fixture", ["v1-adam.ggcp", "v0-adam.ggcp", "vocab.ggjt", "vocab.gguf"])
def test_every_short_part_of_a_file(fixture, tmp_path):
    path = tmp_path / "short"
    path.write_bytes((FIXTURES / fixture).read_bytes())
    for size in (2000, 400, *range(118, 3, -3)):
        os.truncate(path, size)
        summary = summary_of(path)
        assert summary.damage is not None
        assert to_json(summary)["condition"]["optimizer_tensors"] == []
        assert summary_lines(summary)[0] == ("file", str(path))


@pytest.mark.parametrize(
    ("pattern", "missing"),
    [
        ("norm", []),
        ("layers[0].w1", []),
        ("layers[0]", ["layers[0].w3"]),
        ("layers[0].w?", ["layers[0].w3"]),
        ("optimizer.state.m", ["optimizer.state.m"]),
        ("optimizer.state.m[norm]", ["optimizer.state.m"]),
        ("blk.0", ["layers[0].w3"]),
    ],
)
def test_what_is_missing_of_a_damaged_file(pattern, missing):
    with open_file(FIXTURES / "truncated-v0-lbfgs.ggcp", partial=True) as file:
        assert missing_tensors(file, pattern) == missing


# Commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "options"),
    [({"iter": -1}, {}), ({"n_no_improvement": -5}, {}), ({}, {"n_layer": 0, "n_mult": 0, "n_ff": 0})],
)
def test_a_command_that_would_refuse_is_not_recommended(state, options, tmp_path):
    path = built(tmp_path / "x.ggcp", state=state, **options)
    summary = summary_of(path)
    assert not any(" convert " in command for command in summary.next)
    assert any(finding.path == "convert" for finding in summary.findings)
    with pytest.raises(Exception, match=re.escape(str(path)) + "|out of range"):
        convert(path, tmp_path / "out.gguf")


@pytest.mark.parametrize("options", [{"n_head": 3}, {"n_head": 0}, {"n_rot": 3}, {"n_layer": 0}, {"n_rot": 100}])
def test_a_model_that_llama_cpp_cannot_run_is_not_exported(options, tmp_path):
    assert not any(" export " in command for command in summary_of(built(tmp_path / "x.ggcp", **options)).next)


def test_no_command_states_what_is_the_default():
    """A stated epsilon would count as known, and the evidence would be gone."""
    for path in GENUINE:
        assert not re.search("--rms-eps|--context-length", " ".join(summary_of(path).next))


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "truth/jan24-D.gguf", "lora/base.ggjt", "lora/base.gguf"])
def test_the_command_for_pytorch_runs(name, tmp_path):
    (command,) = (text for text in summary_of(FIXTURES / name).next if " --to hf " in text)
    words = {"VOCABULARY": str(FIXTURES / "vocab.gguf"), "N": "16"}
    run_cli(*(words.get(word, word) for word in shlex.split(command)[1:]), "--dry-run", cwd=tmp_path, check=True)


def test_a_model_is_run_by_llama_cpp_itself(tmp_path):
    export_model(ADAM, tmp_path / "model.gguf", vocab=FIXTURES / "vocab.gguf")
    assert summary_of(tmp_path / "model.gguf").next[0].startswith("llama-completion -m ")


@pytest.mark.parametrize(
    "name",
    [
        "plain.ggcp",
        "-dash.ggcp",
        "two words",
        "it's $HOME; `x`",
        "\x1b[31mred\n",
        "caf\udce9\x07'\\",
        "日本",
        "a,b",
        "=x",
        "@x",
    ],
)
def test_a_word_for_the_shell_is_the_path(name):
    word = shell_word(name)
    assert word.isprintable()
    assert word[0] == "'" or not {*name} & {*",=@"}  # which mean more in PowerShell or zsh
    echoed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout
    assert echoed == (b"./" if name.startswith("-") else b"") + name.encode("utf-8", "surrogateescape")
    if "'" not in word:
        assert shlex.split(word) == [name if name != "-dash.ggcp" else "./-dash.ggcp"]


def test_losses_that_are_not_numbers(tmp_path):
    path = built(tmp_path / "nan.ggcp", state={"fx_best": math.nan, "fx_prev": -math.inf})
    assert to_json(summary_of(path))["loss"]["best"] == "NaN"
    assert "loss" in lines_of(path)


def test_as_many_past_losses_as_a_trainer_may_have_kept(tmp_path):
    for past, shown in ((1000, 1000), (1001, 0)):
        path = tmp_path / "past.ggcp"
        path.write_bytes(build_checkpoint(past=past, state={"iter": 2000}))
        assert len(to_json(summary_of(path))["loss"].get("past", ())) == shown


def test_how_much_of_a_cut_file_is_lost(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes((FIXTURES / "alice.ggcp").read_bytes()[:2_000_000])
    assert lines_of(path)["lost"] == "1,104,012 (35.6 %) of the 3,104,012 bytes (3.0 MiB) of the whole file"


def test_what_only_states_an_optimizer_is_of_a_training(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_string("optimizer.type", "adam")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert summary_of(tmp_path / "x.gguf").kind == "gguf-resume"


def test_no_folder_is_offered_that_would_be_refused(tmp_path):
    """A sentencepiece model has a token for each byte, or for none."""
    genuine, path = FIXTURES / "truth" / "jan24-D.gguf", tmp_path / "odd.gguf"
    data, types = genuine.read_bytes(), struct.pack("<256i", *[6] * 256)
    assert data.count(types) == 1
    path.write_bytes(data.replace(types, struct.pack("<256i", 1, *[6] * 255)))
    for file, is_offered in ((genuine, True), (path, False)):
        assert any(" --to hf " in command for command in summary_of(file).next) is is_offered
        result = run_cli("export", "--to", "hf", file, tmp_path / "out", "--dry-run")
        assert (result.returncode == 0) is is_offered
