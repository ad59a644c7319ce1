"""Numbers that no ggcp file states: the arithmetic of 2023, kept exactly."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

ADAM, LBFGS = "adam", "lbfgs"


def n_ff_by_formula(n_embd: int, n_mult: int) -> int | None:
    """`n_ff = ceil((2 * (4 * n_embd) // 3) / n_mult) * n_mult`, in integers; None where n_mult is 0.

    The trainers up to 24 August 2023 kept to it. A later writer stored n_mult 256 whatever the width was, so
    the shape of w1 is what counts.
    """
    return -(-(2 * (4 * n_embd) // 3) // n_mult) * n_mult if n_mult else None


def record_bound(*ne: int) -> int:
    """`bound(ne) = 12 + 8 * n_dims + 48 + 31 + 4 * prod(ne)`: the format author's upper bound on a tensor
    record, in bytes."""
    return 12 + 8 * len(ne) + 48 + 31 + 4 * prod(ne)


def adam_bound(nx: int, past: int) -> int:
    """`12 + bound(m) + bound(v)`, and `+ bound(pf)` if past > 0: an upper bound on the v1 Adam state, in bytes."""
    return 12 + 2 * record_bound(nx) + (record_bound(past) if past > 0 else 0)


def lbfgs_bound(nx: int, past: int, lbfgs_m: int) -> int:
    """`24 + bound(x, xp, g, gp, d, pf, lmal, lmys, lms, lmy)`, and `+ bound(pf)` again if past > 0: the format
    author's upper bound on the L-BFGS state, in bytes."""
    state = 5 * record_bound(nx) + 2 * record_bound(lbfgs_m) + 2 * record_bound(nx, lbfgs_m)
    return 24 + state + record_bound(past) * (2 if past > 0 else 1)


class Inference(NamedTuple):
    """How the optimizer's type was found in a v1 file, which does not store it.

    Sizes are in bytes. `by_records` is what the third tensor of the state says, None where it says nothing:
    Adam has pf there (`[past]` or NULL), L-BFGS g (`[nx]`). The records are the stronger evidence: the size
    of a truncated L-BFGS file can be nearer to Adam's.
    """

    remaining: int
    adam_bound: int
    lbfgs_bound: int
    by_size: str
    by_records: str | None

    @property
    def type(self) -> str:
        return self.by_records or self.by_size

    @property
    def confirmed(self) -> bool:
        return self.by_records == self.by_size


class InferredType(str):
    """An optimizer's type that the file does not store, with how it was found."""

    __slots__ = ("inference",)
    inference: Inference

    @classmethod
    def of(cls, inference: Inference) -> InferredType:
        self = cls(inference.type)
        self.inference = inference
        return self


Shape = Sequence[int] | None


def infer_type(remaining: int, nx: int, past: int, lbfgs_m: int, third: Shape, fourth: Shape = None) -> Inference:
    """The optimizer's type in a v1 file, which does not store it.

    By size it is Adam if `|remaining - adam_bound| < |remaining - lbfgs_bound|`, else L-BFGS; `remaining` are the
    bytes from the end of the fixed fields to the end of the file. By the records it is Adam if the third tensor
    is `[past]` or NULL, L-BFGS if it is `[nx]`; where both are the same, L-BFGS if a fourth tensor `[nx]` follows.
    Where the records say something, they count. `third` and `fourth` are the shapes of these tensors, `[]` for
    NULL, None where there is none to be read.
    """
    adam, lbfgs = adam_bound(nx, past), lbfgs_bound(nx, past, lbfgs_m)
    by_size = ADAM if abs(remaining - adam) < abs(remaining - lbfgs) else LBFGS
    as_adam = third is not None and list(third) == ([past] if past else [])
    as_lbfgs = third is not None and list(third) == [nx]
    if as_adam and as_lbfgs:
        by_records = LBFGS if fourth is not None and list(fourth) == [nx] else None
    else:
        by_records = ADAM if as_adam else LBFGS if as_lbfgs else None
    return Inference(remaining, adam, lbfgs, by_size, by_records)
