"""The palette, which searches the file beside Textual's commands; and the window with the keys."""

from __future__ import annotations

from asyncio import ensure_future, sleep, to_thread, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.command import CommandPalette, Hit, Hits, Provider
from textual.screen import ModalScreen
from textual.widgets import Input, KeyPanel, OptionList

from ggcp_schema.browse.document import READ_ERRORS, Document
from ggcp_schema.browse.jobs import Cancelled, Job
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.search import Hit as FoundHit
from ggcp_schema.inspect.search import Hits as Found
from ggcp_schema.inspect.search import search
from ggcp_schema.inspect.text import escape

if TYPE_CHECKING:
    from ggcp_schema.browse.screen import FileScreen

PLAIN, FOUND, OTHER = "not bold", "bold underline", "dim not bold"  # styles of letters
SOON = 0.03  # seconds until the hits that there are by then are shown


def resolve(document: Document, text: str) -> tuple[Field | None, int]:
    """Return the field and the offset that a path, an element of data, or an offset means: as `ggcp-schema hex` does.

    Raises `GgcpError` if there is no such place.
    """
    from ggcp_schema.inspect.paths import place

    file, text = document.file, text.strip()
    offset, _ = place(file, text.replace(",", "") if text.replace(",", "").isdecimal() else text)
    field = file.field(text)
    return (file.at(offset), offset) if field is None else (field, field.offset)


class Places(Provider):
    """The place that the words mean as they stand, and then the best hits of a fuzzy search: first those found soon."""

    async def search(self, query: str) -> Hits:
        screen: FileScreen = self.screen  # type: ignore[assignment]
        palette, document, cancelled = self.app.screen, screen.document, Event()
        problem, found = f"Nothing is named {query!r}, and no text has these letters.", Found((), 0)
        try:
            field, offset = resolve(document, query)
        except READ_ERRORS as error:
            if not query.replace(" ", "").isalpha():  # it may be meant as a path or an offset
                problem = str(error).replace("\n", "  ")
        else:
            words = f"{'no field' if field is None else field.path} at offset {offset:,} (0x{offset:x})"
            yield Hit(1000.0, Text(escape(words)), partial(screen.go_to, query))

        def report(result: Found) -> None:
            nonlocal found
            if cancelled.is_set():
                raise Cancelled
            found = result

        def work() -> None:
            with suppress(Cancelled):
                report(search(document.index, query, report))

        task, shown = ensure_future(to_thread(work)), set[str]()
        try:
            for is_last in (False, True):
                while not task.done() and (is_last or not found.hits or palette.awaited):  # type: ignore[attr-defined]
                    await wait({task}, timeout=None if is_last else SOON)
                hits = [hit for hit in found.hits if hit.path not in shown]
                for hit in reversed(hits):
                    if hit is hits[0] and not task.done():
                        await sleep(SOON)  # Textual shows all hits when one comes so long after the first
                    yield Hit(hit.score, _prompt(hit), partial(screen.go_to, hit.path))
                shown.update(hit.path for hit in hits)
            await task
        finally:
            cancelled.set()
        if not shown:
            yield Hit(0.0, Text(problem, PLAIN), partial(screen.notify, problem, severity="error", markup=False))


def _prompt(hit: FoundHit) -> Text:
    """Return what matched, with the letters that did, and the path if that is another."""
    text = Text.assemble(*((escape(letter), FOUND if at in hit.at else PLAIN) for at, letter in enumerate(hit.text)))
    return text if hit.text == hit.path else text.append(f"  {escape(hit.path)}", OTHER)


class Palette(CommandPalette):
    """Textual's palette, in which Enter waits for the hits of the words that stand there.

    Textual takes the hits of the words before as long as there are no others.
    """

    _RESULT_BATCH_TIME = SOON / 2  # type: ignore[misc] # seconds between hits after which Textual shows them
    awaited: str | None = None  # words after which Enter was pressed

    def on_mount(self) -> None:
        """Collect what can be searched for while the user types. Textual calls the method of the base class too."""
        document: Document | None = getattr(self.app.screen_stack[-2], "document", None)
        if document is not None:
            Job(self, lambda result, done: None).start(document.index.collect)

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
            resolve(screen.document, event.value)
            self.dismiss()
            screen.call_later(screen.go_to, event.value)

    def on_option_list_option_highlighted(self) -> None:
        if self.awaited == self.query_one(Input).value:
            self.query_one(OptionList).action_select()


def capital(binding: Binding) -> Binding:
    """Return the binding with a capital letter in its description; the footer has small ones."""
    return replace(binding, description=binding.description[:1].upper() + binding.description[1:])


class KeyList(KeyPanel, can_focus=True):
    """Textual's list of keys, which can be scrolled with keys here."""


class KeyWindow(ModalScreen[None]):
    """The keys of the pane with the focus, and of all panes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Close", show=False)]

    @property
    def active_bindings(self) -> Any:
        """The bindings below this window, which the list shows, all with a capital letter."""
        found = self.app.screen_stack[-2].active_bindings
        return {key: each._replace(binding=capital(each.binding)) for key, each in found.items()}

    def compose(self) -> ComposeResult:
        keys = KeyList(classes="window")
        keys.border_title, keys.border_subtitle = "Keys", "↑ ↓ PgUp PgDn: scroll   Esc: close"
        yield keys

    def on_mount(self) -> None:
        self.query_one(KeyList).focus()
