"""Every genuine checkpoint becomes exactly the GGUF that the programs of 2023 made of it, read by gguf itself."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType

from ggcp_schema import FileError, MalformedError, UnfitError, UsageError, convert, open_checkpoint
from ggcp_schema import source as source_module
from ggcp_schema.gguf import writer
from ggcp_schema.gguf.entries import KeyValue, key_values
from ggcp_schema.gguf.resume import resume_entries
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, expected_resume
from tests.strategies import KINDS

genuine = pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
OUR_OWN_KEYS = ["llama.attention.head_count_kv", "llama.vocab_size"]
DROPPED = ("x", "g1", "g2", "mh", "vh")


def read_gguf(path: Path) -> dict[str, Any]:
    """A GGUF file in the words of the fixtures' `.resume.json`."""
    reader = GGUFReader(path)
    keys = {
        name: {"type": field.types[0].name, "value": field.contents()}
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
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


def convert_bytes(data: bytes, folder: Path, **options: Any) -> dict[str, Any]:
    (folder / "in.ggcp").write_bytes(data)
    convert(folder / "in.ggcp", folder / "out.gguf", **options)
    return read_gguf(folder / "out.gguf")


# The genuine files -----------------------------------------------------------------------------------------


@genuine
def test_a_genuine_file_becomes_exactly_what_it_must(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf", verify=True)
    found, expected = read_gguf(tmp_path / "out.gguf"), expected_resume(path)
    assert list(found["kv"])[-2:] == OUR_OWN_KEYS
    for key in OUR_OWN_KEYS:
        assert found["kv"].pop(key)["type"] == "UINT32"
    assert found["kv"] == expected["kv"]
    assert found["tensors"] == expected["tensors"]
    if "twin" not in path.name:  # the twins' expectations are by the C++ program, whose keys have another order
        assert list(found["kv"]) == list(expected["kv"])


@genuine
def test_the_keys_of_our_own_are_right(path: Path, tmp_path: Path) -> None:
    convert(path, tmp_path / "out.gguf")
    found = read_gguf(tmp_path / "out.gguf")["kv"]
    assert found["llama.attention.head_count_kv"] == found["llama.attention.head_count"]
    assert found["llama.vocab_size"]["value"] == 320


@genuine
def test_the_file_ends_with_its_last_tensor(path: Path, tmp_path: Path) -> None:
    written = convert(path, tmp_path / "out.gguf")
    last = GGUFReader(tmp_path / "out.gguf").tensors[-1]
    end = last.data_offset + last.n_bytes
    assert written.size == (tmp_path / "out.gguf").stat().st_size == end + -end % 32


@pytest.mark.parametrize("twin", ["twin-adam", "twin-lbfgs", "twin-ff48"])
def test_both_layouts_of_one_training_give_the_same_file(twin: str, tmp_path: Path) -> None:
    for layout in ("v0", "v1"):
        convert(FIXTURES / f"{twin}.{layout}.ggcp", tmp_path / layout)
    assert (tmp_path / "v0").read_bytes() == (tmp_path / "v1").read_bytes()


def test_converting_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("once", "again"):
        convert(FIXTURES / "v1-adam.ggcp", tmp_path / name)
    assert (tmp_path / "once").read_bytes() == (tmp_path / "again").read_bytes()


# Any checkpoint --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "optimizer"), KINDS)
@pytest.mark.parametrize("past", [0, 3])
def test_every_layout_gives_the_bytes_it_holds(layout: str, optimizer: str, past: int, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer, past=past, n_layer=2)
    convert_bytes(data, tmp_path, verify=True)
    reader = GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    past_losses = f"optimizer.{optimizer}.past_loss_values"
    assert (past_losses in tensors) == (past > 0)
    with open_checkpoint(tmp_path / "in.ggcp") as ckpt:
        assert len(tensors) == 3 + 2 * 9 + (2 if optimizer == "adam" else 9) + (past > 0)
        assert np.array_equal(tensors["blk.1.ffn_down.weight"].data, ckpt.layers[1].w2.array())
        first = {"adam": ("first_moments", "m"), "lbfgs": ("current_parameters", "x")}[optimizer]
        name = f"optimizer.{optimizer}.{first[0]}"
        assert np.array_equal(tensors[name].data, ckpt[f"optimizer.state.{first[1]}"].array())


def test_a_model_without_layers(tmp_path: Path) -> None:
    found = convert_bytes(build_checkpoint(n_layer=0, n_embd=16, n_mult=32), tmp_path, verify=True)
    assert [tensor["name"] for tensor in found["tensors"]][:3] == [
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
    ]
    assert found["kv"]["llama.feed_forward_length"]["value"] == 64


def test_names_in_the_checkpoint_do_not_matter(tmp_path: Path) -> None:
    usual = convert_bytes(build_checkpoint(), tmp_path)
    odd = convert_bytes(build_checkpoint(name=lambda default: b"\x1b[31m\0"), tmp_path, force=True)
    assert odd == usual


def test_counts_as_large_as_they_can_be(tmp_path: Path) -> None:
    top = 0xFFFFFFFF
    found = convert_bytes(build_checkpoint(train=(top, top, top), n_head=top, n_rot=top), tmp_path)["kv"]
    for key in ("training.iteration_count", "training.token_count", "llama.attention.head_count"):
        assert found[key] == {"type": "UINT32", "value": top}


@pytest.mark.parametrize("value", [-(1 << 31), -1, 0, (1 << 31) - 1])
def test_the_line_search_counts_are_signed(value: int, tmp_path: Path) -> None:
    data = build_checkpoint(optimizer="lbfgs", state={"j": value, "k": value, "end": value})
    found = convert_bytes(data, tmp_path)["kv"]
    for name in ("line_search_j", "line_search_k", "line_search_end"):
        assert found[f"optimizer.lbfgs.{name}"] == {"type": "INT32", "value": value}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e-45])
