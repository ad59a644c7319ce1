"""Structs, arrays and conditions on their own, with made-up records."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import construct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import (
    Array,
    Bytes,
    Computed,
    Const,
    DataGoneError,
    Error,
    FieldError,
    Float32l,
    GreedyRange,
    If,
    IfThenElse,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    LazyArray,
    OneOf,
    Padding,
    PascalString,
    Payload,
    Struct,
    Switch,
    Terminated,
    format_path,
    lazy,
    lists,
    records,
    root_field,
    this,
)
from ggcp_schema.constructs.lists import Records

ITEM = Struct("kind" / OneOf(Int8ul, {1: "one", 2: ""}))


def parse_error(record: object, data: bytes, **params: object) -> FieldError:
    with pytest.raises(FieldError) as caught:
        record.parse(data, **params)
    return caught.value


def build_error(record: object, value: object) -> str:
    with pytest.raises(FieldError) as caught:
        record.build(value)
    return str(caught.value)


def test_paths_read_as_in_python() -> None:
    assert format_path(["layers", 1, "wq", "ne", 0]) == "layers[1].wq.ne[0]"
    assert format_path([]) == "file"


# Errors ----------------------------------------------------------------------------------------------------


def test_an_error_in_a_list_has_the_index_and_what_precedes_it() -> None:
    error = parse_error(Struct("items" / Array(3, ITEM)), b"\1\2\3")
    assert str(error) == "items[2].kind at offset 2 (0x2): expected 1 (one) or 2, found 3"
    assert error.partial["items"][:2] == [{"kind": 1}, {"kind": 2}]


def test_an_error_when_building_has_the_same_path_and_offset() -> None:
    record = Struct("head" / Int16ul, "items" / Array(3, ITEM))
    value = {"head": 7, "items": [{"kind": 1}, {"kind": 2}, {"kind": 3}]}
    assert build_error(record, value) == "items[2].kind at offset 4 (0x4): expected 1 (one) or 2, found 3"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": []}, "n at offset 0 (0x0): expected a value, found none"),
        ({"n": 1, "items": []}, "items at offset 1 (0x1): expected 1 element (n), found 0"),
        ({"n": 2, "items": "ab"}, "items at offset 1 (0x1): expected 2 elements (n), found 2"),
        ({"n": 1, "items": 5}, "items at offset 1 (0x1): expected 1 element (n), found 5"),
        ({"n": 1, "items": [5]}, "items[0] at offset 1 (0x1): expected a mapping of fields, found 5"),
        ({"n": 1, "items": [{}]}, "items[0].kind at offset 1 (0x1): expected a value, found none"),
        ({"n": 0, "items": [], "nn": 1}, "file at offset 0 (0x0): expected one of the fields n, items, found 'nn'"),
        (
            {"n": 1, "items": [{"kind": 1, "kid": 2}]},
            "items[0] at offset 1 (0x1): expected one of the fields kind, found 'kid'",
        ),
    ],
)
def test_what_cannot_be_built_is_an_error_with_a_path(value: object, message: str) -> None:
    assert build_error(Struct("n" / Int8ul, "items" / Array(this.n, ITEM)), value) == message


def test_an_error_of_the_programmer_keeps_its_path_when_building() -> None:
    record = Struct("a" / Struct("n" / Const(lambda context: 1 // 0, Int8ul)))
    assert build_error(record, {"a": {}}).startswith(
        "a.n at offset 0 (0x0): expected a valid field, found ZeroDivision"
    )


# Arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Array, LazyArray])
@pytest.mark.parametrize("element", [Int32ul, Struct("a" / Int32ul), PascalString(Int32ul)])
def test_a_false_count_fails_before_the_first_element(kind: type, element: object) -> None:
    record = Struct("count" / Int32ul, "items" / kind(this.count, element))
    error = parse_error(record, struct.pack("<II", 0xFFFFFFFF, 1))
    assert (error.steps, error.offset) == (["items"], 4)
    assert (error.expected, error.found) == ("count to be at most 1 in a file of 8 bytes", "4294967295")


def test_the_elements_before_the_end_of_the_file_are_kept_if_their_count_is_not_checked() -> None:
    record = Struct("count" / Int64ul, "items" / Array(this.count, Struct("a" / Int32ul), unchecked=True))
    error = parse_error(record, struct.pack("<QIIH", (1 << 64) - 1, 1, 2, 3))
    assert (error.steps, error.offset, error.missing) == (["items", 2, "a"], 16, 2)
    assert [item.get("a") for item in error.partial["items"]] == [1, 2, None]


def test_a_count_below_zero_is_an_error() -> None:
    assert parse_error(Struct("items" / Array(-1, Int8ul)), b"abc").expected.startswith("the count to be at most 3")


def test_elements_without_bytes_need_no_room() -> None:
    assert Array(100, Computed(7)).parse(b"") == [7] * 100


def test_a_greedy_range_does_not_hide_an_error() -> None:
    assert GreedyRange(ITEM).parse(b"\1\2") == [{"kind": 1}, {"kind": 2}]
    assert GreedyRange(ITEM).build([{"kind": 1}, {"kind": 2}]) == b"\1\2"
    assert parse_error(Struct("items" / GreedyRange(ITEM)), b"\1\2\3").steps == ["items", 2, "kind"]


# Lazy arrays -----------------------------------------------------------------------------------------------

TEXTS = Struct("count" / Int32ul, "texts" / LazyArray(this.count, PascalString(Int8ul)), "end" / Int8ul)
NUMBERS = Struct("count" / Int32ul, "numbers" / LazyArray(this.count, Float32l), "end" / Int8ul)


@given(texts=st.lists(st.text(max_size=5), max_size=200), data=st.data())
def test_a_lazy_array_gives_what_a_list_gives(texts: list[str], data: st.DataObject) -> None:
    built = TEXTS.build({"count": len(texts), "texts": texts, "end": 9})
    parsed = TEXTS.parse(built)
    lazy = parsed.texts
    assert (len(lazy), list(lazy), lazy, parsed.end) == (len(texts), texts, texts, 9)
    part = slice(*data.draw(st.tuples(st.integers(-9, 210), st.integers(-9, 210), st.sampled_from([1, 2, -1]))))
    assert lazy[part] == texts[part]
    for index in data.draw(st.lists(st.integers(-len(texts), len(texts) - 1), max_size=5)) if texts else ():
        assert lazy[index] == texts[index]
        start = lazy.offset_of(index % len(texts))
        assert lazy.index_at(start) == index % len(texts)
    assert lazy.offset_of(len(lazy)) == lazy.offset + lazy.nbytes == len(built) - 1
    assert TEXTS.build(parsed) == built


def test_a_lazy_array_of_numbers_is_built_back_with_its_nans() -> None:
    data = struct.pack("<I", 3) + b"\0\0\x80?" + b"\1\0\xa0\x7f" + b"\0\0\xc0\xff" + b"\7"
    parsed = NUMBERS.parse(data)
    assert parsed.numbers[0] == 1.0
    assert parsed.numbers[1].bits == 0x7FA00001
    assert NUMBERS.build(parsed) == data
    assert NUMBERS.build({"count": 3, "numbers": list(parsed.numbers), "end": 7}) == data
    assert NUMBERS.parse(data) == parsed == copy.deepcopy(parsed)


@pytest.mark.parametrize("index", [3, -4, 10**6])
def test_an_element_that_does_not_exist_is_an_index_error(index: int) -> None:
    numbers = NUMBERS.parse(struct.pack("<I3fB", 3, 1, 2, 3, 7)).numbers
    with pytest.raises(IndexError, match=f"index {index} is out of range: the array has 3 elements"):
        numbers[index]


@pytest.mark.parametrize("index", ["x", 1.0, None])
def test_what_is_no_index_is_a_type_error_in_the_words_of_python(index: Any) -> None:
    numbers = NUMBERS.parse(struct.pack("<I3fB", 3, 1, 2, 3, 7)).numbers
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        numbers[index]


def test_an_error_in_a_lazy_array_has_the_index() -> None:
    error = parse_error(TEXTS, struct.pack("<I", 3) + b"\1a\2bc\5de")
    assert (error.steps, error.offset, error.missing) == (["texts", 2], 10, 3)


def test_a_lazy_array_takes_no_memory_for_its_elements() -> None:
    data = struct.pack("<I", 100_000) + bytes(400_001)
    tracemalloc.start()
    try:
        parsed = NUMBERS.parse(data)
        assert sum(parsed.numbers) == 0
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_lazy_array_of_a_file_that_changed_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    TEXTS.build_file({"count": 2, "texts": ["a", "b"], "end": 0}, str(path))
    parsed = TEXTS.parse_file(str(path))
    assert parsed.texts[1] == "b"
    path.write_bytes(b"\0")
    with pytest.raises(DataGoneError, match="has changed since it was parsed"):
        list(parsed.texts)


@pytest.mark.parametrize("chunk", [1, 5, 12, 10**6])
@pytest.mark.parametrize("spacing", [0, 3, 10, 10**6])
def test_the_places_noted_need_not_be_those_of_the_elements_asked_for(
    spacing: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "SPACING", spacing)
    monkeypatch.setattr(lazy, "CHUNK", chunk)  # texts that do not fit into one are parsed alone
    for count in range(8):
        texts = ["x" * index for index in range(count)]
        items = TEXTS.parse(TEXTS.build({"count": count, "texts": texts, "end": 0})).texts
        assert list(items) == texts
        assert [items[index] for index in range(count)] == texts
        places = [items.offset_of(index) for index in range(count)]
        assert places == [4 + sum(len(text) + 1 for text in texts[:index]) for index in range(count)]
        assert [items.index_at(place) for place in places] == list(range(count))


@pytest.mark.parametrize("chunk", [1, 5, 12, 10**6])
def test_a_lazy_array_and_a_plain_one_report_the_same_errors(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "CHUNK", chunk)
    text = PascalString(Int8ul, longest=9)
    for data in (b"\2a\3bcd\x0a0123456789\1e", b"\1a\3bcd\2e", b"\1a\3bcd", b"\0\0\0\x80", b""):
        found = []
        for array in (Array, LazyArray):
            with pytest.raises(FieldError) as caught:
                Struct("texts" / array(4, text)).parse(data)
            found.append((str(caught.value), caught.value.steps, list(caught.value.partial.get("texts", ()))))
        assert found[0] == found[1]


def test_records_in_a_lazy_array_are_parsed_at_once_so_that_they_can_be_changed() -> None:
    pairs = Struct("count" / Int8ul, "pairs" / LazyArray(this.count, Struct("first" / Int8ul, "second" / Int8ul)))
    parsed = pairs.parse(b"\2\5\6\5\7")
    parsed.pairs[1].second = 8
    assert pairs.build(parsed) == b"\2\5\6\5\x08"


@pytest.mark.parametrize("array", [Array, LazyArray, lambda count, record: GreedyRange(record)])
def test_very_many_records_are_kept_in_columns(array: Callable[..., Array], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Struct("texts" / array(40, Struct("n" / OneOf(Int8ul, range(40)), "text" / Bytes(this.n))))
    data = b"".join(bytes([n]) + bytes(n) for n in range(40))
    whole = texts.parse(data)
    damaged = parse_error(texts, data[:-1]).partial
    monkeypatch.setattr(records, "MANY", 10)
    monkeypatch.setattr(lists, "PACK", 7)
    lazy = texts.parse(data)
    assert isinstance(lazy.texts, Records)
    assert lazy.texts == whole.texts
    assert [lazy.texts[i] for i in (39, 0, 20, 21)] == [whole.texts[i] for i in (39, 0, 20, 21)]
    assert texts.build(lazy) == data
    assert pickle.loads(pickle.dumps(lazy)) == whole  # noqa: S301
    root, same = root_field(texts, whole), root_field(texts, lazy)
    assert [(leaf.path, leaf.offset) for leaf in same.leaves()] == [(leaf.path, leaf.offset) for leaf in root.leaves()]
    assert all(same.at(i).path == root.at(i).path for i in range(len(data)))  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="this record is made when it is accessed"):
        lazy.texts[3].n = 4
    cut = parse_error(texts, data[:-1]).partial
    assert list(cut.texts) == list(damaged.texts)
    assert root_field(texts, cut).size == root_field(texts, damaged).size


def test_very_many_records_may_have_different_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MANY", 10)
    monkeypatch.setattr(lists, "PACK", 7)
    pairs = GreedyRange(Struct("n" / Int8ul, construct.StopIf(this.n % 5 == 0), "m" / Int8ul))
    data = b"".join(bytes([n, n + 100][: 2 - (n % 5 == 0)]) for n in range(80))
    found = pairs.parse(data)
    assert isinstance(found, Records)
    assert found == [{"n": n} if n % 5 == 0 else {"n": n, "m": n + 100} for n in range(80)]
    assert pairs.build(found) == data


def test_threads_may_read_a_lazy_array_at_the_same_time() -> None:
    texts = [str(index) * (index % 9) for index in range(2000)]
    items = TEXTS.parse(TEXTS.build({"count": len(texts), "texts": texts, "end": 0})).texts
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda start: [items[index] for index in range(start, 2000, 4)], range(4)))
        assert list(pool.map(list, [items] * 4)) == [texts] * 4
    assert found == [texts[start::4] for start in range(4)]


def test_a_field_may_be_computed_from_a_lazy_array() -> None:
    texts = "texts" / LazyArray(this.count, PascalString(Int8ul))
    record = Struct("count" / Int8ul, texts, "last" / Computed(lambda context: context["texts"][-1]), "end" / Int8ul)
    assert record.parse(b"\2\1a\1b\7").items() >= {("last", "b"), ("end", 7)}


# Conditions ------------------------------------------------------------------------------------------------


def test_a_field_that_does_not_exist_takes_no_bytes() -> None:
    record = Struct("flag" / Int8ul, "number" / If(this.flag == 1, Int8ul), "last" / Int8ul)
    assert record.parse(b"\0z").number is None
    assert record.parse(b"\1nz").number == ord("n")
    assert record.build({"flag": 0, "last": 1}) == b"\0\1"
    assert build_error(record, {"flag": 0, "number": 5, "last": 1}).startswith(
        "number at offset 1 (0x1): expected no value"
    )


def test_an_unknown_key_is_an_error_both_ways() -> None:
    record = Struct("type" / Int8ul, "value" / Switch(this.type, {1: Int8ul, 2: Int16ul}, default=Error))
    assert record.parse(b"\2ab").value == 0x6261
    assert str(parse_error(record, b"\3")) == "value at offset 1 (0x1): expected type to be 1 or 2, found 3"
    assert (
        build_error(record, {"type": 3, "value": 1}) == "value at offset 1 (0x1): expected type to be 1 or 2, found 3"
    )


def test_the_other_branch() -> None:
    record = Struct("wide" / Int8ul, "n" / IfThenElse(this.wide == 1, Int16ul, Int8ul))
    assert (record.parse(b"\1ab").n, record.parse(b"\0a").n) == (0x6261, 0x61)


# Memory ----------------------------------------------------------------------------------------------------


def test_what_was_parsed_is_freed_without_garbage_collection() -> None:
    """The command line switches it off: a reference cycle would keep the values of every file."""
    record = Struct(
        "count" / Int8ul,
        "texts" / LazyArray(this.count, PascalString(Int8ul)),
        "records"
        / Array(this._root.count, Struct("first" / OneOf(Int8ul, (5, 6)), "data" / Payload(this._root.count))),
    )
    gc.freeze()  # the many objects of a process that has collected all tests are not looked at
    gc.disable()
    try:
        for data in (b"\1\1a\6.", b"\1\1a\7."):
            try:
                parsed = record.parse(data)
            except FieldError as error:
                parsed = error.partial
            assert parsed.texts == ["a"]
            del parsed
            assert gc.collect() == 0
    finally:
        gc.enable()
        gc.unfreeze()


# Containers ------------------------------------------------------------------------------------------------

RECORD = Struct(
    "n" / Int8ul,
    "x" / Float32l,
    "items" / Array(this.n, Struct("y" / Float32l, "padding" / Padding(multiple_of=8), "data" / Payload(2))),
    Terminated,
)
BYTES = b"\2\1\0\xa0\x7f" + b"\0\0\x80?" + bytes(7) + b"ab" + bytes(4) + bytes(2) + b"cd"


def test_two_parses_are_equal_and_so_are_copies() -> None:
    first, second = RECORD.parse(BYTES), RECORD.parse(BYTES)
    assert first == second == copy.deepcopy(first) == copy.copy(first)
    assert RECORD.build(copy.deepcopy(first)) == BYTES
    assert RECORD.parse(BYTES.replace(b"\1\0\xa0\x7f", b"\2\0\xa0\x7f")) != first
    assert RECORD.parse(BYTES.replace(b"\x80?", b"\x80@")) != first


def test_a_container_knows_its_place() -> None:
    parsed = RECORD.parse(BYTES)
    assert [(item["_offset"], item["_size"]) for item in parsed["items"]] == [(5, 13), (18, 8)]
    assert (parsed["_offset"], parsed["_size"]) == (0, len(BYTES))


def test_an_edited_copy_leaves_the_original_alone() -> None:
    parsed = RECORD.parse(BYTES)
    other = copy.deepcopy(parsed)
    other["items"][1].y = 5.0
    assert RECORD.build(parsed) == BYTES
    assert RECORD.build(other) != BYTES


# Drop-ins --------------------------------------------------------------------------------------------------

NAMES = (
    "Struct",
    "Array",
    "Int8ul",
    "Int16ul",
    "Int32ul",
    "Float32l",
    "Bytes",
    "Const",
    "If",
    "IfThenElse",
    "Computed",
)
PLAIN = {name: getattr(construct, name) for name in NAMES}
OURS = {name: getattr(__import__("ggcp_schema.constructs", fromlist=[name]), name) for name in NAMES}


def layout(outer: dict[str, object], inner: dict[str, object], leaf: dict[str, object]) -> construct.Struct:
    """A layout of construct's classes and ours, mixed."""
    item = inner["Struct"](
        "size" / leaf["Int16ul"],
        "bytes" / leaf["Bytes"](this.size),
        "last" / leaf["If"](this._root.flag == 1, leaf["Int32ul"]),
    )
    return outer["Struct"](
        "magic" / leaf["Const"](b"MIX"),
        "flag" / leaf["Int8ul"],
        "count" / leaf["IfThenElse"](this.flag == 1, leaf["Int8ul"], leaf["Computed"](2)),
        "items" / inner["Array"](this.count, item),
        "x" / leaf["Float32l"],
        construct.Terminated,
    )


