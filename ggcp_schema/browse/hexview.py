"""The hex pane: the bytes of the whole file, with the field that each belongs to. Only visible bytes are read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.lines import GridView, fit, ink
from ggcp_schema.browse.panes import Moved
from ggcp_schema.files.source import Source
from ggcp_schema.inspect.paths import Piece, pieces
from ggcp_schema.inspect.text import escape, value_text

NAMES = 18  # the least width of the column with the fields' names
SHOWN_VALUES = frozenset({"u32", "i32", "u64", "i64", "f32"})  # types whose value fits beside the name


class Layout:
    """Columns of a line: address, bytes in groups of 8 with a place for a bracket before each, text, names.

    An address has `digits`, and a line 32, 16, 8 or 4 bytes. The text begins at `text_column`; `names` is the width of
    the column with names, 0 if there is no room.
    """

    def __init__(self, size: int, width: int) -> None:
        self.digits = max(8, len(f"{max(size - 1, 0):x}"))
        choices = ((32, NAMES), (16, NAMES), (16, 0), (8, 0))
        self.per_line = next((count for count, names in choices if self._taken(count) + names <= width), 4)
        self.text_column = self._taken(self.per_line) - self.per_line
        left = width - self._taken(self.per_line) - 2
        self.names = left if left >= 8 else 0

    def _taken(self, count: int) -> int:
        return self.digits + 1 + 3 * count + (count - 1) // 8 + 2 + count

    def byte_column(self, index: int) -> int:
        """Return the column of a byte's first digit."""
        return self.digits + 2 + 3 * index + index // 8

    def byte_at(self, column: int) -> int:
        """Return which byte of a line stands in that column, as digits or as text; 0 if none does."""
        if 0 <= column - self.text_column < self.per_line:
            return column - self.text_column
        starts = map(self.byte_column, range(self.per_line))
        return next((index for index, start in enumerate(starts) if start <= column < start + 3), 0)


