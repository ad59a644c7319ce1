"""Comparing a GGUF file with the entries it should contain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema.constructs import NaN
from ggcp_schema.files.compare import data_differences, table_differences
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor_entries import FileData, TensorEntry, Zeros
from ggcp_schema.formats.gguf.file import GgufFile, open_gguf
from ggcp_schema.mapping.gguf import extra_keys, key_differences
from tests.writing import write_gguf

COUNT = 1_300_000
KEYS = [
    KeyValue("general.architecture", "STRING", "llama"),
    KeyValue("a", "UINT32", 7),
    KeyValue("b", "FLOAT32", NaN(0x7FC00001)),
    KeyValue("c", "ARRAY/STRING", ["x", "y"]),
    KeyValue("e", "ARRAY/FLOAT32", [1.0, NaN(0x7FC00001)]),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GgufFile, Source]]:
    """A GGUF file with the tensors zeros and large, and the file with the data of large."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "large").write_bytes(np.random.default_rng(3).bytes(4 * COUNT))
    source = Source(folder / "large")
    write_gguf(folder / "x.gguf", [*KEYS, *tensors(source)], sync=False)
    with open_gguf(folder / "x.gguf") as gguf:
        yield gguf, source
    source.close()


def tensors(source: Source) -> list[TensorEntry]:
    return [
        TensorEntry("zeros", (3, 2), Zeros()),
        TensorEntry("large", (COUNT,), FileData("large", source, ((0, 4 * COUNT),))),
    ]


def test_equal_files_have_no_differences(places: tuple[GgufFile, Source]) -> None:
    gguf, source = places
    done: list[int] = []
    assert [*key_differences(gguf, KEYS), *table_differences(gguf.tensors, tensors(source))] == []
    assert extra_keys(gguf, KEYS) == []
    assert [*data_differences(gguf.tensors, tensors(source), done.append)] == []
    assert sum(done) == 24 + 4 * COUNT


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (KeyValue("a", "UINT32", 8), "a is 7, expected 8"),
        (KeyValue("a", "UINT64", 7), "a has type UINT32, expected UINT64"),
        (KeyValue("d", "UINT32", 7), "d is missing"),
        (KeyValue("b", "FLOAT32", NaN(0x7FC00002)), "b is NaN (0x7fc00001), expected NaN (0x7fc00002)"),
        (
            KeyValue("e", "ARRAY/FLOAT32", [1.0, NaN(0x7FC00002)]),
            "e has [1] NaN (0x7fc00001), expected NaN (0x7fc00002)",
        ),
        (KeyValue("c", "ARRAY/STRING", ["x"] * 9), "c has 2 elements, expected 9"),
        (KeyValue("c", "ARRAY/STRING", ["x", "z"]), "c has [1] 'y', expected 'z'"),
    ],
)
def test_keys(places: tuple[GgufFile, Source], key: KeyValue, message: str) -> None:
    (difference,) = key_differences(places[0], [key])
    assert str(difference).startswith(message)
    assert (difference.kind, difference.name) == ("key", key.key)


def test_extra_keys_are_in_file_order(places: tuple[GgufFile, Source]) -> None:
    assert extra_keys(places[0], KEYS[:1]) == ["a", "b", "c", "e"]


def test_tables(places: tuple[GgufFile, Source]) -> None:
    expected = [TensorEntry("zeros", (2, 3), Zeros()), TensorEntry("more", (1,), Zeros())]
    assert [str(difference) for difference in table_differences(places[0].tensors, expected)] == [
        "tensor more is missing",
        "tensor large is not in the checkpoint",
        "tensor zeros is F32 [3, 2], expected F32 [2, 3]",
    ]
    assert [*data_differences(places[0].tensors, expected)] == []  # there is nothing to compare


@pytest.mark.parametrize("elements", [[0], [COUNT - 1], [700_000, 700_001, COUNT - 1], [524_287, 524_288]])
def test_the_place_and_the_number_of_differences(
    places: tuple[GgufFile, Source], elements: list[int], tmp_path: Path
) -> None:
    gguf, source = places
    data = np.frombuffer(source.read(0, 4 * COUNT), "<u4").copy()
    data[elements] ^= 1
    (tmp_path / "changed").write_bytes(data.tobytes())
    changed = Source(tmp_path / "changed")
    (difference,) = data_differences(gguf.tensors, tensors(changed))
    changed.close()
    verb = "differs; it is" if len(elements) == 1 else "differ; the first is"
    assert str(difference) == f"tensor large data: {len(elements)} of {COUNT:,} elements {verb} element {elements[0]}"
