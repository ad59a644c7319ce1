"""GGUF files that are unusual: what is read of them, and whether llama.cpp reads them too.

`fixtures/README.md` says what the files are.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given

from ggcp_schema import MalformedError, UsageError, open_file
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import BLOCKS
from ggcp_schema.formats.gguf.contents import FILE_TYPES
from ggcp_schema.formats.gguf.file import open_gguf
from ggcp_schema.inspect.summary import summarize
from ggcp_schema.inspect.validate import Report, validate
from ggcp_schema.schema.gguf import GGUF
from tests.builder import build_gguf
from tests.gguf_writer import written_by_gguf
from tests.helpers import FIXTURES, run_cli, thinned
from tests.llama_gguf import accepted
from tests.mapping import llama
from tests.strategies import BuiltGguf, ggufs

STRANGE = FIXTURES / "strange"
FILES = sorted(FIXTURES.rglob("*.gguf"))
NOT_BY_THE_FORMAT = {"gap.gguf", "nested.gguf", "all-types.gguf", "v1-alice-vocab.gguf"}
"""What llama.cpp refuses though the format allows it: version 1, arrays of arrays, and a gap, as `all-types` has after
Q8_1 in blocks of 40 bytes."""
CUT = STRANGE / "bert-cut.gguf"  # llama.cpp reads the headers alone
STRING, ARRAY = 8, 9


def checked(path: Path) -> Report:
    source = Source(path)
    try:
        return validate(source)
    finally:
        source.close()


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
def test_errors_are_what_llama_refuses() -> None:
    whole = [path for path in FILES if path != CUT]
    for path, reads in zip(whole, accepted(whole), strict=True):
        report = checked(path)
        if path.name in NOT_BY_THE_FORMAT:
            assert (reads, report.valid) == (False, True), path
            assert any("llama.cpp refuses" in warning.message for warning in report.warnings), path
        else:
            assert report.valid == reads, (path, report.errors)


def test_info_and_validate_give_one_answer() -> None:
    verdicts = {"whole": "valid"}
    for path in FILES:
        with open_file(path, partial=True) as file:
            state = summarize(file).state
        assert verdicts.get(state, state) == checked(path).verdict, path


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
def test_changed_files_are_errors_if_llama_refuses_them(tmp_path: Path) -> None:
    """A number of each header is replaced, one at a time."""
    architecture = ("general.architecture", STRING, "llama")
    tensors = [(f"t{index}", (32, 2), 8, b"\1" * 68) for index in range(3)]
    paths = []
    for number, (name, shape, kind, at, version) in enumerate(
        (name, shape, kind, at, version)
        for name in ("t1", "t0", "n" * 63, "n" * 64)
        for shape in ((32, 2), (64,), (32, 1, 2, 1), (32, 1, 2, 1, 1), (16, 4))
        for kind, at, version in ((8, 96, 3), (8, 64, 3), (8, 96, 2), (8, 224, 3), (1, 96, 3), (43, 96, 3), (5, 96, 3))
    ):
        changed = [tensors[0], (name, shape, kind, b"\1" * 68), tensors[2]]
        paths.append(tmp_path / f"{number}.gguf")
        paths[-1].write_bytes(build_gguf([architecture], changed, offsets={1: at}, version=version) + bytes(96))
    reads = accepted(paths)
    assert {True, False} == set(reads)
    for path, verdict in zip(paths, reads, strict=True):
        report = checked(path)
        gap = any("a gap" in warning.message for warning in report.warnings)
        assert report.damage is None
        assert (report.valid and not gap) == verdict, (report.errors, report.warnings)


# Version 1 -------------------------------------------------------------------------------------------------


def test_version_1_has_the_same_content_in_shorter_numbers() -> None:
    data = (STRANGE / "v1-alice-vocab.gguf").read_bytes()
    parsed = GGUF.parse(data)
    assert (parsed.version, GGUF.build(parsed)) == (1, data)
    with open_gguf(STRANGE / "v1-alice-vocab.gguf") as old, open_gguf(FIXTURES / "alice-vocab.gguf") as new:
        for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores"):
            assert list(old.value(key)) == list(new.value(key))
        leaves = [leaf for leaf in old.root.leaves() if leaf.size]
        assert [leaf.end for leaf in leaves[:-1]] == [leaf.offset for leaf in leaves[1:]]


def version_1(built: bytes) -> bytes:
    """Return a little-endian file in version 1: written with `struct` from what was parsed."""
    parsed = GGUF.parse(built)

    def string(text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        return struct.pack("<I", len(data)) + data

    def value(kind: int, item: object) -> bytes:
        if kind == STRING:
            return string(str(item))
        if kind == ARRAY:
            inner = item["type"]  # type: ignore[index]
            items = list(item["array"])  # type: ignore[index]
            return struct.pack("<II", inner, len(items)) + b"".join(value(inner, element) for element in items)
        return struct.pack("<" + "BbHhIif?__Qqd"[kind], item)

    out = bytearray(b"GGUF" + struct.pack("<III", 1, parsed.tensor_count, parsed.metadata_kv_count))
    for item in parsed.metadata_kv:
        out += string(item.key) + struct.pack("<I", item.value_type) + value(item.value_type, item.value)
    for info in parsed.tensor_infos:
        out += string(info.name) + struct.pack("<I", info.n_dimensions)
        out += struct.pack(f"<{info.n_dimensions}IIQ", *info.dimensions, info.type, info.offset)
    if parsed.tensor_count:
        out += bytes(-len(out) % parsed.alignment)
    return bytes(out) + built[parsed.data_start :]


@given(ggufs())
def test_any_file_in_version_1_is_read_and_built_back(built: BuiltGguf) -> None:
    if GGUF.parse(built.data).byte_order == "little":
        data = version_1(built.data)
        old, new = GGUF.parse(data), GGUF.parse(built.data)
        assert GGUF.build(old) == data
        for name in ("tensor_count", "alignment"):
            assert old[name] == new[name]
        assert [item.key for item in old.metadata_kv] == [item.key for item in new.metadata_kv]
        assert [info.dimensions for info in old.tensor_infos] == [info.dimensions for info in new.tensor_infos]


@pytest.mark.parametrize("version", [4, 5, 255])
def test_later_versions_are_said_to_be_later(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.gguf"
    for data in (build_gguf(version=version), build_gguf([], [("t", (16,), 0, b"\1" * 64)], version=version)):
        path.write_bytes(data)
        with pytest.raises(MalformedError, match="a later version than this program knows") as caught:
            open_file(path)
        assert "Copy it again" not in str(caught.value.hint)
        assert f"✗ version {version} is not known" in run_cli("info", path).stdout
        assert "general.architecture" not in run_cli("validate", path).stdout
        said_of_unknown(path)


def said_of_unknown(path: Path) -> str:
    """Return what `info` and `validate` say of a file that is unknown, and not damaged."""
    info, validated = run_cli("info", "-v", path), run_cli("validate", path)
    assert (info.returncode, validated.returncode) == (4, 4)
    assert json.loads(run_cli("info", "--json", path).stdout)["state"] == "unknown"
    assert json.loads(run_cli("validate", "--json", path).stdout)["verdict"] == "unknown"
    said = info.stdout + info.stderr + validated.stdout
    assert not [word for word in ("damage", "truncated", "again", "repair") if word in said]
    return said


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "lora/adam.ggcl", "lora/adam.ggla"])
def test_a_later_version_is_unknown_if_nothing_else_is_wrong(name: str, tmp_path: Path) -> None:
    path, data = tmp_path / "x.bin", (FIXTURES / name).read_bytes()
    path.write_bytes(data[:4] + struct.pack("<I", 3) + data[8:])
    said_of_unknown(path)
    for damaged in (data[:4] + data[8:], data[:4] + b"\3" + bytes(511) + data[516:]):
        path.write_bytes(damaged)
        for partial in (False, True):
            with pytest.raises(MalformedError) as caught, open_file(path, partial=partial) as file:
                raise file.damage or AssertionError
            assert not caught.value.is_unknown
        assert checked(path).verdict == "damaged"


@pytest.mark.parametrize("name", ["lora/base.ggjt", "vocab.ggjt"])
@pytest.mark.parametrize("version", [4, 300])
def test_later_versions_of_ggjt_are_unknown(name: str, version: int, tmp_path: Path) -> None:
    path, data = tmp_path / "x.bin", bytearray((FIXTURES / name).read_bytes())
    data[4:8] = struct.pack("<I", version)
    path.write_bytes(data)
    said = said_of_unknown(path)
    assert f"expected 1, 2 or 3, found {version}, a later version than this program knows" in said


@pytest.mark.parametrize("number", [13, 255, (1 << 32) - 1])
@pytest.mark.parametrize("in_array", [False, True])
def test_a_value_of_a_later_type_is_unknown(number: int, in_array: bool, tmp_path: Path) -> None:
    """The keys before it are read, and so are those after it where they can be found."""
    keys = [("general.architecture", 8, "llama"), ("general.name", 8, "x"), ("after", 4, 7)]
    keys.insert(2, ("new", 9, (10, [5])) if in_array else ("new", 10, 5))
    data = build_gguf(keys, [("t", (16, 2), 0, b"\1" * 128)])
    at = data.index(b"new") + 3 + 4 * in_array
    path = tmp_path / "x.gguf"
    path.write_bytes(data[:at] + struct.pack("<I", number) + data[at + 4 :])
    said = said_of_unknown(path)
    assert f"at offset {at} ({at:#x}): expected 0 (UINT8), 1 (INT8), … or 12 (FLOAT64), found {number}, a type " in said
    with open_gguf(path, partial=True) as file:
        assert list(file.key_values)[:2] == ["general.architecture", "general.name"]
        assert file.damage is not None
        assert file.damage.is_unknown


# Types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "type", "nbytes"),
    [
        ("type-42-q2_0", "Q2_0", 4 * 256 // 64 * 18),
        ("type-31-q4_0_4_4", "Q4_0_4_4", 4 * 256 // 32 * 18),
        ("type-4-q4_2", "Q4_2", 4 * 256 // 16 * 10),
        ("type-139-iq4_k", "type 139", 576),
        ("type-ffffffff-minus1", "type 4294967295", 256),
    ],
)
def test_a_type_that_is_not_read_hides_nothing_else(name: str, type: str, nbytes: int, tmp_path: Path) -> None:
    path = STRANGE / f"{name}.gguf"
    with open_gguf(path) as file:
        assert file.runs == (type == "Q2_0")  # which today's llama.cpp reads
        found = {tensor.name: (tensor.type, tensor.nbytes) for tensor in file.tensors.values()}
        assert found["blk.0.ffn_down.weight"] == (type, nbytes)
        assert {kind for kind, _ in found.values()} == {"F32", type}
        data = path.read_bytes()
        assert GGUF.build(file.container) == data
        for tensor in file.tensors.values():
            assert b"".join(tensor.chunks()) == data[tensor.offset : tensor.offset + tensor.nbytes]
        with pytest.raises(UsageError, match="cannot be read"):
            file.tensors["blk.0.ffn_down.weight"].array()
    report = json.loads(run_cli("extract", path, "*", tmp_path / "all.safetensors", "--json", check=True).stdout)
    assert report["left_out"] == ["blk.0.ffn_down.weight"]
    assert len(report["tensors"]) == 2


def test_a_model_with_a_tensor_of_an_unknown_type_is_not_exported(tmp_path: Path) -> None:
    path, source = tmp_path / "x.gguf", FIXTURES / "lora" / "base.gguf"
    data = bytearray(source.read_bytes())
    with open_gguf(source) as file:
        at = file.find("tensor_infos[20].type").offset
    data[at : at + 4] = struct.pack("<I", 512)
    path.write_bytes(data)
    result = run_cli("export", path, tmp_path / "out.gguf")
    assert result.returncode == 2
    assert "is of type 512, which is not known" in result.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_no_message_lists_all_types(tmp_path: Path) -> None:
    data = bytearray((FIXTURES / "lora" / "base.ggjt").read_bytes())
    with open_file(FIXTURES / "lora" / "base.ggjt") as file:
        offset = file.find("tensors[1].type").offset
    data[offset] = 99
    path = tmp_path / "x.ggjt"
    path.write_bytes(data)
    with pytest.raises(MalformedError, match=re.escape("expected 0 (F32), 1 (F16), … or 42 (Q2_0), found 99")):
        open_file(path)


# Values ----------------------------------------------------------------------------------------------------


def test_the_types_with_values_are_those_that_gguf_decodes() -> None:
    for kind in gguf.GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            decoded = False
        else:
            decoded = block > 1
        assert (kind.name in BLOCKS) == decoded, kind


def test_values_are_those_that_gguf_decodes() -> None:
    with open_gguf(STRANGE / "all-types.gguf") as file:
        seen = 0
        for tensor in file.tensors.values():
            if tensor.type in BLOCKS:
                raw = np.frombuffer(b"".join(tensor.chunks()), np.uint8)
                with np.errstate(all="ignore"):  # the blocks are random bytes
                    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.type])
                array = tensor.array()
                assert array.shape == tensor.shape[::-1]
                np.testing.assert_array_equal(array.ravel(), expected)
                np.testing.assert_array_equal(tensor.numbers(5, 40), expected[5:40])
                np.testing.assert_array_equal(np.concatenate(list(tensor.values(37, 41))), expected[37:41])
                seen += 1
        assert seen == len(BLOCKS)


def test_integers_and_f64_are_exact(tmp_path: Path) -> None:
    path = STRANGE / "ints.gguf"
    with open_gguf(path) as file:
        tensors = {tensor.type: tensor for tensor in file.tensors.values()}
        assert set(tensors) == {"I8", "I16", "I32", "I64", "F64"}
        for kind, tensor in tensors.items():
            raw, dtype = b"".join(tensor.chunks()), np.dtype(f"<{kind.lower()[0]}{int(kind[1:]) // 8}")
            expected = np.frombuffer(raw, dtype)
            assert tensor.array().dtype == dtype
            assert tensor.numbers(0, tensor.n_elements) == expected.tolist()
            run_cli("extract", path, tensor.name, tmp_path / "x.npy", "--force", check=True)
            extracted = np.load(tmp_path / "x.npy")
            assert (extracted.dtype, extracted.tobytes()) == (dtype, raw)
            printed = run_cli("get", path, f"{tensor.name}[0:8]", check=True).stdout.split()
            assert [float(text) for text in printed] == [float(number) for number in expected]
    same = json.loads(run_cli("diff", path, path, "--json", check=True).stdout)
    assert all(row["verdict"] == "equal" for row in same["tensors"])


def test_integers_beyond_float64_are_compared_exactly(tmp_path: Path) -> None:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path, last in zip(paths, (1 << 62, (1 << 62) + 1), strict=True):
        path.write_bytes(build_gguf([], [("t", (2,), 27, struct.pack("<2q", 7, last))]))
    result = run_cli("diff", *paths, "--json")
    (row,) = json.loads(result.stdout)["tensors"]
    assert (result.returncode, row["verdict"], row["differing"], row["largest"]) == (1, "different", 1, 1.0)


# Damage, and bytes after the end ---------------------------------------------------------------------------


def test_all_but_the_cut_tensor_is_whole() -> None:
    facts = json.loads(run_cli("info", CUT, "--json").stdout)["condition"]
    assert (facts["model_tensors"], facts["model_tensors_total"], facts["cut_tensor"]) == (4, 5, "cls.weight")


@pytest.mark.parametrize("size", [1, 2, 15])
def test_the_numbers_tell_that_few_bytes_are_lost_at_the_end(size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes((FIXTURES / "strange" / "bert.gguf").read_bytes()[:-size])
    result = run_cli("info", path)
    assert result.returncode == 4
    assert "model damaged, 4 of 5 tensors whole" in result.stdout


def test_a_cut_header_shows_the_keys_before_the_cut(tmp_path: Path) -> None:
    data = (FIXTURES / "vocab.gguf").read_bytes()
    parsed = GGUF.parse(data)
    path = tmp_path / "cut.gguf"
    ends = [item["_offset"] + item["_size"] for item in parsed.metadata_kv]
    for size in (40, *(end + step for end in ends for step in (-1, 0, 1)), len(data) - 1):
        path.write_bytes(data[:size])
        with open_gguf(path, partial=True) as file:
            whole = [item.key for item, end in zip(parsed.metadata_kv, ends, strict=True) if end <= size]
            assert list(file.key_values) == whole


@pytest.mark.parametrize(("at", "stop"), [(24, 100), (600, 1112), (6000, 6512)])
def test_keys_after_a_hole_in_a_file_without_tensors_are_found(at: int, stop: int, tmp_path: Path) -> None:
    data = (FIXTURES / "vocab.gguf").read_bytes()
    path = tmp_path / "hole.gguf"
    path.write_bytes(data[:at] + b"\xff" * (stop - at) + data[stop:])
    ends = {item.key: item["_offset"] + item["_size"] for item in GGUF.parse(data).metadata_kv}
    with open_gguf(path, partial=True) as file, open_gguf(FIXTURES / "vocab.gguf") as whole:
        touched = {item.key for item in GGUF.parse(data).metadata_kv if item["_offset"] < stop and ends[item.key] > at}
        assert whole.key_values.keys() - file.key_values.keys() == touched
        assert all(str(file.value(key)) == str(whole.value(key)) for key in file.key_values)


def test_a_type_that_no_array_has_is_named_with_few_others(tmp_path: Path) -> None:
    path, deep = tmp_path / "deep.gguf", struct.pack("<IQ", 9, 1) * 5
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + deep)
    message = re.escape("expected type to be 0, 1, … or 12, found 9")
    with pytest.raises(MalformedError, match=message):
        open_gguf(path)


def test_bytes_after_the_end_are_a_finding_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "tail.gguf"
    shutil.copy(FIXTURES / "vocab.gguf", path)
    with path.open("ab") as file:
        file.write(bytes(32) + b"more")
    args = ("--vocab", path, "--context-length", "16")
    run_cli("export", FIXTURES / "v1-adam.ggcp", tmp_path / "m.gguf", *args, check=True)
    report = checked(path)
    assert report.valid
    assert "after the end of the file" in report.warnings[-1].message
    assert "trailing: " in run_cli("info", "-v", path, check=True).stdout


# Parts, and other contents ---------------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [Path(shutil.copy(path, tmp_path)) for path in sorted((STRANGE / "shard").iterdir())]


def test_parts_that_fit_are_valid(parts: list[Path]) -> None:
    for number, path in enumerate(parts, 1):
        report = checked(path)
        assert report.valid
        assert not report.warnings
        assert f"part {number} of 3 of a split GGUF file" in run_cli("info", "-v", path, check=True).stdout


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    report = checked(parts[0])
    assert report.valid
    assert [warning.message for warning in report.warnings] == ["missing beside this file: m-00002-of-00003.gguf"]
    assert "missing beside this file: m-00002-of-00003.gguf" in run_cli("info", "-v", parts[2], check=True).stdout


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00003 (1).gguf", "m-1-of-3.gguf"])
def test_a_part_with_another_name_is_told_of(name: str, parts: list[Path]) -> None:
    path = parts[0].rename(parts[0].with_name(name))
    (warning,) = checked(path).warnings
    end = warning.message.removeprefix("llama.cpp finds the parts by their names: that of this one should end in ")
    assert path.rename(path.with_name(f"m{end}")) == parts[0]
    assert not checked(parts[0]).warnings


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("split.no", 2, "to be part 2 of 3"),
        ("split.count", 4, "to be part 2 of 3"),
        ("split.tensors.count", 20, "20 as in m-00002-of-00003.gguf"),
    ],
)
def test_parts_that_do_not_fit_are_errors(parts: list[Path], key: str, value: int, expected: str) -> None:
    with open_gguf(parts[1]) as file:
        field = file.find(key)
    data = bytearray(parts[1].read_bytes())
    data[field.offset : field.end] = value.to_bytes(field.size, "little")
    parts[1].write_bytes(data)
    report = checked(parts[0])
    assert not report.valid
    assert any(expected in error.expected for error in report.errors)


def test_a_part_is_no_vocabulary_and_no_whole_model(parts: list[Path], tmp_path: Path) -> None:
    for command in ("export", "convert"):
        for number, path in enumerate(parts, 1):
            refused = run_cli(command, path, tmp_path / "out.gguf")
            assert refused.returncode == 2
            assert f"is part {number} of 3 of a split GGUF file\nJoin the parts: `" in refused.stderr


def test_a_part_beyond_the_last_is_an_error_whatever_its_name(parts: list[Path], tmp_path: Path) -> None:
    with open_gguf(parts[2]) as file:
        at = file.find("split.no").offset
    data = bytearray(parts[2].read_bytes())
    data[at] = 7
    (tmp_path / "other.gguf").write_bytes(data)
    (error,) = checked(tmp_path / "other.gguf").errors
    assert (error.expected, error.found) == ("less than 3 (split.count)", "7")


def test_a_lost_tensor_is_missed_in_the_parts(parts: list[Path]) -> None:
    with open_gguf(parts[2]) as file:
        infos = [info.name for info in file.container.tensor_infos]
        keys = [(item.key, item.value_type, item.value) for item in file.container.metadata_kv]
        tensors = [(name, t.shape, 0, b"".join(t.chunks())) for name, t in file.tensors.items() if name != infos[-1]]
    parts[2].write_bytes(build_gguf(keys, tensors))
    (error,) = checked(parts[0]).errors
    assert error.expected == "20, the tensors of all parts"


def test_the_file_types_are_those_of_gguf() -> None:
    for kind in gguf.LlamaFileType:
        words = kind.name.removeprefix("ALL_").removeprefix("MOSTLY_").removesuffix("_MOE")
        if kind.name not in ("GUESSED", "NOT_AVAILABLE"):
            assert FILE_TYPES[int(kind)] == words


@pytest.mark.parametrize(
    ("file_type", "types", "words"),
    [
        (2, [0], "mostly Q4_0 by general.file_type, but no tensor is, 32 bits"),
        (15, [0, 12], "mostly Q4_K_M, "),  # Q4_K
        (15, [0, 2], "mostly Q4_K_M by general.file_type, but no tensor is, "),
        (1024 + 14, [12], "mostly Q4_K_S, "),
        (28, [17], "mostly IQ2_S, "),  # IQ2_XS
        (29, [17], "mostly IQ2_M by general.file_type, but no tensor is, "),
        (0, [0, 1], "all F32 by general.file_type, but not all are, "),
        (99, [0], "file type 99, "),
    ],
)
def test_the_file_type_is_compared_with_the_tensors(
    file_type: int, types: list[int], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    sizes = {kind: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] for kind in types}
    tensors = [(f"t{kind}", (256,), kind, bytes(256 // block * size)) for kind, (block, size) in sizes.items()]
    keys = [("general.architecture", 8, "llama"), ("general.file_type", 4, file_type)]
    path.write_bytes(build_gguf(keys, tensors))
    assert f"weights  {words}" in run_cli("info", path, check=True).stdout


def test_numbers_of_parts_that_no_program_writes_make_no_part(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    keys = [("split.no", 2, 0), ("split.count", 10, 1 << 63), ("split.tensors.count", 5, 4)]
    path.write_bytes(build_gguf(keys, [("t", (8,), 0, bytes(32))]))
    said = run_cli("info", path, check=True).stdout
    assert "part 1 of" not in said
    assert "split.count: is 9223372036854775808, of type UINT64; llama.cpp reads and writes UINT16" in said
    (warning,) = [warning for warning in checked(path).warnings if "of type" in warning.message]
    assert warning.path == "metadata_kv[1].value"


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
def test_a_file_in_the_other_byte_order_is_said_to_be_refused_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    tensor = ("t", (8,), 0, np.arange(8, dtype=">f4").tobytes())
    path.write_bytes(build_gguf([("general.architecture", 8, "llama")], [tensor], order=">"))
    assert accepted([path]) == [False]
    report = checked(path)
    assert report.valid
    assert [warning.path for warning in report.warnings] == ["byte_order"]
    said = run_cli("info", "-v", path, check=True).stdout
    assert "llama.cpp refuses" in said
    script = Path(sys.executable).with_name("gguf-convert-endian")
    subprocess.run([script, path, "little"], input="YES\n", text=True, check=True, capture_output=True)
    assert accepted([path]) == [True]
    assert not checked(path).warnings


@pytest.mark.parametrize(
    ("name", "kind", "lines"),
    [
        (
            "bert",
            "gguf-model",
            ["bert, version 3", "1 layer of 8", "context_length 512", "all F32, 32 bits per weight"],
        ),
        ("lora", "gguf-adapter", ["GGUF adapter", "llama, version 3, 4 keys, 2 tensors"]),
        ("mmproj-tail", "gguf-mmproj", ["GGUF projector", "clip, version 3, 4 keys, 2 tensors"]),
        (
            "type-31-q4_0_4_4",
            "gguf-model",
            ["6.118 bits per weight: F32, Q4_0_4_4", "tokenizer llama", "context_length 64"],
        ),
        ("v1-alice-vocab", "gguf-vocabulary", ["llama, tokenizer llama, version 1, 16 keys", "alice-vocab"]),
    ],
)
def test_info_says_what_any_file_holds(name: str, kind: str, lines: list[str]) -> None:
    # A long path takes a row of its own, for which another line is left out: the name alone is short everywhere.
    file = f"{name}.gguf"
    assert json.loads(run_cli("info", file, "--json", cwd=STRANGE, check=True).stdout)["kind"] == kind
    text = run_cli("info", file, cwd=STRANGE, check=True).stdout
    for line in lines:
        assert line in text


def test_models_of_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    result = run_cli("export", "--to", "hf", STRANGE / "bert.gguf", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.splitlines()[0].endswith("general.architecture is 'bert', expected 'llama'")
    assert "architecture" in result.stderr.splitlines()[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["adapter", "mmproj", "imatrix", "controlvector"])
def test_what_is_no_model_is_refused_by_what_it_is(kind: str, tmp_path: Path) -> None:
    with written_by_gguf(tmp_path / "x.gguf", "controlvector" if kind == "controlvector" else "llama") as writer:
        writer.add_type(kind)
        writer.add_tensor("direction.1", np.ones(8, np.float32))
    what = {"adapter": "adapter", "mmproj": "projector", "imatrix": "importance matrix"}.get(kind, "control vector")
    for command in ("export", "export --to hf", "convert"):
        result = run_cli(*command.split(), tmp_path / "x.gguf", tmp_path / "out")
        assert result.returncode == 2
        assert f"x.gguf is a GGUF {what}" in result.stderr.splitlines()[0]


@pytest.mark.parametrize(("of_keys", "expected"), [(8, []), (2, ["attention.head_count_kv 2"])])
def test_info_tells_the_heads_of_the_keys_where_they_are_fewer(
    tmp_path: Path, of_keys: int, expected: list[str]
) -> None:
    with written_by_gguf(tmp_path / "x.gguf", "gemma") as writer:
        writer.add_block_count(3)
        writer.add_embedding_length(64)
        writer.add_head_count(8)
        writer.add_head_count_kv(of_keys)
        writer.add_tokenizer_model("gpt2")
    lines = run_cli("info", tmp_path / "x.gguf", check=True).stdout.splitlines()
    texts = dict(line.split(maxsplit=1) for line in lines)
    assert texts["model"] == "3 layers of 64, 8 heads"
    assert [text for label, text in texts.items() if label == "sizes"] == expected
    assert texts["contents"] == "gemma, tokenizer gpt2, version 3, 6 keys, 0 tensors"


def test_names_of_tensors_hide_no_field_of_a_part(tmp_path: Path) -> None:
    for number in range(2):
        keys = [("split.no", 2, number), ("split.count", 2, 2), ("split.tensors.count", 5, 4)]
        tensors = [(name, (2,), 0, bytes(8)) for name in ("tensor_count", "split.no")]
        (tmp_path / f"m-0000{number + 1}-of-00002.gguf").write_bytes(build_gguf(keys, tensors))
    assert checked(tmp_path / "m-00001-of-00002.gguf").valid


def test_tokens_that_no_program_can_use_are_a_finding(tmp_path: Path) -> None:
    with written_by_gguf(tmp_path / "x.gguf") as writer:
        writer.add_string("tokenizer.ggml.model", "llama")
        writer.add_array("tokenizer.ggml.tokens", [1, 2, 3])
        writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    with open_gguf(tmp_path / "x.gguf") as opened:
        (finding,) = opened.findings
        assert finding.message.endswith("and not texts; 3 tokens, but token_embd.weight has 4 rows")
        assert not opened.runs


@pytest.mark.parametrize(
    ("offsets", "cut", "whole"),
    [({}, 70, 2), ({2: 256, 3: 320}, 10, 2), ({1: 0, 2: 64, 3: 128}, 70, 3), ({1: 0}, 70, 2)],
)
def test_a_cut_file_has_its_whole_tensors_wherever_its_data_lies(
    offsets: dict[int, int], cut: int, whole: int, tmp_path: Path
) -> None:
    tensors = [(f"t{index}", (16,), 0, bytes([index + 1]) * 64) for index in range(4)]
    path = tmp_path / "cut.gguf"
    path.write_bytes(build_gguf([("general.architecture", 8, "llama")], tensors, offsets=offsets)[:-cut])
    with open_file(path, partial=True) as file:
        assert len(file.tensors) == whole


def test_keys_without_a_name_are_no_zeros_if_they_have_values(tmp_path: Path) -> None:
    """llama.cpp refuses them, and yet the file is read."""
    path = tmp_path / "nameless.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + struct.pack("<QIB", 0, 0, 7) * 2 + bytes(14))
    with open_file(path) as file:
        assert [record["value"] for record in file.container["metadata_kv"]] == [7, 7]


@pytest.mark.parametrize(("start", "whole"), [(70656, 22), (45056, 8), (41472, 5)])
def test_zeros_from_anywhere_to_the_end_are_not_taken_for_tensors(tmp_path: Path, start: int, whole: int) -> None:
    data = (FIXTURES / "v1-adam.ggcp").read_bytes()
    path = tmp_path / "full.ggcp"
    path.write_bytes(data[:start] + bytes(len(data) - start))
    report = checked(path)
    assert report.records == (whole, 24)
    assert not any(warning.path == "trailing" for warning in report.warnings)


@pytest.mark.parametrize("name", ["alice-vocab.gguf", "lora/base.gguf", "lora/master-adam.checkpoint.gguf"])
def test_headers_that_end_in_zeros_are_damaged_where_the_zeros_begin(name: str, tmp_path: Path) -> None:
    data, path = (FIXTURES / name).read_bytes(), tmp_path / "x.gguf"
    with open_gguf(FIXTURES / name) as file:
        keys = file.root.find(("metadata_kv",)).children()
        at = keys[len(keys) // 2].offset
        before = list(file.key_values)[: len(keys) // 2]
    path.write_bytes(data[:at] + bytes(len(data) - at))
    with pytest.raises(MalformedError, match=rf"at offset {at} .*expected a key, found zeros"):
        open_file(path)
    with open_file(path, partial=True) as file:
        may_begin_before = not data[at - 1]  # in the value of the key before
        assert list(file.key_values) == before[: len(before) - may_begin_before]
        assert not file.tensors
        assert not file.runs


def scalars(path: Path) -> dict[str, object]:
    with open_file(path, partial=True) as file:
        return {key: entry.value for key, entry in file.key_values.items() if not entry.type.startswith("ARRAY")}


@pytest.mark.parametrize("fill", [bytes(512), b"\xff" * 512, random.Random(1).randbytes(512)], ids=["0", "ff", "noise"])
def test_no_value_is_shown_that_a_hole_reaches_into(fill: bytes, tmp_path: Path) -> None:
    source, path = FIXTURES / "truth" / "jan24-D.gguf", tmp_path / "x.gguf"
    data, genuine = source.read_bytes(), scalars(source)
    for at in thinned([*range(24, 560, 5), *range(14400, 15268, 13)]):
        path.write_bytes(data[:at] + fill + data[at + 512 :])
        assert scalars(path).items() <= genuine.items(), at


def test_a_damaged_vocabulary_lacks_no_tensors(tmp_path: Path) -> None:
    data, path = (FIXTURES / "alice-vocab.gguf").read_bytes(), tmp_path / "x.gguf"
    path.write_bytes(data[:9000])
    with open_file(path, partial=True) as file, pytest.raises(MalformedError, match="metadata_kv") as raised:
        file.model()
    assert "tensors" not in str(raised.value)


def test_a_name_that_is_no_text_is_a_finding(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, or NULs, in a name that is read: as damage leaves them, and no program writes them."""
    path = tmp_path / "x.gguf"
    for name in (b"a.\xff", b"\0\0\0"):
        key = struct.pack("<Q", len(name)) + name + struct.pack("<IB", 7, 1)
        tensor = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 8, 0, 0)
        data = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + key + tensor
        path.write_bytes(data + bytes(-len(data) % 32) + bytes(32))
        with open_file(path) as file:
            assert [finding.path for finding in file.findings] == ["metadata_kv[0].key", "tensor_infos[0].name"]
        assert {warning.path for warning in checked(path).warnings} >= {"metadata_kv[0].key", "tensor_infos[0].name"}


