"""The declared layout against the trainers' own files, and against files built without it."""

from __future__ import annotations

import io
import math
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from ggcp_schema import CHECKPOINT
from ggcp_schema.constructs import Extent, Span, Trace
from tests.builder import build_checkpoint
from tests.helpers import GENUINE
from tests.strategies import KINDS, SIGNALLING_NAN, Built, checkpoints

NUMBERS = {"u8": "<B", "u32": "<I", "i32": "<i", "i64": "<q", "f32": "<f"}
by_name = {"ids": lambda value: getattr(value, "name", str(value))}
genuine = pytest.mark.parametrize("path", GENUINE, **by_name)


class WatchedStream(io.BytesIO):
    """Remembers which bytes were read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.read_pieces: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        piece = super().read(size)
        self.read_pieces.append((start, start + len(piece)))
        return piece


def trace(data: bytes) -> list[Span]:
    collected = Trace()
    CHECKPOINT.parse_stream(io.BytesIO(data), trace=collected)
    return collected.spans


def assert_reads_no_data(stream: WatchedStream) -> None:
    payload = np.zeros(len(stream.getvalue()), bool)
    for span in trace(stream.getvalue()):
        if span.kind == "data":
            payload[span.offset : span.offset + span.size] = True
    touched = [piece for piece in stream.read_pieces if payload[slice(*piece)].any()]
    assert not touched


def assert_tiles(data: bytes) -> None:
    """Every byte is in exactly one leaf, and each number is what `struct` reads there."""
    end, paths = 0, set()
    for span in trace(data):
        assert span.offset == end, span.path
        assert span.path not in paths
        paths.add(span.path)
        end += span.size
        piece = data[span.offset : end]
        if span.kind in NUMBERS:
            (number,) = struct.unpack(NUMBERS[span.kind], piece)
            assert span.value == number or (math.isnan(span.value) and math.isnan(number))
        elif span.kind == "data":
            assert (span.value.offset, span.value.nbytes) == (span.offset, span.size)
        elif span.size:
            assert span.value == piece, span.path
    assert end == len(data)


# Round trips -----------------------------------------------------------------------------------------------


@genuine
def test_a_genuine_file_builds_back_from_memory(path: Path) -> None:
    data = path.read_bytes()
    assert CHECKPOINT.build(CHECKPOINT.parse(data)) == data


@genuine
def test_a_genuine_file_builds_back_from_a_closed_file(path: Path, tmp_path: Path) -> None:
    parsed = CHECKPOINT.parse_file(path)
    assert CHECKPOINT.build(parsed) == path.read_bytes()
    CHECKPOINT.build_file(parsed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


@genuine
def test_a_genuine_file_builds_back_from_an_open_stream(path: Path) -> None:
    with path.open("rb") as stream:
        parsed = CHECKPOINT.parse_stream(stream)
        copy = io.BytesIO()
        CHECKPOINT.build_stream(parsed, copy)
    assert copy.getvalue() == path.read_bytes()


@given(checkpoints())
def test_whatever_a_file_holds_it_builds_back(built: Built) -> None:
    parsed = CHECKPOINT.parse(built.data)
    assert (parsed.optimizer.layout, parsed.optimizer.type) == (built.layout, built.optimizer)
    assert CHECKPOINT.build(parsed) == built.data


@pytest.mark.parametrize("kind", KINDS, **by_name)
def test_signalling_nans_build_back(kind: tuple[str, str]) -> None:
    layout, optimizer = kind
    size = {"adam": 12, "lbfgs": 24}[optimizer]
    clean = build_checkpoint(
        layout=layout,
        optimizer=optimizer,
        params={"delta": SIGNALLING_NAN, "adam": SIGNALLING_NAN * 9}
        | ({"lbfgs": SIGNALLING_NAN * 9} if optimizer == "adam" else {}),
    )
    dirty = clean[:-size] + SIGNALLING_NAN * 2 + clean[len(clean) - size + 8 :]
    assert CHECKPOINT.build(CHECKPOINT.parse(dirty)) == dirty


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 31, 32, 33, 64, 65, 100, 5000])
def test_names_of_any_length_build_back(length: int) -> None:
    name = random.Random(length).randbytes(length)
    data = build_checkpoint(name=lambda default: name, optimizer_name=lambda: name)
    parsed = CHECKPOINT.parse(data)
    assert parsed.tok_embeddings.name == parsed.optimizer.state.v.name == name
    assert CHECKPOINT.build(parsed) == data


def test_a_bool_that_is_neither_0_nor_1_builds_back() -> None:
    data = build_checkpoint(layout="v0", params={"print": b"\x02\xff", "padding": b"\xde\xad"})
    params = CHECKPOINT.parse(data).optimizer.params
    assert (params.print_forward_graph, params.print_backward_graph, params.padding) == (2, 255, b"\xde\xad")
    assert CHECKPOINT.build(CHECKPOINT.parse(data)) == data


def test_an_edited_field_is_built_and_nothing_else_changes() -> None:
    data = build_checkpoint()
    parsed = CHECKPOINT.parse(data)
    parsed.train_its = 0x01020304
    assert CHECKPOINT.build(parsed) == data[:8] + b"\x04\x03\x02\x01" + data[12:]


def test_a_longer_name_moves_the_data_and_asks_for_new_padding() -> None:
    parsed = CHECKPOINT.parse(build_checkpoint(name=lambda default: b"a"))
    wanted = build_checkpoint(name=lambda default: b"a name that is longer")
    for record in (parsed.tok_embeddings, parsed.norm, parsed.output, *_records(parsed.layers), *_state(parsed)):
        if record.name:
            record.name, record.name_len = b"a name that is longer", 21
        record.padding = None
    assert CHECKPOINT.build(parsed) == wanted


def test_data_can_be_built_from_an_array() -> None:
    parsed = CHECKPOINT.parse(build_checkpoint(n_embd=4))
    parsed.norm.data = np.arange(4, dtype="<f4")
    assert CHECKPOINT.parse(CHECKPOINT.build(parsed)).norm.data.nbytes == 16
    offset = parsed.tok_embeddings.data.offset + parsed.tok_embeddings.data.nbytes
    assert np.arange(4, dtype="<f4").tobytes() in CHECKPOINT.build(parsed)[offset : offset + 96]


def _records(layers: list) -> list:
    return [record for layer in layers for record in layer.values() if hasattr(record, "n_dims")]


def _state(parsed) -> list:
    return [record for record in parsed.optimizer.state.values() if hasattr(record, "n_dims")]


# Where things are ------------------------------------------------------------------------------------------


def test_alignment_counts_from_the_start_of_the_file() -> None:
    """The offsets are worked out by hand from the format's description."""
    data = build_checkpoint(n_vocab=5, n_embd=4, n_layer=0, past=3)
    parsed = CHECKPOINT.parse(data)
    # 44 bytes of fields; record: 3 * 4 + 2 * 4 + 21 of name = 41 → 85, padded to 96
    assert (len(parsed.tok_embeddings.padding), parsed.tok_embeddings.data.offset) == (11, 96)
    # data 4 * 20 = 80 → 176; record: 12 + 4 + 11 = 27 → 203, padded to 224
    assert (len(parsed.norm.padding), parsed.norm.data.offset) == (21, 224)
    # data 16 → 240; record: 12 + 8 + 13 = 33 → 273, padded to 288
    assert (len(parsed.output.padding), parsed.output.data.offset) == (15, 288)
    # data 80 → 368; optimizer: version, past, lbfgs_m, nx, iter, just_initialized = 28 → 396; record 16 → 412 → 416
    assert (len(parsed.optimizer.state.m.padding), parsed.optimizer.state.m.data.offset) == (4, 416)
    # nx = 44: data 176 → 592; record 16 → 608, which needs no padding
    assert (len(parsed.optimizer.state.v.padding), parsed.optimizer.state.v.data.offset) == (0, 608)
    # data 176 → 784; record 16 → 800
    assert (len(parsed.optimizer.state.pf.padding), parsed.optimizer.state.pf.data.offset) == (0, 800)
    # data 12 → 812; fx_best, fx_prev, n_no_improvement = 12
    assert len(data) == 824


