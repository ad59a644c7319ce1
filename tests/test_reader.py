"""Opening: what a Checkpoint gives, and that damage of any kind is one error of ours."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from ggcp_schema.constructs import Span
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED
from tests.strategies import KINDS

KINDS_BY_NAME = pytest.mark.parametrize(("layout", "optimizer"), KINDS, ids=str)
SMALL = {"n_vocab": 2, "n_embd": 2, "n_mult": 2, "n_ff": 1, "n_layer": 1, "past": 1, "lbfgs_m": 1}


# What is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_a_genuine_file_opens_without_a_complaint(path: Path) -> None:
    with open_checkpoint(path) as ckpt:
        assert ckpt.size == path.stat().st_size
        assert ckpt.damage is None
        assert ckpt.optimizer.nx == ckpt.n_params
        layout = "v0" if "v0" in path.name else "v1-raw-params" if "raw-params" in path.name else "v1"
        assert ckpt.optimizer.layout == layout
        odd = [finding.path for finding in ckpt.findings]
        assert odd == (["hparams.n_mult"] if "ff48" in path.name else [])


def test_the_fields_of_a_genuine_file() -> None:
    """The numbers are those of its fixture's description and of the GGUF that was made from it in 2023."""
    with open_checkpoint(FIXTURES / "v1-adam-past5.ggcp") as ckpt:
        assert (ckpt.hparams.n_vocab, ckpt.hparams.n_embd, ckpt.hparams.n_layer) == (320, 24, 1)
        assert (ckpt.past, ckpt.lbfgs_m, ckpt.optimizer.type) == (5, 0, "adam")
        assert ckpt["optimizer.state.pf"].shape == (5,)
        assert ckpt["layers[0].wq"] is ckpt.layers[0].wq
        assert ckpt.layers[0].wq.shape == (24, 24)
        assert ckpt.tok_embeddings.name == "tok_embeddings.weight"
        assert ckpt["hparams.n_rot"] == ckpt.hparams["n_rot"] == ckpt.span("hparams.n_rot").value
        assert list(ckpt.model_tensors)[:4] == ["tok_embeddings", "norm", "output", "layers[0].attention_norm"]
        assert len(ckpt.model_tensors) == 12


def test_the_width_that_the_shapes_state_outweighs_the_formula() -> None:
    with open_checkpoint(FIXTURES / "twin-ff48.v1.ggcp") as ckpt:
        assert (ckpt.n_ff, ckpt.hparams.n_mult) == (48, 256)
        assert ckpt.findings[0].message == "n_ff is 48 by the shape of w1; n_embd and n_mult 256 would give 256"


def test_without_layers_the_width_is_that_of_the_formula(tmp_path: Path) -> None:
    path = tmp_path / "no-layers.ggcp"
    path.write_bytes(build_checkpoint(n_layer=0, n_embd=16, n_mult=32))
    with open_checkpoint(path) as ckpt:
        assert (ckpt.layers, ckpt.n_ff, ckpt.findings) == ((), 64, ())


def test_an_optimizer_of_part_of_the_model_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "part.ggcp"
    path.write_bytes(build_checkpoint(nx=10, n_layer=0, n_vocab=5, n_embd=4))
    with open_checkpoint(path) as ckpt:
        (finding,) = ckpt.findings
        assert finding.path == "optimizer.nx"
        assert finding.message == "the optimizer holds 10 of the model's 44 parameters"


def test_a_checkpoint_is_read_only() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt:
        with pytest.raises(AttributeError):
            ckpt.hparams.n_embd = 3
        with pytest.raises(AttributeError):
            ckpt.path = "other"
        with pytest.raises(AttributeError, match="no field 'n_hed'; there are n_vocab, n_embd"):
            _ = ckpt.hparams.n_hed


def test_an_unknown_path_names_the_nearest() -> None:
    with open_checkpoint(GENUINE[0]) as ckpt, pytest.raises(UsageError, match=r"Did you mean hparams\.n_embd"):
        ckpt.span("hparams.n_emb")


def test_the_schema_that_a_program_imports_is_that_of_the_reader() -> None:
    path = FIXTURES / "v0-adam.ggcp"
    parsed = CHECKPOINT.parse_file(path)
    with open_checkpoint(path) as ckpt:
        assert ckpt.optimizer.params.adam.alpha == parsed.optimizer.params.adam.alpha
        assert ckpt.layers[0].w3.offset == parsed.layers[0].w3.data.offset


# Truncation ------------------------------------------------------------------------------------------------


@KINDS_BY_NAME
def test_truncation_at_every_byte_is_one_clear_error(layout: str, optimizer: str, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer, **SMALL)
    path = tmp_path / "cut.ggcp"
    path.write_bytes(data)
    wrong = []
    for size in range(len(data) - 1, -1, -1):
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
        assert error.missing > 0
        assert size + error.missing <= len(data), f"{error.path} asks for more than the whole file had"
        assert str(error).startswith(
            f"{path}: {error.path} at offset {error.offset} ({error.offset:#x}): expected {error.expected}, "
            f"found {error.found}: the file is {error.missing} bytes too short\n"
        )
    assert not wrong


