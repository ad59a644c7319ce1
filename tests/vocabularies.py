"""The vocabulary of the fixtures in every kind of file that held one, byte by byte. No code of the package is used."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from gguf import GGUFReader

from tests.gguf_writer import add_keys, written_by_gguf
from tests.helpers import FIXTURES

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
GGML_KINDS = {
    "ggjt1": ("ggjt", 1),
    "ggjt2": ("ggjt", 2),
    "ggjt3": ("ggjt", 3),
    "ggmf": ("ggmf", 1),
    "ggml": ("ggml", None),
}
KINDS = ["vocab.gguf", "vocab.ggjt", *GGML_KINDS, "sentencepiece"]
Tokens = list[tuple[str, float, int]]
Keys = Sequence[tuple[str, Any, str]]


@cache
def tokenizer_keys(name: str = "vocab.gguf") -> dict[str, tuple[str, Any]]:
    """Return the tokenizer keys of a GGUF fixture with their types and values, as gguf's reader finds them."""
    return {
        name: ("/".join(kind.name for kind in field.types), field.contents())
        for name, field in GGUFReader(FIXTURES / name).fields.items()
        if name.startswith("tokenizer.")
    }


def tokens() -> Tokens:
    """Return text, score and type of each token."""
    names = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
    return list(zip(*(tokenizer_keys()[name][1] for name in names), strict=True))


def make(kind: str) -> bytes:
    """Return the vocabulary as a file of that kind."""
    if kind in GGML_KINDS:
        return ggml_file(*GGML_KINDS[kind])
    return sentencepiece_model(tokens()) if kind == "sentencepiece" else (FIXTURES / kind).read_bytes()


def write_gguf(path: Path, keys: Keys) -> None:
    """Write a GGUF file without tensors; the keys are given as name, value and type (`UINT32`, `ARRAY/STRING`)."""
    with written_by_gguf(path) as writer:
        add_keys(writer, ((key, types, value) for key, value, types in keys))


def ggml_file(
    magic: str,
    version: int | None,
    texts: list[bytes] | None = None,
    n_vocab: int | None = None,
    scores: Sequence[float] | None = None,
) -> bytes:
    """Return a file of llama.cpp before GGUF: `texts` with scores that fall by one, or the tokens of the fixtures."""
    entries = [(raw_text(text, kind), score) for text, score, kind in tokens()]
    if texts is not None:
        falling = [-float(index) for index in range(len(texts))]
        entries = list(zip(texts, falling if scores is None else scores, strict=True))
    out = struct.pack("<I", int.from_bytes(magic.encode(), "big"))
    out += struct.pack("<I", version) if version is not None else b""
    out += struct.pack("<7I", len(entries) if n_vocab is None else n_vocab, 32, 32, 4, 1, 8, 0)
    for text, score in entries:
        out += struct.pack("<I", len(text)) + text + (struct.pack("<f", score) if version is not None else b"")
    return out


def raw_text(text: str, kind: int) -> bytes:
    """Return the text of a token as the files before GGUF have it."""
    return bytes([int(text[3:5], 16)]) if kind == BYTE else text.replace("▁", " ").encode()


def sentencepiece_model(
    pieces: Sequence[tuple[str | bytes, float, int]],
    *,
    model_type: int = 2,
    charsmap: bytes = b"",
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
) -> bytes:
    """Return a ModelProto with these pieces and byte fallback. The rest is as in llama's tokenizer.model."""
    out = b"".join(
        _field(1, _field(1, as_bytes(text)) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in pieces
    )
    out += _field(2, bytes([0x18, model_type]) + b"\x98\x02\x01")
    flags = bytes([0x18, add_dummy_prefix, 0x20, remove_extra_whitespaces])
    return out + _field(3, _field(1, b"identity") + _field(2, charsmap) + flags)


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _field(number: int, data: bytes) -> bytes:
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + length + data
