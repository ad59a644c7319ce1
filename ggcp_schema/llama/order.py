"""Decide in which order the optimizer's flat vectors hold the parameters.

No file stores it, but the bytes may tell:

1. x, the parameters that the optimizer worked on, equals the model's weights in the order of the last program.
2. A token that never occurred has a row of zeros in v and m. Such a row lies in tok_embeddings; an order that puts one
   elsewhere is excluded. Of a training whose order changed, only rows that are in tok_embeddings in both are left.
3. A token that occurred long ago has a row of m that decayed to denormal numbers, in the order of the last program.
4. `<s>` begins every sample, so its row is not zero. A GGUF file states its id.
5. The moments of one tensor are of like size, so the right order explains them best, m's as well as v's.

1 and 2 are proof if they leave one order, for a program that is known. The others only make an order likely: a
tensor may be without a gradient for a long time too.

Tensors are given as in `layout`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Literal, NamedTuple

from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.tensor import Tensor, decode
from ggcp_schema.llama.parameters import CHECKPOINT_ORDERS, Layout, Order, element_counts, known_order
from ggcp_schema.llama.rows import EXAMINED, SIZE, floats, sampled_rows
from ggcp_schema.llama.writers import join_words

Certainty = Literal["proven", "likely", "undecidable", "stated"]

TOGETHER = 64  # small blocks of a sample, of which each for itself would take many times as long
SEARCHED = 1 << 28  # values of a vector in which rows of zeros are searched for everywhere, not in a sample
LEAST_NORMAL = 2.0**-126  # m of a token that no longer occurs decays to a few denormal units, not to zero

# By how much the best order must surpass the second in log likelihood. Rows count as the independent observations.
# In synthetic files whose tensors are all alike, a wrong order led by at most 2.5 (in rows).
LEAST_GAP_PER_VALUE, LEAST_GAP_IN_ROWS = 0.005, 3.5
HOW_LIKELY = "(right for 374 of 374 synthetic trainings; for 434 of 565 if their order had changed on the way)"


class OrderDecision(NamedTuple):
    """The order of a file's flat vectors, and how it is known.

    Attributes:
        order: A, B, C or D; None if it is undecidable.
        certainty: "proven" by the bytes, only "likely", "undecidable", or "stated" by the user.
        reason: the evidence, in words for a person; with a figure where the order is only likely.
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


def stated_order(
    order: str, decided: OrderDecision, model_tensors: Mapping[str, Tensor], path: str, orders: Collection[Order]
) -> OrderDecision:
    """Return the decision for an order that the user states, instead of the one decided for the file at `path`.

    `model_tensors` and `orders` are those of `decide_order`. Raises `UsageError` if there is no such order, or if the
    bytes exclude it.
    """
    stated = known = known_order(order)
    if not any(name.startswith("layers[") for name in model_tensors):  # then A and D are the same, and B and C
        known = "A" if order in {"A", "D"} else "C"
    why, hint = "", "State no order."
    if decided.is_certain and known != decided.order:
        proof = "the bytes prove" if decided.certainty == "proven" else "it is"
        why = f"{proof} {decided.order}: {decided.reason}"
    elif known in decided.refuted:
        why = f"the bytes exclude it: {decided.refuted[known]}"
        left = join_words(other for other in orders if other not in decided.refuted)
        hint = f"They do not exclude {left}." if left and decided.order is None else hint
    if why:
        raise UsageError(f"{path}: order {order} was stated, but {why}", hint)
    return OrderDecision(stated, "stated", f"order {order} was stated")


