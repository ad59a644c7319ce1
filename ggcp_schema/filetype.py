"""What a file is, by its first bytes. The magics are those of ggml's file formats of 2023, as on disk."""

from __future__ import annotations

import os
import stat

from ggcp_schema.errors import FileError

GGCP, GGUF = "ggcp", "gguf"
MAGICS = {
    b"pcgg": (GGCP, "a ggcp checkpoint"),
    b"GGUF": (GGUF, "a GGUF file"),
    b"ggcp": ("ggcp-big-endian", "a big-endian ggcp checkpoint, written on a machine of the other byte order"),
    b"tjgg": ("ggjt", "a ggjt model or vocabulary file (llama.cpp of April to August 2023)"),
    b"fmgg": ("ggmf", "a ggmf model or vocabulary file (llama.cpp of March 2023)"),
    b"lmgg": ("ggml", "an unversioned ggml model or vocabulary file (llama.cpp before 25 March 2023)"),
    b"algg": ("ggla", "a ggla LoRA adapter (llama.cpp's finetune or convert-lora, 2023)"),
    b"lcgg": ("ggcl", "a ggcl LoRA training checkpoint (llama.cpp's finetune, 2023)"),
    b"PK\x03\x04": ("zip", "a zip archive, perhaps a PyTorch checkpoint"),
}


def describe_magic(head: bytes) -> str:
    """In words, what a file beginning with these bytes is; empty if that is not known."""
    return MAGICS.get(head[:4], ("", ""))[1]


def sniff(path: str | os.PathLike[str]) -> str:
    """`ggcp`, `gguf`, `ggjt`, `ggmf`, `ggml`, …, or the empty string for anything else.

    Raises `FileError` if the path is not a readable regular file.
    """
    try:
        with open_regular(path) as file:
            return MAGICS.get(file.read(4), ("", ""))[0]
    except OSError as error:
        raise FileError(f"{os.fspath(path)}: {error.strerror}") from error


def open_regular(path: str | os.PathLike[str], buffering: int = 4096):  # type: ignore[no-untyped-def]
    """Opens a regular file for reading, in small pieces. Raises `FileError`."""
    name = os.fspath(path)
    try:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise FileError(f"{name}: is {kind}", "The file is read at random places: give a regular file, not a pipe.")
        return open(name, "rb", buffering=buffering)
    except OSError as error:
        raise FileError(f"{name}: {error.strerror}") from error
