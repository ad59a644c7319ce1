"""The tabs with pictures of the selected tensor: how its values are distributed, and the values as pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from rich.color import Color as RichColor
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.color import Color, Gradient
from textual.widgets import Sparkline, Static

from ggcp_schema.browse.lines import bar, fit, ink
from ggcp_schema.browse.panes import Pane
from ggcp_schema.constructs import short_size
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.matrix import METHODS, Matrix, Picture, Window, pool
from ggcp_schema.inspect.text import percent, short_number

if TYPE_CHECKING:
    from ggcp_schema.inspect.histogram import Distribution

DELAY = 0.08  # seconds without a further move of the selection, after which work begins
GRADIENT = Gradient.from_colors("#10255c", "#3f6293", "#848a8e", "#c9a84c", "#ffe97a", quality=201)
NOT_FINITE = Color.parse("#e03060")


def measured(tensor: Tensor, report: Report) -> Distribution:
    """Return the distribution of a tensor's values. numpy is imported in the job's thread."""
    from ggcp_schema.inspect.histogram import distribution

    return distribution(tensor, report)


class Histogram(Pane):
    """The Histogram tab."""

    TITLE = "Histogram"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("o", "logarithmic", "Logarithmic", tooltip="or linear")]
    found: Distribution | None = None
    logarithmic = False

    def compose(self) -> ComposeResult:
        yield self.words
        yield Sparkline()
        yield Static(id="ends")

    def begin(self) -> None:
        if self.tensor is not None:
            self.job.start(partial(measured, self.tensor), delay=DELAY)

    def action_logarithmic(self) -> None:
        self.logarithmic = not self.logarithmic
        self.update()

    def update(self) -> None:
        """Show what is known; the bars are as many as there are columns."""
        super().update()
        bars, ends, found = self.query_one(Sparkline), self.query_one("#ends", Static), self.found
        bars.display = ends.display = bool(found and found.counts)
        if found is None or not found.counts:
            return
        from ggcp_schema.inspect.histogram import rebin

        width, stats = max(1, self.size.width), found.stats
        counts = rebin(found.counts, width)
        bars.data = [math.log1p(count) for count in counts] if self.logarithmic else counts
        if stats is not None and stats.min is not None and stats.max is not None:
            least, most = short_number(stats.min), short_number(stats.max)
            middle = short_number((stats.min + stats.max) / 2).center(max(0, width - len(least) - len(most)))
            ends.update(f"{least}{middle}{most}")

    def text(self, found: Distribution) -> RenderableType:
        text = Text()
        if found.done < 1:
            text.append(f"{bar(found.done, 12)} {100 * found.done:.0f} % of {short_size(found.tensor.nbytes)}  ")
        text.append(f"{found.tensor.path}  {found.tensor.n_elements:,} values", "bold")
        stats = found.stats
        if stats is None:
            return text
        parts = {each: short_number(getattr(stats, each.lower())) for each in ("mean", "std", "RMS", "min", "max")}
        parts["zero"] = percent(stats.zeros / stats.count) if stats.zeros else "0"
        parts |= {"NaN": f"{stats.nan:,}", "Inf": f"{stats.inf:,}"}
        bad = {name for name in ("NaN", "Inf") if parts[name] != "0"}
        numbers = [
            Text.assemble(f"{name} ", (value, ink(self, "error") if name in bad else "bold"))
            for name, value in parts.items()
        ]
        scale, other = ("logarithmic", "linear") if self.logarithmic else ("linear", "logarithmic")
        return Group(text, Columns(numbers, padding=(0, 2)), f"counts, {scale} (o: {other})")


def colour(value: float, scale: float) -> RichColor:
    """Return a colour from blue through grey to yellow; red for NaN and infinities.

    It grows brighter all the way, so that a picture can be read without colours too.
    """
    if not math.isfinite(value):
        return NOT_FINITE.rich_color
    return GRADIENT.get_color((value / scale + 1) / 2 if scale else 0.5).rich_color


class PictureView(Pane):
    """The Picture tab: a matrix as pixels, two in a character, pooled by mean, minimum or maximum."""

    TITLE = "Picture"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "method", "Pool", tooltip="by mean, min or max"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in"),
        Binding("minus", "zoom(2)", "Zoom out"),
        Binding("0", "whole", "Whole matrix", show=False),
        Binding("left,h", "pan(0,-1)", "Left", show=False),
        Binding("right,l", "pan(0,1)", "Right", show=False),
        Binding("up,k", "pan(-1,0)", "Up", show=False),
        Binding("down,j", "pan(1,0)", "Down", show=False),
    ]
    found: Picture | None = None
    matrix: Matrix | None = None  # the tensor as rows and columns
    window = Window(0, 0, 0, 0)
    method = METHODS[0]

    def compose(self) -> ComposeResult:
        yield self.words
        yield Static(id="pixels")

    def begin(self) -> None:
        self.matrix = None if self.tensor is None else Matrix(self.tensor)
        self.action_whole()

    def on_resize(self) -> None:  # Textual calls the method of the base class too
        self._compute()

    def _compute(self) -> None:
        """Compute the picture again, after the selection, the size or the window has changed."""
        width, height = self.size.width, 2 * (self.size.height - 2)
        if self.matrix is not None and width > 0 and height > 0:
            self.job.start(partial(pool, self.matrix, self.window, width, height, self.method), delay=DELAY)

    def action_method(self) -> None:
        self.method = METHODS[(METHODS.index(self.method) + 1) % len(METHODS)]
        self._compute()

    def action_whole(self) -> None:
        if self.matrix is not None:
            self.window = self.matrix.window
            self._compute()

    def action_zoom(self, factor: float) -> None:
        """Show so many times as many rows and columns, around the same middle.

        Of what is pooled, no less is shown than there is room for, so that the picture fills the pane.
        """
        if self.matrix is None:
            return
        now, room = self.window[2:], (2 * (self.size.height - 2), self.size.width)
        least = room if any(count > few for count, few in zip(now, room)) else (4, 4)
        sizes = (max(min(count, few), int(count * factor)) for count, few in zip(now, least))
        self._move(self.window.sized(*map(min, sizes, self.matrix.window[2:])))

    def action_pan(self, down: int, right: int) -> None:
        self._move(self.window.moved(down, right))

    def _move(self, window: Window) -> None:
        """Show another part, within the matrix."""
        if self.matrix is not None and self.matrix.within(window) != self.window:
            self.window = self.matrix.within(window)
            self._compute()

    def update(self) -> None:
        super().update()
        pixels = () if self.error or self.found is None else self._pixels(self.found)
        self.query_one("#pixels", Static).update(Segments(pixels))

    def text(self, found: Picture) -> RenderableType:
        """Return what is shown, and the colours with their values."""
        matrix, (row, column, rows, columns), width = found.matrix, found.window, self.words.size.width
        place = f"rows {row:,}–{row + rows - 1:,} of {matrix.rows:,}, columns {column:,}–{column + columns - 1:,}"
        wrapped = ", one dimension wrapped" if len(matrix.tensor.shape) < 2 else ""
        title = f"{matrix.tensor.path}  {place} of {matrix.columns:,}{wrapped}"
        scale, steps = short_number(found.scale, 3), range(-8, 9, 1 if width > 50 else 2)
        text = Text.assemble((f"{fit(title, width)}\n", ink(self, "holder")), (f"-{scale} ", ink(self, "detail")))
        for step in steps:
            text.append("█", Style(color=colour(step / 8, 1.0)))
        down, across = max(1, rows // len(found.pixels)), max(1, columns // found.width)
        words = "a pixel is one value" if down == across == 1 else f"a pixel is the {found.method} of {down}×{across}"
        if len(words) + len(steps) + 2 * len(scale) + 6 > width:
            words = f"{found.method} {down}×{across}"
        return text.append(f" {scale}   {words}", ink(self, "detail"))

    def _pixels(self, found: Picture) -> Iterator[Segment]:
        """Yield the lines of the picture, which is enlarged as often as there is room."""
        pixels, scale = found.pixels, found.scale
        times = max(1, min(self.size.width // found.width, 2 * (self.size.height - 2) // len(pixels)))
        for line in range(0, times * len(pixels), 2):
            top, bottom = (pixels[at] if at < len(pixels) else None for at in (line // times, (line + 1) // times))
            for index in range(found.width):
                above, below = (colour(row[index], scale) if row else None for row in (top, bottom))
                yield Segment(("▀" if above or below else " ") * times, Style(color=above, bgcolor=below))
            yield Segment.line()