@pytest.mark.parametrize("size", [2, 20])
def test_no_value_is_shown_that_inserted_bytes_moved(size: int, tmp_path: Path) -> None:
    source, path = FIXTURES / "vocab.gguf", tmp_path / "x.gguf"
    data, genuine = source.read_bytes(), scalars(source)
    for at in thinned(range(24, 500, 3)):
        path.write_bytes(data[:at] + bytes(size) + data[at:])
        assert scalars(path).items() <= genuine.items(), at


def test_keys_are_found_that_a_wrong_length_made_part_of_a_name(tmp_path: Path) -> None:
    source, path = FIXTURES / "truth" / "jan24-D.gguf", tmp_path / "x.gguf"
    data = bytearray(source.read_bytes())
    with open_gguf(source) as file:
        records = list(file.container["metadata_kv"])
    data[records[4]["_offset"]] = 255
    path.write_bytes(data)
    with open_file(path, partial=True) as file:
        assert {*file.key_values} == {record["key"] for record in records} - {records[4]["key"]}


def test_data_whose_line_ends_were_changed_is_not_called_whole(tmp_path: Path) -> None:
    data, path = (FIXTURES / "lora/base.gguf").read_bytes(), tmp_path / "x.gguf"
    with open_gguf(FIXTURES / "lora/base.gguf") as file:
        start = file.container["data_start"]
    path.write_bytes(data[:start] + data[start:].replace(b"\n", b"\r\n"))
    for command in ("info", "validate", "export", "extract"):
        result = run_cli(command, path, *{"extract": ["*", tmp_path / "o.safetensors"]}.get(command, []), cwd=tmp_path)
        assert result.returncode == 4
        assert "whole" not in result.stdout.replace("0 of 21 tensors whole", "")
    path.write_bytes(data + b"\r\n" * 40)
    assert checked(path).valid


