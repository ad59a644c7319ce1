"""The fixtures' vocabulary in every kind of file that held one, byte by byte: it shares no code with the package."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

from gguf import GGUFReader

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


@cache
def tokenizer_keys() -> dict[str, tuple[str, Any]]:
    """The tokenizer's keys of `vocab.gguf` with their types and values, as gguf reads them."""
    return {
        name: ("/".join(kind.name for kind in field.types), field.contents())
        for name, field in GGUFReader(FIXTURES / "vocab.gguf").fields.items()
        if name.startswith("tokenizer.")
    }


def tokens() -> Tokens:
    """Text, score and type of each token."""
    names = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
    return list(zip(*(tokenizer_keys()[name][1] for name in names), strict=True))


def make(kind: str) -> bytes:
    """The file of that kind."""
    if kind in GGML_KINDS:
        return ggml_file(*GGML_KINDS[kind])
    return sentencepiece_model(tokens()) if kind == "sentencepiece" else (FIXTURES / kind).read_bytes()


def ggml_file(magic: str, version: int | None, texts: list[bytes] | None = None, n_vocab: int | None = None) -> bytes:
    """A file of llama.cpp before GGUF: `texts` with scores that fall by one, or the fixtures' tokens."""
    entries = [(raw_text(text, kind), score) for text, score, kind in tokens()]
    if texts is not None:
        entries = [(text, -float(index)) for index, text in enumerate(texts)]
    out = struct.pack("<I", int.from_bytes(magic.encode(), "big"))
    out += struct.pack("<I", version) if version is not None else b""
    out += struct.pack("<7I", len(entries) if n_vocab is None else n_vocab, 32, 32, 4, 1, 8, 0)
    for text, score in entries:
        out += struct.pack("<I", len(text)) + text + (struct.pack("<f", score) if version is not None else b"")
    return out


def raw_text(text: str, kind: int) -> bytes:
    return bytes([int(text[3:5], 16)]) if kind == BYTE else text.replace("▁", " ").encode()


def sentencepiece_model(pieces: Tokens) -> bytes:
    """A sentencepiece ModelProto: the pieces; a BPE trainer's spec with byte fallback and padding, if there is one."""
    out = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in pieces
    )
    model_type, byte_fallback = b"\x18\x02", b"\x98\x02\x01"
    return out + _field(2, model_type + byte_fallback)


def _field(number: int, data: bytes) -> bytes:
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + length + data
