"""The Values tab: a tensor as a table, of which only the visible cells are read."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import RenderableType
from rich.segment import Segment
from rich.text import Text

from ggcp_schema.browse.lines import GridView, fit, ink
from ggcp_schema.browse.panes import Moved, Pane
from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect.matrix import Table
from ggcp_schema.inspect.text import escape, short_number

CELL = 10  # characters of a value
TOKEN = 10  # characters of the text of a token


class Cells(GridView):
    """A table of values, of which only the visible ones are read. `cursor` is an element, in the file's order."""

    parent: Pane
    table: Table | None = None
    texts: Callable[[int], str] | None = None  # of the tokens to which the rows belong
    left = 0  # the first column that is seen
    digits = 4  # of the rows' labels

    def __init__(self, pane: Pane) -> None:
        super().__init__()
        self.document = pane.document

    def put_table(self, table: Table | None, texts: Callable[[int], str] | None) -> None:
        """Show another table."""
        self.table, self.texts, self.cursor = table, texts, 0
        self.digits = max(4, len(table.label(table.rows - 1))) if table else 4
        self.scroll_to(y=0, animate=False)
        self.put_items(*(table.tensor.n_elements, table.columns) if table else (0,))

    @property
    def _gutter(self) -> int:
        """The width of the rows' labels."""
        return self.digits + 1 + (0 if self.texts is None else TOKEN + 1)

    def _visible(self) -> range:
        """Return the visible columns, among them that of the cursor."""
        columns, column = self.per_line, self.cursor % self.per_line
        room = max(1, (self.scrollable_content_region.width - self._gutter) // CELL)
        self.left = max(0, min(max(self.left, column - room + 1), column, columns - room))
        return range(self.left, min(columns, self.left + room))

    def moved(self) -> None:
        if self.table is not None:
            tensor = self.table.tensor
            offset = tensor.offset + self.cursor * tensor.nbytes // tensor.n_elements
            size = max(1, tensor.nbytes // tensor.n_elements)  # of a quantized tensor, which has whole blocks, about
            self.post_message(Moved(self, self.document, self.parent.field, offset, size))

    def clicked(self, line: int, column: int) -> None:
        column = self._visible().start + (column - self._gutter) // CELL
        if column in self._visible():
            self.jump(line * self.per_line + column)

    def head(self) -> str:
        """Return the numbers of the visible columns."""
        sign = "+" if self.table and len(self.table.tensor.shape) < 2 else ""
        return " " * self._gutter + "".join(f"{f'{sign}{column}':>{CELL}}" for column in self._visible())

    def draw(self, index: int, width: int) -> list[Segment]:
        table, (here, column) = self.table, divmod(self.cursor, self.per_line)
        if table is None:
            return []
        segments = [self.text(f"{table.label(index):>{self.digits}} ", "holder" if index == here else "head")]
        if self.texts is not None:
            segments.append(self.text(fit(escape(repr(self.texts(index))), TOKEN) + " ", "accent"))
        visible, start = self._visible(), index * table.columns
        stop = min(start + visible.stop, table.tensor.n_elements)
        try:
            values = [float(value) for piece in table.tensor.values(start + visible.start, stop) for value in piece]
        except GgcpError as error:
            return [*segments, self.text(error.message, "error")]
        room = CELL
        for at, value in zip(visible, values):
            kind = "detail" if value == 0 else "index" if value < 0 else "name"
            text, style = short_number(value), ink(self, kind if math.isfinite(value) else "error")
            if index == here and at == column:  # its brackets take a column before it, and one after it
                text, style = f"[{text}]", ink(self, "value") + ink(self, "cursor")
            segments += Segment(" " * (room - len(text.rstrip("]")))), Segment(text, style)
            room = CELL - text.endswith("]")
        return segments


class Values(Pane):
    """The Values tab."""

    TITLE = "Values"
    VIEW = Cells
    target: Cells

    def begin(self) -> None:
        self.found = None if self.tensor is None else Table(self.tensor)
        self.target.put_table(self.found, None if self.tensor is None else self.document.row_text(self.tensor))

    def go_to(self, element: int) -> None:
        """Put the cursor on an element of the tensor that is shown."""
        self.target.put(element, centre=True)
        self.words.refresh()

    def on_moved(self) -> None:
        self.words.refresh()

    def text(self, table: Table) -> RenderableType:
        """Return the axes, the value under the cursor, and the numbers of the columns."""
        element, width = self.target.cursor, self.words.size.width
        try:
            value = next(iter(table.tensor.values(element, element + 1)))[0]
        except GgcpError as error:
            return Text(error.message, ink(self, "error"))
        return Text.assemble(
            (f"{fit(table.axes(), width)}\n", ink(self, "detail")),
            (f"{table.tensor.path}{table.indices(element)}", ink(self, "index")),
            (f" = {value!s}\n", ink(self, "value")),
            (self.target.head(), ink(self, "head")),
            no_wrap=True,
        )
