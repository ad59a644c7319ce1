"""Every key, type, value and tensor agrees with gguf.GGUFReader, the independent reader."""

from __future__ import annotations

import math
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType
from hypothesis import given

from ggcp_schema import FileError, MalformedError, NotACheckpointError, TruncatedError, UsageError
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.schema.gguf import GGUF
from tests.builder import build_gguf
from tests.gguf_writer import written_by_gguf
from tests.helpers import FIXTURES
from tests.strategies import BuiltGguf, ggufs

VOCABULARIES = [FIXTURES / "vocab.gguf", FIXTURES / "alice-vocab.gguf"]
U32, STRING, ARRAY = 4, 8, 9


def assert_agrees(path: Path) -> None:
    """Compare a file that has no arrays in arrays with GGUFReader's reading of it."""
    reader = GGUFReader(path)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    with open_gguf(path) as file:
        assert [(entry.key, entry.type) for entry in file.key_values.values()] == [
            (field.name, "/".join(kind.name for kind in field.types)) for field in fields if len(field.types) < 3
        ]
        for field in fields:
            found = file.value(field.name)
            expected = field.contents()
            assert same(found if not hasattr(found, "offset") else list(found), expected), field.name
        assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
        for tensor in reader.tensors:
            ours = file.tensors[tensor.name]
            assert ours.shape == tuple(map(int, tensor.shape))
            assert (ours.type, ours.offset, ours.nbytes) == (
                tensor.tensor_type.name,
                tensor.data_offset,
                tensor.n_bytes,
            )
            assert b"".join(ours.chunks()) == tensor.data.tobytes()
            if ours.type in {"F32", "F16"}:
                array = ours.array()
                assert array.dtype == np.float32
                assert array.shape == tensor.data.shape
                np.testing.assert_array_equal(array, tensor.data.astype("<f4"))


def same(found: Any, expected: Any) -> bool:
    """Equal; a NaN equals a NaN, since GGUFReader loses its bits."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float) and math.isnan(expected):
        return math.isnan(found)
    return bool(found == expected)


@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.name)
def test_a_genuine_vocabulary_agrees(path: Path) -> None:
    assert_agrees(path)


def write(path: Path, endian: GGUFEndian, alignment: int | None = None) -> None:
    """Write every scalar type, arrays of every type and tensors of several, with gguf's own writer."""
    with written_by_gguf(path, endianess=endian) as writer:
        if alignment is not None:
            writer.add_custom_alignment(alignment)
        scalars = {
            "uint8": 255,
            "int8": -128,
            "uint16": 65535,
            "int16": -32768,
            "uint32": 1 << 31,
            "int32": -(1 << 31),
            "float32": 0.1,
            "bool": True,
            "string": "naïve 😀",
            "uint64": 1 << 63,
            "int64": -(1 << 63),
            "float64": 1e300,
        }
        for name, value in scalars.items():
            getattr(writer, f"add_{name}")(f"scalar.{name}", value)
            kind = GGUFValueType[name.upper()]
            values = [value] * 3 if name != "float32" else [0.5, math.inf, math.nan]
            writer.add_key_value(f"array.{name}", values, GGUFValueType.ARRAY, sub_type=kind)
        rng = np.random.default_rng(1)
        swapped = endian == GGUFEndian.BIG
        for dtype in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64):
            values = (rng.standard_normal((3, 2, 5)) * 50).astype(dtype)
            writer.add_tensor(np.dtype(dtype).name, values)
        if not swapped:  # gguf swaps the bytes of quantized data like those of uint8, not at all
            for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0, GGMLQuantizationType.BF16):
                data = gguf.quantize(rng.standard_normal((4, 64)).astype(np.float32), kind)
                writer.add_tensor(kind.name, data, raw_dtype=kind)


@pytest.mark.parametrize("endian", [GGUFEndian.LITTLE, GGUFEndian.BIG], ids=lambda endian: endian.name)
@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
@pytest.mark.parametrize("version", [2, 3])
def test_files_of_ggufs_own_writer_agree(
    tmp_path: Path, endian: GGUFEndian, alignment: int | None, version: int
) -> None:
    path = tmp_path / "x.gguf"
    write(path, endian, alignment)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I" if endian == GGUFEndian.LITTLE else ">I", version)
    path.write_bytes(data)
    assert_agrees(path)
    assert GGUF.build(GGUF.parse(bytes(data))) == data
    with open_gguf(path) as file:
        assert file.byte_order == endian.name.lower()
        assert file.value("scalar.float64") == 1e300
        assert list(file.value("array.float32"))[:2] == [0.5, math.inf]


