"""The window that runs a command."""

from __future__ import annotations

import os
import subprocess
from typing import Any, ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, ProgressBar, Static

from ggcp_schema.browse.commands import Blank, Command, arguments, complete, line
from ggcp_schema.browse.jobs import Working
from ggcp_schema.inspect import MARK, PROGRESS, Report
from ggcp_schema.inspect.text import escape


class Finished(NamedTuple):
    """How a command ended: its exit code and what it printed."""

    code: int
    output: str


class Output(VerticalScroll, Working, can_focus=True):
    """What a command prints, and how far it is. The command ends with the window, and with the browser."""

    process: subprocess.Popen[bytes] | None = None

    def compose(self) -> ComposeResult:
        yield ProgressBar(show_eta=False)
        yield Static(markup=False)

    def run_command(self, words: list[str]) -> None:
        """Run a command without a terminal, and show what it printed."""
        self.process = process = subprocess.Popen(  # noqa: S603 - the user has confirmed the command line
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, PROGRESS: "1"},
        )

        def wait(report: Report) -> Finished:
            printed = []
            with process:
                for line in process.stdout or ():
                    text = line.decode("utf-8", "backslashreplace")
                    if text.startswith(MARK):
                        report([int(number) for number in text[1:].split()])
                    else:
                        printed.append(text)
            return Finished(process.returncode, "".join(printed))

        bar = self.query_one(ProgressBar)
        bar.display = True
        bar.update(total=None, progress=0)
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
        elif isinstance(result, list):
            self.query_one(ProgressBar).update(progress=result[0], total=result[1])
        else:
            self.say(f"✗ {result}")
        self.query_one(ProgressBar).display = self.working

    def stop_command(self) -> bool:
        """End the command, which then removes its unfinished output; False if none is running."""
        if not self.working or self.process is None:
            return False
        self.stop()
        self.process.terminate()
        self.query_one(ProgressBar).display = False
        self.say("✗ stopped; nothing was written" if self.process.wait() else "✓ done")
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
        with VerticalScroll(classes="window -small", can_focus=False) as window:
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
            output.scroll_visible(animate=False)
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
