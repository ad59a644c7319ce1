"""The entries for file(1): libmagic must name every file, and print the numbers that this package reads."""

from __future__ import annotations

import magic
import pylibmagic  # noqa: F401 - it brings libmagic
import pytest

from ggcp_schema import FORMATS, open_file
from ggcp_schema.inspect.magic import magic_entry
from tests.kaitai.test_kaitai import FILES
from tests.samples import KINDS, sample


@pytest.fixture(scope="module")
def libmagic(tmp_path_factory):
    path = tmp_path_factory.mktemp("magic") / "ggml"
    path.write_text("".join(map(magic_entry, FORMATS.values())), "utf-8")
    return magic.Magic(magic_file=str(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_names_every_fixture(path, libmagic):
    title, *words = libmagic.from_file(str(path)).split(", ")
    with open_file(path, partial=True) as file:
        assert title == file.format.title
        order = file.container.get("byte_order")
        fields = [field for field in file.root.leaves() if "[" not in field.path]
        numbers = {field.name: field.value for field in reversed(fields)}  # the first of a name
    if order:
        assert words.pop(0) == f"{order}-endian"
    assert "version" in words[0] or title == "ggml file"
    for name, value in (word.split(" ") for word in words):
        assert numbers[name] == int(value)


@pytest.mark.parametrize("kind", KINDS)
def test_file_names_a_file_of_every_kind(kind, tmp_path, libmagic):
    test_file_names_every_fixture(sample(kind, tmp_path), libmagic)
