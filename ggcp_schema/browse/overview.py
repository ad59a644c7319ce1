"""The Overview tab: what `info` says, the stored losses, what the bytes are used for, and damage."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import Hanging
from ggcp_schema.browse.panes import Jump, Pane
from ggcp_schema.browse.text import bar, column, number, short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.summary import Line, summary_lines
from ggcp_schema.inspect.text import escape
from ggcp_schema.inspect.usage import USES, Usage

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
        self.query_one("#facts", Static).update(_labelled(lines))
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


class LossChart(Widget):
    """The stored losses as columns, and how far the last one is from that of an untrained model, ln(n_vocab)."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"loss--bar", "loss--baseline", "loss--label"}
    HEIGHT = 4

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.latest = 0.0
        self.baseline: float | None = None
        self.rough = False

    def set_losses(self, losses: list[float], latest: float | None, baseline: float | None, *, rough: bool) -> None:
        """Show these losses, the oldest first, and the latest beside that of an untrained model."""
        self.losses = [loss for loss in losses if math.isfinite(loss)]
        self.latest, self.baseline, self.rough = latest or 0.0, baseline, rough
        self.styles.height = 2 + (self.HEIGHT + 1 if self.losses else 0)
        self.refresh(layout=True)

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        label, bars = (self.get_component_rich_style(f"loss--{name}") for name in ("label", "bar"))
        untrained = self.get_component_rich_style("loss--baseline")
        baseline = self.baseline
        if y == 0:
            rough = Segment("  rough: of some tokens only" if self.rough else "", untrained)
            return Strip([Segment("Loss", label), rough]).adjust_cell_length(width, base)
        if y == 1:
            segments = [Segment(f"{number(self.latest):<8} ", label)]
            if baseline:
                words = f"{number(baseline)} = ln(n_vocab), untrained"
                if width < len(words) + 18:
                    words = f"{number(baseline)} untrained"
                length = max(6, min(40, width - 12 - len(words)))
                share = self.latest / baseline
                segments += [
                    Segment("▕", untrained),
                    Segment(bar(share, length), bars),
                    Segment(f"▏ {words}", untrained),
                ]
            return Strip(segments).adjust_cell_length(width, base)
        if y == 2:
            return Strip.blank(width, base)
        return Strip(self._columns(y - 3, bars, untrained)).adjust_cell_length(width, base)

    def _columns(self, line: int, bars: Style, untrained: Style) -> list[Segment]:
        losses = self.losses[-max(1, self.size.width - 32) :]
        wide = max(1, min(4, (self.size.width - 32) // len(losses)))
        least, most = min(losses), max(losses)
        scale = (most - least) * 1.25 or 1.0
        columns = [column(0.2 + (loss - least) / scale, self.HEIGHT) for loss in losses]
        label = {0: number(most), self.HEIGHT - 1: number(least)}.get(line, "")
        segments = [Segment(f"{label:<9}", untrained)]
        segments += [Segment(cells[line] * wide, bars) for cells in columns]
        if line == self.HEIGHT - 1:
            words = "the last loss" if len(losses) == 1 else f"the last {len(losses)} losses"
            segments.append(Segment(f" {words}", untrained))
        return segments


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
                Segment("  click to go there", label),
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
