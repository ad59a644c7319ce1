"""The Values tab: a tensor as a table, of which only the visible cells are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.panes import Jump, Pane, cannot_show
from ggcp_schema.browse.text import fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.errors import GgcpError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.text import escape

CELL = 10  # characters
TOKEN = 10  # characters of the text of a token
WRAP = 8  # elements in a row of a tensor with one dimension


@dataclass(frozen=True)
class Table:
    """A tensor as rows and columns: a row is a run of `ne[0]` elements, or of 8 if there is one dimension."""

    tensor: Tensor

    @property
    def columns(self) -> int:
        """The number of columns."""
        shape = self.tensor.shape
        return shape[0] if len(shape) > 1 else min(WRAP, self.tensor.n_elements)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return -(-self.tensor.n_elements // self.columns) if self.columns else 0

    def label(self, row: int) -> str:
        """Return the indices of a row, the slowest first; of a tensor with one dimension its first index."""
        shape = self.tensor.shape
        if len(shape) < 2:
            return str(row * self.columns)
        parts = []
        for length in shape[1:-1]:
            row, index = divmod(row, length)
            parts.append(index)
        return ",".join(map(str, [row, *reversed(parts)]))

    def axes(self) -> str:
        """Return in words which axis goes where, in ggml's order and in numpy's."""
        shape, last = self.tensor.shape, len(self.tensor.shape) - 1
        if last < 1:
            return f"ne[0] = {self.tensor.n_elements:,} (numpy axis 0), {self.columns} in a row"
        down = ", ".join(f"ne[{axis}] = {shape[axis]:,} (numpy axis {last - axis})" for axis in range(last, 0, -1))
        return f"→ ne[0] = {shape[0]:,} (numpy axis {last})   ↓ {down}"

    def index_words(self, element: int) -> str:
        """Return the indices of an element in numpy's order: `[3, 17]`."""
        indices = []
        for length in self.tensor.shape:
            element, index = divmod(element, length)
            indices.append(index)
        return f"[{', '.join(map(str, reversed(indices)))}]"


