"""The head of the screen, what all tabs have in common, and the tabs of text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Sparkline, Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.jobs import Job
from ggcp_schema.browse.lines import fit, ink
from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect.brief import brief_lines, in_short
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.summary import summary_lines
from ggcp_schema.inspect.text import escape
from ggcp_schema.inspect.usage import USES

SIGNS = dict(zip(USES, "█▓▒▚░·≡╳"))
INKS = dict(zip(USES, ("bar", "value", "warning", "state", "detail", "none", "name", "error")))
WIDE = 48  # columns of the overview in which the legend has sizes and shares
KEYS = "5: measure the tensors   n: the first one   2: its values   ?: all keys"


class TopBar(Static):
    """The names of the files, the verdict or what is going on, and as much of what is known as there is room for."""

    pane: reactive[str] = reactive("")
    note: reactive[str] = reactive("")
    trouble: reactive[str] = reactive("")

    def __init__(self, title: str, document: Document) -> None:
        super().__init__()
        self.title, self.document = title, document

    def render(self) -> Text:
        width, summary, wrong = self.size.width, self.document.summary, self.trouble or self.document.wrong
        facts = [escape(fact) for fact in ([self.document.file.format.title] if summary is None else in_short(summary))]
        while len(facts) > 1 and cell_len("  ·  ".join(facts)) >= width:
            facts.pop()
        verdict, kind = (f"✗ {wrong}", "error") if wrong else ("✓ whole", "value")
        if self.note:
            verdict, kind = self.note, "accent"
        verdict = fit(f" {verdict} ", min(cell_len(verdict) + 2, width // 2))
        title = fit(f" {escape(self.title)} ", width - cell_len(self.pane) - cell_len(verdict))
        return Text.assemble(
            *((title, ink(self, "holder")), (self.pane, ink(self, "accent")), (verdict, ink(self, kind)), "\n"),
            (fit(f" {'  ·  '.join(facts)}", width), ink(self, "detail")),
            no_wrap=True,
        )


@dataclass
class Moved(Message):
    """The user moved in a widget to a field of a document, to a byte of it, or to a byte of whatever field.

    `size` is the number of bytes to mark, if these are not the whole field.
    """

    origin: Widget
    document: Document
    field: Field | None = None
    offset: int | None = None
    size: int = 0


class Words(Static):
    """The text of a pane, made anew whenever it is drawn: its inks change with the theme."""

    parent: Pane

    def render(self) -> RenderableType:
        pane = self.parent
        if isinstance(pane.subject, str):
            return Text(escape(pane.subject, keep_newlines=True), ink(self, "detail"))
        if pane.error:
            return Text(escape(pane.error), ink(self, "error"))
        return Text("reading …" * pane.job.working) if pane.found is None else pane.text(pane.found)


class Pane(VerticalScroll):
    """A tab: `text` at its top, and below that what a subclass composes, or a `view` that gets the focus.

    `show` is called while the tab can be seen: after the selection has moved, and when the tab is opened. A job finds
    out what there is to see of the `subject`: `found` is what it has found so far, `error` what has ended it. The
    subject is the selected tensor, or words instead of one.
    """

    TITLE: ClassVar[str]
    VIEW: ClassVar[type[Widget] | None] = None
    BINDING_GROUP_TITLE = "This pane"
    field: Field | None = None  # the selected one
    subject: Any = None
    tensor: Tensor | None = None  # if that is the subject
    found: Any = None
    error = ""

    def __init__(self, *documents: Document) -> None:
        super().__init__(classes="pane")
        self.documents, self.document = documents, documents[0]
        self.words, self.job = Words(), Job(self, self.reported)
        self.target: Widget = self if self.VIEW is None else self.VIEW(self)
        self.can_focus = self.target is self

    def compose(self) -> ComposeResult:
        yield self.words
        if self.target is not self:
            yield self.target

    def text(self, found: Any) -> RenderableType:
        """Return what there is to say of what was found."""
        return ""

    def subject_of(self, field: Field | None) -> Any:
        """Return what there is to see when a field is selected: its tensor, or why there is nothing."""
        tensor = self.document.tensor_of(field)
        if tensor is None:
            return "Press n for the first tensor." if self.document.file.tensors else "The file has no tensors."
        if not tensor.n_elements:
            return "A NULL tensor has no values."
        return tensor if tensor.is_readable else f"{tensor.path} is {tensor.type}: its values cannot be read."

    def show(self, field: Field | None) -> None:
        """Take note of the selected field, and begin anew if there is something else to see."""
        self.field, subject = field, self.subject_of(field)
        if subject != self.subject:
            self.job.stop()
            self.subject, self.found, self.error = subject, None, ""
            self.tensor = subject if isinstance(subject, Tensor) else None
            self.begin()
            self.update()

    def begin(self) -> None:
        """Take note of another subject."""

    def hide(self) -> None:
        """Stop the job, because the tab is hidden, so that it begins anew when the tab is opened again."""
        if self.job.working:
            self.job.stop()
            self.subject = self.found = None

    def reported(self, result: Any, *, done: bool) -> None:
        """Show what the job has found."""
        if isinstance(result, Exception):
            self.error = getattr(result, "message", str(result))
        else:
            self.found, self.error = result, ""
        self.update()

    def update(self) -> None:
        """Show what is known now."""
        self.words.refresh(layout=True)

    def on_resize(self) -> None:
        self.update()


def _labelled(lines: Iterable[tuple[str, str]]) -> Table:
    """Return labels and texts side by side; a text that is wrapped hangs below its start."""
    table = Table.grid(Column(style="bold", no_wrap=True), padding=(0, 1, 0, 0))
    table.add_column()
    for label, words in lines:
        table.add_row(Text(label), Text(escape(words)))
    return table


class Overview(Pane):
    """A map of the bytes, the losses of the past, and what `info` and `info -v` say."""

    TITLE = "Overview"

    def compose(self) -> ComposeResult:
        yield Static("[b]Bytes[/b]  click a cell to go there")
        yield FileMap(self.document)
        yield self.words
        yield Sparkline(summary_function=max)
        yield Static(id="facts")

    def subject_of(self, field: Field | None) -> Summary | str:
        return self.document.summary or self.document.problem or "reading …"

    def show(self, field: Field | None) -> None:
        """Mark the place of the field too."""
        super().show(field)
        if field is not None:
            self.query_one(FileMap).here = field.offset

    def begin(self) -> None:
        """Show what `info` says, when that is known."""
        self.found = summary = self.document.summary
        for each in self.children:
            each.display = summary is not None or each is self.words
        if summary is None:
            return
        brief = brief_lines(summary, "Health examines them")
        keys = KEYS if len(self.document.file.tensors) else "/: search keys and texts   ?: all keys"
        brief = [*(each for each in brief if each[0] not in ("measure", "look")), ("here", keys)]
        facts = Group(_labelled(brief), "", _labelled(summary_lines(summary)[1:]))
        self.query_one("#facts", Static).update(facts)
        losses, chart = summary.losses, self.query_one(Sparkline)
        chart.data = [] if losses is None else [loss for loss in losses.past if math.isfinite(loss)]
        chart.display = len(chart.data) > 1

    def text(self, found: Summary) -> RenderableType:
        """Return the legend of the map: the uses of the bytes with their sizes, or shares where there is less room."""
        size, legend = max(1, self.document.file.size), []
        for use, count in self.document.usage.sizes.items() if self.document.usage else ():
            if count:
                share = f"{100 * count / size:.0f} %" if 200 * count >= size else ""
                both = [short_size(count), share] if self.size.width >= WIDE or not share else [share]
                words = " ".join(["", use, *both]).rstrip()
                legend.append(Text.assemble((SIGNS[use], ink(self, INKS[use])), (words, ink(self, "detail"))))
        return Columns(legend, padding=(0, 2))


class FileMap(Widget):
    """The file to scale: a cell stands for an equal part of its bytes, drawn as what takes most of them."""

    here: reactive[int] = reactive(0)

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document
        self._uses: list[str] = []

    def render(self) -> Text:
        usage, cells = self.document.usage, self.size.area
        if usage is not None and len(self._uses) != cells:
            self._uses = usage.pooled(cells)
        drawn = [(SIGNS[use], ink(self, INKS[use])) for use in self._uses]
        if drawn:
            drawn[self.here * cells // self.document.file.size] = ("◆", ink(self, "here"))
        return Text.assemble(*drawn)

    def on_click(self, event: events.Click) -> None:
        place, size = event.get_content_offset(self), self.document.file.size
        if place is not None and size:
            cell = place.y * self.size.width + place.x
            offset = min(size - 1, size * cell // (self.size.width * self.size.height))
            self.post_message(Moved(self, self.document, offset=offset))


class Schema(Pane):
    """What the format says of the selected field."""

    TITLE = "Schema"

    def subject_of(self, field: Field | None) -> Field | str:
        return "These bytes belong to no field: they come after the damage." if field is None else field

    def begin(self) -> None:
        self.found = self.field

    def text(self, found: Field) -> RenderableType:
        return _labelled(self.document.describe(found))
