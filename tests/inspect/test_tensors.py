"""Listing and selecting tensors in every format, patterns against fnmatch, and moments against the known orders."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import MalformedError, PathError, UsageError, open_checkpoint, open_file
from ggcp_schema.inspect.tensors import listing, matches, moments, moments_of, select
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, TRUNCATED
from tests.samples import GGML_KINDS, sample

ADAM = FIXTURES / "v1-adam.ggcp"
KNOWN_ORDERS = json.loads((FIXTURES / "orders" / "orders.json").read_text())
DECIDABLE = [name for name, facts in KNOWN_ORDERS.items() if facts.get("decidable", True)]


# Patterns --------------------------------------------------------------------------------------------------


@given(st.text("ab*?[]", max_size=8), st.text("ab[]\n", max_size=12))
def test_patterns_are_those_of_a_regular_expression(pattern, text):
    regex = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    assert matches(pattern, text) == bool(re.fullmatch(regex, text, re.DOTALL))


def test_many_stars_do_not_backtrack():
    """A matcher with backtracking does not end in a lifetime."""
    assert not matches("*a" * 5_000 + "b", "a" * 20_000)
    assert not matches("*a?" * 500 + "b", "a" * 5_000)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("layers[0].wq", ["layers[0].wq"]),
        ("layers[0].wq.data", ["layers[0].wq"]),
        ("blk.1.attn_q.weight", ["layers[1].wq"]),
        ("layers.?.attention.wq.weight", ["layers[0].wq", "layers[1].wq"]),
        ("layers.1.attention.wq.weight", ["layers[1].wq"]),
        ("layers[*].w1", ["layers[0].w1", "layers[1].w1"]),
        ("blk.?.attn_norm.weight", ["layers[0].attention_norm", "layers[1].attention_norm"]),
        ("optimizer", ["optimizer.state.m", "optimizer.state.v", "optimizer.state.pf"]),
        ("optimizer.adam", ["optimizer.state.m", "optimizer.state.v"]),
        ("layers[1].w?", [f"layers[1].w{which}" for which in "qkvo123"]),
        ("norm", ["norm"]),
    ],
)
def test_what_a_pattern_selects(pattern, paths):
    with open_file(ADAM) as file:
        assert [item.path for item in select(file, pattern)] == paths


def test_brackets_are_not_a_character_class():
    with open_file(ADAM) as file, pytest.raises(PathError, match=re.escape("layers[0].wq")):
        select(file, "layers[0-1].wq")


def test_what_is_not_a_tensor_is_named():
    with open_file(ADAM) as file:
        with pytest.raises(
            UsageError, match=r"train_its is a field of type u32, not a tensor: 12\nRun .* get .* train_its"
        ):
            select(file, "train_its")
        with pytest.raises(UsageError, match=r"hparams is not a tensor\nRun .* dump "):
            select(file, "hparams")
        with pytest.raises(PathError):
            select(file, "layers[9]")


def test_a_file_without_tensors():
    with open_file(FIXTURES / "vocab.gguf") as file:
        assert listing(file) == []
        with pytest.raises(UsageError, match="has no tensors"):
            select(file, "norm")


def test_what_damage_may_hide_is_not_unknown():
    with open_file(TRUNCATED, partial=True) as file, pytest.raises(MalformedError, match="offset 52147"):
        select(file, "optimizer.state.m")


@pytest.mark.parametrize("kind", GGML_KINDS)
def test_the_formats_of_2023_have_paths_too(kind, tmp_path):
    with open_file(sample(kind, tmp_path)) as file:
        items = listing(file)
        assert [(item.path, item.gguf_name, item.tensor.type) for item in items] == [
            ("norm", "output_norm.weight", "F32"),
            ("layers[0].wq", "blk.0.attn_q.weight", "F16"),
            ("layers[0].w1", "blk.0.ffn_gate.weight", "Q4_0"),
        ]
        assert [item.name for item in select(file, "layers[0]")] == [item.name for item in items[1:]]


# Moments ---------------------------------------------------------------------------------------------------


def flat(path, field):
    """The values of a flat vector, read without the package's tensors."""
    with open_checkpoint(path) as ckpt:
        tensor = ckpt.state_tensors[field]
        return np.fromfile(path, "<f4", tensor.n_elements, offset=tensor.offset)


