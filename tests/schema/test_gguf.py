"""The GGUF schema: what it parses it builds, byte for byte, and false numbers cost nothing."""

from __future__ import annotations

import copy
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import Field, FieldError, LazyList, root_field
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.schema.gguf import GGUF
from tests.builder import build_gguf
from tests.helpers import FIXTURES, CountingStream
from tests.strategies import BuiltGguf, ggufs

VOCABULARIES = [FIXTURES / "vocab.gguf", FIXTURES / "alice-vocab.gguf"]
U32, STRING, ARRAY = 4, 8, 9
F32_64 = [(f"t{index}", (16,), 0, bytes([index]) * 64) for index in range(3)]


def tree(data: bytes) -> Field:
    return root_field(GGUF, GGUF.parse(data))


def plain(value: Any) -> Any:
    """A parsed value as the builder takes it: an array as (type, items)."""
    if isinstance(value, dict):
        return value["type"], [plain(item) for item in value["array"]]
    return value


def error_of(data: bytes) -> FieldError:
    with pytest.raises(FieldError) as caught:
        GGUF.parse(data)
    return caught.value


@pytest.mark.parametrize("path", VOCABULARIES, ids=lambda path: path.name)
def test_a_genuine_vocabulary_is_built_back(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    assert GGUF.build(GGUF.parse(data)) == data
    parsed = GGUF.parse_file(path)
    GGUF.build_file(parsed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


@given(ggufs())
def test_whatever_a_file_holds_it_is_built_back(built: BuiltGguf) -> None:
    parsed = GGUF.parse(built.data)
    assert GGUF.build(parsed) == GGUF.build(copy.deepcopy(parsed)) == built.data
    assert parsed == GGUF.parse(built.data)
    for name in ("byte_order", "alignment", "data_start"):  # they follow from the other fields
        del parsed[name]
    if built.order == "<":
        assert GGUF.build(parsed) == built.data


@given(ggufs())
def test_the_values_are_those_that_were_written(built: BuiltGguf) -> None:
    parsed = GGUF.parse(built.data)
    found = {item.key: (item.value_type, plain(item.value)) for item in parsed.metadata_kv}
    assert str(found) == str(built.keys)  # as text a NaN equals a NaN
    assert parsed.byte_order == {"<": "little", ">": "big"}[built.order]
    for info, tensor in zip(parsed.tensor_infos, parsed.tensor_data, strict=True):
        shape, content = built.tensors[info.name]
        assert tuple(info.dimensions) == shape
        assert b"".join(tensor.data.chunks()) == content


@given(ggufs())
def test_the_leaves_tile_the_file(built: BuiltGguf) -> None:
    root, end = tree(built.data), 0
    for leaf in root.leaves():
        assert leaf.offset == end, leaf.path
        end += leaf.size
        same = root.find(leaf.steps)
        assert same is not None
        assert (same.path, same.offset, same.size) == (leaf.path, leaf.offset, leaf.size)
        for offset in {leaf.offset, end - 1} if leaf.size else ():
            at = root.at(offset)
            assert at is not None
            assert at.path == leaf.path
    assert end == len(built.data)


@given(ggufs(), st.data())
def test_a_cut_file_is_read_up_to_the_cut(built: BuiltGguf, data: st.DataObject) -> None:
    size = data.draw(st.integers(4, len(built.data)))
    whole = {leaf.path: leaf.end for leaf in tree(built.data).leaves()}
    error = None
    try:
        partial = GGUF.parse(built.data[:size])
    except FieldError as caught:
        partial, error = caught.partial, caught
    assert error is None or error.missing or error.steps[-1] in {"array", "metadata_kv", "tensor_infos", "tensor_data"}
    assert error is None or error.offset + (error.missing or 0) <= len(built.data)
    leaves = [leaf for leaf in root_field(GGUF, partial).leaves() if leaf.size]
    assert all(leaf.end == whole[leaf.path] for leaf in leaves if leaf.path != "end_padding")
    assert all(leaf.end <= size for leaf in leaves)


# False numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1 << 20, 1 << 24, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("inner", [0, 6, STRING, ARRAY])
def test_a_false_array_length_costs_nothing(count: int, inner: int) -> None:
    key = ("k", ARRAY, (inner, []))
    data = build_gguf([key, ("general.architecture", STRING, "llama")])
    at = 24 + 8 + 1 + 4 + 4  # after the header, the key, the types of the value and of the elements
    data = data[:at] + struct.pack("<Q", count) + data[at + 8 :]
    stream = CountingStream(data)
    tracemalloc.start()
    try:
        with pytest.raises(FieldError) as caught:
            GGUF.parse_stream(stream)
        assert tracemalloc.get_traced_memory()[1] < 1 << 19
    finally:
        tracemalloc.stop()
    error = caught.value
    assert stream.reads < 30
    assert error.steps == ["metadata_kv", 0, "value", "array"]
    assert error.found == str(count) or error.missing


def test_a_false_length_is_an_error() -> None:
    data = build_gguf([("general.architecture", STRING, "llama")], F32_64)
    error = error_of(data[:24] + b"\xff" * 8 + data[32:])
    assert str(error).startswith("metadata_kv[0].key at offset ")
    assert "18446744073709551615" in str(error)


@pytest.mark.parametrize(("place", "name"), [(8, "tensor_infos"), (16, "metadata_kv")])
def test_a_false_count_is_an_error_after_the_last_record(place: int, name: str) -> None:
    data = build_gguf([("general.architecture", STRING, "llama")], F32_64)
    stream = CountingStream(data[:place] + b"\xff" * 8 + data[place + 8 :])
    with pytest.raises(FieldError) as caught:
        GGUF.parse_stream(stream)
    assert caught.value.steps[0] == name
    assert len(caught.value.partial[name]) < 10
    assert stream.reads < 60


@pytest.mark.parametrize("count", [100, 1 << 40, (1 << 64) - 1])
def test_keys_and_tensors_before_a_cut_are_parsed_whatever_their_counts_are(count: int) -> None:
    keys = [(f"key.{index}", U32, index) for index in range(100)]
    data = build_gguf(keys, [(f"tensor.{index}", (4,), 0, bytes(16)) for index in range(100)])
    stated = data[:8] + struct.pack("<QQ", count, 100) + data[24:]
    first = data.index(b"tensor.0") - 8
    for end in (first, first + 60, first + 600, first + 3000):
        error = error_of(stated[:end])
        whole = [info["name"] for info in error.partial.get("tensor_infos", ()) if "_size" in info]
        assert whole == [
            f"tensor.{index}" for index in range(100) if data.find(b"tensor.%d\1" % index, 0, end - 31) > 0
        ]
    stated = data[:16] + struct.pack("<Q", count) + data[24:]
    for end in (24, 60, 500, 1300):
        error = error_of(stated[:end])
        whole = [key["key"] for key in error.partial["metadata_kv"] if "_size" in key]
        assert whole == [name for name, _, _ in keys if data.find(b"%s\4" % name.encode(), 0, end - 7) > 0]
        assert error.missing


def test_a_shape_larger_than_the_file_is_a_truncation() -> None:
    data = build_gguf([], [("t", (4,), 0, bytes(16))])
    at = data.index(struct.pack("<QIQ", 4, 0, 0))
    error = error_of(data[:at] + struct.pack("<Q", 1 << 62) + data[at + 8 :])
    assert (error.steps, error.missing) == (["tensor_data", 0, "data"], (1 << 64) - 32)


def with_alignment(alignment: int) -> bytes:
    """Return a file whose alignment is 32, whatever it states."""
    data = build_gguf([("general.alignment", U32, 32)], F32_64)
    at = data.index(b"alignment") + len("alignment") + 4
    return data[:at] + struct.pack("<I", alignment) + data[at + 4 :]


@pytest.mark.parametrize("alignment", [0, (1 << 24) + 1, 1 << 31, (1 << 32) - 1])
def test_an_alignment_that_no_file_has_is_not_used(alignment: int) -> None:
    data = with_alignment(alignment)
    parsed = GGUF.parse(data)
    assert (parsed.alignment, parsed.tensor_data[0].data.nbytes, GGUF.build(parsed)) == (32, 64, data)


@pytest.mark.parametrize("alignment", [1 << 20, 1 << 24])
def test_a_false_alignment_allocates_nothing(alignment: int) -> None:
    data = with_alignment(alignment)
    tracemalloc.start()
    try:
        assert error_of(data).steps == ["padding"]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("nesting", [5, 1000, 100_000])
def test_arrays_nested_too_deeply_are_an_error(nesting: int) -> None:
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", ARRAY)
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IQ", ARRAY, 1) * nesting
    error = error_of(data)
    assert str(error).endswith(", found 9")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (build_gguf(version=4, order=">"), "version at offset 4 (0x4): expected 2 or 3, found 4, a later version "),
        (build_gguf(version=0), "version at offset 4 (0x4): expected 2 or 3, found 0"),
        (
            build_gguf([("k", U32, 7)])[:33] + b"\x0d\0\0\0" + bytes(4),
            "metadata_kv[0].value_type at offset 33 (0x21): expected 0 (UINT8), 1 (INT8), … or 12 (FLOAT64), found 13",
        ),
    ],
)
def test_what_is_not_valid(data: bytes, message: str) -> None:
    assert str(error_of(data)).startswith(message)


