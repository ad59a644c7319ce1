"""The windows over the browser: search, go to, run a command, help."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.dom import DOMNode
from textual.keys import format_key
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from ggcp_schema.browse.commands import Blank, Command, arguments, complete, line
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import Hanging, LineView
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.search import SHOWN, Hits, search
from ggcp_schema.inspect.text import count_text, escape


class Results(LineView, Working, can_focus=False):
    """The hits of a search, the best first."""

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document, self.hits = document, Hits((), 0)

    def search(self, text: str) -> None:
        """Search for other words."""
        self.cursor = 0
        self.start(lambda report: search(self.document.index, text, report))

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Hits):
            self.hits = result
            self.relayout()
            self.screen.query_one("#status", Label).update(self._status(done))

    def _status(self, done: bool) -> str:
        hits = len(self.hits.hits)
        if not self.hits.seen:
            return "Type letters of a path, a name, or a text in the file."
        words = f"the best {hits} matches" if hits == SHOWN else count_text(hits, "match", "matches")
        first = "the first " if self.hits.cut else ""
        return f"{words} in {first}{count_text(self.hits.seen, 'name')}{'' if done else ' so far …'}"

    def count(self) -> int:
        return len(self.hits.hits)

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is not None and round(self.scroll_y) + place.y < self.count():
            self.cursor = round(self.scroll_y) + place.y
            event.prevent_default()
            self.chosen()

    def chosen(self) -> None:
        self.screen.dismiss(self.hits.hits[self.cursor].path)

    def draw(self, index: int, width: int) -> list[Segment]:
        hit = self.hits.hits[index]
        segments = [self.text("▌ " if index == self.cursor else "  ", "accent")]
        plain, found = self.style_of("name"), self.style_of("accent")
        for place, char in enumerate(hit.text):
            segments.append(Segment(escape(char), found if place in hit.at else plain))
        if hit.text != hit.path:
            segments.append(self.text(f"  {escape(hit.path)}", "detail"))
        return segments


class SearchWindow(ModalScreen["str | None"]):
    """Fuzzy search with live results. Gives the path that was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("down", "move(1)", "Next", priority=True),
        Binding("up", "move(-1)", "Previous", priority=True),
        Binding("pagedown", "move(8)", "Next page", priority=True),
        Binding("pageup", "move(-8)", "Previous page", priority=True),
    ]

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Input(placeholder="Search paths and tensor names")
            yield Results(self.document)
            yield Label("Type letters of a path, a name, or a text in the file.", id="status", markup=False)

    def on_mount(self) -> None:
        self.query_one(".window").border_title = "Search"

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Results).search(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(Results).action_choose()

    def action_move(self, step: int) -> None:
        self.query_one(Results).action_move(step)


def resolve(document: Document, text: str) -> tuple[Field | None, int]:
    """Return the field and the offset that a path, an element of data, or an offset means: as `ggcp-schema hex` does.

    Raises `GgcpError` if there is no such place.
    """
    from ggcp_schema.inspect.paths import place

    file, text = document.file, text.strip()
    offset, _ = place(file, text.replace(",", "") if text.replace(",", "").isdecimal() else text)
    field = file.field(text)
    return (file.at(offset), offset) if field is None else (field, field.offset)


class GoToWindow(ModalScreen["tuple[Field | None, int] | None"]):
    """Asks for a path or an offset. Gives the field and the offset."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Close")]

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -small"):
            yield Input(placeholder="layers[0].wq, 1024 or 0x400")
            yield Label("A path, an offset in bytes, or 0x… in hexadecimal.", id="status", markup=False)

    def on_mount(self) -> None:
        self.query_one(".window").border_title = "Go to"

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not event.value.strip():
            return
        try:
            self.dismiss(resolve(self.document, event.value))
        except READ_ERRORS as error:
            self.query_one("#status", Label).update(str(error))


class Finished:
    """How a command ended: its exit code and what it printed."""

    def __init__(self, code: int, output: str) -> None:
        self.code, self.output = code, output


class Output(VerticalScroll, Working, can_focus=True):
    """What a command prints. The command ends with the window, and with the browser."""

    process: subprocess.Popen[bytes] | None = None

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def run_command(self, words: list[str]) -> None:
        """Run a command without a terminal, and show what it printed."""
        self.process = subprocess.Popen(  # noqa: S603 - the user has confirmed the command line
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        process, started = self.process, monotonic()

        def wait(report: Report) -> Finished:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output = process.communicate(timeout=0.2)[0].decode("utf-8", "backslashreplace")
                    return Finished(process.returncode, output)
                report(monotonic() - started)

        self.query_one(Static).update("running …   Esc: stop")
        self.start(wait)

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Finished):
            printed = "\n".join(map(escape, result.output.strip().splitlines()))
            verdict = "✓ done" if result.code == 0 else f"✗ exit code {result.code}"
            self.query_one(Static).update(Text(f"{printed}\n{verdict}".strip()))
        elif isinstance(result, float):
            self.query_one(Static).update(f"running … {result:.0f} s   Esc: stop")
        else:
            self.query_one(Static).update(Text(f"✗ {result}"))

    def stop_command(self) -> bool:
        """End the command, which then removes its unfinished output; False if none is running."""
        if not self.working or self.process is None:
            return False
        self.stop()
        self.process.terminate()
        self.process.wait()
        self.query_one(Static).update("✗ stopped; nothing was written")
        return True

    def on_unmount(self) -> None:
        if self.process is not None:
            self.process.terminate()


class CommandWindow(ModalScreen[None]):
    """A form for a command: a line for each word that can be changed, the command that results, and what it prints."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop_or_close", "Stop or close", show=False),
        Binding("tab", "complete", "Complete a path, or to the next line", show=False, priority=True),
        Binding("ctrl+y", "copy", "Copy", show=False, priority=True),
    ]
    ASK = "Enter: run   Tab: complete a path, next line   Ctrl+Y: copy the command   Esc: close"

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command

    def compose(self) -> ComposeResult:
        with Vertical(classes="window -small"):
            yield Label(self.command.note, markup=False)
            for blank in self.command.blanks:
                with Horizontal(classes="blank"):
                    yield Label(blank.label, markup=False)
                    yield Input(blank.value, placeholder="required" if blank.required else "optional")
            yield Static(id="line", markup=False)
            yield Label(self.ASK, id="status", markup=False)
            yield Output()

    def on_mount(self) -> None:
        self.query_one(".window").border_title = self.command.title
        self.query_one(Output).display = False
        inputs = list(self.query(Input))
        empty = (each for each, blank in zip(inputs, self.command.blanks) if blank.required and not each.value)
        next(empty, inputs[0]).focus()

    @property
    def line(self) -> str:
        """The command as it is typed into a shell; a word that is missing is given by its label."""
        values = [each.value or blank.label.upper() * blank.required for each, blank in self._blanks()]
        return line(self.command.filled(values))

    def _blanks(self) -> list[tuple[Input, Blank]]:
        return list(zip(self.query(Input), self.command.blanks, strict=True))

    def on_input_changed(self) -> None:
        self.query_one("#line", Static).update(self.line)
        self.query_one("#status", Label).update(self.ASK)

    def on_input_submitted(self) -> None:
        output = self.query_one(Output)
        if output.working:
            return
        try:
            words = self.command.filled([each.value for each, _ in self._blanks()])
        except ValueError as error:
            self.query_one("#status", Label).update(f"✗ {error}.")
            next(each for each, blank in self._blanks() if blank.required and not each.value.strip()).focus()
            return
        output.display = True
        output.run_command(arguments(words))

    def action_complete(self) -> None:
        """Complete the path in the focused line; if there is nothing to add, go to the next line."""
        for each, blank in self._blanks():
            if each.has_focus and blank.is_path and each.value:
                text, names = complete(each.value)
                if text != each.value:
                    each.value, each.cursor_position = text, len(text)
                    return
                if len(names) > 1:
                    self.query_one("#status", Label).update("  ".join(map(escape, names[:12])))
        self.focus_next(Input)

    def action_stop_or_close(self) -> None:
        if not self.query_one(Output).stop_command():
            self.dismiss()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self.line)
        self.notify("The command was copied.")


