"""A training state as its soundness is judged, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.constructs import counted
from ggcp_schema.errors import UnfitError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.names import STATE, is_optimizer
from ggcp_schema.llama.parameters import ORDERS, Layout

if TYPE_CHECKING:
    from ggcp_schema.llama.adam import AdamParams

PAGES = {4096: "4 KiB", 512: "512 B"}
SAMPLE = 64  # values at either end of a tensor, by which the order of x is found

RULES = {
    "hole-in-text": "a run of zeros or of 0xFF in a text",
    "seven-bits": "no byte is above 127, as if the file had been sent as text",
    "not-finite": "NaN or an infinity",
    "huge": "a value that no training with a finite loss reaches",
    "zeros-in-weights": "a run of zeros in the weights",
    "zeros-in-x": "a run of zeros in x, which holds the weights too",
    "nonzero-in-x": "x is zero in all other places",
    "zeros-in-m": "a run of zeros in m where v is not zero",
    "m-without-v": "m is not zero where v is zero",
    "m-exceeds-v": "m is larger than gradients with this mean square can make it",
    "negative-v": "v, a mean of squares, is negative",
    "x-differs": "x equals the weights but for a few places",
    "v-differs": "v does not give vh, as it does elsewhere in the file",
    "m-differs": "m does not give mh, as it does elsewhere in the file",
    "step-differs": "lms times lmy is not lmys, so one of them was changed",
    "loss-zero": "a loss of exactly 0 after training",
    "loss-negative": "a negative loss, which no cross entropy is",
}
"""The codes of the rules, which do not change, with what they find."""

LEAST_LOSS = -1e-3  # one of 0 may be rounded to less, but not so far


class Unsound(NamedTuple):
    """Bytes that the program cannot have written: from `start` to `stop`, which is the first byte after them."""

    path: str
    start: int
    stop: int
    rule: str
    message: str

    @property
    def of_optimizer(self) -> bool:
        """True if they are of the optimizer's state, which a fresh one replaces."""
        return is_optimizer(self.path)


class Loss(NamedTuple):
    """A loss that the file stores: the path of its field, where it lies, and its value."""

    path: str
    offset: int
    value: float

    def unsound(self, rule: str, reason: str) -> Unsound:
        """Return that no training leaves it."""
        return Unsound(self.path, self.offset, self.offset + 4, rule, f"{RULES[rule]}: {reason}")


class State(NamedTuple):
    """What is examined of a training state.

    Attributes:
        model: the model's tensors by path (`layers[0].wq`).
        vectors: the tensors of the optimizer's state by field (`m`); missing ones are not examined.
        n_embd: the length of a row of tok_embeddings, at least 1.
        iterations: how many the optimizer has done; 0 if it does not count.
        adam: Adam's parameters, if the file stores them.
        losses: the losses that the file stores.
        order: returns the proven order of the parameters in the vectors, if there is one; asked only when it matters.
        prefix: what the paths of the vectors begin with.
    """

    model: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    n_embd: int
    iterations: int = 0
    adam: AdamParams | None = None
    losses: Sequence[Loss] = ()
    order: Callable[[], str | None] | None = None
    prefix: str = STATE

    @property
    def n_params(self) -> int:
        """The number of parameters of the model."""
        return sum(tensor.n_elements for tensor in self.model.values())

    def impossible_losses(self) -> list[Unsound]:
        """Return the losses that are negative, and those of exactly 0 after training."""
        negative = [loss for loss in self.losses if -math.inf < loss.value < LEAST_LOSS]
        found = [loss.unsound("loss-negative", f"{loss.value:.4g}") for loss in negative]
        zeros = [loss for loss in self.losses if loss.value == 0]
        if zeros and (self.iterations > 0 or self._has_gradient):
            reason = f"{self.iterations:,} iterations" if self.iterations > 0 else "the gradient is not 0"
            found += [loss.unsound("loss-zero", reason) for loss in zeros]
        return found

    @property
    def _has_gradient(self) -> bool:
        """True if the gradient of L-BFGS, which counts no iterations, is not zero at its ends."""
        g = self.vectors.get("g")
        size = 0 if g is None else min(SAMPLE, g.n_elements)
        return g is not None and any(g.numbers(0, size) + g.numbers(g.n_elements - size, g.n_elements))

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of the model or of the state with that name."""
        return self.vectors[name] if name in self.vectors else self.model[name]

    def path(self, name: str) -> str:
        """Return the path of the tensor in the file."""
        return f"{self.prefix}{name}" if name in self.vectors else name


def order_of_x(state: State) -> str | None:
    """Return the order in which x holds the weights, but for a few places; None if in no order, or if there is no x.

    Looks at the ends of each tensor's part. An x of another length, or of zeros, has no order.
    """
    x = state.vectors.get("x")
    if x is None or x.n_elements != state.n_params or not x.n_elements:
        return None
    best: tuple[float, str | None] = (0.75, None)
    try:
        layouts = [Layout.of(order, state.model) for order in ORDERS]
    except UnfitError:  # the model is not whole
        return None
    for order, layout in zip(ORDERS, layouts, strict=True):
        equal = looked = 0
        for part in layout:
            if not part.count:
                continue
            size = min(SAMPLE, part.count)
            for at in {0, part.count - size}:
                ours = next(state.model[part.path].values(at, at + size))
                theirs = next(x.values(part.start + at, part.start + at + size))
                equal += int((ours.view("u4") == theirs.view("u4")).sum())
                looked += size
        best = max(best, (equal / looked, order), key=lambda pair: pair[0])
    return best[1]


def place_text(tensor: Tensor, start: int, stop: int) -> str:
    """Return how many values these bytes are, where, and how many pages if only the tensor's ends cut pages."""
    count = (stop - start) // 4
    text = f"{counted(count, 'value')}, bytes {start:,} to {stop - 1:,} of the file"
    edges = [edge for edge in (start, stop) if edge not in (tensor.offset, tensor.offset + tensor.nbytes)]
    size = next((size for size in PAGES if edges and all(edge % size == 0 for edge in edges)), None)
    if size is None:
        return text
    pages = math.ceil(stop / size) - start // size
    return f"{text}, {'one whole page' if pages == 1 else f'{pages:,} whole pages'} of {PAGES[size]}"
