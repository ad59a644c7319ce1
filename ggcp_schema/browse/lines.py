"""What the panes are drawn with: inks, lines with a cursor, and short forms of texts."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from ggcp_schema.inspect.text import padded, shorten, shorten_middle

INKS = (
    *("accent", "bar", "bytes", "bytes-odd", "cursor", "cursor-blurred", "detail", "different", "error", "guide"),
    *("head", "here", "holder", "index", "name", "none", "selected", "state", "value", "warning"),
)
INK_CLASSES = {f"ink--{ink}" for ink in INKS}  # the screen has them: Textual takes 1 ms to style them for a widget
GROUNDS = frozenset({"bytes-odd", "cursor", "cursor-blurred", "different", "here", "selected"})  # with a background
BARS = " ▏▎▍▌▋▊▉█"


def fit(text: str, width: int, *, middle: bool = False) -> str:
    """Return a printable text in exactly that many cells of a terminal, cut with `…` at a word, or in the middle."""
    return padded((shorten_middle if middle else shorten)(text, width), width) if width > 0 else ""


def bar(share: float, width: int) -> str:
    """Return a horizontal bar of `share` (0 to 1; NaN counts as 0), in steps of an eighth of a character."""
    eighths = max(1, round(min(share, 1.0) * width * 8)) if share > 0 else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (BARS[rest] if rest else "")).ljust(width)


def ink(widget: Widget, name: str) -> Style:
    """Return the style that `app.tcss` gives an ink."""
    return _on_any_ground(widget.screen.get_component_rich_style(f"ink--{name}"), name in GROUNDS)


@lru_cache
def _on_any_ground(style: Style, has_ground: bool) -> Style:
    return style if has_ground else Style(color=style.color, bold=style.bold)


class LineView(ScrollView, can_focus=True):
    """Lines with a cursor. Only the visible ones are drawn.

    The cursor is on one of `items`, of which a line has `per_line`. Subclasses define `draw`; `moved` and `chosen` are
    called when the user moves the cursor, and on Enter or a click on the cursor's line.
    """

    BINDING_GROUP_TITLE = "This pane"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move_lines(-1)", "Up", show=False),
        Binding("down,j", "move_lines(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,ctrl+home", "end(-1)", "First one", show=False),
        Binding("end,ctrl+end", "end(1)", "Last one", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]

    items, per_line, cursor = 0, 1, 0
    marks_line = True  # the line of the cursor is drawn in another style

    def draw(self, index: int, width: int) -> list[Segment]:
        """Return a line; it is cut or filled to the width."""
        raise NotImplementedError

    def moved(self) -> None:
        """React after the user has moved the cursor."""

    def chosen(self) -> None:
        """Act on the line of the cursor."""

    # Moving ------------------------------------------------------------------------------------------------

    @property
    def body(self) -> int:
        """The number of lines that can be seen at once."""
        return self.scrollable_content_region.height

    def put_items(self, items: int, per_line: int = 1) -> None:
        """Show that many items."""
        self.items, self.per_line = items, per_line
        self.cursor = min(self.cursor, max(0, items - 1))
        self.virtual_size = Size(0, -(-items // per_line))  # its height is the number of lines
        self.refresh()

    def on_resize(self) -> None:
        self.show_cursor()

    def jump(self, index: int) -> None:
        """Put the cursor on an item, as the user does by moving it."""
        index = min(max(index, 0), self.items - 1)
        if index != self.cursor and index >= 0:
            self.put(index)
            self.moved()

    def put(self, index: int, *, centre: bool = False) -> None:
        """Put the cursor on an item that exists."""
        self.cursor = index
        self.show_cursor(centre=centre)
        self.refresh()

    def show_cursor(self, *, centre: bool = False) -> None:
        """Scroll so that the cursor can be seen."""
        top, row = round(self.scroll_y), self.cursor // self.per_line
        if self.body and not top <= row < top + self.body:
            top = row - self.body // 3 if centre else row if row < top else row - self.body + 1
            self.scroll_to(y=max(0, top), animate=False)

    def action_move(self, step: int) -> None:
        self.jump(self.cursor + step)

    def action_move_lines(self, step: int) -> None:
        if 0 <= self.cursor + step * self.per_line < self.items:
            self.jump(self.cursor + step * self.per_line)

    def action_page(self, step: int) -> None:
        self.jump(self.cursor + step * self.per_line * max(1, self.body - 1))

    def action_end(self, side: int) -> None:
        self.jump(0 if side < 0 else self.items - 1)

    def action_choose(self) -> None:
        if self.items:
            self.chosen()

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        line = -1 if place is None else round(self.scroll_y) + place.y
        if place is not None and line < self.virtual_size.height:
            self.clicked(line, place.x)

    def clicked(self, line: int, column: int) -> None:
        """Go where the user clicked."""
        if line == self.cursor:
            self.chosen()
        else:
            self.jump(line)

    # Drawing -----------------------------------------------------------------------------------------------

    def text(self, text: str, kind: str = "name") -> Segment:
        """Return text in an ink."""
        return Segment(text, ink(self, kind))

    def render_line(self, y: int) -> Strip:
        index, width = round(self.scroll_y) + y, self.scrollable_content_region.width
        strip = Strip(self.draw(index, width) if index < self.virtual_size.height else []).adjust_cell_length(width)
        if index == self.cursor and self.marks_line:
            mark = ink(self, "cursor" if self.has_focus else "cursor-blurred")
            style = Style(bgcolor=mark.bgcolor, bold=mark.bold)
            strip = Strip([Segment(text, (own or Style()) + style) for text, own, *_ in strip])
        return strip.adjust_cell_length(self.size.width).apply_style(self.rich_style)


class GridView(LineView):
    """Lines of items, between which the cursor moves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "Back", show=False),
        Binding("right,l", "move(1)", "On", show=False),
        Binding("home", "line_end(-1)", "Start of the line", show=False),
        Binding("end", "line_end(1)", "End of the line", show=False),
    ]
    marks_line = False  # the item is marked instead

    def action_line_end(self, side: int) -> None:
        start = self.cursor - self.cursor % self.per_line
        self.jump(start if side < 0 else start + self.per_line - 1)
