"""Leaf fields on their own, with made-up records."""

from __future__ import annotations

import array
import copy
import io
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import (
    Array,
    Bytes,
    Chars,
    Computed,
    Const,
    DataGoneError,
    Extent,
    FieldError,
    Float32b,
    Float32l,
    Float64b,
    Float64l,
    Int8ul,
    Int16ub,
    Int32sl,
    Int32ul,
    OneOf,
    Padding,
    PascalString,
    Pass,
    Payload,
    Struct,
    Terminated,
    extents,
    fields,
    this,
)

SIGNALLING = {Float32l: b"\x01\x00\xa0\x7f", Float32b: b"\x7f\xa0\x00\x01"}


def parse_error(record: Struct, data: bytes) -> FieldError:
    with pytest.raises(FieldError) as caught:
        record.parse(data)
    return caught.value


def build_error(record: Struct, value: object) -> str:
    with pytest.raises(FieldError) as caught:
        record.build(value)
    return str(caught.value)


# Numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [Float32l, Float32b], ids=["little", "big"])
@given(raw=st.binary(min_size=4, max_size=4) | st.sampled_from([*SIGNALLING.values(), b"\xff" * 4]))
def test_every_float32_is_built_bit_for_bit(field: object, raw: bytes) -> None:
    value = field.parse(raw)
    assert field.build(value) == raw
    assert str(value) == str(struct.unpack("<f" if field is Float32l else ">f", raw)[0])


@pytest.mark.parametrize("field", [Float64l, Float64b], ids=["little", "big"])
@given(raw=st.binary(min_size=8, max_size=8) | st.sampled_from([b"\x01" + bytes(5) + b"\xf4\x7f", b"\xff" * 8]))
def test_every_float64_is_built_bit_for_bit(field: object, raw: bytes) -> None:
    assert field.build(field.parse(raw)) == raw


def test_a_nan_equals_the_same_bits_only_and_survives_copying() -> None:
    quiet, signalling = b"\x00\x00\xc0\x7f", SIGNALLING[Float32l]
    value = Float32l.parse(signalling)
    assert value == Float32l.parse(signalling)
    assert value != Float32l.parse(quiet)
    assert value != math.nan  # noqa: PLW0177 - no NaN without bits equals it
    assert Float32l.build(copy.deepcopy(value)) == signalling
    assert {value: 1}[Float32l.parse(signalling)] == 1


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        (Int32ul, 1 << 32, "u32"),
        (Int32ul, -1, "u32"),
        (Int16ub, 1.5, "u16"),
        (Int32sl, "7", "i32"),
    ],
)
def test_a_value_that_does_not_fit_the_type_is_an_error(field: object, value: object, kind: str) -> None:
    record = Struct("a" / Int8ul, "n" / field)
    assert build_error(record, {"a": 1, "n": value}) == (
        f"n at offset 1 (0x1): expected a value of type {kind}, found {value!r}"
    )


def test_a_float_too_large_for_float32_is_an_error_and_not_infinity() -> None:
    assert build_error(Struct("x" / Float32l), {"x": 1e39}).startswith(
        "x at offset 0 (0x0): expected a value of type f32"
    )


# Rules -----------------------------------------------------------------------------------------------------


def test_a_constant_is_shown_in_hex_with_its_letters() -> None:
    record = Struct("magic" / Const(0x67676370, Int32ul))
    assert str(parse_error(record, b"GGUF")) == (
        "magic at offset 0 (0x0): expected 0x67676370 ('ggcp'), found 0x46554747 ('FUGG')"
    )
    assert str(parse_error(record, b"\x01\x02\x03\x84")).endswith("expected 0x67676370 ('ggcp'), found 0x84030201")


def test_a_constant_may_be_an_expression_and_need_not_be_given() -> None:
    record = Struct("n" / Int8ul, "twice" / Const(this.n * 2, Int8ul))
    assert record.build({"n": 3}) == b"\3\6"
    assert str(parse_error(record, b"\3\7")) == "twice at offset 1 (0x1): expected 6 (n * 2), found 7"
    assert build_error(record, {"n": 3, "twice": 7}) == "twice at offset 1 (0x1): expected 6 (n * 2), found 7"


