"""The pictures of the documentation are what the commands show."""

from __future__ import annotations

import html
import json
import re
from xml.etree import ElementTree

import pytest

from tests.golden import GOLDENS
from tests.helpers import FIXTURES, thinned
from tests.pictures import SESSIONS, STATES, VERSIONS, pictures, versions

NAMES = (*SESSIONS, *(state[0] for state in STATES))
KEY_ROWS = 8  # the title, the head, and the first rows of the panes
LARGEST = 210_000  # bytes; a page that shows them should load quickly


def rows(svg: str) -> list[list[str]]:
    """Return the words of each row of the picture."""
    found: dict[float, list[str]] = {}
    for y, text in re.findall(r'<text [^>]*\by="([\d.]+)"[^>]*>([^<]*)</text>', svg):
        found.setdefault(float(y), []).extend(html.unescape(text).split())
    return [found[y] for y in sorted(found) if found[y]]


def words(some: list[list[str]]) -> set[str]:
    return {word for row in some for word in row}


def test_the_pictures_are_what_the_commands_show() -> None:
    states = thinned(STATES, STATES[::4])
    drawn = pictures(states)
    assert set(drawn) == {*SESSIONS, *(state[0] for state in states)}
    same_versions = json.loads(VERSIONS.read_text("utf-8")) == versions()
    for name, svg in drawn.items():
        golden = (GOLDENS / name).read_text("utf-8")
        ElementTree.fromstring(svg)  # noqa: S314 -- raises if it cannot be drawn
        assert words(rows(golden)[:KEY_ROWS]) <= words(rows(svg)), name
        # Other versions may draw the same words in other pieces: write the pictures anew as tests/pictures.py says.
        assert svg == golden or not same_versions, f"{name} differs: see tests/pictures.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_small_and_needs_nothing_else(name: str) -> None:
    path = GOLDENS / name
    svg = path.read_text("utf-8")
    assert path.stat().st_size < LARGEST
    assert str(FIXTURES.parent) not in svg
    assert not re.findall(r"url\((?!#)|href|<script|<image", svg)
    assert re.findall(r"ggcp-schema\s(?:browse|export)\s[\w./]+", svg)
