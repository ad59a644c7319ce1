"""The pages of ggla and ggcl: they build genuine files byte for byte, and say where a damaged one is damaged."""

from __future__ import annotations

import io
import os
import struct
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggcp_schema import GgcpError, MalformedError, TruncatedError
from ggcp_schema.formats.lora import FORMATS
from ggcp_schema.formats.lora.schema import GGCL as GGCL_PAGE
from ggcp_schema.formats.lora.schema import GGLA as GGLA_PAGE
from tests.lora import independent
from tests.lora.lora_files import FOLDER, GGCL, GGLA, PEFT, opened

FILES = [*GGLA, *GGCL]


def ids(path: Path) -> str:
    return path.name


def test_the_genuine_files() -> None:
    assert (len(GGLA), len(GGCL)) == (6, 3)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_file_is_built_byte_for_byte(path: Path) -> None:
    page = GGLA_PAGE if path.suffix == ".ggla" else GGCL_PAGE
    built = io.BytesIO()
    with open(path, "rb") as stream:
        page.build_stream(page.parse_stream(stream), built)
    assert built.getvalue() == path.read_bytes()


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_an_independent_reader_finds_the_same_tensors(path: Path) -> None:
    lora = independent.read(path)
    expected = [*(values for name in lora.a for values in (lora.a[name], lora.b[name])), *lora.vectors]
    with opened(path) as file:
        found = [tensor for tensor in file.tensors.values() if not tensor.is_null]
        assert [tensor.shape[::-1] for tensor in found] == [values.shape for values in expected if values.size]
        for tensor, values in zip(found, (values for values in expected if values.size), strict=True):
            assert np.array_equal(tensor.array(), values.astype("f4"))


@pytest.mark.parametrize("path", GGCL, ids=ids)
def test_ggcl_states_what_the_file_holds(path: Path) -> None:
    lora = independent.read(path)
    with opened(path) as file:
        assert file.get("n_ff") == 96
        assert file.get("optimizer.nx") == sum(values.size for values in (*lora.a.values(), *lora.b.values()))
        assert file.get("optimizer.type") == path.stem.split("-")[-1]
        assert file.get("optimizer.inference").confirmed
        for name, rank in file.get("n_rank").items():
            if not name.startswith("_"):
                assert {lora.a[key].shape[1] for key in lora.a if key.split(".")[0] == name} == {rank}


def test_a_name_of_a_tensor_is_a_path() -> None:
    with opened(PEFT) as file:
        field = file.find("layers.0.attention.wv.weight.loraB")
        assert field.path == "tensors[3]"
        assert file.tensors["layers.0.attention.wv.weight.loraA"].type == "F16"


# Damage ----------------------------------------------------------------------------------------------------


def test_each_cut_of_ggla_is_found_or_is_between_two_tensors(tmp_path: Path) -> None:
    """The file has no count of tensors, so that a cut between two cannot be seen in its bytes."""
    content, between = PEFT.read_bytes(), []
    cut = tmp_path / "cut.ggla"
    cut.write_bytes(content)
    ends = [16]
    while ends[-1] < len(content):
        ends.append(independent.read_record(content, ends[-1])[2])
    sizes = {*range(4, len(content), 61), *(end + beside for end in ends for beside in (-1, 0, 1))}
    for size in sorted(sizes - {len(content), len(content) + 1}, reverse=True):
        os.truncate(cut, size)
        with opened(cut, partial=True) as file:
            if file.damage is None:
                between.append(size)
            else:
                assert isinstance(file.damage, TruncatedError)
                assert file.damage.offset <= size
            assert len(file.tensors) == max(0, sum(end <= size for end in ends) - 1)
    assert set(between) == {*ends[:-1]}


@pytest.mark.parametrize("path", GGCL, ids=ids)
def test_each_cut_of_ggcl_is_found(path: Path, tmp_path: Path) -> None:
    whole, cut = path.stat().st_size, tmp_path / "cut.ggcl"
    cut.write_bytes(path.read_bytes())
    for size in sorted([4, 91, 92, *range(93, whole, 9973), whole - 1], reverse=True):
        os.truncate(cut, size)
        with pytest.raises(TruncatedError) as found, opened(cut):
            pass
        assert found.value.offset <= size


@pytest.mark.parametrize(
    ("path", "offset", "value", "field"),
    [
        ("adam.ggla", 4, 2, "version"),
        ("adam.ggla", 24, 2, "tensors[0].type"),
        ("adam.ggla", 16, 5, "tensors[0].n_dims"),
        ("adam.ggcl", 4, 1, "version"),
        ("adam.ggcl", 44 + 4 * 9, 5, "tok_embeddings_a.ne[0]"),
        ("adam.ggcl", 24, 33, "tok_embeddings_a.ne[1]"),
        ("adam.ggcl", 20, 321, "tok_embeddings_b.ne[1]"),
    ],
)
def test_a_changed_number_is_named(path: str, offset: int, value: int, field: str, tmp_path: Path) -> None:
    content = bytearray((FOLDER / path).read_bytes())
    struct.pack_into("<I", content, offset, value)
    changed = tmp_path / path
    changed.write_bytes(content)
    with pytest.raises(MalformedError) as error, opened(changed):
        pass
    assert error.value.path == field


def test_the_optimizer_block_of_ggcl_has_version_1(tmp_path: Path) -> None:
    content = bytearray(GGCL[0].read_bytes())
    with opened(GGCL[0]) as file:
        offset = file.find("optimizer.version").offset
    content[offset : offset + 4] = bytes(4)
    (tmp_path / "old.ggcl").write_bytes(content)
    with pytest.raises(MalformedError, match=r"optimizer\.version"), opened(tmp_path / "old.ggcl"):
        pass


def test_each_format_has_its_magic() -> None:
    assert [known.magic for known in FORMATS] == [b"algg", b"lcgg"]
    assert {path.read_bytes()[:4] for path in GGLA} == {b"algg"}
    assert {path.read_bytes()[:4] for path in GGCL} == {b"lcgg"}


@given(st.data())
def test_no_change_of_a_file_is_more_than_damage(data: st.DataObject) -> None:
    """Whatever is written over a few bytes, the file is refused or has tensors, and perhaps an adapter."""
    path = data.draw(st.sampled_from([*GGLA, *GGCL[:1]]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 4000 if path.suffix == ".ggla" else 40_000))
        new = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(new)] = new
    with TemporaryDirectory() as folder:
        changed = Path(folder) / "changed"
        changed.write_bytes(path.read_bytes()[:4] + content[4:])
        with suppress(GgcpError), opened(changed, partial=True) as file:
            assert all(tensor.offset + tensor.nbytes <= file.size for tensor in file.tensors.values())
            file.describe()
            file.adapter()  # type: ignore[attr-defined]
