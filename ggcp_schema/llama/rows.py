"""Rows of the flat vectors and the tensors of a model, read in bounded memory; of long ones only a sample."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

from ggcp_schema.files.tensor import Tensor

# Vectors of at most EXAMINED values are examined whole; of longer ones about that many, in blocks of BLOCK.
EXAMINED, BLOCK = 1 << 20, 1 << 10
READ_AT_ONCE = 1 << 16  # values, which stay in the processor's cache
SIZE = 4  # bytes of a value


def sampled_rows(
    vector: Tensor, n_embd: int, among: range | None = None, *, most: int | None = None
) -> Iterator[tuple[int, memoryview]]:
    """Yield (number of the first row, bytes) for blocks of rows of n_embd values, evenly spread over the vector.

    The bytes are only valid until the next are requested.
    All rows come if they have no more than `most` values, EXAMINED by default. `among` limits the rows.
    """
    among = range(vector.n_elements // n_embd) if among is None else among
    if len(among) * n_embd <= (EXAMINED if most is None else most):
        yield from _rows(vector, n_embd, among.start, among.stop)
        return
    rows = max(1, BLOCK // n_embd)
    blocks = max(2, EXAMINED // (rows * n_embd))
    for block in range(blocks):
        first = among.start + block * (len(among) - rows) // (blocks - 1)
        yield from _rows(vector, n_embd, first, first + rows)


def floats(data: bytes | memoryview, byte_order: str) -> array[float]:
    """Return F32 values in the byte order of a file as numbers."""
    values = array("f")
    values.frombytes(data)
    if byte_order != sys.byteorder:
        values.byteswap()
    return values


def _rows(vector: Tensor, n_embd: int, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (number of the first row, bytes of the rows) from `start` to `stop`, about 256 KiB at a time."""
    size, step = n_embd * SIZE, max(1, READ_AT_ONCE // n_embd)
    buffer = memoryview(bytearray(min(step, stop - start) * size))
    for first in range(start, stop, step):
        block = buffer[: (stop - first) * size]
        vector.source.read_into(block, vector.offset + first * size)
        yield first, block
