"""The scale of Adam's moments: whether the trainer summed gradients over the tokens of a batch, and over how many.

Until July 2023 (the author's branch) and 28 August 2023 (master) the gradient was the sum over the s = n_ctx × n_batch
tokens of a batch. Since then it is their mean, also in the trainers that resume. A sum makes m too large by s and v
by s². The bytes show it, because a mean of output's gradient has a greatest length: each token adds the outer product
of a vector no longer than √2, the difference of two distributions, and one no longer than √n_embd × max|norm|. If √v
says that the gradients were longer, they were sums.

The vectors of L-BFGS are left as they are: nothing is known of what a sum does to a run that is resumed from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from ggcp_schema.checkpoint.layout import piece_of
from ggcp_schema.checkpoint.order import floats, sampled_rows
from ggcp_schema.errors import UsageError

if TYPE_CHECKING:
    from ggcp_schema.files.tensor import Tensor

BETA2 = 0.999  # of Adam, in all trainers
SUM_ABOVE = 1.0  # times the greatest length of a mean; 3.9 to 12 in files known to hold sums
MEAN_BELOW = 0.2  # 0.004 to 0.17 in files known to hold means. Long training may bring sums below 1.


class ScaleDecision(NamedTuple):
    """Whether m and v are of summed gradients, and by what they are to be divided.

    Attributes:
        summed: True or False by the bytes; None if they do not tell.
        s: the tokens of a batch, n_ctx × n_batch, by which m is too large; None unless `summed` and known.
        n_ctx: tokens of a sample, train_tokens / train_samples; None if that is no whole number.
        n_batch: samples of a batch, as stated or else the least that the counts allow; None unless `summed`.
        n_batch_max: the most that the counts allow; None unless `summed` and the counts have such a bound.
        assumed: True if n_batch is an estimate, neither stated nor the only number that fits the counts.
        ratio: the length of output's gradient in units of the greatest length of a mean; None if it cannot be computed.
        reason: the evidence, in words for a person.
    """

    summed: bool | None
    reason: str
    s: int | None = None
    n_ctx: int | None = None
    n_batch: int | None = None
    n_batch_max: int | None = None
    assumed: bool = False
    ratio: float | None = None

    def divisor(self, field: str) -> int:
        """Return the number by which a field of the state is to be divided: s for m, s² for v, 1 for all others."""
        power: int = {"m": 1, "v": 2}.get(field, 0)
        return int((self.s or 1) ** power)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return self._asdict()


def decide_scale(
    model_tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    order: str | None,
    *,
    iterations: int,
    train_its: int,
    train_samples: int,
    train_tokens: int,
    n_iter: int | None = None,
    n_batch: int | None = None,
) -> ScaleDecision:
    """Decide from the bytes whether gradients were summed, and from the counts over how many tokens.

    `order` is that of the flat vectors, None unless it is proven or stated; `iterations` the optimizer's `iter`;
    `n_iter` the iterations per batch, `adam.n_iter`, which v1 files do not store; `n_batch` the samples of a batch, if
    the user states them. Otherwise the least number that the counts allow is assumed: when such a file was resumed, a
    divisor too small by 4 did no harm, but one too large by 4 did.

    Only norm and v of output are read, of a large v a sample. Raises `UsageError` for an `n_batch` or order that does
    not exist, `UnfitError` if the tensors are not those of a whole model, `FileError` if the file cannot be read.
    """
    if n_batch is not None and n_batch < 1:
        raise UsageError(f"a batch of {n_batch} samples is impossible", "State the samples of a batch, 1 or more.")
    whole = train_samples > 0 and train_tokens > 0 and not train_tokens % train_samples
    n_ctx = train_tokens // train_samples if whole else None
    if "v" not in state:
        return ScaleDecision(None, "only Adam's moments have a scale", n_ctx=n_ctx)
    if order is None:
        return ScaleDecision(None, "unknown, because the order of the moments is", n_ctx=n_ctx)
    ratio = gradient_ratio(model_tensors, state["v"], order, iterations)
    if ratio is None:
        return ScaleDecision(None, "there is no gradient to measure", n_ctx=n_ctx)
    measured = f"output's gradient is {ratio:.2g} times as long as a mean can be"
    if ratio > SUM_ABOVE:
        least, most = batch_bounds(train_samples, train_its, n_iter)
        return _of_sums(measured, n_ctx, n_batch, least, most, ratio)
    if ratio < MEAN_BELOW:
        return ScaleDecision(False, f"gradients are means: {measured}", n_ctx=n_ctx, ratio=ratio)
    return ScaleDecision(None, f"unclear: {measured}, much for a mean and little for a sum", n_ctx=n_ctx, ratio=ratio)


def _of_sums(
    measured: str, n_ctx: int | None, stated: int | None, least: int, most: int | None, ratio: float
) -> ScaleDecision:
    n_batch = stated or least
    assumed = stated is None and least != most
    reason = f"gradients were summed over the tokens of a batch: {measured}"
    if n_ctx is None:
        reason += "; how many they were is unknown, because train_tokens is no multiple of train_samples"
        return ScaleDecision(True, reason, n_batch=n_batch, n_batch_max=most, assumed=assumed, ratio=ratio)
    samples = "1 sample" if n_batch == 1 else f"{n_batch} samples"
    reason += f"; {n_ctx * n_batch} tokens, for {samples} of {n_ctx} tokens"
    if assumed:
        reason += f" (assumed; by the counts {least} {f'to {most}' if most else 'or more'})"
    return ScaleDecision(True, reason, n_ctx * n_batch, n_ctx, n_batch, most, assumed, ratio)


def gradient_ratio(model_tensors: Mapping[str, Tensor], v: Tensor, order: str, iterations: int) -> float | None:
    """Return the length of output's gradient in units of the greatest length of a mean over tokens.

    The squared length is the sum of v over output, without Adam's bias towards 0, averaged over the last iterations.
    None if there was no iteration, or the values are zero or not finite.
    """
    output, norm = piece_of(order, model_tensors, "output"), model_tensors["norm"]
    n_embd = norm.n_elements
    if iterations <= 0 or not output.count:
        return None
    rows = range(output.start // n_embd, (output.start + output.count) // n_embd)
    total, examined = 0.0, 0
    for _, block in sampled_rows(v, n_embd, rows):
        values = floats(block, v.byte_order)
        total, examined = total + sum(values), examined + len(values)
    largest = max(max(map(abs, floats(block, norm.byte_order))) for _, block in sampled_rows(norm, n_embd))
    square = total * output.count / examined / (1 - BETA2**iterations) / (2 * n_embd)
    if not (0 < square < float("inf") and 0 < largest < float("inf")):
        return None
    return sqrt(square) / largest


def batch_bounds(train_samples: int, train_its: int, n_iter: int | None = None) -> tuple[int, int | None]:
    """Return the least and the greatest number of samples of a batch that the counts allow; None for no bound.

    train_samples is a multiple of the batch, and the number of batches lies between train_its / n_iter and train_its.
    Counts that contradict each other, as after a wrap at 2**32, set no bounds: the result is (1, None).
    """
    if train_samples < 1 or train_its < 1:
        return 1, None
    small = [number for number in range(1, isqrt(train_samples) + 1) if not train_samples % number]
    divisors = sorted({*small, *(train_samples // number for number in small)})
    least = next(number for number in divisors if number * train_its >= train_samples)
    if n_iter is None or n_iter < 1:
        return least, None
    allowed = [number for number in divisors if number >= least and number * train_its <= train_samples * n_iter]
    return (least, allowed[-1]) if allowed else (1, None)


def divided(data: bytes | memoryview, divisor: int) -> memoryview:
    """Return little-endian float32 values divided by a number, as bytes.

    Each value is divided in float32, by the divisor rounded to float32, and so depends on nothing but these two: a
    vector may be divided in any pieces, and on any machine the bits are the same. A comparison of a converted vector
    with its checkpoint applies this function to the checkpoint's bytes and expects the same bits, of every value.
    The way back is not exact: the product of a quotient and the divisor is the value if the divisor is a power of two
    and nothing underflows; otherwise it is the value or a neighbour.
    """
    import numpy as np

    if divisor == 1:
        return memoryview(data)
    values = np.frombuffer(data, "<f4")
    quotients = np.empty_like(values)
    with np.errstate(all="ignore"):
        np.divide(values, np.float32(divisor), out=quotients)
    return quotients.data.cast("B")
