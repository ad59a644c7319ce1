"""Comparison of a GGUF file with the checkpoint it was made from: what is right passes, and nothing else."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggcp_schema import convert, export_model, open_checkpoint
from ggcp_schema.errors import MalformedError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.tensor_entries import TensorEntry, Zeros
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.llama.names import tensor_name
from ggcp_schema.mapping.convert import plan_resume
from ggcp_schema.mapping.verify import Verification, verify
from tests.builder import build_checkpoint
from tests.gguf_writer import add_keys, written_by_gguf
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, expected_model, expected_resume, thinned
from tests.writing import Entry, entries_of, write_gguf

CHECKPOINT = FIXTURES / "v1-adam-past5.ggcp"
EXPECTED = [path for path in GENUINE if (FIXTURES / f"{path.name.split('.')[0]}.resume.json").exists()]
ROTATION = {"general.architecture", "llama.rope.dimension_count", "llama.rope.freq_base"}
EPSILON = "llama.attention.layer_norm_rms_epsilon"
NOT_COMPARED = {*ROTATION, EPSILON}  # a writer knows no other architecture, and a rotation is compared by what it means
Edit = Callable[[list[Entry]], list[Entry]]


def verification_of(checkpoint: Path, path: Path) -> Verification:
    with open_checkpoint(checkpoint) as ckpt, open_gguf(path) as file:
        return verify(ckpt, file)


def resume_entries(checkpoint: Path = CHECKPOINT) -> list[Entry]:
    with open_checkpoint(checkpoint) as ckpt:
        return entries_of(plan_resume(ckpt))


def edited(path: Path, edit: Edit, checkpoint: Path = CHECKPOINT) -> Verification:
    """Return the result for a resume file that was written with other entries than it should have."""
    with open_checkpoint(checkpoint) as ckpt:
        write_gguf(path, edit(entries_of(plan_resume(ckpt))), force=True, sync=False)
    return verification_of(checkpoint, path)


def names(result: Verification) -> list[tuple[str, str]]:
    return [(difference.kind, difference.name) for difference in result.differences]


@pytest.mark.parametrize("verbatim", [False, True])
@pytest.mark.parametrize("path", ONE_OF_EACH, ids=lambda path: path.stem)
def test_what_convert_wrote_holds_the_checkpoint(tmp_path: Path, path: Path, verbatim: bool) -> None:
    output = tmp_path / "x.gguf"
    convert(path, output, verbatim=verbatim, sync=False)
    result = verification_of(path, output)
    assert (result.kind, result.same, result.differences) == ("resume", True, ()), list(map(str, result.differences))
    tensors = gguf.GGUFReader(output).tensors
    assert result.compared.tensors == len(tensors)
    assert result.compared.bytes == sum(int(tensor.n_bytes) for tensor in tensors)


@pytest.mark.parametrize("name", ["orders/jun-A-3", "orders/jun-B-3", "v0-adam", "rotmax8-v0", "orders/aug-lbfgs-B-1"])
def test_a_wrong_value_of_a_changed_vector_is_found(tmp_path: Path, name: str) -> None:
    """The vectors were reordered, or divided, or both; a value that is off by one bit is a difference."""
    checkpoint, output = FIXTURES / f"{name}.ggcp", tmp_path / "x.gguf"
    convert(checkpoint, output, sync=False)
    whole = output.read_bytes()
    for tensor in gguf.GGUFReader(output).tensors:
        if tensor.name.startswith("optimizer."):
            data = bytearray(whole)
            data[int(tensor.data_offset) + int(tensor.n_bytes) // 2] ^= 1
            output.write_bytes(data)
            (difference,) = verification_of(checkpoint, output).differences
            assert (difference.kind, difference.name) == ("data", tensor.name)


def test_vectors_in_another_order_than_the_file_says_are_found(tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    checkpoint.write_bytes(build_checkpoint(n_layer=2))  # of random numbers, which tell no order
    convert(checkpoint, output, order="B", n_batch=4, sync=False)
    assert verification_of(checkpoint, output).same  # the file says that B was taken for the order
    data = output.read_bytes()
    key = b"ggcp.parameter_order"
    at = data.index(key) + len(key) + 4 + 8
    assert data[at : at + 1] == b"B"
    output.write_bytes(data[:at] + b"A" + data[at + 1 :])
    assert {difference.kind for difference in verification_of(checkpoint, output).differences} == {"data"}


@pytest.mark.parametrize("path", [*GENUINE[:4]], ids=lambda path: path.stem)
def test_what_export_wrote_holds_the_model(tmp_path: Path, path: Path) -> None:
    output = tmp_path / "x.gguf"
    vocabulary = FIXTURES / ("alice-vocab.gguf" if "alice" in path.stem else "vocab.gguf")
    export_model(path, output, vocab=vocabulary, context_length=16, sync=False)
    result = verification_of(path, output)
    assert (result.kind, result.same) == ("model", True), list(map(str, result.differences))
    assert result.compared.tensors == len(gguf.GGUFReader(output).tensors)
    assert "tokenizer.ggml.tokens" in result.extra_keys


@pytest.mark.parametrize("path", thinned(EXPECTED, ONE_OF_EACH[:6]), ids=lambda path: path.stem)
def test_what_the_trainer_wrote_holds_the_checkpoint(tmp_path: Path, path: Path) -> None:
    """The keys that the C++ program wrote, in its order and no others, with tensors by an independent writer."""
    output = write_as_the_trainer(tmp_path / "x.gguf", path, expected_resume(path))
    result = verification_of(path, output)
    assert result.same, list(map(str, result.differences))


@pytest.mark.parametrize("path", [p for p in GENUINE if p.stem.startswith("twin")], ids=lambda path: path.stem)
def test_the_trainers_own_export_holds_the_model(tmp_path: Path, path: Path) -> None:
    expected = expected_model(path)
    n_vocab = expected["kv"]["tokenizer.ggml.tokens"]["value"]["len"]
    for key, item in (("scores", 0.0), ("token_type", 1), ("tokens", "x")):
        expected["kv"][f"tokenizer.ggml.{key}"]["value"] = [item] * n_vocab
    result = verification_of(path, write_as_the_trainer(tmp_path / "x.gguf", path, expected))
    assert (result.kind, list(map(str, result.differences))) == ("model", [])


def write_as_the_trainer(output: Path, checkpoint: Path, expected: dict[str, Any]) -> Path:
    keys = {key: entry for key, entry in expected["kv"].items() if key != "general.architecture"}
    with open_checkpoint(checkpoint) as ckpt, written_by_gguf(output) as writer:
        add_keys(writer, ((key, entry["type"], entry["value"]) for key, entry in keys.items()))
        data = {str(tensor_name(path, ckpt.optimizer.type)): tensor for path, tensor in ckpt.tensors.items()}
        for tensor in expected["tensors"]:
            writer.add_tensor(tensor["name"], data[tensor["name"]].array())
    return output


@pytest.mark.parametrize("layout", ["v0", "v1"])
def test_both_files_of_one_training_are_the_same_gguf(tmp_path: Path, layout: str) -> None:
    convert(FIXTURES / "twin-adam.v1.ggcp", tmp_path / "x.gguf", sync=False)
    assert verification_of(FIXTURES / f"twin-adam.{layout}.ggcp", tmp_path / "x.gguf").same


def test_one_flipped_bit_in_any_tensor_is_found(tmp_path: Path) -> None:
    """In the first, the last and a middle byte of each tensor, one at a time."""
    path = tmp_path / "x.gguf"
    assert edited(path, lambda entries: entries).same
    whole = path.read_bytes()
    tensors = gguf.GGUFReader(path).tensors
    for tensor in tensors:
        size = int(tensor.n_bytes)
        for at in {0, size // 2, size - 1}:
            data = bytearray(whole)
            data[int(tensor.data_offset) + at] ^= 0x40
            path.write_bytes(data)
            (difference,) = verification_of(CHECKPOINT, path).differences
            assert (difference.kind, difference.name) == ("data", tensor.name)
            assert difference.message == f"data: 1 of {size // 4:,} elements differs; it is element {at // 4}"
    assert len(tensors) == len(expected_resume(CHECKPOINT)["tensors"])


def test_the_place_and_number_of_differences_in_a_large_tensor(tmp_path: Path) -> None:
    checkpoint, path = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    checkpoint.write_bytes(build_checkpoint(n_vocab=60_000))
    assert edited(path, lambda entries: entries, checkpoint).same
    output = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "output.weight")
    data = np.memmap(path, mode="r+", dtype="<u4", offset=int(output.data_offset), shape=(240_000,))
    data[[140_000, 140_001, 239_999]] ^= 1
    data.flush()
    (difference,) = verification_of(checkpoint, path).differences
    assert str(difference) == "tensor output.weight data: 3 of 240,000 elements differ; the first is element 140000"


def change(entry: KeyValue) -> Any:
    if isinstance(entry.value, bool):
        return not entry.value
    return f"{entry.value}x" if isinstance(entry.value, str) else entry.value + 1


def compared_keys() -> Iterator[str]:
    for entry in resume_entries():
        if isinstance(entry, KeyValue) and entry.key not in NOT_COMPARED and not entry.key.startswith("ggcp."):
            yield entry.key


def test_each_key_of_another_value_or_type_or_missing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    optional = {"llama.attention.head_count_kv", "llama.vocab_size"}
    for key in compared_keys():

        def each(edit: Callable[[KeyValue], list[Entry]], key: str = key) -> Edit:
            return lambda entries: [
                new
                for entry in entries
                for new in (edit(entry) if isinstance(entry, KeyValue) and entry.key == key else [entry])
            ]

        result = edited(path, each(lambda entry: [replace(entry, value=change(entry))]))
        assert names(result) == [("key", key)]
        assert " is " in str(result.differences[0])
        result = edited(path, each(lambda entry: [KeyValue(entry.key, "ARRAY/INT32", [1])]))
        assert names(result) == [("key", key)]
        assert "has type ARRAY/INT32, expected" in str(result.differences[0])
        result = edited(path, each(lambda entry: []))
        assert names(result) == ([] if key in optional else [("key", key)])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (KeyValue(EPSILON, "FLOAT32", 5e-6), None),
        (KeyValue(EPSILON, "FLOAT32", 0.0), "is 0.0, expected a positive number"),
        (KeyValue(EPSILON, "FLOAT32", float("nan")), "is nan, expected a positive number"),
        (KeyValue(EPSILON, "FLOAT64", 1e-5), "has type FLOAT64, expected FLOAT32"),
        (None, "is missing"),
    ],
)
def test_any_positive_rms_epsilon_will_do(tmp_path: Path, entry: KeyValue | None, message: str | None) -> None:
    def edit(entries: list[Entry]) -> list[Entry]:
        rest = [e for e in entries if getattr(e, "key", "") != EPSILON]
        return [*rest, *([entry] if entry else [])]

    result = edited(tmp_path / "x.gguf", edit)
    assert [difference.message for difference in result.differences] == ([message] if message else [])
    assert (result.rms_eps == pytest.approx(5e-6)) if message is None else result.rms_eps is None


def test_keys_more_do_no_harm_and_are_told(tmp_path: Path) -> None:
    more: list[Entry] = [KeyValue("general.name", "STRING", "x"), KeyValue("llama.context_length", "UINT32", 16)]
    result = edited(tmp_path / "x.gguf", lambda entries: [*entries, *more])
    assert result.same
    assert result.extra_keys == ("general.name", "llama.context_length")


def test_tensors_more_or_missing_or_renamed_or_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    extra = TensorEntry("blk.0.attn_q.bias", (3,), Zeros())
    assert names(edited(path, lambda entries: [*entries, extra])) == [("tensor", "blk.0.attn_q.bias")]
    result = edited(path, lambda entries: entries[:-1])
    assert names(result) == [("tensor", "optimizer.adam.past_loss_values")]

    def without_norm(entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if getattr(entry, "name", "") != "output_norm.weight"]

    result = edited(path, without_norm)
    assert names(result) == [("tensor", "output_norm.weight"), ("file", "")]
    assert str(result.differences[1]) == "the file has 22320 parameters, expected 22344"

    def flat(entries: list[Entry]) -> list[Entry]:
        return [
            entry._replace(shape=(576,))
            if isinstance(entry, TensorEntry) and entry.name == "blk.0.attn_k.weight"
            else entry
            for entry in entries
        ]

    result = edited(path, flat)
    assert list(map(str, result.differences)) == ["tensor blk.0.attn_k.weight is F32 [576], expected F32 [24, 24]"]


def test_a_tensor_of_another_type_is_a_difference_and_the_others_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    edited(path, lambda entries: entries)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_k.weight")
    data = bytearray(path.read_bytes())
    struct.pack_into(
        "<I", data, int(tensor.field.offset) + 8 + len(tensor.name) + 4 + 16, int(gguf.GGMLQuantizationType.I32)
    )
    path.write_bytes(data)
    result = verification_of(CHECKPOINT, path)
    assert list(map(str, result.differences)) == ["tensor blk.0.attn_k.weight is I32 [24, 24], expected F32 [24, 24]"]
    assert result.compared.tensors == len(expected_resume(CHECKPOINT)["tensors"]) - 1


def test_a_vocabulary_of_another_size_is_a_difference(tmp_path: Path) -> None:
    tokens: list[Entry] = [KeyValue("tokenizer.ggml.tokens", "ARRAY/STRING", ["a"] * 319)]
    result = edited(tmp_path / "x.gguf", lambda entries: [*entries, *tokens])
    assert list(map(str, result.differences)) == ["tokenizer.ggml.tokens has 319 tokens, expected 320"]


@pytest.mark.parametrize(
    ("count", "base", "factors"),
    [
        (8, 1e8, None),  # as `export` and `convert` state it
        (4, 1e4, None),  # as the trainers did
        (4, None, None),
        (8, 1e8, [1.0, 1.0, 1.0, 1.0]),  # and changed by factors of each pair
    ],
)
def test_every_way_to_state_a_partial_rotation_is_understood(
    tmp_path: Path, count: int, base: float | None, factors: list[float] | None
) -> None:
    checkpoint, path = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    checkpoint.write_bytes(build_checkpoint(n_vocab=320, n_embd=16, n_head=2, n_rot=4))
    keys = [entry for entry in resume_entries(checkpoint) if isinstance(entry, KeyValue) and entry.key not in ROTATION]
    with open_checkpoint(checkpoint) as ckpt, written_by_gguf(path) as writer:
        add_keys(writer, ((entry.key, entry.type, entry.value) for entry in keys))
        writer.add_uint32("llama.rope.dimension_count", count)
        if base is not None:
            writer.add_float32("llama.rope.freq_base", base)
        for name, tensor in ckpt.tensors.items():
            if not tensor.is_null:
                writer.add_tensor(str(tensor_name(name, "adam")), tensor.array())
        if factors:
            writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))
    changed = "tensor rope_freqs.weight changes the rotation, which no trainer of 2023 did"
    assert list(map(str, verification_of(checkpoint, path).differences)) == ([changed] if factors else [])
    checkpoint.write_bytes(build_checkpoint(n_vocab=320, n_embd=16, n_head=2, n_rot=6))
    assert not verification_of(checkpoint, path).same


def test_a_gguf_file_cut_anywhere_is_malformed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "x.gguf", tmp_path / "cut.gguf"
    edited(whole, lambda entries: entries)
    data = whole.read_bytes()
    last = gguf.GGUFReader(whole).tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    head = int(gguf.GGUFReader(whole).data_offset)
    cut.write_bytes(data[:end])
    assert verification_of(CHECKPOINT, cut).same
    for size in sorted((*range(4, head, 13), *range(head, end, 20_011), end - 1), reverse=True):
        os.truncate(cut, size)
        with pytest.raises(MalformedError):
            open_gguf(cut)
