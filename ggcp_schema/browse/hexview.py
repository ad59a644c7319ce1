"""The hex pane: the bytes of the whole file, with the field that each belongs to. Only visible bytes are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.hexlines import Layout, Piece, pieces
from ggcp_schema.browse.panes import Unreadable
from ggcp_schema.browse.text import fit
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.source import Source
from ggcp_schema.inspect.text import escape, value_text

KINDS = (
    *("address", "even", "odd", "unknown", "selected", "cursor", "cursor-blurred"),
    *("damage", "different", "name", "name-selected"),
)
SHOWN_NAMES = frozenset({"u32", "i32", "u64", "i64", "f32"})  # types whose value fits beside the name


class HexView(ScrollView, can_focus=True):
    """Bytes as hex digits and text, virtual: a file of 50 GB costs no more than one of 50 bytes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Byte back", show=False),
        Binding("right,l", "move(1)", "Byte on", show=False),
        Binding("up,k", "move_lines(-1)", "Line up", show=False),
        Binding("down,j", "move_lines(1)", "Line down", show=False),
        Binding("pageup", "move_pages(-1)", "Page up", show=False),
        Binding("pagedown", "move_pages(1)", "Page down", show=False),
        Binding("home", "line_start", "Start of the line", show=False),
        Binding("end", "line_end", "End of the line", show=False),
        Binding("ctrl+home", "file_start", "Start of the file", show=False),
        Binding("ctrl+end", "file_end", "End of the file", show=False),
        Binding("left_square_bracket", "field(-1)", "Previous field", show=False),
        Binding("right_square_bracket", "field(1)", "Next field", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"hex--{kind}" for kind in KINDS}

    class Moved(Message):
        """The cursor stands on another byte."""

        def __init__(self, view: HexView, offset: int) -> None:
            super().__init__()
            self.view, self.offset = view, offset

        @property
        def control(self) -> HexView:
            """The view whose cursor moved."""
            return self.view

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document, self.file = document, document.file
        self.cursor = 0
        self.selection = range(0)
        damage = self.file.damage
        self.damage_at = -1 if damage is None else min(damage.offset, self.file.size - 1)
        self._window: tuple[Any, ...] = (0, 0)
        self._bytes = b""
        self._pieces: list[Piece] = []
        self._failed = False
        self.against: tuple[Source, range] | None = None  # the bytes of another file that the selection is compared to
        self._different: set[int] = set()

    @property
    def grid(self) -> Layout:
        """The layout for the present width."""
        return Layout(self.file.size, self.scrollable_content_region.width or 80)

    def on_resize(self) -> None:
        self._window = (0, 0)
        self.virtual_size = Size(0, self.grid.lines)
        self.show_cursor()

    # Moving ------------------------------------------------------------------------------------------------

    def mark(self, field: Field | None, cursor: int | None = None) -> None:
        """Mark the bytes of a field, and put the cursor on its first byte or on the given one."""
        if field is None:
            self.mark_bytes(range(0), self.cursor if cursor is None else cursor)
        else:
            self.mark_bytes(range(field.offset, field.end), field.offset if cursor is None else cursor)

    def mark_bytes(self, chosen: range, cursor: int) -> None:
        """Mark these bytes, and put the cursor on a byte."""
        self.selection = chosen
        self._put(min(cursor, max(0, self.file.size - 1)), centre=True)

    def _put(self, cursor: int, *, centre: bool = False) -> None:
        """Put the cursor on a byte."""
        self.cursor = cursor
        self.refresh()
        self.show_cursor(centre=centre)

    def show_cursor(self, *, centre: bool = False) -> None:
        """Scroll so that the cursor can be seen."""
        height = self.scrollable_content_region.height
        if not height:
            return
        line, top = self.cursor // self.grid.per_line, round(self.scroll_y)
        if top <= line < top + height:
            return
        top = line - height // 3 if centre else line if line < top else line - height + 1
        self.scroll_to(y=max(0, top), animate=False)

    def jump(self, offset: int) -> None:
        """Put the cursor on a byte, as the user does by moving it."""
        offset = min(max(offset, 0), self.file.size - 1)
        if offset != self.cursor and self.file.size:
            self._put(offset)
            self.post_message(self.Moved(self, offset))

    def action_move(self, step: int) -> None:
        self.jump(self.cursor + step)

    def action_move_lines(self, step: int) -> None:
        offset = self.cursor + step * self.grid.per_line
        if 0 <= offset < self.file.size:
            self.jump(offset)

    def action_move_pages(self, step: int) -> None:
        self.jump(self.cursor + step * self.grid.per_line * max(1, self.scrollable_content_region.height - 1))

    def action_line_start(self) -> None:
        self.jump(self.cursor - self.cursor % self.grid.per_line)

    def action_line_end(self) -> None:
        self.jump(self.cursor - self.cursor % self.grid.per_line + self.grid.per_line - 1)

    def action_file_start(self) -> None:
        self.jump(0)

    def action_file_end(self) -> None:
        self.jump(self.file.size - 1)

    def action_field(self, step: int) -> None:
        """Go to the first byte of the next or previous field."""
        here = self.file.at(self.cursor)
        if here is None or (step > 0 and here.end >= self.file.size):
            self.jump(self.cursor if here else max(0, self.damage_at - 1))
        elif step > 0:
            self.jump(here.end)
        elif self.cursor > here.offset:
            self.jump(here.offset)
        else:
            before = self.file.at(here.offset - 1) if here.offset else None
            self.jump(0 if before is None else before.offset)

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None:
            return
        grid = self.grid
        index = grid.byte_at(place.x)
        if index is None:
            index = 0
        self.jump((round(self.scroll_y) + place.y) * grid.per_line + index)

    def style_of(self, kind: str) -> Style:
        """Return the style of a component class."""
        return self.get_component_rich_style(f"hex--{kind}")

    # Drawing -----------------------------------------------------------------------------------------------

    def _load(self, grid: Layout) -> None:
        """Read the visible bytes and find their fields, unless that was done."""
        top, height = round(self.scroll_y), self.scrollable_content_region.height
        start = top * grid.per_line
        stop = min(self.file.size, start + (height + 1) * grid.per_line)
        if (start, stop, self.selection, self.against) == self._window:
            return
        self._window = (start, stop, self.selection, self.against)
        try:
            self._bytes = self.file.source.read(start, max(0, stop - start))
            self._pieces = pieces(self.file, start, stop, self._pieces)
            self._different = set(self._compare(start, stop))
            self._failed = False
        except READ_ERRORS as error:
            self._bytes = b""
            if not self._failed:
                self._failed = True
                self.post_message(Unreadable(error))

    def _compare(self, start: int, stop: int) -> Iterator[int]:
        """Yield the offsets of the selected bytes that the other file has not, or has otherwise."""
        if self.against is None:
            return
        (source, other), chosen = self.against, self.selection
        first, last = max(start, chosen.start), min(stop, chosen.stop)
        there = other.start + first - chosen.start
        count = max(0, min(last - first, other.stop - there))
        data = source.read(there, count) if count else b""
        for index in range(max(0, last - first)):
            if index >= count or data[index] != self._bytes[first - start + index]:
                yield first + index

    def reload(self) -> None:
        """Read the visible bytes again."""
        self._window = (0, 0)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        grid = self.grid
        self._load(grid)
        start = (round(self.scroll_y) + y) * grid.per_line
        base = self.rich_style
        if start >= self.file.size:
            if y == 0 and not self.file.size:
                return Strip([Segment("The file is empty.", base)]).adjust_cell_length(self.size.width, base)
            return Strip.blank(self.size.width, base)
        at = start - self._window[0]
        row = self._bytes[at : at + grid.per_line]
        segments = [Segment(f"{start:0{grid.digits}x} ", self.style_of("address"))]
        if not row:
            segments.append(Segment("  cannot be read", self.style_of("damage")))
            return Strip(segments).adjust_cell_length(self.size.width, base)
        here = [piece for piece in self._pieces if piece.start < start + grid.per_line and piece.stop > start]
        styles = [self._byte_style(start + index, here) for index in range(len(row))]
        segments += self._digits(row, start, styles, grid, base)
        text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in row)
        segments.append(Segment(" ", base))
        segments += [Segment(char, style) for char, (style, _) in zip(text, styles, strict=True)]
        segments.append(Segment(" " * (grid.per_line - len(row) + 2), base))
        segments += self._names(here, start, grid)
        return Strip(segments).simplify().adjust_cell_length(self.size.width, base)

    def _digits(
        self, row: bytes, start: int, styles: list[tuple[Style, Style]], grid: Layout, base: Style
    ) -> list[Segment]:
        """Return the hex digits, with brackets around the selected field."""
        segments, selected = [], self.selection
        for index, byte in enumerate(row):
            offset, (style, gap) = start + index, styles[index]
            if selected and offset == selected.start:
                mark = "["
            elif selected and index and offset == selected.stop:
                mark = "]"
            elif offset == self.damage_at:
                mark = "!"
            else:
                mark = " "
            joins = index > 0 and mark == " " and styles[index - 1][1] == gap
            before = [Segment(mark, self.style_of("selected") if mark in "[]" else gap if joins else base)]
            if index and index % 8 == 0:
                before.insert(1 if mark == "]" else 0, Segment(" ", gap if joins else base))
            segments += before
            segments.append(Segment(f"{byte:02x}", style))
        end = start + len(row)
        closing = bool(selected) and end == selected.stop and start < selected.stop
        segments.append(Segment("]" if closing else " ", self.style_of("selected") if closing else base))
        left = grid.per_line - len(row)
        segments.append(Segment(" " * (3 * left + (grid.per_line - 1) // 8 - (len(row) - 1) // 8), base))
        return segments

    def _byte_style(self, offset: int, here: list[Piece]) -> tuple[Style, Style]:
        """Return the style of a byte, and that of the gap before it."""
        piece = next((piece for piece in here if piece.start <= offset < piece.stop), None)
        if piece is None or piece.field is None:
            style = self.style_of("unknown")
        else:
            style = self.style_of("odd" if piece.odd else "even")
        if offset in self.selection:
            style = self.style_of("selected")
        gap = style
        if offset in self._different:
            style = self.style_of("different")
        if offset == self.damage_at:
            style = self.style_of("damage")
        if offset == self.cursor:
            style = self.style_of("cursor" if self.has_focus else "cursor-blurred")
        return style, gap

    def _names(self, here: list[Piece], start: int, grid: Layout) -> list[Segment]:
        """Return the names of the fields that begin in the line, or of the field that continues in it."""
        if not grid.names:
            return []
        begin = [piece for piece in here if piece.start >= start] or here[:1]
        if start == self._window[0] and here and here[0] not in begin:
            begin = [here[0], *begin]
        segments: list[Segment] = []
        left, end = grid.names, start + grid.per_line
        for piece in begin:
            goes_on = piece.start < start
            if goes_on and len(segments) == 0 and start != self._window[0]:
                text = "┊"
            else:
                text = self._label(piece, long=len(begin) == 1 and left >= 24)
            text = fit(text, left) if len(text) > left else text
            chosen = max(piece.start, start) < self.selection.stop and self.selection.start < min(piece.stop, end)
            segments.append(Segment(text, self.style_of("name-selected" if chosen else "name")))
            left -= len(text) + 2
            if left < 4:
                break
            segments.append(Segment("  ", self.rich_style))
        return segments

    def _label(self, piece: Piece, *, long: bool) -> str:
        if piece.field is None:
            return "(no field: after the damage)"
        field = piece.field
        name = (
            escape(self.document.label(field))
            if long
            else field.name
            if not field.name.startswith("[")
            else _last(field)
        )
        if field.type in SHOWN_NAMES:
            return f"{name} = {escape(value_text(field))}"
        return name


def _last(field: Field) -> str:
    """Return the name with the index: `ne[1]`."""
    steps = [step if isinstance(step, str) else f"[{step}]" for step in field.steps]
    names = [index for index, step in enumerate(field.steps) if isinstance(step, str)]
    return "".join(steps[names[-1] if names else 0 :])
