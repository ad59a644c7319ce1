"""The order of the rows of wq and wk.

RoPE turns pairs of a head's dimensions. The trainers paired neighbours, 2i and 2i + 1, as llama.cpp does for this
architecture; transformers pairs i with i + D/2 of a head of D dimensions (`rotate_half`). So the rows of a head, in the
trainers' files (D/2, 2), are (2, D/2) in transformers. The angles of the pairs are the same.
"""

from __future__ import annotations

from ggcp_schema.files.source import Rows


def halves(offset: int, row_nbytes: int, n_rows: int, n_head: int) -> tuple[Rows, ...]:
    """Return where the rows of wq or wk lie in a trainer's file, in the order of transformers.

    `offset` is that of the matrix, or of its part of a flat vector of the optimizer, and `row_nbytes` the size of a
    row of n_in values. For wk, `n_head` is the number of heads of keys.
    """
    return _transposed(offset, row_nbytes, n_head, n_rows // n_head // 2, 2)


def pairs(offset: int, row_nbytes: int, n_rows: int, n_head: int) -> tuple[Rows, ...]:
    """Return where the rows lie in a file of transformers, in the order of the trainers: the inverse of `halves`."""
    return _transposed(offset, row_nbytes, n_head, 2, n_rows // n_head // 2)


def _transposed(offset: int, row_nbytes: int, n_head: int, outer: int, inner: int) -> tuple[Rows, ...]:
    """Return the rows of heads of (outer, inner) rows in the order (inner, outer)."""
    return tuple(
        Rows(offset + (head * outer * inner + row) * row_nbytes, row_nbytes, outer, inner * row_nbytes)
        for head in range(n_head)
        for row in range(inner)
    )
