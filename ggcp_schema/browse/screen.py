"""What the screens with one file and with two have in common."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget

from ggcp_schema.browse import commands
from ggcp_schema.browse.dialogs import CommandWindow, GoToWindow, HelpWindow, SearchWindow
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Job
from ggcp_schema.browse.panes import Keys, TopBar, Unreadable, reads_file
from ggcp_schema.constructs.tree import Field
from ggcp_schema.errors import FileError, GgcpError
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
    """What the screens with one file and with two have in common: panes, keys, and a look at changes of the file."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "help", key_display="?", tooltip="Keys"),
        Binding("q", "app.quit", "quit", tooltip="Quit"),
        Binding("tab", "pane(1)", "pane", key_display="Tab", tooltip="Next pane"),
        Binding("shift+tab", "pane(-1)", "Previous pane", show=False),
        Binding("slash", "search", "search", key_display="/", tooltip="Search paths, names and texts"),
        Binding("g", "go_to", "go to", tooltip="Go to a path or an offset"),
        Binding("n", "tensor(1)", "next tensor", tooltip="Next tensor"),
        Binding("N", "tensor(-1)", "Previous tensor", show=False),
        Binding("f", "finding", "finding", tooltip="Next finding: NaN, infinity, damage, odd padding"),
        Binding("z", "zoom", "zoom", tooltip="Let one pane fill the screen, or show all again"),
        Binding("x", "extract", "extract", tooltip="Extract the tensor"),
        Binding("e", "export", "export", tooltip="Export a model to run"),
        Binding("c", "convert", "convert", tooltip="Convert to a GGUF checkpoint to resume from"),
        Binding("y", "copy_path", "copy path", tooltip="Copy the path"),
        Binding("Y", "copy_command", "Copy the command that prints this", show=False),
        Binding("r", "reload", "Open the file again", show=False),
        Binding("t", "app.light_or_dark", "Light or dark", show=False),
        Binding("escape", "stop", "Stop looking", show=False),
    ]
    NAMES: ClassVar[tuple[str, ...]]  # of the panes
    OWNERS: ClassVar[dict[str, type[Widget]]]  # whose keys the help window lists
    field: Field | None = None
    byte = tab = side = 0

    def __init__(self, *documents: Document) -> None:
        super().__init__()
        self.documents = documents
        self.finder = Job(self.found)
        self.students = [Job(partial(self.studied, document), patient=True) for document in documents]

    @property
    def document(self) -> Document:
        """The file that keys and windows act on."""
        return self.documents[self.side]

    def edges(self) -> Iterator[Widget]:
        """Yield the jobs and the keys at the bottom."""
        yield from (self.finder, *self.students, Keys())

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        """Show what `info` says about a file, or the error (`result`) that prevents that."""
        self.query_one(TopBar).refresh()

    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        """Select a field everywhere but in the widget where the user did it."""
        raise NotImplementedError

    def frames(self) -> list[str]:
        """Return the ids of the panes, in the order of Tab."""
        raise NotImplementedError

    # Panes -------------------------------------------------------------------------------------------------

    @property
    def single(self) -> bool:
        """Whether one pane is shown at a time."""
        return self.has_class("-single")

    @property
    def crowded(self) -> bool:
        """Whether there is no room for all panes, so that the open one decides which are shown."""
        return self.single

    def fit_to(self, width: int, height: int) -> None:
        """Arrange the panes for a size of the screen."""
        before = self.classes
        self.set_class(self.zoomed or width < SINGLE[0] or height < SINGLE[1], "-single", update=False)
        self.set_class(height < LOW, "-low", update=False)
        self._show_panes(before)

    def on_resize(self, event: events.Resize) -> None:
        self.fit_to(event.size.width, event.size.height)

    pane = 0
    zoomed = False

    def _show_panes(self, before: Collection[str] | None = None) -> None:
        """Show the panes that there is room for; `before` are the classes of the screen at the last time."""
        before = self.classes if before is None else before
        names = self.frames()
        for index, name in enumerate(names):
            self.set_class(self.crowded and index == self.pane, f"-shows-{name}", update=False)
        if self.classes != before:
            self.app.update_styles(self)  # once: it takes longer than all else
        for bar in self.query(TopBar):
            bar.put(panes=(list(self.NAMES), self.pane) if self.single else None)

    def target(self, name: str) -> Widget:
        """Return the widget that is focused in a pane."""
        raise NotImplementedError

    def open_pane(self, index: int) -> None:
        """Focus a pane; where only one is shown, show it."""
        self.pane = index % len(self.frames())
        self._show_panes()
        self.target(self.frames()[self.pane]).focus()

    def action_zoom(self) -> None:
        """Let the pane with the focus fill the screen, or show all panes again."""
        self.zoomed = not self.zoomed
        self.fit_to(self.app.size.width, self.app.size.height)

    def action_pane(self, step: int) -> None:
        self.open_pane(self.pane + step)

    def frame_of(self, widget: Widget) -> int:
        """Return which pane a widget is in; the open one if it is in none."""
        ids = [(ancestor.id or "").removesuffix("-frame") for ancestor in widget.ancestors_with_self]
        return next((index for index, name in enumerate(self.frames()) if name in ids), self.pane)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self.pane = self.frame_of(event.widget)

    # The file may change -----------------------------------------------------------------------------------

    async def on_mount(self) -> None:
        self.set_interval(WATCH, self.look_for_changes)
        for student, document in zip(self.students, self.documents, strict=True):
            student.start(document.study, delay=AFTER_PAINT)

    def hold_work(self) -> None:
        """Let work in the background wait while the user does something."""
        for student in self.students:
            student.wait()

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

    def place(self) -> tuple[str | None, int, int]:
        """Return the path of the field, the byte and the tab, to go there again."""
        return (self.field.path if self.field else None), self.byte, self.tab

    async def restore(self, place: tuple[str | None, int, int]) -> None:
        """Go to a place of before, as far as the file still has it."""
        path, byte, _ = place
        with suppress(*READ_ERRORS):
            field = None if path is None else self.document.file.find(path)
            self.select(field, byte if field and field.offset <= byte < field.end else None)

    def action_reload(self) -> None:
        self.post_message(Reopen())

    # Keys --------------------------------------------------------------------------------------------------

    def action_search(self) -> None:
        self.app.push_screen(SearchWindow(self.document), self._searched)

    @reads_file
    def _searched(self, path: str | None) -> None:
        if path is None:
            return
        tensor = self.document.file.tensors.get(path)
        try:
            field = self.document.field_of(tensor) if tensor else self.document.file.find(path)
        except GgcpError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        self.select(field)

    def action_go_to(self) -> None:
        self.app.push_screen(GoToWindow(self.document), self._gone_to)

    @reads_file
    def _gone_to(self, place: tuple[Field | None, int] | None) -> None:
        if place is not None:
            self.select(*place)

    def position(self) -> int:
        """Return the offset from which the next tensor or finding is looked for."""
        tensor = self.document.tensor_of(self.field)
        return tensor.offset if tensor is not None and tensor.nbytes else self.byte

    @reads_file
    def action_tensor(self, step: int) -> None:
        tensor = self.document.file.tensors.next_to(self.position(), step)
        if tensor is None:
            if not self.document.file.tensors:
                self.notify("This file has no tensors.")
                return
            self.notify("This is the last tensor." if step > 0 else "This is the first tensor.")
        else:
            self.select(self.document.field_of(tensor))

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
        if self.finder.working:
            self.finder.stop()
            self.query_one(TopBar).put(note="")

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="Copied", markup=False)

    def action_copy_path(self) -> None:
        self._copy(self.field.path if self.field else f"0x{self.byte:x}")

    @reads_file
    def action_copy_command(self) -> None:
        file = self.document.file.path
        if self.field is None:
            self._copy(commands.hex_at(file, self.byte))
            return
        self._copy(commands.printing(file, self.field, self.document.element_at(self.byte, self.field)))

    @reads_file
    def action_extract(self) -> None:
        tensor = self.document.tensor_of(self.field)
        if tensor is None or not tensor.nbytes:
            self.notify("Select a tensor to extract it.", severity="warning")
        else:
            self.app.push_screen(CommandWindow(commands.extracting(self.document.file.path, tensor)))

    def _advised(self) -> tuple[str, ...]:
        return () if self.document.summary is None else self.document.summary.next

    def action_export(self) -> None:
        self.app.push_screen(
            CommandWindow(commands.exporting(self.document.file.path, self._advised(), self.document.has_tokens))
        )

    def action_convert(self) -> None:
        self.app.push_screen(CommandWindow(commands.converting(self.document.file.path)))

    def action_help(self) -> None:
        self.app.push_screen(HelpWindow({"Everywhere": FileScreen, "Panes": type(self), **self.OWNERS}))