def test_losses_that_are_no_numbers_are_kept(value: float, tmp_path: Path) -> None:
    found = convert_bytes(build_checkpoint(state={"fx_best": value}), tmp_path)["kv"]
    loss = np.float32(found["optimizer.adam.best_loss"]["value"])
    assert loss.tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize(
    ("optimizer", "field", "key"),
    [
        ("adam", "iter", "optimizer.iteration_count"),
        ("adam", "n_no_improvement", "optimizer.adam.no_improvement_count"),
        ("lbfgs", "iter", "optimizer.iteration_count"),
        ("lbfgs", "n_no_improvement", "optimizer.lbfgs.no_improvement_count"),
    ],
)
def test_a_count_below_zero_is_an_error_and_does_not_wrap(optimizer: str, field: str, key: str, tmp_path: Path) -> None:
    data = build_checkpoint(optimizer=optimizer, state={field: -1})
    with pytest.raises(UnfitError, match=rf"{key}: -1 does not fit UINT32, which holds 0 to 4294967295"):
        convert_bytes(data, tmp_path)
    assert os.listdir(tmp_path) == ["in.ggcp"]


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [("UINT32", 0, (1 << 32) - 1), ("UINT64", 0, (1 << 64) - 1), ("INT32", -(1 << 31), (1 << 31) - 1)],
)
def test_the_limits_of_the_types(kind: str, low: int, high: int) -> None:
    for value in (low, high):
        assert KeyValue("k", kind, value).value == value
    for value in (low - 1, high + 1):
        with pytest.raises(UnfitError, match=f"k: {value} does not fit {kind}"):
            KeyValue("k", kind, value)


def test_every_type_we_write_is_one_of_gguf() -> None:
    with open_checkpoint(FIXTURES / "v1-lbfgs.ggcp") as ckpt:
        assert {entry.type for entry in key_values(resume_entries(ckpt))} <= {kind.name for kind in GGUFValueType}


# Epsilon ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-6, 5e-6, 1e-5])
def test_the_epsilon_is_the_nearest_float32(eps: float, tmp_path: Path) -> None:
    convert(GENUINE[0], tmp_path / "out.gguf", rms_eps=eps)
    found = read_gguf(tmp_path / "out.gguf")["kv"]["llama.attention.layer_norm_rms_epsilon"]
    assert found == {"type": "FLOAT32", "value": float(np.float32(eps))}


