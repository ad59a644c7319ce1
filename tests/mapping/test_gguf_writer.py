"""Writing GGUF: what gguf's own reader finds in it, and that nothing wrong gets the output's name."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ggcp_schema.errors import FileError
from ggcp_schema.files.atomic import ExistsError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.files.tensor_entries import TensorEntry, Zeros, stored
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.mapping.gguf import Gguf
from ggcp_schema.schema.gguf import GGUF
from tests.writing import Entry, write_gguf

LLAMA = KeyValue("general.architecture", "STRING", "llama")
INTEGERS = {"UINT8": (8, 0), "INT8": (8, 1), "UINT32": (32, 0), "INT32": (32, 1), "UINT64": (64, 0), "INT64": (64, 1)}
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def scalars() -> Iterator[st.SearchStrategy[tuple[str, Any]]]:
    for kind, (bits, signed) in INTEGERS.items():
        low = -(1 << bits - 1) if signed else 0
        yield st.integers(low, low + (1 << bits) - 1).map(lambda number, kind=kind: (kind, number))
    yield st.floats(width=32, allow_nan=False).map(lambda number: ("FLOAT32", number))
    yield st.floats(allow_nan=False).map(lambda number: ("FLOAT64", number))
    yield st.booleans().map(lambda flag: ("BOOL", flag))
    yield st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: ("STRING", text))


def arrays() -> Iterator[st.SearchStrategy[tuple[str, Any]]]:
    yield st.lists(names, min_size=1).map(lambda texts: ("ARRAY/STRING", texts))
    yield st.lists(st.floats(width=32, allow_nan=False), min_size=1).map(lambda numbers: ("ARRAY/FLOAT32", numbers))
    yield st.lists(st.integers(0, 255), min_size=1).map(lambda numbers: ("ARRAY/UINT8", numbers))


keys = st.dictionaries(names, st.one_of(*scalars(), *arrays()), max_size=5)
shapes = st.dictionaries(names, st.lists(st.integers(1, 5), min_size=1, max_size=4), max_size=3)


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Source]:
    (tmp_path / "numbers").write_bytes(np.random.default_rng(1).bytes(4000))
    opened = Source(tmp_path / "numbers")
    yield opened
    opened.close()


def simple(source: Source) -> list[Entry]:
    return [
        LLAMA,
        KeyValue("training.type", "STRING", "train_model"),
        KeyValue("llama.block_count", "UINT32", 2),
        stored("blk.0.attn_k.weight", Tensor("k", "", (10, 20), 0, 800, source)),
        stored("norm.weight", Tensor("n", "", (50,), 800, 200, source)),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys, shapes)
@example({"\0": ("UINT8", 0)}, {}).via("a key that is zeros but for its length")
def test_gguf_s_reader_finds_what_was_written(
    tmp_path: Path, numbers: Source, keys: dict[str, tuple[str, Any]], shapes: dict[str, list[int]]
) -> None:
    keys.pop("general.architecture", None)
    keys.pop("general.alignment", None)
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
    entries = [
        LLAMA,
        *(KeyValue(key, kind, content) for key, (kind, content) in keys.items()),
        *(stored(name, Tensor(name, "", tuple(shape), 0, sizes[name], numbers)) for name, shape in shapes.items()),
    ]
    out = tmp_path / "out"
    assert write_gguf(out, entries, force=True, verify=True, sync=False) == out.stat().st_size
    reader = GGUFReader(out)
    found = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(found) == ["general.architecture", *keys]
    for key, (kind, content) in keys.items():
        assert "/".join(item.name for item in found[key].types) == kind
        assert found[key].contents() == content
    assert [(tensor.name, tensor.shape.tolist()) for tensor in reader.tensors] == list(shapes.items())
    for tensor in reader.tensors:
        assert tensor.data.tobytes() == numbers.read(0, sizes[tensor.name])
    assert GGUF.build(GGUF.parse(out.read_bytes())) == out.read_bytes()


def test_text_that_is_not_utf_8_and_nan_bits_are_written_as_they_are(tmp_path: Path) -> None:
    """As a GGUF checkpoint may contain them."""
    odd, out = "a\udcff\udcfe", tmp_path / "out"
    texts = [KeyValue("x.\udc80", "STRING", odd), KeyValue("y", "ARRAY/STRING", ["b", odd])]
    write_gguf(out, [LLAMA, *texts, TensorEntry("t\udcff", (2,), Zeros())], sync=False)
    with open_gguf(out) as gguf:
        assert [gguf.value("x.\udc80"), list(gguf.value("y"))] == [odd, ["b", odd]]
        assert list(gguf.tensors) == ["t\udcff"]
    assert out.read_bytes().count(b"a\xff\xfe") == 2


def test_the_file_ends_with_its_last_tensor(tmp_path: Path, numbers: Source) -> None:
    out = tmp_path / "out"
    size = write_gguf(out, simple(numbers), sync=False)
    last = GGUFReader(out).tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    assert size == out.stat().st_size == end + -end % 32


def test_progress_and_inspection_see_every_chunk(tmp_path: Path, numbers: Source) -> None:
    done: list[int] = []
    seen: dict[str, bytes] = {}

    def inspect(entry: TensorEntry, chunk: memoryview) -> None:
        seen[entry.name] = seen.get(entry.name, b"") + bytes(chunk)

    write_gguf(tmp_path / "out", simple(numbers), progress=done.append, inspect=inspect, verify=True, sync=False)
    assert sum(done) == 2 * 1000
    assert seen == {"blk.0.attn_k.weight": numbers.read(0, 800), "norm.weight": numbers.read(800, 200)}


def test_an_error_while_copying_leaves_nothing(tmp_path: Path, numbers: Source) -> None:
    def inspect(entry: TensorEntry, chunk: memoryview) -> None:
        raise FileError("enough")

    with pytest.raises(FileError, match="enough"):
        write_gguf(tmp_path / "out", simple(numbers), inspect=inspect)
    assert os.listdir(tmp_path) == ["numbers"]


def test_an_existing_output_needs_overwrite(tmp_path: Path, numbers: Source) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(ExistsError, match=r"already exists\nUse force=True"):
        write_gguf(tmp_path / "out", simple(numbers))
    assert (tmp_path / "out").read_bytes() == b"old"


# The output is checked -------------------------------------------------------------------------------------

Damage = Callable[[IO[bytes]], None]


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    """Damage the output between writing it and reading it back."""
    write = Gguf.write

    def and_damage(content: Gguf, place: str, **options: Any) -> None:
        write(content, place, **options)
        with open(place, "r+b") as file:
            damage(file)

    monkeypatch.setattr(Gguf, "write", and_damage)


def flip(place: int) -> Damage:
    def damage(file: IO[bytes]) -> None:
        file.seek(place, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(place, os.SEEK_END)
        file.write(bytes([byte ^ 1]))

    return damage


def rewrite(old: bytes, new: bytes) -> Damage:
    assert len(old) == len(new)

    def damage(file: IO[bytes]) -> None:
        content = file.read()
        assert old in content
        file.seek(content.index(old))
        file.write(new)

    return damage


@pytest.mark.parametrize("existing", [False, True])
def test_verify_finds_a_single_wrong_bit(
    existing: bool, tmp_path: Path, numbers: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if existing:
        out.write_bytes(b"old")
    damaged(monkeypatch, flip(-25))  # 24 bytes of padding follow the 200 bytes of the last tensor
    with pytest.raises(FileError) as caught:
        write_gguf(out, simple(numbers), verify=True, force=True)
    assert "tensor norm.weight data: 1 of 50 elements differs; it is element 49" in caught.value.message
    assert "The output was discarded." in caught.value.hint
    assert sorted(os.listdir(tmp_path)) == (["numbers", "out"] if existing else ["numbers"])
    assert not existing or out.read_bytes() == b"old"


def test_control_without_verify_a_wrong_bit_in_the_data_passes(
    tmp_path: Path, numbers: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(monkeypatch, flip(-25))
    write_gguf(tmp_path / "out", simple(numbers), sync=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.truncate(os.fstat(file.fileno()).st_size - 64), "before the end of the file"),
        (lambda file: (file.seek(0, os.SEEK_END), file.write(bytes(32))), "the file has 32 bytes after its end"),
        (rewrite(b"llama.block_count", b"llama.block_c0unt"), "llama.block_count is missing"),
        (rewrite(b"train_model", b"train_medel"), "training.type is 'train_medel', expected 'train_model'"),
        (rewrite(b"blk.0.attn_k.weight", b"blk.0.attn_j.weight"), "tensor blk.0.attn_k.weight is missing"),
        (rewrite(struct.pack("<2Q", 10, 20), struct.pack("<2Q", 20, 10)), "is F32 [20, 10], expected F32 [10, 20]"),
        (rewrite(b"GGUF", b"GGUE"), "expected"),
    ],
    ids=["short", "long", "key", "value", "tensor", "shape", "magic"],
)
def test_the_output_is_read_back_even_without_verify(
    damage: Damage, message: str, tmp_path: Path, numbers: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(monkeypatch, damage)
    with pytest.raises(FileError, match="verification failed") as caught:
        write_gguf(tmp_path / "out", simple(numbers))
    assert message in caught.value.message
    assert os.listdir(tmp_path) == ["numbers"]