# Where the data lies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offsets",
    [{0: 64, 1: 0}, {1: 0}, {0: 128, 2: 0}, {1: 32, 2: 96}, {0: 0, 1: 0, 2: 0}],
    ids=["other order", "shared", "reversed", "overlapping", "all shared"],
)
@pytest.mark.parametrize("order", "<>")
def test_data_in_any_order_shared_or_overlapping_is_read_and_built_back(
    offsets: dict[int, int], order: str, tmp_path: Path
) -> None:
    data = build_gguf([], F32_64, offsets=offsets, order=order) + b"after the end"
    parsed = GGUF.parse(data)
    assert GGUF.build(parsed) == data
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with open_gguf(path) as file:
        for index, tensor in enumerate(file.tensors.values()):
            start = parsed.data_start + offsets.get(index, index * 64)
            assert (tensor.offset, b"".join(tensor.chunks())) == (start, data[start : start + 64])
        leaves = [leaf for leaf in file.root.leaves() if leaf.size]
        assert [leaf.end for leaf in leaves[:-1]] == [leaf.offset for leaf in leaves[1:]]
        assert leaves[-1].end == len(data)


@pytest.mark.parametrize("index", range(3))
def test_data_of_an_unknown_type_that_is_shared_is_built_back(index: int) -> None:
    data = bytearray(build_gguf([], F32_64, offsets={0: 0, 1: 0, 2: 0}) + b"more of the unknown")
    [offset] = (leaf.offset for leaf in tree(bytes(data)).leaves() if leaf.path == f"tensor_infos[{index}].type")
    data[offset : offset + 4] = (65_536).to_bytes(4, "little")
    parsed = GGUF.parse(bytes(data))
    assert parsed.tensor_infos[index].type == 65_536
    assert GGUF.build(parsed) == data


