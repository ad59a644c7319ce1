"""Statistics of tensors: one pass over the data, in constant memory, at about the speed of reading it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggcp_schema.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile
    from ggcp_schema.inspect.selection import Listed
    from ggcp_schema.source import Tensor

Floats = npt.NDArray[np.float32]

BINS = 16
SAMPLE = 1 << 14  # elements of a tensor at most, from which its histogram is made
ROW = 1 << 10  # elements summed in float32
UNDERFLOWS = 1e-24  # mean square below which float32 squares lose digits
CANCELS = 0.05  # share of the mean square below which float32 sums do not give the variance
HUGE = 1e6  # nothing that trains well comes near it
SELDOM_FULL = frozenset({"pf", "lmal", "lmys", "lms", "lmy"})  # they fill as training goes on


@dataclass(frozen=True)
class Stats:
    """What a tensor holds. All but `count`, `nan` and `inf` are of its finite elements, None where there are none.

    `std` is the population's. `histogram` counts a sample in equal bins from `min` to `max`: `sampled` elements, evenly
    spread, which are all if the tensor has no more than 16,384; it is empty if all elements are equal.
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


def measure(tensors: Sequence[Tensor], progress: Callable[[int], None] | None = None) -> Iterator[Stats | None]:
    """The statistics of each tensor of one file, in order; None for one whose elements are not F32.

    `progress` is called with the number of bytes just done. Raises `FileError` if the file becomes too short.
    """
    readable = [tensor for tensor in tensors if tensor.type == "F32"]
    pieces = (
        readable[0].source.stream([(tensor.offset, tensor.nbytes) for tensor in readable]) if readable else iter(())
    )
    for tensor in tensors:
        yield _measure(tensor, pieces, progress) if tensor.type == "F32" else None


def _measure(tensor: Tensor, pieces: Iterator[memoryview], progress: Callable[[int], None] | None) -> Stats:
    total, samples, done = Moments(), [], 0
    step = -(-tensor.n_elements // SAMPLE) | 1  # odd, so that the sample wanders over the columns
    while done < tensor.n_elements:
        piece = next(pieces)
        values = np.frombuffer(piece, "<f4")
        with np.errstate(over="ignore", invalid="ignore"):
            total.add(_moments(values))
        samples.append(values[-done % step :: step].copy())
        done += len(values)
        if progress:
            progress(len(piece))
    return _finish(total, np.concatenate(samples) if samples else np.empty(0, "<f4"))


def _moments(values: Floats) -> Moments:
    """The moments of a piece: from sums in float32 over short rows, which is fast and good to 1e-8, or where they
    will not do, in float64."""
    count = len(values)
    if count % ROW:
        return _exact_moments(values)
    rows = values.reshape(-1, ROW)
    squares = float(np.matmul(rows[:, None, :], rows[:, :, None]).sum(dtype=np.float64))
    total = float(np.einsum("ij->i", rows).sum(dtype=np.float64))
    deviations = squares - total * total / count
    if not (count * UNDERFLOWS < squares < math.inf and deviations > CANCELS * squares):
        return _exact_moments(values)
    return Moments(count, 0, 0, *_range(values), total / count, deviations, squares)


def _exact_moments(values: Floats) -> Moments:
    finite = values[np.isfinite(values)]
    nan = int(np.count_nonzero(np.isnan(values)))
    known = len(values), nan, len(values) - len(finite) - nan
    if not len(finite):
        return Moments(*known)
    wide = finite.astype(np.float64)
    mean = float(wide.mean())
    return Moments(*known, *_range(finite), mean, float(np.square(wide - mean).sum()), float(np.square(wide).sum()))


def _range(values: Floats) -> tuple[int, float, float]:
    """Zeros, min, max."""
    least, most = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
    return int(np.count_nonzero(values == 0)) if least <= 0 <= most else 0, least, most


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
            return cls(count.value if count else None)
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
    moments of zero. `v too small for m`: nor a mean of m² beyond `largest_ratio` times that of v; checked where the
    file states the betas. `loss < 0`: a cross entropy is not.
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
    """The most that m² can be, as a multiple of v, whatever the gradients were; infinite where there is no bound.

    Both are weighted sums of past gradients and of their squares: this is the inequality of Cauchy and Schwarz.
    """
    if not 0 <= beta1 <= 1 or not beta1 * beta1 < beta2 < 1:
        return math.inf
    return (1 - beta1) ** 2 / ((1 - beta2) * (1 - beta1 * beta1 / beta2))
