"""The Picture tab: a matrix as pixels, two in a character, pooled by mean, minimum or maximum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.strip import Strip

from ggcp_schema.browse.document import Document, Report
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.panes import Pane
from ggcp_schema.browse.text import fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

METHODS = ("mean", "min", "max")
PIECE = 1 << 18  # elements read at a time
STOPS = ((0x10, 0x25, 0x5C), (0x3F, 0x62, 0x93), (0x84, 0x8A, 0x8E), (0xC9, 0xA8, 0x4C), (0xFF, 0xE9, 0x7A))
NOT_FINITE = (0xE0, 0x30, 0x60)


class Window(NamedTuple):
    """The part of a matrix that is shown."""

    row: int
    column: int
    rows: int
    columns: int


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


@dataclass(frozen=True)
class Picture:
    """Pooled values, row by row; rows that were not read yet are None."""

    pixels: tuple[tuple[float, ...] | None, ...]
    width: int
    scale: float


def pool(matrix: Matrix, window: Window, width: int, height: int, method: str, report: Report) -> Picture:
    """Reduce a part of a matrix to at most that many pixels, each the mean, min or max of the values that it covers.

    `report` gets the picture as far as it is known, from the top. The scale is the largest absolute value that is
    finite, without the largest 1 %. Raises `FileError` if the file becomes too short.
    """
    import numpy as np

    width, height = min(width, window.columns), min(height, window.rows)
    edges = window.column + np.arange(width + 1) * window.columns // width
    pixels: list[tuple[float, ...] | None] = [None] * height
    for line in range(height):
        start, stop = (window.row + window.rows * edge // height for edge in (line, line + 1))
        pixels[line] = _pooled_row(matrix, range(start, stop), edges, method, report)
        if line % 8 == 0:
            report(Picture(tuple(pixels), width, _scale(pixels)))
    return Picture(tuple(pixels), width, _scale(pixels))


def _pooled_row(
    matrix: Matrix, rows: range, edges: npt.NDArray[np.int64], method: str, report: Report
) -> tuple[float, ...]:
    """Return one row of pixels; cells after the end of a wrapped tensor are NaN-free zeros of no weight."""
    import numpy as np

    width = len(edges) - 1
    first, last = int(edges[0]), int(edges[-1])
    total, weight = np.zeros(width), np.zeros(width)
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    whole = first == 0 and last == matrix.columns
    step = max(1, PIECE // matrix.columns) if whole else 1
    for row in range(rows.start, rows.stop, step):
        count = min(step, rows.stop - row)
        for left in range(first, last, PIECE):
            right = min(last, left + PIECE)
            values = _block(matrix, row, count, left, right)
            inner = np.clip(edges, left, right) - left
            used = np.flatnonzero(inner[1:] > inner[:-1])
            starts = inner[used]
            with np.errstate(invalid="ignore", over="ignore"):
                if method == "mean":
                    seen = ~np.isnan(values) if matrix.rows * matrix.columns != matrix.tensor.n_elements else None
                    filled = values if seen is None else np.where(seen, values, 0)
                    total[used] += np.add.reduceat(filled.sum(axis=0, dtype=np.float64), starts)
                    counts = np.full(right - left, count) if seen is None else seen.sum(axis=0)
                    weight[used] += np.add.reduceat(counts, starts)
                elif method == "min":
                    low[used] = np.minimum(low[used], np.minimum.reduceat(values.min(axis=0), starts))
                else:
                    high[used] = np.maximum(high[used], np.maximum.reduceat(values.max(axis=0), starts))
            report(None)
    with np.errstate(invalid="ignore", divide="ignore"):
        result = total / weight if method == "mean" else low if method == "min" else high
    return tuple(result.tolist())


def _block(matrix: Matrix, row: int, count: int, left: int, right: int) -> npt.NDArray[np.float32]:
    """Read a part of some rows; after the end of a wrapped tensor there are NaNs."""
    import numpy as np

    tensor, columns = matrix.tensor, matrix.columns
    start = row * columns + left
    stop = start + (right - left if count == 1 else count * columns)
    parts = list(tensor.values(start, min(stop, tensor.n_elements)))
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if len(values) < stop - start:
        values = np.concatenate([values, np.full(stop - start - len(values), np.nan, np.float32)])
    return values.reshape(count, -1)


def _scale(pixels: list[tuple[float, ...] | None]) -> float:
    sizes = sorted(abs(value) for line in pixels if line for value in line if math.isfinite(value))
    return sizes[min(len(sizes) - 1, len(sizes) * 99 // 100)] if sizes else 0.0


def colour(value: float, scale: float) -> tuple[int, int, int]:
    """Return a colour from blue through grey to yellow; red for NaN and infinities.

    It grows brighter all the way, so that a picture can be read without colours too.
    """
    if not math.isfinite(value):
        return NOT_FINITE
    position = (min(1.0, max(-1.0, value / scale if scale else 0.0)) + 1) / 2 * (len(STOPS) - 1)
    index = min(int(position), len(STOPS) - 2)
    share = position - index
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(STOPS[index], STOPS[index + 1]))
    return red, green, blue


class PictureView(Working, Pane, can_focus=True):
    """The Picture tab."""

    TITLE = "Picture"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "method", "Pool by mean, min or max"),
        Binding("plus,equals_sign", "zoom(2)", "Zoom in"),
        Binding("minus", "zoom(-2)", "Zoom out"),
        Binding("0", "whole", "Whole matrix", show=False),
        Binding("left,h", "pan(0,-1)", "Left", show=False),
        Binding("right,l", "pan(0,1)", "Right", show=False),
        Binding("up,k", "pan(-1,0)", "Up", show=False),
        Binding("down,j", "pan(1,0)", "Down", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"plot--label", "plot--value", "plot--warning"}
    DELAY = 0.08

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.matrix: Matrix | None = None
        self.window = Window(0, 0, 0, 0)
        self.method = "mean"
        self.picture: Picture | None = None
        self.error = ""

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        if tensor is None or not tensor.n_elements:
            self.stop()
            self.matrix = self.picture = None
            self.refresh()
        elif self.matrix is None or self.matrix.tensor != tensor:
            self.matrix = Matrix(tensor)
            self.action_whole()

    def hide(self) -> None:
        if self.working:
            self.stop()
            self.matrix = None

    def on_resize(self) -> None:
        self._compute()

    def _compute(self) -> None:
        """Compute the picture again, after the selection, the size or the window has changed."""
        self.stop()
        self.picture, self.error = None, ""
        self.refresh()
        matrix, window, method = self.matrix, self.window, self.method
        width, height = self.size.width, 2 * (self.size.height - 2)
        if matrix is None or width < 1 or height < 1:
            return
        self.start(lambda report: pool(matrix, window, width, height, method, report), delay=self.DELAY)

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Exception):
            self.error = getattr(result, "message", str(result))
        else:
            self.picture = result
        self.refresh()

    # Actions -----------------------------------------------------------------------------------------------

    def action_method(self) -> None:
        self.method = METHODS[(METHODS.index(self.method) + 1) % len(METHODS)]
        self._compute()

    def action_whole(self) -> None:
        if self.matrix is not None:
            self.window = Window(0, 0, self.matrix.rows, self.matrix.columns)
            self._compute()

    def action_zoom(self, factor: int) -> None:
        if self.matrix is None:
            return
        row, column, rows, columns = self.window
        if factor > 0:
            new_rows, new_columns = max(min(rows, 4), rows // 2), max(min(columns, 4), columns // 2)
        else:
            new_rows, new_columns = min(self.matrix.rows, rows * 2), min(self.matrix.columns, columns * 2)
        row, column = row + (rows - new_rows) // 2, column + (columns - new_columns) // 2
        self._move(Window(row, column, new_rows, new_columns))

    def action_pan(self, down: int, right: int) -> None:
        row, column, rows, columns = self.window
        self._move(Window(row + down * max(1, rows // 4), column + right * max(1, columns // 4), rows, columns))

    def _move(self, window: Window) -> None:
        """Show another part, within the matrix."""
        if self.matrix is None:
            return
        row = min(max(window.row, 0), self.matrix.rows - window.rows)
        column = min(max(window.column, 0), self.matrix.columns - window.columns)
        window = Window(row, column, window.rows, window.columns)
        if window != self.window:
            self.window = window
            self._compute()

    # Drawing -----------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        return Strip(list(self._line(y, width))).adjust_cell_length(width, base)

    def _line(self, y: int, width: int) -> Iterator[Segment]:
        label = self.get_component_rich_style("plot--label")
        if self.matrix is None or self.error:
            if y == 0:
                yield Segment(self.error or "Select a tensor to see it as a picture.", label)
            return
        if y == 0:
            yield from self._title(width)
        elif y == 1:
            yield from self._legend(width)
        elif self.picture is not None:
            yield from self._pixels(2 * (y - 2), width)

    def _title(self, width: int) -> Iterator[Segment]:
        assert self.matrix is not None  # noqa: S101 - drawn when there is a matrix
        row, column, rows, columns = self.window
        place = f"rows {row:,}–{row + rows - 1:,} of {self.matrix.rows:,}, columns {column:,}–{column + columns - 1:,}"
        place += f" of {self.matrix.columns:,}"
        if len(self.matrix.tensor.shape) < 2:
            place += ", one dimension wrapped"
        yield Segment(fit(f"{self.matrix.tensor.path}  {place}", width), self.get_component_rich_style("plot--value"))

    def _legend(self, width: int) -> Iterator[Segment]:
        label = self.get_component_rich_style("plot--label")
        if self.picture is None:
            yield Segment("reading …", label)
            return
        scale = self.picture.scale
        yield Segment(f"{number(-scale, 3)} ", label)
        for step in range(17):
            yield Segment("█", Style(color=Color.from_rgb(*colour((step - 8) / 8, 1.0))))
        yield Segment(f" {number(scale, 3)}", label)
        down = max(1, self.window.rows // len(self.picture.pixels))
        across = max(1, self.window.columns // self.picture.width)
        words = "a pixel is one value" if down == across == 1 else f"a pixel is the {self.method} of {down}×{across}"
        yield Segment(f"   {words}", label)

    def _pixels(self, line: int, width: int) -> Iterator[Segment]:
        assert self.picture is not None  # noqa: S101 - drawn when there is a picture
        pixels, scale = self.picture.pixels, self.picture.scale
        times = max(1, min(width // self.picture.width, 2 * (self.size.height - 2) // len(pixels)))
        top, bottom = (pixels[at] if at < len(pixels) else None for at in (line // times, (line + 1) // times))
        for index in range(self.picture.width):
            above = Color.from_rgb(*colour(top[index], scale)) if top else None
            below = Color.from_rgb(*colour(bottom[index], scale)) if bottom else None
            if above is None and below is None:
                yield Segment(" " * times)
            elif below is None:
                yield Segment("▀" * times, Style(color=above))
            else:
                yield Segment("▀" * times, Style(color=above, bgcolor=below))
