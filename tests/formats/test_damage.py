"""Opening damaged files: one clear error, whatever is wrong, and all that precedes it can be read."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ggcp_schema import (
    CHECKPOINT,
    GgcpError,
    MalformedError,
    NotACheckpointError,
    TruncatedError,
    open_checkpoint,
    open_file,
)
from ggcp_schema.constructs import Field, FieldError, root_field
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, TRUNCATED, CountingStream, thinned
from tests.strategies import KINDS

KINDS_BY_NAME = pytest.mark.parametrize(("layout", "optimizer"), KINDS, ids=str)
SMALL: dict[str, Any] = {
    "n_vocab": 2,
    "n_embd": 2,
    "n_mult": 2,
    "n_ff": 1,
    "n_layer": 1,
    "past": 1,
    "lbfgs_m": 1,
}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def with_field(path: str, raw: bytes, **options: Any) -> tuple[bytes, int]:
    """Return a checkpoint with these bytes in place of a field's, and the offset of the field."""
    data = build_checkpoint(**options)
    field = next(leaf for leaf in root_field(CHECKPOINT, CHECKPOINT.parse(data)).leaves() if leaf.path == path)
    return data[: field.offset] + raw + data[field.offset + len(raw) :], field.offset


def open_error(data: bytes, folder: Path) -> tuple[MalformedError, str]:
    """Return the error of opening, and its text without the name of the file."""
    path = folder / "damaged.ggcp"
    path.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return caught.value, text.removeprefix(f"{path}: ")


# One field that is wrong -----------------------------------------------------------------------------------

V0: dict[str, Any] = {"layout": "v0"}
LBFGS: dict[str, Any] = {"optimizer": "lbfgs"}
TWO: dict[str, Any] = {"n_layer": 2, "n_ff": 8}


