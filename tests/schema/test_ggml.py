"""The files before GGUF, against files written here with `struct`, and the sizes of ggml's element types."""

from __future__ import annotations

import copy
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import FORMATS, MalformedError, TruncatedError, UsageError, open_file
from ggcp_schema.constructs import FieldError, root_field
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2, GgmlType, data_size
from ggcp_schema.schema.ggml_model import GGJT
from tests.builder import GgmlTensor, build_ggml
from tests.helpers import FIXTURES, thinned

MAGICS = {"ggml": b"lmgg", "ggmf": b"fmgg", "ggjt": b"tjgg"}
VERSIONS = [("ggml", None), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3)]
versions = pytest.mark.parametrize(("name", "version"), VERSIONS, ids=str)


def types_of(version: int | None) -> dict[int, GgmlType]:
    return GGML_TYPES if version == 3 else GGML_TYPES_UNTIL_V2


def some_tensors(version: int | None) -> list[GgmlTensor]:
    """Return a tensor of each type that the version has, with data that tells them apart."""
    tensors = []
    for number, kind in types_of(version).items():
        shape = (2 * kind.block_size, 3)
        size = 2 * kind.type_size * 3
        tensors.append((f"layers.0.{kind.name}.weight", shape, number, bytes([number + 1]) * size))
    return tensors


def test_the_sizes_of_all_types_agree_with_ggufs() -> None:
    ours = {(number, kind.name): (kind.block_size, kind.type_size) for number, kind in GGML_TYPES.items()}
    theirs = {(int(kind), kind.name): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert theirs[9, "Q8_1"] == (32, 40)  # with scales of float32, which llama.cpp has no longer
    assert {key: ours.get(key) for key in theirs} == theirs | {(9, "Q8_1"): (32, 36)}


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [("F32", [], 0), ("F32", [3], 12), ("F16", [3, 2], 12), ("Q4_0", [64, 2], 72), ("Q6_K", [256, 1, 2], 420)],
)
def test_the_size_of_a_tensor(name: str, shape: list[int], size: int) -> None:
    kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
    assert data_size(kind, shape) == size


def test_until_version_2_a_block_had_a_float32_scale() -> None:
    """llama.cpp's commits of 12 and 19 May 2023: 4 bytes became 2 for each scale."""
    by_name = {kind.name: kind for kind in GGML_TYPES.values()}
    for kind in GGML_TYPES_UNTIL_V2.values():
        scales = {"Q4_0": 1, "Q4_1": 2, "Q8_0": 1}.get(kind.name, 0)
        if kind.name in by_name:
            assert kind.type_size == by_name[kind.name].type_size + 2 * scales


# Files -----------------------------------------------------------------------------------------------------


@versions
def test_a_model_is_read_and_built_back(name: str, version: int | None, tmp_path: Path) -> None:
    tensors = some_tensors(version)
    data = build_ggml(MAGICS[name], version, tensors=tensors, ftype=7)
    schema = FORMATS[name].schema
    parsed = schema.parse(data)
    assert schema.build(parsed) == schema.build(copy.deepcopy(parsed)) == data
    assert parsed == schema.parse(data)
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    with open_file(path) as file:
        assert (file.format.name, file.damage, file.container.ftype) == (name, None, 7)
        assert file.describe() == f"{name} model with {len(tensors)} tensors of 2 tokens"
        found = [(t.name, t.shape, t.type, b"".join(t.chunks())) for t in file.tensors.values()]
        assert found == [(label, shape, types_of(version)[kind].name, raw) for label, shape, kind, raw in tensors]
        aligned = 32 if name == "ggjt" else 1
        assert all(tensor.offset % aligned == 0 for tensor in file.tensors.values())
        first = file.tensors["layers.0.F32.weight"]
        expected = np.frombuffer(tensors[0][3], "<f4").reshape(3, 2)
        np.testing.assert_array_equal(first.array(), expected)
        if version == 3:
            assert file.tensors["layers.0.Q4_0.weight"].array().shape == (3, 64)
        else:
            with pytest.raises(UsageError, match=r"layers.0.Q4_0.weight cannot be read: its type is Q4_0"):
                file.tensors["layers.0.Q4_0.weight"].array()
        assert file.find("layers.0.F16.weight").path == "tensors[1]"


