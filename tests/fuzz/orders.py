"""Break the decision of the order: moments made as the programs make them, of which a wrong "proven" must never come.

    python -m tests.fuzz.orders [FILES] [SEED]

Each file is a training: tokens by frequency, some never, in vocabularies of every kind; gradients of a size of their
own for each tensor; Adam in float32; sometimes an order that changes on the way, all layers without a gradient, or
values that were lost. The decision is asked for, as for a ggcp and as for a GGUF file, and compared with the order of
the last program.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from ggcp_schema.llama.order import OrderDecision, decide_order
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, ORDERS, Order
from tests.mapping.flat_files import close_all, made_model, shapes_of, written
from tests.mapping.independent_order import Vector, change_order, join, order_of_paths

BETA1, BETA2 = np.float32(0.9), np.float32(0.999)


class Made:
    """A training of random size: the order of its last program, and the state that it leaves behind."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.is_gguf = bool(rng.integers(2))
        possible: tuple[Order, ...] = tuple(ORDERS) if self.is_gguf else CHECKPOINT_ORDERS
        n_vocab, n_embd = int(rng.choice([3, 8, 30, 60, 200])), int(rng.choice([1, 2, 3, 4, 8]))
        n_layer, n_ff = int(rng.integers(0, 4)), int(rng.integers(1, 10))
        self.shapes = shapes_of(n_vocab, n_embd, n_ff, n_layer)
        self.sizes = {path: shape[0] * shape[1] for path, shape in self.shapes.items()}
        self.orders = [possible[rng.integers(len(possible))]]
        lengths = [int(rng.choice([1, 5, 20, 60]))]
        if rng.random() < 0.3:
            self.orders.append(possible[rng.integers(len(possible))])
            lengths.append(int(rng.choice([1, 20, 100, 1100], p=[0.3, 0.4, 0.25, 0.05])))
        frequency = rng.permutation(1 / np.arange(1, n_vocab + 1) ** rng.uniform(0.5, 2))
        frequency[rng.random(n_vocab) < rng.choice([0, 0.05, 0.5, 0.95])] = 0
        self.begin = int(min(1, n_vocab - 1))
        if rng.random() < 0.7:  # a llama vocabulary: <unk> never occurs
            frequency[0] = 0
        if not frequency.any():
            frequency[self.begin] = 1
        self.frequency = frequency / frequency.sum()
        spread = rng.choice([0, 0.5, 2])
        self.sizes_of_gradients = {path: float(np.exp(rng.normal(-6, spread))) for path in self.shapes}
        # In some programs of 28 July 2023 only norm and output had gradients.
        self.dead = {*self.shapes} - {"norm", "output"} if rng.random() < 0.05 else set()
        self.model = made_model(self.shapes, rng)
        n_params = sum(self.sizes.values())
        m, v = np.zeros(n_params, np.float32), np.zeros(n_params, np.float32)
        for order, length in zip(self.orders, lengths, strict=True):
            for _ in range(length):
                g = self.gradient(order)
                m = m * BETA1 + g * (1 - BETA1)
                v = v * BETA2 + g * g * (1 - BETA2)
        self.state = {"m": m, "v": v}
        if rng.random() < 0.1:
            self.state["x"] = join(self.model, self.orders[-1])
        if rng.random() < 0.1:  # a lost page
            lost = self.state[str(rng.choice(["m", "v"]))]
            start = int(rng.integers(n_params))
            lost[start : start + int(rng.choice([8, 64, 1024]))] = 0

    def gradient(self, order: str) -> Vector:
        """Return the gradient of one batch, in that order."""
        parts = {}
        for path, shape in self.shapes.items():
            part = self.rng.standard_normal(shape, np.float32) * np.float32(self.sizes_of_gradients[path])
            if path in self.dead:
                part[:] = 0
            if path == "tok_embeddings":
                seen = np.zeros(shape[0], bool)
                seen[self.rng.choice(shape[0], 16, p=self.frequency)] = True
                seen[self.begin] = True
                part[~seen] = 0
            parts[path] = part.ravel()
        return join(parts, order)

    def decision(self, path: Path) -> OrderDecision:
        """Return what the package decides."""
        tensors = written(path, self.model, self.state)
        orders = tuple(ORDERS) if self.is_gguf else CHECKPOINT_ORDERS
        try:
            return decide_order(tensors.model, tensors.state, orders, self.begin if self.is_gguf else None)
        finally:
            close_all()

    def is_right(self, order: str | None) -> bool:
        """Return True if the last program's order is this one, or one that puts every tensor in the same place."""
        n_layer = (len(self.shapes) - 3) // 9
        return order is not None and order_of_paths(order, n_layer) == order_of_paths(self.orders[-1], n_layer)

    @property
    def changed(self) -> bool:
        """True if the training changed its order in a way that matters."""
        m = self.state["m"]
        return len(self.orders) > 1 and bool((change_order(m, self.orders[0], self.orders[1], self.sizes) != m).any())


def campaign(n_files: int, seed: int) -> Counter[tuple[str, bool, bool | None]]:
    """Count the decisions by (certainty, whether the order changed, whether it is right; None if there is none)."""
    found: Counter[tuple[str, bool, bool | None]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(n_files):
            made = Made(np.random.default_rng([seed, number]))
            decision = made.decision(Path(folder) / "tensors")
            right = None if decision.order is None else made.is_right(decision.order)
            found[decision.certainty, made.changed, right] += 1
            if right is False:
                what = f"{'-'.join(made.orders)}, called {decision.order}, {decision.certainty}: {decision.reason}"
                print(f"seed {seed}, file {number}: {what}")
    return found


def main() -> None:
    """Print a table, and exit with 1 if a wrong order was called proven."""
    n_files, seed = (int(argument) for argument in (*sys.argv[1:], "20000", "1")[:2])
    found = campaign(n_files, seed)
    for (certainty, changed, right), count in sorted(found.items(), key=str):
        words = {True: "right", False: "WRONG", None: ""}[right]
        print(f"{certainty:12} {'order changed' if changed else 'one order':14} {words:6} {count:7,}")
    sys.exit(any(right is False for (certainty, _, right) in found if certainty == "proven"))


if __name__ == "__main__":
    main()
