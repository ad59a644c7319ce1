"""The declared layout against the trainers' own files, and against files built without it."""

from __future__ import annotations

import copy
import io
import math
import mmap
import pickle
import random
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from ggcp_schema.constructs import Bytes, Extent, Field, FieldError, Struct, root_field
from ggcp_schema.schema.checkpoint import CHECKPOINT
from ggcp_schema.schema.gguf import GGUF
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, thinned
from tests.strategies import KINDS, SIGNALLING_NAN, Built, checkpoints

NUMBERS = {"u8": "<B", "u32": "<I", "i32": "<i", "i64": "<q", "f32": "<f"}
genuine = pytest.mark.parametrize("path", thinned([*GENUINE, *ORDERS], ONE_OF_EACH), ids=lambda path: path.name)


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


def tree(data: bytes) -> Field:
    return root_field(CHECKPOINT, CHECKPOINT.parse(data))


def assert_reads_no_data(stream: WatchedStream) -> None:
    payload = np.zeros(len(stream.getvalue()), bool)
    for field in tree(stream.getvalue()).leaves():
        if field.type == "data":
            payload[field.offset : field.end] = True
    touched = [piece for piece in stream.read_pieces if payload[slice(*piece)].any()]
    assert not touched


def assert_tiles(data: bytes) -> None:
    """Every byte is in exactly one leaf, each number is what `struct` reads there, and `find` and `at` agree.

    Each field is looked for among its siblings, so that of many leaves only some hundred are looked for.
    """
    root = tree(data)
    leaves = list(root.leaves())
    end, paths = 0, set()
    for index, field in enumerate(leaves):
        assert field.offset == end, field.path
        assert field.path not in paths
        paths.add(field.path)
        end += field.size
        piece = data[field.offset : end]
        if field.type in NUMBERS:
            (number,) = struct.unpack(NUMBERS[field.type], piece)
            assert field.value == number or (math.isnan(field.value) and math.isnan(number))
        elif field.type == "data":
            assert (field.value.offset, field.value.nbytes) == (field.offset, field.size)
        elif field.size:
            assert field.value == piece, field.path
        if index % (len(leaves) // 100 + 1):
            continue
        same = root.find(field.steps)
        assert same is not None
        assert (same.path, same.offset, same.size) == (field.path, field.offset, field.size)
        for offset in {field.offset, end - 1} if field.size else ():
            leaf = root.at(offset)
            assert leaf is not None
            assert leaf.path == field.path
    assert end == len(data)


# Round trips -----------------------------------------------------------------------------------------------


@genuine
def test_a_genuine_file_is_built_back(path: Path, tmp_path: Path) -> None:
    """From memory, from a closed file and from an open stream."""
    data = path.read_bytes()
    assert CHECKPOINT.build(CHECKPOINT.parse(data)) == data
    parsed = CHECKPOINT.parse_file(path)
    CHECKPOINT.build_file(parsed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    with path.open("rb") as stream:
        assert CHECKPOINT.build(CHECKPOINT.parse_stream(stream)) == data


@genuine
def test_two_parses_of_a_genuine_file_are_equal(path: Path) -> None:
    first, second = CHECKPOINT.parse_file(path), CHECKPOINT.parse_file(path)
    assert first == second
    copied = copy.deepcopy(first)
    copied.layers[0].wq.name_len += 1
    assert first == second != copied


@given(checkpoints())
def test_whatever_a_file_holds_it_is_built_back(built: Built) -> None:
    parsed = CHECKPOINT.parse(built.data)
    assert (parsed.optimizer.layout, parsed.optimizer.type) == (built.layout, built.optimizer)
    assert CHECKPOINT.build(parsed) == CHECKPOINT.build(copy.deepcopy(parsed)) == built.data
    assert parsed == CHECKPOINT.parse(built.data)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_signalling_nans_are_built_back(kind: tuple[str, str]) -> None:
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
    assert CHECKPOINT.parse(dirty) == CHECKPOINT.parse(dirty) != CHECKPOINT.parse(clean)


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 31, 32, 33, 64, 65, 100, 5000])
def test_names_of_any_length_are_built_back(length: int) -> None:
    name = random.Random(length).randbytes(length)
    data = build_checkpoint(name=lambda default: name, optimizer_name=lambda: name)
    parsed = CHECKPOINT.parse(data)
    assert parsed.tok_embeddings.name == parsed.optimizer.state.v.name == name
    assert CHECKPOINT.build(parsed) == data


