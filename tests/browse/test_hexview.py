from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.browse.hexview import Layout
from tests.browse.driver import Browser, browse
from tests.helpers import FIXTURES

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


def test_bytes_after_damage_belong_to_no_field(tmp_path: Path) -> None:
    damaged = tmp_path / "hole.gguf"  # in place of the first key and all others
    damaged.write_bytes((FIXTURES / "alice-vocab.gguf").read_bytes()[:24] + b"\xff" * 2000)

    async def script(browser: Browser) -> None:
        await browser.press("tab", "tab", "ctrl+end")
        assert browser.path is None
        await browser.press("ctrl+home", "down")
        assert "(not parsed)" in browser.text("HexView")

    browse(damaged, script=script)
