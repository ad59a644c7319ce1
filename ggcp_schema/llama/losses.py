"""What the losses and counters that a checkpoint stores mean.

Sources: the trainers of 13 June, 29 June, 3 July, 25 July and 14 August 2023, run with 1, 2 and 3 threads; the mean
loss of a v0 file follows from its gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.eras import EraConclusion
from ggcp_schema.llama.facts import Line
from ggcp_schema.llama.writers import Loss, join_words
from ggcp_schema.schema.inference import ADAM

MAX_PAST = 1000  # past losses that are read; the trainers' default was 0


@json_keys(
    "meaning meanings rough=is_rough latest best previous best_per_token previous_per_token past untrained "
    "lbfgs_steps=steps explanation=lines"
)
class Losses(NamedTuple):
    """The losses of a checkpoint, explained. Numbers are None if the file does not tell them.

    Attributes:
        meanings: what the losses may be, the likelier first: `mean`, `last-rows` (each thread's loss of its last row,
            summed over the threads) or `constant`; empty for a file of no known program.
        best, previous: fx_best and fx_prev, as stored.
        divisor: the number by which to divide a stored loss to get the loss of one token: the number of threads, or 1.
        past: the losses of the last iterations as stored; of Adam the oldest first.
        untrained: the loss of a model that gives every token the same probability, ln(n_vocab).
        steps: the steps that L-BFGS has made, k - 1.
        lines: the explanation, each line with a label.
    """

    meanings: tuple[Loss, ...]
    best: float
    previous: float | None
    divisor: int | None
    past: tuple[float, ...]
    untrained: float | None
    steps: int | None
    lines: tuple[Line, ...]

    @property
    def latest(self) -> float:
        """The latest loss, of one token: divided by the number of threads if it is known to be a sum over them.

        Of L-BFGS it is the best one, because no other is stored.
        """
        return (self.best if self.previous is None else self.previous) / (self.divisor or 1)

    @property
    def is_rough(self) -> bool:
        """True unless the losses are certainly means."""
        return self.meanings != ("mean",)

    @property
    def doubt(self) -> str:
        """Why `latest` may be no loss of one token, in a few words; empty if it certainly is."""
        likely = "likely " * (len(self.meanings) > 1) if self.meanings[:1] == ("last-rows",) else "unless it is "
        return f"{likely}a sum over threads" if self.divisor is None else ""

    @property
    def meaning(self) -> Loss | None:
        """What the losses are; None if there is more than one possibility."""
        return self.meanings[0] if len(self.meanings) == 1 else None

    @property
    def best_per_token(self) -> float | None:
        """The best loss divided by the number of threads; None if that is not known."""
        return None if self.divisor is None else self.best / self.divisor

    @property
    def previous_per_token(self) -> float | None:
        """The previous loss divided by the number of threads; None if either is not known."""
        return None if self.divisor is None or self.previous is None else self.previous / self.divisor


def stored_losses(stated: Mapping[str, Any], era: EraConclusion) -> Losses | None:
    """Explain the losses among what a file states of itself; None if it states none. Reads the past losses.

    An Adam without an iteration has computed none: zeros stand in their place.
    """
    losses, optimizer = stated.get("stored_losses"), stated.get("optimizer")
    if losses is None or optimizer is None:
        return None
    if optimizer["type"] == ADAM and not (optimizer["iter"] or losses["fx_best"] or losses["fx_prev"]):
        return None
    return explain_losses(
        era,
        optimizer=optimizer["type"],
        fx_best=losses["fx_best"],
        fx_prev=losses["fx_prev"],
        n_vocab=(stated.get("hparams") or {}).get("n_vocab"),
        n_threads=losses["n_threads"],
        iteration=optimizer["iter"] or 0,
        train_its=stated.get("train_its") or 0,
        k=losses["k"],
        past=_past_losses(losses["pf"]),
    )


def _past_losses(pf: Tensor | None) -> tuple[float, ...]:
    """Return the past losses as they are stored; none if they are so many that no trainer wrote them."""
    if pf is None or not 0 < pf.n_elements <= MAX_PAST or pf.type != "F32":
        return ()
    return tuple(pf.numbers(0, pf.n_elements))


def explain_losses(
    conclusion: EraConclusion,
    *,
    optimizer: str,
    fx_best: float,
    fx_prev: float | None = None,
    n_vocab: int | None = None,
    n_threads: int | None = None,
    iteration: int = 0,
    train_its: int = 0,
    k: int | None = None,
    past: Sequence[float] = (),
) -> Losses:
    """Explain what a checkpoint stores of the loss.

    `optimizer` is adam or lbfgs. `n_threads` is that of the params, which v1 does not store. `iteration` is the
    optimizer's, `k` the one of L-BFGS. `past` is pf, a ring buffer; of Adam iteration i stands at i modulo its length.
    """
    meanings = conclusion.losses
    threads = n_threads if n_threads is not None and n_threads > 0 else None
    divisors = {{"last-rows": threads}.get(meaning, 1) for meaning in meanings}
    divisor = divisors.pop() if len(divisors) == 1 else None
    is_adam = optimizer == ADAM  # of no L-BFGS file with past losses is it known which is the oldest
    recent = _in_order(past, iteration) if is_adam else tuple(past)
    lines = [("loss", _values_text(fx_best, fx_prev, divisor)), ("loss is", _meanings_text(meanings, threads))]
    if fx_prev is not None and fx_best > fx_prev:  # it is lowered only if max_no_improvement is above 0
        best = "the loss at the start of the last run; it was not updated, although the previous loss is lower"
    else:
        best = "of the last run of iterations, not of the whole training"
    lines.append(("best", best))
    if recent:
        order = "the oldest first" if is_adam else "as they are stored"
        lines.append(("past", f"{', '.join(map(loss_text, recent))} (of the last iterations, {order})"))
    steps = max(k - 1, 0) if k is not None and optimizer == "lbfgs" else None
    if steps is not None and not (iteration and train_its):
        lines.append(("steps", f"{steps:,} (k is {k}); the trainers do not count the iterations of L-BFGS"))
    untrained = math.log(n_vocab) if n_vocab else None
    if untrained is not None:
        text = f"{loss_text(untrained)} = ln({n_vocab}), if the model gives every token the same probability"
        lines.append(("untrained", text))
    return Losses(meanings, fx_best, fx_prev, divisor, recent, untrained, steps, tuple(map(Line._make, lines)))


def unexplained(stored: Mapping[str, Any]) -> Line:
    """Return the stored losses of a program of which it is not known what they are, as finetune."""
    return Line("loss", f"{_values_text(stored['fx_best'], stored['fx_prev'], None)}; what it measures is not known")


def _values_text(best: float, previous: float | None, divisor: int | None) -> str:
    def value(loss: float) -> str:
        rough = f" / {divisor} threads = about {loss_text(loss / divisor)}" if divisor and divisor > 1 else ""
        return f"{loss_text(loss)}{rough}"

    return f"best {value(best)}" + ("" if previous is None else f", previous {value(previous)}")


def _meanings_text(meanings: Sequence[Loss], threads: int | None) -> str:
    """Describe what the losses may be. Only one meaning is certain."""
    number = ", whose number is not stored," if threads is None else ""
    rows = f"a sum over threads{number} of the loss of each one's last token"
    if threads is not None:
        rows += f": a rough measure, from {counted(threads, 'token')} of the batch"
    texts = {
        "mean": "the mean over the tokens of a batch",
        "last-rows": rows,
        "constant": "a number that says nothing of the model (14 August 2023, 18:44 to 20:56)",
    }
    if not meanings:
        return "of no known program, so that its meaning is not known"
    if len(meanings) == 1:
        return texts[meanings[0]]
    first, *others = (texts[meaning] for meaning in meanings)
    return f"{first}, unless it is {join_words(others)}; the file does not show which"


def _in_order(past: Sequence[float], iteration: int) -> tuple[float, ...]:
    """Return the losses of the ring buffer, the oldest first, without the places that were not reached."""
    start = iteration % len(past) if past else 0
    return (*past[start:], *past[:start])[max(len(past) - iteration, 0) :]


def loss_text(loss: float) -> str:
    """Return a loss as it is shown: with four digits after the point, or of all if that says nothing."""
    if math.isnan(loss):
        return "NaN"
    return f"{loss:.4f}" if loss == 0 or 1e-4 <= abs(loss) < 1e6 else f"{loss:.4g}"