def decide_order(
    model_tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    orders: Collection[Order] = CHECKPOINT_ORDERS,
    begin: int | None = None,
) -> OrderDecision:
    """Decide from the bytes in which order the flat vectors are.

    `state` holds the optimizer's vectors by name; x, v, m and g are looked at, others are ignored. `orders` are those
    that a program can have written into a file of this kind; `begin` is the id of the token that begins every sample,
    if the file states it. Raises `FileError` if the file cannot be read.
    """
    try:
        counts, n_layer = element_counts(model_tensors)
    except UnfitError as error:
        return _undecidable(error.message)
    vectors = {name: state[name] for name in ("x", "v", "m", "g") if name in state}
    layouts = {order: Layout(order, counts, n_layer) for order in orders}
    if not n_layer:  # then A and D are the same, and B and C
        layouts = {order: layout for order, layout in layouts.items() if order in "AC"}
    n_params, n_embd = layouts["A"].n_params, counts["norm"]
    if not vectors or not n_params:
        return _undecidable("the file holds no vector of the optimizer")
    for name, vector in vectors.items():
        if vector.type != "F32":
            return _undecidable(f"{name} is {vector.type}, not F32")
        if vector.n_elements != n_params:
            return _undecidable(f"{name} holds {vector.n_elements} values, but the model has {n_params} parameters")
    evidence = _Evidence(model_tensors, vectors, layouts, n_embd)
    return (
        evidence.compare_weights()
        or evidence.search_zero_rows()
        or evidence.search_decayed_rows()
        or evidence.look_at_begin(begin)
        or evidence.compare_sizes()
        or _undecidable(f"the file holds neither v nor g{evidence.note}")
    )


