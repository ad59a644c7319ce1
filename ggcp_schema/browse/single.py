"""The screen with one file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.widget import Widget
from textual.widgets import TabbedContent, TabPane, Tabs

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.overview import Overview, Schema
from ggcp_schema.browse.panes import Moved, Pane, TopBar, reads_file
from ggcp_schema.browse.plots import Histogram, PictureView
from ggcp_schema.browse.screen import FileScreen
from ggcp_schema.browse.tables import HealthView, Layers
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.browse.values import Values
from ggcp_schema.constructs.tree import Field
from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect.text import escape, float_text, value_text

KINDS: tuple[type[Pane], ...] = (Overview, Values, Histogram, PictureView, HealthView, Layers, Schema)


class BrowseScreen(FileScreen):
    """One file: the tree at the left, tabs at the right, bytes at the bottom; what is selected in one is in all."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(str(number), f"tab({number - 1})", f"Open {kind.TITLE}", show=False)
        for number, kind in enumerate(KINDS, 1)
    ]
    NAMES = ("Fields", "Tabs", "Bytes")

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.panes, self.tabs = [kind(classes="pane") for kind in KINDS], TabbedContent()
        for pane in self.panes:
            pane.document = document

    def compose(self) -> ComposeResult:
        yield TopBar(self.document.name, self.document)
        with Horizontal(classes="row"):
            with Container(id="tree-frame", classes="frame"):
                yield TreeView(self.document)
            with Container(id="tabs-frame", classes="frame"), self.tabs:
                for index, pane in enumerate(self.panes):
                    yield TabPane(pane.TITLE, *self.panes[: not index], id=f"tab-{index}")
        with Container(id="hex-frame", classes="frame"):
            yield HexView(self.document)
        yield from self.edges()

    def on_mount(self) -> None:  # Textual calls the method of the base class too
        self.query_one(Tabs).can_focus = False
        for name, title in (("tree", "Fields"), ("tabs", "1 … 7"), ("hex", "Bytes")):
            self.query_one(f"#{name}-frame").border_title = title
        tree = self.query_one(TreeView)
        tree.focus()
        self.field = tree.field
        self.query_one(HexView).mark(self.field)
        self.call_after_refresh(self._begin)

    @reads_file
    def _begin(self) -> None:
        """Select the place of the damage: its field, or the last one before it; without damage the first field."""
        file, damage = self.document.file, self.document.file.damage
        if damage is None:
            self._describe()
            return
        offset = min(damage.offset, max(0, file.size - 1))
        try:
            field: Field | None = file.find(damage.path)
        except GgcpError:
            field = file.at(max(0, offset - 1))
        self.select(field, offset)

    def targets(self) -> list[Widget]:
        return [self.query_one(TreeView), self.panes[self.tab], self.query_one(HexView)]

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        super().studied(document, result, done=done)
        document.problem = "" if result is None else str(result)
        if self.tab in (0, len(KINDS) - 1):
            self._show_in_tab()

    # Tabs --------------------------------------------------------------------------------------------------

    @property
    def tab(self) -> int:
        """The open tab."""
        return int(self.tabs.active.removeprefix("tab-") or 0)

    def action_tab(self, index: int) -> None:
        """Open a tab."""
        self.tabs.active = f"tab-{index}"
        self.open_pane(1)

    async def on_tabbed_content_tab_activated(self, message: TabbedContent.TabActivated) -> None:
        pane = self.panes[self.tab]
        for other in self.panes:
            if other is not pane:
                other.hide()
        if not pane.is_attached:
            await message.pane.mount(pane)
        if self.pane == 1:
            self.open_pane(1)
        self._show_in_tab()

    @reads_file
    def _show_in_tab(self, origin: Widget | None = None) -> None:
        pane = self.panes[self.tab]
        if pane is origin or not pane.is_mounted:  # it is shown once it is mounted
            return
        pane.show(self.field)
        element = self.document.element_at(self.byte, self.field)
        if isinstance(pane, Values) and element is not None:
            pane.go_to(element)

    def restore(self, before: FileScreen) -> None:
        self.action_tab(getattr(before, "tab", 0))
        super().restore(before)

    # Selection ---------------------------------------------------------------------------------------------

    @reads_file
    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        self.field = field
        self.byte = offset if offset is not None else self.byte if field is None else field.offset
        tree, view = self.query_one(TreeView), self.query_one(HexView)
        if origin is not tree and field is not None:
            tree.reveal(field)
        if isinstance(origin, Values) and offset is not None:
            view.mark_bytes(range(offset, offset + self.document.element_size(offset)), offset)
        else:
            view.mark(field, offset)
        self._show_in_tab(origin)
        self._describe()

    def _describe(self) -> None:
        """Show at the edge of the hex pane what is under the cursor."""
        words, field = [f"0x{self.byte:x}"], self.field
        if field is not None and field.size and not field.offset <= self.byte < field.end:
            words.append("no field: after the damage")
        elif field is not None:
            words.append(escape(self.document.label(field)))
            element, tensor = self.document.element_at(self.byte, field), self.document.tensor_of(field)
            if element is not None and tensor is not None:
                words.append(f"element {element:,}")
                with suppress(GgcpError):  # quantized elements are not decoded
                    words += map(float_text, tensor.numbers(element, element + 1))
            elif field.is_leaf:
                words += [field.type, escape(value_text(field, 200))]
        self.query_one("#hex-frame").border_subtitle = "  ".join(words).replace("[", r"\[")

    @reads_file
    def on_moved(self, message: Moved) -> None:
        offset, tensor = message.offset, message.tensor
        if offset is None:
            if tensor is not None:
                self.select(self.document.field_of(tensor), origin=message.origin)
            return
        field = self.document.file.at(offset)
        if tensor is not None and self.document.tensor_of(self.field) == tensor:
            field = self.field  # the tree need not move to the data of a tensor that is selected already
        self.select(field, offset, origin=message.origin)