@pytest.mark.parametrize("name", DECIDABLE)
def test_the_parts_are_the_vector_in_the_order_that_is_known(name):
    path = FIXTURES / "orders" / name
    field = "x" if "lbfgs" in name else "v"
    with open_file(path) as file:
        items = listing(file)
        decision = file.order
        assert decision.order == KNOWN_ORDERS[name]["order"]
        vector = next(item for item in items if item.moment == field)
        parts = list(moments(file, decision, [vector]))
        found = np.concatenate([part.tensor.array().ravel() for part in parts])
        assert found.tobytes() == flat(path, field).tobytes()
        shapes = {item.path: item.tensor.shape for item in items}
        assert all(part.tensor.shape == shapes[part.parameter] for part in parts)


def test_x_by_parameter_is_the_weights():
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        weights = {item.path: item.tensor.array() for item in listing(file) if item.moment is None}
        parts = {item.parameter: item.tensor.array() for item in select(file, "optimizer.state.x[*]")}
        assert parts.keys() == weights.keys()
        assert all((parts[path] == weights[path]).all() for path in weights)


@pytest.mark.parametrize(
    "pattern",
    [
        "optimizer.state.m[layers[1].wq]",
        "optimizer.adam.first_moments[blk.1.attn_q.weight]",
        "optimizer.state.m[blk.1.attn_q.weight]",
        "optimizer.state.m[*[1].wq]",
    ],
)
def test_moments_have_the_names_of_both_formats(pattern):
    with open_file(ADAM) as file:
        (item,) = select(file, pattern)
        assert item.path == "optimizer.state.m[layers[1].wq]"
        assert item.gguf_name == "optimizer.adam.first_moments[blk.1.attn_q.weight]"
        assert item.description == "Adam first moments (m), order A"


def test_moments_of_a_record():
    with open_file(ADAM) as file:
        found = select(file, "optimizer.state.?[layers[0]]")
        assert {item.moment for item in found} == {"m", "v"}
        assert len(found) == 2 * 9


def test_an_unknown_order_can_be_stated():
    path = FIXTURES / "orders" / "17a-B-3.ggcp"
    with open_file(path) as file:
        with pytest.raises(UsageError, match=r"is not known: .*\nIf you know it, state it with --order"):
            select(file, "optimizer.state.m[norm]")
        (norm,) = select(file, "optimizer.state.m[norm]", order="B")
        (output,) = select(file, "optimizer.state.m[output]", order="B")
        assert norm.tensor.offset == output.tensor.offset + output.tensor.nbytes
        with pytest.raises(UsageError, match="order 'E'"):
            select(file, "optimizer.state.m[norm]", order="E")


def test_an_order_that_the_bytes_exclude_is_refused():
    """As `convert` refuses it: x of this file is the weights in order A."""
    with open_file(FIXTURES / "v0-adam.ggcp") as file:
        for attempt in (
            lambda: select(file, "optimizer.state.m[norm]", order="B"),
            lambda: moments_of(file, listing(file), "B"),
            lambda: file.moments("norm", order="B"),
            lambda: file.moments(order="B"),
        ):
            with pytest.raises(UsageError, match=r"v0-adam.ggcp: order B was stated, but the bytes prove A: x equals"):
                attempt()
        assert file.moments("norm", order="A").keys() == file.moments("norm").keys()


def test_an_element_of_a_vector_is_no_part_of_a_parameter(tmp_path):
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint())
    with open_file(path) as file:
        (found,) = select(file, "optimizer.state.m[3]")
        assert (found.parameter, found.tensor.shape) == (None, (1,))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("norm[1:3]", lambda ckpt: ckpt["norm"].array()[1:3]),
        ("layers[1].wq.data[-1]", lambda ckpt: ckpt["layers[1].wq"].array().ravel()[-1:]),
        ("optimizer.state.m[layers[0].wk][2:9]", lambda ckpt: ckpt.moments("layers[0].wk")["m"].ravel()[2:9]),
    ],
)
def test_elements_are_selected_as_a_tensor(path, expected):
    with open_checkpoint(FIXTURES / "v1-adam.ggcp") as ckpt:
        (found,) = select(ckpt, path)
        assert found.tensor.array().tolist() == expected(ckpt).tolist()
        assert found.name == path
        with pytest.raises(PathError, match=r"norm has no element \[99\]"):
            select(ckpt, "norm[99]")


def test_elements_of_blocks_are_no_tensor():
    with open_file(FIXTURES / "strange" / "all-types.gguf") as file, pytest.raises(UsageError, match="do not lie one"):
        select(file, "t8[0:2]")
