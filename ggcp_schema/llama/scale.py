"""The scale of Adam's moments: whether the trainer summed gradients over the tokens of a batch, and over how many.

Until July 2023 (the pull request's branch) and 28 August 2023 (llama.cpp) the gradient was the sum over the
s = n_ctx × n_batch tokens of a batch. Since then it is their mean, also in the trainers that resume. A sum makes m too
large by s and v by s². From 15 June to 2 July the branch clipped the sum to a length of 1: such moments are short, and
no number of tokens divides them.

The bytes show a sum, because the mean gradient of `output` cannot be longer than a known bound: each token adds the
outer product of a vector no longer than √2, the difference of two distributions, and one no longer than
√n_embd × max|norm|. How many times longer it is also tells roughly how many tokens were summed. Files that do not store
Adam's betas may be of others than usual, which change that length: of them only what any betas leave is proof.

The vectors of L-BFGS are left as they are: nothing is known of what a sum does to a run that is resumed from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import isqrt, log, sqrt
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.llama.eras import is_clipped
from ggcp_schema.llama.parameters import vector_part
from ggcp_schema.llama.rows import floats, sampled_rows
from ggcp_schema.llama.writers import Gradient, join_words

if TYPE_CHECKING:
    from ggcp_schema.files.tensor import Tensor

BETA2 = 0.999  # of Adam, by default in all trainers; those of layout v1 and of GGUF took it as an option
MOST = 1e24  # a squared length that no training with a finite loss reaches: values were damaged
SUM_ABOVE = 1.0  # times the greatest length of a mean
MEAN_BELOW = 0.2  # 0.004 to 0.17 in files known to hold means. Long training brings sums of few tokens below it too.
# The ratio of a sum divided by its tokens, in 22 files with known batches: one estimate and the usual bounds.
RATIO_PER_TOKEN, LEAST_PER_TOKEN, MOST_PER_TOKEN = 0.08, 0.033, 0.107
MOST_NAMED = 8  # numbers that a sentence lists
MOST_COUNT = 1 << 32  # samples whose divisors are looked at; the trainers of ggcp files counted to this

SAFER = "a fresh optimizer is safer than a wrong one"
COSTS = (
    "in a test of 1,000 more iterations the mean loss was 2.64 with a fresh optimizer, 2.74 after dividing by the true "
    "number, and 3.25 to 3.26 after dividing by a much smaller one or none"
)


class Counts(NamedTuple):
    """What a file counts, and what the user says of it.

    Attributes:
        train_its, train_samples: of the whole training.
        n_ctx: the tokens of a sample, None if it is not known.
        n_iter: the iterations per batch, `adam.n_iter`, which v1 files do not store.
        n_batch: the samples of a batch, if the user states them.
    """

    train_its: int = 0
    train_samples: int = 0
    n_ctx: int | None = None
    n_iter: int | None = None
    n_batch: int | None = None


class ScaleDecision(NamedTuple):
    """Whether m and v are of summed gradients, and by what they are to be divided.

    Attributes:
        gradient: how it was computed, by the bytes or as by all programs that may have written the file; None if
            neither tells. Only sums are divided.
        reason: the evidence, in words for a person.
        s: the tokens of a batch, n_ctx × n_batch, by which m is too large; None unless summed and known.
        s_range: the usual bounds of s, if it is an estimate.
        n_ctx: tokens of a sample, as far as it is known.
        n_batch: samples of a batch, as stated or estimated; None unless summed.
        assumed: True if s is an estimate.
        ratio: the length of output's gradient in units of the greatest length of a mean, by the usual beta2; None if it
            cannot be computed.
        contradiction: why the stated batch does not fit; empty if it does.
        short: True if gradients are shorter than sums, not always as long as sums that were clipped, and no program
            that may have written the file left sums unclipped.
        summed: True if m and v are known to be of sums that were not clipped.
    """

    gradient: Gradient | None
    reason: str
    s: int | None = None
    s_range: tuple[int, int] | None = None
    n_ctx: int | None = None
    n_batch: int | None = None
    assumed: bool = False
    ratio: float | None = None
    contradiction: str = ""
    short: bool = False
    summed: bool = False


def decide_scale(
    ratio: float | None,
    gradients: Collection[Gradient],
    counts: Counts,
    square_length: float | None = None,
    least: float | None = None,
) -> ScaleDecision:
    """Decide whether gradients were summed, and over how many tokens.

    `ratio` and `square_length` are those of `gradient_ratio` and `mean_square_length`, None if they cannot be computed;
    `least` is that of `least_ratio` if beta2 is not known, and `gradients` are how the programs that may have written
    the file computed them. The batch is what the user states, or else the number, of all that the counts allow, which
    fits the ratio best. The counts set bounds only if context and batch never changed.
    """
    gradient = next(iter(gradients)) if len(gradients) == 1 else None
    known = ScaleDecision(gradient, "", n_ctx=counts.n_ctx, ratio=ratio)
    measured = "" if ratio is None else f": output's gradient has {ratio:.2g} times the greatest length of a mean"
    measured += "" if ratio is None or least is None else f" if beta2 was {BETA2}"
    if gradient == "sum" or is_long(ratio, least):
        return _of_sums(f"gradients were summed over the tokens of a batch{measured}", known, counts)
    short = False
    if gradient == "clipped-sum":
        reason = "gradients were summed, and the sums clipped to a length of 1"
    elif gradient == "mean":
        reason = f"gradients are means{measured}"
    elif square_length is not None and is_clipped(square_length):
        reason = "gradients are likely sums clipped to a length of 1: their squared lengths average 1.0000"
    elif gradients and "sum" not in gradients and ratio is not None and ratio < MEAN_BELOW:
        short = True
        reason = f"gradients are likely means, for nearly all clipped sums would have the length 1{measured}"
    else:
        reason = f"it is not clear whether gradients are means or sums{measured}"
    stated = counts.n_batch is not None
    contradiction = f"a batch was stated, but m and v are copied as they are: {reason}" if stated else ""
    return known._replace(reason=reason, contradiction=contradiction, short=short)


def _of_sums(reason: str, known: ScaleDecision, counts: Counts) -> ScaleDecision:
    known = known._replace(gradient="sum", summed=True, reason=reason, n_batch=counts.n_batch)
    batches = possible_batches(counts.train_samples, counts.train_its, counts.n_iter)
    if counts.n_batch is not None:
        return _stated(known, counts.n_batch, batches)
    if known.n_ctx is not None and len(batches) == 1:
        s = known.n_ctx * batches[0]
        text = f"{s:,} tokens, {batches[0]:,} × {known.n_ctx:,}, if context and batch never changed"
        return known._replace(reason=f"{reason}; {text}", s=s, n_batch=batches[0])
    if known.ratio is None:
        return known
    tokens = known.ratio / RATIO_PER_TOKEN
    if known.n_ctx is None:
        return _estimated(known, max(1, round(tokens)), batches)
    choices = [known.n_ctx * batch for batch in batches] or [max(1, round(tokens / known.n_ctx)) * known.n_ctx]
    s = min(choices, key=lambda choice: abs(log(choice / tokens)))
    return _estimated(known._replace(n_batch=s // known.n_ctx), s, batches)


def _stated(known: ScaleDecision, n_batch: int, batches: list[int]) -> ScaleDecision:
    """Return the decision for a batch that the user states."""
    stated = f"a batch of {n_batch:,} samples was stated"
    if known.n_ctx is None:
        return known._replace(contradiction=f"{stated}, but the tokens of a sample are not known: nothing is divided")
    s = n_batch * known.n_ctx
    doubt = ""
    if batches and n_batch not in batches:
        doubt = f"{stated}; by the counts it is {_in_words(batches)}, if context and batch never changed"
    elif known.ratio is not None and not LEAST_PER_TOKEN / 4 <= known.ratio / s <= MOST_PER_TOKEN * 4:
        least, most = _usual_tokens(known.ratio)
        doubt = f"{stated}, of {s:,} tokens; the length of the gradient suggests {least:,} to {most:,}"
    reason = f"{known.reason}; {s:,} tokens, {n_batch:,} × {known.n_ctx:,}, as stated"
    return known._replace(reason=reason, s=s, contradiction=doubt)


def _estimated(known: ScaleDecision, s: int, batches: list[int]) -> ScaleDecision:
    """Return the decision for an estimate of s: one of the values that the counts allow."""
    least, most = _usual_tokens(known.ratio or 0.0)
    s_range = min(least, s), max(most, s)
    samples = "" if known.n_batch is None else f", {known.n_batch:,} × {known.n_ctx:,}"
    text = f"by that length about {s:,} tokens{samples}, or {s_range[0]:,} to {s_range[1]:,}"
    if known.n_batch is not None and batches:
        text += f"; by the counts the batch is {_in_words(batches)}, if context and batch never changed"
    return known._replace(reason=f"{known.reason}; {text}", s=s, s_range=s_range, assumed=True)


def _in_words(batches: list[int]) -> str:
    if len(batches) > MOST_NAMED:
        return f"one of {len(batches):,} numbers from {batches[0]:,} to {batches[-1]:,}"
    return join_words(f"{batch:,}" for batch in batches)


def _usual_tokens(ratio: float) -> tuple[int, int]:
    """Return the usual bounds of the tokens of a batch whose gradient has that ratio."""
    return max(1, round(ratio / MOST_PER_TOKEN)), max(1, round(ratio / LEAST_PER_TOKEN))


def is_long(ratio: float | None, least: float | None = None) -> bool:
    """Return True if the gradient is proven to be longer than a mean can be.

    `least` is the proven part of `ratio`, if beta2 is not stored.
    """
    return ((ratio or 0.0) if least is None else least) > SUM_ABOVE


def gradient_ratio(model_tensors: Mapping[str, Tensor], v: Tensor, order: str, iterations: int) -> float | None:
    """Return the length of output's gradient in units of the greatest length of a mean over tokens.

    The squared length is the sum of v over output, without Adam's bias towards 0, averaged over the last iterations.
    None if there was no iteration, or the values are zero, not finite or huge.
    """
    if iterations <= 0:
        return None
    return _ratio(model_tensors, _sum_of_output(model_tensors, v, order) / (1 - BETA2**iterations))


def least_ratio(model_tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], order: str) -> float:
    """Return a length that output's gradient had in some iteration at least, in these units; 0 if nothing is known.

    v and m are sums with weights, which add up to 1 or less whatever the betas: so the sums of v and of m² over output
    are at most the greatest squared length.
    """
    squares = [_sum_of_output(model_tensors, state[name], order, squared=name == "m") for name in "mv" if name in state]
    return max((_ratio(model_tensors, square) or 0.0 for square in squares), default=0.0)


def _sum_of_output(model_tensors: Mapping[str, Tensor], vector: Tensor, order: str, *, squared: bool = False) -> float:
    """Return the sum over output of the values of a flat vector, or of their squares; of a long one from a sample."""
    output, n_embd = vector_part(order, model_tensors, "output"), model_tensors["norm"].n_elements
    total, examined = 0.0, 0
    for _, block in sampled_rows(vector, n_embd, output.rows(n_embd)):
        values = floats(block, vector.byte_order)
        total += sum(map(mul, values, values)) if squared else sum(values)
        examined += len(values)
    return total * output.count / max(examined, 1)


def _ratio(model_tensors: Mapping[str, Tensor], square: float) -> float | None:
    """Return the root of a squared length in units of the greatest length of a mean; None if it is no length."""
    norm = model_tensors["norm"]
    n_embd = norm.n_elements
    largest = max(max(map(abs, floats(block, norm.byte_order))) for _, block in sampled_rows(norm, n_embd))
    if not (0 < square < MOST and 0 < largest < float("inf")):
        return None
    return sqrt(square / (2 * n_embd)) / largest


def mean_square_length(v: Tensor, iterations: int, *, is_zero: bool = False) -> float | None:
    """Return the square of the length of the whole gradient, averaged as v is; None if there was no iteration.

    The sum of v is that average times Adam's bias towards 0. All of v is read, unless it is known to be zero.
    """
    if iterations <= 0 or v.type != "F32":
        return None
    if is_zero:
        total = 0.0
    elif v.n_elements <= 1 << 20:
        total = sum(sum(floats(bytes(chunk), v.byte_order)) for chunk in v.chunks())
    else:
        import numpy as np

        total = float(sum(values.sum(dtype=np.float64) for values in v.values()))
    return total / (1 - BETA2**iterations)


def possible_batches(train_samples: int, train_its: int, n_iter: int | None = None) -> list[int]:
    """Return the numbers of samples of a batch that the counts allow, ascending; none if they contradict each other.

    train_samples is a multiple of the batch, and the number of batches lies between train_its / n_iter and train_its,
    if the batch never changed. Counts contradict each other after a wrap at 2**32.
    """
    if not 0 < train_samples < MOST_COUNT or train_its < 1:
        return []
    small = [number for number in range(1, isqrt(train_samples) + 1) if not train_samples % number]
    divisors = sorted({*small, *(train_samples // number for number in small)})
    return [
        number
        for number in divisors
        if number * train_its >= train_samples
        and (not n_iter or n_iter < 1 or number * train_its <= train_samples * n_iter)
    ]


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
