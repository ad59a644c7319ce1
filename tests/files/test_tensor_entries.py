"""The tensors of an output: where the bytes of each come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import Computed, FileData, TensorEntry, Zeros, sources, stored
from tests.helpers import tensor_data


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """A file of the float32 numbers 0 to 999,999."""
    (tmp_path / "numbers").write_bytes(np.arange(1_000_000, dtype="<f4").tobytes())
    opened = Source(tmp_path / "numbers")
    yield opened
    opened.close()


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


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_the_bytes_of_halves_are_swapped_too(kind: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(np.arange(50_000, dtype=">u2").tobytes())
    opened = Source(tmp_path / "big")
    entry = stored("t", Tensor("t", "", (50_000,), 0, 100_000, opened, kind, "big"))
    assert (entry.type, b"".join(tensor_data([entry]))) == (kind, np.arange(50_000, dtype="<u2").tobytes())
    opened.close()


def test_other_types_are_copied_but_not_swapped(source: Source) -> None:
    entry = stored("t", Tensor("t", "", (32,), 4, 18, source, "Q4_0"))
    assert (entry.type, b"".join(tensor_data([entry]))) == ("Q4_0", source.read(4, 18))
    with pytest.raises(UsageError, match="tensor t is big-endian Q4_0, which cannot be copied"):
        stored("t", Tensor("t", "", (32,), 4, 18, source, "Q4_0", "big"))


def test_computed_data_is_made_when_it_is_needed(source: Source) -> None:
    made = []

    def chunks() -> Iterator[bytes]:
        made.append(1)
        yield source.read(0, 2_500_000)
        yield source.read(2_500_000, 500_000)

    entries = [
        TensorEntry("a", (750_000,), Computed(chunks, (source,))),
        TensorEntry("b", (), Computed(lambda: [b"abcd"])),
        TensorEntry("c", (0,), Computed(list)),
    ]
    assert (made, sources(entries)) == ([], [source])
    chunks = [bytes(chunk) for chunk in tensor_data(entries)]
    assert max(map(len, chunks)) <= 1 << 18
    assert b"".join(chunks) == source.read(0, 3_000_000) + b"abcd"
    with pytest.raises(ValueError, match="b has 4 bytes, but 3 were computed"):
        list(tensor_data([TensorEntry("b", (), Computed(lambda: [b"abc"]))]))


def test_data_of_several_extents_and_files_comes_in_order(source: Source, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"\x01" * 16)
    other = Source(tmp_path / "other")
    entries = [
        TensorEntry("a", (3,), FileData("a", source, ((8, 8), (0, 4)))),
        TensorEntry("b", (1_000_000,), Zeros()),
        TensorEntry("c", (0,), FileData("c", source, ())),
        TensorEntry("d", (4,), FileData("d", other, ((0, 16),), lambda chunk: memoryview(bytes(len(chunk))))),
        TensorEntry("e", (1_000_000,), FileData("e", source, ((0, 4_000_000),))),
    ]
    assert [entry.nbytes for entry in entries] == [12, 4_000_000, 0, 16, 4_000_000]
    chunks = [bytes(chunk) for chunk in tensor_data(entries)]
    assert max(map(len, chunks)) <= 1 << 18
    everything = b"".join(chunks)
    assert np.frombuffer(everything[:12], "<f4").tolist() == [2, 3, 0]
    assert not any(everything[12 : 12 + 4_000_016])
    assert everything[-4_000_000:] == np.arange(1_000_000, dtype="<f4").tobytes()
    assert sources(entries) == [source, other]
    other.close()