@given(built=ggufs())
def test_any_file_agrees(built: BuiltGguf, tmp_path_factory: pytest.TempPathFactory) -> None:
    nested = any(kind == ARRAY and value[0] == ARRAY for kind, value in built.keys.values())
    alignment = built.keys.get("general.alignment", (4, 32))[1]
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(built.data)
    with open_gguf(path) as file:
        assert list(file.key_values) == list(built.keys)
        assert file.expected_size is not None
        assert file.expected_size <= len(built.data) < file.expected_size + alignment
    empty = any(kind == ARRAY and not value[1] for kind, value in built.keys.values())
    if not nested and not empty and alignment.bit_count() == 1:  # what GGUFReader can read
        assert_agrees(path)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_elements_are_decoded_in_the_byte_order_of_the_file(tmp_path: Path, kind: str, order: str) -> None:
    """BF16 by hand: the upper half of a float32."""
    values = np.array([1.5, -2.0, 0.0, 65280.0, np.inf], np.float32)
    words = {
        "F32": values.astype(order + "f4"),
        "F16": values.astype(order + "f2"),
        "BF16": (values.view(np.uint32) >> 16).astype(order + "u2"),
    }[kind]
    path = tmp_path / "x.gguf"
    path.write_bytes(
        build_gguf([], [("t", (5,), {"F32": 0, "F16": 1, "BF16": 30}[kind], words.tobytes())], order=order)
    )
    with open_gguf(path) as file:
        tensor = file.tensors["t"]
        np.testing.assert_array_equal(tensor.array(), values)
        np.testing.assert_array_equal(np.concatenate([*tensor.values(1, 4)]), tensor.array()[1:4])
        assert not tensor.array().flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            tensor.array()[0] = 1


# Names and damage ------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.gguf"
    keys = [("general.architecture", STRING, "llama"), ("list", ARRAY, (STRING, ["a", "b", "c"])), ("n[0]", U32, 7)]
    path.write_bytes(build_gguf(keys, [("blk.0.attn_q.weight", (2,), 0, bytes(8)), ("u", (1,), 0, bytes(4))]))
    return path


def test_a_key_a_tensor_or_a_path_finds_its_field(file: Path) -> None:
    with open_gguf(file) as opened:
        paths = {name: opened.find(name).path for name in ("list", "list[2]", "n[0]", "u", "general.architecture")}
        assert paths == {
            "list": "metadata_kv[1].value.array",
            "list[2]": "metadata_kv[1].value.array[2]",
            "n[0]": "metadata_kv[2].value",
            "u": "tensor_data[1].data",
            "general.architecture": "metadata_kv[0].value",
        }
        assert opened.get("list[2]") == "c"
        assert opened.get("metadata_kv[0].key") == "general.architecture"
        assert ("n[1]" in opened, "list[3]" in opened, "blk.0.attn_q.weight" in opened) == (False, False, True)
        with pytest.raises(
            UsageError, match=r"has no field 'general\.architectur'\nDid you mean general\.architecture"
        ):
            opened.find("general.architectur")
        assert opened.describe() == "GGUF version 3, 3 keys, 2 tensors"


def test_a_cut_file_opens_partially_with_what_is_whole(file: Path) -> None:
    data = file.read_bytes()
    with open_gguf(file) as opened:
        places = {leaf.path: leaf.end for leaf in opened.root.leaves()}
    for size in range(len(data) - 29, 3, -1):  # the last tensor has 4 bytes and 28 of padding
        os.truncate(file, size)
        with pytest.raises(MalformedError):
            open_gguf(file)
        with open_gguf(file, partial=True) as opened:
            assert isinstance(opened.damage, MalformedError)
            assert set(opened.key_values) <= {"general.architecture", "list", "n[0]"}
            assert all(tensor.offset + tensor.nbytes <= size for tensor in opened.tensors.values())
            for leaf in opened.root.leaves():
                assert leaf.end == places[leaf.path]
            for name in ("general.architecture", "list", "n[0]", "u", "list[1]"):
                opened.get(name)
            if isinstance(opened.damage, TruncatedError) and size >= places["data_start"]:
                assert opened.damage.file_missing == len(data) - 28 - size
                assert f"the file is {len(data) - 28 - size} byte" in str(opened.damage)


@pytest.mark.parametrize("at", [0, 4])
def test_the_fields_after_a_lost_magic_or_version_are_where_they_are(at: int, file: Path, tmp_path: Path) -> None:
    def places(path: Path, *, partial: bool) -> dict[str, tuple[int, int]]:
        with open_gguf(path, partial=partial) as opened:
            leaves = [leaf for leaf in opened.root.leaves() if leaf.path.startswith(("metadata_kv[", "tensor_infos["))]
        return {leaf.path: (leaf.offset - partial, leaf.size) for leaf in leaves}

    data, path = file.read_bytes(), tmp_path / "damaged.gguf"
    path.write_bytes(data[:at] + b"\xff" + data[at + 1 : 8] + b"\xff" + data[8:])
    assert places(path, partial=True) == places(file, partial=False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "The file is empty"),
        (b"GGU", "The file is too short to identify"),
        (b"pcgg\0\0\0\0", "This is a ggcp checkpoint"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(NotACheckpointError, match=message):
        open_gguf(path)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        open_gguf(tmp_path / "nothing.gguf")


def test_the_padding_of_a_huge_alignment_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(build_gguf([("general.alignment", U32, 1 << 24)], []))
    os.truncate(path, 1 << 24)
    tracemalloc.start()
    try:
        with open_gguf(path) as file:
            assert file.find("end_padding").end == 1 << 24
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
