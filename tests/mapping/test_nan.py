"""`convert` copies NaNs in the keys of a GGUF checkpoint bit for bit, signalling ones of FLOAT32 as quiet ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ggcp_schema import convert, open_file
from tests.helpers import FIXTURES
from tests.mapping.gguf_files import write_as_trainer

MARKS = (1.0 / 3.0, 1.0 / 7.0)  # their bytes are found once in the file


@pytest.mark.parametrize(
    ("kind", "bits", "written"),
    [
        ("FLOAT64", 0x7FF8000000000001, 0x7FF8000000000001),
        ("FLOAT64", 0xFFF0000000000001, 0xFFF0000000000001),
        ("ARRAY/FLOAT64", 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF),
        ("ARRAY/FLOAT64", 0x7FF0000000000001, 0x7FF0000000000001),
        ("FLOAT32", 0x7F800001, 0x7FC00001),
        ("ARRAY/FLOAT32", 0x7F800001, 0x7FC00001),
        ("ARRAY/FLOAT32", 0xFFC00003, 0xFFC00003),
    ],
)
def test_a_nan_is_copied(kind: str, bits: int, written: int, tmp_path: Path) -> None:
    size, mark = (8, "<d") if kind.endswith("64") else (4, "<f")
    value = list(MARKS) if kind.startswith("ARRAY") else MARKS[0]
    path = write_as_trainer(tmp_path / "in.gguf", FIXTURES / "v1-adam.ggcp", changes={"my.key": (kind, value)})
    content = path.read_bytes()
    assert content.count(struct.pack(mark, MARKS[0])) == 1
    path.write_bytes(content.replace(struct.pack(mark, MARKS[0]), bits.to_bytes(size, "little")))
    convert(path, tmp_path / "out.gguf")
    expected = written.to_bytes(size, "little") + (struct.pack(mark, MARKS[1]) if kind.startswith("ARRAY") else b"")
    assert (tmp_path / "out.gguf").read_bytes().count(expected) == 1
    with open_file(path) as file:  # and the schema still builds the input bit for bit
        assert bits.to_bytes(size, "little") in file.format.schema.build(file.container)[: file.container["data_start"]]
