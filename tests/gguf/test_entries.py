"""Keys and tensors as plain data: limits of the types, and where the bytes of a tensor come from."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.constructs import NaN
from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.gguf.entries import (
    FileData,
    KeyValue,
    TensorEntry,
    Zeros,
    key_values,
    sources,
    stored,
    tensor_data,
    tensor_entries,
)

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


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A file of the float32 numbers 0 to 999,999."""
    (tmp_path / "numbers").write_bytes(np.arange(1_000_000, dtype="<f4").tobytes())
    opened = Source(tmp_path / "numbers")
    yield opened
    opened.close()


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


def test_stored_tensors_are_the_bytes_of_the_file(source: Source) -> None:
    entry = stored("t", Tensor("norm", "", (4, 5), 400, 80, source))
    assert (entry.shape, entry.nbytes, entry.data.path) == ((4, 5), 80, "norm")  # type: ignore[union-attr]
    assert np.frombuffer(b"".join(tensor_data([entry])), "<f4").tolist() == list(range(100, 120))


def test_big_endian_data_is_swapped(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(np.arange(700_000, dtype=">f4").tobytes())
    opened = Source(tmp_path / "big")
    entry = stored("t", Tensor("t", "", (700_000,), 0, 2_800_000, opened, byte_order="big"))
    assert b"".join(tensor_data([entry])) == np.arange(700_000, dtype="<f4").tobytes()
    opened.close()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "I32"])
def test_tensors_of_other_types_are_refused(kind: str, source: Source) -> None:
    with pytest.raises(UsageError, match=f"tensor t is {kind}; only F32"):
        stored("t", Tensor("t", "", (4,), 0, 16, source, type=kind))


def test_data_of_several_extents_and_files_comes_in_order(source: Source, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"\x01" * 16)
    other = Source(tmp_path / "other")
    entries = [
        TensorEntry("a", (3,), FileData("a", source, ((8, 8), (0, 4)))),
        TensorEntry("b", (1_000_000,), Zeros(4_000_000)),
        TensorEntry("c", (0,), FileData("c", source, ())),
        TensorEntry("d", (4,), FileData("d", other, ((0, 16),), lambda chunk: memoryview(bytes(len(chunk))))),
        TensorEntry("e", (1_000_000,), FileData("e", source, ((0, 4_000_000),))),
    ]
    assert [entry.nbytes for entry in entries] == [12, 4_000_000, 0, 16, 4_000_000]
    chunks = [bytes(chunk) for chunk in tensor_data(entries)]
    assert max(map(len, chunks)) <= 1 << 21
    everything = b"".join(chunks)
    assert np.frombuffer(everything[:12], "<f4").tolist() == [2, 3, 0]
    assert not any(everything[12 : 12 + 4_000_016])
    assert everything[-4_000_000:] == np.arange(1_000_000, dtype="<f4").tobytes()
    assert sources(entries) == [source, other]
    other.close()


def test_keys_and_tensors_are_told_apart() -> None:
    key, tensor = KeyValue("k", "BOOL", True), TensorEntry("t", (1,), Zeros(4))
    assert key_values([tensor, key]) == [key]
    assert tensor_entries([tensor, key]) == [tensor]
