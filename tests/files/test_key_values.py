"""Keys as plain data: the limits of their types."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import NaN
from ggcp_schema.errors import UnfitError
from ggcp_schema.files.key_values import KeyValue

LIMITS = {
    "UINT8": "B",
    "INT8": "b",
    "UINT16": "H",
    "INT16": "h",
    "UINT32": "I",
    "INT32": "i",
    "UINT64": "Q",
    "INT64": "q",
}


@pytest.mark.parametrize("kind", LIMITS)
@given(number=st.integers(-(1 << 65), 1 << 65))
def test_integers_fit_as_struct_says(kind: str, number: int) -> None:
    try:
        struct.pack(f"<{LIMITS[kind]}", number)
    except struct.error:
        with pytest.raises(UnfitError, match=rf"k: {number} is out of range for {kind}"):
            KeyValue("k", kind, number)
    else:
        assert KeyValue("k", kind, number).value == number


@given(st.floats(width=64, allow_nan=False))
def test_a_float32_is_the_nearest_one(number: float) -> None:
    with np.errstate(over="ignore"):
        nearest = float(np.float32(number))
    if np.isinf(nearest) and not np.isinf(number):
        with pytest.raises(UnfitError, match="out of range for FLOAT32"):
            KeyValue("k", "FLOAT32", number)
    else:
        assert struct.pack("<d", KeyValue("k", "FLOAT32", number).value) == struct.pack("<d", nearest)


@given(st.integers(0, (1 << 22) - 1), st.booleans(), st.booleans())
def test_a_nan_keeps_its_sign_and_its_payload(payload: int, sign: bool, quiet: bool) -> None:
    bits = sign << 31 | 0x7F800000 | quiet << 22 | payload | (not payload and not quiet)
    kept = KeyValue("k", "FLOAT32", NaN(bits)).value
    assert isinstance(kept, NaN)
    assert kept.bits == bits | 1 << 22
