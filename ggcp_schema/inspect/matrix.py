"""A tensor as rows and columns: a table, and a matrix of which a few pixels cover all values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

METHODS = ("mean", "min", "max")
PIECE = 1 << 18  # elements read at a time
WRAP = 8  # elements in a row of a table of a tensor with one dimension


class Window(NamedTuple):
    """The part of a matrix that is shown."""

    row: int
    column: int
    rows: int
    columns: int

    def moved(self, down: int, right: int) -> Window:
        """Return the window that many quarters of its size further."""
        down, right = down * max(1, self.rows // 4), right * max(1, self.columns // 4)
        return self._replace(row=self.row + down, column=self.column + right)

    def sized(self, rows: int, columns: int) -> Window:
        """Return a window of another size around the same middle."""
        row, column = self.row + (self.rows - rows) // 2, self.column + (self.columns - columns) // 2
        return Window(row, column, rows, columns)


@dataclass(frozen=True)
class Matrix:
    """A tensor as rows and columns. One with a single dimension is wrapped to a nearly square matrix."""

    tensor: Tensor

    @property
    def columns(self) -> int:
        """The number of columns."""
        shape = self.tensor.shape
        return shape[0] if len(shape) > 1 else math.isqrt(max(0, self.tensor.n_elements - 1)) + 1

    @property
    def rows(self) -> int:
        """The number of rows; the last one of a wrapped tensor may be cut."""
        return -(-self.tensor.n_elements // self.columns)

    @property
    def window(self) -> Window:
        """The whole matrix."""
        return Window(0, 0, self.rows, self.columns)

    def within(self, window: Window) -> Window:
        """Return the window moved, if need be, so that it lies in the matrix."""
        row = min(max(window.row, 0), self.rows - window.rows)
        column = min(max(window.column, 0), self.columns - window.columns)
        return window._replace(row=row, column=column)


class Table(Matrix):
    """A tensor as rows and columns: a row is a run of `ne[0]` elements, or of 8 if there is one dimension."""

    @property
    def columns(self) -> int:
        return super().columns if len(self.tensor.shape) > 1 else min(WRAP, self.tensor.n_elements)

    def label(self, row: int) -> str:
        """Return the indices of a row, the slowest first; of a tensor with one dimension its first index."""
        return ",".join(map(str, self.indices(row * self.columns)[: max(1, len(self.tensor.shape) - 1)]))

    def axes(self) -> str:
        """Return in words which axis goes where, in ggml's order and in numpy's."""
        shape, last = self.tensor.shape, len(self.tensor.shape) - 1
        if last < 1:
            return f"ne[0] = {self.tensor.n_elements:,} (numpy axis 0), {self.columns} in a row"
        down = ", ".join(f"ne[{axis}] = {shape[axis]:,} (numpy axis {last - axis})" for axis in range(last, 0, -1))
        return f"→ ne[0] = {shape[0]:,} (numpy axis {last})   ↓ {down}"

    def indices(self, element: int) -> list[int]:
        """Return the indices of an element in numpy's order: `[3, 17]`."""
        indices = []
        for length in self.tensor.shape:
            element, index = divmod(element, length)
            indices.append(index)
        return indices[::-1]


@dataclass(frozen=True)
class Picture:
    """The pooled values of a part of a matrix, row by row; rows that were not read yet are None.

    Each is the mean, the minimum or the maximum (`method`) of the values that it covers. `scale` is the largest
    absolute value that is finite, without the largest 1 %.
    """

    matrix: Matrix
    window: Window
    method: str
    width: int
    pixels: tuple[tuple[float, ...] | None, ...]

    @cached_property
    def scale(self) -> float:
        """The absolute value that has the strongest colour."""
        sizes = sorted(abs(value) for line in self.pixels if line for value in line if math.isfinite(value))
        return sizes[min(len(sizes) - 1, len(sizes) * 99 // 100)] if sizes else 0.0


def pool(matrix: Matrix, window: Window, width: int, height: int, method: str, report: Report) -> Picture:
    """Reduce a part of a matrix to at most that many pixels.

    `report` gets the picture as far as it is known, from the top. Raises `FileError` if the file becomes too short.
    """
    import numpy as np

    width, height = min(width, window.columns), min(height, window.rows)
    edges = window.column + np.arange(width + 1) * window.columns // width
    pixels: list[tuple[float, ...] | None] = [None] * height
    for line in range(height):
        start, stop = (window.row + window.rows * edge // height for edge in (line, line + 1))
        pixels[line] = _pooled_row(matrix, range(start, stop), edges, method, report)
        if line % 8 == 0:
            report(Picture(matrix, window, method, width, tuple(pixels)))
    return Picture(matrix, window, method, width, tuple(pixels))


def _pooled_row(
    matrix: Matrix, rows: range, edges: npt.NDArray[np.int64], method: str, report: Report
) -> tuple[float, ...]:
    """Return one row of pixels; cells after the end of a wrapped tensor are ignored."""
    import numpy as np

    combine, empty = {"mean": (np.add, 0.0), "min": (np.minimum, np.inf), "max": (np.maximum, -np.inf)}[method]
    first, last = int(edges[0]), int(edges[-1])
    found, weight = np.full(len(edges) - 1, empty), np.zeros(len(edges) - 1)
    is_cut = matrix.rows * matrix.columns != matrix.tensor.n_elements
    whole = first == 0 and last == matrix.columns
    step = max(1, PIECE // matrix.columns) if whole else 1
    for row in range(rows.start, rows.stop, step):
        count = min(step, rows.stop - row)
        for left in range(first, last, PIECE):
            right = min(last, left + PIECE)
            values = _block(matrix, row, count, left, right)
            inner = np.clip(edges, left, right) - left
            used = np.flatnonzero(inner[1:] > inner[:-1])
            with np.errstate(invalid="ignore", over="ignore"):
                if method == "mean":
                    seen = ~np.isnan(values) if is_cut else np.ones_like(values, bool)
                    values = np.where(seen, values, 0) if is_cut else values
                    weight[used] += np.add.reduceat(seen.sum(axis=0), inner[used])
                columns = combine.reduce(values, axis=0, dtype=np.float64)
                found[used] = combine(found[used], combine.reduceat(columns, inner[used]))
            report(None)
    with np.errstate(invalid="ignore", divide="ignore"):
        return tuple((found / weight if method == "mean" else found).tolist())


def _block(matrix: Matrix, row: int, count: int, left: int, right: int) -> npt.NDArray[np.float32]:
    """Read a part of some rows; after the end of a wrapped tensor there are NaNs."""
    import numpy as np

    tensor, columns = matrix.tensor, matrix.columns
    start = row * columns + left
    stop = start + (right - left if count == 1 else count * columns)
    end = min(stop, tensor.n_elements)
    return np.concatenate([*tensor.values(start, end), np.full(stop - end, np.nan, np.float32)]).reshape(count, -1)
