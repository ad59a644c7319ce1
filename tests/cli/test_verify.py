"""`verify`: what it prints, its exit codes, and the files that it accepts."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, TRUNCATED, assert_no_traceback, run_cli, run_process
from tests.mapping import gguf_files

ADAM = FIXTURES / "v1-adam.ggcp"  # its vectors are in order A
SUMMED = FIXTURES / "orders" / "jun-B-3.ggcp"  # and these in order B, of summed gradients
IN_ORDER = FIXTURES / "v1-adam-past5.ggcp"
VOCAB = FIXTURES / "vocab.gguf"
JSON_KEYS = {
    *(
        "checkpoint",
        "gguf",
        "kind",
        "same",
        "optimizer",
        "compared",
        "rms_eps",
        "tokens",
        "extra_keys",
        "differences",
        "folder",
    ),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.gguf"


def converted(checkpoint: Path, out: Path, *options: str) -> Path:
    run_cli("convert", checkpoint, out, "--force", *options, check=True)
    return out


def described(code: int, *args: Any) -> dict[str, Any]:
    result = run_cli("verify", *args, "--json")
    assert (result.returncode, result.stderr) == (code, "")
    content: dict[str, Any] = json.loads(result.stdout)
    assert set(content) == JSON_KEYS
    assert content["same"] == (code == 0) == (not content["differences"])
    return content


def flip(path: Path, tensor: str) -> int:
    """Change one bit of the data of a tensor; return the index of the element."""
    (found,) = (found for found in gguf.GGUFReader(path).tensors if found.name == tensor)
    element = int(found.n_elements) // 3
    data = bytearray(path.read_bytes())
    data[int(found.data_offset) + 4 * element + 2] ^= 1
    path.write_bytes(data)
    return element


# The same --------------------------------------------------------------------------------------------------


def test_the_same_in_words(out: Path) -> None:
    result = run_cli("verify", IN_ORDER, converted(IN_ORDER, out), check=True)
    tensors = gguf.GGUFReader(out).tensors
    nbytes = sum(int(tensor.n_bytes) for tensor in tensors)
    assert result.stderr == ""
    first, optimizer, epsilon, verdict = result.stdout.splitlines()
    assert first.startswith(f"{out} is a checkpoint to resume from: ")
    assert f" keys, {len(tensors)} tensors, {nbytes:,} bytes of data compared; 22,344 parameters" in first
    assert optimizer == "optimizer: the optimizer's vectors as in the checkpoint"
    assert epsilon.endswith("e-6 (not compared)")
    assert verdict == f"same: {IN_ORDER} and {out}"


@pytest.mark.parametrize(
    ("checkpoint", "options", "optimizer"),
    [
        (ADAM, (), "the optimizer's vectors from order A in order C"),
        (ADAM, ("--verbatim",), "the optimizer's vectors as in the checkpoint"),
        (ADAM, ("--fresh-optimizer",), "an optimizer that has not started yet"),
        (SUMMED, (), "the optimizer's vectors from order B in order C, m divided by 128, v by its square"),
        (
            SUMMED,
            ("--batch", "8"),
            "the optimizer's vectors from order B in order C, m divided by 256, v by its square",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_way_to_convert(checkpoint: Path, options: tuple[str, ...], optimizer: str, out: Path) -> None:
    """Each is compared through the same change; a bit that is off in the changed vectors is found all the same."""
    content = described(0, checkpoint, converted(checkpoint, out, *options))
    assert (content["kind"], content["optimizer"]) == ("resume", optimizer)
    assert content["compared"]["tensors"] == len(gguf.GGUFReader(out).tensors)
    element = flip(out, "optimizer.adam.second_moments")
    (difference,) = described(1, checkpoint, out)["differences"]
    assert (difference["kind"], difference["name"]) == ("data", "optimizer.adam.second_moments")
    assert difference["message"].endswith(f"it is element {element}")


def test_a_model(out: Path) -> None:
    run_cli("export", ADAM, out, "--vocab", VOCAB, "--ctx", "16", check=True)
    lines = run_cli("verify", ADAM, out, check=True).stdout.splitlines()
    assert lines[0].startswith(f"{out} is a model: ")
    assert not [line for line in lines if line.startswith("optimizer: ")]
    (more,) = [line for line in lines if line.startswith("keys that the checkpoint does not have: ")]
    assert "llama.context_length" in more
    assert "tokenizer.ggml.tokens" in more
    assert lines[-1] == f"same: {ADAM} and {out}"
    content = described(0, ADAM, out)
    assert (content["kind"], content["optimizer"]) == ("model", None)
    assert content["compared"]["parameters"] == 16_976
    assert described(0, ADAM, out, "--vocab", VOCAB)["tokens"] == "compared"
    (found,) = described(1, ADAM, out, "--vocab", FIXTURES / "vocab.ggjt")["differences"]
    assert found["name"] == "tokenizer.ggml.token_type"


@pytest.mark.parametrize("command", [("convert",), ("export", "--vocab", VOCAB, "--ctx", "16")], ids=lambda it: it[0])
def test_what_was_made_of_a_damaged_file(command: tuple[str, ...], out: Path, tmp_path: Path) -> None:
    """With --partial, as it was written."""
    cut = tmp_path / "cut.ggcp"
    cut.write_bytes(ADAM.read_bytes()[:-100])
    run_cli(*command, cut, out, "--partial", check=True)
    assert "Use --partial to compare it." in run_cli("verify", cut, out).stderr
    described(0, cut, out, "--partial")


def by_hand(checkpoint: Path, out: Path, order: tuple[str, str], **options: Any) -> Path:
    """Write the GGUF checkpoint of another program, which has no `ggcp.*` keys and a vocabulary of its own."""
    best, previous, count = struct.unpack("<2fi", checkpoint.read_bytes()[-12:])
    losses = {
        "optimizer.adam.best_loss": ("FLOAT32", best),
        "optimizer.adam.previous_loss": ("FLOAT32", previous),
        "optimizer.adam.no_improvement_count": ("UINT32", count),
    }
    return gguf_files.write_as_trainer(out, checkpoint, order=order, changes=losses, **options)


def test_a_file_by_another_program(out: Path) -> None:
    content = described(0, ADAM, by_hand(ADAM, out, ("A", "A")))
    assert content["optimizer"] == "the optimizer's vectors as in the checkpoint"
    assert "tokenizer.ggml.tokens" in content["extra_keys"]
    content = described(0, ADAM, by_hand(ADAM, out, ("A", "C")))
    assert content["optimizer"] == "the optimizer's vectors from order A in order C"
    found = described(1, ADAM, by_hand(ADAM, out, ("A", "B")))["differences"]
    assert {(item["kind"], item["name"]) for item in found} == {
        ("data", "optimizer.adam.first_moments"),
        ("data", "optimizer.adam.second_moments"),
    }


# Different -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", ["token_embd.weight", "blk.1.ffn_down.weight", "optimizer.adam.first_moments"])
def test_one_bit_of_the_data(tensor: str, out: Path) -> None:
    element = flip(converted(ADAM, out), tensor)
    result = run_cli("verify", ADAM, out)
    assert (result.returncode, result.stderr) == (1, "")
    count = next(int(found.n_elements) for found in gguf.GGUFReader(out).tensors if found.name == tensor)
    assert result.stdout.splitlines()[-2:] == [
        f"difference: tensor {tensor} data: 1 of {count:,} elements differs; it is element {element}",
        f"1 difference between {ADAM} and {out}",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("training.iteration_count", 13, "is 13, expected 12"),
        ("llama.attention.head_count", 4, "is 4, expected 2"),
        ("optimizer.adam.best_loss", 1.5, "is 1.5, expected 5.769939422607422"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "is 0.0, expected a positive number"),
        ("llama.rope.dimension_count", 6, "is 6 with llama.rope.freq_base 10000, which is not the rotation of n_rot 8"),
    ],
)
def test_a_key(key: str, value: float, message: str, out: Path) -> None:
    data = bytearray(converted(ADAM, out).read_bytes())
    at = data.index(key.encode()) + len(key)
    (kind,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<f" if kind == gguf.GGUFValueType.FLOAT32 else "<I", data, at + 4, value)
    out.write_bytes(data)
    (difference,) = described(1, ADAM, out)["differences"]
    assert difference == {"kind": "key", "name": key, "message": message}


def test_a_key_that_is_missing(out: Path) -> None:
    path = by_hand(ADAM, out, ("A", "C"), without={"training.token_count"})
    assert "difference: training.token_count is missing\n" in run_cli("verify", ADAM, path).stdout


def test_another_epsilon_is_no_difference(out: Path) -> None:
    assert described(0, ADAM, converted(ADAM, out, "--rms-eps", "3e-6"))["rms_eps"] == pytest.approx(3e-6)


def test_the_checkpoint_of_another_training(out: Path) -> None:
    other = FIXTURES / "v0-adam.ggcp"
    result = run_cli("verify", other, converted(ADAM, out))
    assert (result.returncode, result.stderr) == (1, "")
    differences = [line for line in result.stdout.splitlines() if line.startswith("difference: ")]
    for line in (
        "llama.block_count is 2, expected 1",
        "tensor blk.1.attn_q.weight is not in the checkpoint",
        "tensor optimizer.adam.first_moments is F32 [16976], expected F32 [13616]",
        "the file has 16976 parameters, expected 13616",
        "tensor output.weight data: 5,120 of 5,120 elements differ; the first is element 0",
    ):
        assert f"difference: {line}" in differences
    assert result.stdout.splitlines()[-1] == f"{len(differences)} differences between {other} and {out}"
    assert len(described(1, other, out)["differences"]) == len(differences)


def test_control_characters_are_escaped(tmp_path: Path, out: Path) -> None:
    evil = "\x1b]0;evil\x07"
    checkpoint = tmp_path / f"{evil}.ggcp"
    checkpoint.write_bytes(ADAM.read_bytes())
    by_hand(checkpoint, out, ("A", "C"), without={"training.token_count"})
    data = out.read_bytes().replace(b"output_norm.weight", evil.encode().ljust(18, b"x"))
    out.write_bytes(data.replace(b"llama.context_length", evil.encode().ljust(20, b"x")))
    result = run_cli("verify", checkpoint, out)
    assert_no_traceback(result)
    assert result.returncode == 1
    assert not {"\x1b", "\x07"} & set(result.stdout)
    assert r"difference: tensor \x1b]0;evil\x07xx" in result.stdout
    assert r"have: \x1b]0;evil\x07xx" in result.stdout


# Neither ---------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_compared(tmp_path: Path, out: Path) -> None:
    converted(ADAM, out)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(out.read_bytes()[:-100])
    for checkpoint, path, code, message in (
        (TRUNCATED, out, 4, "layers[0].w3.padding"),
        (ADAM, cut, 4, "too short"),
        (ADAM, ADAM, 2, "found a ggcp checkpoint and a ggcp checkpoint"),
        (out, ADAM, 2, "The checkpoint comes first."),
        (ADAM, tmp_path / "none", 2, "No such file"),
        (tmp_path, out, 2, "is a directory"),
    ):
        for option in ((), ("--json",)):
            result = run_cli("verify", checkpoint, path, *option)
            assert_no_traceback(result)
            assert (result.returncode, result.stdout) == (code, ""), result.stderr
            assert result.stderr.startswith("ggcp-schema: ")
            assert message in result.stderr


def test_a_model_that_no_file_can_be_made_from(tmp_path: Path, out: Path) -> None:
    checkpoint = tmp_path / "in.ggcp"
    checkpoint.write_bytes(build_checkpoint(n_vocab=320))
    run_cli("export", checkpoint, out, "--vocab", VOCAB, "--ctx", "16", check=True)
    checkpoint.write_bytes(build_checkpoint(n_vocab=320, n_head=3))
    result = run_cli("verify", checkpoint, out)
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (2, "")
    assert "n_head 3" in result.stderr


def test_a_verdict_that_nobody_reads_keeps_its_exit_code(out: Path) -> None:
    flip(converted(ADAM, out), "output.weight")
    with open("/dev/full", "w") as full:
        assert run_process("verify", ADAM, out, stdout=full, stderr=-3).returncode == 2
    assert run_process("verify", ADAM, out, stdout=-3, stderr=-3).returncode == 1
