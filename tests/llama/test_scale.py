"""The scale of Adam's moments: against genuine files with known flags, and properties of the estimate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ggcp_schema import open_file
from ggcp_schema.errors import UsageError
from ggcp_schema.llama.scale import (
    Counts,
    ScaleDecision,
    decide_scale,
    divided,
    gradient_ratio,
    is_long,
    least_ratio,
    mean_square_length,
    possible_batches,
)
from ggcp_schema.llama.training import study
from tests.mapping import independent_order
from tests.mapping.flat_files import (
    DECIDED,
    NOT_TRAINED,
    Tensors,
    genuine,
    made_model,
    opened,
    shapes_of,
    written,
)
from tests.mapping.independent_order import read

ADAM = [name for name in DECIDED if "lbfgs" not in name]
# Trainers of June 2023, with the tokens of a batch if they are known.
SUMMED: dict[str, int | None] = {
    "eb5-A-2": 32 * 4,
    "jun-A-3": 32 * 4,
    "jun-B-3": 32 * 4,
    "jun-default8": 32 * 8,
    "jun-ctx-batch": 64 * 6,  # at last
    "v0-adam": 16 * 4,
    "v1-adam-raw-params": 16 * 4,
    "rotmax8-v0": None,
}


def studied(name: str, **options: Any) -> ScaleDecision:
    """The decision for a genuine file, by all that it shows."""
    with open_file(genuine(name)) as file:
        return study(file.training(), **options).scale


def ratio_of(tensors: Tensors, name: str, order: str | None = None) -> float | None:
    file = read(genuine(name))
    return gradient_ratio(tensors.model, tensors.state["v"], order or DECIDED[name], file.iterations)


@pytest.mark.parametrize("name", ADAM)
def test_the_ratio_is_that_of_the_independent_implementation(name: str) -> None:
    ratio = ratio_of(opened(name), name)
    assert ratio == pytest.approx(independent_order.gradient_ratio(read(genuine(name)), DECIDED[name]))
    assert is_long(ratio) is (name in SUMMED)


@pytest.mark.parametrize("name", ADAM)
def test_nothing_is_said_of_a_gradient_that_its_program_denies(name: str) -> None:
    decision = studied(name)
    true = "sum" if name in SUMMED else "clipped-sum" if "clip" in name else "mean"
    assert decision.gradient in {true, None}
    assert decision.summed is (name in SUMMED)
    assert (decision.s is not None) is (name in SUMMED)


@pytest.mark.parametrize("name", [name for name, s in SUMMED.items() if s])
def test_the_estimate_is_near_the_true_number_of_tokens(name: str) -> None:
    decision, true = studied(name), SUMMED[name]
    assert true
    assert decision.s
    assert decision.s_range
    assert decision.assumed
    assert 0.4 <= decision.s / true <= 2.5
    assert decision.s_range[0] <= true <= decision.s_range[1]
    assert f"about {decision.s:,} tokens" in decision.reason
    (allowed,) = re.findall(r"; by the counts the batch is ([\d, or]+), if", decision.reason)
    changed = {"jun-ctx-batch"}  # its training went on with another context and another batch
    n_ctx = decision.n_ctx or 0
    assert (str(true // n_ctx) in re.findall(r"\d+", allowed)) is (name not in changed)


def test_a_stated_batch_is_taken() -> None:
    decision = studied("rotmax8-v0", n_batch=4)
    assert (decision.s, decision.n_batch, decision.assumed, decision.s_range) == (512, 4, False, None)
    assert "512 tokens, 4 × 128, as stated" in decision.reason
    with pytest.raises(UsageError, match="a batch of 0 samples is impossible"):
        studied("rotmax8-v0", n_batch=0)


@pytest.mark.parametrize(
    ("name", "n_batch", "doubt"),
    [
        ("jun-default8", 7, "a batch of 7 samples was stated; by the counts it is 1, 2, 3, 4, 5, 6 or 8"),
        ("jun-default8", 1, "a batch of 1 samples was stated, of 32 tokens; the length of the gradient suggests"),
        ("jun-ctx-batch", 6, "by the counts it is 1, 2, 3 or 4, if context and batch never changed"),
        ("alice", 16, "a batch was stated, but m and v are copied as they are: gradients are likely means"),
        ("jun29-clip", 4, "a batch was stated, but m and v are copied as they are: gradients are likely sums clipped"),
        ("twin-adam.v0", 4, "a batch was stated, but m and v are copied as they are: gradients are means"),
        ("v1-lbfgs", 4, "a batch was stated, but m and v are not divided: only Adam's moments have a scale"),
    ],
)
def test_a_stated_batch_is_never_dropped_without_a_word(name: str, n_batch: int, doubt: str) -> None:
    assert doubt in studied(name, n_batch=n_batch).contradiction


def test_counts_that_do_not_fit() -> None:
    """Where the tokens of a sample are not known, the length of the gradient alone is left."""
    counts = Counts(train_its=5, train_samples=20, n_ctx=None)
    decision = decide_scale(8.0, {"sum"}, counts)
    assert (decision.s, decision.s_range, decision.n_batch) == (100, (75, 242), None)
    stated = decide_scale(8.0, {"sum"}, counts._replace(n_batch=4))
    assert (stated.s, stated.n_batch) == (None, 4)
    assert "the tokens of a sample are not known" in stated.contradiction
    assert decide_scale(None, {"sum"}, counts).s is None


def test_the_program_says_what_the_length_does_not() -> None:
    counts = Counts(train_its=100, train_samples=400, n_ctx=32)
    for ratio in (None, 0.05, 0.5):
        assert decide_scale(ratio, {"sum"}, counts).gradient == "sum"
        assert decide_scale(ratio, {"mean"}, counts).gradient == "mean"
        assert decide_scale(ratio, {"clipped-sum"}, counts).gradient == "clipped-sum"
        assert decide_scale(ratio, {"mean", "clipped-sum"}, counts).gradient is None
        assert not decide_scale(ratio, {"mean", "sum"}, counts).short  # sums may be as short, after long training
    programs = {"mean", "clipped-sum"}
    assert [decide_scale(ratio, programs, counts).short for ratio in (0.004, 0.17, 0.25, 0.9)] == [
        True,
        True,
        False,
        False,
    ]
    assert decide_scale(1.5, {"mean", "sum"}, counts).gradient == "sum"
    assert decide_scale(1.5, {"mean"}, counts).gradient == "sum"  # resumed from a file of sums


@pytest.mark.parametrize("beta2", [0.9, 0.99, 0.999, 0.9999])
def test_means_are_never_called_sums_whatever_beta2_was(beta2: float, tmp_path: Path) -> None:
    """The bound holds for a file that does not state beta2; sums are still found, by m or by v."""
    shapes = shapes_of(9, 4, 6, 1)
    model = made_model(shapes, np.random.default_rng(1))
    n_params = sum(values.size for values in model.values())
    bound = np.abs(model["norm"]).max() * (2 * 4) ** 0.5  # the greatest length of the mean gradient of output
    for number, (factor, iterations) in enumerate([(0.9, 2), (0.9, 300), (30, 2), (30, 300)]):
        g = np.full(n_params, factor * bound / 6, np.float32)  # of the 36 values of output
        state = {"m": g * (1 - 0.9**iterations), "v": g * g * (1 - beta2**iterations)}
        tensors = written(tmp_path / str(number), model, state)
        least = least_ratio(tensors.model, tensors.state, "A")
        assert least <= factor * 1.0001
        ratio = gradient_ratio(tensors.model, tensors.state["v"], "A", iterations)
        decision = decide_scale(ratio, {"mean"}, Counts(iterations, 4 * iterations, 8), least=least)
        assert decision.summed is (factor > 1)
        assert "if beta2 was 0.999" in decision.reason


def test_without_an_order_or_a_gradient_nothing_is_measured(tmp_path: Path) -> None:
    assert (studied(NOT_TRAINED).gradient, studied(NOT_TRAINED).ratio) == (None, None)
    shapes = shapes_of(5, 4, 6, 1)
    model = made_model(shapes, np.random.default_rng(1))
    n_params = sum(values.size for values in model.values())
    for number, value in enumerate((0, np.nan, np.inf, 1e30)):
        v = np.full(n_params, value, np.float32)
        tensors = written(tmp_path / str(number), model, {"v": v})
        assert ratio_of(tensors, "jun-A-3") is None
    assert gradient_ratio(tensors.model, tensors.state["v"], "A", 0) is None
    assert mean_square_length(tensors.state["v"], 0) is None


@pytest.mark.parametrize(("name", "expected"), [("jun29-clip", 1.0), ("jul28-A", 0.3726), ("alice", 0.8035)])
def test_the_squared_length_of_the_gradient(name: str, expected: float) -> None:
    """The branch of June clipped each gradient to a length of 1, so their average is 1 to within rounding."""
    file, v = read(genuine(name)), opened(name).state["v"]
    found = mean_square_length(v, file.iterations)
    assert found == pytest.approx(file.state["v"].data.sum(dtype=np.float64) / (1 - 0.999**file.iterations))
    assert found == pytest.approx(expected, abs=1e-4)


@given(st.integers(1, 64), st.integers(1, 50), st.integers(1, 300), st.data())
def test_the_true_batch_is_possible(n_batch: int, n_iter: int, batches: int, data: st.DataObject) -> None:
    train_its = data.draw(st.integers(batches, batches * n_iter))
    assert n_batch in possible_batches(n_batch * batches, train_its, n_iter)
    assert n_batch in possible_batches(n_batch * batches, train_its)
    assert possible_batches(n_batch * batches, batches, 1) == [n_batch]  # one iteration per batch: exact


@given(*[st.integers(0, 2**64 - 1)] * 2, st.none() | st.integers(-(2**31), 2**31 - 1))
@example(2**63 - 25, 1000, None)
@example(2**32 - 5, 1000, None)
def test_any_counts_are_answered(train_samples: int, train_its: int, n_iter: int | None) -> None:
    batches = possible_batches(train_samples, train_its, n_iter)
    assert batches == sorted(set(batches))
    assert all(batch >= 1 and not train_samples % batch for batch in batches)


def test_of_many_numbers_a_sentence_names_how_many_and_the_ends() -> None:
    decision = decide_scale(8.0, {"sum"}, Counts(train_its=720, train_samples=720, n_ctx=32))
    assert "the batch is one of 30 numbers from 1 to 720," in decision.reason


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
