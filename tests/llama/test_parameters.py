"""Where the values of each parameter lie in the flat vectors, against an independent implementation."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.errors import PathError, UnfitError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.names import LAYER_TENSORS, MODEL_TENSORS
from ggcp_schema.llama.order import decide_order
from ggcp_schema.llama.parameters import ORDERS, Layout, known_order, permuted_extents, vector_part
from tests.mapping.flat_files import genuine, opened, shapes_of
from tests.mapping.independent_order import Vector, change_order, order_of_paths, read, sizes_of, split


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["v1-adam", "alice", "jun-B-3"])
def test_parts_are_those_of_the_independent_tables(name: str, order: str) -> None:
    file = read(genuine(name))
    sizes = sizes_of(file)
    starts = split(np.arange(sum(sizes.values()), dtype=np.float32), order, sizes)
    found = [(piece.path, piece.start, piece.count) for piece in Layout.of(order, opened(name).model)]
    assert found == [(path, int(starts[path][0]), sizes[path]) for path in order_of_paths(order, file.n_layer)]


@given(st.sampled_from("ABC"), st.integers(0, 4), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_a_part_is_found_by_its_path_and_by_each_of_its_elements(order: str, n_layer: int, sizes: list[int]) -> None:
    layout = Layout(order, dict(zip([*MODEL_TENSORS, *LAYER_TENSORS], sizes, strict=True)), n_layer)
    assert [layout.by_path[part.path] for part in layout] == layout
    elements = [index for index, part in enumerate(layout) for _ in range(part.count)]
    assert [layout.index_at(element) for element in range(layout.n_params)] == elements
    assert layout.by_path.keys().isdisjoint((f"layers[{n_layer}].wq", "layers[0].norm", "wq", "layers[00].wq"))


def test_part_of_one_parameter() -> None:
    tensors, file = opened("jun-B-3"), read(genuine("jun-B-3"))
    for path, weights in split(file.state["x"].data, "B", sizes_of(file)).items():
        piece = vector_part("B", tensors.model, path)
        (values,) = tensors.state["x"].values(piece.start, piece.start + piece.count)
        assert np.array_equal(values, weights)
        assert np.array_equal(values, file.model[path].data)
    with pytest.raises(PathError, match=r"no parameter 'layers\[0\]\.wx'\nDid you mean layers\[0\]\.w"):
        vector_part("B", tensors.model, "layers[0].wx")


def test_an_order_that_does_not_exist() -> None:
    for attempt in (lambda: Layout.of("E", opened("v1-adam").model), lambda: known_order("c")):
        with pytest.raises(UsageError, match=r"there is no order '[Ec]'\nThe orders are A, B, C, D"):
            attempt()


def test_a_model_that_is_not_whole() -> None:
    tensors = opened("v1-adam")
    model = {path: tensor for path, tensor in tensors.model.items() if path != "layers[0].wo"}
    with pytest.raises(UnfitError, match=r"no tensor"):
        Layout.of("A", model)
    assert decide_order(model, tensors.state).certainty == "undecidable"


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_order_is_one_extent(order: str) -> None:
    tensors = opened("aug-lbfgs-B-1")
    for field in ("x", "lms"):
        tensor = tensors.state[field]
        assert permuted_extents(tensor, order, order, tensors.model) == [(tensor.offset, tensor.nbytes)]


@given(
    st.data(), st.integers(0, 4), st.integers(1, 5), st.integers(0, 3), st.sampled_from("ABC"), st.sampled_from("ABC")
)
def test_extents_cover_each_byte_once_and_permuting_back_is_the_identity(
    data: st.DataObject, n_layer: int, n_embd: int, columns: int, old: str, new: str
) -> None:
    shapes = shapes_of(data.draw(st.integers(1, 6)), n_embd, data.draw(st.integers(1, 6)), n_layer)
    source = cast("Source", None)  # nothing is read
    model = {path: Tensor(path, "", shape[::-1], 0, 0, source) for path, shape in shapes.items()}
    n_params = sum(tensor.n_elements for tensor in model.values())
    values = np.arange(n_params * (columns or 1), dtype=np.float32)
    vector = Tensor("lms", "", (n_params, columns) if columns else (n_params,), 100, values.nbytes, source)

    def gathered(values: Vector, extents: list[tuple[int, int]]) -> Vector:
        return np.concatenate([values[(offset - 100) // 4 :][: size // 4] for offset, size in extents])

    extents = permuted_extents(vector, old, new, model)
    covered = sorted(extents)
    assert covered[0][0] == 100
    assert sum(covered[-1]) == 100 + values.nbytes
    assert all(sum(first) == second[0] for first, second in pairwise(covered))
    assert all(sum(first) != second[0] for first, second in pairwise(extents))  # or they were not joined
    moved = gathered(values, extents)
    assert np.array_equal(moved, change_order(values, old, new, {path: model[path].n_elements for path in model}))
    assert np.array_equal(gathered(moved, permuted_extents(vector, new, old, model)), values)


def test_what_is_not_a_flat_vector_of_the_model_is_not_permuted() -> None:
    tensors = opened("v1-adam-past5")
    with pytest.raises(UnfitError, match=r"pf has the shape \[5\]; the model has 22344 parameters"):
        permuted_extents(tensors.state["pf"], "A", "C", tensors.model)
    with pytest.raises(UnfitError, match=r"shape \[\]"):
        permuted_extents(opened("v1-adam").state["pf"], "A", "C", tensors.model)