@given(
    outer=st.sampled_from([PLAIN, OURS]),
    inner=st.sampled_from([PLAIN, OURS]),
    leaf=st.sampled_from([PLAIN, OURS]),
    flag=st.integers(0, 1),
    items=st.lists(st.binary(max_size=20), min_size=2, max_size=2),
    x=st.floats(width=32, allow_nan=False),
)
def test_ours_and_constructs_classes_mix(
    outer: dict[str, object], inner: dict[str, object], leaf: dict[str, object], flag: int, items: list[bytes], x: float
) -> None:
    """Every mixture parses to the values and builds the bytes that construct does, also from its containers."""
    data = b"MIX" + bytes([flag]) + (b"\2" if flag else b"")
    data += b"".join(struct.pack("<H", len(item)) + item + (b"LAST" if flag else b"") for item in items)
    data += struct.pack("<f", x)
    mixed, plain = layout(outer, inner, leaf), layout(PLAIN, PLAIN, PLAIN)
    assert mixed.parse(data) == plain.parse(data)
    assert mixed.build(plain.parse(data)) == data
    assert mixed.build(mixed.parse(data)) == data
    stream = io.BytesIO()
    mixed.build_stream(mixed.parse_stream(io.BytesIO(data)), stream)
    assert stream.getvalue() == data


