"""Identify files by their first bytes, and open them."""

from __future__ import annotations

import os
import stat
from typing import IO

from ggcp_schema.errors import FileError

DESCRIPTIONS = {
    b"pcgg": "a ggcp checkpoint",
    b"GGUF": "a GGUF file",
    b"ggcp": "a big-endian ggcp checkpoint (only little-endian checkpoints are supported)",
    b"FUGG": "a GGUF file with the bytes of its magic swapped",
    b"tjgg": "a ggjt model or vocabulary file (llama.cpp of April to August 2023)",
    b"fmgg": "a ggmf model or vocabulary file (llama.cpp of March 2023)",
    b"lmgg": "an unversioned ggml model or vocabulary file (llama.cpp before 25 March 2023)",
    b"algg": "a ggla LoRA adapter (llama.cpp's finetune or convert-lora, 2023)",
    b"lcgg": "a ggcl LoRA training checkpoint (llama.cpp's finetune, 2023)",
}
ARCHIVES = {
    b"PK\x03\x04": ("a zip archive", "Unpack it with `unzip FILE`; a PyTorch checkpoint is a zip archive too."),
    b"\x1f\x8b": ("a gzip file", "Unpack it with `gunzip FILE`, or `tar xzf FILE` for a .tar.gz."),
    b"BZh": ("a bzip2 file", "Unpack it with `bunzip2 FILE`, or `tar xjf FILE` for a .tar.bz2."),
    b"\xfd7zXZ": ("an xz file", "Unpack it with `unxz FILE`, or `tar xJf FILE` for a .tar.xz."),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "Unpack it with `unzstd FILE`."),
    b"7z\xbc\xaf": ("a 7-Zip archive", "Unpack it with `7z x FILE`."),
}
TAR_MAGIC = (257, b"ustar")
HEAD = 512  # bytes that `describe_head` looks at


def describe_head(head: bytes) -> tuple[str, str]:
    """Return what a file beginning with these bytes is and what to do with it, in words; empty if not known."""
    if head[:4] in DESCRIPTIONS:
        return DESCRIPTIONS[head[:4]], ""
    for magic, description in ARCHIVES.items():
        if head.startswith(magic):
            return description
    offset, magic = TAR_MAGIC
    if head[offset : offset + len(magic)] == magic:
        return "a tar archive", "Unpack it with `tar xf FILE`."
    return "", ""


def open_regular(path: str | os.PathLike[str], buffering: int = 4096) -> IO[bytes]:
    """Open a regular file with a small read buffer, since headers are tiny and payloads are skipped.

    Raises `FileError`.
    """
    name = os.fsdecode(path)
    if name == "-":
        raise FileError(
            "cannot read standard input: random access is required",
            "Save it to a file first. If the name of the file really is -, write ./-",
        )
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            kind = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
            raise FileError(
                f"{name} {kind}",
                "" if stat.S_ISDIR(mode) else "Random access is required: pass a regular file, not a pipe.",
            )
        return open(name, "rb", buffering=buffering)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise file_error(name, error) from error


def file_error(name: str, error: OSError | ValueError) -> FileError:
    """Return a FileError for an exception of the system: `x.ggcp: No such file or directory`."""
    return FileError(f"{name}: {getattr(error, 'strerror', None) or error}")
