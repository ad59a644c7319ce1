"""The tabs of text: what `info` says with the losses and a map of the bytes, and what the format says of a field."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Sparkline, Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import Drawn, bar, labelled, number
from ggcp_schema.browse.panes import Moved, Pane
from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.text import escape, shape_text, size_text, value_text
from ggcp_schema.inspect.usage import USES

if TYPE_CHECKING:
    from ggcp_schema.inspect.facts import Summary

ROOM = 16  # lines of the pane from which what to do next stands at its top
SIGNS = dict(zip(USES, "█▓▒▚░·≡╳"))
INKS = dict(zip(USES, ("bar", "value", "warning", "state", "detail", "none", "name", "error")))
DAMAGE = ("damage", "whole", "cut", "lost")  # the labels of lines about damage
MEMBERS = 40  # children listed at most


def _labels(lines: Iterable[tuple[str, str]]) -> Table:
    return labelled(((label, escape(words)) for label, words in lines), 12)


class Overview(VerticalScroll, Pane, can_focus=True):
    """The Overview tab."""

    TITLE = "Overview"
    _shown = False

    def compose(self) -> ComposeResult:
        yield Static(id="damage")
        yield Static(id="next")
        yield Static(id="losses")
        yield Sparkline(summary_function=max)
        yield FileMap(self.document)
        yield Static("reading …", id="facts")

    def on_mount(self) -> None:
        for each in self.children:
            each.display = each.id == "facts"

    def _put(self, name: str, text: Any) -> None:
        static = self.query_one(f"#{name}", Static)
        static.display = bool(text)
        static.update(_labels(text) if isinstance(text, list) else text)

    def show(self, field: Field | None) -> None:
        if not self._shown and self.document.summary is not None:
            self._shown = True
            self._show_facts(self.document.summary)
        if self.document.problem:
            self._put("facts", escape(self.document.problem, keep_newlines=True))
        if field is not None:
            self.query_one(FileMap).place(field.offset)

    def _show_facts(self, summary: Summary) -> None:
        """Show the lines of `info`, but the file's name and how to browse it: what to do next and damage at the top."""
        from ggcp_schema.inspect.summary import summary_lines

        lines = [each for each in summary_lines(summary) if each[0] not in ("file", "look")]
        first = [each for each in lines if each[1].startswith("ggcp-schema ") and self.size.height >= ROOM]
        damage = []
        if summary.condition is not None:
            damage = [each for each in lines if each[0] in DAMAGE or each[1].startswith("ggcp-schema ")]
            first = []
        self._put("damage", damage)
        self._put("next", first)
        self._put("facts", [each for each in lines if each not in first + damage])
        self._put("losses", self._losses(summary))
        self.query_one(FileMap).display = True

    def _losses(self, summary: Summary) -> Text | str:
        """Return the loss beside that of an untrained model, and draw the losses before it, the oldest first."""
        losses, latest = summary.losses, summary.loss
        if losses is None:
            return ""
        past = [loss / (losses.divisor or 1) for loss in losses.past if math.isfinite(loss)]
        chart = self.query_one(Sparkline)
        chart.data, chart.display = past, len(past) > 1
        text = Text.assemble(("Loss  ", "bold"), (number(latest), "bold"))
        if latest is not None and losses.untrained:
            share, untrained = bar(latest / losses.untrained, 10), number(losses.untrained)
            text.append(f"  ▕{share}▏ {untrained} = ln(n_vocab), untrained")
        if losses.doubt:
            text.append(f"\n{losses.doubt}")
        if chart.display:
            text.append(f"\nthe last {len(past)} losses, {number(min(past))} to {number(max(past))}:")
        return text


