"""The scale of Adam's moments: against genuine files with known flags, and properties of the estimate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ggcp_schema.errors import UsageError
from ggcp_schema.mapping.scale import ScaleDecision, batch_bounds, decide_scale, divided
from tests.mapping import independent_order
from tests.mapping.flat_files import (
    DECIDED,
    FLAGS,
    NOT_TRAINED,
    Tensors,
    close_all,
    genuine,
    made_model,
    opened,
    shapes_of,
    written,
)
from tests.mapping.independent_order import read

ADAM = [name for name in DECIDED if "lbfgs" not in name]
# Trainers of June 2023. The batch of rotmax8-v0 is not known.
SUMMED = {"eb5-A-2": 32, "jun-A-3": 32, "jun-B-3": 32, "v0-adam": 16, "v1-adam-raw-params": 16, "rotmax8-v0": 128}
N_BATCH = 4


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def decided(name: str, tensors: Tensors | None = None, **changes: Any) -> ScaleDecision:
    file = read(genuine(name))
    tensors = tensors or opened(name)
    options: dict[str, Any] = {
        "order": DECIDED.get(name),
        "iterations": file.iterations,
        "train_its": file.train_its,
        "train_samples": file.train_samples,
        "train_tokens": file.train_tokens,
        "n_iter": file.n_iter,
    }
    return decide_scale(tensors.model, tensors.state, **(options | changes))


@pytest.mark.parametrize("name", ADAM)
def test_sums_and_means_are_told_apart(name: str) -> None:
    decision = decided(name)
    assert decision.summed is (name in SUMMED)
    if name.removesuffix(".ggcp") + ".ggcp" in FLAGS:
        assert decision.summed is (FLAGS[f"{name}.ggcp"]["gradient"] == "sum")
    assert decision.ratio == pytest.approx(independent_order.gradient_ratio(read(genuine(name)), DECIDED[name]))
    assert decision.as_dict()["reason"] == decision.reason


@pytest.mark.parametrize("name", ["eb5-A-2", "jun-A-3", "jun-B-3"])
def test_the_scale_of_files_with_known_flags(name: str) -> None:
    flags, decision = FLAGS[f"{name}.ggcp"], decided(name)
    assert decision.n_ctx == flags["n_ctx"]
    assert decision.n_batch == flags["n_batch"]
    assert (decision.s, decision.assumed) == (128, True)
    assert [decision.divisor(field) for field in ("m", "v", "x", "pf")] == [128, 128**2, 1, 1]
    assert "128 tokens, for 4 samples of 32 tokens (assumed; by the counts 4 to" in decision.reason


@pytest.mark.parametrize("name", SUMMED)
def test_an_assumed_batch_is_never_too_large(name: str) -> None:
    decision = decided(name)
    assert decision.n_batch is not None
    assert decision.n_batch <= N_BATCH <= (decision.n_batch_max or N_BATCH)
    assert decision.n_ctx == SUMMED[name]
    assert decision.s == decision.n_ctx * decision.n_batch


def test_a_stated_batch_is_taken() -> None:
    decision = decided("rotmax8-v0", n_batch=4)
    assert (decision.s, decision.n_batch, decision.assumed) == (512, 4, False)
    assert "512 tokens, for 4 samples of 128 tokens" in decision.reason
    assert "assumed" not in decision.reason
    assert decided("alice", n_batch=4).divisor("v") == 1
    with pytest.raises(UsageError, match="a batch of 0 samples is impossible"):
        decided("rotmax8-v0", n_batch=0)


def test_counts_that_do_not_fit_give_no_divisor() -> None:
    decision = decided("jun-A-3", train_tokens=641)
    assert (decision.summed, decision.s, decision.n_ctx, decision.divisor("m")) == (True, None, None, 1)
    assert "no multiple of train_samples" in decision.reason
    assert decided("jun-A-3", train_samples=0).s is None
    assert decided("jun-A-3", train_tokens=0, n_batch=4).s is None


def test_without_an_order_or_a_gradient_nothing_is_said(tmp_path: Path) -> None:
    for decision in (decided(NOT_TRAINED), decided("jun-A-3", order=None), decided("jun-A-3", iterations=0)):
        assert (decision.summed, decision.s, decision.ratio) == (None, None, None)
    lbfgs = decided("aug-lbfgs-B-1")
    assert (lbfgs.summed, [lbfgs.divisor(field) for field in lbfgs_fields()]) == (None, [1] * 9)
    shapes = shapes_of(5, 4, 6, 1)
    model = made_model(shapes, np.random.default_rng(1))
    n_params = sum(values.size for values in model.values())
    for number, value in enumerate((0, np.nan, np.inf)):
        v = np.full(n_params, value, np.float32)
        tensors = written(tmp_path / str(number), model, {"v": v})
        assert decided("jun-A-3", tensors).summed is None


def lbfgs_fields() -> list[str]:
    return [field for field in read(genuine("aug-lbfgs-B-1")).state if field != "pf"]


@pytest.mark.parametrize(("factor", "summed"), [(1 / 100, False), (1 / 20, None), (1, True)])
def test_between_means_and_sums_nothing_is_said(tmp_path: Path, factor: float, summed: bool | None) -> None:
    file = read(genuine("jun-A-3"))
    model = {path: located.data for path, located in file.model.items()}
    v = file.state["v"].data * np.float32(factor**2)
    decision = decided("jun-A-3", written(tmp_path / "tensors", model, {"v": v}))
    assert decision.summed is summed
    assert decision.divisor("m") == (128 if summed else 1)


@given(st.integers(1, 64), st.integers(1, 50), st.integers(1, 300), st.data())
def test_the_true_batch_lies_within_the_bounds(n_batch: int, n_iter: int, batches: int, data: st.DataObject) -> None:
    train_its = data.draw(st.integers(batches, batches * n_iter))
    least, most = batch_bounds(n_batch * batches, train_its, n_iter)
    assert most is not None
    assert least <= n_batch <= most
    assert n_batch * batches % least == 0 == n_batch * batches % most
    assert batch_bounds(n_batch * batches, train_its) == (least, None)
    assert batch_bounds(n_batch * batches, batches) == (n_batch, None)  # one iteration per batch: exact


@given(*[st.integers(0, 2**32 - 1)] * 2, st.none() | st.integers(-(2**31), 2**31 - 1))
def test_any_counts_give_bounds(train_samples: int, train_its: int, n_iter: int | None) -> None:
    least, most = batch_bounds(train_samples, train_its, n_iter)
    assert 1 <= least <= (most or least)


FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=40).map(lambda values: np.array(values, "<f4"))


@given(FLOATS, st.integers(1, 2**31), st.integers(0, 40))
def test_division_is_that_of_float32_in_any_pieces(values: Any, divisor: int, cut: int) -> None:
    data = values.tobytes()
    whole = bytes(divided(data, divisor))
    assert bytes(divided(memoryview(data)[: 4 * cut], divisor)) + bytes(divided(data[4 * cut :], divisor)) == whole
    with np.errstate(all="ignore"):
        # float64 holds the quotient of two float32 exactly enough for its rounding to be the right one.
        expected = (values.astype(np.float64) / float(np.float32(divisor))).astype(np.float32)
    assert whole == expected.tobytes() if divisor > 1 else whole == data


@given(FLOATS, st.integers(0, 30))
def test_division_by_a_power_of_two_can_be_undone(values: Any, power: int) -> None:
    assume(not np.any((values != 0) & (np.abs(values) < 2.0**-90)))  # no underflow
    quotients = np.frombuffer(divided(values.tobytes(), 2**power), "<f4")
    assert np.array_equal(quotients * np.float32(2**power), values)


def test_not_a_number_stays_one() -> None:
    signalling = bytes.fromhex("0000a07f 0000c07f 0000807f 000080ff 00000080")
    found = np.frombuffer(divided(signalling, 128), "<f4")
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [np.inf, -np.inf, 0]
    assert bytes(divided(signalling, 1)) == signalling
