"""The screen that is seen while the files are opened, and that says why they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static

from ggcp_schema.browse.bars import Key, KeyBar
from ggcp_schema.browse.dialogs import HelpWindow
from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.keys import HELP
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import escape

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File

KEYS = (Key("?", "help", "help"), Key("q", "quit", "app.quit"))


class Opened(Message):
    """The files are open; or there is the error that prevented it."""

    def __init__(self, documents: Sequence[Document], error: Exception | None) -> None:
        super().__init__()
        self.documents, self.error = documents, error


def open_documents(
    paths: Sequence[str], open_file: Callable[[str], File], tokens: Callable[[int], str] | None, report: Report
) -> list[Document]:
    """Open the files. If a file cannot be opened, or the job is cancelled, close the opened files again."""
    documents: list[Document] = []
    try:
        for path in paths:
            documents.append(Document(open_file(path), tokens))
            documents[-1].prepare()
            report(None)
    except BaseException:
        for document in documents:
            document.file.close()
        raise
    return documents


class Opener(Working):
    """Opens the files in the background."""

    def __init__(self, job: Callable[[Report], list[Document]]) -> None:
        super().__init__()
        self.display = False
        self._job = job

    def begin(self) -> None:
        """Start to open the files."""
        self.start(self._job)

    def reported(self, result: Any, *, done: bool) -> None:
        self.post_message(Opened([], result) if isinstance(result, READ_ERRORS) else Opened(result, None))


class OpeningScreen(Screen[None]):
    """Says that the files are being opened, or why they cannot be."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "app.light_or_dark", "Light or dark"),
        Binding("question_mark", "help", "Keys"),
        Binding("q", "app.quit", "Quit"),
    ]

    def __init__(
        self, paths: Sequence[str], open_file: Callable[[str], File], tokens: Callable[[int], str] | None
    ) -> None:
        super().__init__()
        self.paths = paths
        self._opener = Opener(lambda report: open_documents(paths, open_file, tokens, report))

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="problem")
        yield self._opener
        yield KeyBar(KEYS)

    def on_mount(self) -> None:
        self._show("opening …")
        self.query_one("#problem").display = False
        self.call_after_refresh(self._opener.begin)  # the screen is seen first

    def _show(self, state: str) -> None:
        names = " and ".join(escape(Path(path).name) for path in self.paths)
        self.query_one("#title", Static).update(Text.assemble((f" {names}\n", "bold"), f" {state}"))

    def on_opened(self, message: Opened) -> None:
        if message.error is not None:
            self._show("cannot be opened")
            problem = self.query_one("#problem", Static)
            problem.display = True
            problem.update(Text(escape(str(message.error), keep_newlines=True)))

    def action_help(self) -> None:
        self.app.push_screen(HelpWindow(HELP))
