"""Statistics of tensors: one pass over the data, in constant memory, at about the speed of reading it."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from ggcp_schema.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile
    from ggcp_schema.inspect.selection import Listed
    from ggcp_schema.source import Tensor

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

BINS = 16
SAMPLE = 1 << 16  # elements of a tensor at most, from which its histogram is made
THREADS = 2  # one reads while the other computes
TURN = threading.Lock()  # two that compute at once wait for each other's Python at every step
PIECE = 1 << 18  # elements that a thread reads at a time: what it works on is then in its core's L2 cache
BLOCK = 1 << 16  # elements: with its copy as float64 a block stays in a core's L2 cache
ROW = 1 << 13  # elements: for longer dot products BLAS starts threads of its own
CANCELS = 1e-6  # below this fraction of the sum of squares, the variance is computed from the deviations
HUGE = 1e6  # nothing that trains well comes near it
SELDOM_FULL = frozenset({"pf", "lmal", "lmys", "lms", "lmy"})  # they fill as training goes on


@dataclass(frozen=True)
class Stats:
    """What a tensor holds. All but `count`, `nan` and `inf` are of its finite elements, None where there are none.

    `std` is the population's. `histogram` counts a sample in equal bins from `min` to `max`: `sampled` elements, evenly
    spread, which are all if the tensor has no more than 65,536; it is empty if all elements are equal.
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass
class Moments:
    """What adds up: `deviations` is the sum of the squared distances from `mean`, `squares` that from 0."""

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
        return self.count - self.nan - self.inf

    def add(self, other: Moments) -> None:
        """Takes in another run of elements (Chan, Golub and LeVeque 1979)."""
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