def test_a_number_outside_its_range_is_refused_both_ways() -> None:
    record = Struct("n" / OneOf(Int8ul, range(5)))
    assert str(parse_error(record, b"\5")) == "n at offset 0 (0x0): expected 0 to 4, found 5"
    assert build_error(record, {"n": 5}) == "n at offset 0 (0x0): expected 0 to 4, found 5"


def test_valid_numbers_are_listed_with_their_meaning() -> None:
    record = Struct("kind" / OneOf(Int8ul, {1: "one", 2: "", 7: "seven"}))
    assert str(parse_error(record, b"\3")).endswith("expected 1 (one), 2 or 7 (seven), found 3")


# Bytes and text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 65, 0xFFFFFFFF])
@pytest.mark.parametrize("field", [Chars(this.length), Bytes(this.length), Padding(this.length)])
def test_text_beyond_the_end_of_the_file_says_what_is_missing(field: object, length: int) -> None:
    error = parse_error(Struct("length" / Int32ul, "text" / field), struct.pack("<I", length) + b"short")
    assert (error.steps, error.offset, error.missing) == (["text"], 4, length - 5)


def test_text_that_is_not_utf8_is_built_back() -> None:
    record = Struct("text" / PascalString(Int32ul))
    data = b"\4\0\0\0a\xff\xc3\xa9"
    assert record.parse(data).text == "a\udcffé"
    assert record.build(record.parse(data)) == data


def test_text_that_cannot_be_encoded_is_an_error_with_a_path() -> None:
    assert build_error(Struct("text" / PascalString(Int32ul)), {"text": "\ud800"}).startswith("text at offset 0")
    assert build_error(Struct("text" / PascalString(Int8ul)), {"text": "a" * 256}) == (
        "text at offset 0 (0x0): expected a value of type u8, found 256"
    )


@pytest.mark.parametrize("value", ["ab", b"abc", 2])
def test_bytes_of_another_length_or_type_are_refused(value: object) -> None:
    found = str(len(value)) if isinstance(value, bytes) else repr(value)
    assert build_error(Struct("b" / Bytes(2)), {"b": value}) == f"b at offset 0 (0x0): expected 2 bytes, found {found}"


# Padding ---------------------------------------------------------------------------------------------------


def test_padding_counts_from_the_start_of_the_file_and_not_of_the_record() -> None:
    inner = Struct("byte" / Int8ul, "padding" / Padding(multiple_of=8), "end" / Int8ul)
    outer = Struct("head" / Int32ul, "inner" / inner)
    # head 4 bytes, byte 1 → 5: 3 bytes up to 8, not the 7 that the inner record's own start would give
    parsed = outer.parse(b"HEAD" + b"a" + b"pad" + b"z")
    assert (parsed.inner.padding, parsed.inner.end) == (b"pad", ord("z"))
    assert outer.build(parsed) == b"HEADapadz"


@pytest.mark.parametrize("field", [Padding(multiple_of=4), Padding(3), Padding(until=lambda record: 4)])
def test_padding_that_is_not_given_is_zero(field: object) -> None:
    assert Struct("byte" / Int8ul, "padding" / field).build({"byte": 1}) == b"\x01\0\0\0"


def test_padding_of_the_wrong_length_is_refused_when_building() -> None:
    record = Struct("byte" / Int8ul, "padding" / Padding(multiple_of=4))
    assert build_error(record, {"byte": 1, "padding": b"x"}) == (
        "padding at offset 1 (0x1): expected 3 bytes of padding, found 1 (omit it to get zeros)"
    )
    assert build_error(record, {"byte": 1, "padding": 3}).endswith("expected 3 bytes of padding, found 3")


@pytest.mark.parametrize("data", [b"\1", b"\1\0\0", b"\1\0\0\0"])
def test_optional_padding_may_end_early_and_is_built_back(data: bytes) -> None:
    record = Struct("byte" / Int8ul, "padding" / Padding(multiple_of=4, optional=True), Terminated)
    assert record.build(record.parse(data)) == data


