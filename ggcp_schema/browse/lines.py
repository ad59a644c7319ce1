"""The base of all panes that show lines: virtual, with a cursor, with fixed lines at the top."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

LINE_KINDS = (
    *("accent", "bar", "changed", "cursor", "cursor-blurred", "detail", "error"),
    *("guide", "head", "holder", "index", "name", "value", "warning"),
)
LINE_CLASSES = {f"line--{kind}" for kind in LINE_KINDS}


class LineView(ScrollView, can_focus=True):
    """Lines that are drawn when they are seen.

    Subclasses define `count`, `draw` and, if `top` is not 0, `draw_top`; `moved` and `chosen` are called when the
    cursor moves, and on Enter or a click on the cursor's line.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "end(-1)", "First line", show=False),
        Binding("end", "end(1)", "Last line", show=False),
        Binding("enter", "choose", "Choose", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = LINE_CLASSES

    top = 0  # fixed lines
    marks_line = True  # the line of the cursor is drawn in another style

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cursor = 0

    def count(self) -> int:
        """Return the number of lines."""
        raise NotImplementedError

    def draw(self, index: int, width: int) -> list[Segment]:
        """Return a line; it is cut or filled to the width."""
        raise NotImplementedError

    def draw_top(self, index: int, width: int) -> list[Segment]:
        """Return a fixed line."""
        raise NotImplementedError

    def moved(self) -> None:
        """Take note that the user moved the cursor."""

    def chosen(self) -> None:
        """Act on the line of the cursor."""

    # Moving ------------------------------------------------------------------------------------------------

    @property
    def body(self) -> int:
        """The number of lines that can be seen at once."""
        return max(0, self.scrollable_content_region.height - self.top)

    def relayout(self) -> None:
        """Take note that the number of lines has changed."""
        self.cursor = min(self.cursor, max(0, self.count() - 1))
        self.virtual_size = Size(0, self.count() + self.top)
        self.refresh()

    def on_mount(self) -> None:
        self.relayout()

    def on_resize(self) -> None:
        self.show_cursor()

    def jump(self, index: int) -> None:
        """Put the cursor on a line, as the user does by moving it."""
        index = min(max(index, 0), self.count() - 1)
        if index != self.cursor and index >= 0:
            self.put(index)
            self.moved()

    def put(self, index: int, *, centre: bool = False) -> None:
        """Put the cursor on a line that exists."""
        self.cursor = index
        self.show_cursor(centre=centre)
        self.refresh()

    def show_cursor(self, *, centre: bool = False) -> None:
        """Scroll so that the cursor can be seen."""
        top = round(self.scroll_y)
        if not self.body or top <= self.cursor < top + self.body:
            return
        if centre:
            top = self.cursor - self.body // 3
        else:
            top = self.cursor if self.cursor < top else self.cursor - self.body + 1
        self.scroll_to(y=max(0, top), animate=False)

    def action_move(self, step: int) -> None:
        self.jump(self.cursor + step)

    def action_page(self, step: int) -> None:
        self.jump(self.cursor + step * max(1, self.body - 1))

    def action_end(self, side: int) -> None:
        self.jump(0 if side < 0 else self.count() - 1)

    def action_choose(self) -> None:
        if self.count():
            self.chosen()

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or place.y < self.top:
            return
        index = round(self.scroll_y) + place.y - self.top
        if index < self.count():
            if index == self.cursor:
                self.chosen()
            self.jump(index)

    def style_of(self, kind: str) -> Style:
        """Return the style of a component class."""
        return self.get_component_rich_style(f"line--{kind}")

    # Drawing -----------------------------------------------------------------------------------------------

    def text(self, text: str, style: str = "name") -> Segment:
        """Return text in the style of a component class."""
        return Segment(text, self.style_of(style))

    def render_line(self, y: int) -> Strip:
        width, base = self.scrollable_content_region.width, self.rich_style
        if y < self.top:
            segments = self.draw_top(y, width)
        else:
            index = round(self.scroll_y) + y - self.top
            if index >= self.count():
                return Strip.blank(self.size.width, base)
            segments = self.draw(index, width)
            if index == self.cursor and self.marks_line:
                strip = Strip(segments).adjust_cell_length(width, base)
                mark = self.style_of("cursor" if self.has_focus else "cursor-blurred")
                style = Style(bgcolor=mark.bgcolor, bold=mark.bold)
                segments = [Segment(text, (own or Style()) + style) for text, own, *_ in strip]
        return Strip(segments).adjust_cell_length(self.size.width, base)


class Hanging:
    """Lines whose continuation is indented below the text and not below the label."""

    def __init__(self, text: Text, indent: int) -> None:
        self.text, self.indent = text, indent

    def __rich_console__(self, console: Any, options: Any) -> Any:
        for line in self.text.split("\n"):
            label, words = line[: self.indent], line[self.indent :]
            for index, part in enumerate(words.wrap(console, max(8, options.max_width - self.indent))):
                part.rstrip()
                yield Text.assemble(label if index == 0 else " " * self.indent, part)