@pytest.mark.parametrize(
    ("architecture", "sizes", "told"),
    [
        (
            "clip",
            {"vision.block_count": 27, "audio.block_count": 4, "vision.projection": 9},
            "vision.block_count 27, audio.block_count 4",
        ),
        (
            "qwen3moe",
            {"expert_used_count": 8, "expert_count": 128, "expert_shared_count": 1, "block_count": 2},
            "expert_count 128, expert_used_count 8",
        ),
    ],
)
def test_the_sizes_of_a_projector_and_of_a_mixture_of_experts(
    architecture: str, sizes: dict[str, int], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.gguf"
    keys = [(f"{architecture}.{name}", 4, size) for name, size in sizes.items()]
    path.write_bytes(build_gguf([("general.architecture", 8, architecture), *keys], []))
    assert f"sizes    {told}\n" in run_cli("info", path).stdout


def test_an_importance_matrix_has_no_parameters(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    tensors = [
        (f"blk.0.attn_q.weight.{name}", (count, 1), 0, bytes(4 * count))
        for name, count in (("in_sum2", 8), ("counts", 1))
    ]
    path.write_bytes(build_gguf([("general.type", 8, "imatrix"), ("imatrix.chunk_count", 4, 7)], tensors))
    summary = json.loads(run_cli("info", path, "--json", check=True).stdout)
    assert (summary["kind"], summary["n_params"]) == ("gguf-imatrix", None)
    said = run_cli("info", path, check=True).stdout
    assert "contents version 3, 2 keys, 2 tensors\n" in said
    assert not [word for word in ("parameters", "architecture", "weight ") if word in said]


def test_only_a_file_that_llama_cpp_writes_with_an_architecture_is_said_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    later = [("split.no", 2, 1), ("split.count", 2, 2), ("split.tensors.count", 5, 4)]
    for keys, has_none in ((later, False), ([("general.name", 8, "x")], True)):
        path.write_bytes(build_gguf(keys, [("a", (8,), 0, bytes(32))]))
        assert ("no architecture" in run_cli("info", path).stdout) is has_none
        assert ("architecture is missing" in run_cli("validate", path).stdout) is has_none


def test_a_long_name_and_a_size_of_another_type_hide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    keys = [("tokenizer.ggml.model", 8, "t" * 500), ("llama.block_count", 7, True), ("llama.embedding_length", 4, 8)]
    path.write_bytes(build_gguf([("general.architecture", 8, "llama"), *keys], [("a", (8,), 0, bytes(32))]))
    said = run_cli("info", path, check=True).stdout
    assert f"contents llama, tokenizer {'t' * 40}…, version 3, 4 keys, 1 tensor\n" in said
    assert "sizes    embedding_length 8\n" in said


def test_a_control_vector_is_no_model(tmp_path: Path) -> None:
    """It has the keys and the tensors that llama.cpp's cvector-generator writes."""
    path = tmp_path / "vector.gguf"
    keys = [("general.architecture", 8, "controlvector"), ("controlvector.layer_count", 4, 1)]
    path.write_bytes(build_gguf(keys, [("direction.1", (8,), 0, bytes(32))]))
    summary = json.loads(run_cli("info", path, "--json", check=True).stdout)
    assert (summary["kind"], summary["n_params"]) == ("gguf-controlvector", None)
    assert "GGUF control vector" in run_cli("info", path, check=True).stdout


@pytest.mark.parametrize("name", ["lora/base.gguf", "vocab.gguf", "strange/v1-alice-vocab.gguf", "strange/bert.gguf"])
@pytest.mark.parametrize(("index", "step"), [(0, -1), (0, 1), (0, 1000), (1, -1), (1, 1), (1, 1000)])
def test_a_wrong_count_is_told_as_such_and_hides_nothing(name: str, index: int, step: int, tmp_path: Path) -> None:
    data, path = bytearray((FIXTURES / name).read_bytes()), tmp_path / "x.gguf"
    size = 4 if "v1-" in name else 8
    at = 8 + index * size
    count = int.from_bytes(data[at : at + size], "little")
    with open_gguf(FIXTURES / name) as file:
        keys, tensors = list(file.key_values), list(file.tensors)
    if count + step < 0 or (not tensors and step > 0):
        return  # a file that ends in its keys may as well be cut off
    data[at : at + size] = (count + step).to_bytes(size, "little")
    path.write_bytes(data)
    with open_gguf(path, partial=True) as file:
        assert (list(file.key_values), list(file.tensors)) == (keys, tensors)
        damage = file.damage
    assert damage is not None
    assert (damage.path, damage.offset) == (("tensor_count", "metadata_kv_count")[index], at)
    assert (damage.expected, damage.found) == (f"{count}, as many as there are", str(count + step))
    (error,) = checked(path).errors
    assert (error.path, error.offset, error.expected) == (damage.path, damage.offset, damage.expected)


@pytest.mark.parametrize("name", ["lora/base.gguf", "truth/jan24-D.gguf", "lora/master-adam.checkpoint.gguf"])
def test_damage_has_one_place_in_every_command(name: str, tmp_path: Path) -> None:
    path, data, rng = tmp_path / "x.gguf", (FIXTURES / name).read_bytes(), random.Random(5)
    for number in thinned(range(24), range(12)):
        at = rng.randrange(8, 9000)
        hole = (rng.randbytes(40), bytes(40), b"", b"\xff" * 40)[number % 4]
        path.write_bytes(data[:at] + hole + data[at + (40 if hole else 1) :])
        with open_gguf(path, partial=True) as file:
            damage = file.damage
        report = checked(path)
        told = {(each.path, each.offset) for each in (*report.errors, report.damage) if each is not None}
        assert damage is None or (damage.path, damage.offset) in told, at


def test_a_bool_in_an_array_is_0_or_1_too(tmp_path: Path) -> None:
    data = build_gguf([("general.architecture", 8, "llama"), ("x.flags", 9, (7, [True, False, True]))], [])
    path = tmp_path / "x.gguf"
    for last, messages in ((b"\1", []), (b"\5", ["is 5, but a bool is 0 or 1"])):
        path.write_bytes(data[:-1] + last)
        report = checked(path)
        assert [warning.message for warning in report.warnings] == messages
        assert [report.file.find(warning.path).offset for warning in report.warnings] == [len(data) - 1] * len(messages)
        assert [warning.offset for warning in report.warnings] == [len(data) - 1] * len(messages)


def parts_of(path: Path) -> tuple[dict[str, tuple[int, Any]], dict[str, tuple[tuple[int, ...], int, bytes]]]:
    """Return the keys and tensors of a GGUF file by name, as `build_gguf` takes them."""
    with open_gguf(path) as file:
        keys = {}
        for key, entry in file.key_values.items():
            kind, *inner = (gguf.GGUFValueType[name] for name in entry.type.split("/"))
            keys[key] = kind, (inner[0], list(entry.value)) if inner else entry.value
        return keys, {name: (tensor.shape, 0, tensor.array().tobytes()) for name, tensor in file.tensors.items()}


MODEL_KEYS, MODEL_TENSORS = parts_of(FIXTURES / "lora" / "base.gguf")  # F32, 2 layers, n_embd 32
UINT32, INT32, FLOAT32 = 4, 5, 6
Q = "blk.1.attn_q.weight"
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no architecture": ({"general.architecture": None}, {}),
    "no context length": ({"llama.context_length": None}, {}),
    "no epsilon": ({"llama.attention.layer_norm_rms_epsilon": None}, {}),
    "no tokenizer": ({"tokenizer.ggml.model": None}, {}),
    "a length of another type": ({"llama.context_length": (INT32, 16)}, {}),
    "no layers": ({"llama.block_count": (UINT32, 0)}, {name: None for name in MODEL_TENSORS if name[:3] == "blk"}),
    "a layer too many": ({"llama.block_count": (UINT32, 3)}, {}),
    "a layer too few": ({"llama.block_count": (UINT32, 1)}, {}),
    "too many heads": ({"llama.attention.head_count": (UINT32, 5)}, {}),
    "half of the rotation": ({"llama.rope.dimension_count": (UINT32, 4)}, {}),
    "few scores": ({"tokenizer.ggml.scores": (ARRAY, (FLOAT32, [0.0, 0.0]))}, {}),
    "no matrix of a layer": ({}, {Q: None}),
    "a matrix of another shape": ({}, {Q: ((32, 16), 0, bytes(4 * 32 * 16))}),
}
RUN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole": ({}, {}),
    "the output is that of the embeddings": ({}, {"output.weight": None}),
    "a bias": ({}, {"blk.0.attn_q.bias": ((32,), 0, bytes(4 * 32))}),
    "no heads of keys": ({"llama.attention.head_count_kv": None}, {}),
    "no scores": ({"tokenizer.ggml.scores": None}, {}),
}


