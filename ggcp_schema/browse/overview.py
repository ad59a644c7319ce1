"""The Overview tab: what `info` says, the stored losses, what the bytes are used for, and damage."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Sparkline, Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import Hanging
from ggcp_schema.browse.panes import Jump, Pane
from ggcp_schema.browse.text import bar, number
from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.summary import Line, summary_lines
from ggcp_schema.inspect.text import escape
from ggcp_schema.inspect.usage import USES, Usage

ROOM = 16  # lines of the pane from which what to do next stands at its top
SIGNS = dict(zip(USES, "█▓▒▚░·≡╳"))


class Overview(VerticalScroll, Pane, can_focus=True):
    """The Overview tab."""

    TITLE = "Overview"

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self._shown = False

    def compose(self) -> ComposeResult:
        yield Static(id="damage")
        yield Static(id="next")
        yield LossChart()
        yield FileMap(self.document.file.size)
        yield Static("reading …", id="facts")

    def on_mount(self) -> None:
        self.query_one("#damage", Static).display = False
        self.query_one(LossChart).display = False
        self.query_one(FileMap).display = False

    def show(self, field: Field | None) -> None:
        if not self._shown and self.document.summary is not None:
            self._shown = True
            self._show_facts(self.document.summary)
        if field is not None:
            self.query_one(FileMap).place(field.offset)

    def fail(self, error: Exception) -> None:
        """Show why the file cannot be summarized."""
        self.query_one("#facts", Static).update(escape(str(error), keep_newlines=True))

    def _show_facts(self, summary: Summary) -> None:
        lines = [line for line in summary_lines(summary) if line[0] != "file"]  # the name is at the top of the screen
        lines = [line for line in lines if not line[1].startswith("ggcp-schema browse ")]
        if summary.condition is not None:
            damage = ("damage", "whole", "cut", "lost")
            box = self.query_one("#damage", Static)
            box.display = True
            shown = [line for line in lines if line[0] in damage or line[1].startswith("ggcp-schema ")]
            box.update(_labelled(shown))
            lines = [line for line in lines if line not in shown]
        is_high = self.size.height >= ROOM
        first = [line for line in lines if line[1].startswith("ggcp-schema ") and is_high]
        self.query_one("#next", Static).display = bool(first)
        self.query_one("#next", Static).update(_labelled(first))
        self.query_one("#facts", Static).update(_labelled([line for line in lines if line not in first]))
        losses = summary.losses
        chart, file_map = self.query_one(LossChart), self.query_one(FileMap)
        chart.display = losses is not None
        if losses is not None:
            past = [loss / (losses.divisor or 1) for loss in losses.past]
            chart.set_losses(past, summary.loss, losses.untrained, rough=losses.is_rough)
        file_map.display = True
        file_map.set_usage(self.document.usage)


def _labelled(lines: list[Line]) -> Hanging:
    text = Text("\n").join(Text.assemble((f"{label:<12} ", "bold"), escape(words)) for label, words in lines)
    return Hanging(text, 13)


class LossChart(Vertical):
    """The last loss beside that of an untrained model, ln(n_vocab), and the losses before it."""

    def compose(self) -> ComposeResult:
        yield Static(id="loss")
        yield Sparkline(summary_function=max)
        yield Static(id="losses")

    def set_losses(self, losses: list[float], latest: float | None, untrained: float | None, *, rough: bool) -> None:
        """Show these losses, the oldest first, and the latest beside that of an untrained model."""
        losses = [loss for loss in losses if math.isfinite(loss)]
        text = Text.assemble(("Loss  ", "bold"), (number(latest), "bold"))
        if latest is not None and untrained:
            text.append(f"  ▕{bar(latest / untrained, 10)}▏ {number(untrained)} = ln(n_vocab), untrained")
        if rough:
            text.append("\napproximate: from a few tokens")
        self.query_one("#loss", Static).update(text)
        chart, words = self.query_one(Sparkline), self.query_one("#losses", Static)
        chart.data, chart.display, words.display = losses, len(losses) > 1, len(losses) > 1
        if losses:
            words.update(f"the last {len(losses)} losses, {number(min(losses))} to {number(max(losses))}")


class FileMap(Widget):
    """The file to scale: a cell stands for an equal part of its bytes, drawn as what takes most of them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"map--{use.replace(' ', '-')}" for use in USES} | {
        "map--label",
        "map--title",
        "map--here",
    }

    def __init__(self, size: int) -> None:
        super().__init__()
        self.file_size, self.here = size, 0
        self.usage: Usage | None = None
        self._cells: list[str] = []

    @property
    def rows(self) -> int:
        """The lines of the map."""
        return 1 if self.app.size.height < 30 else 3

    def set_usage(self, usage: Usage | None) -> None:
        """Show what the bytes are used for."""
        self.usage = usage
        self._cells = []
        self.styles.height = self.rows + 1 + len(self._legend())
        self.refresh(layout=True)

    def place(self, offset: int) -> None:
        """Mark the cell of a byte."""
        self.here = offset
        self.refresh()

    def on_resize(self) -> None:
        self.set_usage(self.usage)

    def _legend(self) -> list[list[tuple[str, str]]]:
        """Return the uses with their sizes, in as many lines as they need."""
        sizes = {} if self.usage is None else self.usage.sizes
        lines: list[list[tuple[str, str]]] = []
        left = 0
        for use, size in sizes.items():
            if not size:
                continue
            share = 100 * size / max(1, self.file_size)
            words = f"{use} {short_size(size)} {share:.0f} %" if share >= 0.5 else f"{use} {short_size(size)}"
            if len(words) + 4 > left:
                lines.append([])
                left = self.size.width
            lines[-1].append((use, words))
            left -= len(words) + 4
        return lines

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        label = self.get_component_rich_style("map--label")
        if y == 0:
            title = [
                Segment("Bytes", self.get_component_rich_style("map--title")),
                Segment("  click a cell to go there", label),
            ]
            return Strip(title).adjust_cell_length(width, base)
        if 1 <= y <= self.rows and self.usage is not None:
            total = width * self.rows
            if len(self._cells) != total:
                self._cells = self.usage.pooled(total)
            here = self.here * total // max(1, self.file_size)
            start = (y - 1) * width
            segments = []
            for index in range(start, start + width):
                style = self._style(self._cells[index])
                if index == here:
                    segments.append(Segment("◆", style + self.get_component_rich_style("map--here")))
                else:
                    segments.append(Segment(SIGNS[self._cells[index]], style))
            return Strip(segments).simplify()
        index, legend = y - self.rows - 1, self._legend()
        if not 0 <= index < len(legend):
            return Strip.blank(width, base)
        segments = []
        for use, words in legend[index]:
            segments += [Segment(SIGNS[use], self._style(use)), Segment(f" {words}  ", label)]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, use: str) -> Style:
        return self.get_component_rich_style(f"map--{use.replace(' ', '-')}")

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if place is None or not 1 <= place.y <= self.rows:
            return
        cell = (place.y - 1) * self.size.width + place.x
        self.post_message(Jump(offset=min(self.file_size - 1, self.file_size * cell // (self.size.width * self.rows))))