@KINDS_BY_NAME
def test_what_precedes_the_cut_can_be_read(layout: str, optimizer: str, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer, **SMALL)
    path = tmp_path / "cut.ggcp"
    path.write_bytes(data)
    with open_checkpoint(path) as whole:
        spans, tensors = list(whole.spans.values()), whole.tensors
    for size in range(len(data) - 1, 3, -7):
        os.truncate(path, size)
        with open_checkpoint(path, partial=True) as ckpt:
            assert ckpt.damage is not None
            sure = "optimizer" in ckpt.fields and (
                ckpt.optimizer["layout"] == layout and ckpt.optimizer["type"] == optimizer
                if "type" in ckpt.optimizer
                else layout == "v0"
            )
            # a v1 file that ends too early does not say which optimizer its state is of: only the model is certain
            unsure = () if sure else ("optimizer.",)
            found = {name: tensor for name, tensor in ckpt.tensors.items() if not name.startswith(unsure)}
            assert found == {name: tensor for name, tensor in tensors.items() if name in found}
            leaves = [leaf for leaf in places(ckpt.spans.values()) if not leaf[0].startswith(unsure)]
            assert leaves == [
                (name, offset, length)
                for name, offset, length in places(spans)
                if offset + length <= ckpt.damage.offset and not name.startswith(unsure)
            ]


def places(spans: Iterable[Span]) -> list[tuple[str, int, int]]:
    """The leaves that have bytes, data apart: an empty one may lie at the damage."""
    return [(span.path, span.offset, span.size) for span in spans if span.size and span.kind != "data"]


def test_the_genuine_damaged_file() -> None:
    """The trainer aborted while it saved; its last bytes on disk are the name of the last layer's w3."""
    with pytest.raises(TruncatedError) as caught:
        open_checkpoint(TRUNCATED)
    error = caught.value
    assert (error.path, error.offset, error.missing) == ("layers[0].w3.padding", TRUNCATED.stat().st_size, 13)
    with open_checkpoint(TRUNCATED, partial=True) as ckpt:
        assert str(ckpt.damage) == str(error)
        assert list(ckpt.tensors)[-1] == "layers[0].w2"
        # n_embd 16, n_vocab 320, n_ff 48: all but w3
        assert ckpt.n_params == 2 * 16 * 320 + 16 + 4 * 16 * 16 + 2 * 16 + 2 * 16 * 48
        assert "optimizer" not in ckpt.fields


# Any damage ------------------------------------------------------------------------------------------------

BASES = [
    build_checkpoint(layout=layout, optimizer=optimizer, **SMALL | {"past": past})
    for layout, optimizer in KINDS
    for past in (0, 2)
]


def open_bytes(data: bytes, folder: Path) -> None:
    """Opens and closes, strictly and then with `partial`; only what a caller is told to expect is let pass."""
    path = folder / "damaged.ggcp"
    path.write_bytes(data)
    with suppress(NotACheckpointError), open_checkpoint(path, partial=True) as ckpt:
        assert list(ckpt.spans)
        assert repr(ckpt.fields)
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
def test_flipped_bytes_give_errors_of_ours_alone(
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
def test_false_numbers_give_errors_of_ours_alone(
    base: bytes, word: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    at = word * 4 % (len(base) - 4)
    open_bytes(base[:at] + value.to_bytes(4, "little") + base[at + 4 :], tmp_path_factory.getbasetemp())


@given(tail=st.binary(max_size=400))
def test_anything_after_the_magic_gives_errors_of_ours_alone(
    tail: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    open_bytes(b"pcgg" + tail, tmp_path_factory.getbasetemp())
    open_bytes(b"pcgg\0\0\0\0" + tail, tmp_path_factory.getbasetemp())


def test_every_single_bit_of_the_header_may_be_wrong(tmp_path: Path) -> None:
    base = BASES[0]
    for bit in range(8 * 200):
        data = bytearray(base)
        data[bit // 8] ^= 1 << bit % 8
        open_bytes(bytes(data), tmp_path)


def test_noise_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(random.Random(1).randbytes(5000))
    with pytest.raises(NotACheckpointError, match=r"This is not a file of llama\.cpp's train-text-from-scratch"):
        open_checkpoint(path)


# Files that are none ---------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere\.ggcp: No such file or directory"):
        open_checkpoint(tmp_path / "nowhere.ggcp")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a directory"):
        open_checkpoint(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="not a regular file"):
        open_checkpoint(tmp_path / "fifo")


@pytest.mark.parametrize("partial", [False, True])
def test_nothing_stays_open_after_an_error(partial: bool, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"GGUF")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(NotACheckpointError):
            open_checkpoint(tmp_path / "bad", partial=partial)
    assert os.listdir("/proc/self/fd") == before
