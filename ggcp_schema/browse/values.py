"""The Values tab: a tensor as a table, of which only the visible cells are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Size

from ggcp_schema.browse.lines import LineView, fit, number
from ggcp_schema.browse.panes import Moved, TensorPane, wrapped
from ggcp_schema.errors import GgcpError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.pooling import Matrix
from ggcp_schema.inspect.text import escape

CELL = 10  # characters
TOKEN = 10  # characters of the text of a token
WRAP = 8  # elements in a row of a tensor with one dimension


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


class Values(LineView, TensorPane):
    """The Values tab."""

    TITLE, WHAT = "Values", "its values"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "column(-1)", "Left", show=False),
        Binding("right,l", "column(1)", "Right", show=False),
        Binding("ctrl+home", "column_end(-1)", "First column", show=False),
        Binding("ctrl+end", "column_end(1)", "Last column", show=False),
    ]
    top = 3
    marks_line = False  # the cell is marked instead
    table: Table | None = None
    texts: Callable[[int], str] | None = None
    column = 0

    def begin(self, tensor: Tensor | None) -> None:
        self.table, self.texts = None, None
        if tensor is not None:
            self.table, self.texts = Table(tensor), self.document.row_text(tensor)
            self.cursor = self.column = 0
            self.scroll_to(0, 0, animate=False)
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
    def _digits(self) -> int:
        return 4 if self.table is None else max(4, len(self.table.label(self.table.rows - 1)))

    @property
    def _gutter(self) -> int:
        """The width of the rows' labels."""
        return self._digits + 1 + (0 if self.texts is None else TOKEN + 1)

    def _visible(self) -> range:
        """Return the visible columns."""
        columns = self.table.columns if self.table else 0
        room = max(1, (self.scrollable_content_region.width - self._gutter) // CELL)
        first = min(-(-round(self.scroll_x) // CELL), max(0, columns - room))
        return range(first, min(columns, first + room))

    # Moving ------------------------------------------------------------------------------------------------

    def _element(self, table: Table) -> int:
        """Return the index of the element under the cursor, in the file's order."""
        return min(self.cursor * table.columns + self.column, table.tensor.n_elements - 1)

    def moved(self) -> None:
        if self.table is not None:
            tensor = self.table.tensor
            size = tensor.nbytes // tensor.n_elements
            self.post_message(Moved(self, tensor.offset + self._element(self.table) * size, tensor))

    def show_cursor(self, *, centre: bool = False) -> None:
        super().show_cursor(centre=centre)
        visible = self._visible()
        if self.table is not None and self.column not in visible:
            left = self.column if self.column < visible.start else self.column - len(visible) + 1
            self.scroll_to(x=CELL * left, animate=False)

    def action_column(self, step: int) -> None:
        if self.table is not None and 0 <= self.column + step < self.table.columns:
            self.column += step
            self.put(self.cursor)
            self.moved()

    def action_column_end(self, side: int) -> None:
        if self.table is not None:
            self.action_column(-self.column if side < 0 else self.table.columns - 1 - self.column)

    def clicked(self, line: int, column: int) -> None:
        column = self._visible().start + (column - self._gutter) // CELL
        if column in self._visible():
            self.column = column
            self.put(line)
            self.moved()

    # Drawing -----------------------------------------------------------------------------------------------

    def draw_top(self, index: int, width: int) -> list[Segment]:
        table = self.table
        if table is None:
            return [self.text(wrapped(self.message, index, width), "detail")]
        if index == 0:
            return [self.text(fit(table.axes(), width), "detail")]
        if index == 1:
            element = self._element(table)
            try:
                value = next(iter(table.tensor.values(element, element + 1)))[0]
            except GgcpError as error:
                return [self.text(fit(error.message, width), "error")]
            place = f"{table.tensor.path}{table.indices(element)}"
            return [self.text(place, "index"), self.text(f" = {value!s}", "value")]
        sign = "+" if len(table.tensor.shape) < 2 else ""
        labels = (self.text(f"{f'{sign}{column}':>{CELL}}", "head") for column in self._visible())
        return [Segment(" " * self._gutter), *labels]

    def draw(self, index: int, width: int) -> list[Segment]:
        table, here = self.table, index == self.cursor
        if table is None:
            return []
        segments = [self.text(f"{table.label(index):>{self._digits}} ", "holder" if here else "head")]
        if self.texts is not None:
            segments.append(self.text(fit(escape(repr(self.texts(index))), TOKEN) + " ", "accent"))
        visible, start = self._visible(), index * table.columns
        stop = min(start + visible.stop, table.tensor.n_elements)
        try:
            values = [float(value) for piece in table.tensor.values(start + visible.start, stop) for value in piece]
        except GgcpError as error:
            return [*segments, self.text(error.message, "error")]
        marked = self.column if here else -2
        segments += self._cells(zip(visible, values), marked)
        return [*segments, self.text("]" if marked == visible.start + len(values) - 1 else "", "value")]

    def _cells(self, cells: Iterator[tuple[int, float]] | zip[tuple[int, float]], marked: int) -> Iterator[Segment]:
        """Yield the values of a row, one of them in brackets."""
        for column, value in cells:
            text = number(value)
            if column == marked:
                yield Segment(" " * (CELL - len(text) - 1))
                yield Segment(f"[{text}", self.ink("value") + self.ink("cursor"))
            else:
                ink = "detail" if value == 0 else "index" if value < 0 else "name"
                closing = "]" if column == marked + 1 else ""
                yield self.text(f"{closing}{text:>{CELL - len(closing)}}", ink if math.isfinite(value) else "error")
