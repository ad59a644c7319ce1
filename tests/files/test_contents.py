"""What files are filled with: independent readers find it, and damage is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ggcp_schema.errors import FileError, UnfitError
from ggcp_schema.files.contents import Blob, Content, Safetensors, Text
from ggcp_schema.files.output import WriteOptions
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor_entries import Computed, FileData, TensorEntry, Zeros
from tests.writing import write_parts


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Safetensors]:
    (tmp_path / "numbers").write_bytes(np.arange(1_000_000, dtype="<f4").tobytes())
    source = Source(tmp_path / "numbers")
    tensors = [
        TensorEntry("large", (1000, 900), FileData("large", source, ((400_000, 3_600_000),))),
        TensorEntry("step", (), Computed(lambda: [np.float32(7).tobytes()])),
        TensorEntry("halves", (3, 2), Zeros(), "F16"),
    ]
    yield Safetensors({"format": "pt"}, tensors)
    source.close()


def test_a_folder_of_every_kind_of_content(weights: Safetensors, tmp_path: Path) -> None:
    parts: dict[str, Content] = {"a.json": Text('{"ä": 1}'), "b": Blob(b"\0\xff"), "c.safetensors": weights}
    done: list[int] = []
    options = WriteOptions(verify=True, sync=False, progress=done.append)
    size = write_parts(tmp_path / "out", parts, options)
    assert sum(done) == 2 * sum(content.nbytes for content in parts.values())
    assert size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert json.loads((tmp_path / "out" / "a.json").read_text("utf-8")) == {"ä": 1}
    assert (tmp_path / "out" / "b").read_bytes() == b"\0\xff"
    with safe_open(tmp_path / "out" / "c.safetensors", "numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}
    assert {name: values.shape for name, values in found.items()} == {
        "large": (900, 1000),
        "step": (),
        "halves": (2, 3),
    }
    assert np.array_equal(found["large"].ravel(), np.arange(100_000, 1_000_000))
    assert (found["step"], found["halves"].dtype, found["halves"].any()) == (7, np.float16, False)


@pytest.mark.parametrize(
    ("place", "message"), [(20, "expected a table of tensors"), (-3, "tensor halves data: 1 of 6 elements differs")]
)
def test_a_wrong_byte_is_found(
    place: int, message: str, weights: Safetensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Safetensors.write

    def and_damage(content: Safetensors, path: str, **options: object) -> None:
        write(content, path)
        with open(path, "r+b") as file:
            file.seek(place, 2 if place < 0 else 0)
            file.write(b"\x01")

    monkeypatch.setattr(Safetensors, "write", and_damage)
    with pytest.raises(FileError, match=f"c.safetensors: verification failed: {message}"):
        write_parts(tmp_path / "out", {"c.safetensors": weights}, WriteOptions(verify=True, sync=False))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [Text("ä"), Blob(b"x"), Blob(b"")])
def test_other_bytes_are_found(content: Blob, tmp_path: Path) -> None:
    path = tmp_path / "x"
    content.write(str(path))
    assert list(content.differences(str(path), data=False)) == []
    path.write_bytes(path.read_bytes() + b"?")
    assert len(list(content.differences(str(path), data=False))) == 1


def test_what_safetensors_cannot_have() -> None:
    with pytest.raises(UnfitError, match="tensor a is Q4_0"):
        Safetensors({}, [TensorEntry("a", (32,), Zeros(), "Q4_0")])
    with pytest.raises(UnfitError, match="two entries named a"):
        Safetensors({}, [TensorEntry("a", (1,), Zeros()), TensorEntry("a", (1,), Zeros())])
