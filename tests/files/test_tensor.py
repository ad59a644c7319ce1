"""Tensor data: the right elements, on demand, as numpy would read them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from hypothesis import example, given
from hypothesis import strategies as st

from ggcp_schema import FileError, UsageError, open_checkpoint
from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.files import source as source_module
from ggcp_schema.files import tensor as module
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor, encode, stream_values
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, thinned

PATH = FIXTURES / "v1-adam.ggcp"
SIGNALLING_NAN = np.array([0x7FA00001], "<u4").view("<f4")


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
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


def test_a_row_of_the_array_is_the_embedding_of_a_token() -> None:
    """`[n_embd, n_vocab]` in ggml order: the first number is the fastest-varying."""
    with open_checkpoint(PATH) as ckpt:
        tensor = ckpt.tok_embeddings
        assert tensor.shape == (16, 320)
        array = np.asarray(tensor)
        assert array.shape == (320, 16)
        start = tensor.offset + 4 * 16 * 7
        assert array[7].tobytes() == PATH.read_bytes()[start : start + 64]


def test_an_array_cannot_be_written_but_a_copy_can() -> None:
    with open_checkpoint(PATH) as ckpt:
        for tensor in (ckpt.norm, ckpt.tensor("optimizer.state.pf")):
            with pytest.raises(ValueError, match="read-only"):
                tensor.array()[...] = 0
        copy = np.array(ckpt.norm)
        copy[0] = 7
        assert ckpt.norm.array()[0] != 7


def test_numpy_copies_when_it_is_asked_to() -> None:
    with open_checkpoint(PATH) as ckpt:
        norm = ckpt.norm
        assert not np.shares_memory(np.array(norm), norm.array())
        assert np.asarray(norm).dtype == np.array(norm, copy=False).dtype == np.float32
        assert not np.array(norm, copy=False).flags.writeable
        assert np.asarray(norm, np.float64).dtype == np.float64
        assert np.linalg.norm(norm) == pytest.approx(float(np.linalg.norm(norm.array())))
        with pytest.raises(ValueError, match="so an array of float64 is a copy of it"):
            np.array(norm, dtype=np.float64, copy=False)


def test_the_empty_array_of_a_null_tensor(tmp_path: Path) -> None:
    path = tmp_path / "null.ggcp"
    path.write_bytes(build_checkpoint(past=0))
    with open_checkpoint(path) as ckpt:
        pf = ckpt.tensor("optimizer.state.pf")
        assert (pf.is_null, pf.n_elements, pf.nbytes, pf.shape) == (True, 0, 0, ())
        assert pf.array().shape == (0,)
        assert not pf.array().flags.writeable
        assert list(pf.chunks()) == list(pf.values()) == []


def test_an_array_outlives_its_checkpoint() -> None:
    with open_checkpoint(PATH) as ckpt:
        array = ckpt.norm.array()
        kept = array.copy()
    assert np.array_equal(array, kept)


def test_after_closing_no_data_is_given() -> None:
    with open_checkpoint(PATH) as ckpt:
        tensor = ckpt.norm
    for use in (tensor.array, lambda: list(tensor.chunks()), lambda: list(tensor.values())):
        with pytest.raises(FileError, match=r"is closed\nRead tensors inside the `with` block"):
            use()


def test_a_file_that_shrank_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "shrinks.ggcp"
    path.write_bytes(build_checkpoint())
    with open_checkpoint(path) as ckpt:
        tensor = ckpt.norm
        os.truncate(path, tensor.offset + 8)
        wanted = rf"in use: it has {tensor.offset + 8} bytes, but its data should reach offset {tensor.offset + 16}"
        for use in (tensor.array, lambda: list(tensor.chunks())):
            with pytest.raises(FileError, match=wanted):
                use()


# Parts -----------------------------------------------------------------------------------------------------


def test_a_part_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    with open_checkpoint(PATH) as ckpt:
        raw = ckpt.norm.array().tobytes()
        for start, stop in ((0, None), (4, 20), (0, 64), (64, 64), (3, 5)):
            assert b"".join(ckpt.norm.chunks(start, stop)) == raw[start:stop]
        values = np.frombuffer(raw, "<f4")
        for start, stop in ((0, None), (1, 5), (0, 16), (16, 16), (3, 4)):
            assert np.array_equal(
                np.concatenate([np.empty(0, "<f4"), *ckpt.norm.values(start, stop)]), values[start:stop]
            )


@pytest.mark.parametrize(("start", "stop"), [(-8, 0), (-8, None), (0, 65), (20, 4), (65, None)])
def test_bytes_outside_the_tensor_are_not_given(start: int, stop: int | None) -> None:
    with (
        open_checkpoint(PATH) as ckpt,
        pytest.raises(UsageError, match=r"norm has 64 bytes of data: there are no bytes"),
    ):
        list(ckpt.norm.chunks(start, stop))


def test_all_chunks_of_a_large_tensor_can_be_kept(tmp_path: Path) -> None:
    """Each has its own memory, unlike those of a stream. The file has holes."""
    path, size = tmp_path / "sparse", 8 << 20
    with path.open("wb") as file:
        for at in range(0, size, CHUNK):
            file.seek(at)
            file.write((at // CHUNK).to_bytes(4, "little"))
        file.truncate(size)
    source = Source(path)
    tensor = Tensor("x", "x", (size // 4,), 0, size, source)
    firsts = [(len(chunk), bytes(chunk[:4])) for chunk in list(tensor.chunks())]
    source.close()
    assert firsts == [(CHUNK, index.to_bytes(4, "little")) for index in range(size // CHUNK)]


# Element types ---------------------------------------------------------------------------------------------


def test_elements_of_another_type_are_refused() -> None:
    with open_checkpoint(PATH) as ckpt:
        tensor = Tensor("x", "x", (2,), 0, 4, ckpt.source, "type 139")
        for use in (tensor.array, lambda: list(tensor.values()), lambda: list(stream_values([ckpt.norm, tensor]))):
            with pytest.raises(UsageError, match="the values of x cannot be read: its type is 139"):
                use()
        assert len(b"".join(tensor.chunks())) == 4  # the bytes are given all the same


@given(
    values=st.lists(st.floats(width=16), max_size=9),
    type=st.sampled_from(["F32", "F16", "BF16"]),
    byte_order=st.sampled_from(["little", "big"]),
)
def test_elements_are_decoded_as_numpy_does(
    values: list[float], type: str, byte_order: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = np.array(values, np.float32)
    mark = "<" if byte_order == "little" else ">"
    if type == "BF16":
        words = (expected.view(np.uint32) >> 16).astype(mark + "u2")
        expected = (expected.view(np.uint32) >> 16 << 16).view(np.float32)
    else:
        words = expected.astype(mark + ("f4" if type == "F32" else "f2"))
    path = tmp_path_factory.getbasetemp() / "elements"
    path.write_bytes(b"?" + words.tobytes())
    source = Source(path)
    tensor = Tensor("x", "x", (len(values),), 1, words.nbytes, source, type, byte_order)
    np.testing.assert_array_equal(tensor.array(), expected)
    np.testing.assert_array_equal(np.concatenate([np.empty(0, "<f4"), *stream_values([tensor])]), expected)
    if not tensor.is_mapped:
        with pytest.raises(ValueError, match="is a copy"):
            np.array(tensor, copy=False)
    source.close()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=9))
@example([0x3F808000, 0x3F818000, 0x3F808001, 0xFF7F8000])  # ties, one just above, and one that overflows
def test_bf16_is_rounded_as_gguf_does(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    expected = quantize(values, GGMLQuantizationType.BF16).view("<u2")
    assert np.frombuffer(encode(values, "BF16"), "<u2").tolist() == expected.tolist()


def test_a_nan_keeps_its_bits(tmp_path: Path) -> None:
    path = tmp_path / "nan"
    path.write_bytes(SIGNALLING_NAN.tobytes())
    source = Source(path)
    tensor = Tensor("x", "x", (1,), 0, 4, source)
    assert tensor.array().tobytes() == next(tensor.values()).tobytes() == SIGNALLING_NAN.tobytes()
    source.close()


def test_the_values_of_many_tensors_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one file after another, in pieces that belong to one tensor each."""
    monkeypatch.setattr(source_module, "CHUNK", 64)
    monkeypatch.setattr(source_module.Ahead, "LARGEST", 64)
    with open_checkpoint(PATH) as a, open_checkpoint(GENUINE[-1]) as b:
        tensors = [*a.tensors.values(), *b.tensors.values(), a.norm]
        pieces = [piece.copy() for piece in stream_values(tensors)]
        expected = np.concatenate([tensor.array().ravel() for tensor in tensors])
        assert np.array_equal(np.concatenate(pieces), expected)
        assert [len(piece) for piece in pieces] == [
            min(16, tensor.n_elements - at) for tensor in tensors for at in range(0, tensor.n_elements, 16)
        ]


def test_opening_reads_no_tensor_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise AssertionError("tensor data was read")

    monkeypatch.setattr(os, "preadv", refuse)
    for path in GENUINE:
        with open_checkpoint(path) as ckpt:
            assert sum(leaf.type == "data" for leaf in ckpt.root.leaves()) == len(ckpt.tensors)


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
def test_numbers_are_the_values_without_numpy(tmp_path: Path, type: str, byte_order: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(7) + np.random.default_rng(3).bytes(64))
    with contextlib.closing(Source(path)) as source:
        count = 64 // (4 if type == "F32" else 2)
        tensor = Tensor("x", "x", (count,), 7, 64, source, type, byte_order)
        expected = np.concatenate(list(tensor.values())).tolist()
        np.testing.assert_array_equal(tensor.numbers(0, count), expected)
        np.testing.assert_array_equal(tensor.numbers(3, 5), expected[3:5])
        assert tensor.numbers(2, 2) == []
        for start, stop in ((0, count + 1), (-1, 2), (3, 2), (count, count + 1)):
            with pytest.raises(UsageError, match="there are no bytes"):
                tensor.numbers(start, stop)
