"""GGUF version 1, of August 2023: counts, lengths and dimensions have 4 bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import GGUF, MalformedError, open_file
from tests.helpers import FIXTURES, run_cli

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B"}
STRING, ARRAY = 8, 9


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def first_version(path: Path) -> bytes:
    """Return the keys of a GGUF file as gguf's reader finds them, and a tensor of 2 rows of 3, in version 1."""
    from gguf import GGUFReader

    parts = []
    for name, field in GGUFReader(path).fields.items():
        if name.startswith("GGUF."):
            continue
        kind, value = int(field.types[0]), field.contents()
        parts.append(text(name) + struct.pack("<I", kind))
        if kind == ARRAY:
            item = int(field.types[1])
            parts.append(struct.pack("<II", item, len(value)))
            parts += [text(one) if item == STRING else struct.pack(f"<{NUMBERS[item]}", one) for one in value]
        else:
            parts.append(text(value) if kind == STRING else struct.pack(f"<{NUMBERS[kind]}", value))
    count = sum(not name.startswith("GGUF.") for name in GGUFReader(path).fields)
    info = text("t") + struct.pack("<IIIIQ", 2, 3, 2, 0, 0)
    head = b"GGUF" + struct.pack("<III", 1, 1, count) + b"".join(parts) + info
    return head + bytes(-len(head) % 32) + np.arange(6, dtype="<f4").tobytes() + bytes(8)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.gguf"
    path.write_bytes(first_version(FIXTURES / "alice-vocab.gguf"))
    return path


def test_keys_and_tensors(old: Path) -> None:
    with open_file(old) as file, open_file(FIXTURES / "alice-vocab.gguf") as new:
        assert {key: entry.value for key, entry in file.key_values.items() if not entry.type.startswith("ARRAY")} == {
            key: entry.value for key, entry in new.key_values.items() if not entry.type.startswith("ARRAY")
        }
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores"):
            assert list(file.key_values[key].value) == list(new.key_values[key].value)
        assert file.tensors["t"].array().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert run_cli("validate", "--data", old).returncode == 0


def test_it_is_built_byte_for_byte(old: Path, tmp_path: Path) -> None:
    GGUF.build_file(GGUF.parse_file(str(old)), str(tmp_path / "built.gguf"))
    assert (tmp_path / "built.gguf").read_bytes() == old.read_bytes()


def test_it_is_a_vocabulary(old: Path, tmp_path: Path) -> None:
    for name, vocabulary in (("one", old), ("other", FIXTURES / "alice-vocab.gguf")):
        run_cli(
            *("export", FIXTURES / "alice.ggcp", tmp_path / name, "--vocab", vocabulary, "--ctx", "64", "--name", "a"),
            check=True,
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("size", [11, 20, 100, 5000])
def test_a_cut_file_is_damaged(size: int, old: Path) -> None:
    old.write_bytes(old.read_bytes()[:size])
    with pytest.raises(MalformedError):
        open_file(old)
