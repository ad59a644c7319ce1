"""What the screens with one file and with two have in common: panes, keys, and a look at changes of the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Tree

from ggcp_schema.browse import commands
from ggcp_schema.browse.dialogs import CommandWindow
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Job
from ggcp_schema.browse.lines import INK_CLASSES
from ggcp_schema.browse.palette import KeyWindow, Palette, Places, resolve
from ggcp_schema.browse.panes import Keys, TopBar, Unreadable, reads_file
from ggcp_schema.constructs.tree import Field
from ggcp_schema.errors import FileError
from ggcp_schema.files.source import Source
from ggcp_schema.inspect.findings import Place, next_place

WATCH = 2.0  # seconds between two looks at whether the file has changed
AFTER_PAINT = 0.05  # seconds before work begins that would delay the first picture
SINGLE = (80, 20)  # columns and lines below which one pane is shown at a time
LOW = 30  # lines below which empty lines are saved


def check_same_file(source: Source) -> None:
    """Check that the path still leads to the file that is open, and that it has not changed. Raises `FileError`."""
    source.check_unchanged()
    try:
        same = os.path.samestat(os.stat(source.path), os.fstat(source.file.fileno()))
    except FileNotFoundError as error:
        raise FileError(f"{source.path} was deleted or renamed while it was open") from error
    if not same:
        raise FileError(f"{source.path} was replaced by another file while it was open", "Press r to open that one.")


class Reopen(Message):
    """The user wants the files to be opened again."""


class FileScreen(Screen[None]):
    """A screen of panes, each in a frame; `documents[side]` is the file that keys and windows act on."""

    BINDING_GROUP_TITLE = "All panes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "help", key_display="?", tooltip="the keys"),
        Binding("q", "app.quit", "quit"),
        Binding("tab", "pane(1)", "pane", key_display="Tab", tooltip="the next one"),
        Binding("shift+tab", "pane(-1)", "Previous pane", show=False),
        Binding(
            "slash,g",
            "search",
            "search, go to",
            key_display="/",
            tooltip="a path, a name, a text, an offset",
        ),
        Binding("n", "tensor(1)", "next tensor"),
        Binding("N", "tensor(-1)", "Previous tensor", show=False),
        Binding("f", "finding", "finding", tooltip="the next NaN, infinity, damage or odd padding"),
        Binding("z", "zoom", "zoom", tooltip="let one pane fill the screen, or show all again"),
        Binding("x", "extract", "extract", tooltip="the tensor, to a file"),
        Binding("e", "export", "export", tooltip="a model to run"),
        Binding("c", "convert", "convert", tooltip="to a GGUF checkpoint to resume from"),
        Binding("y", "copy_path", "copy path"),
        Binding("Y", "copy_command", "Copy the command that prints this", show=False),
        Binding("r", "reload", "Open the file again", show=False),
        Binding("t", "app.light_or_dark", "Light or dark", show=False),
        Binding("escape", "stop", "Stop looking", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = INK_CLASSES
    COMMANDS = {Places}  # noqa: RUF012 - as Textual declares it
    NAMES: ClassVar[tuple[str, ...]]  # of the panes
    field: Field | None = None
    byte = side = pane = 0
    zoomed = False

    def __init__(self, *documents: Document) -> None:
        super().__init__()
        self.documents = documents
        self.finder = Job(self.found)
        self.students = [Job(partial(self.studied, document)) for document in documents]

    @property
    def document(self) -> Document:
        """The file that keys and windows act on."""
        return self.documents[self.side]

    def edges(self) -> Iterator[Widget]:
        """Yield the jobs and the keys at the bottom."""
        yield from (self.finder, *self.students, Keys())

    def targets(self) -> list[Widget]:
        """Return the widgets that get the focus, one of each pane, in the order of Tab."""
        raise NotImplementedError

    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        """Select a field everywhere but in the widget where the user did it."""
        raise NotImplementedError

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        """Show what `info` says about a file, or the error (`result`) that prevents that."""
        self.query_one(TopBar).refresh()

    def on_mount(self) -> None:
        self.show_panes()
        self.set_interval(WATCH, self.look_for_changes)
        for student, document in zip(self.students, self.documents, strict=True):
            student.start(document.study, delay=AFTER_PAINT)

    # Panes -------------------------------------------------------------------------------------------------

    def show_panes(self) -> None:
        """Show the panes that there is room for."""
        width, height = self.app.size
        single = self.zoomed or width < SINGLE[0] or height < SINGLE[1]
        self.set_class(single, "-single")
        self.set_class(height < LOW, "-low")
        shown = self.targets()[self.pane].ancestors
        for each in self.query(".frame, .row"):
            each.display = each in shown or not (single or (height < LOW and each.id == "bytes"))
        names = (f"[{name}]" if index == self.pane else f" {name} " for index, name in enumerate(self.NAMES))
        self.query_one(TopBar).put(pane=" ".join(names) if single else "")

    def on_resize(self) -> None:
        self.show_panes()

    def open_pane(self, index: int) -> None:
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
        self.open_pane(self.pane + step)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        for index, target in enumerate(self.targets()):
            if event.widget is target and index != self.pane:
                self.pane = index
                self.show_panes()

    # The file may change -----------------------------------------------------------------------------------

    def look_for_changes(self) -> None:
        """Say it once if a file was changed or cut by another program."""
        try:
            for document in self.documents:
                check_same_file(document.file.source)
        except READ_ERRORS as error:
            self.trouble(error, "changed on disk (r: open again)", "The file has changed")

    def trouble(self, error: Exception, state: str, title: str) -> None:
        """Say once that a file cannot be read as it was."""
        bar = self.query_one(TopBar)
        if not bar.trouble:
            bar.put(trouble=state)
            self.notify(str(error), title=title, severity="error", timeout=15, markup=False)
            for view in self.query(HexView):
                view.reload()

    def failed(self, error: Exception) -> None:
        """Say that a file cannot be read: because it has changed, or for another reason."""
        self.look_for_changes()
        self.trouble(error, "cannot be read (r: try again)", "The file cannot be read")

    def on_unreadable(self, message: Unreadable) -> None:
        self.failed(message.error)

    def restore(self, before: FileScreen) -> None:
        """Go to the place that another screen shows, as far as the file still has it."""
        with suppress(*READ_ERRORS):
            field = None if before.field is None else self.document.file.find(before.field.path)
            self.select(field, before.byte if field and field.offset <= before.byte < field.end else None)

    def action_reload(self) -> None:
        self.post_message(Reopen())

    # Keys --------------------------------------------------------------------------------------------------

    @reads_file
    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Any]) -> None:
        tree: Any = event.control
        if isinstance(event.node.data, Field) and event.node is not tree.root:  # the root has no row
            self.side = self.documents.index(tree.document)
            self.select(event.node.data, origin=tree)

    def action_search(self) -> None:
        self.app.push_screen(Palette([Places], placeholder="layers[0].wq, wq 0, 1024 or 0x400"))

    @reads_file
    def go_to(self, text: str) -> None:
        """Select a field by its path, a tensor by its name, or a byte."""
        tensor = self.document.file.tensors.get(text)
        if self.is_current:  # the user may have quit meanwhile
            self.select(*resolve(self.document, text) if tensor is None else (self.document.field_of(tensor),))

    def position(self) -> int:
        """Return the offset from which the next tensor or finding is looked for."""
        tensor = self.document.tensor_of(self.field)
        return tensor.offset if tensor is not None and tensor.nbytes else self.byte

    @reads_file
    def action_tensor(self, step: int) -> None:
        tensors = self.document.file.tensors
        tensor = tensors.next_to(self.position(), step)
        if tensor is not None:
            self.select(self.document.field_of(tensor))
        elif tensors:
            self.notify("This is the last tensor." if step > 0 else "This is the first tensor.")
        else:
            self.notify("This file has no tensors.")

    def action_finding(self) -> None:
        self.query_one(TopBar).put(note="looking for findings …  Esc: stop")
        document, after = self.document, self.byte
        self.finder.start(lambda report: next_place(document.file, after, report, document.unsound(report)))

    @reads_file
    def found(self, result: Any, *, done: bool) -> None:
        """Go to the place that was found."""
        bar = self.query_one(TopBar)
        if not done:
            bar.put(note=f"looking for findings … {100 * result:.0f} %  Esc: stop")
            return
        bar.put(note="")
        if isinstance(result, Place):
            self.select(self.document.file.at(result.offset), result.offset)
            self.notify(result.message, title=f"Finding at offset {result.offset:,}", markup=False)
        elif result is None:
            self.notify("No findings: nothing unsound, no NaN or infinity, no damage, all padding zero.")
        else:
            self.failed(result)

    def action_stop(self) -> None:
        self.finder.stop()
        self.query_one(TopBar).put(note="")

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", markup=False)

    def action_copy_path(self) -> None:
        self._copy(self.field.path if self.field else f"0x{self.byte:x}")

    @reads_file
    def action_copy_command(self) -> None:
        element = self.document.element_at(self.byte, self.field)
        self._copy(commands.printing(self.document.file.path, self.field, self.byte, element))

    @reads_file
    def action_extract(self) -> None:
        tensor = self.document.tensor_of(self.field)
        if tensor is None or not tensor.nbytes:
            self.notify("Select a tensor to extract it.", severity="warning")
        else:
            self.app.push_screen(CommandWindow(commands.extracting(self.document.file.path, tensor)))

    def action_export(self) -> None:
        summary = self.document.summary
        advised, has_tokens = (summary.next, bool(summary.n_tokens)) if summary else ((), False)
        self.app.push_screen(CommandWindow(commands.exporting(self.document.file.path, advised, has_tokens)))

    def action_convert(self) -> None:
        self.app.push_screen(CommandWindow(commands.converting(self.document.file.path)))

    def action_help(self) -> None:
        self.app.push_screen(KeyWindow())