@pytest.mark.parametrize(
    ("options", "field", "raw", "expected", "found"),
    [
        ({}, "version", u32(1 << 24), "0", "16777216"),
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
        (V0 | {"past": 3}, "optimizer.state.pf.n_dims", u32(0), "1 (past != 0)", "0"),
        (V0, "optimizer.state.pf.n_dims", u32(1), "0 (past != 0)", "1"),
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
    assert text == (
        f"{field} at offset {offset} ({offset:#x}): expected {expected}, found {found}\n"
        f"Run `ggcp-schema validate {tmp_path}/damaged.ggcp` to list every problem."
    )
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
    assert (error.path, error.expected, error.found) == ("optimizer.state.mh.n_dims", "1", "0")


def test_a_hint_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "my files"
    folder.mkdir()
    error, _ = open_error(with_field("norm.n_dims", u32(2))[0], folder)
    assert f"validate '{folder}/damaged.ggcp'`" in error.hint


# Truncation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 17])
def test_bytes_that_a_header_lost_are_not_taken_from_the_data(count: int, tmp_path: Path) -> None:
    """The header of layers[0].wq ends where its data begins, without padding."""
    data, path = build_checkpoint(), tmp_path / "x"
    path.write_bytes(data)
    with open_checkpoint(path) as whole:
        values = {name: tensor.array().tobytes() for name, tensor in whole.tensors.items()}
        start, size = whole.find("layers[0].wq").offset, len(whole.find("layers[0].wq.padding").value)
        end = whole["layers[0].wq"].offset
    assert size == 0
    for at in range(start, end - count + 1):
        path.write_bytes(data[:at] + data[at + count :])
        with open_checkpoint(path, partial=True) as lossy:
            found = {name: tensor.array().tobytes() for name, tensor in lossy.tensors.items()}
        assert found.items() <= values.items()
        assert found.keys() >= values.keys() - {"layers[0].wq", "layers[0].attention_norm"}


def test_a_number_that_is_cut_in_two_is_lost_unless_a_shape_tells_it(tmp_path: Path) -> None:
    """No shape tells n_mult, n_head and n_rot, at 28, 32 and 40; the others are what they were."""
    path = tmp_path / "x"
    data = (FIXTURES / "v1-adam.ggcp").read_bytes()
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as whole:
        hparams = whole.hparams
    lost = [(data[:at] + data[at + 1 :], at // 4 in {6, 9}) for at in range(24, 44)]
    inserted = [(data[:at] + b"\0" + data[at:], at < 29) for at in range(25, 44)]
    every = [*lost, *inserted]
    for changed, is_told in thinned(every, every[::2]):
        path.write_bytes(changed)
        with open_checkpoint(path, partial=True) as moved:
            found = {name: number for name, number in moved.container["hparams"].items() if number is not None}
            assert found.items() & hparams._asdict().items() == {(k, v) for k, v in found.items() if k[0] != "_"}
            if is_told:
                assert moved.model().n_head == hparams.n_head


@pytest.mark.parametrize("count", thinned([2, 3, 5, 6, 8, 12], [3, 8]))
def test_no_wrong_number_is_told_whatever_is_lost_or_overwritten_of_them(count: int, tmp_path: Path) -> None:
    """Two bytes at least: one alone in n_mult, n_head or n_rot contradicts nothing."""
    genuine, path, noise = FIXTURES / "orders" / "jun-A-3.ggcp", tmp_path / "x", random.Random(count).randbytes(count)
    data = genuine.read_bytes()
    with open_checkpoint(genuine) as whole:
        expected = whole.hparams_stated()
    places = range(22 - count, 44)
    for at, new in product(thinned(places, places[::2]), (b"", noise, b"\xff" * count)):
        if new and (28 <= at <= at + count <= 36 or 40 <= at <= at + count <= 44):
            continue  # the same
        path.write_bytes(data[:at] + new + data[at + count :])
        with open_checkpoint(path, partial=True) as file:
            assert (file.hparams_stated() or {}).items() <= expected.items(), (at, new)


@pytest.mark.parametrize("at", [9, 16, 25, 30])
def test_numbers_of_no_model_are_not_told_of_a_damaged_vocabulary(at: int, tmp_path: Path) -> None:
    genuine, path = FIXTURES / "vocab.ggjt", tmp_path / "x.ggjt"
    with open_file(genuine) as whole:
        expected = whole.hparams_stated()
    for data in (genuine.read_bytes()[:at] + genuine.read_bytes()[at + 1 :], genuine.read_bytes()[: at + 25]):
        path.write_bytes(data)
        with open_file(path, partial=True) as file:
            assert file.damage is not None
            assert (file.hparams_stated() or {}).items() <= (expected or {}).items()


def first_cut(data: bytes, layout: str, optimizer: str) -> int:
    """Return the offset from which to cut: the model is the same in all layouts, and is cut in the first."""
    return -1 if (layout, optimizer) == KINDS[0] else CHECKPOINT.parse(data).optimizer["_offset"] - 1


@KINDS_BY_NAME
def test_truncation_beside_every_edge_is_one_clear_error(layout: str, optimizer: str, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer, **SMALL)
    path = tmp_path / "cut.ggcp"
    path.write_bytes(data)
    with open_checkpoint(path) as whole:
        edges = {leaf.offset + beside for leaf in whole.root.leaves() for beside in (-1, 0, 1)} | {len(data) - 1}
    wrong = []
    sizes = sorted(edges & {*range(first_cut(data, layout, optimizer) + 1, len(data))}, reverse=True)
    for size in thinned(sizes, sizes[::4]):
        os.truncate(path, size)
        with pytest.raises(GgcpError) as caught:
            open_checkpoint(path)
        error = caught.value
        if size < 4:
            assert type(error) is NotACheckpointError
            continue
        if type(error) is not TruncatedError:
            wrong.append((size, str(error)))
            continue
        available = int(error.found.split()[0])
        assert 0 <= error.offset <= size
        assert error.offset + available == size
        assert int(error.expected.split()[0]) == available + error.missing
        assert 0 < error.missing <= len(data) - size, f"{error.path} asks for more than the whole file had"
        assert error.file_missing in {None, len(data) - size}
        least = "at least " if error.file_missing is None else ""
        count = error.file_missing or error.missing
        assert str(error).startswith(
            f"{path}: {error.path} at offset {error.offset} ({error.offset:#x}): expected {error.expected}, "
            f"found {error.found}: the file is {least}{count:,} byte{'' if count == 1 else 's'} too short\n"
        )
    assert not wrong


@KINDS_BY_NAME
def test_what_precedes_the_cut_can_be_read(layout: str, optimizer: str, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer, **SMALL)
    path = tmp_path / "cut.ggcp"
    path.write_bytes(data)
    with open_checkpoint(path) as whole:
        leaves, tensors = places(whole.root), whole.tensors
    for size in thinned(range(len(data) - 1, max(3, first_cut(data, layout, optimizer)), -7)):
        os.truncate(path, size)
        with open_checkpoint(path, partial=True) as ckpt:
            assert ckpt.damage is not None
            sure = layout == "v0" or (ckpt.get("optimizer.layout"), ckpt.get("optimizer.type")) == (layout, optimizer)
            # a v1 file that ends too early does not say which optimizer its state is of: only the model is certain
            unsure = () if sure else ("optimizer.",)
            found = {
                name: replace(tensor, source=whole.source)
                for name, tensor in ckpt.tensors.items()
                if not name.startswith(unsure)
            }
            assert found == {name: tensor for name, tensor in tensors.items() if name in found}
            assert [leaf for leaf in places(ckpt.root) if not leaf[0].startswith(unsure)] == [
                (name, offset, length)
                for name, offset, length in leaves
                if offset + length <= ckpt.damage.offset and not name.startswith(unsure)
            ]


def places(root: Field) -> list[tuple[str, int, int]]:
    """Return the leaves that have bytes, without data: an empty one may lie at the damage."""
    return [(leaf.path, leaf.offset, leaf.size) for leaf in root.leaves() if leaf.size and leaf.type != "data"]


def test_the_genuine_damaged_file() -> None:
    """The trainer aborted while it saved; the last bytes on disk are the name of the last layer's w3."""
    with pytest.raises(TruncatedError) as caught:
        open_checkpoint(TRUNCATED)
    error = caught.value
    assert (error.path, error.offset, error.missing) == ("layers[0].w3.padding", TRUNCATED.stat().st_size, 13)
    assert error.file_missing is None  # which optimizer would have followed is not known
    assert ": the file is at least 13 bytes too short\nOpen it with partial=True" in str(error)
    with open_checkpoint(TRUNCATED, partial=True) as ckpt:
        assert ckpt.damage is not None
        assert (ckpt.damage.message, ckpt.damage.hint) == (error.message, error.shell_hint)
        assert list(ckpt.tensors)[-1] == "layers[0].w2"
        # n_embd 16, n_vocab 320, n_ff 48: all but w3
        assert ckpt.n_params == 2 * 16 * 320 + 16 + 4 * 16 * 16 + 2 * 16 + 2 * 16 * 48
        assert "optimizer" not in ckpt


# Any damage ------------------------------------------------------------------------------------------------

BASES = [
    build_checkpoint(layout=layout, optimizer=optimizer, **SMALL | {"past": past})
    for layout, optimizer in KINDS
    for past in (0, 2)
]


def open_bytes(data: bytes, folder: Path) -> None:
    """Open and close, strictly and then with `partial`; only the documented errors are let pass."""
    path = folder / "damaged.ggcp"
    path.write_bytes(data)
    with suppress(NotACheckpointError), open_checkpoint(path, partial=True) as ckpt:
        end = 0
        for leaf in ckpt.root.leaves():
            assert leaf.offset == end or ckpt.damage is not None
            end = leaf.offset + leaf.size
            assert end <= len(data)
        assert len(ckpt.findings) <= 40
        assert ckpt.expected_size is None or ckpt.expected_size > 0
        assert repr(ckpt)
        if ckpt.damage is None:
            open_checkpoint(path).close()
            return
        assert ckpt.damage.path
        assert 0 <= ckpt.damage.offset <= len(data)
        assert len(str(ckpt.damage).splitlines()) == 2
    with pytest.raises(MalformedError):
        open_checkpoint(path)


@given(
    base=st.sampled_from(BASES),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
@example(base=BASES[0], edits=[(0.0, 0)])
def test_flipped_bytes_give_the_documented_errors_only(
    base: bytes, edits: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(base)
    for where, value in edits:
        data[int(where * len(data))] = value
    open_bytes(bytes(data), tmp_path_factory.getbasetemp())


@given(
    base=st.sampled_from(BASES),
    word=st.integers(0, 1 << 16),
    value=st.sampled_from([0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
)
def test_false_numbers_give_the_documented_errors_only(
    base: bytes, word: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = word * 4 % (len(base) - 4)
    open_bytes(base[:at] + value.to_bytes(4, "little") + base[at + 4 :], tmp_path_factory.getbasetemp())


@given(tail=st.binary(max_size=400))
def test_anything_after_the_magic_gives_the_documented_errors_only(
    tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_bytes(b"pcgg" + tail, tmp_path_factory.getbasetemp())
    open_bytes(b"pcgg\0\0\0\0" + tail, tmp_path_factory.getbasetemp())


def test_the_ends_of_each_byte_of_the_header_may_be_wrong(tmp_path: Path) -> None:
    base = BASES[0]
    places = [*product(range(88), (1, 128))]  # up to the padding of the first tensor
    for at, bit in thinned(places, places[::5]):
        data = bytearray(base)
        data[at] ^= bit
        open_bytes(bytes(data), tmp_path)


def test_noise_is_not_a_checkpoint(tmp_path: Path) -> None:
    error, _ = open_error(random.Random(1).randbytes(5000), tmp_path)
    assert isinstance(error, NotACheckpointError)
    assert error.hint == "This is no ggcp checkpoint."


# False sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layer", [0xFFFFFFFF, 4_000_000_000, 1 << 20])
def test_billions_of_layers_fail_before_the_first(n_layer: int, tmp_path: Path) -> None:
    data, _ = with_field("hparams.n_layer", u32(n_layer))
    error, _ = open_error(data, tmp_path)
    assert (error.path, error.found) == ("layers", str(n_layer))
    assert error.expected.startswith("n_layer to be at most ")
    assert error.expected.endswith(f" in a file of {len(data):,} bytes")
    stream = CountingStream(data)
    with pytest.raises(FieldError):
        CHECKPOINT.parse_stream(stream)
    assert stream.reads < 100


@pytest.mark.parametrize(
    ("field", "raw", "path"),
    [
        ("norm.name_len", u32(0xFFFFFFFF), "norm.name_len"),
        ("norm.name_len", u32(0xFFFF), "norm.name"),
        ("hparams.n_embd", u32(0xFFFFFFFF), "tok_embeddings.ne[0]"),
        ("hparams.n_layer", u32(0xFFFFFFFF), None),
        ("optimizer.lbfgs_m", u32(0xFFFFFFFF), None),
        ("optimizer.past", u32(0xFFFFFFFF), None),
        ("optimizer.nx", struct.pack("<q", (1 << 63) - 1), None),
        ("optimizer.state.x.name_len", u32(0xFFFFFFFF), None),
    ],
)
def test_a_false_size_allocates_nothing(field: str, raw: bytes, path: str | None, tmp_path: Path) -> None:
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
        assert (error.path, error.expected) == ("optimizer.state.x.ne[0]", "9223372036854775807 (nx)")


def test_a_hint_is_a_line_of_its_own() -> None:
    assert str(GgcpError("what")) == "what"
    assert str(GgcpError("what", "then")) == "what\nthen"