class HelpWindow(ModalScreen[None]):
    """All keys, as the bindings of the screen and its panes say."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Close", show=False)]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - as Textual declares it

    def __init__(self, groups: dict[str, type[DOMNode]]) -> None:
        super().__init__()
        self.groups = groups

    def compose(self) -> ComposeResult:
        texts = [self._keys(title, owner) for title, owner in self.groups.items() if "BINDINGS" in vars(owner)]
        half = sum(text.plain.count("\n") for text in texts) / 2
        columns: tuple[list[Text], list[Text]] = ([], [])
        for text in texts:
            columns[sum(each.plain.count("\n") for each in columns[0]) >= half].append(text)
        with VerticalScroll(classes="window"), Container():
            for column in columns:
                with Vertical():
                    yield from (Static(Hanging(text, 19)) for text in column)

    def _keys(self, title: str, owner: type[DOMNode]) -> Text:
        """Return the keys of a widget, a line for each."""
        lines = [Text(title, "bold underline")]
        for binding in (each for each in vars(owner)["BINDINGS"] if isinstance(each, Binding)):
            names = [format_key(key) for key in binding.key.split(",")]
            keys = " ".join(name.capitalize() if len(name) > 1 else name for name in names)
            words = binding.tooltip or binding.description
            lines.append(Text.assemble((f"  {keys:<16} ", "bold"), words[:1].upper() + words[1:]))
        return Text("\n").join([*lines, Text()])

    def on_mount(self) -> None:
        window = self.query_one(".window")
        window.border_title, window.border_subtitle = "Keys", "↑ ↓ PgUp PgDn: scroll   Esc: close"
        window.focus()

    def on_click(self, event: events.Click) -> None:
        if event.widget is self:
            self.dismiss()
