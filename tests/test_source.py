"""Tensor data: the right bytes, on demand, and clear errors where they are gone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import FileError, UsageError, open_checkpoint
from ggcp_schema import source as module
from ggcp_schema.source import Source, Tensor
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_arrays_hold_what_numpy_reads_at_the_offset(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        for name, tensor in ckpt.tensors.items():
            array = tensor.array()
            wanted = np.fromfile(path, "<f4", count=tensor.n_elements, offset=tensor.offset)
            assert array.dtype == np.dtype("<f4"), name
            assert array.shape == (tensor.shape[::-1] if tensor.shape else (0,))
            assert array.tobytes() == wanted.tobytes()
            assert tensor.nbytes == 4 * tensor.n_elements == array.nbytes
            assert tensor.offset % 32 == 0


def test_values_are_those_the_trainer_meant() -> None:
    """`[n_embd, n_vocab]` in ggml order: a row of the array is a token's embedding."""
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        tensor = ckpt.tok_embeddings
        assert tensor.shape == (16, 320)
        array = np.asarray(tensor)
        assert array.shape == (320, 16)
        raw = (FIXTURES / "v1-adam.ggcp").read_bytes()
        start = tensor.offset + 4 * 16 * 7
        assert array[7].tobytes() == raw[start : start + 64]


def test_an_array_cannot_be_written() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt:
        for name in ("norm", "optimizer.state.pf"):
            with pytest.raises(ValueError, match="read-only"):
                ckpt[name].array()[...] = 0


def test_the_empty_array_of_a_null_tensor(tmp_path: Path) -> None:
    path = tmp_path / "null.ggcp"
    path.write_bytes(build_checkpoint(past=0))
    with open_checkpoint(path) as ckpt:
        pf = ckpt["optimizer.state.pf"]
        assert (pf.is_null, pf.n_elements, pf.nbytes) == (True, 0, 0)
        assert pf.array().shape == (0,)
        assert not pf.array().flags.writeable
        assert list(pf.chunks()) == []


def test_an_array_outlives_its_checkpoint() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt:
        array = ckpt.norm.array()
        kept = array.copy()
    assert np.array_equal(array, kept)


def test_after_closing_no_data_is_given() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt:
        tensor = ckpt.norm
    for use in (tensor.array, lambda: list(tensor.chunks())):
        with pytest.raises(FileError, match=r"is closed\nRead tensors inside the `with` block"):
            use()


def test_a_file_that_shrank_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.ggcp"
    path.write_bytes(build_checkpoint())
    with open_checkpoint(path) as ckpt:
        tensor = ckpt.norm
        os.truncate(path, tensor.offset + 8)
        wanted = rf"cut short while in use: {tensor.offset + 8} bytes, where data up to {tensor.offset + 16} was"
        for use in (tensor.array, lambda: list(tensor.chunks())):
            with pytest.raises(FileError, match=wanted):
                use()


def test_elements_of_another_type_are_refused() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt, pytest.raises(UsageError, match="x: holds F16; only F32 is read"):
        Tensor("x", "x", (2,), 0, 4, ckpt.source, "F16").array()


# Streaming -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "numbers"
    path.write_bytes(np.arange(300, dtype=np.uint16).tobytes())
    return path


@given(
    extents=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=8),
    chunk=st.integers(1, 40),
    read_ahead_from=st.integers(1, 20),
)
def test_pieces_cover_the_extents_exactly(
    numbers: Path, extents: list[tuple[int, int]], chunk: int, read_ahead_from: int
) -> None:
    data = numbers.read_bytes()
    source = Source(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        patch.setattr(module, "READ_AHEAD_FROM", read_ahead_from)
        pieces = [bytes(piece) for piece in source.stream(extents)]
    source.close()
    assert b"".join(pieces) == b"".join(data[start : start + size] for start, size in extents)
    assert [len(piece) for piece in pieces] == [
        min(chunk, size - at) for _, size in extents for at in range(0, size, chunk)
    ]


@pytest.mark.parametrize("read_ahead_from", [1, 1000])
@pytest.mark.parametrize("at", [0, 3, 30])
def test_a_stream_that_ends_early_is_an_error(numbers: Path, at: int, read_ahead_from: int, tmp_path: Path) -> None:
    path = tmp_path / "shrinks"
    path.write_bytes(numbers.read_bytes())
    source = Source(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        patch.setattr(module, "READ_AHEAD_FROM", read_ahead_from)
        pieces = source.stream([(0, 600)])
        for _ in range(at):
            next(pieces)
        os.truncate(path, at * 16)
        with pytest.raises(FileError, match="was cut short while in use"):
            list(pieces)
    source.close()


@pytest.mark.parametrize("read_ahead_from", [1, 1000])
def test_a_stream_may_be_left_early(numbers: Path, read_ahead_from: int) -> None:
    """As when the disk is full: the reader must not hang, nor die of a closed file."""
    source = Source(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        patch.setattr(module, "READ_AHEAD_FROM", read_ahead_from)
        pieces = source.stream([(0, 600)])
        assert bytes(next(pieces)) == numbers.read_bytes()[:16]
        pieces.close()
    source.close()


def test_a_piece_is_good_until_the_next_but_one(numbers: Path) -> None:
    data = numbers.read_bytes()
    source = Source(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 16)
        patch.setattr(module, "READ_AHEAD_FROM", 1)
        last = None
        for index, piece in enumerate(source.stream([(0, 592)])):
            assert bytes(piece) == data[index * 16 : index * 16 + 16]
            if last is not None and index == 20:
                assert piece.obj is not last.obj
            last = piece
    source.close()


def test_a_part_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    with open_checkpoint(GENUINE[0]) as ckpt:
        raw = ckpt.norm.array().tobytes()
        for start, stop in ((0, None), (4, 20), (0, 10_000), (64, 64), (20, 4)):
            assert b"".join(map(bytes, ckpt.norm.chunks(start, stop))) == raw[start:stop]


def test_opening_does_not_read_tensor_data_by_the_file_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise AssertionError("tensor data was read")

    monkeypatch.setattr(os, "preadv", refuse)
    for path in GENUINE:
        with open_checkpoint(path) as ckpt:
            assert len(ckpt.spans) > len(ckpt.tensors)
