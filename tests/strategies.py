"""Checkpoints and GGUF files of every shape for hypothesis, dirty ones included."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from math import prod
from typing import Any

from hypothesis import strategies as st

from tests.builder import ARRAY, SCALAR_CODES, STRING, build_checkpoint, build_gguf

LAYOUTS = ("v0", "v1", "v1-raw-params")
OPTIMIZERS = ("adam", "lbfgs")
KINDS = [(layout, optimizer) for layout in LAYOUTS for optimizer in OPTIMIZERS]
SIGNALLING_NAN = struct.pack("<I", 0x7FA00001)  # a Python float cannot carry it: its quiet bit would be set


@dataclass(frozen=True)
class Built:
    """The bytes of a checkpoint, and what they were built from."""

    data: bytes
    layout: str
    optimizer: str
    options: dict[str, Any]


def garbage(size: int) -> st.SearchStrategy[bytes]:
    """Return a strategy for any bytes of that size, often signalling NaNs."""
    return st.one_of(st.binary(min_size=size, max_size=size), st.just((SIGNALLING_NAN * size)[:size]))


@st.composite
def checkpoints(draw: st.DrawFn) -> Built:
    """Draw small checkpoints of all layouts, with odd shapes and names, dirty padding and garbage in unused fields."""
    layout, optimizer = draw(st.sampled_from(KINDS))
    n_mult = draw(st.sampled_from([0, 1, 3, 256]))
    dirt = random.Random(draw(st.integers(0, 9)))
    clean = draw(st.booleans())
    past, lbfgs_m = draw(st.integers(0, 70)), draw(st.integers(0, 4))
    unused = {"print": draw(garbage(2)), "padding": draw(garbage(2)), "delta": draw(garbage(4))}
    if optimizer == "adam":
        unused["lbfgs"] = draw(garbage(36))
    else:
        unused["adam"] = draw(garbage(36))
        unused["lbfgs"] = struct.pack("<i", lbfgs_m) + draw(garbage(32))
    options = {
        "n_vocab": draw(st.integers(0, 9)),
        "n_embd": draw(st.integers(0, 9)),
        "n_mult": n_mult,
        "n_head": draw(st.integers(0, 1 << 32) | st.integers(0, 4)) & 0xFFFFFFFF,
        "n_layer": draw(st.integers(0, 3)),
        "n_rot": draw(st.integers(0, 9)),
        "n_ff": draw(st.integers(0, 9)),
        "past": past,
        "lbfgs_m": lbfgs_m,
        "nx": draw(st.none() | st.integers(0, 50)),
        "train": draw(st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 3)),
    }
    names = draw(st.none() | st.binary(max_size=100))
    data = build_checkpoint(
        layout=layout,
        optimizer=optimizer,
        name=(lambda default: default.encode()) if names is None else (lambda default: names),
        optimizer_name=lambda: b"" if clean else (names or b"x"),
        padding=bytes if clean else dirt.randbytes,
        params=unused,
        state={
            "iter": draw(st.integers(-(1 << 31), (1 << 31) - 1)),
            "just_initialized": draw(st.integers(0, 1)),
            "n_no_improvement": draw(st.integers(-(1 << 31), (1 << 31) - 1)),
        },
        **options,
    )
    tail = 12 if optimizer == "adam" else 24  # begins with the two float32 of the state
    return Built(data[:-tail] + draw(garbage(8)) + data[len(data) - tail + 8 :], layout, optimizer, options)


# GGUF ------------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
INTEGERS = {
    0: (0, 8),
    1: (1, 8),
    2: (0, 16),
    3: (1, 16),
    4: (0, 32),
    5: (1, 32),
    10: (0, 64),
    11: (1, 64),
}  # signed, bits
BYTES_PER_F32 = 4


def gguf_scalars(kind: int) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a GGUF type that is not an array."""
    if kind in INTEGERS:
        signed, bits = INTEGERS[kind]
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
    if kind == STRING:
        return TEXTS
    return st.booleans() if SCALAR_CODES[kind] == "?" else st.floats(width=32 if SCALAR_CODES[kind] == "f" else 64)


@st.composite
def gguf_values(draw: st.DrawFn, nesting: int = 3) -> tuple[int, Any]:
    """Draw a GGUF value with its type; arrays have up to `nesting` levels."""
    kind = draw(st.sampled_from([*SCALAR_CODES, STRING, *([ARRAY] if nesting else [])]))
    if kind != ARRAY:
        return kind, draw(gguf_scalars(kind))
    count = draw(st.integers(0, 4))
    if nesting > 1 and draw(st.booleans()):
        values = [draw(gguf_values(nesting - 1).filter(lambda value: value[0] == ARRAY)) for _ in range(min(count, 2))]
        return ARRAY, (ARRAY, [value for _, value in values])
    inner = draw(st.sampled_from([*SCALAR_CODES, STRING]))
    return ARRAY, (inner, draw(st.lists(gguf_scalars(inner), min_size=count, max_size=count)))


@dataclass(frozen=True)
class BuiltGguf:
    """The bytes of a GGUF file, and what they were built from."""

    data: bytes
    keys: dict[str, tuple[int, Any]]
    tensors: dict[str, tuple[tuple[int, ...], bytes]]
    order: str


@st.composite
def ggufs(draw: st.DrawFn, *, versions: tuple[int, ...] = (2, 3)) -> BuiltGguf:
    """Draw small GGUF files: every value type, nested arrays, any alignment, both byte orders, F32 tensors."""
    keys = draw(st.dictionaries(KEYS.filter(lambda key: key != "general.alignment"), gguf_values(), max_size=5))
    alignment = draw(st.sampled_from([32, 8, 64, 24, 1]))
    if alignment != 32 or draw(st.booleans()):
        keys["general.alignment"] = (4, alignment)
    shapes = draw(st.dictionaries(KEYS, st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=4))
    dirt = random.Random(draw(st.integers(0, 9)))
    tensors = {name: (tuple(shape), dirt.randbytes(BYTES_PER_F32 * prod(shape))) for name, shape in shapes.items()}
    order = draw(st.sampled_from("<>"))
    data = build_gguf(
        [(key, *value) for key, value in keys.items()],
        [(name, shape, 0, content) for name, (shape, content) in tensors.items()],
        order=order,
        version=draw(st.sampled_from(versions)),
        alignment=alignment,
    )
    return BuiltGguf(data, keys, tensors, order)
