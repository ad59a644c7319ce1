"""Statistics of tensors: one pass over the data, in constant memory, at about the speed of reading it.

This module imports numpy; only commands that read tensor data import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.formats.state import adam_of, iterations_of
from ggcp_schema.inspect.soundness import look_once
from ggcp_schema.inspect.tensors import Listed
from ggcp_schema.inspect.words import Flag
from ggcp_schema.llama.adam import AdamParams, largest_ratio
from ggcp_schema.llama.state import Unsound

Floats = npt.NDArray[np.float32]

BINS = 16
SAMPLE = 1 << 14  # elements of a tensor from which its histogram is made, at most
ROW = 1 << 10  # elements summed in float32
UNDERFLOWS = 1e-24  # mean square below which float32 squares lose digits
CANCELS = 0.05  # share of the mean square below which float32 sums do not give the variance
HUGE = 1e6  # far larger than any healthy value
SELDOM_FULL = frozenset({"pf", "lmal", "lmys", "lms", "lmy"})  # they are filled as training continues


@final
@dataclass(frozen=True, slots=True)
class Stats:
    """What a tensor holds. All but `count`, `nan` and `inf` are of its finite elements, None if there are none.

    `std` and `rms` are also None if the squares of its elements are too large for a float64. `std` is the population's.
    `histogram` counts a sample in equal bins from `min` to `max`: `sampled` elements, evenly spread, which are all if
    the tensor has at most 16,384. It is empty if all elements are equal.
    """

    count: int
    nan: int
    inf: int
    zeros: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    rms: float | None
    histogram: tuple[int, ...]
    sampled: int

    @property
    def finite(self) -> int:
        """The number of finite elements."""
        return self.count - self.nan - self.inf


@dataclass
class Sums:
    """Sums over elements: `deviations` of the squared distances from `mean`, `squares` of those from 0."""

    count: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    min: float = math.inf
    max: float = -math.inf
    mean: float = 0.0
    deviations: float = 0.0
    squares: float = 0.0

    @property
    def finite(self) -> int:
        """The number of finite elements."""
        return self.count - self.nan - self.inf

    def add(self, other: Sums) -> None:
        """Add the sums of more elements (Chan, Golub and LeVeque 1979)."""
        both, apart = self.finite + other.finite, other.mean - self.mean
        if other.finite:
            share = other.finite / both
            self.deviations += other.deviations + apart * apart * self.finite * share
            self.mean += apart * share
        self.count += other.count
        self.nan += other.nan
        self.inf += other.inf
        self.zeros += other.zeros
        self.squares += other.squares
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)


class Measurement:
    """The statistics of a tensor, from its values as they are read."""

    def __init__(self, tensor: Tensor) -> None:
        self._sums, self._sample = Sums(), [np.empty(0, np.float32)]
        self._step = -(-tensor.n_elements // SAMPLE) | 1  # odd, or it would sample the same columns of every row

    def add(self, values: Floats) -> None:
        """Add the next values."""
        with np.errstate(over="ignore", invalid="ignore"):
            self._sample.append(values[-self._sums.count % self._step :: self._step].copy())
            self._sums.add(sums(values))

    def stats(self) -> Stats:
        """Return the statistics of the values that were added."""
        return finish(self._sums, np.concatenate(self._sample))


def measure(
    tensors: Sequence[Tensor], progress: Callable[[int], None] = lambda nbytes: None, file: File | None = None
) -> tuple[list[Stats | None], list[Unsound]]:
    """Return the statistics of each tensor, in order; None for one whose elements cannot be read.

    With their `file`, return too what is unsound in its training state; what both need is read once. `progress` is
    called with the number of bytes just read. Raises `FileError` if the file becomes too short.
    """
    begun: dict[str, Measurement] = {}
    found: dict[str, Stats] = {}

    def look(tensor: Tensor, at: int, values: Floats) -> None:
        if not at:
            begun[tensor.path] = Measurement(tensor)
        begun[tensor.path].add(values)
        if at + len(values) == tensor.n_elements:
            found[tensor.path] = begun.pop(tensor.path).stats()

    readable = [tensor for tensor in tensors if tensor.is_readable]
    unsound = look_once(file, readable, look, progress)
    empty = finish(Sums())
    return [found.get(tensor.path, empty) if tensor.is_readable else None for tensor in tensors], unsound


def sums(values: Floats) -> Sums:
    """Return the sums over some elements.

    Sums short rows in float32 (fast, accurate to 1e-8) and falls back to float64 if that would lose precision.
    """
    count = len(values)
    if count % ROW or not count or values.dtype != np.float32:
        return _exact_sums(values)
    rows = values.reshape(-1, ROW)
    squares = float(np.matmul(rows[:, None, :], rows[:, :, None]).sum(dtype=np.float64))
    total = float(np.einsum("ij->i", rows).sum(dtype=np.float64))
    deviations = squares - total * total / count
    if not (count * UNDERFLOWS < squares < math.inf and deviations > CANCELS * squares):
        return _exact_sums(values)
    return Sums(count, 0, 0, *_range(values), total / count, deviations, squares)


def _exact_sums(values: Floats) -> Sums:
    wide, finite, nan = values.astype(np.float64), values, 0
    total = float(np.add.reduce(wide))
    if not math.isfinite(total):
        finite, nan = values[np.isfinite(values)], int(np.count_nonzero(np.isnan(values)))
        wide = finite.astype(np.float64)
        total = float(np.add.reduce(wide))
    known = len(values), nan, len(values) - len(finite) - nan
    if not len(finite):
        return Sums(*known)
    mean = total / len(wide)
    squares = float(np.add.reduce(np.square(wide)))
    deviations = float(np.add.reduce(np.square(wide - mean)))
    return Sums(*known, *_range(finite), mean, deviations, squares)


def _range(values: Floats) -> tuple[int, float, float]:
    """Return the number of zeros, the least and the greatest value."""
    least, most = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
    return int(np.count_nonzero(values == 0)) if least <= 0 <= most else 0, least, most


def finish(total: Sums, sample: Floats | None = None) -> Stats:
    """Return the statistics; without a sample, they have no histogram."""
    known = (total.count, total.nan, total.inf, total.zeros)
    if not total.finite:
        return Stats(*known, None, None, None, None, None, (), 0)
    both = total.deviations, total.squares
    std, rms = (math.sqrt(squares / total.finite) if math.isfinite(squares) else None for squares in both)
    sample = np.empty(0, np.float32) if sample is None else sample[np.isfinite(sample)]
    histogram: tuple[int, ...] = ()
    if total.min < total.max and len(sample):
        width = (total.max - total.min) / BINS
        bins = ((sample.astype(np.float64) - total.min) / width).astype(np.intp)
        histogram = tuple(np.bincount(np.minimum(bins, BINS - 1), minlength=BINS).tolist())
    return Stats(*known, total.min, total.max, total.mean, std, rms, histogram, len(sample))


# Flags -----------------------------------------------------------------------------------------------------


@json_keys(
    "path=item.path gguf_name=item.gguf_name shape=item.shape offset=item.tensor.offset nbytes=item.tensor.nbytes "
    "type=item.tensor.type role=item.role description=item.description count=stats.count nan=stats.nan inf=stats.inf "
    "zeros=stats.zeros min=stats.min max=stats.max mean=stats.mean std=stats.std rms=stats.rms "
    "histogram=stats.histogram sampled=stats.sampled flags unsound"
)
class Measured(NamedTuple):
    """A tensor with its statistics, None if its elements cannot be read, and with what is wrong with it."""

    item: Listed
    stats: Stats | None
    flags: Sequence[Flag]
    unsound: Sequence[Unsound]


def flags(measured: Sequence[tuple[Listed, Stats | None]], file: File) -> list[tuple[Flag, ...]]:
    """Return what is wrong with each tensor of a file, which tells the iterations of the optimizer and Adam's betas.

    `nan`, `inf`, `huge` (beyond a million): exploded. `all-zero`, `constant`: dead, if training should have changed
    that. `negative-v`: second moments are means of squares. `m-without-v`: no gradients give first moments but second
    moments of zero. `v-too-small`: no gradients give a mean of m² above `largest_ratio` times that of v; checked if the
    file stores the betas. `negative-loss`: a cross entropy is not.
    """
    first_moments = {item.parameter: stats for item, stats in measured if item.moment == "m"}
    iterations = iterations_of(file)
    adam = adam_of(file, iterations or 0)
    return [tuple(_flags(item, stats, first_moments.get(item.parameter), iterations, adam)) for item, stats in measured]


def _flags(
    item: Listed, stats: Stats | None, m: Stats | None, iterations: int | None, adam: AdamParams | None
) -> Iterator[Flag]:
    if stats is None:
        return
    if stats.nan:
        yield "nan"
    if stats.inf:
        yield "inf"
    if stats.min is None or stats.max is None:
        return
    if max(-stats.min, stats.max) > HUGE and item.tensor.dtype[1] not in "bhiq":
        yield "huge"
    if stats.min == stats.max and stats.count > 1 and _should_vary(item, iterations):
        yield "constant" if stats.min else "all-zero"
    if item.moment == "pf" and stats.min < 0:
        yield "negative-loss"
    if item.moment == "v":
        yield from _second_moments(stats, m, adam)


def _should_vary(item: Listed, iterations: int | None) -> bool:
    if item.moment is None:
        return True
    return item.gguf_name is not None and item.moment not in SELDOM_FULL and iterations != 0


def _second_moments(v: Stats, m: Stats | None, adam: AdamParams | None) -> Iterator[Flag]:
    if v.min is not None and v.min < 0:
        yield "negative-v"
    elif m is None or not m.rms or v.mean is None:
        return
    elif v.mean == 0:
        yield "m-without-v"
    elif adam and m.rms**2 > 1.01 * largest_ratio(adam.beta1, adam.beta2) * v.mean:
        yield "v-too-small"
