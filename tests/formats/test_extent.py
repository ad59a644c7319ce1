"""The size of the whole file, from what is left of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import CHECKPOINT, TruncatedError, open_checkpoint
from ggcp_schema.constructs import FieldError
from ggcp_schema.formats.records.extent import expected_size, expected_sizes
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, ORDERS, thinned
from tests.strategies import KINDS, Built, checkpoints

SMALL = [path for path in (*GENUINE, *ORDERS) if path.stat().st_size < 300_000]
FEW = [*(path for path in SMALL if path in ONE_OF_EACH), FIXTURES / "v0-adam.ggcp"]


@given(built=checkpoints(), data=st.data())
def test_the_size_of_any_file_is_found_after_a_cut_in_the_state(built: Built, data: st.DataObject) -> None:
    """If the type of the optimizer can be told, the size is exact; otherwise it is one of those that are possible."""
    whole = CHECKPOINT.parse(built.data)
    assert expected_size(whole) in {len(built.data), None}
    if any(record["name"] for record in whole.optimizer.state.values() if hasattr(record, "name")):
        return  # names of tensors that are cut off cannot be known
    size = data.draw(st.integers(whole.optimizer.state["_offset"], len(built.data) - 1))
    with pytest.raises(FieldError) as caught:
        CHECKPOINT.parse(built.data[:size])
    partial = caught.value.partial
    if "state" in partial.optimizer and partial.optimizer.layout == built.layout:
        sizes = expected_sizes(partial)
        inference = partial.optimizer.inference
        if partial.optimizer.type == built.optimizer and (inference is None or inference.by_records):
            assert sizes == {built.optimizer: len(built.data)}
        elif built.optimizer in sizes:
            assert sizes[built.optimizer] == len(built.data)


@pytest.mark.parametrize("path", thinned(SMALL, FEW), ids=lambda path: path.name)
def test_a_genuine_file_cut_in_its_state_tells_its_size(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    state = CHECKPOINT.parse(data).optimizer.state
    third = state.pf if "m" in state else state.g  # it tells the type in v1
    cut = tmp_path / "cut.ggcp"
    cut.write_bytes(data)
    for size in (len(data) - 1, len(data) - 12, (third["_offset"] + len(data)) // 2, third["_offset"] + 40):
        os.truncate(cut, min(size, len(data) - 1))
        with pytest.raises(TruncatedError) as caught:
            open_checkpoint(cut)
        assert caught.value.file_missing == len(data) - cut.stat().st_size
        missing = f"the file is {caught.value.file_missing} byte"
        assert missing in str(caught.value)
        cut.write_bytes(data)


@pytest.mark.parametrize(("layout", "optimizer"), KINDS, ids=str)
def test_a_file_cut_before_the_state_does_not_tell_its_size(layout: str, optimizer: str, tmp_path: Path) -> None:
    data = build_checkpoint(layout=layout, optimizer=optimizer)
    start = CHECKPOINT.parse(data).optimizer.state["_offset"]
    path = tmp_path / "cut.ggcp"
    for size in (12, 60, 700, start - 17):
        path.write_bytes(data[:size])
        with open_checkpoint(path, partial=True) as ckpt:
            assert ckpt.expected_size is None


def test_a_v1_file_that_does_not_tell_its_optimizer_has_two_possible_sizes() -> None:
    sizes = {kind: len(build_checkpoint(optimizer=kind, lbfgs_m=3)) for kind in ("adam", "lbfgs")}
    data = build_checkpoint(optimizer="lbfgs", lbfgs_m=3)
    start = CHECKPOINT.parse(data).optimizer.state["_offset"]
    with pytest.raises(FieldError) as caught:
        CHECKPOINT.parse(data[: start + 100])
    assert expected_sizes(caught.value.partial) == sizes
    assert expected_size(caught.value.partial) is None


def test_without_an_lbfgs_memory_it_is_adams() -> None:
    data = build_checkpoint(past=4)
    start = CHECKPOINT.parse(data).optimizer.state["_offset"]
    with pytest.raises(FieldError) as caught:
        CHECKPOINT.parse(data[: start + 1])
    assert expected_size(caught.value.partial) == len(data)


def test_an_impossible_shape_has_no_size() -> None:
    data = build_checkpoint(layout="v0", nx=7)
    at = CHECKPOINT.parse(data).optimizer["_offset"] + 4 + 96
    with pytest.raises(FieldError) as caught:
        CHECKPOINT.parse(data[:at] + (1 << 62).to_bytes(8, "little") + data[at + 8 :])
    assert expected_size(caught.value.partial) is None
