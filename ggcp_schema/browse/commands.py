"""The window in which a command is filled in, shown, copied and run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import Suggester
from textual.widgets import Input, Label, ProgressBar, Static

from ggcp_schema.browse.jobs import Job
from ggcp_schema.inspect import MARK, PROGRESS, Report
from ggcp_schema.inspect.commands import BLANKS, Blank, Command, line
from ggcp_schema.inspect.text import escape


class Paths(Suggester):
    """Suggests how a path may go on: as the first name in its folder that begins so."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        start = value.rpartition("/")[2]
        folder = value[: len(value) - len(start)]
        try:
            found = [each for each in Path(folder or ".").expanduser().iterdir() if each.name.startswith(start)]
        except OSError:
            return None
        return min((f"{folder}{each.name}{'/' * each.is_dir()}" for each in found), default=None)


class CommandWindow(ModalScreen[None]):
    """A form for a command: a line for each blank, the command that results, and what it prints.

    The command ends with the window, and with the browser.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop_or_close", "Stop or close", show=False),
        Binding("tab", "complete", "Complete a path, or to the next line", show=False, priority=True),
        Binding("ctrl+y", "copy", "Copy", show=False, priority=True),
    ]
    ASK = "Enter: run   Tab: complete a path, next line   Ctrl+Y: copy the command   Esc: close"
    process: subprocess.Popen[str] | None = None

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command, self.job = command, Job(self, self.reported)
        blanks = [word for word in BLANKS if any(isinstance(each, Blank) and each == word for each in command.words)]
        self.inputs = {word: Input(placeholder=BLANKS[word] or "optional", suggester=Paths()) for word in blanks}
        self.inputs["OUTPUT"].value = command.output

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="window -small", can_focus=False) as window:
            window.border_title = self.command.title
            yield Static(self.command.note, markup=False)
            for blank, each in self.inputs.items():
                yield Horizontal(Label(_label(blank), markup=False), each, classes="blank")
            yield Static(id="line", markup=False)
            yield ProgressBar(show_eta=False)
            with VerticalScroll(id="output"):
                yield Static(self.ASK, markup=False)

    def on_mount(self) -> None:
        self.query_one(ProgressBar).display = False
        self.inputs[self._missing() or next(iter(self.inputs))].focus()

    @property
    def words(self) -> list[str]:
        """The words of the command. Missing ones are in capitals."""
        return self.command.filled({blank: each.value for blank, each in self.inputs.items()})

    def _missing(self) -> str | None:
        """Return the first blank that has to be filled in."""
        return next((word for word in self.words if isinstance(word, Blank)), None)

    def _say(self, text: str) -> None:
        self.query_one("#output Static", Static).update(text)
        if self.process is not None:
            self.query_one("#output").scroll_visible(animate=False)

    def on_input_changed(self) -> None:
        self.query_one("#line", Static).update(line(self.words))
        self._say(self.ASK)

    def on_input_submitted(self) -> None:
        missing = self._missing()
        if missing is not None:
            self._say(f"✗ {_label(missing)} is missing: give {BLANKS[missing]}.")
            self.inputs[missing].focus()
        elif not self.job.working:
            self._run(arguments(self.words))

    def action_complete(self) -> None:
        """Take the suggested path; if there is none, go to the next line."""
        focused, before = self.focused, None
        if isinstance(focused, Input):
            before = focused.value
            focused.action_end()
            focused.action_cursor_right()  # which takes it
        if getattr(focused, "value", None) == before:
            self.focus_next(Input)

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(line(self.words))
        self.notify("The command was copied.")

    def _run(self, words: list[str]) -> None:
        """Run a command without a terminal, and show what it prints and how far it is."""
        self.process = subprocess.Popen(  # noqa: S603 - the user has confirmed the command line
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, PROGRESS: "1"},
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._say("running …   Esc: stop")
        self.job.start(partial(printed, self.process))
        self.reported((0, None), done=False)

    def reported(self, result: Any, *, done: bool) -> None:
        """Show how far the command is, or what it has printed."""
        bar = self.query_one(ProgressBar)
        bar.display = not done
        if done:
            self._say(result if isinstance(result, str) else f"✗ {result}")
        else:
            bar.update(progress=result[0], total=result[1])

    def action_stop_or_close(self) -> None:
        """End the command, which then removes its unfinished output; if none is running, close the window."""
        if not self.job.working or self.process is None:
            self.dismiss()
            return
        self.job.stop()
        self.process.terminate()
        self.reported("✗ stopped; nothing was written" if self.process.wait() else "✓ done", done=True)

    def on_unmount(self) -> None:
        if self.process is not None:
            self.process.terminate()


def printed(process: subprocess.Popen[str], report: Report) -> str:
    """Return what a command prints, and whether it ends well; `report` gets the bytes done, and those of all."""
    lines = []
    with process:
        for text in process.stdout or ():
            if text.startswith(MARK):
                report([int(number) for number in text[1:].split()])
            else:
                lines.append(escape(text.rstrip("\n")))
    verdict = "✓ done" if process.returncode == 0 else f"✗ exit code {process.returncode}"
    return "\n".join([*lines, verdict]).strip()


def arguments(words: Sequence[str]) -> list[str]:
    """Return the words with which this Python runs the command."""
    return [sys.executable, "-m", "ggcp_schema", *words]


def _label(blank: str) -> str:
    return "Context" if blank == "N" else blank.partition(".")[0].capitalize()