def test_a_huge_modulus_allocates_nothing() -> None:
    """BufferedReader.read would allocate what it is asked for."""
    error = parse_error(Struct("byte" / Int8ul, "padding" / Padding(multiple_of=1 << 60)), b"\1abc")
    assert (error.offset, error.missing) == (1, (1 << 60) - 4)
    assert (
        Struct("byte" / Int8ul, "padding" / Padding(multiple_of=1 << 60, optional=True)).parse(b"\1abc").padding
        == b"abc"
    )


def test_padding_cannot_go_backwards() -> None:
    record = Struct("offset" / Int32ul, "padding" / Padding(until=this.offset))
    assert str(parse_error(record, b"\2\0\0\0")) == (
        "padding at offset 4 (0x4): expected offset to be at least 4, the end of what precedes it, found 2"
    )


def test_a_large_gap_is_not_read_and_is_built_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MOST_READ", 4)
    record = Struct("offset" / Int32ul, "gap" / Padding(until=this.offset), "end" / Int8ul)
    data = b"\x0a\0\0\0gap of.z"[:10] + b"z"
    parsed = record.parse(data)
    assert (parsed.gap.offset, parsed.gap.nbytes, parsed.end) == (4, 6, ord("z"))
    assert record.build(parsed) == data
    parsed.offset = 9
    assert (
        build_error(record, parsed)
        == "gap at offset 4 (0x4): expected 5 bytes of padding, found 6 (omit it to get zeros)"
    )


# Data that is not read -------------------------------------------------------------------------------------

DATA = Struct("size" / Int32ul, "data" / Payload(this.size))
FLOATS = Struct("ne" / Array(2, Int32ul), "data" / Payload(4 * this.ne[0] * this.ne[1], ["<f"], shape=this.ne[::-1]))


def test_a_payload_is_skipped() -> None:
    stream = io.BytesIO(struct.pack("<I", 3) + b"abc!")
    parsed = DATA.parse_stream(stream)
    assert (parsed.data.offset, parsed.data.nbytes, stream.tell()) == (4, 3, 7)
    assert b"".join(parsed.data.chunks()) == b"abc"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), np.frombuffer(b"abc", np.uint8)])
def test_a_payload_is_built_from_any_buffer_of_bytes(data: object) -> None:
    assert DATA.build({"size": 3, "data": data}) == b"\3\0\0\0abc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc", "expected 4 bytes of data, found 3"),
        ("abcd", "expected 4 bytes of data, found 'abcd'"),
        (np.zeros(1, "<f4"), "expected bytes, found format 'f'"),
        (array.array("I", [1]), "expected bytes, found format 'I'"),
    ],
)
def test_anything_else_is_refused(data: object, message: str) -> None:
    assert build_error(DATA, {"size": 4, "data": data}) == f"data at offset 4 (0x4): {message}"


def test_a_payload_is_built_from_an_array_of_its_element_type() -> None:
    values = np.arange(6, dtype="<f4").reshape(3, 2)
    for data in (values, np.asfortranarray(values), values[::-1][::-1], values.ravel(), values.tobytes()):
        assert FLOATS.build({"ne": [2, 3], "data": data}) == struct.pack("<2I", 2, 3) + values.tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((3, 2), ">f4"), "expected bytes or elements of format '<f', found format '>f'"),
        (np.zeros(3, "<f8"), "expected bytes or elements of format '<f', found format 'd'"),
        (np.zeros((3, 2), "<i4"), "expected bytes or elements of format '<f', found format 'i'"),
        (np.zeros((2, 3), "<f4"), "expected an array of shape (3, 2), found (2, 3)"),
        (np.zeros(5, "<f4"), "expected 24 bytes of data, found 20"),
    ],
)
def test_arrays_of_another_type_byte_order_or_shape_are_refused(data: object, message: str) -> None:
    assert build_error(FLOATS, {"ne": [2, 3], "data": data}) == f"data at offset 8 (0x8): {message}"


@pytest.mark.parametrize(
    ("size", "missing"), [(10, "7 bytes"), (4, "1 byte"), (0xFFFFFFFF, f"{0xFFFFFFFF - 3:,} bytes")]
)
def test_a_payload_beyond_the_end_says_what_is_missing(size: int, missing: str) -> None:
    assert str(parse_error(DATA, struct.pack("<I", size) + b"abc")) == (
        f"data at offset 4 (0x4): expected {size:,} bytes, found 3 before the end of the file: "
        f"the file is at least {missing} too short"
    )


