"""Numbers that no ggcp file states: the arithmetic of 2023, kept exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

ADAM, LBFGS = "adam", "lbfgs"


def n_ff_by_formula(n_embd: int, n_mult: int) -> int | None:
    """The feed-forward width of the trainers up to 24 August 2023; None where n_mult is 0."""
    return -(-(2 * (4 * n_embd) // 3) // n_mult) * n_mult if n_mult else None


def record_bound(*ne: int) -> int:
    """The format's upper bound on a tensor record of that shape, in bytes."""
    return 12 + 8 * len(ne) + 48 + 31 + 4 * prod(ne)


def adam_bound(nx: int, past: int) -> int:
    """Upper bound on the v1 Adam state, in bytes."""
    return 12 + 2 * record_bound(nx) + (record_bound(past) if past > 0 else 0)


def lbfgs_bound(nx: int, past: int, lbfgs_m: int) -> int:
    """Upper bound on the L-BFGS state, in bytes. The format's author counts pf once, and again if past > 0."""
    state = 5 * record_bound(nx) + 2 * record_bound(lbfgs_m) + 2 * record_bound(nx, lbfgs_m)
    return 24 + state + record_bound(past) * (2 if past > 0 else 1)


@dataclass(frozen=True)
class Inference:
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


def infer_type(remaining: int, nx: int, past: int, lbfgs_m: int, third: Sequence[int] | None) -> Inference:
    """Adam or L-BFGS, from the bytes that remain after the fixed fields and the shape of the third tensor
    (`[]` for NULL; None where it could not be read)."""
    adam, lbfgs = adam_bound(nx, past), lbfgs_bound(nx, past, lbfgs_m)
    by_size = ADAM if abs(remaining - adam) < abs(remaining - lbfgs) else LBFGS
    as_adam = third is not None and list(third) == ([past] if past else [])
    as_lbfgs = third is not None and list(third) == [nx]
    by_records = None if as_adam == as_lbfgs else ADAM if as_adam else LBFGS
    return Inference(remaining, adam, lbfgs, by_size, by_records)
