"""Tables: what is in one column begins, or ends, in the same cell of the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema.cli.table import print_table
from ggcp_schema.inspect.text import shorten

LETTERS = "ab \u00e9\u65e5\u672c\uff21\uac00"  # Latin letters, and East Asian ones that take two cells


def width_of(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


@pytest.mark.parametrize("names", [["a", "\u65e5\u672c\u8a9e", "ab"], ["\uac00", "e\u0301"]])
def test_columns_begin_in_one_cell(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "x"), [(name, "X") for name in names])
    lines = capsys.readouterr().out.splitlines()
    before = [unicodedata.normalize("NFC", line[:-1]) for line in lines]
    assert {line[-1].lower() for line in lines} == {"x"}
    assert len(set(map(width_of, before))) == 1


def test_columns_are_dropped_by_cells(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "extra"), [("\u65e5" * 10, "123456")], optional=("extra",), width=25)
    assert capsys.readouterr().out.splitlines() == ["name", "\u65e5" * 10, "no room for extra"]


def test_a_column_without_text_takes_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "", "1"), ("b", "", "")]
    assert print_table(("name", "empty", "x"), rows, optional=("empty", "x"), width=7) == ["name", "x"]
    assert capsys.readouterr().out.splitlines() == ["name  x", "a     1", "b"]


@given(st.text(LETTERS, max_size=30), st.integers(0, 30))
def test_shortened_text_fits_into_the_cells(text: str, width: int) -> None:
    short = shorten(text, width)
    assert width_of(short) <= width
    assert short == text if width_of(text) <= width else text.startswith(short.removesuffix("\u2026"))
