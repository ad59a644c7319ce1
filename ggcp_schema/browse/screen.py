"""The screens with one file and with two: trees, tabs and bytes, in which the same field is selected."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, cast

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, TabbedContent, TabPane, Tabs

from ggcp_schema.browse.commands import CommandWindow
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Job, reads_file
from ggcp_schema.browse.lines import INK_CLASSES
from ggcp_schema.browse.panes import Moved, Pane, TopBar
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.browse.values import Values
from ggcp_schema.constructs.tree import Field
from ggcp_schema.formats.rules import Oddity
from ggcp_schema.inspect.commands import PROGRAM, Command, converting, exporting, extracting, printing
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.fields import counterpart
from ggcp_schema.inspect.findings import next_place
from ggcp_schema.inspect.text import escape

WATCH = 2.0  # seconds between checks for changes to the file
AFTER_PAINT = 0.05  # seconds before work begins that would delay the first picture
SINGLE = (80, 20)  # columns and lines below which one pane is shown at a time
LOW = 30  # lines below which empty lines are saved
COMMON: list[BindingType] = [  # keys of every screen
    Binding("question_mark", "app.help", "Help", key_display="?", tooltip="the keys"),
    Binding("q", "app.quit", "Quit"),
    Binding("t", "app.light_or_dark", "Light or dark", show=False),
]


class KeyBar(Footer):
    """Textual's footer, which ends at a whole key, and is made anew only when the keys are others."""

    keys: Any = None

    async def recompose(self) -> None:
        if self.is_attached:
            before, self.keys = self.keys, [each for each in self.screen.active_bindings.values() if each.binding.show]
            if self.keys != before:
                await super().recompose()
                self.on_resize()

    def on_resize(self) -> None:
        room = self.size.width
        for key in self.query("FooterKey"):
            room -= cast(Text, key.render()).cell_len
            key.display = room >= 0


