"""Equality of field values, as used by comparisons, verification and differences."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ggcp_schema.constructs import LazyList, LongList, NaN

LISTS = (list, tuple, LongList)
PLAIN = {int, float, bool, str, bytes}  # types whose values are the same if they are equal


def same_value(a: Any, b: Any, *, rtol: float = 0.0, atol: float = 0.0) -> bool:
    """Return whether two parsed values are the same.

    Types matter: 1, 1.0 and True are three values. NaNs are the same if their bits are; -0.0 and 0.0 are the same
    number. Lists and records are compared element by element. Finite floats may differ by `atol + rtol * abs(b)`.
    """
    if isinstance(a, LISTS) and isinstance(b, LISTS):
        return len(a) == len(b) and first_different(a, b, rtol=rtol, atol=atol) is None
    if isinstance(a, dict) and isinstance(b, dict) and dict.__eq__(a, b):  # most records at one place in two files
        types = [*map(type, a.values())]
        if [*a] == [*b] and types == [*map(type, b.values())] and PLAIN.issuperset(types):
            return True
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        left, right = (_fields(value) for value in (a, b))
        return left.keys() == right.keys() and all(
            same_value(left[name], right[name], rtol=rtol, atol=atol) for name in left
        )
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b) and _nan(a, b) == _nan(b, a)
        return a == b or (math.isfinite(a) and math.isfinite(b) and abs(a - b) <= atol + rtol * abs(b))
    return type(a) is type(b) and bool(a == b)


def first_different(a: Any, b: Any, *, rtol: float = 0.0, atol: float = 0.0) -> int | None:
    """Return the first index of `a` at which `b` has another value, or none; None if `b` begins with all of `a`."""
    start = a.common(b) if isinstance(a, LazyList) and isinstance(b, LazyList) else 0
    rest = (
        items.iterate(start, len(items)) if isinstance(items, LongList) else islice(items, start, None)
        for items in (a, b)
    )
    index = start
    for x, y in zip(*rest, strict=False):
        if x is not y and not same_value(x, y, rtol=rtol, atol=atol):
            return index
        index += 1
    return index if index < len(a) else None


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a parsed record without its place in the file, `_offset` and `_size`."""
    return {name: value for name, value in record.items() if not name.startswith("_")}


def _nan(value: float, other: float) -> NaN:
    """Return a NaN with its bits. A plain Python NaN has those of a float of the same size as `other`."""
    if isinstance(value, NaN):
        return value
    size = other.size if isinstance(other, NaN) else 4
    return NaN(int.from_bytes(struct.pack("<f" if size == 4 else "<d", value), "little"), size)