def test_a_bool_that_is_neither_0_nor_1_is_built_back() -> None:
    data = build_checkpoint(layout="v0", params={"print": b"\x02\xff", "padding": b"\xde\xad"})
    params = CHECKPOINT.parse(data).optimizer.params
    assert (params.print_forward_graph, params.print_backward_graph, params.padding) == (2, 255, b"\xde\xad")
    assert CHECKPOINT.build(CHECKPOINT.parse(data)) == data


# Building --------------------------------------------------------------------------------------------------


def test_an_edited_field_is_built_and_nothing_else_changes() -> None:
    data = build_checkpoint()
    parsed = CHECKPOINT.parse(data)
    parsed.train_its = 0x01020304
    assert CHECKPOINT.build(parsed) == data[:8] + b"\x04\x03\x02\x01" + data[12:]


def test_a_longer_name_moves_the_data_and_asks_for_new_padding() -> None:
    parsed = CHECKPOINT.parse(build_checkpoint(name=lambda default: b"a"))
    wanted = build_checkpoint(name=lambda default: b"a name that is longer")
    records = [parsed.tok_embeddings, parsed.norm, parsed.output]
    for record in [*records, *_records(parsed.layers[0]), *_records(parsed.optimizer.state)]:
        if record.name:
            record.name, record.name_len = b"a name that is longer", 21
        record.padding = None
    assert CHECKPOINT.build(parsed) == wanted


def _records(parsed: Any) -> list[Any]:
    return [record for record in parsed.values() if hasattr(record, "n_dims")]


def test_data_can_be_built_from_an_array() -> None:
    parsed = CHECKPOINT.parse(build_checkpoint(n_embd=4))
    parsed.norm.data = np.arange(4, dtype="<f4")
    parsed.layers[0].w2.data = np.arange(parsed.n_ff * 4, dtype="<f4").reshape(4, parsed.n_ff)
    built = CHECKPOINT.build(parsed)
    again = CHECKPOINT.parse(built)
    for record, count in ((again.norm, 4), (again.layers[0].w2, parsed.n_ff * 4)):
        extent = record.data
        assert built[extent.offset : extent.offset + extent.nbytes] == np.arange(count, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("path", "value", "where", "message"),
    [
        ("optimizer.version", 0, "optimizer.layout", "expected v0 (it follows from other fields), found v1"),
        ("optimizer.layout", "v0", "optimizer.layout", "expected v1 (it follows from other fields), found v0"),
        ("optimizer.type", "lbfgs", "optimizer.state", "expected one of the fields x, xp, g, gp, d,"),
        ("train_itz", 0, "file", "expected one of the fields magic, version, train_its, "),
        ("layers[1].wqq", 0, "layers[1]", "expected one of the fields attention_norm, wq, "),
        ("hparams.n_layer", 3, "layers", "expected 3 elements (n_layer), found 2"),
        ("layers[1].wq.ne[1]", 5, "layers[1].wq.ne[1]", "expected 4 (n_embd), found 5"),
        ("n_ff", 5, "n_ff", "expected 12 (it follows from other fields), found 5"),
        ("layers[1].w2", None, "layers[1].w2", "expected a value, found none"),
        ("norm.data", np.zeros(2, "<f8"), "norm.data", "expected bytes or elements of format '<f', found format 'd'"),
        ("norm.data", np.zeros(4, ">f4"), "norm.data", "expected bytes or elements of format '<f', found format '>f'"),
        ("train_tokens", 1 << 32, "train_tokens", "expected a value of type u32, found 4294967296"),
        ("optimizer.just_initialized", 2, "optimizer.just_initialized", "expected 0 or 1, found 2"),
    ],
)
def test_what_the_schema_would_not_parse_is_not_built(path: str, value: Any, where: str, message: str) -> None:
    data = build_checkpoint(n_layer=2)
    record = parsed = CHECKPOINT.parse(data)
    *steps, last = (int(step) if step.isdigit() else step for step in re.findall(r"\w+", path))
    for step in steps:
        record = record[step]
    record[last] = value
    if value is None:
        del record[last]
    with pytest.raises(FieldError) as caught:
        CHECKPOINT.build(parsed)
    offset = 0 if where == "file" else tree(data).find(caught.value.steps).offset  # type: ignore[union-attr]
    assert str(caught.value).startswith(f"{where} at offset {offset} ({offset:#x}): {message}")


