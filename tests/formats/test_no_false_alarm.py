"""Well-formed files with unusual numbers, or with bytes after their end: nothing of them is called damaged."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import quants

from ggcp_schema import MalformedError, open_file
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import unsound_fields
from tests.builder import build_ggml, build_gguf
from tests.helpers import FIXTURES

ZEROS = (bytes(16), bytes(160), bytes(512), bytes(4096), bytes(1 << 20))
TEXT = b"hello world, this is text\n"


def model(*kinds: str, last: float = 0.5, odd: float = 0.5, zeros: int = 0, size: int = 800) -> bytes:
    """Return a file with a tensor of random numbers of each type, of which the last ends in zeros.

    `odd` is a number of the first tensor, the last that is looked at from its beginning; `last` is a number of the last
    tensor, shortly before its end.
    """
    rng, tensors = np.random.default_rng(3), []
    for index, kind in enumerate(kinds):
        values = rng.standard_normal(size).astype(np.float32)
        if index == 0:
            values[127] = odd
        if index == len(kinds) - 1:
            values[size - zeros :] = 0
            values[size - zeros - 4] = last
        number = Type[kind]
        with np.errstate(all="ignore"):
            data = quants.quantize(values, number).tobytes()
        tensors.append((f"t{index}", (size,), number.value, data))
    return build_gguf([("general.architecture", 8, "llama")], tensors)


def read(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    with open_file(path) as file:
        return file


def unpadded(data: bytes, size: int) -> bytes:
    """Return a file without the padding after its last tensor, whose data has this size."""
    return data[: len(data) - -size % 32]


@pytest.mark.parametrize("zeros", [1, 2, 3])
@pytest.mark.parametrize("odd", [float("inf"), float("nan"), 1e30, 1e-30])
def test_an_odd_number_in_a_file_without_padding_at_its_end(odd: float, zeros: int, tmp_path: Path) -> None:
    """The bytes at its end could be padding, were the tensors moved; one number in them is no proof of that."""
    data = model("F32", "F32", odd=odd, zeros=zeros, size=800 - zeros)
    assert not read(tmp_path / "x.gguf", unpadded(data, 4 * (800 - zeros))).findings


@pytest.mark.parametrize("tail", ZEROS, ids=len)
@pytest.mark.parametrize("last", [0.5, float("inf"), float("nan"), 1e30])
@pytest.mark.parametrize("kinds", [("F32",), ("F32", "F32"), ("Q8_0", "F16"), ("F16", "Q4_0"), ("F32", "BF16", "Q8_0")])
def test_zeros_after_the_end_of_gguf_are_a_finding(
    kinds: tuple[str, ...], last: float, tail: bytes, tmp_path: Path
) -> None:
    """As programs add up to a border of a sector, a page or a block."""
    found = read(tmp_path / "x.gguf", model(*kinds, last=last) + tail)
    assert [finding.path for finding in found.findings] == ["trailing"]


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\x1a"])
def test_line_ends_after_blocks_that_end_in_zeros_are_a_finding(tail: bytes, tmp_path: Path) -> None:
    """A byte on, the scales of these blocks are numbers of a usual size too."""
    blocks = quants.quantize(np.ones(960, np.float32), Type.Q4_0).tobytes() + bytes(36)
    data = build_gguf([("general.architecture", 8, "llama")], [("t", (1024,), Type.Q4_0.value, blocks)])
    found = read(tmp_path / "x.gguf", data + tail)
    assert [finding.path for finding in found.findings] == ["trailing"]


@pytest.mark.parametrize("size", [608, 736])
def test_text_in_place_of_the_last_padding_is_a_finding(size: int, tmp_path: Path) -> None:
    """Of the text, 2 bytes are beyond the padding."""
    nbytes = size // 32 * 24
    found = read(tmp_path / "x.gguf", unpadded(model("F32", "Q5_1", size=size), nbytes) + TEXT)
    assert [finding.path for finding in found.findings] == ["trailing"]


@pytest.mark.parametrize("tail", [b"\n", b"\r\n", b"\x1a"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_line_ends_after_blocks_of_ggjt_are_a_finding(version: int, tail: bytes, tmp_path: Path) -> None:
    blocks = random.Random(1).randbytes(3 * (18 if version == 3 else 20))
    tensors = [("norm.weight", (4,), 0, bytes(16)), ("output.weight", (32, 3), 2, blocks)]
    found = read(tmp_path / "x.ggjt", build_ggml(b"tjgg", version, tensors=tensors) + tail)
    assert [finding.path for finding in found.findings][-1:] == ["trailing"]


@pytest.mark.parametrize("block", [512, 4096])
@pytest.mark.parametrize("name", ["lora/adam.ggla", "lora/base.ggjt", "vocab.ggjt", "alice-vocab.ggjt"])
def test_zeros_that_fill_the_last_block_are_a_finding(name: str, block: int, tmp_path: Path) -> None:
    """As disks, tapes and archives have them. What follows its last record is no part of a file of these formats."""
    data = (FIXTURES / name).read_bytes() + bytes(16)
    found = read(tmp_path / "x", data + bytes(-len(data) % block))
    assert [finding.path for finding in found.findings] == ["trailing"]


def test_zeros_in_place_of_records_are_none_after_the_end(tmp_path: Path) -> None:
    """They begin a block, or do not fill one, and tensors of the model are missing."""
    data, path = (FIXTURES / "lora" / "base.ggjt").read_bytes(), tmp_path / "x"
    with open_file(FIXTURES / "lora" / "base.ggjt") as whole:
        ends = [tensor.offset + tensor.nbytes for tensor in whole.tensors.values()][:-1]
    for end in ends:
        for size in (len(data), end + 4096):
            path.write_bytes(data[:end].ljust(size, b"\0"))
            with pytest.raises(MalformedError, match="found 0"):
                open_file(path)


@pytest.mark.parametrize("tail", ZEROS, ids=len)
@pytest.mark.parametrize("name", ["v0-adam", "v1-adam", "v1-adam-past5", "v1-lbfgs", "truth/jul28-A"])
def test_zeros_after_a_checkpoint_are_a_finding(name: str, tail: bytes, tmp_path: Path) -> None:
    """They may be more than the state of the optimizer, by whose size its type is told."""
    data = (FIXTURES / f"{name}.ggcp").read_bytes()
    with open_file(FIXTURES / f"{name}.ggcp") as file:
        expected = [finding.path for finding in file.findings]
    found = [finding.path for finding in read(tmp_path / "x.ggcp", data + tail).findings]
    assert set(found) - {"optimizer.type"} == {*expected, "trailing"}


STATES, KEY = [*FIXTURES.glob("lora/*.checkpoint.gguf")], "training.shuffle.rng_state"


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.name)
@pytest.mark.parametrize(("fill", "words"), [(b"\0", "are zeros"), (b"\xff", "are 0xFF")])
def test_a_hole_in_a_text_is_unsound_and_none_is_in_a_whole_one(
    path: Path, fill: bytes, words: str, tmp_path: Path
) -> None:
    data, begin, size = text_of(path)
    for start, length in ((0, 16), (1000, 512), (size - 513, 512)):
        at = begin + start
        found = unsound_fields(read(tmp_path / "x", data[:at] + fill * length + data[at + length :]))
        message = f"bytes {at:,} to {at + length - 1:,} of the file {words}, which no text has"
        assert found == ((KEY, at, at + length, "hole-in-text", message),)
    for start, length in ((0, 15), (1000, 2)):  # as no page is lost
        at = begin + start
        assert not unsound_fields(read(tmp_path / "x", data[:at] + fill * length + data[at + length :]))


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.name)
def test_bytes_of_a_text_that_are_not_utf8_are_a_finding(path: Path, tmp_path: Path) -> None:
    data, begin, _ = text_of(path)
    for bad, words in ((b"\xe9", "1 byte of the text is"), (b"\xc3\xa9\xff\xe9", "2 bytes of the text are")):
        at = begin + 1000
        file = read(tmp_path / "x", data[:at] + bad + data[at + len(bad) :])
        first = at + bad.index(bad.lstrip(b"\xc3\xa9") or bad)
        assert file.findings == ((KEY, f"{words} not UTF-8; the first is byte {first:,} of the file"),)
        assert not unsound_fields(file)


def text_of(path: Path) -> tuple[bytes, int, int]:
    """Return a file's bytes, where the text of `KEY` begins in them, and how long it is."""
    data = path.read_bytes()
    with open_file(path) as file:
        text = file.key_values[KEY].value.encode()
    begin = data.index(KEY.encode()) + len(KEY) + 4 + 8
    assert data[begin : begin + len(text)] == text
    return data, begin, len(text)
