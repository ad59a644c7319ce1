"""`same_value`: when two parsed values are the same."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from construct import Container
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import Float32l
from ggcp_schema.files.values import same_value

QUIET, OTHER, SIGNALLING, NEGATIVE = 0x7FC00000, 0x7FC00001, 0x7FA00001, 0xFFC00000
BITS = st.integers(0, (1 << 32) - 1) | st.sampled_from([QUIET, OTHER, SIGNALLING, NEGATIVE, 0, 1 << 31])


def parsed(bits):
    return Float32l.parse(struct.pack("<I", bits))


@given(BITS, BITS)
def test_floats_that_were_parsed_are_the_same_if_their_bits_are_or_they_are_equal_numbers(a, b):
    x, y = (struct.unpack("<f", struct.pack("<I", bits))[0] for bits in (a, b))
    assert same_value(parsed(a), parsed(b)) == (a == b or x == y)


def test_a_plain_nan_is_the_float32_that_it_is_written_as():
    assert same_value(math.nan, parsed(QUIET))
    assert same_value(-math.nan, parsed(NEGATIVE))
    assert not same_value(math.nan, parsed(OTHER))
    assert not same_value(math.nan, 1.0)


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1.0), (1, True), (0.0, False), ("a", b"a"), (None, 0), ([1], [True]), ([], {})]
)
def test_types_matter(a, b):
    assert not same_value(a, b)
    assert same_value(a, a)
    assert same_value(b, b)


def test_lists_and_records_are_compared_element_by_element():
    assert same_value([1, [2.0, "x"]], (1, (2.0, "x")))
    assert not same_value([1, 2], [1, 2, 3])
    assert same_value({"type": 4, "_offset": 10}, {"type": 4, "_offset": 99})
    assert not same_value({"type": 4}, {"type": 4, "len": 0})


def test_the_tolerance_holds_for_finite_floats_at_any_depth():
    assert same_value([1.0, {"x": 2.0}], [1.0, {"x": 2.5}], atol=0.5)
    assert same_value(10.0, 11.0, rtol=0.1)
    assert not same_value(10.0, 11.5, rtol=0.1)
    assert not same_value(math.inf, 1.0, atol=math.inf)
    assert not same_value(1, 2, atol=5.0)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({"x": 1, "y": "t"}, {"x": 1, "y": "t"}, True),
        ({"x": 1}, {"x": True}, False),
        ({"x": 1}, {"x": 1.0}, False),
        ({"x": 1, "y": True}, {"y": 1, "x": True}, False),
        ({"x": 0.0}, {"x": -0.0}, True),
        ({"x": [1]}, {"x": [True]}, False),
        ({"_offset": 4, "x": 1}, {"_offset": 8, "x": 1}, True),
    ],
)
def test_records(a: dict[str, Any], b: dict[str, Any], same: bool) -> None:
    assert same_value(Container(a), Container(b)) is same
