"""What happened in a training between two of its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.text import percent
from ggcp_schema.llama.losses import Losses
from ggcp_schema.llama.writers import Loss

NO_SHARE = "not measurable (A is zero, or a value is NaN or Inf)"


class TrainingChange(NamedTuple):
    """What happened between two checkpoints: B's numbers minus A's; None for what is not known of both.

    Attributes:
        loss_a, loss_b: the latest loss of one token.
        ahead: the file with more iterations, or else samples or steps; None if neither has, if it has fewer of another
            of these counts, or if the models differ in size: no training leads from one to the other.
        weights: the relative change of the weights, which is the length of the difference in units of the length of A's
            weights: for each tensor outside of the layers, and for each layer. It is infinite if A's are all zero, and
            where one file has NaN or an infinity.
    """

    iterations: int | None
    samples: int | None
    tokens: int | None
    loss_a: float | None
    loss_b: float | None
    ahead: Literal["A", "B"] | None
    weights: Mapping[str, float]


def change_between(a: Summary, b: Summary, weights: Mapping[str, float]) -> TrainingChange | None:
    """Return what happened between two checkpoints whose weights changed by that; None if a file is no checkpoint."""
    if a.optimizer is None or b.optimizer is None:
        return None
    iterations = _difference(_iterations(a), _iterations(b))
    samples = _difference(a.train_samples, b.train_samples)
    tokens = _difference(a.train_tokens, b.train_tokens)
    steps = _difference(a.optimizer.iter, b.optimizer.iter) if a.optimizer.type == b.optimizer.type else None
    lbfgs_steps = _difference(_lbfgs_steps(a), _lbfgs_steps(b))
    first = next((count for count in (iterations, samples, tokens, steps, lbfgs_steps) if count), 0)
    further: Literal["A", "B"] = "B" if first > 0 else "A"
    directions = {count > 0 for count in (iterations, samples, tokens) if count}
    ahead = further if first and len(directions) < 2 and not _differ_in_size(a, b) else None
    return TrainingChange(iterations, samples, tokens, *_comparable_losses(a, b), ahead, weights)


def change_lines(change: TrainingChange | None) -> Iterator[str]:
    """Yield what happened between two checkpoints: the counts, the loss and the change of the weights."""
    if change is None:
        return
    both = (change.iterations, "iteration"), (change.samples, "sample"), (change.tokens, "token")
    counts = [f"{count:+,} {noun}{'' if abs(count) == 1 else 's'}" for count, noun in both if count]
    words = [f"{change.ahead} is ahead"] if change.ahead else []
    if counts:
        words.append(f"from A to B {', '.join(counts)}")
    if change.loss_a is not None and change.loss_b is not None and change.loss_a != change.loss_b:
        words.append(f"loss {change.loss_a:.4f} to {change.loss_b:.4f} ({change.loss_b - change.loss_a:+.3g})")
    if words:
        yield "; ".join(words)
    if change.weights:
        finite = [(group, share) for group, share in change.weights.items() if share and share < math.inf]
        groups = [f"{group} {percent(share)}" for group, share in finite]
        groups += [f"{group} {NO_SHARE}" for group, share in change.weights.items() if share == math.inf]
        yield f"relative change of the weights: {', '.join(groups)}"


def _difference(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else b - a


def _differ_in_size(a: Summary, b: Summary) -> bool:
    """Return True if a size that no trainer changes is known of both models, and is another one."""
    sizes = [((a.hparams or {}).get(name), (b.hparams or {}).get(name)) for name in ("n_vocab", "n_embd", "n_layer")]
    return any(None not in pair and len({*pair}) > 1 for pair in (*sizes, (a.n_ff, b.n_ff)))


def _iterations(summary: Summary) -> int | None:
    return summary.train_its if summary.is_counted else None


def _lbfgs_steps(summary: Summary) -> int | None:
    return None if summary.losses is None else summary.losses.steps


def _comparable_losses(a: Summary, b: Summary) -> tuple[float | None, float | None]:
    """Return the latest losses if they are of one kind, as far as the files tell.

    They are both a token's loss, or else the same stored number, of which the same is likely.
    """
    if a.losses is None or b.losses is None:
        return None, None
    if a.losses.divisor and b.losses.divisor:
        return a.loss, b.loss
    if _kinds(a.losses) == _kinds(b.losses) or _latest(a.losses) == _latest(b.losses):
        return _latest(a.losses), _latest(b.losses)
    return None, None


def _kinds(losses: Losses) -> tuple[set[Loss], tuple[Loss, ...]]:
    """Return what the losses may be, and which of it is likely."""
    return {*losses.meanings} - {"constant"}, losses.meanings[:1]


def _latest(losses: Losses) -> float:
    return losses.best if losses.previous is None else losses.previous