def test_a_plain_field_that_fails_gets_a_path() -> None:
    record = Struct("head" / Int8ul, "items" / Array(2, Struct("plain" / construct.Int32ub)))
    error = parse_error(record, b"\0\1\2\3\4\5")
    assert error.steps == ["items", 1, "plain"]
    assert error.found.startswith("StreamError: ")


# construct's ways ------------------------------------------------------------------------------------------


def test_stop_if_ends_a_record_and_a_list() -> None:
    record = Struct("n" / Int8ul, construct.StopIf(this.n == 0), "more" / Int8ul)
    assert record.parse(b"\0") == {"n": 0}
    assert record.parse(b"\1\2") == {"n": 1, "more": 2}
    assert record.build({"n": 0}) == b"\0"
    stop = construct.StopIf(this._index == 1)
    assert GreedyRange(construct.FocusedSeq("n", "n" / Int8ul, stop)).parse(b"\1\2\3") == [1]


def test_a_hook_that_would_not_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"n has a hook \(field \* function\), which is never called"):
        Struct("n" / Int8ul * print)


@pytest.mark.parametrize("length", [this.n - 5, this.unknown, lambda context: context["n"] / 0, lambda context: None])
@pytest.mark.parametrize("kind", [Bytes, Payload, Padding, lambda length: Array(length, Int8ul)])
def test_an_expression_that_fails_is_an_error_with_a_path(kind: Callable[[object], object], length: object) -> None:
    error = parse_error(Struct("inner" / Struct("n" / Int8ul, "field" / kind(length))), b"\1abcdefgh")
    assert (error.steps, error.offset) == (["inner", "field"], 1)


@pytest.mark.parametrize("kind", [Bytes, Payload, Padding])
def test_a_negative_length_reads_nothing(kind: type) -> None:
    error = parse_error(Struct("n" / Int8ul, "field" / kind(this.n - 5)), b"\1abcdefgh")
    assert error.message == "expected a length of at least 0, found -4"


def test_compiling_changes_nothing() -> None:
    assert RECORD.compile().parse(BYTES) == RECORD.parse(BYTES)
    assert RECORD.compile().build(RECORD.parse(BYTES)) == BYTES
    outer = construct.Struct("head" / construct.Byte, "record" / ITEM).compile()
    assert outer.parse(b"\1\2").record == {"kind": 2}
    with pytest.raises(FieldError, match="expected 1"):
        outer.parse(b"\1\3")
