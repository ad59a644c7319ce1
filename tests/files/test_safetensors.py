"""Headers of safetensors files that are made to hurt: each is refused, as the package safetensors does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from ggcp_schema.errors import MalformedError
from ggcp_schema.files.contents import read_tensors
from ggcp_schema.files.source import Source

ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "null",
        "1",
        '{"a": 1}',
        '{"a": {}}',
        '{"a":' * 100_000,
        "[" * 100_000,
        f'{{"a": {ENTRY}}}'.encode("utf-16").decode("latin-1"),
        *(
            f'{{"a": {ENTRY.replace("[1]", shape)}}}'
            for shape in (
                f"[{'9' * 4000}]",
                f"[{'9' * 5000}]",
                "[1e999]",
                "[NaN]",
                "[1.5]",
                "[-1, -1]",
                '["1"]',
                "1",
                "{}",
            )
        ),
        *(
            f'{{"a": {ENTRY.replace("[0, 4]", at)}}}'
            for at in ("[-Infinity, 4]", "[4, 0]", "[1, 5]", "[0, 4, 4]", "[]")
        ),
        f'{{"a": {ENTRY}, "b": {ENTRY}}}',
        f'{{"a": {ENTRY.replace("[0, 4]", "[4, 8]")}}}',
        f'{{"a": {ENTRY.replace("[1]", "[0]").replace("[0, 4]", "[0, 0]")}}}',
        "{}",
        f'{{"a": {ENTRY.replace("F32", "F3")}}}',
        f'{{"a": {ENTRY.replace(chr(34) + "F32" + chr(34), "[]")}}}',
    ],
    ids=lambda header: header[:60].encode("ascii", "replace").decode(),
)
def test_a_header_made_to_hurt(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header.encode("latin-1")).to_bytes(8, "little") + header.encode("latin-1") + bytes(4))
    with pytest.raises(SafetensorError):
        safe_open(path, framework="np")
    with closing(Source(path)) as source, pytest.raises(MalformedError) as caught:
        read_tensors(source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["", "../up", "a\\u001b[31m\\u0000", "\u202e", "a" * 100_000])
def test_any_name_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = f'{{"{name}": {ENTRY}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\x80\x3f")
    with closing(Source(path)) as source:
        (tensor,) = read_tensors(source)[0].values()
        assert tensor.array().tolist() == [1]
    with safe_open(path, framework="np") as file:
        assert [*file.keys()] == [tensor.name]
