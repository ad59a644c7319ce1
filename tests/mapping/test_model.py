"""The model that `export` writes: as the trainer's own exporter wrote it, and only what llama.cpp can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from ggcp_schema import FileError, MalformedError, UsageError, convert, export_model, open_checkpoint, open_file
from ggcp_schema.mapping.export import ModelOptions, plan_model
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, TRUNCATED, expected_model, thinned
from tests.mapping import independent_order
from tests.mapping.gguf_files import data, read_gguf, tensor_name, value, write_as_trainer
from tests.vocabularies import ggml_file

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


def built(path: Path, **options: Any) -> Path:
    path.write_bytes(build_checkpoint(**({"n_vocab": 5, "n_embd": 8, "n_head": 2, "n_rot": 4} | options)))
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A vocabulary of five tokens."""
    path = tmp_path / "five.ggjt"
    path.write_bytes(ggml_file("ggjt", 3, [b"", b"", b"", b"a", b" b"]))
    return path


def vocabulary_of(path: Path) -> Path:
    return FIXTURES / ("alice-vocab.gguf" if "alice" in path.name else "vocab.gguf")


# What it holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.name)
def test_twins_become_what_the_trainer_itself_exported(path: Path, out: Path) -> None:
    export_model(path, out, vocab=VOCAB, context_length=16, verify=True)
    found, expected = read_gguf(out), expected_model(path)
    assert found["tensors"] == expected["tensors"]
    no_such_token = {key for key, entry in expected["kv"].items() if entry["value"] == 4294967295}
    assert len(no_such_token) == 2
    ours = {key: found["kv"].pop(key) for key in OUR_OWN_KEYS}
    assert found["kv"] == {key: entry for key, entry in expected["kv"].items() if key not in no_such_token}
    assert {key: entry["type"] for key, entry in ours.items()} == OUR_OWN_KEYS
    assert ours["general.name"]["value"] == path.name.removesuffix(".ggcp")
    assert ours["llama.attention.head_count_kv"]["value"] == expected["kv"]["llama.attention.head_count"]["value"]
    assert ours["llama.vocab_size"]["value"] == 320


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_the_gguf_checkpoint_exports_to_the_same_file(path: Path, tmp_path: Path, out: Path) -> None:
    resume, again = tmp_path / "resume.gguf", tmp_path / "again.gguf"
    convert(path, resume)
    export_model(path, out, vocab=vocabulary_of(path), context_length=16, name="one")
    export_model(resume, again, vocab=vocabulary_of(path), context_length=16, name="one")
    assert again.read_bytes() == out.read_bytes()


def test_the_epsilon_is_what_is_stated_or_stored_or_of_the_era(tmp_path: Path, out: Path) -> None:
    path, resume = FIXTURES / "v1-adam.ggcp", tmp_path / "resume.gguf"
    convert(path, resume, rms_eps=3e-6)
    for source, stated, expected in (
        (path, None, 1e-6),
        (resume, None, 3e-6),
        (resume, 1e-5, 1e-5),
        (path, 2e-6, 2e-6),
    ):
        written = export_model(source, out, vocab=VOCAB, context_length=16, rms_eps=stated, force=True)
        stored = value(out, "llama.attention.layer_norm_rms_epsilon")
        assert np.float32(stored) == np.float32(expected)
        assert np.float32(written.plan.fact("epsilon").value) == np.float32(expected)
        assert written.plan.fact("epsilon").reason


@pytest.mark.parametrize("by", ["ggcp", "resume"])
def test_a_partial_rotation_is_stated_by_the_base(tmp_path: Path, five: Path, out: Path, by: str) -> None:
    source = built(tmp_path / "in", n_embd=32, n_rot=8)
    if by == "resume":
        convert(source, tmp_path / "resume.gguf")
        source = tmp_path / "resume.gguf"
    export_model(source, out, vocab=five, context_length=16, verify=True)
    assert value(out, "llama.rope.dimension_count") == 16
    assert value(out, "llama.rope.freq_base") == 10000.0**2
    names = [tensor.name for tensor in GGUFReader(out).tensors]
    assert "rope_freqs.weight" not in names


@pytest.mark.parametrize(("name", "expected"), [(None, "in"), ("Ünï", "Ünï"), ("", None)])
def test_name(name: str | None, expected: str | None, tmp_path: Path, five: Path, out: Path) -> None:
    export_model(built(tmp_path / "in.ggcp"), out, vocab=five, context_length=16, name=name)
    assert read_gguf(out)["kv"].get("general.name", {"value": None})["value"] == expected


