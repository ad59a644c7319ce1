"""The browser's application: it opens the files, shows the screen for them, and has a palette and a list of keys."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult, SystemCommand
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.command import CommandPalette, Hit, Hits, Provider
from textual.screen import ModalScreen, Screen
from textual.theme import Theme
from textual.widgets import Input, KeyPanel, OptionList, Static

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Cancelled, Job
from ggcp_schema.browse.panes import Overview, Pane, Schema
from ggcp_schema.browse.plots import Histogram, PictureView
from ggcp_schema.browse.screen import COMMON, FileScreen, KeyBar
from ggcp_schema.browse.tables import Changes, HealthView, Layers
from ggcp_schema.browse.values import Values
from ggcp_schema.formats.file import File
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.search import Hit as FoundHit
from ggcp_schema.inspect.search import search
from ggcp_schema.inspect.text import escape

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
PLAIN, FOUND, OTHER = "not bold", "bold underline", "dim not bold"  # styles of letters


class Places(Provider):
    """The place that the words mean as they stand, and then the best hits of a fuzzy search."""

    async def search(self, query: str) -> Hits:
        screen: Any = self.screen
        document, cancelled = screen.document, Event()
        problem = f"Nothing is named {query!r}, and no text has these letters."
        try:
            field, offset = document.resolve(query)
        except READ_ERRORS as error:
            if not query.replace(" ", "").isalpha():  # it may be meant as a path or an offset
                problem = str(error).replace("\n", "  ")
        else:
            words = f"{'no field' if field is None else field.path} at offset {offset:,} (0x{offset:x})"
            yield Hit(1000.0, Text(escape(words)), partial(screen.go_to, query))

        def report(result: object) -> None:
            if cancelled.is_set():
                raise Cancelled

        try:
            hits = await asyncio.to_thread(search, document.index, query, report)
        finally:
            cancelled.set()  # other words are searched for
        for hit in hits:
            yield Hit(hit.score, _prompt(hit, document), partial(screen.go_to, hit.path))
        if not hits:
            yield Hit(0.0, Text(problem, PLAIN), partial(screen.notify, problem, severity="error", markup=False))


def _prompt(hit: FoundHit, document: Document) -> Text:
    """Return what matched, with the letters that did, and what the commands call its field if that is another name."""
    path = hit.path
    with suppress(*READ_ERRORS):  # the file may have changed
        field = document.field(path)
        path = path if field is None else document.label(field)
    text = Text.assemble(*((escape(letter), FOUND if at in hit.at else PLAIN) for at, letter in enumerate(hit.text)))
    return text if hit.text in (hit.path, path) else text.append(f"  {escape(path)}", OTHER)


class Palette(CommandPalette):
    """Textual's palette, in which Enter waits for the hits of the words that stand there.

    Textual takes the hits of the words before as long as there are no others.
    """

    awaited: str | None = None  # words after which Enter was pressed

    def on_input_changed(self) -> None:
        self.query_one(OptionList).clear_options()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go to a path or an offset at once if the search still runs; else to the best hit once it is found."""
        if self.query_one(OptionList).option_count or not event.value.strip():
            return
        event.prevent_default()
        self.awaited = event.value
        screen: Any = self.app.screen_stack[-2]
        with suppress(AttributeError, *READ_ERRORS):  # the screen has no file, or the file no such place
            screen.document.resolve(event.value)
            self.dismiss()
            screen.call_later(screen.go_to, event.value)

    def _action_command_list(self, action: str) -> None:
        """Move among the hits, but not by a page before they are drawn: Textual does not know it then."""
        with suppress(KeyError):
            super()._action_command_list(action)

    def dismiss(self, result: None = None) -> AwaitComplete:
        """Close the palette, and no screen below it when Enter is pressed twice or hits come one after another."""
        return super().dismiss(result) if self.is_active else AwaitComplete()

    def on_option_list_option_highlighted(self) -> None:
        if self.awaited == self.query_one(Input).value:
            self.query_one(OptionList).action_select()


class KeyWindow(ModalScreen[None]):
    """The keys of the pane with the focus, and of all panes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Close", show=False)]

    @property
    def active_bindings(self) -> Any:
        """The bindings below this window, which the list shows."""
        stack = self.app.screen_stack  # in which the palette may be above
        return stack[stack.index(self) - 1].active_bindings

    def compose(self) -> ComposeResult:
        keys = KeyPanel(classes="window")
        keys.border_title, keys.border_subtitle = "Keys", "↑ ↓ PgUp PgDn: scroll   Esc: close"
        keys.can_focus = True  # to be scrolled
        yield keys


def numbered(action: str, titles: Iterable[str]) -> list[BindingType]:
    """Return keys from 1 on that open something."""
    return [Binding(f"{key + 1}", f"{action}({key})", f"Open {title}", show=False) for key, title in enumerate(titles)]


class BrowseScreen(FileScreen):
    """One file: the tree at the left, tabs at the right, bytes at the bottom."""

    KINDS = (Overview, Values, Histogram, PictureView, HealthView, Layers, Schema)
    NAMES = ("Fields", "Tabs", "Bytes")
    COMMANDS: ClassVar = {Places}
    BINDINGS: ClassVar[list[BindingType]] = numbered("tab", (kind.TITLE for kind in KINDS))

    def on_mount(self) -> None:  # Textual calls the method of the base class too
        self.frames[1].border_subtitle = f"keys 1 … {len(self.panes)}"


class PairScreen(FileScreen):
    """Two files: both trees at the top, then the changes, then the bytes of both."""

    KINDS = (Changes,)
    NAMES = ("A", "B", "Changes", "Bytes A", "Bytes B")
    COMMANDS: ClassVar = {Places}
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
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = LIGHT.name if light else DARK.name

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="problem")
        yield KeyBar(show_command_palette=False)

    def say(self, state: str, problem: str = "") -> None:
        """Show what is going on with the files, and what prevents that."""
        names = " and ".join(escape(Path(path).name) for path in self.paths)
        screen = self.screen_stack[0]
        screen.query_one("#title", Static).update(Text.assemble((f" {names}\n", "bold"), f" {state}"))
        screen.query_one("#problem", Static).update(Text(escape(problem, keep_newlines=True)))
        screen.query_one("#problem").display = bool(problem)

    def on_mount(self) -> None:
        with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, and threads other than the first
            for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    leave = partial(self.exit, return_code=128 + number)
                    asyncio.get_running_loop().add_signal_handler(number, leave)
        self.say("opening …")
        self.call_after_refresh(self.opener.start, self.open)  # the screen is seen first

    def open(self, report: Report) -> list[Document]:
        """Open the files. If a file cannot be opened, or the browser ends, close the opened files again."""
        documents = []
        with ExitStack() as opened:
            for path in self.paths:
                documents.append(Document(opened.enter_context(self.open_file(path)), self.tokens))
                report(None)
            opened.pop_all()
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

    def action_search(self) -> None:
        """Search fields and tensors."""
        self.push_screen(Palette([Places], placeholder="layers[0].wq, wq 0, 1024 or 0x400"))

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
                yield SystemCommand(binding.description, f"{binding.tooltip}   Key: {key}".strip(), run)
        for command in super().get_system_commands(screen):
            if command.title in ("Theme", "Screenshot"):
                yield command
