"""Make files of any shape with `struct` alone. No code is shared with the schema."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

MAGIC = 0x67676370
DATA_SEED = 7


def build_checkpoint(
    *,
    layout: str = "v1",
    optimizer: str = "adam",
    n_vocab: int = 5,
    n_embd: int = 4,
    n_mult: int = 4,
    n_head: int = 2,
    n_layer: int = 1,
    n_rot: int = 2,
    n_ff: int | None = None,
    past: int = 0,
    lbfgs_m: int | None = None,
    nx: int | None = None,
    train: tuple[int, int, int] = (3, 12, 192),
    name: Callable[[str], bytes] = lambda default: default.encode(),
    optimizer_name: Callable[[], bytes] = lambda: b"",
    padding: Callable[[int], bytes] = bytes,
    params: dict[str, bytes] | None = None,
    data: Callable[[int], np.ndarray] | None = None,
    state: dict[str, int | float] | None = None,
) -> bytes:
    """Return the bytes of a checkpoint. `layout` is v0, v1 or v1-raw-params; `optimizer` adam or lbfgs.

    `name` gives a model tensor's name from the usual one, `padding` the padding of that length, `data` that many
    float32 values (random by default), `params` overrides fields of the raw struct by their 4 (or 2) bytes, `state`
    the scalars at the end of the state. `nx` defaults to the number of parameters.
    """
    rng = np.random.default_rng(DATA_SEED)
    draw = data or (lambda count: rng.standard_normal(count, dtype=np.float32))
    n_ff = -(-(2 * (4 * n_embd) // 3) // n_mult) * n_mult if n_ff is None else n_ff
    lbfgs_m = (3 if optimizer == "lbfgs" else 0) if lbfgs_m is None else lbfgs_m
    out = bytearray(struct.pack("<11I", MAGIC, 0, *train, n_vocab, n_embd, n_mult, n_head, n_layer, n_rot))

    def tensor(shape: tuple[int, ...], label: bytes) -> int:
        out.extend(struct.pack(f"<3I{len(shape)}I", len(shape), len(label), 0, *shape))
        out.extend(label)
        out.extend(padding(-len(out) % 32))
        count = prod(shape) if shape else 0
        if count:
            out.extend(np.asarray(draw(count), "<f4").tobytes())
        return count

    model = [
        ("tok_embeddings.weight", (n_embd, n_vocab)),
        ("norm.weight", (n_embd,)),
        ("output.weight", (n_embd, n_vocab)),
    ]
    for i in range(n_layer):
        model += [
            (f"layers.{i}.attention_norm.weight", (n_embd,)),
            (f"layers.{i}.attention.wq.weight", (n_embd, n_embd)),
            (f"layers.{i}.attention.wk.weight", (n_embd, n_embd)),
            (f"layers.{i}.attention.wv.weight", (n_embd, n_embd)),
            (f"layers.{i}.attention.wo.weight", (n_embd, n_embd)),
            (f"layers.{i}.ffn_norm.weight", (n_embd,)),
            (f"layers.{i}.feed_forward.w1.weight", (n_embd, n_ff)),
            (f"layers.{i}.feed_forward.w2.weight", (n_ff, n_embd)),
            (f"layers.{i}.feed_forward.w3.weight", (n_embd, n_ff)),
        ]
    n_params = sum([tensor(shape, name(label)) for label, shape in model])
    nx = n_params if nx is None else nx

    out.extend(struct.pack("<I", 0 if layout == "v0" else 1))
    if layout == "v1":
        out.extend(struct.pack("<2I", past, lbfgs_m))
    else:
        out.extend(raw_params(optimizer, past, lbfgs_m, params or {}))
    values: dict[str, int | float] = {"iter": 3, "just_initialized": 0, "fx_best": 5.5, "fx_prev": 5.75, "step": 0.5}
    values |= {"j": 0, "k": 2, "end": 1, "n_no_improvement": 1} | (state or {})
    out.extend(struct.pack("<qiI", nx, values["iter"], values["just_initialized"]))

    pf = (past,) if past else ()
    if optimizer == "adam":
        shapes = [(nx,)] * (7 if layout == "v0" else 2) + [pf]
    else:
        shapes = [(nx,)] * 5 + [pf, (lbfgs_m,), (lbfgs_m,), (nx, lbfgs_m), (nx, lbfgs_m)]
    for shape in shapes:
        tensor(shape, optimizer_name())
    if optimizer == "adam":
        out.extend(struct.pack("<2fi", values["fx_best"], values["fx_prev"], values["n_no_improvement"]))
    else:
        scalars = [values[field] for field in ("fx_best", "step", "j", "k", "end", "n_no_improvement")]
        out.extend(struct.pack("<2f4i", *scalars))
    return bytes(out)


def raw_params(optimizer: str, past: int, lbfgs_m: int, overrides: dict[str, bytes]) -> bytes:
    """Return the 96 bytes of the C struct `ggml_opt_params`."""
    fields = {
        "type": struct.pack("<i", optimizer == "lbfgs"),
        "n_threads": struct.pack("<i", 6),
        "past": struct.pack("<i", past),
        "delta": struct.pack("<f", 1e-5),
        "max_no_improvement": struct.pack("<i", 100),
        "print": b"\x00\x01",
        "padding": b"\x00\x00",
        "adam": struct.pack("<i8f", 100, 1.0, 0.001, 0.001, 0.9, 0.999, 1e-8, 1e-5, 1e-3),
        "lbfgs": struct.pack("<3i5fi", lbfgs_m, 100, 20, 1e-5, 1e-4, 0.9, 1e-20, 1e20, 1),
    }
    raw = b"".join((fields | overrides).values())
    assert len(raw) == 96
    return raw


# Files of 2023 before GGUF ---------------------------------------------------------------------------------

GgmlTensor = tuple[str, tuple[int, ...], int, bytes]  # name, shape, type, data


def build_ggml(
    magic: bytes,
    version: int | None,
    *,
    tokens: Sequence[tuple[bytes, float]] = ((b"<unk>", 0.0), (b"a", -1.5)),
    tensors: Sequence[GgmlTensor] = (),
    n_embd: int = 4,
    ftype: int = 0,
) -> bytes:
    """Return the bytes of a ggml (b"lmgg"), ggmf (b"fmgg") or ggjt (b"tjgg") file, as llama.cpp wrote them in 2023."""
    out = bytearray(magic)
    if version is not None:
        out += struct.pack("<I", version)
    out += struct.pack("<7I", len(tokens), n_embd, 32, 2, 1, 2, ftype)
    for text, score in tokens:
        out += struct.pack("<I", len(text)) + text
        if version is not None:  # ggml files have no scores
            out += struct.pack("<f", score)
    for name, shape, kind, data in tensors:
        out += struct.pack(f"<{3 + len(shape)}I", len(shape), len(name.encode()), kind, *shape) + name.encode()
        if magic == b"tjgg":
            out += bytes(-len(out) % 32)
        out += data
    return bytes(out)


# GGUF ------------------------------------------------------------------------------------------------------

SCALAR_CODES = dict(zip(range(8), "BbHhIif?", strict=True)) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def build_gguf(
    keys: Sequence[tuple[str, int, Any]] = (),
    tensors: Sequence[GgmlTensor] = (),
    *,
    order: str = "<",
    version: int = 3,
    alignment: int = 32,
    offsets: Mapping[int, int] | None = None,
) -> bytes:
    """Return the bytes of a GGUF file. `keys` are (key, value type, value); the value of an array is (type, items).

    `order` is "<" or ">". `alignment` must be what the keys say. `offsets` replaces the stored offsets of tensors.
    """

    def string(text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        return struct.pack(order + "Q", len(data)) + data

    def value(kind: int, item: Any) -> bytes:
        if kind == STRING:
            return string(item)
        if kind == ARRAY:
            inner, items = item
            head = struct.pack(order + "IQ", inner, len(items))
            return head + b"".join(value(inner, element) for element in items)
        return struct.pack(order + SCALAR_CODES[kind], item)

    out = bytearray(b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(keys)))
    for key, kind, item in keys:
        out += string(key) + struct.pack(order + "I", kind) + value(kind, item)
    at = 0
    for index, (name, shape, kind, data) in enumerate(tensors):
        offset = (offsets or {}).get(index, at)
        out += string(name) + struct.pack(f"{order}I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        at += len(data) + -len(data) % alignment
    if tensors:
        out += bytes(-len(out) % alignment)
    for _, _, _, data in tensors:
        out += data + bytes(-len(data) % alignment)
    return bytes(out)