class FileMap(Drawn):
    """The file to scale: a cell stands for an equal part of its bytes, drawn as what takes most of them."""

    here = 0

    def __init__(self, document: Document) -> None:
        super().__init__()
        self.document = document
        self._cells: list[str] = []

    @property
    def rows(self) -> int:
        """The lines of the map."""
        return 1 if self.app.size.height < 30 else 3

    def get_content_height(self, container: Any, viewport: Any, width: int) -> int:
        """Return the lines of the title, the map and the legend."""
        return self.rows + 1 + len(self._legend(width))

    def place(self, offset: int) -> None:
        """Mark the cell of a byte."""
        self.here = offset
        self.refresh()

    def _legend(self, width: int) -> list[list[tuple[str, str]]]:
        """Return the uses with their sizes, in as many lines as they need."""
        lines: list[list[tuple[str, str]]] = []
        left = 0
        sizes = self.document.usage.sizes if self.document.usage else {}
        for use, size in ((use, size) for use, size in sizes.items() if size):
            share = 100 * size / max(1, self.document.file.size)
            words = f"{use} {short_size(size)} {share:.0f} %" if share >= 0.5 else f"{use} {short_size(size)}"
            if len(words) + 4 > left:
                lines.append([])
                left = width
            lines[-1].append((use, words))
            left -= len(words) + 4
        return lines

    def line(self, y: int, width: int) -> Iterator[Segment]:
        usage, total = self.document.usage, width * self.rows
        if y == 0:
            yield self.text("Bytes", "holder")
            yield self.text("  click a cell to go there", "detail")
        elif y <= self.rows and usage is not None:
            if len(self._cells) != total:
                self._cells = usage.pooled(total)
            here = self.here * total // max(1, self.document.file.size) - (y - 1) * width
            for index, use in enumerate(self._cells[(y - 1) * width : y * width]):
                yield self.text("◆", "here") if index == here else self.text(SIGNS[use], INKS[use])
        elif y <= self.rows + len(legend := self._legend(width)):
            for use, words in legend[y - self.rows - 1]:
                yield from (self.text(SIGNS[use], INKS[use]), self.text(f" {words}  ", "detail"))

    def on_click(self, event: events.Click) -> None:
        place, size = event.get_content_offset(self), self.document.file.size
        if place is not None and 1 <= place.y <= self.rows:
            cell = (place.y - 1) * self.size.width + place.x
            self.post_message(Moved(self, min(size - 1, size * cell // (self.size.width * self.rows))))


def describe(document: Document, field: Field) -> Iterator[tuple[str, str]]:
    """Give what is known of a field as labels and texts."""
    yield "path", field.path
    yield "type", field.type
    if field.is_leaf and field.type != "padding":
        yield "value", value_text(field, 2000)
    if field.rule:
        yield "rule", field.rule
    if field.docs:
        yield "note", field.docs
    yield "offset", f"{field.offset:,} (0x{field.offset:x})"
    yield "size", size_text(field.size)
    tensor = document.tensor_of(field)
    if tensor is not None:
        yield "tensor", tensor.path
        if tensor.name:
            yield "name", tensor.name
        shape = shape_text(tensor.shape)
        numpy = ", ".join(map(str, reversed(tensor.shape)))
        yield "shape", f"{shape} (ggml order), ({numpy}) in numpy" if tensor.shape else shape
        yield "elements", f"{tensor.n_elements:,} {tensor.type}"
    for finding in document.file.findings:
        if finding.path == field.path:
            yield "finding", finding.message
    damage = document.file.damage
    if damage is not None and document.marks.get(field.path, "").startswith("damage"):
        yield "damage", f"{damage.path}: expected {damage.expected}, found {damage.found}"
    yield "format", document.file.format.title
    if document.summary is not None and document.summary.era is not None:
        yield "era", document.summary.era.writer_text
    if not field.is_leaf:
        children = field.children()
        yield "fields", f"{len(children):,}"
        for index in range(min(len(children), MEMBERS)):
            child = children[index]
            yield "", f"{child.name:<18} {child.type:<8} {child.docs}"
        if len(children) > MEMBERS:
            yield "", f"… and {len(children) - MEMBERS:,} more"


class Schema(VerticalScroll, Pane, can_focus=True):
    """The Schema tab."""

    TITLE = "Schema"

    def compose(self) -> ComposeResult:
        yield Static()

    def show(self, field: Field | None) -> None:
        after = "These bytes belong to no field: they come after the damage."
        self.query_one(Static).update(after if field is None else _labels(describe(self.document, field)))
