"""The Histogram tab: how the values of a tensor are distributed, computed in the background."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.strip import Strip

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.panes import JobPane, cannot_show
from ggcp_schema.browse.text import bar, column, fit, number
from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report

if TYPE_CHECKING:
    from ggcp_schema.inspect.histogram import Distribution


def measured(tensor: Tensor, report: Report) -> Distribution:
    """Return the distribution of a tensor's values. numpy is imported in the job's thread."""
    from ggcp_schema.inspect.histogram import distribution

    return distribution(tensor, report)


class Histogram(JobPane, can_focus=True):
    """The Histogram tab."""

    TITLE = "Histogram"
    found: Distribution | None = None
    BINDINGS: ClassVar[list[BindingType]] = [Binding("o", "logarithmic", "Logarithmic scale")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"plot--bar", "plot--label", "plot--value", "plot--axis", "plot--warning"}
    DELAY = 0.08  # seconds without a further move of the selection

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.logarithmic = False
        self.tensor: Tensor | None = None

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        if tensor == self.tensor and (tensor is not None or self.error):
            return
        self.stop()
        self.tensor, self.found = tensor, None
        self.error = cannot_show(tensor, "how its values are distributed")
        if tensor is not None and not self.error:
            self.start(lambda report: measured(tensor, report), delay=self.DELAY)
        self.refresh()

    def forget(self) -> None:
        self.tensor = None

    def action_logarithmic(self) -> None:
        self.logarithmic = not self.logarithmic
        self.refresh()

    # Drawing -----------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        return Strip(list(self._line(y, width))).adjust_cell_length(width, base)

    def _part(self, text: str, kind: str) -> Segment:
        return Segment(text, self.get_component_rich_style(f"plot--{kind}"))

    def _line(self, y: int, width: int) -> Iterator[Segment]:
        found = self.found
        if found is None or self.error:
            yield self._part(self.message(y, width), "label")
            return
        head = self._head(width)
        if y < len(head):
            yield from head[y]
            return
        height = self.size.height - len(head) - 2
        row = y - len(head)
        stats = found.stats
        if stats is None or stats.min is None or stats.max is None or height < 1 or not found.counts:
            return
        gutter = 9
        columns = max(1, width - gutter - 1)
        if row < height:
            yield from self._plot(found.counts, row, height, columns, gutter)
        elif row == height:
            yield self._part(" " * gutter + "└" + "─" * columns, "axis")
        elif row == height + 1:
            yield self._part(" " * gutter + " " + _ticks(stats.min, stats.max, columns), "label")

    def _head(self, width: int) -> list[list[Segment]]:
        assert self.found is not None  # noqa: S101 - drawn when there is a tensor
        found, stats = self.found, self.found.stats
        title = f"{found.tensor.path}  {found.tensor.n_elements:,} values"
        if found.done < 1:
            total = short_size(found.tensor.nbytes)
            title = f"{bar(found.done, 12)} {100 * found.done:.0f} % of {total}  {title}"
        lines = [[self._part(fit(title, width), "value")]]
        if stats is None:
            return lines
        parts = [
            ("mean", number(stats.mean)),
            ("std", number(stats.std)),
            ("RMS", number(stats.rms)),
            ("min", number(stats.min)),
            ("max", number(stats.max)),
            ("zero", _share(stats.zeros, stats.count)),
            ("NaN", f"{stats.nan:,}"),
            ("Inf", f"{stats.inf:,}"),
        ]
        line: list[Segment] = []
        used = 0
        for name, text in parts:
            cell = f"{name} {text}"
            if used and used + len(cell) + 3 > width:
                lines.append(line)
                line, used = [], 0
            if used:
                line.append(self._part("   ", "label"))
            warn = name in ("NaN", "Inf") and text != "0"
            line += [self._part(f"{name} ", "label"), self._part(text, "warning" if warn else "value")]
            used += len(cell) + 3
        lines.append(line)
        scale = "counts, logarithmic" if self.logarithmic else "counts"
        lines.append([self._part(f"{scale} (o: {'linear' if self.logarithmic else 'logarithmic'})", "label")])
        return lines

    def _plot(self, counts: tuple[float, ...], row: int, height: int, columns: int, gutter: int) -> Iterator[Segment]:
        from ggcp_schema.inspect.histogram import rebin

        values = rebin(counts, columns)
        most = max(values) or 1.0
        label = f"{most:,.0f}" if row == 0 else ""
        if row == height - 1:
            label = "1" if self.logarithmic else "0"
        elif row == height // 2 and height > 4:
            middle = math.exp(math.log(most) / 2) if self.logarithmic and most > 1 else most / 2
            label = f"{middle:,.0f}"
        yield self._part(f"{label:>{gutter}}", "label")
        yield self._part("┤" if label else "│", "axis")
        if self.logarithmic:
            shares = [math.log1p(value) / math.log1p(most) for value in values]
        else:
            shares = [value / most for value in values]
        yield self._part("".join(column(share, height)[row] for share in shares), "bar")


def _share(part: int, whole: int) -> str:
    return "0" if not part else f"{100 * part / whole:.3g} %"


def _ticks(least: float, most: float, width: int) -> str:
    """Return the labels below the axis: both ends, the middle, and 0 if it lies between without touching them."""
    cells = [" "] * width

    def put(position: float, text: str) -> None:
        start = min(max(0, round(position * (width - 1)) - len(text) // 2), max(0, width - len(text)))
        if all(cell == " " for cell in cells[max(0, start - 1) : start + len(text) + 1]):
            cells[start : start + len(text)] = text

    put(0, number(least))
    put(1, number(most))
    if least < 0 < most:
        put(-least / (most - least), "0")
    put(0.5, number((least + most) / 2))
    return "".join(cells)[:width]
