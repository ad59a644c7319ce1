"""The tree pane: the fields of the file, with the shape, type and size of tensors beside their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.outline import Outline
from ggcp_schema.browse.reading import reads_file
from ggcp_schema.browse.text import fit, short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.text import count_text, escape, shape_text, value_text

SIGNS = {
    "damage": ("✗", "error"),
    "damage inside": ("✗", "error"),
    "finding": ("!", "warning"),
    "finding inside": ("!", "warning"),
    "changed": ("≠", "changed"),
    "changed inside": ("≠", "changed"),
    "only": ("+", "changed"),
}
INDENT = 2
LONGEST = 200  # characters of a text that are looked at


class TreeView(LineView):
    """The tree of fields. Only the fields of visible rows are asked for."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "out", "Collapse, or to the parent", show=False),
        Binding("right,l", "into", "Expand, or to the first child", show=False),
        Binding("enter,space", "choose", "Expand or collapse", show=False),
    ]

    class Moved(Message):
        """The cursor stands on another field."""

        def __init__(self, view: TreeView, field: Field) -> None:
            super().__init__()
            self.view, self.field = view, field

        @property
        def control(self) -> TreeView:
            """The view whose cursor moved."""
            return self.view

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.outline = Outline(document.file.root)
        self.marks: Mapping[str, str] = document.marks

    def count(self) -> int:
        return len(self.outline)

    @property
    def field(self) -> Field | None:
        """The field under the cursor; None if the tree is empty."""
        return self.outline[self.cursor].field if len(self.outline) else None

    # Moving ------------------------------------------------------------------------------------------------

    @reads_file
    def moved(self) -> None:
        self.post_message(self.Moved(self, self.outline[self.cursor].field))

    def reveal(self, field: Field) -> None:
        """Put the cursor on a field, and expand what leads to it."""
        before = self.outline.root.changes
        row = self.outline.reveal(field)
        if self.outline.root.changes != before:
            self.relayout()
        if row is not None:
            self.put(row, centre=True)

    def _change(self, change: Callable[[int], bool]) -> bool:
        """Expand or collapse the row of the cursor."""
        changed = len(self.outline) > 0 and change(self.cursor)
        if changed:
            self.relayout()
        return changed

    @reads_file
    def chosen(self) -> None:
        _ = self._change(self.outline.collapse) or self._change(self.outline.expand)

    @reads_file
    def action_into(self) -> None:
        if not self._change(self.outline.expand) and len(self.outline) and self.outline[self.cursor].expanded:
            self.jump(self.cursor + 1)

    @reads_file
    def action_out(self) -> None:
        if not self._change(self.outline.collapse) and len(self.outline):
            parent = self.outline.parent(self.cursor)
            if parent is not None:
                self.jump(parent)

    @reads_file
    def on_click(self, event: events.Click) -> None:
        event.prevent_default()  # LineView's
        place = event.get_content_offset(self)
        index = -1 if place is None else round(self.scroll_y) + place.y
        if place is None or not 0 <= index < self.count():
            return
        arrow = INDENT * self.outline[index].depth
        again = index == self.cursor or arrow <= place.x < arrow + 2
        self.jump(index)
        if again:
            self.chosen()

    # Drawing -----------------------------------------------------------------------------------------------

    def draw(self, index: int, width: int) -> list[Segment]:
        try:
            return self._draw(index, width)
        except READ_ERRORS:
            return [self.text("(cannot be read)", "error")]

    def _draw(self, index: int, width: int) -> list[Segment]:
        row = self.outline[index]
        field = row.field
        sign, sign_style = SIGNS.get(self.marks.get(field.path, ""), ("", ""))
        arrow = " " if field.is_leaf else "▾" if row.expanded else "▸"
        name = escape(field.name)
        room = width - INDENT * row.depth - 2 - (len(sign) + 1 if sign else 0)
        caption, value = self._caption(field)
        details = self._details(field)
        left = room - cell_len(name)
        words = cell_len(caption) + cell_len(value) + (2 if caption else 0) + (2 if value else 0)
        detail = next((text for text in details if words + len(text) + 1 <= left), "")
        if not detail and not caption:
            detail = next((text for text in details if len(text) + 1 <= left), "")
            if words and left - len(detail) - 3 < min(words, 12):
                detail = ""
        name = fit(name, room).rstrip() if cell_len(name) > room else name
        kind = "name" if field.is_leaf else "index" if name.startswith("[") else "holder"
        segments = [self.text("│ " * row.depth, "guide"), self.text(f"{arrow} ", "guide")]
        if sign:
            segments.append(self.text(f"{sign} ", sign_style))
        segments.append(self.text(name, kind))
        left -= len(detail) + (1 if detail else 0)
        for text, style in ((caption, "name"), (value, "value")):
            if text and left > 4:
                shown = fit(text, min(cell_len(text), left - 2))
                segments.append(self.text(f"  {shown}", style))
                left -= cell_len(shown) + 2
        space = max(0, left + (1 if detail else 0))
        return [*segments, Segment(" " * space, self.rich_style), self.text(detail, "detail")]

    def _details(self, field: Field) -> list[str]:
        """Return what stands at the right, from the longest form to the shortest."""
        size = short_size(field.size)
        tensor = self.document.tensor_at_node(field)
        if tensor is not None:
            shape = shape_text(tensor.shape)
            if not tensor.shape:
                return [shape]
            size = short_size(tensor.nbytes)
            return [f"{shape:>10}  {tensor.type:<4} {size:>8}", f"{shape} {tensor.type} {size}", f"{shape} {size}"]
        if field.type == "array":
            count = count_text(len(field.children()), "item")
            return [f"{count} {size:>8}", f"{count} {size}", size]
        if not field.is_leaf:
            return [f"{size:>8}", size]
        if field.type in ("padding", "data"):
            return [f"{field.type} {size:>8}", size]
        return [field.type, ""]

    def _caption(self, field: Field) -> tuple[str, str]:
        """Return what follows the name: for an element of a list the name that it holds, and the value of a leaf."""
        broken = self.document.broken_off(field)
        if broken:
            return f"broken off at {broken}", ""
        if field.is_leaf:
            return "", "" if field.type in ("padding", "data") else escape(value_text(field, LONGEST))
        if not isinstance(field.steps[-1], int):
            return "", ""
        tensor = self.document.tensor_at_node(field)
        if tensor is not None:
            return escape(tensor.name or tensor.path), ""
        children = field.children()[:8]
        name = next((child for child in children if child.is_leaf and isinstance(child.value, str | bytes)), None)
        if name is None:
            return "", ""
        value = next((child for child in children if child.name == "value" and child.is_leaf), None)
        return escape(value_text(name, LONGEST).strip("'")), "" if value is None else escape(value_text(value, LONGEST))
