"""`edit`: a copy with other values is what a writer of those values would have written, and nothing else changes."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from tests.builder import build_checkpoint, build_gguf
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, TRUNCATED, assert_no_traceback, run_cli, thinned
from tests.mapping import independent_order
from tests.samples import FAST, KINDS, sample

ADAM = FIXTURES / "v1-adam.ggcp"
LBFGS = FIXTURES / "v1-lbfgs.ggcp"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def edited(path: Path, out: Path, *assignments: str) -> bytes:
    run_cli("edit", path, out, "--force", *assignments, check=True)
    return out.read_bytes()


def refused(path: Path, out: Path, *assignments: str | os.PathLike[str]) -> str:
    """Return the error that says why a copy cannot be written, with the dry run too."""
    errors = []
    for option in ((), ("--dry-run",), ("--json",)):
        result = run_cli("edit", path, out, *assignments, *option)
        assert_no_traceback(result)
        assert (result.returncode, result.stdout) == (2, "")
        assert not out.exists()
        errors.append(result.stderr)
    assert len(set(errors)) == 1
    assert errors[0].startswith("ggcp-schema: ")
    assert len(errors[0].splitlines()) <= 2
    assert not CONTROL.search(errors[0])
    return errors[0]


def patched(data: bytes, offset: int, code: str, value: Any) -> bytes:
    copy = bytearray(data)
    struct.pack_into(code, copy, offset, value)
    return bytes(copy)


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.stem)
def test_the_same_value_gives_the_same_file(path: Path, out: Path) -> None:
    data = path.read_bytes()
    assert edited(path, out, f"train_its={struct.unpack_from('<I', data, 8)[0]}") == data


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_value_gives_the_same_file_of_other_formats(kind: str, tmp_path: Path, out: Path) -> None:
    path = sample(kind, tmp_path)
    assignment = "x.uint32=4000000000" if kind.startswith("gguf") else "hparams.n_embd=6"
    assert edited(path, out, assignment) == path.read_bytes()


@pytest.mark.parametrize(
    ("path", "assignment", "offset", "code", "value"),
    [
        (ADAM, "train_its=0", 8, "<I", 0),
        (ADAM, "train_tokens=0xffffffff", 16, "<I", 0xFFFFFFFF),
        (ADAM, "hparams.n_rot=4", 40, "<I", 4),
        (ADAM, "optimizer.state.fx_best=1.5", -12, "<f", 1.5),
        (ADAM, "optimizer.state.fx_best=0.1", -12, "<f", 0.1),
        (ADAM, "optimizer.state.fx_prev=-inf", -8, "<f", float("-inf")),
        (ADAM, "optimizer.state.fx_prev=nan", -8, "<f", float("nan")),
        (ADAM, "optimizer.state.n_no_improvement=-7", -4, "<i", -7),
        (LBFGS, "optimizer.state.k=-2147483648", -12, "<i", -(1 << 31)),
        (LBFGS, "optimizer.state.step=1e-3", -20, "<f", 1e-3),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_a_number(path: Path, assignment: str, offset: int, code: str, value: float, out: Path) -> None:
    data = path.read_bytes()
    assert edited(path, out, assignment) == patched(data, offset % len(data), code, value)


def test_several_values_at_once(out: Path) -> None:
    data = ADAM.read_bytes()
    expected = patched(patched(data, 8, "<I", 1), len(data) - 4, "<i", 2)
    assert edited(ADAM, out, "optimizer.state.n_no_improvement=2", "train_its=1") == expected


@pytest.mark.parametrize("name", ["", "tok", "größe", "a=b", "x" * 31, "y" * 200])
def test_a_name_with_its_length_and_the_padding_that_follows(name: str, tmp_path: Path, out: Path) -> None:
    """The data of the tensor moves to another multiple of 32, and with it all that follows."""

    def renamed(label: str) -> bytes:
        return name.encode() if label == "norm.weight" else label.encode()

    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint())
    assert edited(path, out, f"norm.name={name}") == build_checkpoint(name=renamed)


@pytest.mark.parametrize("tensor", ["layers[1].wq", "layers[1].wq.data", "tok_embeddings", "optimizer.state.m"])
@pytest.mark.parametrize("flat", [False, True], ids=["shaped", "flat"])
def test_the_data_of_a_tensor(tensor: str, flat: bool, tmp_path: Path, out: Path) -> None:
    found = independent_order.read(ADAM)
    name = tensor.removesuffix(".data")
    old = found.state["m"] if name == "optimizer.state.m" else found.model[name]
    new = np.arange(len(old.data), dtype=np.float32)
    np.save(tmp_path / "new.npy", new if flat else new.reshape(old.shape[::-1]))
    data = ADAM.read_bytes()
    at = data.index(old.data.tobytes())
    expected = data[:at] + new.tobytes() + data[at + new.nbytes :]
    assert edited(ADAM, out, f"{tensor}=@{tmp_path / 'new.npy'}") == expected


def test_an_array_in_another_memory_order(tmp_path: Path, out: Path) -> None:
    """Big-endian numbers, and columns first: the values count."""
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", np.asfortranarray(values))
    np.save(tmp_path / "c.npy", values.astype(">f4"))
    first, *others = (edited(ADAM, out, f"layers[0].wo=@{tmp_path / name}") for name in ("a.npy", "b.npy", "c.npy"))
    assert values.tobytes() in first
    assert others == [first, first]


@pytest.mark.parametrize("kind", ["gguf", "gguf-big"])
def test_data_in_a_gguf_file(kind: str, tmp_path: Path, out: Path) -> None:
    path, order = sample(kind, tmp_path), ">" if kind.endswith("big") else "<"
    np.save(tmp_path / "fast.npy", FAST + 1)
    np.save(tmp_path / "half.npy", (FAST + 1).astype(np.float16))
    data = path.read_bytes()
    new = edited(path, out, f"blk.0.attn_q.weight=@{tmp_path / 'fast.npy'}", f"half=@{tmp_path / 'half.npy'}")
    for code in (f"{order}f4", f"{order}f2"):
        data = data.replace(FAST.astype(code).tobytes(), (FAST + 1).astype(code).tobytes())
    assert new == data
    assert new != path.read_bytes()


GGUF_KEYS = [
    ("general.architecture", 8, "llama"),
    ("a.u8", 0, 1),
    ("a.i8", 1, -1),
    ("a.u64", 10, 1),
    ("a.i64", 11, -1),
    ("a.f32", 6, 0.5),
    ("a.f64", 12, 0.5),
    ("a.bool", 7, True),
    ("a.list", 9, (4, [1, 2, 3])),
    ("a.texts", 9, (8, ["one", "two"])),
]


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("a.u8=255", "a.u8", 255),
        ("a.i8=-128", "a.i8", -128),
        ("a.u64=18446744073709551615", "a.u64", (1 << 64) - 1),
        ("a.i64=-9223372036854775808", "a.i64", -(1 << 63)),
        ("a.f32=0.1", "a.f32", 0.1),
        ("a.f64=1e300", "a.f64", 1e300),
        ("a.bool=false", "a.bool", False),
        ("general.architecture=longer than it was", "general.architecture", "longer than it was"),
        ("general.architecture=", "general.architecture", ""),
        ("metadata_kv[8].value.array[1]=9", "a.list", (4, [1, 9, 3])),
        ("metadata_kv[8].value.array[0]=0", "a.list", (4, [0, 2, 3])),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_a_value_in_a_gguf_file(assignment: str, key: str, value: Any, order: str, tmp_path: Path, out: Path) -> None:
    tensors = [("t", (3,), 0, bytes(range(12)))]
    path = tmp_path / "in.gguf"
    path.write_bytes(build_gguf(GGUF_KEYS, tensors, order=order))
    changed = [(name, kind, value if name == key else old) for name, kind, old in GGUF_KEYS]
    assert edited(path, out, assignment) == build_gguf(changed, tensors, order=order)


def test_a_value_that_no_other_command_would_accept_is_accepted_again(tmp_path: Path, out: Path) -> None:
    """The remedy for a count that GGUF cannot hold."""
    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint(state={"iter": -1}))
    assert edited(path, out, "optimizer.iter=3") == build_checkpoint(state={"iter": 3})


# Refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("n_ff=3", "n_ff follows from other fields, so it cannot be set"),
        ("optimizer.layout=v0", "optimizer.layout follows from other fields"),
        ("optimizer.type=lbfgs", "optimizer.type follows from other fields"),
        ("hparams=3", "hparams is not a single value\nIt consists of n_vocab, n_embd, n_mult, n_head, n_layer, n_rot."),
        ("layers=3", "layers is not a single value"),
        ("layers[0].wq.ne=3", "layers[0].wq.ne is not a single value"),
        ("layers[0].wq=3", "layers[0].wq.data is the data of a tensor\nWrite layers[0].wq.data=@FILE.npy, or "),
        ("nothing=3", "has no field 'nothing'"),
        ("layers[2].wq.name=x", "layers[2]"),
        ("train_its", "'train_its' is not an assignment\nWrite PATH=VALUE, such as train_its=0."),
        ("=3", "'=3' is not an assignment"),
        ("train_its=-1", "train_its: expected a value of type u32, found -1"),
        ("train_its=4294967296", "train_its: expected a value of type u32, found 4294967296"),
        ("train_its=1.5", "train_its is a number of type u32, got '1.5'"),
        ("train_its=", "train_its is a number of type u32, got ''"),
        ("train_its=\x1b[2J", "train_its is a number of type u32, got '"),
        ("optimizer.state.fx_best=1e39", "optimizer.state.fx_best"),
        ("optimizer.state.fx_best=x", "optimizer.state.fx_best is a number of type f32, got 'x'"),
        ("magic=0", "magic: expected "),
        ("version=1", "version: expected 0"),
        ("hparams.n_vocab=321", "tok_embeddings.ne[1]: expected 321 (n_vocab), found 320"),
        ("hparams.n_layer=3", "The format does not allow this value. Nothing was written."),
        ("layers[0].wq.n_dims=1", "layers[0].wq"),
        ("layers[0].wq.ne[0]=17", "layers[0].wq.ne[0]: expected 16"),
        ("layers[0].wq.type=1", "layers[0].wq.type: expected 0 (F32), found 1"),
        ("optimizer.nx=5", "optimizer.state.m.ne[0]: expected 5 (nx), found 16976"),
        ("layers[0].wq.padding=ff", "layers[0].wq.padding has "),
        ("layers[0].wq.padding=xx", "layers[0].wq.padding is bytes, which are written in hex; got 'xx'"),
    ],
)
def test_refused(assignment: str, message: str, out: Path) -> None:
    assert message in refused(ADAM, out, assignment)


def test_a_field_that_is_set_twice(out: Path) -> None:
    assert "train_its is set twice" in refused(ADAM, out, "train_its=1", "train_its=1")


def test_a_field_that_is_set_twice_by_two_paths(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(build_gguf(GGUF_KEYS))
    assert "metadata_kv[1].value is set twice" in refused(path, out, "a.u8=1", "metadata_kv[1].value=2")


def test_a_part_of_a_key_that_is_replaced_or_removed(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(build_gguf(GGUF_KEYS))
    for others in (["a.u8:u32=1"], ["--remove", "a.u8"]):
        assert "a.u8, of which it is a part, is" in refused(path, out, "metadata_kv[1].value=2", *others)


def test_the_end_of_a_path_is_not_enough(out: Path) -> None:
    assert "has no field 'fx_best'\nDid you mean optimizer.state.fx_best?" in refused(ADAM, out, "fx_best=1")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 16)), "expected float32 of shape (16, 16) for layers[0].wq.data, found float64"),
        (np.zeros((16, 16), np.int32), "found int32 of shape (16, 16)"),
        (np.zeros((16, 15), np.float32), "found float32 of shape (16, 15)"),
        (np.zeros((1, 256), np.float32), "found float32 of shape (1, 256)"),
        (np.zeros((), np.float32), "found float32 of shape ()"),
        (np.zeros(3, [("a", "<f4")]), "of shape (3,)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_an_array_that_does_not_fit(array: np.ndarray, message: str, tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "in.npy", array)
    error = refused(ADAM, out, f"layers[0].wq=@{tmp_path / 'in.npy'}")
    assert error.startswith(f"ggcp-schema: {tmp_path / 'in.npy'}: ")
    assert message in error


def test_files_that_are_not_arrays(tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "several.npz", a=np.zeros(1), b=np.zeros(1))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.zeros((16, 16), np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-1])
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, message in (
        ("none.npy", "No such file or directory"),
        ("several.npz", "contains several arrays"),
        ("object.npy", "is not a .npy file: "),
        ("cut.npy", "is not a .npy file: "),
        ("text.npy", "is not a .npy file: "),
        ("empty.npy", "is not a .npy file: "),
    ):
        error = refused(ADAM, out, f"layers[0].wq=@{tmp_path / name}")
        assert str(tmp_path / name) in error
        assert message in error


@pytest.mark.parametrize("tensor", ["brain", "quantized"])
def test_data_of_a_type_that_numpy_does_not_have(tensor: str, tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "in.npy", FAST)
    error = refused(sample("gguf", tmp_path), out, f"{tensor}=@{tmp_path / 'in.npy'}")
    assert "cannot be set: it is not the data of an F32 or F16 tensor" in error


@pytest.mark.parametrize(
    "assignment", ["a.u8=256", "a.i8=-129", "a.u8=x", "a.f32=1e39", "tensor_count=2", "a.u64=-1", "a.texts=x"]
)
def test_refused_in_a_gguf_file(assignment: str, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(build_gguf(GGUF_KEYS, [("t", (3,), 0, bytes(12))]))
    refused(path, out, assignment)


def test_a_damaged_file(out: Path) -> None:
    for option in ((), ("--dry-run",)):
        result = run_cli("edit", TRUNCATED, out, "train_its=0", *option)
        assert_no_traceback(result)
        assert (result.returncode, result.stdout) == (4, "")
        assert "layers[0].w3.padding at offset 52147" in result.stderr
        assert not out.exists()


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint())
    (tmp_path / "old").write_text("mine")
    before = sorted(os.listdir(tmp_path))
    for output, option, message in (
        (path, "-f", "output and input are the same file"),
        ("-", "-f", "cannot write to standard output"),
        (tmp_path / "none" / "out", "-f", "does not exist"),
        (tmp_path / "old", "-q", f"{tmp_path / 'old'} already exists\nUse --force to overwrite it.\n"),
    ):
        result = run_cli("edit", path, output, "train_its=1", option, cwd=tmp_path)
        assert_no_traceback(result)
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr
    assert sorted(os.listdir(tmp_path)) == before
    assert path.read_bytes() == build_checkpoint()
    assert (tmp_path / "old").read_text() == "mine"


# What it prints --------------------------------------------------------------------------------------------

ASSIGNMENTS = ("train_its=0", "optimizer.state.fx_best=1.5", "norm.name=n")
CHANGES = [
    ("train_its", "12", "0"),
    ("optimizer.state.fx_best", "5.7699394", "1.5"),
    ("norm.name", "'norm.weight'", "'n'"),
]


def test_the_changes(out: Path) -> None:
    result = run_cli("edit", ADAM, out, *ASSIGNMENTS, check=True)
    assert result.stderr == ""
    *lines, note, last = result.stdout.splitlines()
    assert lines == [f"{path}: {old} -> {new}" for path, old, new in CHANGES]
    assert note == "note: norm.name: is 'n'; the trainers wrote 'norm.weight' or 'output_norm.weight'"
    assert last.startswith(f"wrote {out}: {out.stat().st_size:,} bytes")


def test_the_changes_as_json(tmp_path: Path, out: Path) -> None:
    content = json.loads(run_cli("edit", ADAM, out, *ASSIGNMENTS, "--json", check=True).stdout)
    assert content == {
        "input": str(ADAM),
        "output": str(out),
        "changes": [
            {"path": "train_its", "old": 12, "new": 0},
            {"path": "optimizer.state.fx_best", "old": float(np.float32(5.7699394)), "new": 1.5},
            {"path": "norm.name", "old": "norm.weight", "new": "n"},
        ],
        "written": True,
        "size": out.stat().st_size,
        "warnings": content["warnings"],
    }
    assert [warning["path"] for warning in content["warnings"]] == ["norm.name"]
    dry = json.loads(run_cli("edit", ADAM, tmp_path / "new", *ASSIGNMENTS, "--json", "--dry-run", check=True).stdout)
    assert dry == content | {"output": str(tmp_path / "new"), "written": False, "size": None}
    assert not (tmp_path / "new").exists()


def test_a_dry_run_names_the_size_that_is_then_written(out: Path) -> None:
    out.write_text("mine")
    long = ("norm.name=" + "x" * 500, "train_its=0")
    dry = run_cli("edit", ADAM, out, *long, "--dry-run", check=True)
    assert out.read_text() == "mine"
    wet = run_cli("edit", ADAM, out, *long, "--force", check=True)
    assert dry.stdout.replace("would write", "wrote") == wet.stdout
    assert f"{out.stat().st_size:,} bytes" in wet.stdout


def test_data_is_shown_by_its_size(tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "in.npy", np.ones(16, np.float32))
    text = run_cli("edit", ADAM, out, f"norm=@{tmp_path / 'in.npy'}", check=True).stdout
    assert re.search(r"^norm\.data: .* -> 64 bytes of data$", text, re.MULTILINE)


def test_no_sync(out: Path) -> None:
    with mock.patch("os.fsync", side_effect=os.fsync) as fsync:
        run_cli("edit", ADAM, out, "train_its=0", "--no-sync", check=True)
        assert not fsync.called
        run_cli("edit", ADAM, out, "train_its=0", "--force", check=True)
        assert fsync.called


def test_nothing_to_change(out: Path) -> None:
    result = run_cli("edit", ADAM, out)
    assert_no_traceback(result)
    assert result.returncode == 2
    assert "PATH=VALUE" in result.stderr


# Keys of GGUF files ----------------------------------------------------------------------------------------


def model(path: Path, alignment: int | None = None) -> Path:
    """Write a GGUF file with three tensors of odd sizes by GGUFWriter."""
    writer = GGUFWriter(path, "llama")
    writer.add_chat_template("old")
    writer.add_array("x.list", [1, 2, 3])
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for index, size in enumerate((5, 9, 1)):
        writer.add_tensor(f"t{index}", np.arange(size, dtype=np.float32) + index)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Return what GGUFReader finds: the keys, and the values of the tensors."""
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {tensor.name: tensor.data.tolist() for tensor in reader.tensors}