@pytest.mark.parametrize("n_embd", [8, 512])
def test_size_label_counts_the_model_alone(n_embd: int, tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", n_embd=n_embd, n_rot=n_embd // 2, data=lambda count: np.zeros(count, "<f4"))
    export_model(source, out, vocab=five, context_length=16)
    n_params = sum(int(np.prod(tensor.shape)) for tensor in GGUFReader(out).tensors)
    label = read_gguf(out)["kv"]["general.size_label"]["value"]
    scale = {"K": 1e3, "M": 1e6}[label[-1]]
    assert abs(float(label[:-1]) * scale - n_params) <= 0.05 * scale


# What cannot be --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"n_head": 0}, "n_embd 8 is not divisible by n_head 0"),
        ({"n_head": 3}, "n_embd 8 is not divisible by n_head 3"),
        ({"n_rot": 6}, "n_rot is 6"),
        ({"n_rot": 3}, r"n_rot \(3\)"),
        ({"n_head": 8, "n_rot": 0}, r"head size \(1\)"),
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


@pytest.mark.parametrize(
    "missing",
    [
        "token_embd.weight",
        "output.weight",
        "blk.1.ffn_down.weight",
        "llama.block_count",
        "llama.attention.head_count",
        "llama.embedding_length",
    ],
)
def test_a_gguf_without_a_tensor_or_key(missing: str, tmp_path: Path, out: Path) -> None:
    part = write_as_trainer(tmp_path / "part.gguf", FIXTURES / "v1-adam.ggcp", without={missing})
    with pytest.raises(UsageError, match=missing):
        export_model(part, out, vocab=VOCAB, context_length=16)
    assert not out.exists()


def test_a_gguf_with_a_tensor_of_another_shape(tmp_path: Path, out: Path) -> None:
    odd = write_as_trainer(
        tmp_path / "odd.gguf", FIXTURES / "v1-adam.ggcp", changes={"llama.feed_forward_length": ("UINT32", 32)}
    )
    with pytest.raises(UsageError, match=r"blk.0.ffn_gate.weight: expected F32 \[16, 32\], found F32 \[16, 48\]"):
        export_model(odd, out, vocab=VOCAB, context_length=16)


@pytest.mark.parametrize("which", ["input", "vocabulary", "existing"])
def test_output_replaces_no_input_and_nothing_unasked(which: str, tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in")
    out.write_text("mine")
    target = {"input": source, "vocabulary": five, "existing": out}[which]
    before = target.read_bytes()
    with pytest.raises(FileError):
        export_model(source, target, vocab=five, context_length=16, force=which != "existing")
    assert target.read_bytes() == before


# Damage ----------------------------------------------------------------------------------------------------


def test_the_model_of_a_file_whose_optimizer_is_cut(tmp_path: Path, out: Path) -> None:
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.ggcp"
    source = FIXTURES / "v1-adam.ggcp"
    with open_checkpoint(source) as ckpt:
        optimizer, v = ckpt.find("optimizer"), ckpt.find("optimizer.state.v.data")
    export_model(source, whole, vocab=VOCAB, context_length=16, name="x", rms_eps=1e-6)
    content = source.read_bytes()
    for size in (optimizer.offset + 4, v.offset + 8, len(content) - 1):
        cut.write_bytes(content[:size])
        with pytest.raises(MalformedError) as caught:
            export_model(cut, out, vocab=VOCAB, context_length=16, force=True)
        assert "partial=True" in caught.value.hint
        written = export_model(
            cut, out, vocab=VOCAB, context_length=16, name="x", rms_eps=1e-6, partial=True, force=True
        )
        assert out.read_bytes() == whole.read_bytes()
        assert "lost" in written.plan.fact("damaged").text
    cut.write_bytes(content + b"more")
    export_model(cut, out, vocab=VOCAB, context_length=16, name="x", rms_eps=1e-6, partial=True, force=True)
    assert out.read_bytes() == whole.read_bytes()


def test_a_model_that_is_not_whole_is_never_exported(tmp_path: Path, out: Path) -> None:
    with pytest.raises(MalformedError, match=r"layers\[0\].w3"):
        export_model(TRUNCATED, out, vocab=VOCAB, context_length=16, partial=True)
    assert not out.exists()


def test_weights_that_are_not_finite_are_counted(tmp_path: Path, five: Path, out: Path) -> None:
    source = built(tmp_path / "in", data=lambda count: np.full(count, np.nan if count == 64 else 1, "<f4"))
    written = export_model(source, out, vocab=five, context_length=16)
    assert written.not_finite == {f"blk.0.attn_{name}.weight": 64 for name in ("q", "k", "v", "output")}


# GGUF checkpoints of the trainers --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("big_endian", [False, True])
def test_a_checkpoint_that_a_trainer_saved_is_exported_with_its_own_vocabulary(
    tmp_path: Path, out: Path, version: int, big_endian: bool
) -> None:
    source = FIXTURES / "v1-adam.ggcp"
    saved = write_as_trainer(tmp_path / "saved.gguf", source, version=version, big_endian=big_endian)
    written = export_model(saved, out)
    assert written.plan.fact("vocabulary").value["tokens"] == 320
    assert value(out, "llama.context_length") == 16
    weights = {tensor_name(path): tensor.data for path, tensor in independent_order.read(source).model.items()}
    found = data(out)
    assert found.keys() == weights.keys()
    for name, expected in weights.items():
        np.testing.assert_array_equal(found[name].view("<u4"), expected.view("<u4"))


SAVED = [("aug-B-3", 0), ("aug-B-3", 1), ("jul-A-3", 0), ("aug-lbfgs-B-1", 0), ("aug-lbfgs-B-1", 1)]
CASES = [(*saved, big_endian) for saved in SAVED for big_endian in (False, True)]


@pytest.mark.parametrize(("name", "version", "big_endian"), thinned(CASES, CASES[::3]))
def test_the_vectors_of_a_checkpoint_that_a_trainer_saved_come_in_order_c(
    tmp_path: Path, out: Path, name: str, version: int, big_endian: bool
) -> None:
    source, order = FIXTURES / "orders" / f"{name}.ggcp", name.rsplit("-", 2)[-2]
    saved = write_as_trainer(
        tmp_path / "saved.gguf", source, version=version, order=(order, order), big_endian=big_endian
    )
    expected = write_as_trainer(tmp_path / "expected.gguf", source, version=version, order=(order, "C"))
    convert(saved, out, verify=True)
    found, wanted = data(out), data(expected)
    assert list(found) == list(wanted)
    for tensor, values in wanted.items():
        np.testing.assert_array_equal(found[tensor].view("<u4"), values.view("<u4"), err_msg=tensor)
    kept, original = read_gguf(out)["kv"], read_gguf(expected)["kv"]
    assert {key: entry for key, entry in kept.items() if key in original} == original
    assert set(kept) - set(original) == {"ggcp.parameter_order"}


def test_vectors_in_order_a_of_a_later_trainer_are_not_reordered(tmp_path: Path, out: Path) -> None:
    """Rows of zeros do not tell order A from order D, which trainers wrote from November 2023 on."""
    source = FIXTURES / "orders/jul-A-3.ggcp"
    saved = write_as_trainer(tmp_path / "saved.gguf", source, version=1, order=("A", "A"))
    convert(saved, out, verify=True)
    assert (
        data(out)["optimizer.adam.second_moments"].tobytes() == data(saved)["optimizer.adam.second_moments"].tobytes()
    )
    convert(saved, out, order="A", force=True)
    assert read_gguf(out)["kv"]["ggcp.parameter_order"]["value"] == "A"


def test_a_finetune_checkpoint_is_refused_with_the_reason(tmp_path: Path, out: Path) -> None:
    lora = write_as_trainer(
        tmp_path / "lora.gguf", FIXTURES / "v1-adam.ggcp", changes={"training.type": ("STRING", "finetune_lora")}
    )
    for run in (lambda: export_model(lora, out), lambda: convert(lora, out)):
        with pytest.raises(UsageError, match="finetune_lora"):
            run()
    assert not out.exists()


def test_a_vocabulary_is_no_model(out: Path) -> None:
    for path in (VOCAB, FIXTURES / "vocab.ggjt"):
        with pytest.raises(UsageError, match=r"vocabulary|not a checkpoint"):
            export_model(path, out, vocab=VOCAB, context_length=16)


@pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.stem)
def test_a_plan_says_everything_before_anything_is_written(path: Path, out: Path) -> None:
    with open_file(path) as file:
        plan = plan_model(file, ModelOptions(vocabulary_of(path), 16))
        assert plan.nbytes == sum(tensor.nbytes for tensor in plan.tensors)
        assert plan.target == "gguf"
    assert not out.exists()
