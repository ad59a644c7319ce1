"""Files of other kinds are named, with what to do with them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from ggcp_schema import FORMATS, FileError, NotACheckpointError, open_checkpoint, open_file
from ggcp_schema.files.source import open_regular
from ggcp_schema.formats.gguf.file import open_gguf
from tests.helpers import FIXTURES


def error_of(path: Path, data: bytes) -> NotACheckpointError:
    path.write_bytes(data)
    with pytest.raises(NotACheckpointError) as caught:
        open_checkpoint(path)
    return caught.value


@pytest.mark.parametrize(
    ("head", "hint"),
    [
        (b"GGUF\3\0\0\0", "This is a GGUF file."),
        (b"tjgg\3\0\0\0", "This is a ggjt model or vocabulary file (llama.cpp of April to August 2023)."),
        (b"fmgg\1\0\0\0", "This is a ggmf model or vocabulary file (llama.cpp of March 2023)."),
        (
            b"lmgg\0\0\0\0",
            "This is an unversioned ggml file (of llama.cpp before 25 March 2023, or of another program).",
        ),
        (b"algg\1\0\0\0", "This is a ggla LoRA adapter (llama.cpp's finetune or convert-lora, 2023)."),
        (b"lcgg\1\0\0\0", "This is a ggcl LoRA training checkpoint (llama.cpp's finetune, 2023)."),
        (b"ggcp\0\0\0\0", "This is a big-endian ggcp checkpoint (only little-endian checkpoints are supported)."),
        (b"\x01\x02\x03\x04", "This is no ggcp checkpoint."),
    ],
)
def test_a_file_of_another_kind_is_named(head: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    error = error_of(path, head + bytes(600))
    found = int.from_bytes(head[:4], "little")
    letters = f" ({head[3::-1].decode()!r})" if head[:4].isalpha() else ""
    if head[:4] in {known.magic for known in FORMATS.values()}:
        assert str(error) == f"{path} is no ggcp checkpoint\n{hint} Open it with open_file."
    else:
        assert error.message == (
            f"{path}: magic at offset 0 (0x0): expected 0x67676370 ('ggcp'), found {found:#x}{letters}"
        )
        assert error.hint == hint


def archives(tmp_path: Path) -> dict[str, bytes]:
    """Return archives as Python's own modules make them, by the command that unpacks them."""
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data.pkl", b"content")
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        archive.add(FIXTURES / "v1-adam.ggcp", "v1-adam.ggcp")
    return {
        "unzip": zipped.getvalue(),
        "tar": tarred.getvalue(),
        "gzip": gzip.compress(b"pcgg"),
        "bzip2": bz2.compress(b"pcgg"),
        "xz": lzma.compress(b"pcgg"),
    }


def test_archives_are_named_with_what_unpacks_them(tmp_path: Path) -> None:
    for command, data in archives(tmp_path).items():
        error = error_of(tmp_path / "x", data)
        assert f"`{command} " in error.hint, command
        if " > OUTPUT`" in error.hint:  # the command works whatever the file is called
            words = error.hint.split("`")[1].replace("FILE", "x").replace("OUTPUT", "y")
            subprocess.run(["sh", "-c", words], cwd=tmp_path, check=True)
            assert (tmp_path / "y").read_bytes() == b"pcgg"
        with pytest.raises(
            NotACheckpointError, match=rf"unknown file format; it begins with the bytes {data[:4].hex(' ')}"
        ):
            open_file(tmp_path / "x")


def test_a_file_of_no_format_is_not_called_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"Dear reader")
    with pytest.raises(NotACheckpointError, match=r"This is no GGUF file\.$"):
        open_gguf(tmp_path / "x")
    with pytest.raises(NotACheckpointError, match=r"The formats that can be read are ggcp, gguf, "):
        open_file(tmp_path / "x")


@pytest.mark.parametrize("name", ["vocab.gguf", "vocab.ggjt"])
def test_genuine_files_of_other_kinds(name: str) -> None:
    with pytest.raises(NotACheckpointError, match=r"This is a (GGUF file|ggjt model or vocabulary file)"):
        open_checkpoint(FIXTURES / name)
    open_file(FIXTURES / name).close()


@pytest.mark.parametrize(
    ("data", "missing", "hint"),
    [
        (b"", "4 bytes", "The file is empty."),
        (b"pc", "2 bytes", "The file is too short to identify."),
        (b"pcg", "1 byte", "The file is too short to identify."),
    ],
)
def test_a_file_shorter_than_a_magic_number(tmp_path: Path, data: bytes, missing: str, hint: str) -> None:
    path = tmp_path / "x"
    assert str(error_of(path, data)) == (
        f"{path}: magic at offset 0 (0x0): expected 4 bytes, found {len(data)} before the end of the file: "
        f"the file is at least {missing} too short\n{hint}"
    )


def test_standard_input_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match="random access") as caught:
        open_regular("-")
    assert "./-" in caught.value.hint
    (tmp_path / "-").write_bytes(b"pcgg")
    with open_regular("./-") as file:
        assert file.read() == b"pcgg"