def test_a_text_from_a_file(tmp_path: Path, out: Path) -> None:
    text = "\ufeff{% for m in messages %}\r\n@{{ m }}\r\n{% endfor %}"
    (tmp_path / "template").write_bytes(text.encode())
    path = model(tmp_path / "in.gguf")
    edited(path, out, f"tokenizer.chat_template=@{tmp_path / 'template'}")
    assert contents(out)[0]["tokenizer.chat_template"] == text
    edited(path, out, "tokenizer.chat_template=@@file")
    assert contents(out)[0]["tokenizer.chat_template"] == "@file"
    assert "No such file" in refused(path, tmp_path / "new", f"tokenizer.chat_template=@{tmp_path / 'none'}")


@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
@pytest.mark.parametrize("old", [None, 16])
def test_another_alignment_gives_the_tensors_new_offsets(
    old: int | None, alignment: int, tmp_path: Path, out: Path
) -> None:
    path = model(tmp_path / "in.gguf", old)
    edited(path, out, f"general.alignment:u32={alignment}")
    keys, tensors = contents(out)
    assert keys == contents(path)[0] | {"general.alignment": alignment}
    assert tensors == contents(path)[1]
    assert all(tensor.data_offset % alignment == 0 for tensor in GGUFReader(out).tensors)
    back = out.with_name("back")
    edited(out, back, *(["general.alignment=16"] if old else ["--remove", "general.alignment"]))
    assert back.read_bytes() == path.read_bytes()


