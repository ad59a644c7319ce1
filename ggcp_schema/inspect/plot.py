"""Pictures of tensors: a matrix as colours, and the distribution of the values.

matplotlib is imported inside the functions, because it is an optional dependency.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.stats import Stats, measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float32]

PIXELS = 512  # of each side of a matrix, at most; larger ones are averaged
BINS = 200
PIECE = 1 << 16  # elements that are looked at together; their indices take several times the memory


def plot(tensor: Tensor, title: str) -> Figure:
    """Return a figure of a tensor: its histogram, and a matrix also as an image.

    A matrix is shown in numpy's order of dimensions, in colours from blue to red, which stand for four times its root
    mean square below and above zero. The tensor is read twice, in constant memory. Raises `UsageError` if matplotlib
    is missing, or the tensor has no finite values.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'ggcp-schema[plot]'"
        raise UsageError("drawing pictures needs the matplotlib package", hint) from error

    stats = next(measure([tensor]))
    if stats is None or stats.min is None or stats.rms is None:
        raise UsageError(f"{tensor.path} has no finite values to draw")
    picture = Pooled(tensor.shape[::-1]) if len(tensor.shape) == 2 else None
    counts = np.zeros(BINS, np.int64)
    edges = _edges(stats)
    for chunk in tensor.values():
        for start in range(0, len(chunk), PIECE):
            values = chunk[start : start + PIECE]
            counts += np.histogram(values[np.isfinite(values)], edges)[0]
            if picture is not None:
                picture.add(values)

    figure = Figure(figsize=(10, 5) if picture is not None else (6, 4), layout="constrained")
    axes = figure.subplots(1, 1 if picture is None else 2, squeeze=False)[0]
    if picture is not None:
        _draw_matrix(figure, axes[0], picture, tensor, 4 * stats.rms or 1.0)
    axes[-1].stairs(counts, edges, fill=True)
    axes[-1].set_yscale("log")
    axes[-1].set_xlabel(f"value; RMS {stats.rms:.4g}, mean {stats.mean:.4g}, std {stats.std:.4g}")
    axes[-1].set_ylabel("elements")
    figure.suptitle(title, parse_math=False)
    return figure


def _edges(stats: Stats) -> npt.NDArray[np.float64]:
    """Return the edges of the bins, from the least to the greatest value."""
    least, most = float(stats.min or 0.0), float(stats.max or 0.0)
    if least == most:
        least, most = least - 0.5, most + 0.5
    return np.linspace(least, most, BINS + 1)


def _draw_matrix(figure: Any, axes: Any, picture: Pooled, tensor: Tensor, largest: float) -> None:
    columns, rows = tensor.shape
    image = axes.imshow(
        picture.means(), cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", extent=(0, columns, rows, 0)
    )
    axes.set_xlabel(f"column, of {columns:,}")
    axes.set_ylabel(f"row, of {rows:,}")
    figure.colorbar(image, ax=axes, extend="both")


class Pooled:
    """A matrix that is averaged over blocks while it is read, so that it has at most PIXELS rows and columns."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rows, self.columns = shape
        self.height, self.width = min(self.rows, PIXELS), min(self.columns, PIXELS)
        self.sums = np.zeros(self.height * self.width)
        self.counts = np.zeros(self.height * self.width, np.int64)
        self.done = 0

    def add(self, values: Floats) -> None:
        """Add the next elements in file order. NaN and infinite ones are left out."""
        index = np.arange(self.done, self.done + len(values))
        self.done += len(values)
        row, column = index // self.columns, index % self.columns
        pixel = row * self.height // self.rows * self.width + column * self.width // self.columns
        finite = np.isfinite(values)
        size = len(self.sums)
        self.sums += np.bincount(pixel[finite], values[finite], size)
        self.counts += np.bincount(pixel[finite], minlength=size)

    def means(self) -> npt.NDArray[np.float64]:
        """Return the averages, NaN where a block has no finite element."""
        with np.errstate(invalid="ignore"):
            means: npt.NDArray[np.float64] = (self.sums / self.counts).reshape(self.height, self.width)
        return means
