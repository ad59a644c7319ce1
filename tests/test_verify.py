"""`verify`: the proof that a GGUF file holds what a checkpoint does, and nothing else passes for it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggcp_schema import open_checkpoint
from ggcp_schema.errors import MalformedError
from ggcp_schema.gguf.entries import Entry, KeyValue, RawTensor, TensorEntry
from ggcp_schema.gguf.model import export_entries, model_of
from ggcp_schema.gguf.reader import open_gguf
from ggcp_schema.gguf.resume import resume_entries
from ggcp_schema.gguf.verify import Proof, verify
from ggcp_schema.gguf.vocabulary import read_vocabulary
from ggcp_schema.gguf.writer import write_gguf
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_model, expected_resume, run_cli

CHECKPOINT = FIXTURES / "v1-adam-past5.ggcp"
VOCABULARY = FIXTURES / "vocab.gguf"
Edit = Callable[[list[Entry]], list[Entry]]


def proof_of(checkpoint: Path, path: Path) -> Proof:
    with open_checkpoint(checkpoint) as ckpt, open_gguf(path) as file:
        return verify(ckpt, file)


def edited(path: Path, edit: Edit, checkpoint: Path = CHECKPOINT) -> Proof:
    """The proof of a resume file that was written with other entries than it should have."""
    with open_checkpoint(checkpoint) as ckpt:
        write_gguf(path, edit(resume_entries(ckpt)), overwrite=True)
    return proof_of(checkpoint, path)


def names(proof: Proof) -> list[tuple[str, str]]:
    return [(difference.kind, difference.name) for difference in proof.differences]


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
def test_what_convert_wrote_holds_the_checkpoint(tmp_path: Path, path: Path) -> None:
    output = tmp_path / "x.gguf"
    run_cli("convert", path, output, check=True)
    result = json.loads(run_cli("verify", path, output, "--json", check=True).stdout)
    expected = expected_resume(path)
    tensors = expected["tensors"]
    assert (result["kind"], result["same"], result["differences"], result["extra_keys"]) == ("resume", True, [], [])
    assert result["compared"] == {
        "keys": len(expected["kv"]) + 1,  # head_count_kv and vocab_size more; the RMS epsilon is not compared
        "tensors": len(tensors),
        "bytes": sum(4 * int(np.prod(tensor["shape"])) for tensor in tensors),
        "parameters": sum(int(np.prod(t["shape"])) for t in tensors if not t["name"].startswith("optimizer.")),
    }


@pytest.mark.parametrize("path", [p for p in GENUINE if p.stem.startswith("twin")], ids=lambda path: path.stem)
def test_what_export_wrote_holds_the_model(tmp_path: Path, path: Path) -> None:
    output = tmp_path / "x.gguf"
    run_cli("export", path, output, "--vocab", VOCABULARY, "--context-length", "16", check=True)
    result = json.loads(run_cli("verify", path, output, "--json", check=True).stdout)
    assert (result["kind"], result["same"]) == ("model", True)
    assert result["compared"]["tensors"] == len(expected_model(path)["tensors"])
    assert "tokenizer.ggml.tokens" in result["extra_keys"]


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
def test_what_the_trainer_wrote_holds_the_checkpoint(tmp_path: Path, path: Path) -> None:
    """The keys that the C++ program wrote, in its order and no others, with tensors by an independent writer."""
    output = write_as_the_trainer(tmp_path / "x.gguf", path, expected_resume(path))
    proof = proof_of(path, output)
    assert proof.same, list(map(str, proof.differences))
    assert proof.keys == len(expected_resume(path)["kv"]) - 1


@pytest.mark.parametrize("path", [p for p in GENUINE if p.stem.startswith("twin")], ids=lambda path: path.stem)
def test_the_trainers_own_export_holds_the_model(tmp_path: Path, path: Path) -> None:
    expected = expected_model(path)
    n_vocab = expected["kv"]["tokenizer.ggml.tokens"]["value"]["len"]
    for key, item in (("scores", 0.0), ("token_type", 1), ("tokens", "x")):
        expected["kv"][f"tokenizer.ggml.{key}"]["value"] = [item] * n_vocab
    proof = proof_of(path, write_as_the_trainer(tmp_path / "x.gguf", path, expected))
    assert (proof.kind, list(map(str, proof.differences))) == ("model", [])


def write_as_the_trainer(output: Path, checkpoint: Path, expected: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(output, "llama")
    for key, entry in expected["kv"].items():
        if key != "general.architecture":
            kind, _, item = entry["type"].partition("/")
            sub_type = gguf.GGUFValueType[item] if item else None
            writer.add_key_value(key, entry["value"], gguf.GGUFValueType[kind], sub_type=sub_type)
    with open_checkpoint(checkpoint) as ckpt:
        data = {entry.name: entry.source for entry in resume_entries(ckpt) if isinstance(entry, TensorEntry)}
        for tensor in expected["tensors"]:
            writer.add_tensor(tensor["name"], data[tensor["name"]].array())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return output


@pytest.mark.parametrize("layout", ["v0", "v1"])
def test_both_files_of_one_training_are_the_same_gguf(tmp_path: Path, layout: str) -> None:
    run_cli("convert", FIXTURES / "twin-adam.v1.ggcp", tmp_path / "x.gguf", check=True)
    assert proof_of(FIXTURES / f"twin-adam.{layout}.ggcp", tmp_path / "x.gguf").same


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
            (difference,) = proof_of(CHECKPOINT, path).differences
            assert (difference.kind, difference.name) == ("data", tensor.name)
            assert difference.message == f"differs from element {at // 4} on, in 1 of {size // 4}"
    assert len(tensors) == len(expected_resume(CHECKPOINT)["tensors"])


def test_the_place_and_number_of_differences_in_a_large_tensor(tmp_path: Path) -> None:
    checkpoint, path = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    checkpoint.write_bytes(build_checkpoint(n_vocab=300_000))
    assert edited(path, lambda entries: entries, checkpoint).same
    output = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "output.weight")
    data = np.memmap(path, mode="r+", dtype="<u4", offset=int(output.data_offset), shape=(1_200_000,))
    data[[700_000, 700_001, 1_199_999]] ^= 1
    data.flush()
    (difference,) = proof_of(checkpoint, path).differences
    assert str(difference) == "tensor output.weight differs from element 700000 on, in 3 of 1200000"


def change(entry: KeyValue) -> Any:
    if isinstance(entry.value, bool):
        return not entry.value
    return f"{entry.value}x" if isinstance(entry.value, str) else entry.value + 1


def compared_keys() -> Iterator[str]:
    with open_checkpoint(CHECKPOINT) as ckpt:
        for entry in resume_entries(ckpt):
            if isinstance(entry, KeyValue) and entry.key not in (
                "general.architecture",  # a writer knows no other
                "llama.attention.layer_norm_rms_epsilon",
            ):
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

        proof = edited(path, each(lambda entry: [replace(entry, value=change(entry))]))
        assert names(proof) == [("key", key)]
        assert " is " in str(proof.differences[0])
        proof = edited(path, each(lambda entry: [KeyValue(entry.key, "ARRAY/INT32", [1])]))
        assert names(proof) == [("key", key)]
        assert "has type ARRAY/INT32, not" in str(proof.differences[0])
        proof = edited(path, each(lambda entry: []))
        assert names(proof) == ([] if key in optional else [("key", key)])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (KeyValue("llama.attention.layer_norm_rms_epsilon", "FLOAT32", 5e-6), None),
        (KeyValue("llama.attention.layer_norm_rms_epsilon", "FLOAT32", 0.0), "is 0.0, not a positive number"),
        (KeyValue("llama.attention.layer_norm_rms_epsilon", "FLOAT32", float("nan")), "is nan, not a positive number"),
        (KeyValue("llama.attention.layer_norm_rms_epsilon", "FLOAT64", 1e-5), "has type FLOAT64, not FLOAT32"),
        (None, "is missing"),
    ],
)
def test_any_positive_rms_epsilon_will_do(tmp_path: Path, entry: KeyValue | None, message: str | None) -> None:
    def edit(entries: list[Entry]) -> list[Entry]:
        rest = [e for e in entries if getattr(e, "key", "") != "llama.attention.layer_norm_rms_epsilon"]
        return [*rest, *([entry] if entry else [])]

    proof = edited(tmp_path / "x.gguf", edit)
    assert [difference.message for difference in proof.differences] == ([message] if message else [])
    assert (proof.rms_eps == pytest.approx(5e-6)) if message is None else proof.rms_eps is None


def test_keys_more_do_no_harm_and_are_told(tmp_path: Path) -> None:
    more: list[Entry] = [KeyValue("general.name", "STRING", "x"), KeyValue("llama.context_length", "UINT32", 16)]
    proof = edited(tmp_path / "x.gguf", lambda entries: [*entries, *more])
    assert proof.same
    assert proof.extra_keys == ("general.name", "llama.context_length")


def test_tensors_more_or_missing_or_renamed_or_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    extra = TensorEntry("blk.0.attn_q.bias", RawTensor((3,), bytes(12)))
    assert names(edited(path, lambda entries: [*entries, extra])) == [("tensor", "blk.0.attn_q.bias")]
    proof = edited(path, lambda entries: entries[:-1])
    assert names(proof) == [("tensor", "optimizer.adam.past_loss_values")]

    def without_norm(entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if getattr(entry, "name", "") != "output_norm.weight"]

    proof = edited(path, without_norm)
    assert names(proof) == [("tensor", "output_norm.weight"), ("file", "")]
    assert str(proof.differences[1]) == "the file has 22320 parameters, not 22344"

    def flat(entries: list[Entry]) -> list[Entry]:
        return [
            TensorEntry(entry.name, replace(entry.source, shape=(576,)))  # type: ignore[type-var]
            if isinstance(entry, TensorEntry) and entry.name == "blk.0.attn_k.weight"
            else entry
            for entry in entries
        ]

    proof = edited(path, flat)
    assert list(map(str, proof.differences)) == ["tensor blk.0.attn_k.weight is F32 [576], not F32 [24, 24]"]


def test_a_tensor_of_another_type_is_a_difference_and_the_others_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    edited(path, lambda entries: entries)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_k.weight")
    data = bytearray(path.read_bytes())
    struct.pack_into(
        "<I", data, int(tensor.field.offset) + 8 + len(tensor.name) + 4 + 16, int(gguf.GGMLQuantizationType.I32)
    )
    path.write_bytes(data)
    proof = proof_of(CHECKPOINT, path)
    assert list(map(str, proof.differences)) == ["tensor blk.0.attn_k.weight is I32 [24, 24], not F32 [24, 24]"]
    assert proof.tensors == len(expected_resume(CHECKPOINT)["tensors"]) - 1


def test_bytes_behind_the_last_tensor_are_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    edited(path, lambda entries: entries)
    path.write_bytes(path.read_bytes() + b"more")
    assert list(map(str, proof_of(CHECKPOINT, path).differences)) == [
        "the file has 4 more bytes behind its last tensor"
    ]


def test_a_vocabulary_of_another_size_is_a_difference(tmp_path: Path) -> None:
    tokens: list[Entry] = [KeyValue("tokenizer.ggml.tokens", "ARRAY/STRING", ["a"] * 319)]
    proof = edited(tmp_path / "x.gguf", lambda entries: [*entries, *tokens])
    assert list(map(str, proof.differences)) == ["tokenizer.ggml.tokens is 319 ARRAY/STRING, not 320 ARRAY/STRING"]


@pytest.mark.parametrize("by", ["export", "trainer"])
def test_a_model_of_which_a_part_of_each_head_is_rotated(tmp_path: Path, by: str) -> None:
    checkpoint, path = tmp_path / "x.ggcp", tmp_path / "x.gguf"
    checkpoint.write_bytes(build_checkpoint(n_vocab=320, n_embd=16, n_head=2, n_rot=4))
    with open_checkpoint(checkpoint) as ckpt:
        entries = export_entries(model_of(ckpt), read_vocabulary(VOCABULARY).keys, context_length=8)
        if by == "trainer":
            entries = [
                KeyValue(entry.key, entry.type, 4) if getattr(entry, "key", "").endswith("dimension_count") else entry
                for entry in entries
                if getattr(entry, "name", "") != "rope_freqs.weight"
            ]
        write_gguf(path, entries)
    proof = proof_of(checkpoint, path)
    assert proof.same, list(map(str, proof.differences))
    assert proof.tensors == 12 + (by == "export")
    checkpoint.write_bytes(build_checkpoint(n_vocab=320, n_embd=16, n_head=2, n_rot=6))
    wrong = ("data", "rope_freqs.weight") if by == "export" else ("key", "llama.rope.dimension_count")
    assert names(proof_of(checkpoint, path)) == [wrong]


def test_the_command_tells_all_differences(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    run_cli("convert", FIXTURES / "v1-adam.ggcp", path, check=True)
    result = run_cli("verify", FIXTURES / "v0-adam.ggcp", path)
    assert_no_traceback(result)
    assert result.returncode == 1
    first, epsilon, *rest, verdict = result.stdout.splitlines()
    assert "is a checkpoint to resume from: 23 keys," in first
    assert epsilon == "RMS epsilon: 1e-05, which no checkpoint states"
    assert all(line.startswith("difference: ") for line in rest)
    assert "difference: llama.block_count is 2, not 1" in rest
    assert "difference: tensor blk.1.attn_q.weight is not in the checkpoint" in rest
    assert verdict.startswith(f"different in {len(rest)} points: ")
    as_json = run_cli("verify", FIXTURES / "v0-adam.ggcp", path, "--json")
    assert as_json.returncode == 1
    assert len(json.loads(as_json.stdout)["differences"]) == len(rest)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    evil = "\x1b]0;evil\x07"
    more: list[Entry] = [KeyValue(f"x.{evil}", "UINT32", 1), TensorEntry(evil, RawTensor((1,), bytes(4)))]
    proof = edited(path, lambda entries: [*entries, *more])
    assert names(proof) == [("tensor", evil)]
    result = run_cli("verify", CHECKPOINT, path)
    assert result.returncode == 1
    assert "\x1b" not in result.stdout
    assert r"tensor \x1b]0;evil\x07 is not in the checkpoint" in result.stdout
    assert r"x.\x1b]0;evil\x07" in result.stdout


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path, cut = tmp_path / "x.gguf", tmp_path / "cut.gguf"
    run_cli("convert", CHECKPOINT, path, check=True)
    cut.write_bytes(path.read_bytes()[:-100])
    cases = [(TRUNCATED, path, 4), (CHECKPOINT, cut, 4), (CHECKPOINT, CHECKPOINT, 4), (path, CHECKPOINT, 4)]
    cases += [(CHECKPOINT, tmp_path / "none", 2), (tmp_path, path, 2)]
    for first, second, code in cases:
        result = run_cli("verify", first, second)
        assert_no_traceback(result)
        assert (result.returncode, result.stdout) == (code, ""), result.stderr
        assert result.stderr.startswith("ggcp-schema: ")


def test_a_gguf_file_cut_anywhere_is_malformed(tmp_path: Path) -> None:
    """Anywhere before the last tensor ends: the padding behind it holds nothing."""
    whole, cut = tmp_path / "x.gguf", tmp_path / "cut.gguf"
    edited(whole, lambda entries: entries)
    data = whole.read_bytes()
    last = gguf.GGUFReader(whole).tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    head = int(gguf.GGUFReader(whole).data_offset)
    for size in (*range(4, head, 13), *range(head, end, 20_011), end - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(MalformedError):
            open_gguf(cut)
    cut.write_bytes(data[:end])
    assert proof_of(CHECKPOINT, cut).same


@pytest.mark.parametrize("count", [1 << 25, 1 << 40, (1 << 64) - 1])
def test_a_false_array_length_is_damage_and_no_endless_loop(count, tmp_path):
    path = tmp_path / "model.gguf"
    vocabulary = ("--vocab", FIXTURES / "vocab.gguf", "--context-length", "16")
    run_cli("export", FIXTURES / "v1-adam.ggcp", path, *vocabulary, check=True)
    data = bytearray(path.read_bytes())
    key = b"tokenizer.ggml.scores"
    struct.pack_into("<Q", data, data.index(key) + len(key) + 8, count)
    path.write_bytes(data)
    result = run_cli("info", path, timeout=20)
    assert result.returncode == 4
    assert "is not a whole GGUF file" in result.stderr
