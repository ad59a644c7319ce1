"""Small files of the other formats, made without this package: GGUF by gguf.GGUFWriter, the others by `struct`."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFEndian

from tests.gguf_writer import written_by_gguf

TOKENS = ["<unk>", "▁a", "\n", "日本語", "x" * 40]
SCORES = [0.0, -1.5, 2.5, -3.0, 1e-20]
DOUBLES = [math.pi, 1e300, -1 / 3]
FAST = np.arange(24, dtype=np.float32).reshape(4, 6) / 8 - 1  # exact in F16 and BF16 too


def gguf_file(path: Path, *, big: bool = False) -> Path:
    """Write a GGUF file with keys of every type, and tensors of F32, F16, BF16 and a quantized type."""
    with written_by_gguf(path, endianess=GGUFEndian.BIG if big else GGUFEndian.LITTLE) as writer:
        writer.add_uint8("x.uint8", 200)
        writer.add_int8("x.int8", -100)
        writer.add_uint16("x.uint16", 60_000)
        writer.add_int16("x.int16", -30_000)
        writer.add_uint32("x.uint32", 4_000_000_000)
        writer.add_int32("x.int32", -2_000_000_000)
        writer.add_uint64("x.uint64", 1 << 63)
        writer.add_int64("x.int64", -(1 << 62))
        writer.add_float32("x.float32", 0.1)
        writer.add_float64("x.float64", math.pi)
        writer.add_bool("x.bool", True)
        writer.add_string("x.string", "tab\tand \x1b[31mred")
        writer.add_array("tokenizer.ggml.tokens", TOKENS)
        writer.add_array("tokenizer.ggml.scores", SCORES)
        writer.add_array("x.numbers", list(range(100)))
        writer.add_tensor("blk.0.attn_q.weight", FAST.copy())
        writer.add_tensor("half", FAST.astype(np.float16))
        bits = (FAST.view(np.uint32) >> 16).astype(np.uint16)
        writer.add_tensor("brain", bits, raw_dtype=GGMLQuantizationType.BF16)
        writer.add_tensor(
            "quantized", np.arange(68, dtype=np.uint8).reshape(2, 34), raw_dtype=GGMLQuantizationType.Q8_0
        )
    return path


def ggml_file(path: Path, magic: int = 0x67676A74, version: int | None = 3, *, n_layer: int = 1) -> Path:
    """Write a model file of 2023: ggjt (version 1 to 3), ggmf (version 1) or ggml (no version)."""
    out = bytearray(struct.pack("<I", magic) + (b"" if version is None else struct.pack("<I", version)))
    out += struct.pack("<7I", len(TOKENS), 6, 4, 2, n_layer, 2, 0)
    for token, score in zip(TOKENS, SCORES, strict=True):
        text = token.encode()
        out += struct.pack("<I", len(text)) + text + (b"" if version is None else struct.pack("<f", score))
    q4_0 = 18 if magic == 0x67676A74 and version == 3 else 20
    for name, type_, ne, data in (
        ("norm.weight", 0, [6], FAST[0].tobytes()),
        ("layers.0.attention.wq.weight", 1, [6, 4], FAST.astype(np.float16).tobytes()),
        ("layers.0.feed_forward.w1.weight", 2, [64, 3], bytes(range(3 * 2 * q4_0))),
    ):
        out += struct.pack(f"<3I{len(ne)}I", len(ne), len(name), type_, *ne) + name.encode()
        if magic == 0x67676A74:
            out += bytes(-len(out) % 32)
        out += data
    path.write_bytes(out)
    return path


GGML_KINDS = {
    "ggml": (0x67676D6C, None),
    "ggmf": (0x67676D66, 1),
    "ggjt1": (0x67676A74, 1),
    "ggjt2": (0x67676A74, 2),
    "ggjt3": (0x67676A74, 3),
}


def sample(kind: str, folder: Path) -> Path:
    """Write a file of that kind: `gguf`, `gguf-big`, or one of `GGML_KINDS`."""
    path = folder / f"sample.{kind}"
    if kind.startswith("gguf"):
        return gguf_file(path, big=kind == "gguf-big")
    return ggml_file(path, *GGML_KINDS[kind])


DECODED = ["gguf", "ggjt3"]
"""The kinds whose quantized tensor has values: the others have it in big-endian order, or in an older arrangement."""
KINDS = ["gguf", "gguf-big", *GGML_KINDS]
