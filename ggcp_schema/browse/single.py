"""The screen with one file."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Tab, Tabs

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.health import HealthView
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.histogram import Histogram
from ggcp_schema.browse.layers import Layers
from ggcp_schema.browse.overview import Overview
from ggcp_schema.browse.panes import Frame, Jump, Pane, TopBar, reads_file
from ggcp_schema.browse.picture import PictureView
from ggcp_schema.browse.schema import Schema
from ggcp_schema.browse.screen import FileScreen
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.browse.values import Values
from ggcp_schema.constructs.tree import Field
from ggcp_schema.errors import GgcpError
from ggcp_schema.inspect.text import escape, float_text, value_text

FRAMES = ("tree", "tabs", "hex")
KINDS: tuple[Any, ...] = (Overview, Values, Histogram, PictureView, HealthView, Layers, Schema)


class BrowseScreen(FileScreen):
    """One file: the tree at the left, tabs at the right, bytes at the bottom; what is selected in one is in all."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(str(number), f"tab({number - 1})", f"Open {kind.TITLE}", show=False)
        for number, kind in enumerate(KINDS, 1)
    ]
    NAMES = ("Fields", "Tabs", "Bytes")
    OWNERS: ClassVar[dict[str, type[Widget]]] = {"Fields": TreeView, "Bytes": HexView} | {
        kind.TITLE: kind for kind in KINDS if kind not in (Overview, Schema)
    }

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.panes: dict[int, Pane] = {}

    def frames(self) -> list[str]:
        return list(FRAMES)

    def compose(self) -> ComposeResult:
        yield TopBar(self.document.name, self.document)
        with Horizontal(id="upper"):
            with Frame(id="tree-frame"):
                yield TreeView(self.document)
            with Frame(id="tabs-frame"):
                yield Tabs(*(Tab(kind.TITLE, id=f"tab-{index}") for index, kind in enumerate(KINDS)))
        with Frame(id="hex-frame"):
            yield HexView(self.document)
        yield from self.edges()

    async def on_mount(self) -> None:
        self.fit_to(self.app.size.width, self.app.size.height)
        self.query_one(Tabs).can_focus = False
        self.query_one("#tree-frame").border_title = "Fields"
        self.query_one("#hex-frame").border_title = "Bytes"
        tree = self.query_one(TreeView)
        tree.focus()
        self.field = tree.field
        await self.action_tab(0, focus=False)
        damage = self.document.file.damage
        if damage is not None:
            self.call_after_refresh(self._show_damage)
        elif self.field is not None:
            self.query_one(HexView).mark(self.field)
        self._describe()

    @reads_file
    def _show_damage(self) -> None:
        """Select the place of the damage: its field, or the last one before it."""
        damage = self.document.file.damage
        if damage is None:
            return
        offset = min(damage.offset, max(0, self.document.file.size - 1))
        try:
            field: Field | None = self.document.file.find(damage.path)
        except GgcpError:
            field = self.document.file.at(max(0, offset - 1))
        self.select(field, offset)

    def target(self, name: str) -> Widget:
        if name == "tree":
            return self.query_one(TreeView)
        return self.query_one(HexView) if name == "hex" else self.panes[self.tab]

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        super().studied(document, result, done=done)
        overview = self.panes.get(0)
        if isinstance(overview, Overview) and result is not None:
            overview.fail(result)
        elif isinstance(self.panes[self.tab], Overview | Schema):
            self._show_in_tab()

    # Tabs --------------------------------------------------------------------------------------------------

    async def action_tab(self, index: int, *, focus: bool = True) -> None:
        """Open a tab."""
        before = self.panes.get(self.tab)
        if before is not None and index != self.tab:
            before.hide()
            before.display = False
        self.tab = index
        pane = self.panes.get(index)
        if pane is None:
            pane = self.panes[index] = KINDS[index](self.document)
            pane.add_class("pane")
            await self.query_one("#tabs-frame").mount(pane)
        pane.display = True
        with self.prevent(Tabs.TabActivated):
            self.query_one(Tabs).active = f"tab-{index}"
        self.call_after_refresh(self._show_in_tab)
        if focus:
            self.open_pane(FRAMES.index("tabs"))

    async def on_tabs_tab_activated(self, message: Tabs.TabActivated) -> None:
        index = int(str(message.tab.id).removeprefix("tab-"))
        if index != self.tab:
            await self.action_tab(index)

    def fit_to(self, width: int, height: int) -> None:
        super().fit_to(width, height)
        room = self.size.width if self.single else self.size.width - min(64, max(41, self.size.width * 46 // 100)) - 4
        for extra, form in ((4, " {0} {1} "), (2, " {1} "), (1, "{1} "), (-99, " {2} ")):
            if sum(len(kind.TITLE) + extra for kind in KINDS) <= room:
                for index, kind in enumerate(KINDS):
                    label = form.format(index + 1, kind.TITLE, kind.TITLE[:3])
                    self.query_one(f"#tab-{index}", Tab).label = label
                break

    @reads_file
    def _show_in_tab(self, origin: Widget | None = None) -> None:
        pane = self.panes[self.tab]
        if pane is origin:
            return
        pane.show(self.field)
        if isinstance(pane, Values):
            element = self.document.element_at(self.byte, self.field)
            if element is not None:
                pane.go_to(element)

    async def restore(self, place: tuple[str | None, int, int]) -> None:
        await self.action_tab(place[2], focus=False)
        await super().restore(place)

    # Selection ---------------------------------------------------------------------------------------------

    @reads_file
    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        self.hold_work()
        self.field = field
        self.byte = offset if offset is not None else self.byte if field is None else field.offset
        tree, view = self.query_one(TreeView), self.query_one(HexView)
        if origin is not tree and field is not None:
            tree.reveal(field)
        if isinstance(origin, Values) and offset is not None:
            view.mark_bytes(range(offset, offset + self.document.element_size(offset)), offset)
        elif origin is view:
            view.mark(field, view.cursor)
        else:
            view.mark(field, offset)
        self._show_in_tab(origin)
        self._describe()

    def _describe(self) -> None:
        """Show at the edge of the hex pane what is under the cursor."""
        words = [f"0x{self.byte:x}"]
        if self.field is not None and self.field.size and not self.field.offset <= self.byte < self.field.end:
            words.append("no field: after the damage")
        elif self.field is not None:
            words.append(escape(self.document.label(self.field)))
            element = self.document.element_at(self.byte, self.field)
            tensor = self.document.tensor_of(self.field)
            if element is not None and tensor is not None:
                words.append(f"element {element:,}")
                with suppress(GgcpError):  # quantized elements are not decoded
                    words += map(float_text, tensor.numbers(element, element + 1))
            elif self.field.is_leaf:
                words += [self.field.type, escape(value_text(self.field, 200))]
        self.query_one("#hex-frame").border_subtitle = "  ".join(words).replace("[", r"\[")

    def on_tree_view_moved(self, message: TreeView.Moved) -> None:
        self.select(message.field, origin=message.view)

    @reads_file
    def on_hex_view_moved(self, message: HexView.Moved) -> None:
        self.select(self.document.file.at(message.offset), message.offset, origin=message.view)

    @reads_file
    def on_jump(self, message: Jump) -> None:
        message.stop()
        origin = self.panes[self.tab]
        if message.offset is None:
            if message.tensor is not None:
                self.select(self.document.field_of(message.tensor), origin=origin)
            return
        field = self.document.file.at(message.offset)
        if message.tensor is not None and self.document.tensor_of(self.field) == message.tensor:
            field = self.field  # the tree need not move to the data of a tensor that is selected already
        self.select(field, message.offset, origin=origin)
