"""Checkpoints of every shape for hypothesis, dirty ones included."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.builder import build_checkpoint

LAYOUTS = ("v0", "v1", "v1-raw-params")
OPTIMIZERS = ("adam", "lbfgs")
KINDS = [(layout, optimizer) for layout in LAYOUTS for optimizer in OPTIMIZERS]
SIGNALLING_NAN = struct.pack("<I", 0x7FA00001)  # a Python float cannot carry it: its quiet bit would be set


@dataclass(frozen=True)
class Built:
    """A checkpoint's bytes, and what they were built from."""

    data: bytes
    layout: str
    optimizer: str
    options: dict[str, Any]


def garbage(size: int) -> st.SearchStrategy[bytes]:
    """Any bytes of that size, signalling NaNs among the likely ones."""
    return st.one_of(st.binary(min_size=size, max_size=size), st.just((SIGNALLING_NAN * size)[:size]))


@st.composite
def checkpoints(draw: st.DrawFn) -> Built:
    """Small checkpoints of all layouts: odd shapes, any past, odd names, dirty padding, garbage where it may be."""
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