class HexView(GridView):
    """Bytes as hex digits and text, virtual: a file of 50 GB costs no more than one of 50 bytes.

    `cursor` is the offset of a byte.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left_square_bracket", "field(-1)", "Previous field", show=False),
        Binding("right_square_bracket", "field(1)", "Next field", show=False),
    ]

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document, self.file = document, document.file
        self.grid = Layout(self.file.size, 80)
        self.selection = range(0)
        damage = self.file.damage
        self.damage_at = -1 if damage is None else min(damage.offset, self.file.size - 1)
        self.against: tuple[Source, range] | None = None  # the bytes of another file that the selection is compared to
        self.different: frozenset[int] = frozenset()
        self._loaded: tuple[Any, ...] = (0, 0)
        self._bytes = b""
        self._pieces: list[Piece] = []
        self._shades: dict[int, bool] = {}  # by the start of a piece: neighbours differ

    # Moving ------------------------------------------------------------------------------------------------

    def on_resize(self) -> None:  # Textual calls the method of the base class after this one
        self.grid = Layout(self.file.size, self.scrollable_content_region.width or 80)
        self.put_items(self.file.size, self.grid.per_line)

    def mark(self, chosen: range, cursor: int) -> None:
        """Mark these bytes, and put the cursor on a byte."""
        self.selection = chosen
        self.put(min(cursor, max(0, self.file.size - 1)), centre=True)

    def moved(self) -> None:
        self.post_message(Moved(self, self.document, offset=self.cursor))

    def action_field(self, step: int) -> None:
        """Go to the first byte of the next or previous field."""
        self.jump(self.document.next_start(self.cursor, step))

    def clicked(self, line: int, column: int) -> None:
        self.jump(line * self.per_line + self.grid.byte_at(column))

    # Drawing -----------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the visible bytes again."""
        self._loaded = (0, 0)
        self.refresh()

    def _load(self) -> int:
        """Read the visible bytes and find their fields, unless that was done. Return the offset of the first."""
        start = round(self.scroll_y) * self.per_line
        stop = min(self.file.size, start + (self.body + 1) * self.per_line)
        if (start, stop, self.selection, self.against) == self._loaded:
            return start
        self._loaded = (start, stop, self.selection, self.against)
        try:
            self._bytes = self.file.source.read(start, max(0, stop - start))
            self._pieces = list(pieces(self.file, start, stop - start))
            self._shade()
            self.different = frozenset(self._compare(start, stop))
        except READ_ERRORS as error:
            self._bytes = b""
            self.call_later(self.screen.look_for_changes, error)  # type: ignore[attr-defined]
        return start

    def _shade(self) -> None:
        """Let the shades of neighbours differ; pieces that were visible before keep theirs."""
        starts = [piece.start for piece in self._pieces]
        known = next((index for index, start in enumerate(starts) if start in self._shades), 0)
        shade = self._shades.get(starts[known], False) if starts else False
        self._shades = {start: shade == ((index - known) % 2 == 0) for index, start in enumerate(starts)}

    def _compare(self, start: int, stop: int) -> Iterator[int]:
        """Yield the offsets of the selected bytes that the other file has not, or has otherwise."""
        if self.against is None:
            return
        (source, other), chosen = self.against, self.selection
        first, last = max(start, chosen.start), min(stop, chosen.stop)
        there = other.start + first - chosen.start
        data = source.read(there, max(0, min(last - first, other.stop - there)))
        here = self._bytes[first - start : max(0, last - start)]
        yield from (at for at, (a, b) in enumerate(zip_longest(here, data), first) if a != b)

    def draw(self, index: int, width: int) -> list[Segment]:
        grid = self.grid
        first, start = self._load(), index * grid.per_line
        data = self._bytes[start - first :][: grid.per_line]
        address = self.text(f"{start:0{grid.digits}x} ", "detail")
        if not data:
            return [address, self.text("  cannot be read", "error")]
        end = start + grid.per_line
        here = [each for each in self._pieces if each.offset < end and each.offset + each.size > start]
        styles = [self._styles(start + index, here) for index in range(len(data))]
        text = [Segment(chr(byte) if 32 <= byte < 127 else "·", style) for byte, (style, _) in zip(data, styles)]
        left = Segment(" " * (grid.per_line - len(data) + 2))
        return [address, *self._digits(data, start, styles), *text, left, *self._names(here, start)]

    def _digits(self, data: bytes, start: int, styles: list[tuple[Style, Style]]) -> Iterator[Segment]:
        """Yield the hex digits, with brackets around the selected field."""
        chosen, count = self.selection, len(data)
        for index in range(count + 1):
            offset, is_byte = start + index, index < count
            mark = "!" if is_byte and offset == self.damage_at else " "
            if chosen and is_byte and offset == chosen.start:
                mark = "["
            elif chosen and index and offset == chosen.stop:
                mark = "]"
            gap = " " if is_byte and index and index % 8 == 0 else ""
            joins = 0 < index < count and styles[index - 1][1] == styles[index][1]
            style = ink(self, "selected") if mark in "[]" else styles[index][1] if joins else Style()
            yield Segment(mark + gap if mark == "]" else gap + mark, style)
            yield Segment(f"{data[index]:02x}" if is_byte else "", styles[index][0] if is_byte else None)
        yield Segment(" " * (self.grid.text_column - self.grid.byte_column(count - 1) - 3))

    def _styles(self, offset: int, here: list[Piece]) -> tuple[Style, Style]:
        """Return the style of a byte, and that of the gap before it."""
        piece = next((piece for piece in here if piece.offset <= offset < piece.offset + piece.size), None)
        odd = piece is not None and self._shades[piece.start]
        kind = "none" if piece is None or piece.field is None else "bytes-odd" if odd else "bytes"
        shade = ink(self, "selected" if offset in self.selection else kind)
        if offset == self.cursor:
            return ink(self, "here") if self.has_focus else ink(self, "selected") + Style(underline=True), shade
        if offset == self.damage_at:
            return ink(self, "error") + Style(reverse=True), shade
        return ink(self, "different") if offset in self.different else shade, shade

    def _names(self, here: list[Piece], start: int) -> Iterator[Segment]:
        """Yield the names of the fields that begin in the line, or of the field that continues in it."""
        left, end, first = self.grid.names, start + self.per_line, start == self._loaded[0]
        begin = [piece for piece in here if piece.offset >= start] or here[:1]
        for piece in begin:
            if left < 4:
                return
            text = self._label(piece, left, len(begin) == 1) if first or piece.offset >= start else "┊"
            stop = min(piece.offset + piece.size, end)
            chosen = max(piece.offset, start) < self.selection.stop and self.selection.start < stop
            yield self.text(fit(text, left).rstrip(), "index" if chosen else "detail")
            yield Segment("  ")
            left -= len(text) + 2

    def _label(self, piece: Piece, room: int, is_only: bool) -> str:
        """Return the name of a field, the long one if no other begins in the line, and its value if there is room."""
        field = piece.field
        if field is None:
            return "(not parsed)"
        last = field.path.rpartition(".")[2]  # `ne[1]`
        name = escape(self.document.label(field) if is_only and room >= 24 else last)
        text = f"{name} = {escape(value_text(field))}" if field.type in SHOWN_VALUES else name
        return text if len(text) <= room else name
