"""Copies of files with some values changed: every kind of field, what is refused, and that nothing else changes."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from construct import Container, ListContainer
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggcp_schema import FileError, GgcpError, MalformedError, PathError, UsageError, open_checkpoint, open_file
from ggcp_schema.constructs import CopiedList, Extent, Field, NaN, Origin, PatchedExtent
from ggcp_schema.inspect.edit import changed, changes, check, edit, parse_assignment
from tests.builder import build_checkpoint, build_gguf
from tests.helpers import FIXTURES, TRUNCATED, thinned
from tests.mapping import independent_order
from tests.mapping.gguf_files import write_as_trainer
from tests.strategies import KINDS
from tests.vocabularies import make

ADAM = FIXTURES / "v1-adam.ggcp"


def edited(source: Path, output: Path, *assignments: str) -> bytes:
    """Return the bytes of the copy, after checking that a dry run says its size."""
    with open_file(source) as file:
        wanted = changes(file, [parse_assignment(text) for text in assignments])
        size = check(file, wanted).size
        assert edit(file, output, wanted, force=True, sync=False).size == size == output.stat().st_size
    return output.read_bytes()


def refused(source: Path, output: Path, *assignments: str) -> GgcpError:
    """Return the error of an edit and of its dry run, which write nothing."""
    before = sorted(os.listdir(output.parent))
    with open_file(source) as file:

        def act(*, dry_run: bool) -> int:
            wanted = changes(file, [parse_assignment(text) for text in assignments])
            return (check(file, wanted) if dry_run else edit(file, output, wanted)).size

        with pytest.raises(GgcpError) as dry:
            act(dry_run=True)
        with pytest.raises(GgcpError) as wet:
            act(dry_run=False)
    assert str(dry.value) == str(wet.value)
    assert sorted(os.listdir(output.parent)) == before
    return wet.value


@pytest.mark.parametrize("change", ["tensor_infos[1].offset=4294967296", "general.alignment:u32=16777216"])
def test_gigabytes_of_padding_are_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(build_gguf([], [(name, (8,), 0, bytes(32)) for name in "ab"]))
    assert "at most 65,536 bytes of new padding" in str(refused(path, tmp_path / "out.gguf", change))


def text_of(field: Field) -> str | None:
    """Return the value of a leaf as the command line takes it; None for one that cannot be set."""
    value = field.value
    if field.type == "derived" or isinstance(value, Extent):
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape") if field.type == "char" else value.hex()
    return value if isinstance(value, str) else repr(float(value) if isinstance(value, NaN) else value)


def settable(source: Path) -> list[tuple[str, str]]:
    """Return the paths and values of the leaves that can be set; of a long list the first and the last ones."""
    with open_file(source) as file:
        fields: list[Field] = []
        pending = [file.root]
        while pending:
            field = pending.pop()
            children: Sequence[Field] = () if field.is_leaf else field.children()
            pending += [*children[:20], *children[20:][-2:]]
            fields += [field] if field.is_leaf else []
        return [(field.path, text) for field in fields if (text := text_of(field)) is not None]


# Nothing changes -------------------------------------------------------------------------------------------


def test_no_assignment_copies_the_file(tmp_path: Path) -> None:
    assert edited(ADAM, tmp_path / "out") == ADAM.read_bytes()


def assert_identity(source: Path, output: Path) -> None:
    leaves = settable(source)
    assert len(leaves) > 20
    assignments = [f"{path}={text}" for path, text in leaves]
    assert edited(source, output, *assignments) == source.read_bytes()


@pytest.mark.parametrize(("layout", "optimizer"), KINDS)
def test_every_field_of_a_checkpoint_set_to_its_own_value(layout: str, optimizer: str, tmp_path: Path) -> None:
    dirt = np.random.default_rng(5)
    content = build_checkpoint(
        layout=layout,
        optimizer=optimizer,
        past=2,
        padding=dirt.bytes,
        name=lambda default: b"\xff\n" + default.encode(),
        params={"delta": b"\x01\x00\xa0\x7f", "print": b"\xfe\xff", "padding": b"\xab\xcd"},
    )
    (tmp_path / "in.ggcp").write_bytes(content)
    assert_identity(tmp_path / "in.ggcp", tmp_path / "out")


@pytest.mark.parametrize("kind", ["ggjt1", "ggjt3", "ggmf", "ggml", "vocab.gguf"])
def test_every_field_of_a_vocabulary_set_to_its_own_value(kind: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(make(kind))
    assert_identity(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("big_endian", [False, True])
def test_every_field_of_a_gguf_checkpoint_set_to_its_own_value(big_endian: bool, tmp_path: Path) -> None:
    write_as_trainer(tmp_path / "in", ADAM, version=1, big_endian=big_endian)
    assert_identity(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "assignment", "copied"),
    [
        ("v1-adam.ggcp", "train_its=7", ["layers"]),
        ("twin-adam.v0.ggcp", "optimizer.iter=7", ["layers"]),
        ("v1-adam.ggcp", "norm.name=a longer name", []),
        ("v1-adam.ggcp", "layers[1].wq.name=a longer name", []),
        ("strange/all-types.gguf", "general.name:string=a name", ["tensor_infos", "tensor_data"]),
        ("strange/gap.gguf", "x:string=a long text that moves all that follows it", ["tensor_infos", "tensor_data"]),
        ("strange/shared-data.gguf", "x:u8=1", ["tensor_infos", "tensor_data"]),
        ("strange/align-64.gguf", "general.alignment=32", []),
        ("strange/gap.gguf", "tensor_infos[0].name=another", []),
    ],
)
def test_lists_that_are_copied_are_as_they_would_be_built(name: str, assignment: str, copied: list[str]) -> None:
    with open_file(FIXTURES / name) as file:
        container = changed(file, changes(file, [parse_assignment(assignment)]))
        assert [name for name, value in container.items() if isinstance(value, CopiedList)] == copied
        built = [io.BytesIO(), io.BytesIO()]
        for stream in built:
            file.format.schema.build_stream(container, stream, recompute=True)
            container.update({name: ListContainer(container[name]) for name in copied})
        assert built[0].getvalue() == built[1].getvalue()


# Every kind of field ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "offset", "new"),
    [
        ("train_its=0", 8, struct.pack("<I", 0)),
        ("train_tokens=0xffffffff", 16, struct.pack("<I", 0xFFFFFFFF)),
        ("hparams.n_rot=4", 40, struct.pack("<I", 4)),
        ("optimizer.iter=-7", 0, None),
        ("optimizer.state.fx_best=0.1", -12, struct.pack("<f", 0.1)),
        ("optimizer.state.fx_prev=-inf", -8, struct.pack("<f", -np.inf)),
        ("optimizer.state.n_no_improvement=true", -4, struct.pack("<i", 1)),
    ],
)
def test_one_number_changes_its_bytes_alone(assignment: str, offset: int, new: bytes | None, tmp_path: Path) -> None:
    before, after = ADAM.read_bytes(), edited(ADAM, tmp_path / "out", assignment)
    path, _, text = assignment.partition("=")
    if new is None:  # its offset is the tool's own claim, its value an independent reader's
        assert independent_order.read(tmp_path / "out").iterations == int(text)
        with open_checkpoint(ADAM) as ckpt:
            offset, new = ckpt.find(path).offset, struct.pack("<i", int(text))
    offset %= len(before)
    assert after == before[:offset] + new + before[offset + len(new) :]


def test_a_name_of_another_length_moves_what_follows(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("x", "", "a name that is longer than the one before, by far", "größe"):
        edited(ADAM, out, f"layers[0].wq.name={name}", "optimizer.state.v.name=v")
        with open_checkpoint(out) as ckpt:
            assert ckpt.layers[0].wq.name == name
            assert ckpt.get("layers[0].wq.name_len") == len(name.encode())
            assert ckpt.get("optimizer.state.v.name") == b"v"
        old, new = independent_order.read(ADAM), independent_order.read(out)
        for tensors in ("model", "state"):
            for field, tensor in getattr(old, tensors).items():
                assert getattr(new, tensors)[field].data.tobytes() == tensor.data.tobytes()
                assert getattr(new, tensors)[field].offset % 32 == 0


def test_the_data_of_a_tensor_comes_from_a_file(tmp_path: Path) -> None:
    wq = np.arange(256, dtype="<f4").reshape(16, 16)
    for array in (wq, wq.astype(">f4"), np.asfortranarray(wq), wq.ravel()):
        np.save(tmp_path / "wq.npy", array)
        edited(ADAM, tmp_path / "out", f"layers[1].wq=@{tmp_path / 'wq.npy'}")
        found = independent_order.read(tmp_path / "out")
        assert np.array_equal(found.model["layers[1].wq"].data, wq.ravel())
    before, after = ADAM.read_bytes(), (tmp_path / "out").read_bytes()
    start = found.model["layers[1].wq"].offset
    assert after == before[:start] + wq.tobytes() + before[start + 1024 :]


@pytest.mark.parametrize("big_endian", [False, True])
def test_the_data_of_a_gguf_tensor_keeps_the_byte_order_of_the_file(big_endian: bool, tmp_path: Path) -> None:
    write_as_trainer(tmp_path / "in", ADAM, big_endian=big_endian)
    norm = np.arange(16, dtype="<f4")
    np.save(tmp_path / "norm.npy", norm)
    edited(tmp_path / "in", tmp_path / "out", f"output_norm.weight=@{tmp_path / 'norm.npy'}")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "out").tensors}
    assert tensors["output_norm.weight"].tolist() == norm.tolist()


VALUES = [
    ("llama.block_count", "7", ("UINT32", 7)),
    ("llama.rope.freq_base", "1e8", ("FLOAT32", 1e8)),
    ("optimizer.just_initialized", "true", ("BOOL", True)),
    ("training.type", "something longer", ("STRING", "something longer")),
    ("training.shuffle.samples_hash", "18446744073709551615", ("UINT64", (1 << 64) - 1)),
    ("tokenizer.ggml.token_type[3]", "-1", ("ARRAY/INT32", -1)),
    ("tokenizer.ggml.tokens[5]", "a much longer token", ("ARRAY/STRING", "a much longer token")),
]
CASES = [*product(VALUES, [False, True])]


@pytest.mark.parametrize(("value", "big_endian"), thinned(CASES, CASES[::3]), ids=str)
def test_a_gguf_value_keeps_its_type(value: tuple[str, str, object], big_endian: bool, tmp_path: Path) -> None:
    key, text, expected = value
    write_as_trainer(tmp_path / "in", ADAM, version=1, big_endian=big_endian)
    edited(tmp_path / "in", tmp_path / "out", f"{key}={text}")
    name, bracket, index = key.removesuffix("]").partition("[")
    before, after = (GGUFReader(tmp_path / file) for file in ("in", "out"))
    field = after.fields[name]
    found = field.contents(int(index)) if bracket else field.contents()
    assert ("/".join(kind.name for kind in field.types), found) == expected
    assert list(after.fields) == list(before.fields)
    for other, field in before.fields.items():
        assert other == name or after.fields[other].contents() == field.contents()
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (new.name, new.data.tobytes()) == (old.name, old.data.tobytes())


def test_a_token_of_another_length(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(make("ggjt3"))
    edited(tmp_path / "in", tmp_path / "out", "tokens[300].text=hello", "tokens[300].score=-2.5")
    with open_file(tmp_path / "in") as before, open_file(tmp_path / "out") as after:
        assert (after.get("tokens[300].text"), after.get("tokens[300].score")) == (b"hello", -2.5)
        for index in (0, 299, 301, 319):
            assert after.get(f"tokens[{index}].text") == before.get(f"tokens[{index}].text")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 0xFFFFFFFF), st.floats(width=32), st.binary(max_size=70))
def test_any_values(tmp_path: Path, its: int, loss: float, name: bytes) -> None:
    text = name.decode("utf-8", "surrogateescape")
    text = f"@{text}" if text.startswith("@") else text  # or it would name a file
    edited(ADAM, tmp_path / "out", f"train_its={its}", f"optimizer.state.fx_best={loss!r}", f"norm.name={text}")
    with open_checkpoint(tmp_path / "out") as ckpt:
        assert (ckpt.train_its, ckpt.get("norm.name")) == (its, name)
        found = np.float32(ckpt.get("optimizer.state.fx_best"))
        assert found.tobytes() == np.float32(loss).tobytes() or (np.isnan(found) and np.isnan(loss))


def test_nan_keeps_its_bits_if_it_stays_nan(tmp_path: Path) -> None:
    content = build_checkpoint()
    (tmp_path / "in").write_bytes(content[:-12] + b"\x01\x00\xa0\xff" + content[-8:])
    assert edited(tmp_path / "in", tmp_path / "out", "optimizer.state.fx_best=nan")[-12:-8] == b"\x01\x00\xa0\xff"
    assert edited(tmp_path / "in", tmp_path / "out", "optimizer.state.fx_prev=nan")[-8:-4] == b"\x00\x00\xc0\x7f"


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("magic=1", "magic: expected 0x67676370 ('ggcp'), found 0x1"),
        ("version=1", "version: expected 0, found 1"),
        ("train_its=-1", "train_its: expected a value of type u32, found -1"),
        ("train_its=4294967296", "train_its: expected a value of type u32"),
        ("train_its=many", "train_its is a number of type u32, got 'many'"),
        ("train_its=1.5", "train_its is a number of type u32, got '1.5'"),
        ("train_its=", "train_its is a number of type u32, got ''"),
        ("optimizer.state.fx_best=1e39", "optimizer.state.fx_best: 1e39 is too large"),
        ("optimizer.state.fx_best=1e999", "optimizer.state.fx_best: 1e999 is too large"),
        ("hparams.n_layer=3", "layers: expected 3 elements (n_layer), found 2"),
        ("hparams.n_embd=32", "tok_embeddings.ne[0]: expected 32 (n_embd), found 16"),
        ("layers[1].w1.ne[1]=64", "layers[1].w1.ne[1]: expected 48 (n_ff), found 64"),
        ("norm.n_dims=2", "norm.n_dims: expected 1, found 2"),
        ("norm.type=1", "norm.type: expected 0 (F32), found 1"),
        ("norm.name_len=3", "norm.name: expected 3 bytes, found 11"),
        ("optimizer.version=2", "optimizer.version: expected 0 or 1, found 2"),
        ("optimizer.past=3", "optimizer.state.pf.n_dims: expected 1"),
        ("optimizer.nx=5", "optimizer.state.m.ne[0]: expected 5 (nx), found 16976"),
        ("n_ff=64", "n_ff follows from other fields, so it cannot be set"),
        ("optimizer.type=lbfgs", "optimizer.type follows from other fields, so it cannot be set"),
        ("hparams=1", "hparams is not a single value"),
        ("layers=1", "layers is not a single value"),
        ("norm.padding=00", "norm.padding has 5 bytes, got 1"),
        ("norm.padding=xy", "norm.padding is bytes, which are written in hex; got 'xy'"),
        ("norm=1", "norm.data is the data of a tensor"),
    ],
)
def test_what_the_format_does_not_allow(assignment: str, message: str, tmp_path: Path) -> None:
    error = refused(ADAM, tmp_path / "out", assignment)
    assert isinstance(error, UsageError)
    assert message in error.message


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    error = refused(ADAM, tmp_path / "out", "train_itz=1")
    assert isinstance(error, PathError)
    assert "train_its" in error.hint
    assert "not an assignment" in refused(ADAM, tmp_path / "out", "train_its").message
    assert "not an assignment" in refused(ADAM, tmp_path / "out", "=1").message
    twice = refused(ADAM, tmp_path / "out", "layers[0].wq.name=a", "layers[00].wq.name=b")
    assert twice.message == "layers[0].wq.name is set twice"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((16, 8), "<f4"), "expected float32 of shape (16, 16) for layers[0].wq.data, found float32"),
        (np.zeros((16, 16), "<f8"), "found float64 of shape (16, 16)"),
        (np.zeros((4, 8, 8), "<f4"), "found float32 of shape (4, 8, 8)"),
        (np.zeros((16, 16), "<i4"), "found int32 of shape (16, 16)"),
    ],
)
def test_arrays_that_do_not_fit(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "wq.npy", array)
    assert message in refused(ADAM, tmp_path / "out", f"layers[0].wq=@{tmp_path / 'wq.npy'}").message


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no array")
    (tmp_path / "empty").touch()
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("text", "empty", "objects.npy"):
        assert "is not a .npy file" in refused(ADAM, tmp_path / "out", f"norm=@{tmp_path / name}").message
    assert "several arrays" in refused(ADAM, tmp_path / "out", f"norm=@{tmp_path / 'two.npz'}").message
    error = refused(ADAM, tmp_path / "out", f"norm=@{tmp_path / 'none'}")
    assert isinstance(error, FileError)
    assert "No such file" in error.message


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("version=4", "version: expected 2 or 3, found 4, a later version"),
        ("metadata_kv_count=3", "metadata_kv: expected 3 elements"),
        ("metadata_kv[0].value_type=4", "metadata_kv[0].value: expected a value of type u32, found 'llama'"),
        ("general.architecture.value_type=4", "general.architecture: expected a value of type u32, found 'llama'"),
        ("general.architecture.value_type=x", "general.architecture.value_type is a number of type u32, got 'x'"),
        ("general.alignment:u32=0", "general.alignment: expected a power of two"),
        ("optimizer.just_initialized=2", "expected 0 or 1, found 2"),
        ("llama.block_count=-1", "expected a value of type u32, found -1"),
        ("alignment=64", "alignment follows from other fields"),
    ],
)
def test_what_gguf_does_not_allow(assignment: str, message: str, tmp_path: Path) -> None:
    write_as_trainer(tmp_path / "in", ADAM)
    assert message in refused(tmp_path / "in", tmp_path / "out", assignment).message


def test_a_damaged_file_is_not_edited(tmp_path: Path) -> None:
    with open_file(TRUNCATED, partial=True) as file:
        wanted = changes(file, [parse_assignment("train_its=0")])
        for act in (lambda: edit(file, tmp_path / "out", wanted), lambda: check(file, wanted)):
            with pytest.raises(MalformedError):
                act()
    assert os.listdir(tmp_path) == []


def test_the_file_itself_and_existing_files_are_not_replaced_unasked(tmp_path: Path) -> None:
    path, other = tmp_path / "in.ggcp", tmp_path / "other"
    path.write_bytes(ADAM.read_bytes())
    other.write_bytes(b"old")
    with open_file(path) as file:
        wanted = changes(file, [parse_assignment("train_its=0")])
        with pytest.raises(FileError, match="output and input are the same file"):
            edit(file, path, wanted, force=True)
        with pytest.raises(FileError, match="already exists"):
            edit(file, other, wanted)
        assert file.get("train_its") == 12  # the parsed values stay as they were
    assert path.read_bytes() == ADAM.read_bytes()
    assert other.read_bytes() == b"old"


def test_an_input_that_changes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes(ADAM.read_bytes())
    with open_file(path) as file:
        wanted = changes(file, [parse_assignment("train_its=0")])
        with path.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(b"more")
        with pytest.raises(FileError, match="has changed"):
            edit(file, tmp_path / "out", wanted)
    assert os.listdir(tmp_path) == ["in.ggcp"]


def test_a_dry_run_reads_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_file(ADAM) as file:
        wanted = changes(file, [parse_assignment("train_its=0")])
        monkeypatch.setattr(Extent, "chunks", None)
        assert check(file, wanted).size == ADAM.stat().st_size


# Elements of tensors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("norm.data[0]", "0.1", {0: 0.1}),
        ("norm[-2:]", "1,2", {14: 1, 15: 2}),
        ("norm[:]", "nan", dict.fromkeys(range(16), np.nan)),
        ("output_norm.weight[3:5]", "-inf", {3: -np.inf, 4: -np.inf}),
    ],
)
def test_elements_of_a_tensor(path: str, text: str, expected: dict[int, float], tmp_path: Path) -> None:
    with open_file(ADAM) as file:
        offset = file.find("norm.data").offset
    wanted = bytearray(ADAM.read_bytes())
    for index, number in expected.items():
        struct.pack_into("<f", wanted, offset + 4 * index, number)
    assert edited(ADAM, tmp_path / "out.ggcp", f"{path}={text}") == wanted


def test_the_moments_of_one_parameter(tmp_path: Path) -> None:
    array, output = np.arange(256, dtype=np.float32).reshape(16, 16), tmp_path / "out.ggcp"
    np.save(tmp_path / "m.npy", array)
    path = "optimizer.state.m[layers[1].wk]"
    edited(ADAM, output, f"{path}=@{tmp_path / 'm.npy'}", "optimizer.state.v[norm][1:3]=7")
    with open_checkpoint(ADAM) as old, open_checkpoint(output) as new:
        before, after = old.moments(), new.moments()
        assert (after["layers[1].wk"]["m"] == array).all()
        assert after["norm"]["v"][1:3].tolist() == [7, 7]
        after["layers[1].wk"]["m"], after["norm"]["v"] = before["layers[1].wk"]["m"], before["norm"]["v"]
        for parameter, of in before.items():
            assert {name: each.tobytes() for name, each in of.items()} == {
                name: each.tobytes() for name, each in after[parameter].items()
            }


@pytest.mark.parametrize("type", ["float16", "float32"])
def test_elements_of_a_gguf_tensor_and_of_a_list(type: str, tmp_path: Path) -> None:
    path, output = tmp_path / "in.gguf", tmp_path / "out.gguf"
    data = np.arange(8, dtype=type)
    path.write_bytes(build_gguf([("list", 9, (4, [1, 2, 3]))], [("a", (8,), int(type == "float16"), data.tobytes())]))
    edited(path, output, "a.data[7]=0.5", "list[-1]=9")
    read = GGUFReader(output)
    assert read.tensors[0].data.tolist() == [*range(7), 0.5]
    assert read.fields["list"].contents() == [1, 2, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["norm[0]=1e39"], "norm[0]: 1e39 is too large for F32\nWrite inf for infinity."),
        (["norm[0:3]=1,2"], "norm[0:3] has 3 elements, got 2"),
        (["norm[0]=x"], "norm[0]: expected numbers of type F32, found 'x'"),
        (["norm[16]=1"], "norm has no element [16]\nIt has 16 elements. Give [i] or [a:b]; [-1] is the last."),
        (["norm=@{npy}", "norm[0]=1"], "norm[0] cannot be set: norm.data, of which it is a part, is set as a whole"),
        (["norm.data[2]=1", "norm[0:4]=2", "norm[9]=1"], "set the same element\nMake one of these changes only."),
        (["norm[0:2]=@{npy}"], "expected 2 elements of float32 for norm[0:2], found float32 of shape (16,)"),
    ],
)
def test_elements_that_cannot_be_set(change: list[str], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(16, np.float32))
    error = refused(ADAM, tmp_path / "out.ggcp", *(text.format(npy=tmp_path / "a.npy") for text in change))
    assert str(error).endswith(message)


@given(patches=st.lists(st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=9)), max_size=4))
def test_bytes_are_replaced_wherever_pieces_end(patches: list[tuple[int, bytes]]) -> None:
    data = bytes(range(100, 140))
    extent = Extent(0, len(data), Origin.of(io.BytesIO(data), Container(_params=Container())))
    expected = bytearray(data)
    for start, replaced in patches:
        extent, expected[start : start + len(replaced)] = PatchedExtent(extent, start, replaced), replaced
    with mock.patch("ggcp_schema.constructs.extents.CHUNK", 7):
        assert b"".join(extent.chunks()) == expected