def test_the_data_of_another_folders_file_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: build_checkpoint(train=(number, 0, 0)) for number, name in enumerate(("one", "two"))}
    files["two"] = files["two"][:-40] + bytes(40)
    for name, data in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.ggcp").write_bytes(data)
    monkeypatch.chdir(tmp_path / "one")
    parsed = CHECKPOINT.parse_file("x.ggcp")
    monkeypatch.chdir(tmp_path / "two")
    assert CHECKPOINT.build(parsed) == files["one"]


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


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_the_leaves_tile_a_genuine_file(path: Path) -> None:
    assert_tiles(path.read_bytes())


@given(checkpoints())
def test_the_leaves_tile_any_file(built: Built) -> None:
    assert_tiles(built.data)


def test_leaves_have_the_names_and_types_of_the_format() -> None:
    data = build_checkpoint(layout="v0", n_layer=2, past=2)
    leaves = {field.path: (field.type, field.offset, field.size, field.value) for field in tree(data).leaves()}
    assert leaves["magic"] == ("u32", 0, 4, 0x67676370)
    assert leaves["hparams.n_rot"][:3] == ("u32", 40, 4)
    assert leaves["tok_embeddings.ne[1]"] == ("u32", 60, 4, 5)
    assert leaves["layers[1].w2.name"][0::3] == ("char", b"layers.1.feed_forward.w2.weight")
    assert leaves["optimizer.params.lbfgs.m"][0] == "i32"
    assert leaves["optimizer.params.adam.eps_g"][0] == "f32"
    assert leaves["optimizer.nx"][0] == "i64"
    assert leaves["optimizer.state.vh.data"][0] == "data"
    assert leaves["optimizer.state.n_no_improvement"][:3] == ("i32", len(data) - 4, 4)
    assert leaves["optimizer.layout"][2:] == (0, "v0")
    assert leaves["optimizer.past"][0::2] == ("derived", 0)
    assert leaves["optimizer.type"][2:] == (0, "adam")
    assert leaves["n_ff"] == ("derived", leaves["layers[0].attention_norm.n_dims"][1], 0, 12)


# Tensor data is not read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
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
    parsed = CHECKPOINT.parse(data)
    assert (parsed.n_ff, parsed.layers[1].w2.ne) == (7, [7, 4])


def test_without_layers_the_width_follows_from_n_mult_if_it_can() -> None:
    assert CHECKPOINT.parse(build_checkpoint(n_layer=0, n_embd=16, n_mult=32)).n_ff == 64
    data = build_checkpoint(n_layer=0, n_mult=0, n_ff=0)
    assert CHECKPOINT.parse(data).n_ff is None
    assert CHECKPOINT.build(CHECKPOINT.parse(data)) == data


def test_parsing_twice_does_not_remember_the_first_file() -> None:
    for n_ff in (7, 8):
        assert CHECKPOINT.parse(build_checkpoint(n_ff=n_ff)).layers[0].w1.ne == [4, n_ff]


# As a construct --------------------------------------------------------------------------------------------

PAGES = [(CHECKPOINT, GENUINE[0]), (CHECKPOINT, FIXTURES / "v1-lbfgs.ggcp"), (GGUF, FIXTURES / "vocab.gguf")]


@pytest.mark.parametrize(("page", "path"), PAGES, ids=str)
def test_a_page_is_a_construct_like_others(page: Struct, path: Path) -> None:
    """It can be a field, be compiled, and parse mapped memory."""
    data = path.read_bytes()
    parsed = page.parse(data)
    outer = Struct("file" / page, "after" / Bytes(0))
    assert outer.parse(data).file == parsed
    assert outer.build({"file": outer.parse(data).file, "after": b""}) == data
    assert page.compile().parse(data) == parsed
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = page.parse_stream(mapped)
        assert found == parsed
        assert page.build(found) == data


@pytest.mark.parametrize(("page", "path"), PAGES, ids=str)
def test_what_was_parsed_from_a_file_can_be_pickled(page: Struct, path: Path) -> None:
    parsed = page.parse_file(path)
    copied = pickle.loads(pickle.dumps(parsed))  # noqa: S301
    assert copied == parsed
    assert page.build(copied) == path.read_bytes()
    with pytest.raises(TypeError, match="of a stream that is not a file, cannot be pickled"):
        pickle.dumps(page.parse(path.read_bytes()))