@versions
def test_the_leaves_tile_the_file(name: str, version: int | None) -> None:
    data = build_ggml(MAGICS[name], version, tensors=some_tensors(version))
    schema = FORMATS[name].schema
    root, end = root_field(schema, schema.parse(data)), 0
    for leaf in root.leaves():
        assert leaf.offset == end
        end += leaf.size
        for offset in {leaf.offset, end - 1} if leaf.size else ():
            at = root.at(offset)
            assert at is not None
            assert at.path == leaf.path
    assert end == len(data)


@versions
@given(tokens=st.lists(st.tuples(st.binary(max_size=5), st.floats(width=32)), max_size=150))
def test_any_vocabulary_is_built_back(name: str, version: int | None, tokens: list[tuple[bytes, float]]) -> None:
    data = build_ggml(MAGICS[name], version, tokens=tokens)
    schema = FORMATS[name].schema
    parsed = schema.parse(data)
    assert [token.text for token in parsed.tokens] == [text for text, _ in tokens]
    assert schema.build(parsed) == data


@pytest.mark.parametrize("name", ["vocab.ggjt", "alice-vocab.ggjt"])
def test_a_genuine_vocabulary(name: str) -> None:
    """The numbers of tokens are those of its fixture's description; the texts are llama's."""
    data = (FIXTURES / name).read_bytes()
    parsed = GGJT.parse(data)
    assert GGJT.build(parsed) == data
    assert len(parsed.tokens) == parsed.hparams.n_vocab == {"vocab.ggjt": 320, "alice-vocab.ggjt": 768}[name]
    with open_file(FIXTURES / name) as file:
        assert file.describe() == f"ggjt vocabulary of {len(parsed.tokens)} tokens"
        assert not file.tensors
        assert file.get("tokens[2].text") == parsed.tokens[2].text


@versions
def test_a_cut_file_opens_partially_with_what_is_whole(name: str, version: int | None, tmp_path: Path) -> None:
    tensors = some_tensors(version)[:2]
    data = build_ggml(MAGICS[name], version, tensors=tensors)
    whole = {len(build_ggml(MAGICS[name], version, tensors=tensors[:count])): count for count in range(3)}
    path = tmp_path / "cut.bin"
    path.write_bytes(data)
    for size in sorted({*whole, *thinned(range(4, len(data)))}, reverse=True):
        os.truncate(path, size)
        with open_file(path, partial=True) as file:
            assert all(tensor.offset + tensor.nbytes <= size for tensor in file.tensors.values())
            assert all(leaf.end <= size for leaf in file.root.leaves())
            if size in whole:  # a vocabulary file, or fewer tensors: the file does not say how many it has
                assert (file.damage, len(file.tensors)) == (None, whole[size])
                continue
            assert isinstance(file.damage, MalformedError)
            assert 0 <= file.damage.offset <= size
        with pytest.raises(MalformedError):
            open_file(path)


@pytest.mark.parametrize(
    ("at", "word", "message"),
    [
        (4, 4, "version at offset 4 (0x4): expected 1, 2 or 3, found 4"),
        (8, 1 << 31, "tokens at offset 36 (0x24): expected n_vocab to be at most "),
    ],
)
def test_false_numbers(at: int, word: int, message: str) -> None:
    data = build_ggml(b"tjgg", 3, tensors=some_tensors(3))
    data = data[:at] + struct.pack("<I", word) + data[at + 4 :]
    with pytest.raises(FieldError) as caught:
        GGJT.parse(data)
    assert str(caught.value).startswith(message)


def test_a_type_that_does_not_exist_in_this_version() -> None:
    for version, valid in ((2, False), (3, True)):
        data = build_ggml(b"tjgg", version, tensors=[("q", (256, 1), 12, bytes(144))])
        if valid:
            assert GGJT.build(GGJT.parse(data)) == data
        else:
            with pytest.raises(FieldError, match=r"tensors\[0\].type at offset .*: expected 0 \(F32\), .*, found 12"):
                GGJT.parse(data)


def test_a_tensor_cut_in_its_data_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    path.write_bytes(build_ggml(b"tjgg", 3, tensors=[("t", (4,), 0, bytes(16))])[:-3])
    with pytest.raises(TruncatedError, match=r"tensors\[0\]\.data .* found 13 before .*: the file is at least 3 bytes"):
        open_file(path)
