"""The windows over the browser: search and go to, run a command, help."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, NamedTuple

from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.dom import DOMNode
from textual.keys import format_key
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from ggcp_schema.browse.commands import Blank, Command, arguments, complete, line
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import LineView, labelled
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.search import SHOWN, Hit, Hits, search
from ggcp_schema.inspect.text import count_text, escape

Target = tuple[Field | None, int | None]
"""What is to be selected: a field, and an offset if it is not that of the field."""


def resolve(document: Document, text: str) -> tuple[Field | None, int]:
    """Return the field and the offset that a path, an element of data, or an offset means: as `ggcp-schema hex` does.

    Raises `GgcpError` if there is no such place.
    """
    from ggcp_schema.inspect.paths import place

    file, text = document.file, text.strip()
    offset, _ = place(file, text.replace(",", "") if text.replace(",", "").isdecimal() else text)
    field = file.field(text)
    return (file.at(offset), offset) if field is None else (field, field.offset)


class Results(LineView, Working, can_focus=False):
    """The place that the text means as it stands, and the hits of a search, the best first."""

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document
        self.hits: list[Hit] = []
        self.place: Target | None = None  # of the first hit
        self.problem = ""

    def search(self, text: str) -> None:
        """Search for other words."""
        self.cursor, self.place, self.problem = 0, None, ""
        try:
            self.place = resolve(self.document, text) if text.strip() else None
        except READ_ERRORS as error:
            self.problem = str(error).replace("\n", "  ")
        self.show(Hits((), 0))
        self.start(lambda report: search(self.document.index, text, report))

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Hits):
            self.show(result, done=done)

    def show(self, found: Hits, *, done: bool = False) -> None:
        """Show what was found so far, and how much that is."""
        self.hits = list(found.hits)
        status, count = SearchWindow.ASK, len(self.hits)
        if done and not count and self.problem:
            status = self.problem
        elif found.seen:
            matches = f"the best {count} matches" if count == SHOWN else count_text(count, "match", "matches")
            seen = f"{'the first ' if found.cut else ''}{count_text(found.seen, 'name')}"
            status = f"{matches} in {seen}{'' if done else ' so far …'}"
        if self.place is not None:
            field, offset = self.place
            words = f"{'no field' if field is None else field.path} at offset {offset:,} (0x{offset:x})"
            self.hits.insert(0, Hit(0.0, words, words, ()))
        self.relayout()
        self.screen.query_one("#status", Label).update(status)

    def count(self) -> int:
        return len(self.hits)

    def on_click(self, event: events.Click) -> None:
        event.prevent_default()  # the method of the base class
        index, _ = self.line_at(event)
        if index >= 0:
            self.cursor = index
            self.chosen()

    def chosen(self) -> None:
        if self.place is not None and self.cursor == 0:
            self.screen.dismiss(self.place)
            return
        path = self.hits[self.cursor].path
        try:
            tensor = self.document.file.tensors.get(path)
            field = self.document.field_of(tensor) if tensor else self.document.file.find(path)
        except READ_ERRORS as error:
            self.screen.query_one("#status", Label).update(str(error))
        else:
            self.screen.dismiss((field, None))

    def draw(self, index: int, width: int) -> list[Segment]:
        hit = self.hits[index]
        plain, found = self.ink("name"), self.ink("accent")
        letters = [Segment(escape(char), found if at in hit.at else plain) for at, char in enumerate(hit.text)]
        path = [self.text(f"  {escape(hit.path)}", "detail")] if hit.text != hit.path else []
        return [self.text("▌ " if index == self.cursor else "  ", "accent"), *letters, *path]


class SearchWindow(ModalScreen["Target | None"]):
    """Fuzzy search with live results; a path or an offset as it stands comes first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("down", "move(1)", "Next", priority=True),
        Binding("up", "move(-1)", "Previous", priority=True),
        Binding("pagedown", "move(8)", "Next page", priority=True),
        Binding("pageup", "move(-8)", "Previous page", priority=True),
    ]
    ASK = "Type letters of a path, a name, or a text in the file; a path; or an offset: 1024 or 0x400."

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document

    def compose(self) -> ComposeResult:
        with Vertical(classes="window") as window:
            window.border_title = "Search, or go to"
            yield Input(placeholder="layers[0].wq, wq 0, 1024 or 0x400")
            yield Results(self.document)
            yield Label(self.ASK, id="status", markup=False)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(Results).search(event.value)

    def on_input_submitted(self) -> None:
        self.query_one(Results).action_choose()

    def action_move(self, step: int) -> None:
        self.query_one(Results).action_move(step)