class FileScreen(Screen[None]):
    """A screen of panes, each in a frame: the trees, the tabs, and the bytes of one file or two.

    `side` is the number of the file that keys and windows act on, and that `field` and `byte` are of; `searched` is
    that of the file in which the next finding is looked for.
    """

    BINDING_GROUP_TITLE = "All panes"
    BINDINGS: ClassVar[list[BindingType]] = [
        *COMMON,
        Binding("tab", "pane(1)", "Pane", key_display="Tab", tooltip="the next one"),
        Binding("shift+tab", "pane(-1)", "Previous pane", show=False),
        Binding("slash,g", "app.search", "Search", key_display="/", tooltip="a path, a name, a text, an offset"),
        Binding("n", "tensor(1)", "Next tensor"),
        Binding("N", "tensor(-1)", "Previous tensor", show=False),
        Binding("f", "finding", "Finding", tooltip="the next NaN, infinity, damage or odd padding"),
        Binding("z", "zoom", "Zoom", tooltip="let one pane fill the screen, or show all again"),
        Binding("x", "extract", "Extract", tooltip="the tensor, to a file"),
        Binding("e", "export", "Export", tooltip="a model to run"),
        Binding("c", "convert", "Convert", tooltip="to a GGUF checkpoint to resume from"),
        Binding("y", "copy_path", "Copy path"),
        Binding("Y", "copy_command", "Copy the command that prints this", show=False),
        Binding("r", "app.reload", "Open the file again", show=False),
        Binding("escape", "stop", "Stop looking", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = INK_CLASSES
    KINDS: ClassVar[tuple[type[Pane], ...]]  # of the tabs
    NAMES: ClassVar[tuple[str, ...]]  # of the panes
    field: Field | None = None
    byte = side = searched = pane = 0
    zoomed = False

    def __init__(self, *documents: Document) -> None:
        super().__init__()
        self.documents = documents
        self.finder = Job(self, self.found)
        self.students = [Job(self, partial(self.studied, each)) for each in documents]
        self.bar = TopBar(" ↔ ".join(each.name for each in documents), documents[0])
        self.trees, self.views = [TreeView(each) for each in documents], [HexView(each) for each in documents]
        self.panes, self.tabs = [kind(*documents) for kind in self.KINDS], TabbedContent()
        for index, pane in enumerate(self.panes):
            self.tabs.compose_add_child(TabPane(pane.TITLE, pane, id=f"tab-{index}"))
        kinds = [*("tree" for _ in documents), "tabs", *("hex" for _ in documents)]
        widgets = (*self.trees, self.tabs, *self.views)
        self.frames = [Container(widget, classes=f"frame {kind}") for widget, kind in zip(widgets, kinds)]

    @property
    def document(self) -> Document:
        """The file that keys and windows act on."""
        return self.documents[self.side]

    def compose(self) -> ComposeResult:
        yield self.bar
        yield Container(*self.frames, id="panes")
        yield KeyBar(show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one(Tabs).can_focus = False
        for frame, title in zip(self.frames, self.NAMES):
            frame.border_title = title
        self.show_panes()
        self.set_interval(WATCH, self.look_for_changes)
        for student, document in zip(self.students, self.documents):
            student.start(document.study, delay=AFTER_PAINT)
        self.trees[0].focus()
        self.call_after_refresh(self.begin)

    @reads_file
    def begin(self) -> None:
        """Select the place of the damage, or the first field."""
        self.select(*self.document.first_place())

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        """Show what `info` says about a file, or the error (`result`) that prevents that."""
        document.problem = "" if result is None else str(result)
        self.bar.refresh()
        self.show_in_tab()

    # Panes -------------------------------------------------------------------------------------------------

    def targets(self) -> list[Widget]:
        """Return the widgets that get the focus, one of each frame, in the order of Tab."""
        return [*self.trees, self.panes[self.tab].target, *self.views]

    def show_panes(self) -> None:
        """Show the panes that there is room for."""
        width, height = self.app.size
        single, low = self.zoomed or width < SINGLE[0] or height < SINGLE[1], height < LOW
        self.set_class(single, "-single")
        self.set_class(low, "-low")
        for index, frame in enumerate(self.frames):
            is_bytes = index > len(self.documents)
            frame.display = index == self.pane or not (single or (low and is_bytes and len(self.documents) > 1))
        names = (f"[{name}]" if index == self.pane else f" {name} " for index, name in enumerate(self.NAMES))
        self.bar.pane = " ".join(names) if single else ""

    def on_resize(self) -> None:
        self.show_panes()

    def action_open(self, index: int) -> None:
        """Focus a pane; where only one is shown, show it."""
        targets = self.targets()
        self.pane = index % len(targets)
        self.show_panes()
        targets[self.pane].focus()

    def action_zoom(self) -> None:
        """Let the pane with the focus fill the screen, or show all panes again."""
        self.zoomed = not self.zoomed
        self.show_panes()

    def action_pane(self, step: int) -> None:
        self.action_open(self.pane + step)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Take note of the pane that has the focus; keys act on the file that it is of."""
        frame = next((each for each in self.frames if each in event.widget.ancestors), None)
        if frame is not None and self.frames.index(frame) != self.pane:
            self.pane = self.frames.index(frame)
            self.show_panes()
        document = getattr(event.widget, "document", None)  # of a tree or of bytes
        if document in self.documents:
            self.side = self.documents.index(document)
            self.bar.document = document
            self.bar.refresh()

    @property
    def tab(self) -> int:
        """The open tab."""
        return int(self.tabs.active.removeprefix("tab-") or 0)

    def action_tab(self, index: int) -> None:
        """Open a tab."""
        self.tabs.active = f"tab-{index}"
        self.action_open(len(self.trees))

    def on_tabbed_content_tab_activated(self) -> None:
        for index, pane in enumerate(self.panes):
            if index != self.tab:
                pane.hide()
        if self.pane == len(self.trees):
            self.action_open(self.pane)
        self.show_in_tab()

    @reads_file
    def show_in_tab(self, origin: Widget | None = None) -> None:
        """Let the open tab show what is selected, but not if the user selected it there."""
        pane = self.panes[self.tab]
        if not pane.is_mounted or (origin is not None and pane in origin.ancestors_with_self):
            return
        pane.show(self.field)
        element = self.document.element_at(self.byte, self.field)
        if isinstance(pane, Values) and element is not None:
            pane.go_to(element)

    # The file may change -----------------------------------------------------------------------------------

    def look_for_changes(self, error: Exception | None = None) -> None:
        """Say once that a file was changed or cut by another program, or else that it cannot be read: an error."""
        state, title = "cannot be read (r: try again)", "The file cannot be read"
        try:
            for document in self.documents:
                document.file.source.check_same()
        except READ_ERRORS as change:
            error, state, title = change, "changed on disk (r: open again)", "The file has changed"
        if error is not None and not self.bar.trouble:
            self.bar.trouble = state
            self.notify(str(error), title=title, severity="error", timeout=15, markup=False)
            for view in self.views:
                view.reload()

    def restore(self, before: FileScreen) -> None:
        """Go to the place that another screen shows, as far as the file still has it."""
        self.tabs.active = before.tabs.active
        self.action_open(before.pane)
        with suppress(*READ_ERRORS):
            field = None if before.field is None else self.document.file.find(before.field.path)
            self.select(field, before.byte if field and field.offset <= before.byte < field.end else None)

    # Selection ---------------------------------------------------------------------------------------------

    @reads_file
    def select(
        self, field: Field | None, offset: int | None = None, origin: Widget | None = None, size: int = 0
    ) -> None:
        """Select a field, or so many bytes of it, everywhere but in the widget where the user did it."""
        self.field = field
        self.byte = offset if offset is not None else self.byte if field is None else field.offset
        tree, view = self.trees[self.side], self.views[self.side]
        if origin is not tree and field is not None:
            tree.reveal(field)
        chosen = range(field.offset, field.end) if field else range(0)
        view.mark(range(self.byte, self.byte + size) if size else chosen, self.byte)
        if len(self.documents) > 1:
            self._select_in_other(field)
        self.show_in_tab(origin)
        words = escape(self.document.place_text(field, self.byte)).replace("[", r"\[")
        for side, frame in enumerate(self.frames[-len(self.views) :]):
            frame.border_subtitle = words if side == self.side else ""

    def _select_in_other(self, field: Field | None) -> None:
        """Select the same field in the other file, and mark the bytes that differ."""
        other = 1 - self.side
        view, across = self.views[self.side], self.views[other]
        same = None if field is None else counterpart(field, self.document, self.documents[other])
        if same is None or field is None:
            across.mark(range(0), across.cursor)
        else:
            self.trees[other].reveal(same)
            place = same.offset + min(self.byte - field.offset, max(0, same.size - 1))
            across.mark(range(same.offset, same.end), place)
        for one, against in ((view, across), (across, view)):
            one.against = None if same is None else (against.file.source, against.selection)

    @reads_file
    def on_moved(self, message: Moved) -> None:
        """Select what the user moved to."""
        self.side = self.documents.index(message.document)
        field, offset = message.field, message.offset
        if field is None and offset is not None:
            field = self.document.file.at(offset)
        self.select(field, offset, message.origin, message.size)

    # Keys --------------------------------------------------------------------------------------------------

    @reads_file
    def go_to(self, text: str) -> None:
        """Select a field by its path, a tensor by its name, or a byte."""
        if self.is_current:  # the user may have quit meanwhile
            self.select(*self.document.resolve(text))

    @reads_file
    def action_tensor(self, step: int) -> None:
        tensors, here = self.document.file.tensors, self.document.tensor_of(self.field)
        tensor = tensors.next_to(here.offset if here is not None and here.nbytes else self.byte, step)
        if tensor is not None:
            self.select(self.document.field_of(tensor))
        elif tensors:
            self.notify("This is the last tensor." if step > 0 else "This is the first tensor.")
        else:
            self.notify("This file has no tensors.")

    def action_finding(self) -> None:
        self.bar.note = "looking for findings …  Esc: stop"
        self.searched, document, after = self.side, self.document, self.byte
        self.finder.start(lambda report: next_place(document.file, after, report, document.unsound(report)))

    @reads_file
    def found(self, result: Any, *, done: bool) -> None:
        """Go to the place that was found."""
        if not done:
            self.bar.note = f"looking for findings … {100 * result:.0f} %  Esc: stop"
            return
        self.bar.note = ""
        if isinstance(result, Oddity):
            self.side = self.searched  # the user may have gone to the other file
            self.select(self.document.file.at(result.offset), result.offset)
            self.notify(result.message, title=f"Finding at offset {result.offset:,}", markup=False)
        elif result is None:
            self.notify("No findings: nothing unsound, no NaN or infinity, no damage, all padding zero.")
        else:
            self.look_for_changes(result)

    def action_stop(self) -> None:
        self.finder.stop()
        self.bar.note = ""

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", markup=False)

    def action_copy_path(self) -> None:
        self._copy(self.field.path if self.field else f"0x{self.byte:x}")

    @reads_file
    def action_copy_command(self) -> None:
        element = self.document.element_at(self.byte, self.field)
        self._copy(printing(self.document.file.path, self.field, self.byte, element))

    @reads_file
    def action_extract(self) -> None:
        tensor = self.document.tensor_of(self.field)
        if tensor is None or not tensor.nbytes:
            self.notify("Select a tensor to extract it.", severity="warning")
        else:
            self.app.push_screen(CommandWindow(extracting(self.document.file.path, tensor)))

    def action_export(self) -> None:
        def has_one(summary: Summary) -> bool:
            return any(line.startswith(f"{PROGRAM} export ") for line in summary.next)

        self._ask("model or adapter to export", has_one, exporting)

    def action_convert(self) -> None:
        self._ask("training to convert", lambda summary: summary.trains, converting)

    def _ask(self, what: str, has_one: Callable[[Summary], bool], form: Callable[..., Command]) -> None:
        """Show the form of a command, filled in as `info` advises it, unless the file has nothing to make it of."""
        summary, damage = self.document.summary, self.document.file.damage
        if summary is not None and not has_one(summary):
            self.notify(f"The file contains no {'whole ' if damage else ''}{what}.", severity="warning")
        else:
            advice = () if summary is None else summary.next
            self.app.push_screen(CommandWindow(form(self.document.file.path, advice)))