def test_a_size_that_no_seek_takes_is_a_truncation() -> None:
    record = Struct("n" / Int32ul, "data" / Payload(this.n * this.n * this.n))
    error = parse_error(record, b"\xff\xff\xff\xffabc")
    assert (error.offset, error.missing) == (4, 0xFFFFFFFF**3 - 3)


def test_data_is_read_from_the_folder_it_was_parsed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("one", b"right"), ("two", b"wrong")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(struct.pack("<I", 5) + content)
    monkeypatch.chdir(tmp_path / "one")
    parsed = DATA.parse_file("x")
    monkeypatch.chdir(tmp_path / "two")
    assert DATA.build(parsed) == struct.pack("<I", 5) + b"right"


@pytest.mark.parametrize("stays_open", [False, True])
def test_data_of_a_file_that_changed_is_not_built(tmp_path: Path, stays_open: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<I", 8) + b"12345678")
    with path.open("rb") as stream:
        parsed = DATA.parse_stream(stream)
        if not stays_open:
            stream.close()
        path.write_bytes(struct.pack("<I", 8) + b"abcdefgh")
        os.utime(path, ns=(1, 1))
        with pytest.raises(DataGoneError, match=r"file: the file has changed since it was parsed") as caught:
            DATA.build(parsed)
        assert isinstance(caught.value, OSError)
        assert (caught.value.filename, caught.value.strerror) == (str(path), "the file has changed since it was parsed")


def test_a_stream_that_is_gone_is_an_error_and_a_shorter_one_too() -> None:
    stream = io.BytesIO(struct.pack("<I", 8) + b"12345678")
    parsed = DATA.parse_stream(stream)
    stream.truncate(8)
    with pytest.raises(DataGoneError, match="the data at offset 4 has lost its last 4 bytes"):
        DATA.build(parsed)
    stream.close()
    with pytest.raises(DataGoneError, match="is closed, and it was not a file"):
        DATA.build(parsed)


def test_an_extent_of_many_pieces_gives_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "CHUNK", 4)
    stream = io.BytesIO(b"0123456789abc")
    assert list(Extent(1, 10, extents.Origin(stream)).chunks()) == [b"1234", b"5678", b"9a"]


# Values without bytes --------------------------------------------------------------------------------------


def test_a_computed_value_may_look_ahead_and_is_checked_when_building() -> None:
    record = Struct(
        "first" / Int8ul,
        "next" / Computed(lambda record: record["_io"].read(1)[0] if record["_parsing"] else 7),
        "second" / Int8ul,
    )
    assert dict(record.parse(b"\1\2"), _size=0, _offset=0) == {
        "first": 1,
        "next": 2,
        "second": 2,
        "_offset": 0,
        "_size": 0,
    }
    assert record.build({"first": 1, "second": 2}) == b"\1\2"
    assert build_error(record, {"first": 1, "next": 3, "second": 2}) == (
        "next at offset 1 (0x1): expected 7 (it follows from other fields), found 3"
    )


def test_nothing_is_built_from_nothing_only() -> None:
    record = Struct("nothing" / Pass)
    assert record.build({}) == b""
    assert build_error(record, {"nothing": 1}).endswith("expected no value: the field does not exist here, found 1")


@pytest.mark.parametrize(("tail", "found"), [(b"x", "1 more byte"), (b"trailing", "8 more bytes")])
def test_bytes_after_the_end_are_refused(tail: bytes, found: str) -> None:
    error = parse_error(Struct("n" / Int8ul, Terminated), b"\0" + tail)
    assert (error.offset, error.expected, error.found) == (1, "the end of the file", found)


def test_a_tolerant_parse_lists_what_it_passes_over() -> None:
    record = Struct("n" / Const(7, Int8ul), "m" / OneOf(Int8ul, (0, 1), critical=False), Terminated)
    log: list[FieldError] = []
    parsed = record.parse(b"\6\5x", errors=log)
    assert (parsed.n, parsed.m) == (6, 5)
    assert [(error.offset, error.expected, error.found) for error in log] == [
        (0, "7", "6"),
        (1, "0 or 1", "5"),
        (2, "the end of the file", "1 more byte"),
    ]
