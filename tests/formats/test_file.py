"""What all open files have in common: fields by path and by place, with suggestions for paths that do not exist."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import (
    FORMATS,
    File,
    FileError,
    GgcpError,
    MalformedError,
    NotACheckpointError,
    PathError,
    TruncatedError,
    UsageError,
    open_file,
)
from ggcp_schema.cli.output import json_text
from ggcp_schema.files.source import Source
from ggcp_schema.formats.paths import parse_path
from ggcp_schema.inspect.summary import summarize
from ggcp_schema.inspect.validate import validate
from tests.builder import build_checkpoint, build_ggml, build_gguf
from tests.helpers import FIXTURES, GENUINE, TRUNCATED
from tests.lora.lora_files import ggla

PATH = FIXTURES / "v1-adam.ggcp"
SMALL = {
    "ggcp": build_checkpoint(past=2),
    "gguf": build_gguf([("general.architecture", 8, "llama")], [("t", (2,), 0, bytes(8))]),
    "ggjt": build_ggml(b"tjgg", 3, tensors=[("t", (2,), 0, bytes(8))]),
    "ggmf": build_ggml(b"fmgg", 1, tensors=[("t", (2,), 0, bytes(8))]),
    "ggml": build_ggml(b"lmgg", None, tensors=[("t", (2,), 0, bytes(8))]),
    **{name: (FIXTURES / f"lora/adam.{name}").read_bytes() for name in ("ggla", "ggcl")},
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_opens_its_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(SMALL[name])
    with open_file(path) as file:
        assert isinstance(file, File)
        assert (file.format.name, file.size, file.path, file.damage) == (name, len(SMALL[name]), str(path), None)
        assert next(leaf.path for leaf in file.root.leaves()) == "magic"
        assert file.tensors
        for tensor in filter(lambda tensor: tensor.nbytes, file.tensors.values()):
            leaf = file.at(tensor.offset)
            assert leaf is not None
            assert (leaf.type, leaf.offset, leaf.size) == ("data", tensor.offset, tensor.nbytes)
        assert file.describe() in repr(file)


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_file_of_each_format_says_that_it_is_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(SMALL[name][:60])
    with open_file(path, partial=True) as file:
        assert file.damage is not None
        assert "damaged" in file.describe()
        with pytest.raises(GgcpError) as caught:
            file.find("no such field")
        assert str(caught.value) == str(file.damage)  # what is not there may lie after the damage
        assert file.get("no such field", 7) == 7


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("layers[1].wq.ne[0]", ("layers", 1, "wq", "ne", 0)),
        ("norm", ("norm",)),
        ("[3]", (3,)),
        ("a b.c-d", ("a b", "c-d")),
        ("layers[-1]", None),
        ("norm.data[-]", None),
        ("layers[", None),
        ("layers]", None),
        ("a..b", None),
        ("a.", None),
        ("layers[x]", None),
        ("layers[" + "9" * 5000 + "]", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_steps_of_a_path(path: str, steps: tuple[str | int, ...] | None) -> None:
    assert parse_path(path) == steps


@given(st.text(max_size=30) | st.text("layers[]0.wq-", max_size=30))
def test_any_text_is_a_field_or_a_path_error(text: str) -> None:
    with open_file(PATH) as file:
        if text in file:
            steps = file.find(text).steps
            assert text in {"", "file"} or steps in {parse_path(text), file.alias(text)}
        else:
            with pytest.raises(PathError) as caught:
                file.find(text)
            assert repr(text) in caught.value.message


def named(format: str, name: str) -> bytes:
    """Return a file of a format in which a tensor has this name, and in GGUF files a key too."""
    keys = [("general.architecture", 8, "llama"), (name, 9, (4, [1, 2]))]
    tensors = [(name, (2, 2), 0, bytes(16)), ("t", (2,), 0, bytes(8))]
    return {
        "gguf": lambda: build_gguf(keys, tensors),
        "ggjt": lambda: build_ggml(b"tjgg", 3, tensors=tensors),
        "ggmf": lambda: build_ggml(b"fmgg", 1, tensors=tensors),
        "ggml": lambda: build_ggml(b"lmgg", None, tensors=tensors),
        "ggla": lambda: ggla({name: ((2, 4), (2, 4))}),
    }[format]()


@pytest.mark.parametrize("name", ["gguf", "ggjt", "ggmf", "ggml", "ggla"])
def test_keys_and_tensors_named_like_fields_hide_none(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(named(name, "x"))
    with open_file(path) as file:
        fields = [leaf.path for leaf in file.root.leaves()] + [field.path for field in file.root.children()]
    for other in (*fields, "", "version", "tensor_data", "optimizer.params.adam"):
        path.write_bytes(named(name, other))
        with open_file(path) as file:
            for leaf in file.root.leaves():
                found = file.field(leaf.path)
                assert found is not None
                assert found.steps == leaf.steps
            json_text(summarize(file, data=True))


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_that_is_not_utf8(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(SMALL[name])
    with open_file(path) as file:
        for text in ("\udcff", "t\udcff[0]", "[" * 5000, f"t[{'9' * 5000}]"):
            assert text not in file
            with pytest.raises(PathError):
                file.find(text)


def test_a_path_error_is_a_key_error_and_names_the_nearest() -> None:
    with open_file(PATH) as file:
        with pytest.raises(KeyError) as caught:
            file.find("hparams.n_emb")
        assert isinstance(caught.value, UsageError)
        assert str(caught.value).startswith(f"{PATH} has no field 'hparams.n_emb'\nDid you mean hparams.n_embd, ")
        for wrong, right in (
            ("n_layer", "hparams.n_layer"),
            ("layers[0].wqq", "layers[0].wq"),
            ("optimizer.n_x", "optimizer.nx"),
            ("Norm", "norm"),
        ):
            with pytest.raises(PathError, match=rf"Did you mean .*{right.replace('[', '.').replace(']', '.')}"):
                file.find(wrong)
        with pytest.raises(PathError, match=r"keys\(\) lists the fields"):
            file.find("zzzzzzzz")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("optimizer.loss", "Did you mean optimizer.state.fx_prev, optimizer.state.fx_best?"),
        ("wq.data", "Did you mean layers[0].wq.data?"),
        ("NE[0]", "Did you mean tok_embeddings.ne[0], norm.ne[0]"),
        ("layers[2]", "layers has 2 elements, [0] to [1]."),
        ("layers[99].wq.data", "layers has 2 elements, [0] to [1]."),
        ("layers[1].wq.ne[2]", "layers[1].wq.ne has 2 elements, [0] to [1]."),
        ("layers[1].wx[2]", "Did you mean layers[1].w"),
        ("norm[0]", "Did you mean norm"),
        ("optimizer.state.pf.ne[0]", "optimizer.state.pf.ne has 0 elements."),
    ],
)
def test_the_hint_names_paths_with_that_ending_or_the_size_of_the_list(wrong: str, hint: str) -> None:
    with open_file(PATH) as file, pytest.raises(PathError) as caught:
        file.find(wrong)
    assert caught.value.hint.startswith(hint)


def test_fields_by_place() -> None:
    with open_file(PATH) as file:
        assert file.at(0).path == "magic"
        assert file.at(file.size - 1).path == "optimizer.state.n_no_improvement"
        assert file.at(file.size) is None
        assert file.at(-1) is None
    with open_file(TRUNCATED, partial=True) as file:
        assert file.at(file.size - 1).path == "layers[0].w3.name"


def test_the_whole_file_is_a_field_too() -> None:
    with open_file(PATH) as file:
        for name in ("", "file"):
            assert (file.find(name).offset, file.find(name).size) == (0, file.size)


def test_names_of_fields_and_whether_they_are_there() -> None:
    with open_file(PATH) as file:
        names = ["magic", "version", "train_its", "train_samples", "train_tokens", "hparams", "tok_embeddings", "norm"]
        assert list(file) == [*names, "output", "n_ff", "layers", "optimizer"]
        assert "norm" in file
        assert "layers[1].wq.ne[1]" in file
        assert "blk.1.attn_q.weight" in file
        assert "norn" not in file
        assert 3 not in file
        assert (file.get("optimizer.nx"), file.get("optimizer.state.mh"), file.get("optimizer.params", "none")) == (
            16976,
            None,
            "none",
        )


def test_nothing_stays_open_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"?")
    before = os.listdir("/proc/self/fd")
    for partial in (False, True):
        with pytest.raises(NotACheckpointError):
            open_file(tmp_path / "bad", partial=partial)
    with pytest.raises(GgcpError):
        open_file(TRUNCATED)
    assert os.listdir("/proc/self/fd") == before


def test_files_can_be_closed_twice_and_their_fields_stay() -> None:
    for path in GENUINE[:2]:
        file = open_file(path)
        file.close()
        file.close()
        assert file.find("hparams.n_embd").value > 0


def test_a_place_in_a_file_that_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(build_gguf([("texts", 9, (8, ["a", "bc"] * 3000))], []))
    with open_file(path) as file:
        offset = file.find("texts[5000]").offset
        leaf = file.at(offset + 8)
        assert leaf is not None
        assert leaf.offset == offset
        os.truncate(path, 100)
        with pytest.raises(FileError, match="has changed"):
            file.at(offset)
        with pytest.raises(FileError, match="has changed"):
            list(file.root.leaves())


@pytest.mark.parametrize("name", SMALL)
def test_a_file_is_a_mapping_of_its_fields(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(SMALL[name])
    with open_file(tmp_path / "x") as file:
        assert dict(file).keys() == set(file)
        assert all(file[path] == file.get(path) for path in file if path not in file.tensors)
        for path, tensor in file.tensors.items():
            assert file[path] is tensor or file[path] == tensor
        with pytest.raises(PathError):
            file["nowhere"]


@pytest.mark.parametrize("name", ["lora/adam.ggla", "lora/base.ggjt", "alice-vocab.ggjt"])
def test_bytes_after_the_last_tensor_are_a_finding_if_they_cannot_belong_before_it(name: str, tmp_path: Path) -> None:
    whole, path = (FIXTURES / name).read_bytes(), tmp_path / "x"
    for tail in (b"\r\n", bytes(15)):
        path.write_bytes(whole + tail)
        with open_file(path) as file, open_file(FIXTURES / name) as genuine:
            assert file.findings == (("trailing", f"{len(tail)} more bytes after the end of the file"),)
            assert file.tensors.keys() == genuine.tensors.keys()
        with closing(Source(path)) as source:
            report = validate(source)
            assert ([*report.errors], [warning.path for warning in report.warnings]) == ([], ["trailing"])
    path.write_bytes(whole[:-2] + b"\x7f" + whole[-2:])
    with pytest.raises(MalformedError, match="1 byte more, which may belong before it"):
        open_file(path)
    path.write_bytes(whole + b"\2\0\0\0\5\0")
    with pytest.raises(TruncatedError):
        open_file(path)


@pytest.mark.parametrize("count", [31, 5_000, 70_000])
@pytest.mark.parametrize("name", ["lora/adam.ggla", "lora/base.ggjt"])
def test_zeros_after_the_last_tensor_cost_no_tensor(name: str, count: int, tmp_path: Path) -> None:
    """They may be in place of more tensors where nothing tells their number; but the last one before them is not 0."""
    whole, path = (FIXTURES / name).read_bytes(), tmp_path / "x"
    path.write_bytes(whole + bytes(count))
    with open_file(path, partial=True) as file, open_file(FIXTURES / name) as genuine:
        assert (file.damage is None) == (name == "lora/base.ggjt")
        assert file.tensors.keys() == genuine.tensors.keys()
        last = [*genuine.tensors][-1]
    path.write_bytes(whole[:-1] + bytes(1 + count))
    with open_file(path, partial=True) as file:
        assert last not in file.tensors


@pytest.mark.parametrize("tail", [b"\xff" * 100, b"<html>" * 9, PATH.read_bytes()[:500]], ids=["ff", "text", "header"])
def test_what_is_no_number_after_a_complete_model_costs_no_tensor(tail: bytes, tmp_path: Path) -> None:
    """Bytes that were put into the last tensor would leave some of its numbers at the end of the file."""
    name, path = FIXTURES / "lora" / "base.ggjt", tmp_path / "x"
    whole = name.read_bytes()
    path.write_bytes(whole + tail)
    with open_file(path, partial=True) as file, open_file(name) as genuine:
        assert file.damage is not None
        assert file.tensors.keys() == genuine.tensors.keys()
        last = [*genuine.tensors][-1]
    for at in (-len(tail), -len(tail) - 1, -1500):
        path.write_bytes(whole[:at] + tail + whole[at:])
        with open_file(path, partial=True) as file:
            assert last not in file.tensors
