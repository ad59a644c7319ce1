"""The rotation of the trainers of 2023 (RoPE), as GGUF's keys and the rows of transformers' matrices state it.

The trainers rotated all D/2 pairs of a head of D = n_embd / n_head dimensions, pair i at position p by the angle
`p * base ** (-2 * i / R)` with R = n_rot, also if R is less than D. ggml of 2024 stops at `rope.dimension_count`, and
llama.cpp requires that to be D. A `rope.dimension_count` of D with a `rope.freq_base` of `base ** (D / R)` gives the
angles of the trainers.

The trainers paired neighbours, 2i and 2i + 1, as llama.cpp does for this architecture; transformers pairs i with
i + D/2 (`rotate_half`). So the rows of a head of wq or wk, (D/2, 2) in the trainers' files, are (2, D/2) there.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Rows
from ggcp_schema.llama.names import layer_and_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FREQ_BASE = 10000.0  # of all trainers until 27 August 2023


class Heads(NamedTuple):
    """The heads of a model's attention: `kv` is fewer than `q` if queries are grouped."""

    q: int
    kv: int

    def of(self, path: str) -> int | None:
        """Return the heads of which a tensor has the rows that RoPE pairs; None if it has no such rows."""
        return {"wq": self.q, "wk": self.kv}.get(layer_and_name(path)[1])


def rope_entries(n_embd: int, n_head: int, n_rot: int, base: float = FREQ_BASE) -> tuple[int, float]:
    """Return `rope.dimension_count` and `rope.freq_base` for the rotation of a trainer of 2023.

    The base is the float32 that the file will hold. Raises `UsageError` if the numbers cannot be those of a trainer,
    or the base is too large for a float32.
    """
    if n_head < 1 or n_embd < 1 or n_embd % n_head:
        raise UsageError(f"n_embd {n_embd} is not divisible by n_head {n_head}")
    head_size = n_embd // n_head
    if head_size % 2 or n_rot % 2:
        raise UsageError(
            f"RoPE rotates pairs of dimensions, so n_rot ({n_rot}) and the head size ({head_size}) must be even"
        )
    if not 0 < n_rot <= head_size:
        raise UsageError(f"n_rot is {n_rot}; it must be between 2 and the head size, which is {head_size}")
    if not 1 < base < math.inf:
        raise UsageError(f"RoPE's frequency base must be a number above 1, got {base}")
    try:
        return head_size, struct.unpack("<f", struct.pack("<f", base ** (head_size / n_rot)))[0]
    except OverflowError:
        raise UsageError(
            f"n_rot {n_rot} of a head of {head_size} dimensions needs a RoPE frequency base of "
            f"{base:g} ** {head_size / n_rot:g}, which is too large for a float32"
        ) from None


def n_rot_of(dimension_count: int, freq_base: float | None = None) -> int | None:
    """Return the n_rot that a GGUF file's rotation was made from; None if it is no rotation of a trainer of 2023.

    Understands what `rope_entries` gives, and what the trainers themselves wrote (`dimension_count` n_rot, `freq_base`
    the base or absent).
    """
    freq_base = FREQ_BASE if freq_base is None else freq_base
    if dimension_count < 2 or dimension_count % 2 or not 1 < freq_base < math.inf:
        return None
    n_rot = round(dimension_count * math.log(FREQ_BASE) / math.log(freq_base))
    if n_rot < 2 or n_rot % 2 or n_rot > dimension_count:
        return None
    exact = FREQ_BASE ** (dimension_count / n_rot)
    return n_rot if math.isclose(freq_base, exact, rel_tol=1e-6) else None


def halves(offset: int, row_nbytes: int, n_rows: int, n_head: int) -> tuple[Rows, ...]:
    """Return where the rows of wq or wk lie in a trainer's file, in the order of transformers.

    `offset` is that of the matrix, or of its part of a flat vector of the optimizer. For wk, `n_head` is the number of
    heads of keys. Raises `UsageError` if the heads have no halves.
    """
    if n_head < 1 or n_rows % (2 * n_head):
        raise UsageError(f"{n_rows} rows of wq or wk are not {n_head} heads of an even size")
    half = n_rows // n_head // 2
    starts = (offset + (2 * half * head + odd) * row_nbytes for head in range(n_head) for odd in (0, 1))
    return tuple(Rows(start, row_nbytes, half, 2 * row_nbytes) for start in starts)


def order_of_halves(n_rows: int, n_head: int) -> npt.NDArray[np.intp]:
    """Return the indices of the rows in the order of transformers: see `halves`."""
    import numpy as np

    return np.concatenate([np.arange(n_half) * step + at for at, _, n_half, step in halves(0, 1, n_rows, n_head)])