def test_a_null_tensor_has_padding_and_no_data() -> None:
    data = build_checkpoint(n_vocab=5, n_embd=4, n_layer=0, past=0)
    pf = CHECKPOINT.parse(data).optimizer.state.pf
    # as above up to 784; then a header of 12 → 796, padded to 800
    assert (pf.n_dims, pf.ne, pf.name, len(pf.padding)) == (0, [], b"", 4)
    assert (pf.data.offset, pf.data.nbytes) == (800, 0)
    assert len(data) == 812


@genuine
def test_the_leaves_tile_a_genuine_file(path: Path) -> None:
    assert_tiles(path.read_bytes())


@given(checkpoints())
def test_the_leaves_tile_any_file(built: Built) -> None:
    assert_tiles(built.data)


def test_leaves_have_the_names_and_kinds_of_the_format() -> None:
    data = build_checkpoint(layout="v0", n_layer=2, past=2)
    leaves = {span.path: (span.kind, span.offset, span.size, span.value) for span in trace(data)}
    assert leaves["magic"] == ("u32", 0, 4, 0x67676370)
    assert leaves["hparams.n_rot"][:3] == ("u32", 40, 4)
    assert leaves["tok_embeddings.ne[1]"] == ("u32", 60, 4, 5)
    assert leaves["layers[1].w2.name"][3] == b"layers.1.feed_forward.w2.weight"
    assert leaves["optimizer.params.lbfgs.m"][0] == "i32"
    assert leaves["optimizer.params.adam.eps_g"][0] == "f32"
    assert leaves["optimizer.nx"][0] == "i64"
    assert leaves["optimizer.state.vh.data"][0] == "data"
    assert leaves["optimizer.state.n_no_improvement"][:3] == ("i32", len(data) - 4, 4)
    assert leaves["optimizer.layout"][2:] == (0, "v0")
    assert leaves["optimizer.type"][2:] == (0, "adam")


# Tensor data is not read -----------------------------------------------------------------------------------


@genuine
def test_tensor_data_of_a_genuine_file_is_not_read(path: Path) -> None:
    stream = WatchedStream(path.read_bytes())
    CHECKPOINT.parse_stream(stream)
    assert_reads_no_data(stream)


@given(checkpoints())
def test_tensor_data_is_not_read(built: Built) -> None:
    stream = WatchedStream(built.data)
    parsed = CHECKPOINT.parse_stream(stream)
    assert isinstance(parsed.norm.data, Extent)
    assert_reads_no_data(stream)


# What the shapes decide ------------------------------------------------------------------------------------


def test_the_width_of_the_feed_forward_layers_is_that_of_w1() -> None:
    data = build_checkpoint(n_embd=4, n_mult=256, n_ff=7, n_layer=2)
    assert CHECKPOINT.parse(data).layers[1].w2.ne == [7, 4]


def test_parsing_twice_does_not_remember_the_first_file() -> None:
    for n_ff in (7, 8):
        assert CHECKPOINT.parse(build_checkpoint(n_ff=n_ff)).layers[0].w1.ne == [4, n_ff]
