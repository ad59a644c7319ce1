"""The tabs with pictures of the selected tensor: how its values are distributed, and the values as pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Sparkline, Static

from ggcp_schema.browse.lines import Drawn, bar, fit, number
from ggcp_schema.browse.panes import TensorPane, wrapped
from ggcp_schema.constructs import short_size
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.pooling import METHODS, Matrix, Picture, Window, pool

if TYPE_CHECKING:
    from ggcp_schema.inspect.histogram import Distribution

DELAY = 0.08  # seconds without a further move of the selection, after which work begins
STOPS = ((0x10, 0x25, 0x5C), (0x3F, 0x62, 0x93), (0x84, 0x8A, 0x8E), (0xC9, 0xA8, 0x4C), (0xFF, 0xE9, 0x7A))
NOT_FINITE = (0xE0, 0x30, 0x60)


def measured(tensor: Tensor, report: Report) -> Distribution:
    """Return the distribution of a tensor's values. numpy is imported in the job's thread."""
    from ggcp_schema.inspect.histogram import distribution

    return distribution(tensor, report)


class Histogram(TensorPane, Drawn, can_focus=True):
    """The Histogram tab."""

    TITLE, WHAT = "Histogram", "how its values are distributed"
    BINDING_GROUP_TITLE = "This pane"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("o", "logarithmic", "Logarithmic scale")]
    found: Distribution | None = None
    logarithmic = False

    def compose(self) -> ComposeResult:
        yield Static(id="numbers")
        yield Sparkline()
        yield Static(id="ends")

    def begin(self, tensor: Tensor | None) -> None:
        if tensor is not None:
            self.start(lambda report: measured(tensor, report), delay=DELAY)
        self._update()

    def reported(self, result: Any, *, done: bool) -> None:
        super().reported(result, done=done)
        self._update()

    def on_resize(self) -> None:
        self._update()

    def action_logarithmic(self) -> None:
        self.logarithmic = not self.logarithmic
        self._update()

    def _update(self) -> None:
        """Show what is known; the bars are as many as there are columns."""
        bars, ends, found = self.query_one(Sparkline), self.query_one("#ends", Static), self.found
        stats = None if found is None or self.error else found.stats
        bars.display = ends.display = bool(found and found.counts and stats)
        self.query_one("#numbers", Static).update(self._numbers())
        if found is None or stats is None or stats.min is None or stats.max is None or not found.counts:
            return
        from ggcp_schema.inspect.histogram import rebin

        counts = rebin(found.counts, max(1, self.size.width))
        bars.data = [math.log1p(count) for count in counts] if self.logarithmic else counts
        least, most = number(stats.min), number(stats.max)
        middle = number((stats.min + stats.max) / 2).center(max(0, self.size.width - len(least) - len(most)))
        ends.update(f"{least}{middle}{most}")

    def _numbers(self) -> str | Text:
        found = self.found
        if found is None or self.error:
            return self.message
        text = Text()
        if found.done < 1:
            text.append(f"{bar(found.done, 12)} {100 * found.done:.0f} % of {short_size(found.tensor.nbytes)}  ")
        text.append(f"{found.tensor.path}  {found.tensor.n_elements:,} values\n", "bold")
        stats = found.stats
        if stats is None:
            return text
        parts = {each: number(getattr(stats, each.lower())) for each in ("mean", "std", "RMS", "min", "max")}
        parts["zero"] = f"{100 * stats.zeros / stats.count:.3g} %" if stats.zeros else "0"
        parts |= {"NaN": f"{stats.nan:,}", "Inf": f"{stats.inf:,}"}
        for name, value in parts.items():
            bad = name in ("NaN", "Inf") and value != "0"
            text.append(f"{name}\u00a0")
            text.append(f"{value}   ".replace(" %", "\u00a0%"), self.ink("error") if bad else "bold")
        scale, other = ("logarithmic", "linear") if self.logarithmic else ("linear", "logarithmic")
        return text.append(f"\ncounts, {scale} (o: {other})")


def colour(value: float, scale: float) -> Color:
    """Return a colour from blue through grey to yellow; red for NaN and infinities.

    It grows brighter all the way, so that a picture can be read without colours too.
    """
    if not math.isfinite(value):
        return Color.from_rgb(*NOT_FINITE)
    position = (min(1.0, max(-1.0, value / scale if scale else 0.0)) + 1) / 2 * (len(STOPS) - 1)
    index = min(int(position), len(STOPS) - 2)
    share = position - index
    return Color.from_rgb(*(round(a + (b - a) * share) for a, b in zip(STOPS[index], STOPS[index + 1])))


class PictureView(TensorPane, Drawn, can_focus=True):
    """The Picture tab: a matrix as pixels, two in a character, pooled by mean, minimum or maximum."""

    TITLE, WHAT = "Picture", "it as a picture"
    BINDING_GROUP_TITLE = "This pane"
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
    found: Picture | None = None
    matrix: Matrix | None = None
    window = Window(0, 0, 0, 0)
    method = METHODS[0]

    def begin(self, tensor: Tensor | None) -> None:
        self.matrix = None if tensor is None else Matrix(tensor)
        self.action_whole()
        self.refresh()

    def on_resize(self) -> None:
        self._compute()

    def _compute(self) -> None:
        """Compute the picture again, after the selection, the size or the window has changed."""
        matrix, window, method = self.matrix, self.window, self.method
        width, height = self.size.width, 2 * (self.size.height - 2)
        if matrix is None or width < 1 or height < 1:
            return
        self.found, self.error = None, ""
        self.refresh()
        self.start(lambda report: pool(matrix, window, width, height, method, report), delay=DELAY)

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

    def line(self, y: int, width: int) -> Iterator[Segment]:
        if self.matrix is None or self.error:
            yield self.text(wrapped(self.message, y, width), "detail")
        elif y == 0:
            yield self.text(fit(self._title(self.matrix), width), "holder")
        elif y > 1 and self.found is not None:
            yield from self._pixels(self.found, 2 * (y - 2), width)
        elif y == 1:
            yield from self._legend(width)

    def _title(self, matrix: Matrix) -> str:
        row, column, rows, columns = self.window
        place = f"rows {row:,}–{row + rows - 1:,} of {matrix.rows:,}, columns {column:,}–{column + columns - 1:,}"
        wrapped = ", one dimension wrapped" if len(matrix.tensor.shape) < 2 else ""
        return f"{matrix.tensor.path}  {place} of {matrix.columns:,}{wrapped}"

    def _legend(self, width: int) -> Iterator[Segment]:
        if self.found is None:
            yield self.text("reading …", "detail")
            return
        scale = self.found.scale
        steps = range(-8, 9, 1 if width > 50 else 2)
        yield self.text(f"{number(-scale, 3)} ", "detail")
        yield from (Segment("█", Style(color=colour(step / 8, 1.0))) for step in steps)
        yield self.text(f" {number(scale, 3)}", "detail")
        down = max(1, self.window.rows // len(self.found.pixels))
        across = max(1, self.window.columns // self.found.width)
        words = "a pixel is one value" if down == across == 1 else f"a pixel is the {self.method} of {down}×{across}"
        room = width - len(steps) - 2 * len(number(scale, 3)) - 6
        yield self.text(f"   {words}" if len(words) <= room else f"   {self.method} {down}×{across}", "detail")

    def _pixels(self, found: Picture, line: int, width: int) -> Iterator[Segment]:
        pixels, scale = found.pixels, found.scale
        times = max(1, min(width // found.width, 2 * (self.size.height - 2) // len(pixels)))
        top, bottom = (pixels[at] if at < len(pixels) else None for at in (line // times, (line + 1) // times))
        for index in range(found.width):
            above, below = (colour(row[index], scale) if row else None for row in (top, bottom))
            yield Segment(("▀" if above or below else " ") * times, Style(color=above, bgcolor=below))
