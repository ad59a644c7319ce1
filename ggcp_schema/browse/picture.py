"""The Picture tab: a matrix as pixels, two in a character, pooled by mean, minimum or maximum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.strip import Strip

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.panes import JobPane, cannot_show
from ggcp_schema.browse.text import fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.pooling import METHODS, Matrix, Picture, Window, pool

STOPS = ((0x10, 0x25, 0x5C), (0x3F, 0x62, 0x93), (0x84, 0x8A, 0x8E), (0xC9, 0xA8, 0x4C), (0xFF, 0xE9, 0x7A))
NOT_FINITE = (0xE0, 0x30, 0x60)


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


class PictureView(JobPane, can_focus=True):
    """The Picture tab."""

    TITLE = "Picture"
    found: Picture | None = None
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

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        problem = cannot_show(tensor, "it as a picture")
        if tensor is None or problem:
            self.stop()
            self.matrix, self.found, self.error = None, None, problem
            self.refresh()
        elif self.matrix is None or self.matrix.tensor != tensor:
            self.matrix = Matrix(tensor)
            self.action_whole()

    def forget(self) -> None:
        self.matrix = None

    def on_resize(self) -> None:
        self._compute()

    def _compute(self) -> None:
        """Compute the picture again, after the selection, the size or the window has changed."""
        if self.matrix is None:
            return
        self.stop()
        self.found, self.error = None, ""
        self.refresh()
        matrix, window, method = self.matrix, self.window, self.method
        width, height = self.size.width, 2 * (self.size.height - 2)
        if width < 1 or height < 1:
            return
        self.start(lambda report: pool(matrix, window, width, height, method, report), delay=self.DELAY)

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
            yield Segment(self.message(y, width), label)
            return
        if y == 0:
            yield from self._title(width)
        elif y == 1:
            yield from self._legend(width)
        elif self.found is not None:
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
        if self.found is None:
            yield Segment("reading …", label)
            return
        scale = self.found.scale
        yield Segment(f"{number(-scale, 3)} ", label)
        steps = range(-8, 9, 1 if width > 50 else 2)
        for step in steps:
            yield Segment("█", Style(color=Color.from_rgb(*colour(step / 8, 1.0))))
        yield Segment(f" {number(scale, 3)}", label)
        down = max(1, self.window.rows // len(self.found.pixels))
        across = max(1, self.window.columns // self.found.width)
        words = "a pixel is one value" if down == across == 1 else f"a pixel is the {self.method} of {down}×{across}"
        room = width - len(steps) - 2 * len(number(scale, 3)) - 6
        yield Segment(f"   {words}" if len(words) <= room else f"   {self.method} {down}×{across}", label)

    def _pixels(self, line: int, width: int) -> Iterator[Segment]:
        assert self.found is not None  # noqa: S101 - drawn when there is a picture
        pixels, scale = self.found.pixels, self.found.scale
        times = max(1, min(width // self.found.width, 2 * (self.size.height - 2) // len(pixels)))
        top, bottom = (pixels[at] if at < len(pixels) else None for at in (line // times, (line + 1) // times))
        for index in range(self.found.width):
            above = Color.from_rgb(*colour(top[index], scale)) if top else None
            below = Color.from_rgb(*colour(bottom[index], scale)) if bottom else None
            if above is None and below is None:
                yield Segment(" " * times)
            elif below is None:
                yield Segment("▀" * times, Style(color=above))
            else:
                yield Segment("▀" * times, Style(color=above, bgcolor=below))