class Values(LineView, Pane):
    """The Values tab."""

    TITLE = "Values"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "column(-1)", "Left", show=False),
        Binding("right,l", "column(1)", "Right", show=False),
        Binding("ctrl+home", "column_end(-1)", "First column", show=False),
        Binding("ctrl+end", "column_end(1)", "Last column", show=False),
    ]
    top = 3
    marks_line = False  # the cell is marked instead

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.table: Table | None = None
        self.texts: Callable[[int], str] | None = None
        self.column = 0
        self._message = ""
        self._cache: dict[tuple[int, int, int], list[float]] = {}

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        self._message = cannot_show(tensor, "its values")
        if tensor is None or self._message:
            self.table = None
        elif self.table is None or tensor != self.table.tensor:
            self.table, self.texts = Table(tensor), self.document.row_text(tensor)
            self.cursor = self.column = 0
            self.scroll_to(0, 0, animate=False)
        self._cache.clear()
        self.relayout()

    def go_to(self, element: int) -> None:
        """Put the cursor on an element of the tensor that is shown."""
        if self.table is not None:
            row, self.column = divmod(element, self.table.columns)
            self.put(row, centre=True)

    def count(self) -> int:
        return 0 if self.table is None else self.table.rows

    def relayout(self) -> None:
        super().relayout()
        if self.table is not None:
            self.virtual_size = Size(self._gutter + CELL * self.table.columns, self.count() + self.top)

    @property
    def _gutter(self) -> int:
        """The width of the rows' labels."""
        if self.table is None:
            return 0
        return self._digits + 1 + (0 if self.texts is None else TOKEN + 1)

    @property
    def _digits(self) -> int:
        return 4 if self.table is None else max(4, len(self.table.label(self.table.rows - 1)))

    @property
    def element(self) -> int:
        """The index of the element under the cursor, in the file's order."""
        if self.table is None:
            return 0
        return min(self.cursor * self.table.columns + self.column, self.table.tensor.n_elements - 1)

    def _visible(self) -> tuple[int, int]:
        """Return the first visible column and the one after the last."""
        width = self.scrollable_content_region.width - self._gutter
        columns = self.table.columns if self.table else 0
        first = min(-(-round(self.scroll_x) // CELL), max(0, columns - max(1, width // CELL)))
        return first, min(columns, first + max(1, width // CELL))

    def _row(self, row: int, first: int, stop: int) -> list[float]:
        """Read a part of a row."""
        assert self.table is not None  # noqa: S101 - rows are drawn for a table only
        key = (row, first, stop)
        if key not in self._cache:
            if len(self._cache) > 500:
                self._cache.clear()
            tensor, start = self.table.tensor, row * self.table.columns
            stop_at = min(start + stop, tensor.n_elements)
            self._cache[key] = [float(value) for piece in tensor.values(start + first, stop_at) for value in piece]
        return self._cache[key]

    # Moving ------------------------------------------------------------------------------------------------

    def moved(self) -> None:
        if self.table is not None:
            tensor = self.table.tensor
            size = tensor.nbytes // tensor.n_elements
            self.post_message(Jump(offset=tensor.offset + self.element * size, tensor=tensor))

    def show_cursor(self, *, centre: bool = False) -> None:
        super().show_cursor(centre=centre)
        first, stop = self._visible()
        if self.table is not None and not first <= self.column < stop:
            left = self.column if self.column < first else self.column - (stop - first) + 1
            self.scroll_to(x=CELL * left, animate=False)

    def action_column(self, step: int) -> None:
        if self.table is not None and 0 <= self.column + step < self.table.columns:
            self.column += step
            self.put(self.cursor)
            self.moved()

    def action_column_end(self, side: int) -> None:
        if self.table is not None:
            self.action_column(-self.column if side < 0 else self.table.columns - 1 - self.column)

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or self.table is None or place.y < self.top:
            return
        first, stop = self._visible()
        row = round(self.scroll_y) + place.y - self.top
        column = first + (place.x - self._gutter) // CELL
        if place.x >= self._gutter and column < stop and row < self.count():
            event.prevent_default()
            self.column = column
            self.put(row)
            self.moved()

    # Drawing -----------------------------------------------------------------------------------------------

    def draw_top(self, index: int, width: int) -> list[Segment]:
        if self.table is None:
            lines = wrap(self._message, max(1, width))
            return [self.text(lines[index], "detail")] if index < len(lines) else []
        if index == 0:
            return [self.text(fit(self.table.axes(), width), "detail")]
        if index == 1:
            return self._current(width)
        first, stop = self._visible()
        offsets = range(first, stop)
        labels = [f"+{column}" if len(self.table.tensor.shape) < 2 else str(column) for column in offsets]
        gutter = Segment(" " * self._gutter, self.rich_style)
        return [gutter, *(self.text(f"{label:>{CELL}}", "head") for label in labels)]

    def _current(self, width: int) -> list[Segment]:
        """Return the line that says which element the cursor is on, with all digits."""
        assert self.table is not None  # noqa: S101 - drawn for a table only
        tensor, element = self.table.tensor, self.element
        try:
            value = next(iter(tensor.values(element, element + 1)))[0]
        except GgcpError as error:
            return [self.text(fit(error.message, width), "error")]
        place = f"{tensor.path}{self.table.index_words(element)}"
        return [self.text(place, "index"), self.text(f" = {value!s}", "value")]

    def draw(self, index: int, width: int) -> list[Segment]:
        if self.table is None:
            return []
        first, stop = self._visible()
        label = self.table.label(index).rjust(self._digits)
        segments = [self.text(f"{label} ", "head" if index != self.cursor else "holder")]
        if self.texts is not None:
            segments.append(self.text(fit(escape(repr(self.texts(index))), TOKEN) + " ", "accent"))
        try:
            values = self._row(index, first, stop)
        except GgcpError as error:
            return [*segments, self.text(error.message, "error")]
        for column, value in enumerate(values, first):
            if index == self.cursor and column == self.column:
                text = number(value)
                segments += [
                    Segment(" " * max(0, CELL - len(text) - 1), self.rich_style),
                    Segment(f"[{text}", self.style_of("value") + self.style_of("cursor")),
                ]
                continue
            after = index == self.cursor and column == self.column + 1
            text = f"]{number(value):>{CELL - 1}}" if after else f"{number(value):>{CELL}}"
            segments.append(self.text(text, _kind(value)))
        if index == self.cursor and self.column == stop - 1 and len(values) > self.column - first:
            segments.append(self.text("]", "value"))
        return segments


def _kind(value: float) -> str:
    if not math.isfinite(value):
        return "error"
    return "detail" if value == 0 else "index" if value < 0 else "name"
