"""Decide in which order the optimizer's flat vectors hold the parameters.

No file stores it, but the bytes may tell:

1. x, the parameters that the optimizer worked on, equals the model's weights in the right order.
2. The moments of a token that never occurred are zero. Such a row of n_embd zeros lies in tok_embeddings and in
   no other tensor; `<unk>`, row 0, hardly ever occurs, and `<s>`, row 1, begins every sample.
3. The moments of one tensor are of like size, so the right order explains them best. This is no proof.

Tensors are given as in `layout`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ggcp_schema.checkpoint.layout import ORDERS, Layout, Order, element_counts, known_order
from ggcp_schema.errors import UnfitError
from ggcp_schema.files.tensor import Tensor, decode

Certainty = Literal["proven", "likely", "undecidable", "stated"]

# Vectors of at most EXAMINED values are examined whole; of longer ones about that many, in blocks of BLOCK.
EXAMINED, BLOCK = 1 << 20, 1 << 10
READ_AT_ONCE = 1 << 19  # values
SIZE = 4  # bytes of a value
ZEROS = (b"\0\0\0\0", b"\0\0\0\x80", b"\x80\0\0\0")  # 0 and, in either byte order, -0

# By how much the best order must surpass the second in log likelihood. Rows count as the independent observations.
# In made files in which all tensors are alike, the largest lead of a wrong order that was found is 2.5 (in rows).
LEAST_GAP_PER_VALUE, LEAST_GAP_IN_ROWS = 0.005, 3.5


class OrderDecision(NamedTuple):
    """The order of a file's flat vectors, and how it is known.

    Attributes:
        order: A, B or C; None if it is undecidable.
        certainty: "proven" by the bytes, only "likely", "undecidable", or "stated" by the user.
        reason: the evidence, in words for a person.
        refuted: for each order that the bytes exclude, how they do so.
        harmless: True if all moments are zero, so that the vectors are the same in every order.
    """

    order: Order | None
    certainty: Certainty
    reason: str
    refuted: Mapping[Order, str] = MappingProxyType({})
    harmless: bool = False

    @property
    def is_certain(self) -> bool:
        """True if the vectors may be reordered: the order is proven or stated."""
        return self.certainty in {"proven", "stated"}

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return {
            "order": self.order,
            "certainty": self.certainty,
            "reason": self.reason,
            "refuted": dict(self.refuted),
            "harmless": self.harmless,
        }


def stated_order(order: str) -> OrderDecision:
    """Return the decision for an order that the user states. Raises `UsageError` if there is no such order."""
    return OrderDecision(known_order(order), "stated", f"order {order} was stated")


def decide_order(model_tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> OrderDecision:
    """Decide from the bytes in which order the flat vectors are.

    `state` holds the optimizer's vectors by name; x, v, m and g are looked at, others are ignored. Of long vectors only
    as much is read as the decision needs: one row that is zero may be enough. An order is called proven if x equals
    the weights in this order alone, or if rows of zeros exclude the others. Not proven is an order that is merely
    likelier. Raises `FileError` if the file cannot be read.
    """
    try:
        counts, n_layer = element_counts(model_tensors)
    except UnfitError as error:
        return _undecidable(error.message)
    vectors = {name: state[name] for name in ("x", "v", "m", "g") if name in state}
    layouts = {order: Layout(order, counts, n_layer) for order in ORDERS}
    n_params, n_embd = layouts["A"].n_params, counts["norm"]
    if not vectors or not n_params:
        return _undecidable("the file holds no vector of the optimizer")
    for name, vector in vectors.items():
        if vector.type != "F32":
            return _undecidable(f"{name} is {vector.type}, not F32")
        if vector.n_elements != n_params:
            return _undecidable(f"{name} holds {vector.n_elements} values, but the model has {n_params} parameters")
    if not n_layer:  # then B and C are the same
        del layouts["B"]
    evidence = _Evidence(model_tensors, layouts, n_embd)
    if "x" in vectors:
        evidence.compare_weights(vectors["x"])
    name = "v" if "v" in vectors else "g"
    if evidence.verdict is None and name in vectors:
        if name == "v" and all(is_zero(vectors[moment]) for moment in ("v", "m") if moment in vectors):
            return OrderDecision(None, "undecidable", "all moments are zero, in whatever order", evidence.refuted, True)
        evidence.search_zero_rows(name, vectors[name])
        if evidence.verdict is None:
            evidence.compare_likelihoods(name, vectors[name])
    return evidence.verdict or _undecidable(f"the file holds neither v nor g{evidence.note}")


class _Evidence:
    """What the bytes say of each order. `verdict` is None until a method has found the decision.

    `layouts` holds the pieces of each order that is still possible; `refuted` says how the others were excluded.
    """

    def __init__(self, model_tensors: Mapping[str, Tensor], layouts: Mapping[Order, Layout], n_embd: int) -> None:
        self.model_tensors, self.n_embd = model_tensors, n_embd
        self.layouts = dict(layouts)
        self.refuted: dict[Order, str] = {}
        self.verdict: OrderDecision | None = None
        self.note = ""  # what a later decision should mention

    def compare_weights(self, x: Tensor) -> None:
        """Compare x with the model's weights in every order, bit for bit."""
        differing = {}
        for order, layout in self.layouts.items():
            path = self._first_difference(x, layout)
            if path is not None:
                differing[order] = f"x differs from the weights of {path}"
        if len(differing) == len(self.layouts):
            self.note = "; x equals the model's weights in no order"
            return
        for order, how in differing.items():
            self._refute(order, how)
        if len(self.layouts) == 1:
            extent = "" if x.n_elements <= EXAMINED else ", compared at places spread over all of it"
            self._decide(next(iter(self.layouts)), "proven", f"x equals the model's weights bit for bit{extent}")
        else:
            self.note = f"; x equals the weights in the orders {' and '.join(self.layouts)}"

    def _first_difference(self, x: Tensor, layout: Layout) -> str | None:
        """Return the path of a tensor of the model from which x differs, None if there is none."""
        for row, block in sampled_rows(x, self.n_embd):
            start = at = row * self.n_embd
            stop = start + len(block) // SIZE
            index = layout.index_at(start)
            while at < stop:
                piece = layout[index]
                end = min(stop, piece.start + piece.count)
                weights = _bytes(self.model_tensors[piece.path], at - piece.start, end - piece.start)
                if block[(at - start) * SIZE : (end - start) * SIZE] != weights:
                    return piece.path
                at, index = end, index + 1
        return None

    def search_zero_rows(self, name: str, vector: Tensor) -> None:
        """Search rows of zeros in those parts of the vector that are tok_embeddings in one order or another.

        Between two neighbouring edges of these parts, all rows are in tok_embeddings in the same orders, so that the
        first row of zeros says as much as all of them.
        """
        embeddings = {order: self._embeddings(layout) for order, layout in self.layouts.items()}
        edges = sorted({edge for rows in embeddings.values() for edge in (rows.start, rows.stop)})
        stretches = [
            (range(start, stop), {order for order, rows in embeddings.items() if start in rows})
            for start, stop in pairwise(edges)
        ]
        stretches = sorted((stretch for stretch in stretches if stretch[1]), key=lambda stretch: len(stretch[1]))
        few = max(1, BLOCK // self.n_embd)
        # Mostly the first or the last rows of a stretch decide; then the rest need not be read.
        probes = [(ends, holders) for rows, holders in stretches for ends in (rows[:few], rows[-few:])]
        found = False
        for rows, holders in probes + stretches:
            if found and not 0 < len(holders & self.layouts.keys()) < len(self.layouts):
                continue  # a row of zeros here would exclude no order, or all that are left
            row = self._first_zero_row(vector, rows)
            if row is None:
                continue
            found = True
            for order in self.layouts.keys() - holders:
                self._refute_by_row(order, row, name)
            if len(self.layouts) == 1:
                break
        if found:
            self._judge_zero_rows(name, vector)

    def _judge_zero_rows(self, name: str, vector: Tensor) -> None:
        """Decide among the orders that have all rows of zeros found so far in tok_embeddings."""
        usual = [order for order, layout in self.layouts.items() if self._is_usual(vector, self._embeddings(layout))]
        left = usual if len(usual) == 1 else list(self.layouts)
        if len(left) > 1:
            return
        order = left[0]
        if (row := self._zero_row_elsewhere(vector, self.layouts[order], thorough=not usual)) is not None:
            for refuted in list(self.layouts):
                self._refute_by_row(refuted, row, name)
            reason = f"{name} has rows of zeros outside of tok_embeddings in every known order"
            self._decide(None, "undecidable", reason)
            return
        reason = f"the rows of zeros in {name}, of tokens that did not occur, all lie in tok_embeddings"
        if len(self.layouts) > 1:
            reason += ", row 0 (<unk>) is one of them and row 1 (<s>) is not"
            if self._favourite(vector) not in {order, None}:
                self._decide(None, "undecidable", f"{reason}, but the sizes of the values speak for another order")
                return
            for refuted in self.layouts.keys() - {order}:
                self._refute(refuted, f"row 0 of tok_embeddings (<unk>) is not zero in {name}")
        self._decide(order, "proven", reason)

    def compare_likelihoods(self, name: str, vector: Tensor) -> None:
        """Take the order in which one Gaussian per tensor describes the logarithms of the values best."""
        order = self._favourite(vector)
        if order is None:
            reason = f"neither rows of zeros in {name} nor the sizes of its values tell the order"
            self._decide(None, "undecidable", reason)
        else:
            self._decide(order, "likely", f"in this order the values of {name} differ least within each tensor")

    def _favourite(self, vector: Tensor) -> Order | None:
        """Return the order of the highest likelihood, None if another one comes close."""
        import numpy as np

        starts = {order: layout.starts() // self.n_embd for order, layout in self.layouts.items()}
        edges = np.unique(np.concatenate(list(starts.values())))
        count, total, squares = np.zeros((3, edges.size))  # of the logarithms, between neighbouring edges
        n_rows = 0
        for first, data in sampled_rows(vector, self.n_embd):
            block = decode(data, vector.type, vector.byte_order).reshape(-1, self.n_embd)
            size = np.abs(block)
            usable = (size > 0) & np.isfinite(size)
            logs = np.log(size, out=np.zeros_like(size), where=usable).astype(np.float64)
            index = np.searchsorted(edges, np.arange(first, first + len(block)), side="right") - 1
            count += np.bincount(index, usable.sum(axis=1), edges.size)
            total += np.bincount(index, logs.sum(axis=1), edges.size)
            squares += np.bincount(index, (logs * logs).sum(axis=1), edges.size)
            n_rows += int(usable.any(axis=1).sum())
        if not n_rows:
            return None
        likelihoods: dict[Order, float] = {}
        for order, rows in starts.items():
            index = np.searchsorted(edges, rows)
            n, mean, square = (np.add.reduceat(sums, index) for sums in (count, total, squares))
            n, mean, square = n[n > 0], mean[n > 0] / n[n > 0], square[n > 0] / n[n > 0]
            variance = np.maximum(square - mean * mean, 0)
            # As if one more value had been seen at a distance of 1, so that a constant has no infinite likelihood.
            likelihoods[order] = float(-0.5 * np.sum(n * np.log((n * variance + 1) / (n + 1))))
        second, best = sorted(likelihoods, key=likelihoods.__getitem__)[-2:]
        gap = (likelihoods[best] - likelihoods[second]) / float(count.sum())
        least = max(LEAST_GAP_PER_VALUE, LEAST_GAP_IN_ROWS * len(self.model_tensors) ** 0.5 / n_rows)
        return best if gap >= least else None

    def _embeddings(self, layout: Layout) -> range:
        """Return the rows of the vector that are tok_embeddings."""
        piece = layout.find("tok_embeddings")
        assert piece is not None  # noqa: S101 - every order has it
        return range(piece.start // self.n_embd, (piece.start + piece.count) // self.n_embd)

    def _is_usual(self, vector: Tensor, embeddings: range) -> bool:
        """Return whether row 0, of `<unk>`, is zero, and row 1, of `<s>`, is not."""
        unknown, begin = embeddings[:1], embeddings[1:2]
        return self._first_zero_row(vector, unknown) is not None and self._first_zero_row(vector, begin) is None

    def _zero_row_elsewhere(self, vector: Tensor, layout: Layout, *, thorough: bool) -> int | None:
        """Return a row of zeros outside of tok_embeddings, if there is one; look at all rows if `thorough`."""
        embeddings = self._embeddings(layout)
        for first, block in sampled_rows(vector, self.n_embd, thorough=thorough):
            for row in self._zero_rows(block, first):
                if row not in embeddings:
                    return row
        return None

    def _first_zero_row(self, vector: Tensor, among: range) -> int | None:
        for first, block in _rows(vector, self.n_embd, among.start, among.stop):
            for row in self._zero_rows(block, first):
                return row
        return None

    def _zero_rows(self, block: bytes, first: int) -> Iterator[int]:
        """Yield the numbers of the rows in which all values are zero; `first` is that of the block's first row."""
        width = self.n_embd * SIZE
        for number, at in enumerate(range(0, len(block), width), first):
            if block[at : at + SIZE] in ZEROS and not any(array("f", block[at : at + width])):
                yield number

    def _refute_by_row(self, order: Order, row: int, name: str) -> None:
        layout = self.layouts[order]
        piece = layout[layout.index_at(row * self.n_embd)]
        values = f"values {row * self.n_embd} to {(row + 1) * self.n_embd - 1} of {name}"
        self._refute(order, f"{values} are zero, which in this order lie in {piece.path}")

    def _refute(self, order: Order, how: str) -> None:
        del self.layouts[order]
        self.refuted[order] = how

    def _decide(self, order: Order | None, certainty: Certainty, reason: str) -> None:
        self.verdict = OrderDecision(order, certainty, reason + self.note, dict(sorted(self.refuted.items())))


def sampled_rows(
    vector: Tensor, n_embd: int, among: range | None = None, *, thorough: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first row, bytes) for blocks of rows of n_embd values, evenly spread over the vector.

    All rows come if they have no more than EXAMINED values, or if `thorough`. `among` limits the rows.
    """
    among = range(vector.n_elements // n_embd) if among is None else among
    if thorough or len(among) * n_embd <= EXAMINED:
        yield from _rows(vector, n_embd, among.start, among.stop)
        return
    rows = max(1, BLOCK // n_embd)
    blocks = max(2, EXAMINED // (rows * n_embd))
    for block in range(blocks):
        first = among.start + block * (len(among) - rows) // (blocks - 1)
        yield from _rows(vector, n_embd, first, first + rows)


def is_zero(vector: Tensor) -> bool:
    """Return whether all values that are examined are zero. Reading ends at the first one that is not."""
    for _, block in sampled_rows(vector, 1 if vector.n_elements <= EXAMINED else BLOCK):
        if block.strip(b"\0"):
            return False
    return True


def floats(data: bytes, byte_order: str) -> array[float]:
    """Return F32 values in the byte order of a file as numbers."""
    values = array("f", data)
    if byte_order != sys.byteorder:
        values.byteswap()
    return values


def _rows(vector: Tensor, n_embd: int, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the first row, bytes of the rows) from `start` to `stop`, about 2 MiB at a time."""
    step = max(1, READ_AT_ONCE // n_embd)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        yield first, _bytes(vector, first * n_embd, last * n_embd)


def _bytes(tensor: Tensor, start: int, stop: int) -> bytes:
    """Return the bytes of the elements from `start` to `stop`, few enough for memory."""
    return tensor.source.read(tensor.offset + start * SIZE, (stop - start) * SIZE)


def _undecidable(reason: str) -> OrderDecision:
    return OrderDecision(None, "undecidable", reason)