def test_a_gap_between_tensors_is_padding() -> None:
    data = build_gguf([], F32_64)
    start = GGUF.parse(data).data_start
    gapped = build_gguf([], F32_64, offsets={2: 64 + 64 + 96})
    gapped = gapped[: start + 128] + b"\7" * 96 + gapped[start + 128 :]
    parsed = GGUF.parse(gapped)
    assert parsed.tensor_data[2].padding == b"\7" * 96
    assert b"".join(parsed.tensor_data[2].data.chunks()) == b"\2" * 64
    assert GGUF.build(parsed) == gapped


def test_the_last_padding_may_be_missing() -> None:
    data = build_gguf([], [("t", (1,), 0, b"abcd")])
    for cut in range(29):
        short = data[: len(data) - cut]
        assert GGUF.build(GGUF.parse(short)) == short
    assert error_of(data[: len(data) - 29]).missing == 1


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_boolean_that_is_neither_0_nor_1_is_kept(count: int) -> None:
    data = bytearray(build_gguf([("b", ARRAY, (7, [True] * count))]))
    assert list(GGUF.parse(bytes(data)).metadata_kv[0].value.array) == [True] * count
    data[-1] = 2
    parsed = GGUF.parse(bytes(data))
    assert list(parsed.metadata_kv[0].value.array) == [True] * (count - 1) + [2]
    assert GGUF.build(parsed) == GGUF.build(copy.deepcopy(parsed)) == data


def test_long_arrays_are_not_kept() -> None:
    tokens = [f"<{index}>" for index in range(1000)]
    parsed = GGUF.parse(build_gguf([("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))]))
    array = parsed.metadata_kv[0].value.array
    assert isinstance(array, LazyList)
    assert list(array) == tokens


def test_a_file_built_from_nothing_but_values() -> None:
    value = {
        "version": 3,
        "tensor_count": 1,
        "metadata_kv_count": 1,
        "metadata_kv": [{"key": "k", "value_type": ARRAY, "value": {"type": STRING, "len": 2, "array": ["a", "b"]}}],
        "tensor_infos": [{"name": "t", "n_dimensions": 1, "dimensions": [2], "type": 0, "offset": 0}],
        "tensor_data": [{"data": b"12345678"}],
        "end_padding": bytes(24),
    }
    assert GGUF.build(value) == build_gguf([("k", ARRAY, (STRING, ["a", "b"]))], [("t", (2,), 0, b"12345678")])
