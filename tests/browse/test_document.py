from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.browse.document import Document
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.usage import FIELDS, MODEL, PADDING, UNKNOWN, M, Usage, V
from tests.helpers import FIXTURES, GENUINE, ONE_OF_EACH, TRUNCATED, thinned

OTHERS = [TRUNCATED, FIXTURES / "alice-vocab.gguf", FIXTURES / "vocab.ggjt"]
FILES = thinned([*GENUINE, *OTHERS], [*ONE_OF_EACH, *OTHERS])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_uses_are_the_file(path: Path) -> None:
    with open_file(path, partial=True) as file:
        document = Document(file)
        document.study(lambda result: None)
        assert document.usage is not None
        sizes = document.usage.sizes
        assert sum(sizes.values()) == file.size
        assert sum(sum(cell.values()) for cell in document.usage.cells) == file.size
        assert sizes[MODEL] == sum(t.nbytes for t in file.tensors.values() if not t.path.startswith("optimizer."))
        assert sizes[PADDING] == sum(tensor.padding for tensor in file.tensors.values())
        assert (sizes[UNKNOWN] > 0) <= (file.damage is not None)


def test_the_map_shows_m_and_v_where_the_moments_are() -> None:
    with open_file(FIXTURES / "alice.ggcp") as file:
        document = Document(file)
        document.study(lambda result: None)
        assert document.usage is not None
        cells = document.usage.pooled(200)
        for use, path in ((M, "optimizer.state.m"), (V, "optimizer.state.v")):
            tensor = file.tensors[path]
            middle = tensor.offset + tensor.nbytes // 2
            assert cells[200 * middle // file.size] == use


@given(st.lists(st.tuples(st.sampled_from([MODEL, V, FIELDS]), st.integers(0, 50)), min_size=1), st.integers(1, 40))
def test_a_cell_of_the_map_shows_what_most_of_its_bytes_are(parts: list[tuple[str, int]], cells: int) -> None:
    content = "".join(use[0] * size for use, size in parts)
    usage, at = Usage(len(content)), 0
    for use, size in parts:
        usage.add(use, at, size)
        at += size
    for cell, use in enumerate(usage.pooled(cells) if content else []):
        start = len(content) * cell // cells
        part = content[start : max(len(content) * (cell + 1) // cells, start + 1)]
        assert part.count(use[0]) == max(part.count(letter) for letter in set(part))


def test_damage_is_marked_with_all_that_hold_it() -> None:
    with open_file(TRUNCATED, partial=True) as file:
        marks = Document(file).marks
    assert marks == dict.fromkeys(("layers[0].w3.padding", "layers[0].w3", "layers[0]", "layers"), "damage")
