"""The table of a file's tensors, against lists of them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from construct import Container
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.checkpoint.checkpoint import TensorPaths
from ggcp_schema.checkpoint.formats import open_file
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensors import Columns, Tensors
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


@given(tensors_of_a_file(), st.integers(0, 9))
def test_it_is_the_mapping_of_its_tensors(tensors: list[Tensor], count: int) -> None:
    for table, rows in (
        (Tensors.of(tensors, SOURCE), tensors),
        (Tensors.of(tensors, SOURCE).first(count), tensors[:count]),
    ):
        expected = {tensor.path: tensor for tensor in rows}
        assert dict(table) == dict(table.items()) == expected
        assert list(table.values()) == list(expected.values())
        assert (list(table), len(table)) == (list(expected), len(expected))
        assert [path in table for path in ("t0", "t7", "u")] == [path in expected for path in ("t0", "t7", "u")]
        assert table.get("u") is None
        assert table.n_elements == sum(tensor.n_elements for tensor in rows)
        assert table.nbytes == sum(tensor.nbytes for tensor in rows)
        assert table.padding == sum(tensor.padding for tensor in rows)
        assert table.types() == {kind: [row.type for row in rows].count(kind) for kind in {row.type for row in rows}}
        assert list(table.in_file_order()) == sorted(rows, key=lambda tensor: tensor.offset)


@given(tensors_of_a_file(), tensors_of_a_file())
def test_columns_can_be_joined(first: list[Tensor], second: list[Tensor]) -> None:
    columns, more = Columns(), Columns()
    for tensor in first:
        columns.append(tensor)
    for tensor in second:
        more.append(tensor)
    columns.extend(more)
    paths = [f"layers[{row}]" for row in range(len(first) + len(second))]
    expected = [replace(tensor, path=path) for tensor, path in zip([*first, *second], paths, strict=True)]
    assert list(Tensors(columns, paths, SOURCE).values()) == expected


@given(tensors_of_a_file(), st.data())
def test_a_tensor_is_found_by_its_place(tensors: list[Tensor], data: st.DataObject) -> None:
    table = Tensors.of(tensors, SOURCE)
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


@given(
    st.integers(0, 4), st.lists(st.sampled_from("xmv"), unique=True), st.text("layers[]0129.wqoptimzsa", max_size=12)
)
def test_the_paths_of_a_checkpoint_and_their_places_are_the_reverse_of_each_other(
    n_layer: int, state: list[str], text: str
) -> None:
    paths = TensorPaths(n_layer, {name: Container(n_dims=0) for name in state})
    assert [paths.index(path) for path in paths] == list(range(len(paths)))
    assert paths[-1:] == [list(paths)[-1]]
    unknown = ("layers[4].wq", "layers[00].wq", "layers[0].wx", "optimizer.state.pf", "layers[٣].wq", "layers[-1].wq")
    for path in {text, *unknown} - set(paths):
        with pytest.raises(ValueError):  # noqa: PT011 - what list.index raises
            paths.index(path)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.gg*")), ids=lambda path: path.name)
def test_the_paths_lead_to_the_fields_of_the_tensors(path: Path) -> None:
    with open_file(path, partial=True) as file:
        for name, tensor in file.tensors.items():
            field = file.find(name)
            data = field.child("data") or field
            assert (data.offset, data.size) == (tensor.offset, tensor.nbytes)


def test_ten_thousand_take_no_memory_for_each_object() -> None:
    tracemalloc.start()
    try:
        shapes = [(2, 3), (4,)]
        paths = TensorPaths(1111, {})
        columns = Columns()
        for i in range(len(paths)):
            columns.append(Tensor("", f"blk.{i}.weight", shapes[i % 2], 64 * i, 24, SOURCE))
        table = Tensors(columns, paths, SOURCE)
        assert sum(tensor.nbytes for tensor in table.values()) == table.nbytes == 24 * len(paths)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(paths)
    finally:
        tracemalloc.stop()
