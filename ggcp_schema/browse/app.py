"""The browser's application: it opens the files in the background and shows the screen for them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.theme import Theme

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.opening import Opened, OpeningScreen
from ggcp_schema.browse.pair import PairScreen
from ggcp_schema.browse.screen import FileScreen, Reopen, own_keys
from ggcp_schema.browse.single import BrowseScreen

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File

SWITCH_INTERVAL = 0.0005  # seconds; Python's 0.005 lets work in the background delay each key several times

DARK = Theme(
    name="ggcp-dark",
    primary="#74a8e0",
    secondary="#b48ede",
    accent="#e8b462",
    warning="#e8b462",
    error="#ec6a76",
    success="#8ec07c",
    foreground="#d6dbe4",
    background="#15181e",
    surface="#1d222b",
    panel="#232a35",
    dark=True,
)
LIGHT = Theme(
    name="ggcp-light",
    primary="#1f61a8",
    secondary="#7a3fb0",
    accent="#9a5b00",
    warning="#9a5b00",
    error="#b3203a",
    success="#2f7031",
    foreground="#22262d",
    background="#fbfaf7",
    surface="#f3f0ea",
    panel="#e7e3da",
    dark=False,
)


class BrowseApp(App[None]):
    """The browser of one file, or of two.

    `open_file` opens a path; it runs in another thread. `tokens` gives the text of a token. `error` is what prevented
    the files from being opened; it is shown until the user quits.
    """

    TITLE = "ggcp-schema"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True

    def __init__(
        self,
        paths: Sequence[str],
        open_file: Callable[[str], File],
        *,
        tokens: Callable[[int], str] | None = None,
        light: bool = False,
    ) -> None:
        super().__init__()
        self.paths, self.open_file = list(paths), open_file
        self.tokens = tokens
        self.files: list[File] = []
        self.error: Exception | None = None
        self._interval = sys.getswitchinterval()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = LIGHT.name if light else DARK.name

    def on_mount(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, and threads other than the first
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    leave = partial(self.exit, return_code=128 + number)
                    asyncio.get_running_loop().add_signal_handler(number, leave)
        self.push_screen(self._opening())

    def on_unmount(self) -> None:
        sys.setswitchinterval(self._interval)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.InputEvent) and isinstance(self.screen, FileScreen):
            self.screen.hold_work()
        await super().on_event(event)

    def _opening(self) -> OpeningScreen:
        return OpeningScreen(self.paths, self.open_file, self.tokens)

    async def on_opened(self, message: Opened) -> None:
        """Show the files; after an error the screen that says so stays."""
        self.error = message.error
        if message.error is None:
            self.files = [document.file for document in message.documents]
            await self.switch_screen(self._screen_for(message.documents))

    def _screen_for(self, documents: Sequence[Document]) -> FileScreen:
        if len(documents) == 2:
            return PairScreen(*documents)
        return BrowseScreen(documents[0])

    async def on_reopen(self, message: Reopen) -> None:
        """Open the files again, after they have changed."""
        before, self.files = self.files, []
        await self.switch_screen(self._opening())
        for file in before:
            file.close()

    def close_files(self) -> None:
        """Close the files, after the application has ended."""
        for file in self.files:
            file.close()

    def keep_screenshot(self) -> None:
        """Save the screen as an SVG file and say where."""
        self.notify(self.save_screenshot(), title="Saved", markup=False)

    def action_light_or_dark(self) -> None:
        """Switch between the light and the dark theme."""
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Give everything that a key does, for the command palette."""
        for binding in FileScreen.BINDINGS:
            if isinstance(binding, Binding) and binding.show:
                run = partial(self.call_later, screen.run_action, binding.action)
                yield SystemCommand(binding.description, f"Key: {_key_name(binding.key)}", run)
        if isinstance(screen, BrowseScreen):
            for index, title in enumerate(screen.titles):
                run = partial(self.call_later, screen.run_action, f"tab({index})")
                yield SystemCommand(f"Open {title}", f"Key: {index + 1}", run)
            pane = screen.panes[screen.tab]
            for key in own_keys(pane):
                run = partial(self.call_later, pane.run_action, key.action)
                yield SystemCommand(key.label.capitalize(), f"Key: {key.key}", run)
        yield SystemCommand("Theme", "Choose another theme", self.action_change_theme)
        keep = partial(self.set_timer, 0.1, self.keep_screenshot)
        yield SystemCommand("Screenshot", "Save the screen as SVG", keep)


def _key_name(key: str) -> str:
    return {"slash": "/", "question_mark": "?"}.get(key, key)