def test_keys_are_added_and_removed_and_get_other_types(tmp_path: Path, out: Path) -> None:
    path = model(tmp_path / "in.gguf")
    edited(
        path, out, "a:u8=255", "b.c:FLOAT32=0.5", "d:string=text", "e:bool=true", "general.architecture:string=gpt2",
        "t0=@" + str(array(tmp_path / "new.npy", 5)), "--remove", "x.list", "--remove", "tokenizer.chat_template",
    )  # fmt: skip
    keys, tensors = contents(out)
    assert keys == {"general.architecture": "gpt2", "a": 255, "b.c": 0.5, "d": "text", "e": True}
    assert tensors["t0"] == [0, 1, 2, 3, 4]
    result = run_cli("edit", path, out, "a:u8=1", "--remove", "x.list", "--json", "--force", check=True)
    assert json.loads(result.stdout)["changes"] == [
        {"path": "a", "old": None, "new": 1},
        {"path": "x.list", "old": None, "new": None},
    ]
    told = run_cli("edit", path, out, "--remove", "general.architecture", "--force", check=True).stdout
    assert "note: metadata_kv: the key general.architecture is missing" in told


def array(path: Path, count: int) -> Path:
    np.save(path, np.arange(count, dtype=np.float32))
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("general.alignment:u32=3",), "expected a power of two, found 3"),
        (("general.alignment:u32=0",), "expected a power of two, found 0"),
        (("general.alignment:u64=32",), "expected 4 (UINT32), found 10"),
        (("a:u8=256",), "expected a value of type u8, found 256"),
        (("a:u8=x",), "a is a number of type u8, got 'x'"),
        (("a:u7=1",), "has no field 'a:u7'"),
        (("a=1",), "has no field 'a'"),
        (("--remove", "a"), "has no key 'a'"),
        (("--remove", "x.list", "x.list:u8=1"), "x.list is set twice"),
        ((":u8=1",), "has no field ':u8'"),
        ((f"tensor_infos[0].name={'n' * 64}",), "fewer than 64 bytes"),
        (("tensor_infos[0].name=t1",), "a name that is not used before"),
        ((), "nothing to change"),
    ],
)
def test_what_would_make_a_file_invalid_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path, out: Path
) -> None:
    assert message in refused(model(tmp_path / "in.gguf"), out, *words)


