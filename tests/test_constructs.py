"""The pieces that know nothing of ggcp, each on its own."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from construct import StreamError
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import (
    F32,
    EndOfFile,
    Expr,
    Extent,
    FieldError,
    If,
    Items,
    Name,
    OneOf,
    PaddingTo,
    Payload,
    Record,
    Ref,
    Trace,
    UInt8,
    UInt32,
    format_path,
)


def refuse(record: Record, data: bytes) -> FieldError:
    with pytest.raises(FieldError) as caught:
        record.parse(data)
    return caught.value


@given(st.binary(min_size=4, max_size=4) | st.sampled_from([b"\x01\x00\x80\x7f", b"\x01\x00\xa0\xff", b"\xff" * 4]))
def test_every_float32_builds_back_bit_for_bit(raw: bytes) -> None:
    value = F32.parse(raw)
    assert F32.build(value) == raw
    assert str(value) == str(struct.unpack("<f", raw)[0])  # as text a NaN equals a NaN


def test_padding_counts_from_the_start_of_the_stream_and_not_of_the_record() -> None:
    inner = Record("byte" / UInt8, "padding" / PaddingTo(8), "end" / UInt8)
    outer = Record("head" / UInt32, "inner" / inner)
    # head 4 bytes, byte 1 → 5: 3 bytes up to 8, not the 7 that the inner record's own start would ask for
    parsed = outer.parse(b"HEAD" + b"a" + b"pad" + b"z")
    assert (parsed.inner.padding, parsed.inner.end) == (b"pad", ord("z"))
    assert outer.build(parsed) == b"HEADapadz"


def test_padding_that_is_not_given_is_zero() -> None:
    assert Record("byte" / UInt8, "padding" / PaddingTo(4)).build({"byte": 1}) == b"\x01\0\0\0"


def test_padding_of_the_wrong_length_is_refused_when_building() -> None:
    with pytest.raises(FieldError, match=r"expected 3 bytes of padding, found 1 \(leave it out to have zeros\)"):
        Record("byte" / UInt8, "padding" / PaddingTo(4)).build({"byte": 1, "padding": b"x"})


DATA = Record("size" / UInt32, "data" / Payload(Ref("size")))


def test_a_payload_is_passed_over() -> None:
    stream = io.BytesIO(struct.pack("<I", 3) + b"abc!")
    parsed = DATA.parse_stream(stream)
    assert (parsed.data.offset, parsed.data.nbytes, stream.tell()) == (4, 3, 7)
    assert b"".join(parsed.data.chunks()) == b"abc"


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_a_payload_builds_from_any_buffer(data: bytes) -> None:
    assert DATA.build({"size": 3, "data": data}) == b"\3\0\0\0abc"


def test_a_payload_of_another_size_is_refused_when_building() -> None:
    with pytest.raises(FieldError, match="expected 4 bytes of data, found 3"):
        DATA.build({"size": 4, "data": b"abc"})


def test_a_payload_beyond_the_end_says_what_is_missing() -> None:
    error = refuse(DATA, struct.pack("<I", 10) + b"abc")
    assert str(error) == (
        "data at offset 4 (0x4): expected 10 bytes, found 3 before the end: the file is 7 bytes too short"
    )
    assert (error.offset, error.missing) == (4, 7)


def test_an_extent_whose_file_shrank_does_not_build(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<I", 8) + b"12345678")
    parsed = DATA.parse_file(path)
    path.write_bytes(struct.pack("<I", 8) + b"1234")
    with pytest.raises(StreamError, match="the source of the data at offset 4 is now 4 bytes too short"):
        DATA.build(parsed)


def test_an_extent_of_many_pieces_gives_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggcp_schema.constructs.leaves.CHUNK", 4)
    pieces = list(Extent(1, 10, io.BytesIO(b"0123456789abc")).chunks())
    assert pieces == [b"1234", b"5678", b"9a"]


def test_a_false_count_fails_before_the_first_element() -> None:
    record = Record("count" / UInt32, "items" / Items(Ref("count"), UInt32, floor=4))
    error = refuse(record, struct.pack("<II", 0xFFFFFFFF, 1))
    assert (error.steps, error.offset) == (["items"], 4)
    assert (error.expected, error.found) == ("count to be at most 2 in a file of 8 bytes", "4294967295")


def test_an_error_in_a_list_knows_the_index() -> None:
    item = Record("kind" / OneOf(UInt8, {1: "one", 2: ""}))
    error = refuse(Record("items" / Items(Expr("3", lambda _: 3), item, floor=1)), b"\1\2\3")
    assert str(error).endswith("items[2].kind at offset 2 (0x2): expected 1 (one) or 2, found 3")
    assert error.partial["items"][:2] == [{"kind": 1}, {"kind": 2}]


def test_a_number_outside_its_range_is_refused_both_ways() -> None:
    record = Record("n" / OneOf(UInt8, range(5)))
    assert str(refuse(record, b"\5")).endswith("n at offset 0 (0x0): expected 0 to 4, found 5")
    with pytest.raises(FieldError, match="expected 0 to 4, found 5"):
        record.build({"n": 5})


@pytest.mark.parametrize("length", [10, 65, 0xFFFFFFFF])
def test_a_name_beyond_the_end_says_what_is_missing(length: int) -> None:
    error = refuse(Record("length" / UInt32, "name" / Name(Ref("length"))), struct.pack("<I", length) + b"short")
    assert (error.steps, error.offset, error.missing) == (["name"], 4, length - 5)


def test_an_absent_field_takes_no_bytes() -> None:
    record = Record("flag" / UInt8, "number" / If(Expr("flag = 1", lambda c: c["flag"] == 1), UInt8), "last" / UInt8)
    assert record.parse(b"\0z").number is None
    assert record.parse(b"\1nz").number == ord("n")
    assert record.build({"flag": 0, "last": 1}) == b"\0\1"


def test_bytes_after_the_end_are_refused() -> None:
    error = refuse(Record("n" / UInt8, EndOfFile()), b"\0trailing")
    assert (error.offset, error.expected, error.found) == (1, "the end of the file", "8 more bytes")


def test_a_tolerant_trace_notes_what_it_can_pass_over() -> None:
    trace = Trace(tolerant=True)
    Record("n" / UInt8, EndOfFile()).parse(b"\0x", trace=trace)
    assert [str(error.found) for error in trace.errors] == ["1 more bytes"]
    assert [(span.path, span.offset, span.size) for span in trace.spans] == [("n", 0, 1)]


def test_a_trace_of_a_damaged_stream_ends_at_the_damage() -> None:
    trace = Trace()
    with pytest.raises(FieldError):
        Record("a" / UInt8, "b" / UInt32).parse(b"\1\2", trace=trace)
    assert [span.path for span in trace.spans] == ["a"]
    assert trace.steps == ["b"]


def test_paths_read_as_in_python() -> None:
    assert format_path(["layers", 1, "wq", "ne", 0]) == "layers[1].wq.ne[0]"
    assert format_path([]) == "file"
