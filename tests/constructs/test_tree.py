"""The tree of fields on made-up records; on real files it is tested with each format."""

from __future__ import annotations

import gc
import struct

import construct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import (
    Array,
    Chars,
    Computed,
    Const,
    Field,
    FieldError,
    If,
    Int8ul,
    Int16ul,
    Int32ul,
    LazyArray,
    OneOf,
    Padding,
    PascalString,
    Payload,
    Struct,
    Switch,
    Terminated,
    root_field,
    this,
)

ITEM = Struct(
    "n" / Int8ul * "how many numbers",
    "numbers" / Array(this.n, Switch(this._index, {0: Const(this._root.first, Int16ul)}, default=Int16ul)),
    "padding" / Padding(multiple_of=4),
    "data" / Payload(this.n),
)
FILE = Struct(
    "magic" / Const(b"TREE") * "the magic",
    "first" / Int16ul,
    "count" / OneOf(Int8ul, range(20)),
    "twice" / Computed(this.count * 2) * "of the count",
    "absent" / If(this.count > 99, Int32ul),
    "items" / Array(this.count, ITEM) * "the items",
    "texts" / LazyArray(this.count, PascalString(Int8ul)),
    "name" / Chars(3),
    Terminated,
)


def build(sizes: list[int]) -> bytes:
    items = [{"n": n, "numbers": list(range(7, 7 + n)), "data": bytes(n)} for n in sizes]
    texts = ["é" * n for n in sizes]
    return FILE.build({"first": 7, "count": len(sizes), "items": items, "texts": texts, "name": b"end"})


def tree(data: bytes) -> Field:
    return root_field(FILE, FILE.parse(data))


def assert_tiles(root: Field, data: bytes) -> None:
    """Check that the leaves with bytes cover the data in order, and that `at` and `find` agree with them."""
    end = 0
    for leaf in root.leaves():
        assert leaf.is_leaf
        assert leaf.offset == end
        end += leaf.size
        found = root.find(leaf.steps)
        assert found is not None
        assert (found.path, found.offset, found.size) == (leaf.path, leaf.offset, leaf.size)
        for offset in {leaf.offset, end - 1} if leaf.size else ():
            at = root.at(offset)
            assert at is not None
            assert at.path == leaf.path
    assert end == len(data)
    assert root.at(len(data)) is None
    assert root.at(-1) is None


@given(sizes=st.lists(st.integers(0, 9), max_size=19))
def test_the_leaves_cover_the_file(sizes: list[int]) -> None:
    data = build(sizes)
    assert_tiles(tree(data), data)


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5), cut=st.integers(5, 200))
def test_the_leaves_of_a_cut_file_cover_it_up_to_the_damage(sizes: list[int], cut: int) -> None:
    whole = build(sizes)
    data = whole[: min(cut, len(whole) - 1)]
    with pytest.raises(FieldError) as caught:
        FILE.parse(data)
    root = root_field(FILE, caught.value.partial)
    end = 0
    for leaf in root.leaves():
        assert leaf.offset == end
        end += leaf.size
    assert end <= caught.value.offset
    lazy = caught.value.steps[0] == "texts"  # a lazy array is there as a whole or not at all
    assert end == caught.value.offset or lazy


def test_a_field_has_a_name_a_type_a_note_and_a_rule() -> None:
    root = tree(build([2, 0]))
    facts = {field.path: (field.name, field.type, field.docs, field.rule) for field in root.leaves()}
    assert facts["magic"] == ("magic", "bytes", "the magic", "b'TREE'")
    assert facts["count"] == ("count", "u8", "", "0 to 19")
    assert facts["twice"] == ("twice", "derived", "of the count", "")
    assert facts["items[0].n"] == ("n", "u8", "how many numbers", "")
    assert facts["items[0].numbers[0]"] == ("[0]", "u16", "", "first")
    assert facts["items[0].numbers[1]"] == ("[1]", "u16", "", "")
    assert facts["items[1].padding"] == ("padding", "padding", "", "")
    assert facts["items[1].data"] == ("data", "data", "", "")
    assert facts["texts[0]"] == ("[0]", "string", "", "")
    assert facts["name"] == ("name", "char", "", "")
    assert "absent" not in facts
    types = {path: root.find(path).type for path in (("items",), ("items", 0), ("texts",))}
    assert types == {("items",): "array", ("items", 0): "struct", ("texts",): "array"}
    assert root.path == "file"


def test_paths_that_do_not_exist() -> None:
    root = tree(build([2]))
    for steps in (("x",), ("items", 1), ("items", -1), ("items", "n"), ("magic", 0), ("magic", "x"), (0,), ("absent",)):
        assert root.find(steps) is None
    assert root.find(()) is root
    assert root.find(("_offset",)) is None


def test_children_can_be_asked_for_in_any_order() -> None:
    """The elements of a list share a context, which must not mix them up."""
    items = tree(build([1, 3, 2])).find(("items",))
    assert items is not None
    first, second = items.children()[0], items.children()[1]
    assert next(field.path for field in second.children()) == "items[1].n"
    numbers = first.child("numbers")
    assert numbers is not None
    assert numbers.children()[0].rule == "first"
    assert [field.offset for field in items.children()[-2:]] == [second.offset, second.end]


def test_a_field_of_a_long_list_is_found_without_its_siblings() -> None:
    """A list of 20,000 strings, which are parsed one by one."""
    record = Struct("texts" / Array(20_000, PascalString(Int8ul)))
    data = struct.pack("<B1s", 1, b"a") * 20_000
    root = root_field(record, record.parse(data))
    field = root.find(("texts", 19_999))
    assert field is not None
    assert (field.offset, field.value) == (39_998, "a")
    assert root.at(39_999).path == "texts[19999]"


def test_records_of_plain_construct_are_fields_too() -> None:
    record = Struct(
        "items" / Array(2, construct.Struct("a" / construct.Int16ub, "b" / construct.Bytes(3))), "c" / Int8ul
    )
    data = bytes(11)
    root = root_field(record, record.parse(data))
    assert [(leaf.path, leaf.offset, leaf.size) for leaf in root.leaves()] == [
        ("items[0].a", 0, 2),
        ("items[0].b", 2, 3),
        ("items[1].a", 5, 2),
        ("items[1].b", 7, 3),
        ("c", 10, 1),
    ]


def test_fields_are_not_reference_cycles() -> None:
    """The command line runs without garbage collection, and a large file has a million fields."""
    root = tree(build([3, 1, 2]))
    gc.disable()
    gc.freeze()  # the collection looks only at what is made from here on
    try:
        for leaf in root.leaves():
            assert root.find(leaf.steps) is not None
            root.at(leaf.offset)
        del leaf
        assert gc.collect() == 0
    finally:
        gc.unfreeze()
        gc.enable()