def test_an_error_of_the_input_does_not_matter(out: Path) -> None:
    path = FIXTURES / "strange" / "name64.gguf"
    edited(path, out, "general.architecture=gpt2")


def test_only_gguf_files_have_keys(out: Path) -> None:
    assert "has no field 'a:u8'" in refused(ADAM, out, "a:u8=1")
    assert "has no key 'train_its'" in refused(ADAM, out, "--remove", "train_its")


def test_long_values_are_shortened(tmp_path: Path, out: Path) -> None:
    result = run_cli("edit", model(tmp_path / "in.gguf"), out, f"tokenizer.chat_template={'x' * 500}", check=True)
    assert result.stdout.splitlines()[0] == f"tokenizer.chat_template: 'old' -> '{'x' * 60}…'"


def test_of_several_added_keys_the_one_that_is_refused_is_named(tmp_path):
    path, long = FIXTURES / "vocab.gguf", "x" * (1 << 16)
    for words in (["a:u32=1", f"{long}:u32=1", "b:u32=2"], [f"{long}:u32=1", "a:u32=1"]):
        message = refused(path, tmp_path / "out.gguf", *words)
        assert message.startswith(f"ggcp-schema: {long}: expected ")
    message = refused(path, tmp_path / "out.gguf", "zzzzzz=1")
    assert "Run `ggcp-schema dump" in message
    assert "To add a key, write KEY:TYPE=VALUE" in message
    assert "Run `ggcp-schema dump" in refused(path, tmp_path / "out.gguf", "--remove", "zzzzzz")