def changed_model(path: Path, keys: dict[str, Any], tensors: dict[str, Any], **options: Any) -> Path:
    """Write the model with these keys and tensors in the place of its own, or without them."""
    merged = [(key, *entry) for key, entry in (MODEL_KEYS | keys).items() if entry]
    data = [(name, *tensor) for name, tensor in (MODEL_TENSORS | tensors).items() if tensor]
    path.write_bytes(build_gguf(merged, data, **options))
    return path


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
@pytest.mark.parametrize("name", thinned([*REFUSED, *RUN]))
def test_nobody_is_told_to_run_what_llama_refuses(name: str, tmp_path: Path) -> None:
    path = changed_model(tmp_path / "x.gguf", *(REFUSED | RUN)[name])
    with open_gguf(path) as file:
        assert file.runs is (name in RUN)
    if name in RUN:
        assert llama.run(path, [1, 259], n_greedy=1).greedy
    else:
        with pytest.raises(llama.RefusedError):
            llama.run(path, [1, 259], n_greedy=1)


@pytest.mark.skipif(not llama.HAS_WHEEL, reason="xllamacpp has wheels for Linux x86-64 alone")
def test_nobody_is_told_to_run_what_llama_does_not_read(tmp_path: Path) -> None:
    size, last = sum(len(data) for _, _, data in MODEL_TENSORS.values()), len(MODEL_TENSORS) - 1
    paths = {
        "whole": changed_model(tmp_path / "whole", {}, {}),
        "overlap": changed_model(tmp_path / "overlap", {}, {}, offsets={1: 32}),
        "order": changed_model(tmp_path / "order", {}, {}, offsets={0: size, last: 0}),
        "five": changed_model(tmp_path / "five", {}, {"five": ((16, 1, 1, 1, 1), 0, b"\1" * 64)}),
        "twice": tmp_path / "twice",
    }
    keys, tensors = ([(name, *each) for name, each in parts.items()] for parts in (MODEL_KEYS, MODEL_TENSORS))
    paths["twice"].write_bytes(build_gguf([*keys, keys[0]], tensors))
    for name, path in paths.items():
        assert accepted([path]) == [name == "whole"], name
        with open_file(path, partial=True) as file:
            assert file.runs is (name == "whole"), name


@pytest.mark.parametrize("change", ["drop", "insert", "noise"])
def test_a_type_that_damage_makes_is_no_later_one(change: str, tmp_path: Path) -> None:
    data, path, rng = (FIXTURES / "truth" / "jan24-D.gguf").read_bytes(), tmp_path / "x.gguf", random.Random(3)
    told = set()
    for at in thinned([*range(30, 1200)], [*range(30, 400, 5)]):
        inside = {"drop": b"", "insert": data[at : at + 1] + b"\5", "noise": rng.randbytes(12)}[change]
        path.write_bytes(data[:at] + inside + data[at + (len(inside) if change == "noise" else 1) :])
        with open_gguf(path, partial=True) as file:
            if file.damage is not None and file.damage.path.endswith("type"):
                told.add(file.damage.is_unknown)
    assert False in told
    assert change == "noise" or told == {False}