class _Evidence:
    """What the bytes say of each order. Each method of finding the decision returns it, or None.

    `layouts` holds the parts of each order that is still possible; `refuted` says how the others were excluded.
    """

    def __init__(
        self,
        model_tensors: Mapping[str, Tensor],
        vectors: Mapping[str, Tensor],
        layouts: Mapping[Order, Layout],
        n_embd: int,
    ) -> None:
        self.model_tensors, self.vectors, self.n_embd = model_tensors, vectors, n_embd
        self.layouts = dict(layouts)
        self.embeddings = {order: layout.by_path["tok_embeddings"].rows(n_embd) for order, layout in layouts.items()}
        self.name = "v" if "v" in vectors else "g"  # the vector whose rows and sizes tell the order
        self.n_rows = layouts["A"].n_params // n_embd
        self.refuted: dict[Order, str] = {}
        self.note = ""  # what a later decision should mention

    def compare_weights(self) -> OrderDecision | None:
        """Compare x with the model's weights in every order, bit for bit."""
        x = self.vectors.get("x")
        if x is None:
            return None
        differing = {}
        for order, layout in self.layouts.items():
            path = self._first_difference(x, layout)
            if path is not None:
                differing[order] = f"x differs from the weights of {path}"
        if len(differing) == len(self.layouts):
            self.note = "; x equals the model's weights in no order"
            return None
        for order, how in differing.items():
            self._refute(order, how)
        if len(self.layouts) == 1:
            extent = "" if x.n_elements <= EXAMINED else ", compared at places spread over all of it"
            return self._decide(next(iter(self.layouts)), "proven", f"x equals the model's weights bit for bit{extent}")
        self.note = f"; x equals the weights in the orders {' and '.join(self.layouts)}"
        return None

    def _first_difference(self, x: Tensor, layout: Layout) -> str | None:
        """Return the path of a tensor of the model from which x differs, None if there is none."""
        for row, block in sampled_rows(x, self.n_embd):
            start = at = row * self.n_embd
            stop = start + len(block) // SIZE
            index = layout.index_at(start)
            while at < stop:
                part = layout[index]
                end = min(stop, part.start + part.count)
                weights = self.model_tensors[part.path].chunks((at - part.start) * SIZE, (end - part.start) * SIZE)
                if block[(at - start) * SIZE : (end - start) * SIZE] != b"".join(weights):
                    return part.path
                at, index = end, index + 1
        return None

    def search_zero_rows(self) -> OrderDecision | None:
        """Search for the rows of tokens that never occurred, and exclude the orders that have one elsewhere.

        Such a row is zero in v and m. Where only v is zero, values were lost.
        """
        if self.name not in self.vectors:
            return None
        names = [name for name in (self.name, "m") if name in self.vectors]
        n_found, outside = self._search(names, lambda row: not any(row))
        if self.name == "v" and n_found == self.n_rows:
            return self._decide(None, "undecidable", "all moments are zero, in whatever order", harmless=True)
        if len(outside) == len(self.layouts):  # other tensors have such rows too, so that they exclude no order
            reason = f"{self.name} has rows of zeros outside of tok_embeddings in every known order"
            return self._decide(None, "undecidable", reason)
        for order, row in outside.items():
            values = f"values {row * self.n_embd} to {(row + 1) * self.n_embd - 1} of {self.name}"
            part = self.layouts[order][self.layouts[order].index_at(row * self.n_embd)]
            self._refute(order, f"{values} are zero, which in this order lie in {part.path}")
        rows = f"the rows of zeros in {self.name}, of tokens that did not occur,"
        if n_found and len(self.layouts) == 1:
            whole = self.n_rows * self.n_embd <= SEARCHED
            sample = "" if whole else "; only a sample of the rows was examined"
            [order] = self.layouts
            return self._decide(order, "proven" if whole else "likely", f"{rows} all lie in tok_embeddings{sample}")
        if n_found:
            self.note += f"; {rows} lie in tok_embeddings in the orders {' and '.join(self.layouts)}"
        return None

    def search_decayed_rows(self) -> OrderDecision | None:
        """Search for the rows of tokens that have not occurred for 900 iterations: m has only denormal numbers there.

        A row of m that is all zero is no such row: where v is not zero, its values were lost.
        """
        if not {"v", "m"} <= self.vectors.keys():
            return None
        n_found, outside = self._search(["m"], _has_decayed)
        fitting = [order for order in self.layouts if order not in outside]
        if not n_found or len(fitting) != 1:
            return None
        reason = f"{n_found:,} rows of m, of tokens that had not occurred for long, all lie in tok_embeddings"
        return self._decide(fitting[0], "likely", reason)

    def look_at_begin(self, begin: int | None) -> OrderDecision | None:
        """Exclude the orders in which the row of the token that begins every sample is zero."""
        vectors = [self.vectors[name] for name in (self.name, "m") if name in self.vectors]
        if begin is None or not vectors:
            return None
        fitting = []
        for order in self.layouts:
            first = (self.embeddings[order].start + begin) * self.n_embd
            rows = (vector.numbers(first, first + self.n_embd) for vector in vectors)
            if begin < len(self.embeddings[order]) and any(map(any, rows)):
                fitting.append(order)
        if len(fitting) != 1:
            return None
        reason = f"in the others, the row of token {begin}, which begins every sample, is zero in {self.name}"
        return self._decide(fitting[0], "likely", reason)

    def compare_sizes(self) -> OrderDecision | None:
        """Take the order in which one Gaussian per tensor describes the logarithms of the values best.

        m, which remembers only the last iterations, has to agree with v: in a training whose order changed it does not.
        """
        if self.name not in self.vectors:
            return None
        order, lead = self._favourite(self.vectors[self.name])
        recent = self._favourite(self.vectors["m"])[0] if "m" in self.vectors else order
        if lead < 1:
            reason = f"neither rows of zeros in {self.name} nor the sizes of its values tell the order"
            return self._decide(None, "undecidable", reason)
        if recent != order:
            reason = f"the sizes of the values speak for order {order} in {self.name} and for {recent} in m"
            return self._decide(None, "undecidable", f"{reason}, as after a training whose order changed")
        reason = f"in this order the values of {self.name} differ least within each tensor"
        return self._decide(order, "likely", f"{reason}, by {lead:.1f} times the least lead that counts {HOW_LIKELY}")

    def _favourite(self, vector: Tensor) -> tuple[Order | None, float]:
        """Return the order of the highest likelihood, and its lead as a multiple of the least that counts."""
        import numpy as np

        if len(self.layouts) < 2:
            return next(iter(self.layouts)), 0.0
        starts = {
            order: np.array([part.start for part in layout if part.count]) // self.n_embd
            for order, layout in self.layouts.items()
        }
        edges = np.unique(np.concatenate(list(starts.values())))
        count, total, squares = np.zeros((3, edges.size))  # of the logarithms, between neighbouring edges
        n_rows, blocks = 0, sampled_rows(vector, self.n_embd)
        at_once = 1 if vector.n_elements <= EXAMINED else TOGETHER
        while some := [(first, bytes(data)) for first, data in islice(blocks, at_once)]:
            joined = memoryview(b"".join(data for _, data in some))
            block = decode(joined, vector.type, vector.byte_order).reshape(-1, self.n_embd)
            numbers = [np.arange(first, first + len(data) // (self.n_embd * SIZE)) for first, data in some]
            size = np.abs(block)
            usable = (size >= LEAST_NORMAL) & np.isfinite(size)
            logs = np.log(size, out=np.zeros_like(size), where=usable).astype(np.float64)
            index = np.searchsorted(edges, np.concatenate(numbers), side="right") - 1
            count += np.bincount(index, usable.sum(axis=1), edges.size)
            total += np.bincount(index, logs.sum(axis=1), edges.size)
            squares += np.bincount(index, (logs * logs).sum(axis=1), edges.size)
            n_rows += int(usable.any(axis=1).sum())
        if not n_rows:
            return None, 0.0
        likelihoods: dict[Order, float] = {}
        for order, rows in starts.items():
            index = np.searchsorted(edges, rows)
            n, mean, square = (np.add.reduceat(sums, index) for sums in (count, total, squares))
            n, mean, square = n[n > 0], mean[n > 0] / n[n > 0], square[n > 0] / n[n > 0]
            variance = np.maximum(square - mean * mean, 0)
            # Add one pseudo-observation at distance 1, so that constant values do not have infinite likelihood.
            likelihoods[order] = float(-0.5 * np.sum(n * np.log((n * variance + 1) / (n + 1))))
        second, best = sorted(likelihoods, key=likelihoods.__getitem__)[-2:]
        gap = (likelihoods[best] - likelihoods[second]) / float(count.sum())
        least = max(LEAST_GAP_PER_VALUE, LEAST_GAP_IN_ROWS * len(self.model_tensors) ** 0.5 / n_rows)
        return best, gap / least

    def _search(self, names: list[str], matches: Callable[[array[float]], bool]) -> tuple[int, dict[Order, int]]:
        """Count the rows that match in each of these vectors, and find one outside of tok_embeddings, by order."""
        vector, *others = (self.vectors[name] for name in names)
        n_found = 0
        outside: dict[Order, int] = {}
        for first, block in sampled_rows(vector, self.n_embd, most=SEARCHED):
            rows = _matching(block, vector.byte_order, self.n_embd, matches)
            for other in others if rows else ():
                at = first * self.n_embd * SIZE
                data = memoryview(b"".join(other.chunks(at, at + len(block))))
                rows = sorted({*rows} & {*_matching(data, other.byte_order, self.n_embd, matches)})
            if not rows:
                continue
            n_found += len(rows)
            for order in self.layouts.keys() - outside.keys():
                low, high = (edge - first for edge in (self.embeddings[order].start, self.embeddings[order].stop))
                if rows[0] < low or rows[-1] >= high:
                    outside[order] = first + next(row for row in rows if not low <= row < high)
        return n_found, outside

    def _refute(self, order: Order, how: str) -> None:
        del self.layouts[order]
        self.refuted[order] = how

    def _decide(
        self, order: Order | None, certainty: Certainty, reason: str, *, harmless: bool = False
    ) -> OrderDecision:
        return OrderDecision(order, certainty, reason + self.note, dict(sorted(self.refuted.items())), harmless)


def _matching(
    block: memoryview, byte_order: str, n_embd: int, matches: Callable[[array[float]], bool]
) -> Sequence[int]:
    """Return the numbers of the rows in a block that match. Only rows whose first value is small can."""
    values = block.cast("f")
    firsts = floats(values[::n_embd].tobytes(), byte_order)
    if min(firsts) >= LEAST_NORMAL:
        return ()
    if not any(firsts) and bytes(block) == bytes(len(block)):
        return range(len(firsts)) if matches(firsts) else ()
    small = [row for row, value in enumerate(firsts) if -LEAST_NORMAL < value < LEAST_NORMAL]
    return [row for row in small if matches(floats(block[row * n_embd * SIZE : (row + 1) * n_embd * SIZE], byte_order))]


def _has_decayed(row: array[float]) -> bool:
    """Return True for values of which some are denormal numbers, and all others are zero."""
    return any(row) and all(-LEAST_NORMAL < value < LEAST_NORMAL for value in row)


def _undecidable(reason: str) -> OrderDecision:
    return OrderDecision(None, "undecidable", reason)
