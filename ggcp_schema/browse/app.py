"""The browser's application: it opens the files in the background and shows the screen for them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Footer, Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.jobs import Job
from ggcp_schema.browse.palette import KeyWindow, Palette, capital
from ggcp_schema.browse.panes import Overview, Pane, Schema
from ggcp_schema.browse.plots import Histogram, PictureView
from ggcp_schema.browse.screen import COMMON, FileScreen
from ggcp_schema.browse.tables import Changes, HealthView, Layers
from ggcp_schema.browse.values import Values
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import escape

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File

SWITCH_INTERVAL = 0.0005  # seconds; Python's 0.005 lets work in the background delay each key several times

# name, primary, secondary, warning, error, success, accent, foreground, background, surface, panel
DARK = Theme(
    *("ggcp-dark", "#74a8e0", "#b48ede", "#e8b462", "#ec6a76", "#8ec07c"),
    *("#e8b462", "#d6dbe4", "#15181e", "#1d222b", "#232a35"),
)
LIGHT = Theme(
    *("ggcp-light", "#1f61a8", "#7a3fb0", "#9a5b00", "#b3203a", "#2f7031"),
    *("#9a5b00", "#22262d", "#fbfaf7", "#f3f0ea", "#e7e3da"),
    dark=False,
)


def numbered(action: str, titles: Iterable[str]) -> list[BindingType]:
    """Return keys from 1 on that open something."""
    return [Binding(f"{key + 1}", f"{action}({key})", f"Open {title}", show=False) for key, title in enumerate(titles)]


class BrowseScreen(FileScreen):
    """One file: the tree at the left, tabs at the right, bytes at the bottom."""

    KINDS = (Overview, Values, Histogram, PictureView, HealthView, Layers, Schema)
    NAMES = ("Fields", "Tabs", "Bytes")
    BINDINGS: ClassVar[list[BindingType]] = numbered("tab", (kind.TITLE for kind in KINDS))

    def on_mount(self) -> None:  # Textual calls the method of the base class too
        self.frames[1].border_subtitle = f"keys 1 … {len(self.panes)}"


class PairScreen(FileScreen):
    """Two files: both trees at the top, then the changes, then the bytes of both."""

    KINDS = (Changes,)
    NAMES = ("A", "B", "Changes", "Bytes A", "Bytes B")
    BINDINGS: ClassVar[list[BindingType]] = numbered("open", NAMES)


class BrowseApp(App[None]):
    """The browser of one file, or of two. Its own screen is shown while the files are opened, or when that fails.

    `open_file` opens a path; it runs in another thread. `tokens` gives the text of a token. `error` is the error that
    prevented opening, shown until the user quits.
    """

    TITLE = "ggcp-schema"
    CSS_PATH = "app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = COMMON

    def __init__(
        self,
        paths: Sequence[str],
        open_file: Callable[[str], File],
        *,
        tokens: Callable[[int], str] | None = None,
        light: bool = False,
    ) -> None:
        super().__init__()
        self.animation_level = "none"  # keys should take effect at once
        self.paths, self.open_file = list(paths), open_file
        self.tokens = tokens
        self.files: list[File] = []
        self.error: Exception | None = None
        self.opener = Job(self, self._opened)
        self._before: FileScreen | None = None
        self._interval = sys.getswitchinterval()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = LIGHT.name if light else DARK.name

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="problem")
        yield Footer(show_command_palette=False)

    def say(self, state: str, problem: str = "") -> None:
        """Show what is going on with the files, and what prevents that."""
        names = " and ".join(escape(Path(path).name) for path in self.paths)
        screen = self.screen_stack[0]
        screen.query_one("#title", Static).update(Text.assemble((f" {names}\n", "bold"), f" {state}"))
        screen.query_one("#problem", Static).update(Text(escape(problem, keep_newlines=True)))
        screen.query_one("#problem").display = bool(problem)

    def on_mount(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, and threads other than the first
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    leave = partial(self.exit, return_code=128 + number)
                    asyncio.get_running_loop().add_signal_handler(number, leave)
        self.say("opening …")
        self.call_after_refresh(self.opener.start, self.open)  # the screen is seen first

    def on_unmount(self) -> None:
        sys.setswitchinterval(self._interval)

    def open(self, report: Report) -> list[Document]:
        """Open the files. If a file cannot be opened, or the browser ends, close the opened files again."""
        documents: list[Document] = []
        try:
            for path in self.paths:
                documents.append(Document(self.open_file(path), self.tokens))
                documents[-1].prepare()
                report(None)
        except BaseException:
            for document in documents:
                document.file.close()
            raise
        return documents

    def _opened(self, result: Any, *, done: bool) -> None:
        """Show the files; after an error the screen stays and says so."""
        if isinstance(result, Exception):
            self.error = result
            self.say("cannot be opened", str(result))
            return
        while len(self.screen_stack) > 1:  # the keys, or the palette
            self.pop_screen()
        self.error, self.files = None, [document.file for document in result]
        screen = PairScreen(*result) if len(result) == 2 else BrowseScreen(*result)
        self.push_screen(screen)
        if self._before is not None:
            self.call_after_refresh(screen.restore, self._before)
            self._before = None

    async def action_reload(self) -> None:
        """Open the files again, after they have changed."""
        if isinstance(self.screen, FileScreen):
            self._before = self.screen
            await self.pop_screen()
        self.close_files()
        self.say("opening …")
        self.opener.start(self.open)

    def close_files(self) -> None:
        """Close the files, after the application or their screen has ended."""
        for file in self.files:
            file.close()
        self.files = []

    def action_light_or_dark(self) -> None:
        """Switch between the light and the dark theme."""
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(KeyWindow())

    def action_command_palette(self) -> None:
        """Search commands, fields and tensors."""
        if not isinstance(self.screen, Palette):
            self.push_screen(Palette(placeholder="a command, a field, a tensor, a text"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield everything that a key does on this screen and in the focused pane, for the command palette."""
        for node, binding, enabled, _ in screen.active_bindings.values():
            if enabled and isinstance(node, FileScreen | Pane) and not binding.action.startswith("screen."):
                key = binding.key_display or binding.key.partition(",")[0]
                run = partial(self.call_later, node.run_action, binding.action)
                yield SystemCommand(capital(binding).description, f"{binding.tooltip}   Key: {key}".strip(), run)
        for command in super().get_system_commands(screen):
            if command.title in ("Theme", "Screenshot"):
                yield command