class _Scratch(threading.local):
    """The memory of a thread."""

    def __init__(self) -> None:
        self.data = bytearray(4 * PIECE)
        self.rows = np.zeros((BLOCK // ROW, ROW))
        self.mask = np.empty(BLOCK, bool)


def measure(tensors: Sequence[Tensor], progress: Callable[[int], None] | None = None) -> Iterator[Stats | None]:
    """The statistics of each tensor, in order; None for one whose elements are not F32.

    `progress` is called with the number of bytes just done. Raises `FileError` if a file becomes too short.
    """
    scratch = _Scratch()
    steps = [-(-tensor.n_elements // SAMPLE) | 1 for tensor in tensors]  # odd, so that they wander over the rows

    def job(index: int, start: int) -> tuple[int, int, Moments, Floats]:
        tensor = tensors[index]
        count = min(PIECE, tensor.n_elements - start)
        return index, count, *_piece(tensor, start, count, steps[index], scratch)

    jobs = (
        (index, start)
        for index, tensor in enumerate(tensors)
        for start in range(0, max(1, tensor.n_elements), PIECE)
        if tensor.type == "F32"
    )
    measured = groupby(_ahead(job, jobs), key=itemgetter(0))
    for tensor in tensors:
        if tensor.type != "F32":
            yield None
            continue
        total, samples = Moments(), []
        for _, count, moments, sample in next(measured)[1]:
            total.add(moments)
            samples.append(sample)
            if progress:
                progress(4 * count)
        yield _finish(total, np.concatenate(samples))


def _ahead(work: Callable[..., T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """The results in order, a few of them worked out ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[T]] = deque()
        for job in jobs:
            waiting.append(pool.submit(work, *job))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _piece(tensor: Tensor, start: int, count: int, step: int, scratch: _Scratch) -> tuple[Moments, Floats]:
    """The moments of a piece of a tensor, and every `step`th of its elements, counted from the tensor's first."""
    data = memoryview(scratch.data)[: 4 * count]
    tensor.source.read_into(data, tensor.offset + 4 * start)
    values, total = np.frombuffer(data, "<f4"), Moments()
    with TURN:
        for at in range(0, count, BLOCK):
            total.add(_moments(values[at : at + BLOCK], scratch))
        return total, values[-start % step :: step].copy()


def _moments(values: Floats, scratch: _Scratch) -> Moments:
    count = len(values)
    rows = scratch.rows[: -(-count // ROW)]
    wide = rows.reshape(-1)
    wide[count:] = 0
    np.copyto(wide[:count], values)
    squares = _sum_of_squares(rows)
    if not math.isfinite(squares):  # no finite float32 has a square that overflows a float64
        finite = values[np.isfinite(values)]
        result = _moments(finite, scratch) if len(finite) else Moments()
        nan = int(np.count_nonzero(np.isnan(values)))
        result.count, result.nan, result.inf = count, nan, count - len(finite) - nan
        return result
    mean = float(np.einsum("i->", wide)) / count
    deviations = squares - count * mean * mean
    if deviations < CANCELS * squares:
        np.subtract(wide[:count], mean, out=wide[:count])
        deviations = _sum_of_squares(rows)
    least, most = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
    zeros = int(np.count_nonzero(np.equal(values, 0, out=scratch.mask[:count]))) if least <= 0 <= most else 0
    return Moments(count, 0, 0, zeros, least, most, mean, deviations, squares)


def _sum_of_squares(rows: npt.NDArray[np.float64]) -> float:
    return float(np.matmul(rows[:, None, :], rows[:, :, None]).sum())


def _finish(total: Moments, sample: Floats) -> Stats:
    known = (total.count, total.nan, total.inf, total.zeros)
    if not total.finite:
        return Stats(*known, None, None, None, None, None, (), 0)
    std, rms = (math.sqrt(sum_ / total.finite) for sum_ in (total.deviations, total.squares))
    sample = sample[np.isfinite(sample)]
    histogram: tuple[int, ...] = ()
    if total.min < total.max:
        width = (total.max - total.min) / BINS
        bins = ((sample.astype(np.float64) - total.min) / width).astype(np.intp)
        histogram = tuple(np.bincount(np.minimum(bins, BINS - 1), minlength=BINS).tolist())
    return Stats(*known, total.min, total.max, total.mean, std, rms, histogram, len(sample))


@dataclass(frozen=True)
class Training:
    """How far training has come, and Adam's betas; None where the file does not say."""

    iterations: int | None = None
    betas: tuple[float, float] | None = None

    @classmethod
    def of(cls, file: Checkpoint | GgufFile) -> Training:
        if not isinstance(file, Checkpoint):
            from ggcp_schema.gguf.keys import OPTIMIZER_ITERATION_COUNT

            count = file.keys.get(OPTIMIZER_ITERATION_COUNT)
            return cls(count and count.value)
        optimizer = file.fields.get("optimizer")
        if optimizer is None:
            return cls()
        params = optimizer.get("params")
        betas = (params.adam.beta1, params.adam.beta2) if params and "adam" in params else None
        return cls(optimizer.get("iter"), betas)


def flags(measured: Sequence[tuple[Listed, Stats | None]], training: Training) -> list[tuple[str, ...]]:
    """What is wrong with each tensor, in words.

    `NaN`, `Inf`, `huge` (beyond a million): exploded. `all zero`, `constant`: dead, where training should have changed
    that. `v < 0`: second moments are means of squares. `m without v`: no gradients give first moments but second
    moments of zero. `v too small for m`: nor more than (1 - beta1)² / ((1 - beta2) (1 - beta1² / beta2)) times as
    large a mean of m² as of v, by the inequality of Cauchy and Schwarz; where the file states the betas.
    `loss < 0`: a cross entropy is not.
    """
    by_moment = {item.moment: stats for item, stats in measured if item.moment}
    return [tuple(_flags(item, stats, by_moment.get("m"), training)) for item, stats in measured]


def _flags(item: Listed, stats: Stats | None, m: Stats | None, training: Training) -> Iterator[str]:
    if stats is None:
        yield f"holds {item.tensor.type}, not read"
        return
    if stats.nan:
        yield "NaN"
    if stats.inf:
        yield "Inf"
    if stats.min is None or stats.max is None:
        return
    if max(-stats.min, stats.max) > HUGE:
        yield "huge"
    if stats.min == stats.max and stats.count > 1 and _should_vary(item, training):
        yield "constant" if stats.min else "all zero"
    if item.moment == "pf" and stats.min < 0:
        yield "loss < 0"
    if item.moment == "v":
        yield from _second_moments(stats, m, training.betas)


def _should_vary(item: Listed, training: Training) -> bool:
    if item.moment is None:
        return True
    return item.gguf_name is not None and item.moment not in SELDOM_FULL and training.iterations != 0


def _second_moments(v: Stats, m: Stats | None, betas: tuple[float, float] | None) -> Iterator[str]:
    if v.min is not None and v.min < 0:
        yield "v < 0"
    elif m is None or not m.rms or v.mean is None:
        return
    elif v.mean == 0:
        yield "m without v"
    elif betas and m.rms**2 > 1.01 * largest_ratio(*betas) * v.mean:
        yield "v too small for m"


def largest_ratio(beta1: float, beta2: float) -> float:
    """The most that m² can be, as a multiple of v, whatever the gradients were; infinite where there is no bound."""
    if not 0 <= beta1 <= 1 or not beta1 * beta1 < beta2 < 1:
        return math.inf
    return (1 - beta1) ** 2 / ((1 - beta2) * (1 - beta1 * beta1 / beta2))
