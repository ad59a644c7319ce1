"""The table of a file's tensors, against lists of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor, Tensors
from ggcp_schema.formats import open_file
from tests.helpers import FIXTURES

SOURCE = cast("Source", None)  # nothing is read


@st.composite
def tensors_of_a_file(draw: st.DrawFn) -> list[Tensor]:
    """Tensors one after the other, with gaps, and in any order; some are NULL or have no elements."""
    found, at = [], 0
    for number in range(draw(st.integers(0, 8))):
        gap, padding = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        count = 1 if shape else 0
        for length in shape:
            count *= length
        at += gap + padding
        name = draw(st.text(max_size=3))
        kind, order = draw(st.sampled_from([("F32", "little"), ("F32", "big"), ("Q4_0", "little")]))
        found.append(Tensor(f"t{number}", name, shape, at, 4 * count, SOURCE, kind, order, padding))
        at += 4 * count
    return draw(st.permutations(found))


def table_of(tensors: list[Tensor]) -> Tensors:
    return Tensors((tensor.path, tensor) for tensor in tensors)


@given(tensors_of_a_file())
def test_the_sums_are_those_of_its_tensors(tensors: list[Tensor]) -> None:
    table = table_of(tensors)
    assert table.n_elements == sum(tensor.n_elements for tensor in tensors)
    assert table.nbytes == sum(tensor.nbytes for tensor in tensors)
    assert table.padding == sum(tensor.padding for tensor in tensors)
    assert table.types() == {kind: [row.type for row in tensors].count(kind) for kind in {row.type for row in tensors}}
    assert list(table.in_file_order()) == sorted(tensors, key=lambda tensor: tensor.offset)


@given(tensors_of_a_file(), st.data())
def test_a_tensor_is_found_by_its_place(tensors: list[Tensor], data: st.DataObject) -> None:
    table = table_of(tensors)
    filled = sorted((tensor for tensor in tensors if tensor.nbytes), key=lambda tensor: tensor.offset)
    size = max((tensor.offset + tensor.nbytes for tensor in tensors), default=0) + 5
    for at in range(size):
        holder = next((tensor for tensor in filled if tensor.offset <= at < tensor.offset + tensor.nbytes), None)
        assert table.at(at) == holder
        assert table.next_to(at, 1) == next((tensor for tensor in filled if tensor.offset > at), None)
        before = [tensor for tensor in filled if tensor.offset + tensor.nbytes <= at]
        assert table.next_to(at, -1) == (before[-1] if before else None)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    found = [
        tensor for tensor in filled if tensor.offset + tensor.nbytes > start and tensor.offset - tensor.padding < stop
    ]
    assert list(table.between(start, stop)) == found


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.gg*")), ids=lambda path: path.name)
def test_the_paths_lead_to_the_fields_of_the_tensors(path: Path) -> None:
    with open_file(path, partial=True) as file:
        for name, tensor in file.tensors.items():
            field = file.find(name)
            data = field.child("data") or field
            assert (data.offset, data.size) == (tensor.offset, tensor.nbytes)
