"""One test per kind of corruption: which field, where, what was expected, what was found."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema import (
    CHECKPOINT,
    FileError,
    GgcpError,
    MalformedError,
    NotACheckpointError,
    TruncatedError,
    UsageError,
    open_checkpoint,
)
from ggcp_schema.constructs import FieldError, Trace
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES

VALIDATE = "See all that is wrong with `ggcp-schema validate`."
CUT_SHORT = "The file is cut short: fetch it again, or look at what is left of it."


def offset_of(data: bytes, field: str) -> int:
    trace = Trace()
    CHECKPOINT.parse_stream(io.BytesIO(data), trace=trace)
    return next(span.offset for span in trace.spans if span.path == field)


def with_field(field: str, raw: bytes, **options: Any) -> tuple[bytes, int]:
    """A checkpoint with these bytes in place of a field's, and the field's offset."""
    data = build_checkpoint(**options)
    offset = offset_of(data, field)
    return data[:offset] + raw + data[offset + len(raw) :], offset


def open_error(data: bytes, folder: Path) -> tuple[MalformedError, str]:
    """The error of opening, and its text without the file's name."""
    path = folder / "damaged.ggcp"
    path.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return caught.value, text.removeprefix(f"{path}: ")


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


# Not a checkpoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"GGUF\3\0\0\0", "a GGUF file"),
        (b"tjgg\3\0\0\0", "a ggjt model or vocabulary file (llama.cpp of April to August 2023)"),
        (b"fmgg\1\0\0\0", "a ggmf model or vocabulary file (llama.cpp of March 2023)"),
        (b"lmgg\0\0\0\0", "an unversioned ggml model or vocabulary file (llama.cpp before 25 March 2023)"),
        (b"algg\1\0\0\0", "a ggla LoRA adapter (llama.cpp's finetune or convert-lora, 2023)"),
        (b"lcgg\1\0\0\0", "a ggcl LoRA training checkpoint (llama.cpp's finetune, 2023)"),
        (b"ggcp\0\0\0\0", "a big-endian ggcp checkpoint, written on a machine of the other byte order"),
        (b"PK\3\4\0\0\0\0", "a zip archive, perhaps a PyTorch checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_named(head: bytes, what: str, tmp_path: Path) -> None:
    error, text = open_error(head + bytes(100), tmp_path)
    assert isinstance(error, NotACheckpointError)
    found = int.from_bytes(head[:4], "little")
    assert text == f"magic at offset 0 (0x0): expected 0x67676370 ('ggcp'), found {found}\nThis is {what}."


@pytest.mark.parametrize("name", ["vocab.gguf", "vocab.ggjt"])
def test_genuine_files_of_other_kinds_are_named(name: str) -> None:
    with pytest.raises(NotACheckpointError, match=r"This is a (GGUF file|ggjt model or vocabulary file)"):
        open_checkpoint(FIXTURES / name)


def test_an_empty_file(tmp_path: Path) -> None:
    error, text = open_error(b"", tmp_path)
    assert isinstance(error, NotACheckpointError)
    assert text.endswith("\nThe file is empty.")


def test_a_file_of_three_bytes(tmp_path: Path) -> None:
    _, text = open_error(b"pcg", tmp_path)
    assert text == (
        "magic at offset 0 (0x0): expected 4 bytes, found 3 before the end: the file is 1 bytes too short\n"
        "The file is too short to be anything."
    )


# One field that is wrong -----------------------------------------------------------------------------------

V0: dict[str, Any] = {"layout": "v0"}
LBFGS: dict[str, Any] = {"optimizer": "lbfgs"}
TWO: dict[str, Any] = {"n_layer": 2, "n_ff": 8}


@pytest.mark.parametrize(
    ("options", "field", "raw", "expected", "found"),
    [
        ({}, "version", u32(1), "0", "1"),
        ({}, "optimizer.version", u32(2), "0 or 1", "2"),
        (V0, "optimizer.params.type", struct.pack("<i", 2), "0 (adam) or 1 (lbfgs)", "2"),
        (V0, "optimizer.params.type", struct.pack("<i", -1), "0 (adam) or 1 (lbfgs)", "-1"),
        (V0, "optimizer.params.past", struct.pack("<i", -1), "0 to 2147483647", "-1"),
        ({}, "optimizer.just_initialized", u32(7), "0 or 1", "7"),
        (V0, "optimizer.nx", struct.pack("<q", -5), "0 to 9223372036854775807", "-5"),
        ({}, "output.type", u32(1), "0 (F32)", "1"),
        ({}, "norm.n_dims", u32(2), "1", "2"),
        ({}, "norm.n_dims", u32(0), "1", "0"),
        ({}, "norm.n_dims", u32(0xFFFFFFFF), "1", "4294967295"),
        ({}, "tok_embeddings.ne[0]", u32(5), "4 (n_embd)", "5"),
        ({}, "tok_embeddings.ne[1]", u32(6), "5 (n_vocab)", "6"),
        (TWO, "layers[1].wq.ne[1]", u32(3), "4 (n_embd)", "3"),
        (TWO, "layers[0].w1.ne[0]", u32(8), "4 (n_embd)", "8"),
        (TWO, "layers[0].w2.ne[0]", u32(9), "8 (n_ff)", "9"),
        (TWO, "layers[1].w1.ne[1]", u32(7), "8 (n_ff)", "7"),
        (V0, "optimizer.state.g2.ne[0]", u32(1), "{nx} (nx)", "1"),
        ({"past": 3}, "optimizer.state.pf.ne[0]", u32(4), "3 (past)", "4"),
        (V0 | {"past": 3}, "optimizer.state.pf.n_dims", u32(0), "1", "0"),
        (V0, "optimizer.state.pf.n_dims", u32(1), "0", "1"),
        (LBFGS, "optimizer.state.lmal.ne[0]", u32(4), "3 (lbfgs_m)", "4"),
        (LBFGS, "optimizer.state.lmy.ne[1]", u32(2), "3 (lbfgs_m)", "2"),
    ],
)
def test_a_wrong_field(
    options: dict[str, Any], field: str, raw: bytes, expected: str, found: str, tmp_path: Path
) -> None:
    data, offset = with_field(field, raw, **options)
    expected = expected.format(nx=CHECKPOINT.parse(build_checkpoint(**options)).optimizer.nx)
    error, text = open_error(data, tmp_path)
    assert text == f"{field} at offset {offset} ({offset:#x}): expected {expected}, found {found}\n{VALIDATE}"
    assert (type(error), error.exit_code) == (MalformedError, 4)
    assert (error.path, error.offset, error.expected, error.found) == (field, offset, expected, found)
    assert isinstance(error.__cause__, FieldError)


def test_a_wrong_field_lies_where_the_format_says(tmp_path: Path) -> None:
    """By hand: 44 bytes of fields, n_dims, name_len, type, then ne."""
    error, _ = open_error(with_field("tok_embeddings.ne[1]", u32(6))[0], tmp_path)
    assert error.offset == 44 + 12 + 4


def test_a_type_that_the_shapes_contradict(tmp_path: Path) -> None:
    """An L-BFGS state under the type of Adam: its first tensors fit, the sixth of the eight does not end it."""
    data, _ = with_field("optimizer.params.type", struct.pack("<i", 0), layout="v0", optimizer="lbfgs")
    error, _ = open_error(data, tmp_path)
    assert error.path == "optimizer.state.mh.n_dims"
    assert (error.expected, error.found) == ("1", "0")


@pytest.mark.parametrize("tail", [b"\0", b"GGUF", bytes(32)])
def test_trailing_bytes(tail: bytes, tmp_path: Path) -> None:
    data = build_checkpoint(layout="v0")
    error, text = open_error(data + tail, tmp_path)
    at = len(data)
    assert text == (
        f"file at offset {at} ({at:#x}): expected the end of the file, found {len(tail)} more bytes\n{VALIDATE}"
    )
    assert type(error) is MalformedError


def test_truncation_says_how_much_is_missing(tmp_path: Path) -> None:
    data = build_checkpoint()
    offset = CHECKPOINT.parse(data).layers[0].w3.data.offset
    error, text = open_error(data[: offset + 10], tmp_path)
    assert isinstance(error, TruncatedError)
    size = CHECKPOINT.parse(data).layers[0].w3.data.nbytes
    assert text == (
        f"layers[0].w3.data at offset {offset} ({offset:#x}): expected {size} bytes, found 10 before the end: "
        f"the file is {size - 10} bytes too short\n{CUT_SHORT}"
    )
    assert error.missing == size - 10


# Sizes that lie --------------------------------------------------------------------------------------------


class CountingStream(io.BytesIO):
    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        return super().read(size)


@pytest.mark.parametrize("n_layer", [0xFFFFFFFF, 4_000_000_000, 1 << 20])
def test_billions_of_layers_fail_before_the_first(n_layer: int, tmp_path: Path) -> None:
    data, _ = with_field("hparams.n_layer", u32(n_layer))
    error, _ = open_error(data, tmp_path)
    assert error.path in ("layers", "hparams.n_layer")
    assert str(n_layer) in error.found
    assert f"in a file of {len(data)} bytes" in error.expected
    stream = CountingStream(data)
    with pytest.raises(FieldError):
        CHECKPOINT.parse_stream(stream)
    assert stream.reads < 50


@pytest.mark.parametrize(
    ("field", "raw", "path"),
    [
        ("norm.name_len", u32(0xFFFFFFFF), "norm.name"),
        ("norm.name_len", u32(0x80000000), "norm.name"),
        ("hparams.n_embd", u32(0xFFFFFFFF), "tok_embeddings.ne[0]"),
        ("hparams.n_layer", u32(0xFFFFFFFF), None),
        ("optimizer.lbfgs_m", u32(0xFFFFFFFF), None),
        ("optimizer.past", u32(0xFFFFFFFF), None),
        ("optimizer.nx", struct.pack("<q", (1 << 63) - 1), None),
        ("optimizer.state.x.name_len", u32(0xFFFFFFFF), None),
    ],
)
def test_a_lie_about_a_size_allocates_nothing(field: str, raw: bytes, path: str | None, tmp_path: Path) -> None:
    data, _ = with_field(field, raw, optimizer="lbfgs")
    tracemalloc.start()
    try:
        error, _ = open_error(data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    if path:
        assert error.path == path


def test_a_consistent_lie_about_a_shape_is_a_truncation(tmp_path: Path) -> None:
    """Header and hyper-parameters agree on a vocabulary that the file cannot hold."""
    data, _ = with_field("hparams.n_vocab", u32(0xFFFFFFFF))
    data = data[:60] + u32(0xFFFFFFFF) + data[64:]
    error, _ = open_error(data, tmp_path)
    assert isinstance(error, TruncatedError)
    assert error.path == "tok_embeddings.data"
    assert error.missing == 16 * 0xFFFFFFFF - (len(data) - error.offset)


@pytest.mark.parametrize("layout", ["v0", "v1-raw-params"])
def test_an_nx_beyond_any_tensor(layout: str, tmp_path: Path) -> None:
    data, _ = with_field("optimizer.nx", struct.pack("<q", (1 << 63) - 1), layout=layout)
    error, _ = open_error(data, tmp_path)
    if layout == "v0":
        assert error.path == "optimizer.state.x.ne[0]"
        assert error.expected == "9223372036854775807 (nx)"


def test_a_name_of_four_billion_bytes_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "name.ggcp"
    path.write_bytes(with_field("norm.name_len", u32(0xFFFFFFFF))[0])
    program = (
        "import resource, sys, ggcp_schema\n"
        "from ggcp_schema import open_checkpoint, TruncatedError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except TruncatedError as error: print(error.path, error.missing > 1 << 31)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("norm.name True\n", "")


# The errors themselves -------------------------------------------------------------------------------------


def test_the_family() -> None:
    assert issubclass(TruncatedError, MalformedError)
    assert issubclass(NotACheckpointError, MalformedError)
    for kind, code in ((FileError, 2), (UsageError, 2), (MalformedError, 4), (TruncatedError, 4)):
        assert issubclass(kind, GgcpError)
        assert kind.exit_code == code


def test_a_hint_is_a_line_of_its_own() -> None:
    assert str(FileError("what")) == "what"
    assert str(FileError("what", "then")) == "what\nthen"
