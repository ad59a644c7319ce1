"""The order of the optimizer's flat vectors: against genuine files, made ones, and an independent implementation."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import open_file
from ggcp_schema.llama import order as order_module
from ggcp_schema.llama import rows
from ggcp_schema.llama.order import OrderDecision, decide_order
from ggcp_schema.llama.parameters import (
    CHECKPOINT_ORDERS,
    FLAT_FIELDS,
    ORDERS,
    Order,
    parse_part_path,
    permuted_extents,
)
from ggcp_schema.llama.training import order_of
from tests.fuzz import orders
from tests.helpers import thinned
from tests.mapping.flat_files import (
    DECIDED,
    FIXTURES,
    NOT_TRAINED,
    ORDER_OF,
    Tensors,
    close_all,
    genuine,
    made_model,
    made_moments,
    opened,
    shapes_of,
    written,
)
from tests.mapping.independent_order import (
    Vector,
    change_order,
    join,
    proven_order,
    read,
    sizes_of,
    split,
)

SEEDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def decided(tensors: Tensors, orders: Sequence[Order] = CHECKPOINT_ORDERS, begin: int | None = None) -> OrderDecision:
    return decide_order(tensors.model, tensors.state, orders, begin)


def state_of(name: str) -> dict[str, Vector]:
    """The flat vectors of a genuine file, columns one after another."""
    return {field: located.data for field, located in read(genuine(name)).state.items() if field in FLAT_FIELDS}


def with_state(name: str, path: Path, state: dict[str, Vector]) -> Tensors:
    """The model of a genuine file and this state."""
    return written(path, {name: located.data for name, located in read(genuine(name)).model.items()}, state)


def in_order(name: str, order: str) -> dict[str, Vector]:
    """The flat vectors of a genuine file as a program that uses another order would have written them."""
    sizes = sizes_of(read(genuine(name)))
    return {field: change_order(values, DECIDED[name], order, sizes) for field, values in state_of(name).items()}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "tensors"


# --- genuine files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECIDED)
def test_genuine_files_are_proven_to_have_the_order_of_their_program(name: str) -> None:
    decision = decided(opened(name))
    assert (decision.order, decision.certainty) == (DECIDED[name], "proven")
    assert decision.is_certain
    assert set(decision.refuted) == set(CHECKPOINT_ORDERS) - {DECIDED[name]}


@pytest.mark.parametrize("name", DECIDED)
def test_genuine_files_are_proven_without_x(name: str) -> None:
    tensors = opened(name)
    state = {field: tensor for field, tensor in tensors.state.items() if field != "x"}
    decision = decide_order(tensors.model, state)
    assert (decision.order, decision.certainty) == (DECIDED[name], "proven")
    assert "rows of zeros" in decision.reason


@pytest.mark.parametrize("name", thinned([*ORDER_OF], [*ORDER_OF][::3]))
def test_the_independent_implementation_agrees(name: str) -> None:
    assert decided(opened(name)).order == proven_order(read(genuine(name)))


def test_a_file_in_which_most_tensors_had_no_gradient_is_undecidable() -> None:
    decision = decided(opened(NOT_TRAINED))
    assert (decision.order, decision.certainty, decision.harmless) == (None, "undecidable", False)
    assert decision.refuted == {}  # it was written in one of them
    assert "outside of tok_embeddings in every known order" in decision.reason


@pytest.mark.parametrize("name", thinned([*DECIDED], [*DECIDED][::3]))
def test_blocks_of_any_size_decide_alike(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(rows, "READ_AT_ONCE", 512)
    assert decided(opened(name)) == decided(opened(name))
    assert (decided(opened(name)).order, decided(opened(name)).certainty) == (DECIDED[name], "proven")


@pytest.mark.parametrize("name", [name for name in DECIDED if "x" not in read(genuine(name)).state])
def test_a_sample_of_the_rows_proves_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(order_module, "SEARCHED", 0)
    monkeypatch.setattr(rows, "EXAMINED", 2000)
    monkeypatch.setattr(rows, "BLOCK", 64)
    decision = decided(opened(name))
    assert decision.order in {DECIDED[name], None}
    assert not decision.is_certain


# --- reordering -------------------------------------------------------------------------------------------------


def reordered(tensor: Tensor, old: str, new: str, model: Mapping[str, Tensor]) -> bytes:
    extents = permuted_extents(tensor, old, new, model)
    return b"".join(bytes(piece) for piece in tensor.source.stream(extents))


@pytest.mark.parametrize("new", ORDERS)
@pytest.mark.parametrize("name", ["jun-B-3", "aug-lbfgs-B-1", "v1-adam", "twin-lbfgs.v1", "twin-adam.v0"])
def test_reordered_bytes_are_those_of_the_independent_implementation(name: str, new: str) -> None:
    tensors, expected = opened(name), in_order(name, new)
    assert expected
    for field, values in expected.items():
        found = reordered(tensors.state[field], DECIDED[name], new, tensors.model)
        assert found == values.tobytes(), field


MOVES = [*product(DECIDED, CHECKPOINT_ORDERS)]


@pytest.mark.parametrize(("name", "new"), thinned(MOVES, MOVES[::4]))
def test_after_reordering_the_new_order_is_found_and_the_way_back_is_exact(scratch: Path, name: str, new: str) -> None:
    old, tensors = DECIDED[name], opened(name)
    state = {}
    for field in set(FLAT_FIELDS) & set(tensors.state):
        tensor = tensors.state[field]
        data = reordered(tensor, old, new, tensors.model)
        state[field] = np.frombuffer(data, "<f4").reshape(tensor.shape[::-1])
    moved = with_state(name, scratch, state)
    decision = decided(moved)
    assert (decision.order, decision.certainty) == (new, "proven")
    for field, tensor in moved.state.items():
        back = reordered(tensor, new, old, moved.model)
        assert back == b"".join(bytes(piece) for piece in tensors.state[field].chunks()), field


def test_as_many_layers_as_ggml_could_train(scratch: Path) -> None:
    rng = np.random.default_rng(1)
    shapes = shapes_of(5, 1, 1, 227)
    v = made_moments(shapes, "B", [False, True, True, False, True], 2, rng)
    tensors = written(scratch, made_model(shapes, rng), {"m": np.sqrt(v), "v": v})
    assert decided(tensors).order == "B"
    sizes = {path: shape[0] * shape[1] for path, shape in shapes.items()}
    found = reordered(tensors.state["v"], "B", "C", tensors.model)
    assert found == change_order(v, "B", "C", sizes).tobytes()


# --- x ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eb5-A-2", "jun-B-3", "rotmax8-v0"])
def test_x_of_another_iteration_is_no_evidence(scratch: Path, name: str) -> None:
    state = state_of(name)
    tensors = with_state(name, scratch, {"x": state["x"] * np.float32(1.001), "v": np.ones_like(state["v"])})
    decision = decided(tensors)
    assert (decision.order, decision.certainty, decision.refuted) == (None, "undecidable", {})
    assert "x equals the model's weights in no order" in decision.reason


def test_one_bit_of_difference_is_no_proof_by_x(scratch: Path) -> None:
    for place in (0, 1000, -1):
        state = state_of("jun-A-3")
        x = state["x"].copy()
        x.view(np.uint32)[place] ^= 1
        decision = decided(with_state("jun-A-3", scratch, {"x": x, "v": state["v"]}))
        assert (decision.order, decision.certainty) == ("A", "proven")  # by the rows of zeros
        assert "rows of zeros" in decision.reason
        assert decided(with_state("jun-A-3", scratch, {"x": x, "v": np.ones_like(x)})).order is None


def test_weights_that_are_the_same_everywhere_prove_nothing(scratch: Path) -> None:
    shapes = shapes_of(6, 4, 5, 2)
    model = {path: np.full(shape[0] * shape[1], 0.5, np.float32) for path, shape in shapes.items()}
    x = join(model, "B")
    alone = decided(written(scratch, model, {"x": x}))
    assert (alone.order, alone.certainty) == (None, "undecidable")
    assert "x equals the weights in the orders A and B and C" in alone.reason
    v = made_moments(shapes, "B", [False] + 5 * [True], 1, np.random.default_rng(1))
    assert decided(written(scratch, model, {"x": x, "v": v})).order == "B"


def test_x_excludes_orders_and_the_rows_of_zeros_the_rest(scratch: Path) -> None:
    shapes = shapes_of(6, 4, 5, 1)
    rng = np.random.default_rng(1)
    model = made_model(shapes, rng)
    same = np.full(16, 0.5, np.float32)
    for path in ("tok_embeddings", "layers[0].wq", "layers[0].wk", "layers[0].wv", "layers[0].attention_norm"):
        model[path] = np.resize(same, model[path].size)
    v = made_moments(shapes, "C", [False] + 5 * [True], 1, rng)
    decision = decided(written(scratch, model, {"x": join(model, "C"), "v": v}))
    assert (decision.order, decision.certainty) == ("C", "proven")
    assert "x differs" in decision.refuted["A"]
    assert "lie in layers[0].wq" in decision.refuted["B"]


@pytest.mark.parametrize("order", CHECKPOINT_ORDERS)
def test_x_with_values_that_are_not_numbers_is_compared_by_bits(scratch: Path, order: str) -> None:
    shapes = shapes_of(6, 4, 5, 2)
    model = made_model(shapes, np.random.default_rng(1))
    for values in model.values():
        values[::3] = np.nan
    assert decided(written(scratch, model, {"x": join(model, order)})).order == order


# --- rows of zeros ----------------------------------------------------------------------------------------------


def test_moments_of_zeros_are_the_same_in_every_order(scratch: Path) -> None:
    zeros = np.zeros_like(state_of("v1-adam")["v"])
    decision = decided(with_state("v1-adam", scratch, {"m": zeros, "v": zeros}))
    assert (decision.order, decision.certainty, decision.harmless) == (None, "undecidable", True)
    assert "zero" in decision.reason
    moving = zeros.copy()
    moving[-1] = 1
    assert not decided(with_state("v1-adam", scratch, {"m": moving, "v": zeros})).harmless


@pytest.mark.parametrize("path", ["layers[0].wq", "layers[1].w3", "norm", "output"])
def test_a_row_of_zeros_elsewhere_leaves_no_order(scratch: Path, path: str) -> None:
    shapes = shapes_of(9, 4, 6, 2)
    sizes = {name: shape[0] * shape[1] for name, shape in shapes.items()}
    rng = np.random.default_rng(1)
    v = made_moments(shapes, "C", [False] + 8 * [True], 1, rng)
    split(v, "C", sizes)[path][-4:] = 0
    decision = decided(written(scratch, made_model(shapes, rng), {"v": v}))
    assert (decision.order, decision.certainty, decision.refuted) == (None, "undecidable", {})


@given(st.data(), SEEDS, st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.sampled_from("ABCD"))
def test_nothing_false_is_ever_proven(
    data: st.DataObject, rng: np.random.Generator, n_layer: int, n_embd: int, n_ff: int, order: str
) -> None:
    """Whichever tokens occurred."""
    seen = data.draw(st.lists(st.booleans(), min_size=1, max_size=100))
    shapes = shapes_of(len(seen), n_embd, n_ff, n_layer)
    v = made_moments(shapes, order, seen, 2, rng)
    orders = tuple(ORDERS) if order == "D" else CHECKPOINT_ORDERS
    decision = temporary(
        lambda path: decided(written(path, made_model(shapes, rng), {"m": np.sqrt(v), "v": v}), orders)
    )
    same = {"B": "C", "D": "A"}.get(order, order) if not n_layer else order  # without layers two are one order
    assert decision.certainty != "proven" or decision.order == same


@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.sampled_from("ABC"))
def test_a_token_that_only_one_order_has_room_for_proves_it(
    rng: np.random.Generator, n_layer: int, n_embd: int, n_ff: int, order: str
) -> None:
    """The embeddings of B end n_layer * n_embd rows after those of C, and begin as many after them."""
    n_vocab = 2 * n_layer * n_embd + 5
    seen = rng.random(n_vocab) < 0.5
    seen[-1 if order == "B" else 0] = False
    shapes = shapes_of(n_vocab, n_embd, n_ff, n_layer)
    v = made_moments(shapes, order, list(seen), 2, rng)
    decision = temporary(lambda path: decided(written(path, made_model(shapes, rng), {"m": np.sqrt(v), "v": v})))
    assert (decision.order, decision.certainty) == (order, "proven")


@given(
    SEEDS, st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.sampled_from("ABC"), st.sampled_from([0, 1, 3])
)
@example(np.random.default_rng(2), 1, 1, 25, "B", 0)  # A describes it best by chance
def test_files_in_which_all_tokens_occurred_are_never_decided_wrongly(
    rng: np.random.Generator, n_layer: int, n_embd: int, n_vocab: int, order: str, spread: float
) -> None:
    shapes = shapes_of(n_vocab, n_embd, 2 * n_embd, n_layer)
    v = made_moments(shapes, order, [True] * n_vocab, spread, rng)
    decision = temporary(lambda path: decided(written(path, made_model(shapes, rng), {"v": v})))
    assert decision.order in {order, None}
    assert decision.certainty in {"likely", "undecidable"}
    assert not decision.is_certain


def temporary(make: Callable[[Path], OrderDecision]) -> OrderDecision:
    with tempfile.TemporaryDirectory() as folder:
        decision = make(Path(folder) / "tensors")
        close_all()
        return decision


@pytest.mark.parametrize("order", CHECKPOINT_ORDERS)
def test_genuine_moments_with_all_tokens_seen_are_likely_or_undecided(scratch: Path, order: str) -> None:
    """The rows of zeros are replaced by such of tokens that occurred, with noise."""
    certainties = []
    for name in DECIDED:
        file, field = read(genuine(name)), "v" if "v" in read(genuine(name)).state else "g"
        rng, sizes = np.random.default_rng(1), sizes_of(file)
        parts = {path: part.copy() for path, part in split(state_of(name)[field], DECIDED[name], sizes).items()}
        rows = parts["tok_embeddings"].reshape(-1, file.n_embd)
        unseen = ~rows.any(axis=1)
        donors = rng.choice(np.flatnonzero(~unseen), unseen.sum())
        rows[unseen] = rows[donors] * rng.lognormal(0, 0.3, (unseen.sum(), file.n_embd))
        decision = decided(with_state(name, scratch, {field: join(parts, order)}))
        assert decision.order in {order, None}, name
        certainties.append(decision.certainty)
    assert set(certainties) <= {"likely", "undecidable"}
    assert certainties.count("likely") >= 0.65 * len(certainties)


def overlapping(scratch: Path, order: str, seen: list[bool], spread: float, **options: Any) -> OrderDecision:
    """A file of 2 layers of width 4: the embeddings of B begin 8 rows after those of C."""
    shapes = shapes_of(len(seen), 4, 6, 2)
    rng = np.random.default_rng(3)
    v = made_moments(shapes, order, seen, spread, rng)
    return decided(written(scratch, made_model(shapes, rng), {"m": np.sqrt(v), "v": v}), **options)


def test_rows_of_zeros_that_fit_two_orders_prove_neither(scratch: Path) -> None:
    seen = [False, True, False, False] + 60 * [True]  # in C, rows 8, 10 and 11
    decision = overlapping(scratch, "B", seen, 0)
    assert (decision.order, decision.certainty) == (None, "undecidable")
    assert set(decision.refuted) == {"A"}
    assert "lie in tok_embeddings in the orders B and C" in decision.reason
    decision = overlapping(scratch, "B", seen, 4)  # the values alone are left, and they prove nothing
    assert (decision.order, decision.certainty) == ("B", "likely")
    assert re.search(r"by [1-9][0-9.]* times the least lead that counts", decision.reason)


def test_the_token_that_begins_every_sample_is_evidence(scratch: Path) -> None:
    seen = 8 * [True] + [False, False, False] + 60 * [True]  # in B these would be tokens 0 to 2
    decision = overlapping(scratch, "C", seen, 0, begin=1)
    assert (decision.order, decision.certainty) == ("C", "likely")
    assert "the row of token 1, which begins every sample, is zero" in decision.reason
    assert overlapping(scratch, "C", seen, 0, begin=12).order is None  # zero in neither order
    assert overlapping(scratch, "C", seen, 0, begin=1 << 40).order is None


def test_rows_tell_a_from_d_in_no_case(scratch: Path) -> None:
    seen = [False, True, False] + 40 * [True]
    assert overlapping(scratch, "A", seen, 0).certainty == "proven"
    for order in "AD":
        decision = overlapping(scratch, order, seen, 0, orders=tuple(ORDERS))
        assert (decision.order, decision.certainty) == (None, "undecidable")


def test_lost_values_of_v_are_not_tokens_that_never_occurred(scratch: Path) -> None:
    """A page of zeros in v alone, where only B has tok_embeddings."""
    shapes = shapes_of(40, 4, 6, 2)
    rng = np.random.default_rng(1)
    v = made_moments(shapes, "A", 40 * [True], 0, rng)
    m = np.sqrt(v)
    start = (40 + 1 + 2 * (6 + 6 + 2 + 8) + 38) * 4
    v[start : start + 8] = 0
    assert not decided(written(scratch, made_model(shapes, rng), {"m": m, "v": v})).is_certain


def test_a_training_whose_order_changed(scratch: Path) -> None:
    """By llama.cpp of 28 August 2023 in order B, then by that of July 2024 in order C."""
    with open_file(FIXTURES / "truth/aug28-B-then-jul24-C.gguf") as file:
        training = file.training()
        decision = order_of(training)
        assert (decision.order, decision.certainty) == ("C", "likely")
        assert "16 rows of m, of tokens that had not occurred for long" in decision.reason
        assert "orders B and C" in decision.reason
        without = {name: tensor for name, tensor in training.state.items() if name != "m"}
        assert decide_order(training.model.tensors, without).certainty != "proven"


def test_moments_whose_sizes_speak_for_two_orders_decide_for_none(scratch: Path) -> None:
    """m remembers the last iterations only, and v the ones before too."""
    shapes, rng = shapes_of(64, 4, 6, 2), np.random.default_rng(3)
    vs = {order: made_moments(shapes, order, 64 * [True], 4, rng) for order in "BC"}
    assert decided(written(scratch, made_model(shapes, rng), {"m": np.sqrt(vs["B"]), "v": vs["B"]})).order == "B"
    decision = decided(written(scratch, made_model(shapes, rng), {"m": np.sqrt(vs["C"]), "v": vs["B"]}))
    assert (decision.order, decision.certainty) == (None, "undecidable")
    assert "speak for order B in v and for C in m" in decision.reason


# --- odd files --------------------------------------------------------------------------------------------------


def test_a_vector_of_another_length_is_undecidable(scratch: Path) -> None:
    decision = decided(with_state("v1-adam", scratch, {"v": np.ones(50, np.float32)}))
    assert decision.certainty == "undecidable"
    assert "v holds 50 values, but the model has 16976 parameters" in decision.reason
    assert decided(with_state("v1-adam", scratch, {})).certainty == "undecidable"


def test_a_model_without_parameters_is_undecidable(scratch: Path) -> None:
    shapes = shapes_of(0, 0, 0, 1)
    empty = np.empty(0, np.float32)
    assert decided(written(scratch, dict.fromkeys(shapes, empty), {"v": empty})).certainty == "undecidable"


def test_values_that_are_not_numbers_do_not_disturb(scratch: Path) -> None:
    state = state_of("jul-A-3")
    v = state["v"].copy()
    v[5::1000] = np.nan
    v[7::1000] = np.inf
    v[9::1000] = -1
    assert decided(with_state("jul-A-3", scratch, {"v": v})).order == "A"
    assert decided(with_state("jul-A-3", scratch, {"v": np.full_like(v, np.nan)})).order is None


def test_big_endian_vectors(scratch: Path) -> None:
    file = read(genuine("jun-B-3"))
    model = {path: located.data for path, located in file.model.items()}
    decision = decided(written(scratch, model, {"x": file.state["x"].data}, "big"))
    assert (decision.order, decision.certainty) == ("B", "proven")


# --- the notation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field", "parameter"),
    [
        ("optimizer.state.m[layers[0].wq]", "m", "layers[0].wq"),
        ("optimizer.state.lms[tok_embeddings]", "lms", "tok_embeddings"),
        ("optimizer.adam.first_moments[blk.0.attn_q.weight]", "m", "layers[0].wq"),
        ("optimizer.adam.second_moments[layers[12].w3]", "v", "layers[12].w3"),
        ("optimizer.state.v[token_embd.weight]", "v", "tok_embeddings"),
        ("optimizer.lbfgs.search_direction[output.weight]", "d", "output"),
        ("optimizer.state.m[layers[0].nonsense]", "m", "layers[0].nonsense"),
    ],
)
def test_moments_are_named_by_their_parameter(path: str, field: str, parameter: str) -> None:
    parsed = parse_part_path(path)
    assert parsed == (field, parameter)
    assert parse_part_path(str(parsed)) == parsed


@pytest.mark.parametrize(
    "path",
    [
        "optimizer.state.m",
        "optimizer.state.m[3]",
        "optimizer.state.m[]",
        "optimizer.state.m[layers[0].wq",
        "optimizer.state.pf[norm]",
        "optimizer.state.m.ne[0]",
        "layers[0].wq",
        "layers[0].wq.ne[1]",
        "nonsense[norm]",
        "",
    ],
)
def test_other_paths_are_not_in_this_notation(path: str) -> None:
    assert parse_part_path(path) is None


def test_synthetic_trainings_are_never_proven_wrongly() -> None:
    """A sample of what `python -m tests.fuzz.orders` makes."""
    found = orders.campaign(len(thinned(range(400))), 3)
    assert not [kind for kind in found if kind[0] == "proven" and kind[2] is False]
    assert not [kind for kind in found if kind == ("likely", False, False)]
    assert sum(count for kind, count in found.items() if kind[0] == "proven") > 0.4 * found.total()
