"""Runs the browser without a terminal."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from textual import events
from textual._compositor import Compositor
from textual.css.stylesheet import Stylesheet
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets._toast import Toast

from ggcp_schema.browse.app import BrowseApp, BrowseScreen, PairScreen
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Job
from ggcp_schema.browse.screen import FileScreen
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File

LETTERS = {
    "slash": "/",
    "question_mark": "?",
    "full_stop": ".",
    "space": " ",
    "plus": "+",
    "minus": "-",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "underscore": "_",
}
TIMEOUT = 60  # seconds after which what is waited for counts as missing
draw = Compositor.render_update  # what has changed, of a screen
parse = Stylesheet._parse_rules
parsed: dict[Any, Any] = {}  # the rules of a text, by the theme's colours and all else that they depend on
Script = Callable[["Browser"], Awaitable[None]]


async def idle(*seconds: float) -> None:
    """Wait until nothing can be done before time passes, or a file or another thread answers.

    The tests use this in place of Textual's `wait_for_idle`, which sleeps until the process has used little time.
    """
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    while ready:
        await asyncio.sleep(0)


def draw_later(compositor: Compositor, full: bool = False, **options: Any) -> Any:
    """Draw nothing but a screenshot: `Browser.painted` draws the screen, not each state on the way to it."""
    return draw(compositor, full, **options) if full else None


def parse_once(sheet: Stylesheet, *text: Any, **options: Any) -> Any:
    """Parse a style sheet once for all browsers, which takes a tenth of the time that one starts in."""
    key = (frozenset(sheet._variables.items()), *text, *options.items())
    if key not in parsed:
        parsed[key] = parse(sheet, *text, **options)
    return parsed[key]


class Browser:
    """A running browser: its keys, what it shows, and what it has selected."""

    def __init__(self, app: BrowseApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def screen(self) -> BrowseScreen:
        screen = self.app.screen_stack[1]
        assert isinstance(screen, BrowseScreen)
        return screen

    @property
    def pair(self) -> PairScreen:
        screen = self.app.screen_stack[1]
        assert isinstance(screen, PairScreen)
        return screen

    @property
    def tree(self) -> TreeView:
        return self.app.screen_stack[1].query(TreeView).first()

    @property
    def rows(self) -> int:
        """How many rows the tree has."""
        return self.tree.last_line + 1

    @property
    def hex(self) -> HexView:
        return self.app.screen_stack[1].query(HexView).first()

    @property
    def path(self) -> str | None:
        return self.screen.field.path if self.screen.field else None

    async def begin_again(self) -> None:
        """Close windows and collapse all fields; select the first one, and the first tab."""
        while len(self.app.screen_stack) > 2:
            await self.press("escape")
        self.app.clear_notifications()
        screen, tree = self.screen, self.tree
        tree.root.remove_children()
        tree.fill(tree.root)
        screen.select(tree.root.children[0].data)
        screen.action_tab(0)
        await self.refreshed()
        screen.action_open(0)
        await self.refreshed()

    async def press(self, *keys: str) -> None:
        """Press keys. Textual's `press` asks every widget after each key whether it is done."""
        for key in keys:
            self.app.post_message(events.Key(key, LETTERS.get(key, key if len(key) == 1 else None)))
            await idle()
        await self.painted()

    async def type(self, text: str) -> None:
        names = {letter: name for name, letter in LETTERS.items()}
        await self.press(*(names.get(char, char) for char in text))

    async def go_to(self, place: str) -> None:
        self.app.screen_stack[1].go_to(place)  # type: ignore[attr-defined]
        await self.painted()

    async def settle(self) -> None:
        """Wait until the files are open and nothing is computed in the background."""
        await self.until(lambda: isinstance(self.app.screen_stack[-1], FileScreen) or len(self.app.screen_stack) > 2)
        await self.refreshed()
        await self.until(lambda: not any(job.working for job in self.jobs()))
        await self.painted()

    def jobs(self) -> Iterator[Job]:
        """All work in the background."""
        for widget in (*self.app.screen_stack, *self.app.screen.query("*")):
            yield from (each for each in vars(widget).values() if isinstance(each, Job))
            yield from getattr(widget, "students", ())

    async def resize(self, width: int, height: int) -> None:
        await self.pilot.resize_terminal(width, height)
        await self.until(lambda: self.app.screen.size == (width, height))
        await self.pilot.pause(0.05)  # Textual arranges the widgets a moment later
        await self.painted()

    async def painted(self) -> None:
        """Wait until the screen shows what has happened so far, and draw it."""
        await self.refreshed()
        draw(self.app.screen._compositor, screen_stack=self.app._background_screens)

    async def refreshed(self) -> None:
        """Wait until what has happened so far could be drawn."""
        done = asyncio.Event()
        await idle()
        await self.app.animator.wait_for_idle()  # what scrolls waits for it, without animations too
        self.app.screen.call_after_refresh(done.set)
        while self.app.is_running and not done.is_set():  # an application that has ended paints nothing
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(done.wait(), 0.1)
        await idle()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition is true."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "it does not come true"
            await asyncio.sleep(0.002)

    def text(self, of: str | Widget | None = None) -> str:
        """What the screen, or a widget, shows."""
        screen = self.app.screen
        region = (screen if of is None else screen.query_one(of) if isinstance(of, str) else of).region
        return "\n".join(strip.crop(region.x, region.right).text for strip in self.strips()[region.y : region.bottom])

    def messages(self) -> str:
        """The words of the messages in the corner, however their lines are broken."""
        return " ".join("".join(map(self.text, self.app.screen.query(Toast))).replace("▌", " ").split())

    def strips(self) -> list[Strip]:
        """The lines of the screen, with their styles."""
        return self.app.screen._compositor.render_strips()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage, neither now nor later: that takes half as long as all else, and a browser leaves 6 MB."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # makes all objects old. Hypothesis does not find its random generator among frozen ones
        gc.unfreeze()
        gc.enable()


def in_turn(*scripts: Script) -> Script:
    """Return a script that runs these, each from the beginning."""

    async def script(browser: Browser) -> None:
        for each in scripts:
            await browser.begin_again()
            await each(browser)

    return script


def browse(*paths: Path, script: Script, size: tuple[int, int] = (120, 40), **options: Any) -> BrowseApp:
    """Run the browser at a size of the screen, and the script in it. Each file that it opens must be closed."""
    files: list[File] = []

    def opened(path: str) -> File:
        files.append(open_file(path, partial=True))
        return files[-1]

    app = BrowseApp([str(path) for path in paths], opened, **options)

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            browser = Browser(app, pilot)
            await browser.settle()
            await script(browser)

    try:
        with (
            _uncollected(),
            mock.patch("textual.screen.UPDATE_PERIOD", 1 / 250),  # seconds from a change to what is drawn of it
            mock.patch("textual.app.wait_for_idle", idle),
            mock.patch("textual.pilot.wait_for_idle", idle),
            mock.patch.object(Compositor, "render_update", draw_later),
            mock.patch.object(Stylesheet, "_parse_rules", parse_once),
        ):
            asyncio.run(run())
    finally:
        app.close_files()
    assert all(file.source.file.closed for file in files)
    return app
