from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.browse.hexview import Layout, pieces
from ggcp_schema.formats import open_file
from tests.helpers import FIXTURES, GENUINE, TRUNCATED

SIZES = st.integers(1, 1 << 40)


@given(SIZES, st.integers(30, 300))
def test_a_line_fits_and_every_column_leads_back_to_its_byte(size: int, width: int) -> None:
    layout = Layout(size, width)
    for index in range(layout.per_line):
        column = layout.byte_column(index)
        assert layout.byte_at(column) == layout.byte_at(column + 1) == index
        assert layout.byte_at(layout.text_column + index) == index
        assert column + 2 < layout.text_column
    if width >= 40:
        assert layout.text_column + layout.per_line + (layout.names and layout.names + 2) <= width


@pytest.mark.parametrize(
    "path", [*GENUINE[:6], FIXTURES / "alice-vocab.gguf", FIXTURES / "vocab.ggjt"], ids=lambda p: p.name
)
def test_pieces_cover_the_bytes_without_gaps_and_alternate(path: Path) -> None:
    with open_file(path) as file:
        size = min(file.size, 3000)
        found = pieces(file, 0, size, [])
        assert found[0].start == 0
        assert all(one.stop == other.start and one.odd != other.odd for one, other in pairwise(found))
        assert found[-1].stop >= size
        for piece in found:
            assert piece.field is not None
            assert (piece.field.offset, piece.field.size) == (piece.start, piece.stop - piece.start)


def test_a_field_keeps_its_shade_when_the_view_scrolls() -> None:
    with open_file(GENUINE[0]) as file:
        before = pieces(file, 0, 400, [])
        after = pieces(file, before[5].start, 500, before)
        shades = {piece.start: piece.odd for piece in before}
        assert all(shades.get(piece.start, piece.odd) == piece.odd for piece in after)


def test_bytes_after_damage_belong_to_no_field(tmp_path: Path) -> None:
    content = bytearray(TRUNCATED.read_bytes())
    content[4:8] = b"\x09\0\0\0"
    damaged = tmp_path / "version.ggcp"
    damaged.write_bytes(content)
    with open_file(damaged, partial=True) as file:
        found = pieces(file, 0, 100, [])
    assert found[-1].field is None
    assert found[-1].stop == len(content)