class Finished(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    output: str


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

        self.say("running …   Esc: stop")
        self.start(wait)

    def say(self, text: str) -> None:
        """Show a text in place of what was shown."""
        self.query_one(Static).update(Text(text))

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Finished):
            printed = "\n".join(map(escape, result.output.strip().splitlines()))
            verdict = "✓ done" if result.code == 0 else f"✗ exit code {result.code}"
            self.say(f"{printed}\n{verdict}".strip())
        else:
            self.say(f"running … {result:.0f} s   Esc: stop" if isinstance(result, float) else f"✗ {result}")

    def stop_command(self) -> bool:
        """End the command, which then removes its unfinished output; False if none is running."""
        if not self.working or self.process is None:
            return False
        self.stop()
        self.process.terminate()
        self.process.wait()
        self.say("✗ stopped; nothing was written")
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
        with Vertical(classes="window -small") as window:
            window.border_title = self.command.title
            yield Label(self.command.note, markup=False)
            for blank in self.command.blanks:
                with Horizontal(classes="blank"):
                    yield Label(blank.label, markup=False)
                    yield Input(blank.value, placeholder=blank.wants or "optional")
            yield Static(id="line", markup=False)
            yield Label(self.ASK, id="status", markup=False)
            yield Output()

    def on_mount(self) -> None:
        self.query_one(Output).display = False
        (self._missing() or self._blanks()[0])[0].focus()

    @property
    def line(self) -> str:
        """The command as it is typed into a shell; a word that is missing is given by its label."""
        return line(self.command.filled([each.value or blank.gap for each, blank in self._blanks()]))

    def _blanks(self) -> list[tuple[Input, Blank]]:
        return list(zip(self.query(Input), self.command.blanks, strict=True))

    def _missing(self) -> tuple[Input, Blank] | None:
        """Return the first line that has to be filled in."""
        return next(((each, blank) for each, blank in self._blanks() if blank.wants and not each.value.strip()), None)

    def _say(self, text: str) -> None:
        self.query_one("#status", Label).update(text)

    def on_input_changed(self) -> None:
        self.query_one("#line", Static).update(self.line)
        self._say(self.ASK)

    def on_input_submitted(self) -> None:
        output, missing = self.query_one(Output), self._missing()
        if missing is not None:
            self._say(f"✗ {missing[1].label} is missing: give {missing[1].wants}.")
            missing[0].focus()
        elif not output.working:
            output.display = True
            output.run_command(arguments(self.command.filled([each.value for each, _ in self._blanks()])))

    def action_complete(self) -> None:
        """Complete the path in the focused line; if there is nothing to add, go to the next line."""
        for each, blank in self._blanks():
            if each.has_focus and blank.is_path and each.value:
                text, names = complete(each.value)
                if text != each.value:
                    each.value, each.cursor_position = text, len(text)
                    return
                if len(names) > 1:
                    self._say("  ".join(map(escape, names[:12])))
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
        groups = [[*self._keys(*group)] for group in self.groups.items()]
        with VerticalScroll(classes="window -small") as window:
            window.border_title, window.border_subtitle = "Keys", "↑ ↓ PgUp PgDn: scroll   Esc: close"
            for part in (groups[:2], groups[2:]):
                yield Static(labelled((line for group in part for line in group), 18))

    def _keys(self, title: str, owner: type[DOMNode]) -> Iterator[tuple[str, str]]:
        """Yield the keys of a widget and what they do, below its name."""
        yield title, ""
        for binding in (each for each in vars(owner).get("BINDINGS", ()) if isinstance(each, Binding)):
            names = [format_key(key) for key in binding.key.split(",")]
            words = binding.tooltip or binding.description
            keys = " ".join(name.capitalize() if len(name) > 1 else name for name in names)
            yield f"  {keys}", words[:1].upper() + words[1:]
        yield "", ""

    def on_mount(self) -> None:
        self.query_one(".window").focus()

    def on_click(self, event: events.Click) -> None:
        if event.widget is self:
            self.dismiss()
