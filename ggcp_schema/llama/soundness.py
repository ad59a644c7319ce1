"""Find lost pages and flipped bits in a training state, where the values prove that no program wrote them.

The evidence is never a matter of probability. What is not proven is not reported, so that a state without findings may
still be damaged. Three things are no evidence, since genuine files have them: rows of zeros in both moments, of tokens
that never occurred; rows of tok_embeddings with zeros in m alone, of tokens that have not occurred for so long that m,
which fades faster than v, has become zero; an x that is zero from end to end, as the writer of 28 August 2023 left it.

This module imports numpy; only commands that read tensor data import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ggcp_schema.errors import UnfitError
from ggcp_schema.files.tensor import AT_ONCE, Tensor, stream_pieces, stream_values
from ggcp_schema.llama.adam import AdamParams, largest_root
from ggcp_schema.llama.lbfgs import changed_steps
from ggcp_schema.llama.parameters import ORDERS, Layout, VectorPart
from ggcp_schema.llama.runs import KEPT, Run, Runs, joined
from ggcp_schema.llama.state import RULES, State, Unsound, order_of_x, place_text

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
Look = Callable[[Tensor, int, Floats], None]
Key = TypeVar("Key")

LEAST = 16  # zeros in a row that are no chance: even one weight in 2**24 would be zero by chance
HUGE = {"v": 1e24}  # v is a mean of squares
SIGN, SIZE = np.uint32(1 << 31), np.uint32((1 << 31) - 1)  # bits of a float32; those of sizes are in their order
HUGE_WEIGHT = 1e18  # its square is beyond float32 in any sum, so the loss could not have been finite
M_FADES = 400  # iterations before which no m fades to zero with beta1 = 0.9 while v is not
HUGE_BITS = {name: np.float32(value).view(np.uint32) for name, value in HUGE.items()}
HUGE_WEIGHT_BITS = np.float32(HUGE_WEIGHT).view(np.uint32)
FADED = 1e-25  # the size of values beside a value that has faded to zero is far below this
FADES = 50_000  # iterations after which the decay may have made the embeddings of unused tokens zero
SQUARE = np.float32(1e-38)  # far above what underflow takes from v, far below any gradient's square
BLOCKS = 1 << 20  # of a vector of which a watch remembers the largest value, if n_embd allows so few
SMALL_BLOCK = 64  # values, of which a page of 512 bytes has a whole block; smaller ones take longer than the copying
ZEROS_OF_V = "zeros-of-v"  # no rule: these runs join those of a rule
SMALL = 1 << 12  # bytes of a tensor that is looked at together with others
AT_MOST = 512  # tensors that are looked at together
SHOWN = 100  # findings of one rule in one tensor


def examine(state: State, progress: Callable[[int], None] | None = None, look: Look | None = None) -> list[Unsound]:
    """Return what is unsound in a training state, in file order.

    Reads the weights, m, v, mh, vh, x, lms and lmy in pieces. An x that holds the weights is then read again, with
    them. `progress` is called with the number of bytes just read, and `look` with the values of all but lms and lmy
    that are read for the first time: the tensor, the index of the first, and the values. Raises `FileError` if the file
    becomes too short.
    """
    watch = Watch(state)
    together: Together[str] = Together(lambda name, values: watch.look(name, 0, values))
    names = {state.tensor(name).path: name for name in (*state.model, "x") if name != "x" or name in state.vectors}
    for tensor, at, values in stream_pieces([*map(state.tensor, names.values())]):
        name = names[tensor.path]
        if name in state.model and values.nbytes == tensor.nbytes <= SMALL:
            together.add(name, values)
        else:
            watch.look(name, at, values)
        if look:
            look(tensor, at, values)
        if progress:
            progress(values.nbytes)
    together.finish()
    watch.moments(progress, look=look)
    watch.differences(progress)
    found = [*watch.findings(), *changed_steps(state, progress)]
    return sorted(found, key=lambda finding: (finding.start, finding.stop))


def examine_moments(state: State) -> list[Unsound]:
    """Return what is unsound in m and v, in file order; of the rest of the state nothing is read but mh and vh."""
    watch = Watch(state._replace(losses=()))
    watch.moments()
    return watch.findings()


class Together(Generic[Key]):
    """Looks at the weights of small tensors, of which there may be very many, together, and at each if that is needed.

    `look` gets what was added with the values, and the values.
    """

    def __init__(self, look: Callable[[Key, Floats], object]) -> None:
        self._look = look
        self._added: list[tuple[Key, bytes]] = []

    def add(self, key: Key, values: Floats) -> None:
        """Look at the values of a whole tensor, now or later."""
        self._added.append((key, values.tobytes()))
        if len(self._added) == AT_MOST:
            self.finish()

    def finish(self) -> None:
        """Look at the values that were added last."""
        added, self._added = self._added, []
        if not added:  # as before each chunk of a large tensor
            return
        bits = np.frombuffer(b"".join(data for _, data in added), "<u4") & SIZE
        if np.count_nonzero(bits) < len(bits) or np.maximum.reduce(bits, initial=0) > HUGE_WEIGHT_BITS:
            for key, data in added:
                self._look(key, np.frombuffer(data, "<f4"))


@dataclass
class Watch:
    """Looks at tensors as they are copied: `look` takes the values, `finish` returns what is unsound.

    Nothing is read twice but the neighbourhood of what is suspicious. Of m and v only the largest value of each block
    is kept; a block is one value in small models, and n_embd values at most, so that m may exceed v unnoticed in large
    ones. x is not compared with the weights.
    """

    state: State
    runs: dict[tuple[str, str], Runs] = field(default_factory=dict)
    peaks: dict[str, Bits] = field(default_factory=dict)

    def look(self, name: str, at: int, values: Floats) -> bool:
        """Look at values of a tensor, of which the first is element `at`. Return True if all are finite."""
        if not len(values):
            return True
        bits = values.view(np.uint32)
        if name != "v":
            bits = bits & SIZE
        if name in ("m", "v"):
            most = self._keep_peaks(name, at, bits)
            if most >= SIGN:
                self._add("negative-v", name, at, values < 0)
                most = self._keep_peaks(name, at, bits & SIZE)
        else:
            most = np.maximum.reduce(bits)
            # LEAST zeros in a row have one at these places, unless they go on in the next values.
            has_runs = np.count_nonzero(bits[::LEAST]) * LEAST < len(bits) or not bits[-1]
            if has_runs and (name == "x" or name in self.state.model):
                self._add("zeros-in-x" if name == "x" else "zeros-in-weights", name, at, values == 0)
        if most <= HUGE_BITS.get(name, HUGE_WEIGHT_BITS):
            return True
        limit = np.float32(HUGE.get(name, HUGE_WEIGHT))
        finite = np.isfinite(values)
        self._add("not-finite", name, at, ~finite)
        self._add("huge", name, at, finite & (np.abs(values) > limit))
        return bool(finite.all())

    def finish(self) -> list[Unsound]:
        """Return what is unsound in the tensors that were looked at, in file order."""
        peaks = {name: found.view(np.float32) for name, found in self.peaks.items()}
        if {"m", "v"} <= peaks.keys() and len(peaks["m"]) == len(peaks["v"]):
            found = Runs()
            step = AT_ONCE // 8  # of the numbers that are made of them, some are float64
            for at in range(0, len(peaks["m"]), step):
                m, v = peaks["m"][at : at + step], peaks["v"][at : at + step]
                with np.errstate(invalid="ignore"):
                    found.add(at, (m > self._root * np.sqrt(v + SQUARE)) | ((m == 0) & (v > 0)))
            for run in found.kept:
                self.moments(start=(run.start - 1) * self._block, stop=(run.stop + 1) * self._block)
        return self.findings()

    # Rules ------------------------------------------------------------------------------------------------

    def moments(
        self,
        progress: Callable[[int], None] | None = None,
        start: int = 0,
        stop: int | None = None,
        look: Look | None = None,
    ) -> None:
        """Compare m with v, and with mh and vh if the file has them, from one element to another."""
        vectors = self.state.vectors
        names = ["m", "v", "mh", "vh"] if {"mh", "vh"} <= vectors.keys() else ["m", "v"]
        if not {"m", "v"} <= vectors.keys() or len({vectors[name].n_elements for name in names}) > 1:
            return
        n_elements = vectors["m"].n_elements
        start, stop = max(start, 0), min(n_elements if stop is None else stop, n_elements)
        parts = [
            replace(vector, shape=(stop - start,), offset=vector.offset + 4 * start, nbytes=4 * (stop - start))
            for vector in map(vectors.__getitem__, names)
        ]
        at = start
        for pieces in zip(*(stream_values([part]) for part in parts), strict=True):
            values = dict(zip(names, pieces, strict=True))
            m, v = values["m"], values["v"]
            for name in ("m", "v"):
                self.look(name, at, values[name])
            if look:
                for name, piece in values.items():
                    look(vectors[name], at, piece)
            with np.errstate(invalid="ignore", over="ignore"):
                limit = np.zeros_like(v)
                np.maximum(v, limit, out=limit)  # with a number in place of an array it takes eight times as long
                limit += SQUARE
                np.sqrt(limit, out=limit)
                limit *= self._root
                exceeds, no_v = np.abs(m) > limit, v == 0
                self._add("m-without-v", "v", at, exceeds & no_v)
                self._add(ZEROS_OF_V, "v", at, no_v)
                self._add("m-exceeds-v", "m", at, exceeds & ~no_v)
                self._add("zeros-in-m", "m", at, (m == 0) & (v > 0))
                if len(names) > 2 and self.state.adam is not None and self.state.adam.is_usual:
                    self._corrected(self.state.adam, at, *pieces)
            at += len(m)
            if progress:
                progress(sum(piece.nbytes for piece in pieces))

    def _corrected(self, adam: AdamParams, at: int, m: Floats, v: Floats, mh: Floats, vh: Floats) -> None:
        """Compare m and v with mh and vh. Where m gives mh by vh, and v does not give vh, v is wrong.

        Where m is 0, any vh gives mh: only one that tells a v of 0 is right.
        """
        of_v = adam.differs_from_vh(v, vh)
        of_m = adam.differs_from_mh(m, vh, mh)
        self._add("v-differs", "v", at, of_v & ~of_m & ((m != 0) | (vh == np.float32(adam.eps))))
        self._add("m-differs", "m", at, of_m & ~of_v)

    def differences(self, progress: Callable[[int], None] | None = None) -> list[tuple[str, Run, int]]:
        """Compare x with the weights, if they are equal in some order but for a few places. Return those.

        Each is the path of a tensor of the model, its elements, and the first of x that is another one.
        """
        order = order_of_x(self.state)
        if order is None:
            return []
        x, n_wrong = self.state.vectors["x"], 0
        found: list[tuple[str, Run, int]] = []
        for part in Layout.of(order, self.state.model):
            weights, wrong, at = self.state.model[part.path], Runs(), 0
            ours = weights.values()
            theirs = x.values(part.start, part.start + part.count)
            for a, b in zip(ours, theirs, strict=True):
                wrong.add(at, a.view(np.uint32) != b.view(np.uint32))
                at += len(a)
                if progress:
                    progress(a.nbytes + b.nbytes)
            n_wrong += wrong.count
            found += [(part.path, run, part.start + run.start) for run in wrong.kept]
            self.runs["x-differs", part.path] = wrong
        if 4 * n_wrong > x.n_elements:
            self.runs = {key: runs for key, runs in self.runs.items() if key[0] != "x-differs"}
            return []
        return found

    # Findings ---------------------------------------------------------------------------------------------

    def findings(self) -> list[Unsound]:
        """Return what has been found so far, in file order."""
        found = self.state.impossible_losses()
        if self._among_zeros:
            self.runs["nonzero-in-x", "x"] = odd = Runs()
            for run in self._among_zeros:
                odd.add(run.start, np.ones(len(run), bool))
        reported: dict[str, list[Run]] = {}
        for rule in RULES:  # the rules that compare come last, and only report what no other has reported
            for name in [name for other, name in self.runs if other == rule]:
                runs = self.runs[rule, name]
                if rule.endswith("-differs") and is_loss_of_relation(runs.count, self.state.tensor(name).n_elements):
                    continue
                kept = [run for run in runs.kept if not self._is_explained(rule, name, run)]
                if rule == "m-without-v" and (ZEROS_OF_V, "v") in self.runs:
                    kept = list(joined(kept, self.runs[ZEROS_OF_V, "v"].kept))
                if rule.endswith("-differs"):
                    kept = [run for run in kept if not any(run.within(other) for other in reported.get(name, ()))]
                reported.setdefault(name, []).extend(kept)
                found += self._described(rule, name, kept, runs)
        return sorted(found, key=lambda finding: (finding.start, finding.stop))

    def _described(self, rule: str, name: str, kept: list[Run], runs: Runs) -> Iterator[Unsound]:
        tensor = self.state.tensor(name)
        for number, run in enumerate(kept[:SHOWN], 1):
            start, stop = tensor.offset + 4 * run.start, tensor.offset + 4 * run.stop
            text = f"{RULES[rule]}: {place_text(tensor, start, stop)}"
            more = runs.count - sum(map(len, kept[:SHOWN])) if number == SHOWN else 0
            text += f"; and {more:,} more values" if more > 0 else ""
            yield Unsound(self.state.path(name), start, stop, rule, text)

    def _is_explained(self, rule: str, name: str, run: Run) -> bool:
        """Return True if a run is no proof, since genuine files have such."""
        tensor = self.state.tensor(name)
        if rule == "zeros-in-x":
            return len(run) == tensor.n_elements or bool(self._among_zeros)
        if rule == "zeros-in-weights":
            return name == "tok_embeddings" and self.state.iterations > FADES
        if rule == "zeros-in-m":
            adam = self.state.adam
            if adam is not None and adam.beta1 > 0.89 and self.state.iterations < M_FADES:
                return False
            return self._may_be_embeddings(run) and not self._breaks_a_row(tensor, run)
        return False

    @cached_property
    def _among_zeros(self) -> list[Run]:
        """The values of x that are not 0, if x begins and ends in zeros and no pages of it can be between them."""
        zeros = self.runs["zeros-in-x", "x"].kept if ("zeros-in-x", "x") in self.runs else []
        if not zeros or len(zeros) == KEPT or zeros[0].start or zeros[-1].stop != self.state.vectors["x"].n_elements:
            return []
        between = [Run(one.stop, other.start) for one, other in pairwise(zeros)]
        return between if all(len(run) < LEAST for run in between) else []

    def _breaks_a_row(self, m: Tensor, run: Run) -> bool:
        """Return True if the run begins or ends inside of a row whose next value has not faded.

        The values of a row fade together, so the neighbours of a zero are tiny.
        """
        n_embd = self.state.n_embd
        edges = [at for at, inside in ((run.start - 1, run.start % n_embd), (run.stop, run.stop % n_embd)) if inside]
        return any(abs(m.numbers(at, at + 1)[0]) > FADED for at in edges)

    def _may_be_embeddings(self, run: Run) -> bool:
        """Return True if the run lies in tok_embeddings in an order that the parameters may have."""
        parts = self._embeddings
        return parts is None or any(run.start < part.start + part.count and run.stop > part.start for part in parts)

    @cached_property
    def _embeddings(self) -> list[VectorPart] | None:
        """Where tok_embeddings are in the orders that the parameters may have; None if the model is not whole."""
        order = None if self.state.order is None else self.state.order()
        try:
            layouts = [Layout.of(known, self.state.model) for known in (ORDERS if order is None else (order,))]
        except UnfitError:
            return None
        return [layout.by_path["tok_embeddings"] for layout in layouts]

    def covers(self, rule: str, name: str, run: Run) -> bool:
        """Return True if a rule has found a run that holds all these elements."""
        return (rule, name) in self.runs and self.runs[rule, name].covers(run)

    def allows(self, m: Floats, v: Floats) -> bool:
        """Return True if these can be means of the same gradients, and of their squares."""
        return bool((np.abs(m) <= self._root * np.sqrt(np.maximum(v, np.float32(0)) + SQUARE)).all())

    # Helpers ----------------------------------------------------------------------------------------------

    @property
    def _root(self) -> np.float32:
        """How much larger than the root of v m can be, with a margin for rounding."""
        root: np.float32 = np.float32(1.01 * largest_root(self.state.adam))
        return root

    @cached_property
    def _block(self) -> int:
        """The values of a block: a divisor of n_embd, because all tensors have a multiple of n_embd values."""
        n_params, n_embd = self.state.n_params, self.state.n_embd
        wanted = 1 if n_params <= BLOCKS else max(SMALL_BLOCK, -(-n_params // BLOCKS))
        return next((size for size in range(wanted, n_embd) if n_embd % size == 0), max(n_embd, 1))

    def _keep_peaks(self, name: str, at: int, bits: Bits) -> np.uint32:
        """Keep the largest size of each block, unless one has its sign; return the largest of all."""
        block = self._block
        if name not in self.peaks:
            self.peaks[name] = np.zeros(-(-self.state.vectors[name].n_elements // block), np.uint32)
        first = at // block
        starts = np.arange(first * block - at, len(bits), block)
        starts[0] = 0
        largest = bits if block == 1 else np.maximum.reduceat(bits, starts)
        most: np.uint32 = largest.max()
        if most < SIGN:
            part = self.peaks[name][first : first + len(starts)]
            np.maximum(part, largest, out=part)
        return most

    def _add(self, rule: str, name: str, at: int, mask: Mask) -> None:
        least = LEAST if rule.startswith("zeros-") else 1
        if self.state.tensor(name).n_elements >= least:
            self.runs.setdefault((rule, name), Runs(least)).add(at, mask)


def is_loss_of_relation(count: int, n_elements: int) -> bool:
    """Return True if so many values differ that it proves nothing: then they are of other steps or programs."""
    return 2 * count > n_elements