@pytest.mark.parametrize("eps", [1e39, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_makes_no_sense_is_refused(eps: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        convert(GENUINE[0], tmp_path / "out.gguf", rms_eps=eps)
    assert os.listdir(tmp_path) == []


# What is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_ahead_from", [1, 1 << 30])
def test_the_tensors_that_are_dropped_are_never_read(
    read_ahead_from: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = FIXTURES / "v0-adam.ggcp"
    extents: list[tuple[int, int]] = []
    preadv = os.preadv

    def watched(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = preadv(fd, buffers, offset)
        if os.path.samestat(os.fstat(fd), path.stat()):
            extents.append((offset, offset + count))
        return count

    monkeypatch.setattr(os, "preadv", watched)
    monkeypatch.setattr(source_module, "READ_AHEAD_FROM", read_ahead_from)
    convert(path, tmp_path / "out.gguf", verify=True)
    with open_checkpoint(path) as ckpt:
        for name, tensor in ckpt.tensors.items():
            end = tensor.offset + tensor.nbytes
            read = sum(max(0, min(end, stop) - max(tensor.offset, start)) for start, stop in extents)
            dropped = name.removeprefix("optimizer.state.") in DROPPED
            assert read == (0 if dropped else 2 * tensor.nbytes), name  # once to copy, once to compare


def test_progress_counts_every_byte_once(tmp_path: Path) -> None:
    done: list[int] = []
    convert(FIXTURES / "v0-adam.ggcp", tmp_path / "out.gguf", progress=done.append)
    data = sum(int(tensor.n_bytes) for tensor in GGUFReader(tmp_path / "out.gguf").tensors)
    assert sum(done) == data
    done.clear()
    convert(FIXTURES / "v0-adam.ggcp", tmp_path / "out.gguf", progress=done.append, verify=True, force=True)
    assert sum(done) == 2 * data


# What must not be written ----------------------------------------------------------------------------------


def test_a_damaged_checkpoint_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MalformedError):
        convert(TRUNCATED, tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == []


def corrupt_after_writing(monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
    """Damages the output between the writing and the reading back."""
    write = writer._write

    def and_damage(place: str, *rest: Any) -> None:
        write(place, *rest)
        with open(place, "r+b") as file:
            damage(file)

    monkeypatch.setattr(writer, "_write", and_damage)


def flip_last_byte(file: Any) -> None:
    file.seek(-33, os.SEEK_END)
    (byte,) = file.read(1)
    file.seek(-33, os.SEEK_END)
    file.write(bytes([byte ^ 1]))


def rewrite(old: bytes, new: bytes) -> Any:
    assert len(old) == len(new)

    def damage(file: Any) -> None:
        content = file.read()
        assert old in content
        file.seek(content.index(old))
        file.write(new)

    return damage


@pytest.mark.parametrize("existing", [False, True])
def test_verify_finds_a_single_wrong_bit(existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.gguf"
    if existing:
        out.write_bytes(b"old")
    corrupt_after_writing(monkeypatch, flip_last_byte)
    with pytest.raises(
        FileError, match=r"tensor optimizer\.adam\.second_moments differs from element 16967 on"
    ) as caught:
        convert(FIXTURES / "v1-adam.ggcp", out, verify=True, force=True)
    assert "Nothing was kept." in str(caught.value)
    assert os.listdir(tmp_path) == (["out.gguf"] if existing else [])
    assert not existing or out.read_bytes() == b"old"


def test_without_verify_a_wrong_bit_in_the_data_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above tests `verify`, not something else."""
    corrupt_after_writing(monkeypatch, flip_last_byte)
    convert(FIXTURES / "v1-adam.ggcp", tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.truncate(os.fstat(file.fileno()).st_size - 64), ""),
        (lambda file: (file.seek(0, os.SEEK_END), file.write(bytes(32))), "the file has"),
        (rewrite(b"llama.block_count", b"llama.block_c0unt"), "llama.block_count is missing"),
        (rewrite(b"train_model", b"train_medel"), "training.type is 'train_medel', not 'train_model'"),
        (rewrite(b"blk.1.attn_k.weight", b"blk.1.attn_j.weight"), "tensor blk.1.attn_k.weight is missing"),
        (rewrite(b"GGUF", b"GGUE"), ""),
    ],
    ids=["short", "long", "key", "value", "tensor", "magic"],
)
def test_what_was_written_is_read_back_even_without_verify(
    damage: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corrupt_after_writing(monkeypatch, damage)
    with pytest.raises(FileError) as caught:
        convert(FIXTURES / "v1-adam.ggcp", tmp_path / "out.gguf")
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_input_that_shrinks_while_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes((FIXTURES / "v1-adam.ggcp").read_bytes())
    with pytest.raises(FileError, match="was cut short while in use"):
        convert(path, tmp_path / "out.gguf", progress=lambda done: os.truncate(path, 1000))
    assert os.listdir(tmp_path) == ["in.ggcp"]


def test_an_input_that_changes_while_it_is_copied_is_found_by_verify(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes((FIXTURES / "v1-adam.ggcp").read_bytes())
    with open_checkpoint(path) as ckpt:
        first = ckpt.tok_embeddings.offset

    def scribble(done: int) -> None:
        with path.open("r+b") as file:
            file.seek(first)
            file.write(b"\xab\xcd")

    with pytest.raises(FileError, match=r"tensor token_embd\.weight differs from element 0 on"):
        convert(path, tmp_path / "out.gguf", progress=scribble, verify=True)


# The Python API --------------------------------------------------------------------------------------------


def test_convert_says_what_it_wrote(tmp_path: Path) -> None:
    written = convert(str(FIXTURES / "v1-adam.ggcp"), tmp_path / "out.gguf")
    assert written.size == (tmp_path / "out.gguf").stat().st_size
    assert written.checkpoint.optimizer.type == "adam"
    assert len(written.entries) == 24 + 23


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(FileError, match=r"exists already\nUse --force to replace it"):
        convert(GENUINE[0], out)
    assert out.read_bytes() == b"old"
    convert(GENUINE[0], out, force=True)
    assert out.read_bytes()[:4] == b"GGUF"
