"""The Histogram tab: how the values of a tensor are distributed, computed in the background."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.strip import Strip

from ggcp_schema.browse.document import Document, Report
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.panes import Pane
from ggcp_schema.browse.text import bar, column, fit, number, short_size
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ggcp_schema.inspect.stats import Stats

BINS = 960  # divisible by most widths, so that few columns show a part of a bin


@dataclass(frozen=True)
class Distribution:
    """What is known so far: the share of the bytes read, the statistics, and the counts of `BINS` equal bins."""

    tensor: Tensor
    done: float = 0.0
    stats: Stats | None = None
    counts: tuple[int, ...] = field(default=(), repr=False)


def distribution(tensor: Tensor, report: Report) -> Distribution:
    """Read a tensor twice, for its statistics and for its histogram from its smallest to its largest value.

    `report` gets what is known after each piece. Raises `FileError` if the file becomes too short.
    """
    import numpy as np

    from ggcp_schema.inspect.stats import measure

    found, read = Distribution(tensor), 0

    def progress(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        report(replace(found, done=read / (2 * tensor.nbytes)))

    found = replace(found, done=0.5, stats=next(iter(measure([tensor], progress))))
    report(found)
    stats = found.stats
    if stats is None or stats.min is None or stats.max is None or stats.min == stats.max:
        return replace(found, done=1.0)
    counts, seen = np.zeros(BINS, np.int64), 0
    for piece in tensor.values(0, tensor.n_elements):
        counts += _count(piece, stats.min, stats.max)
        seen += len(piece)
        report(replace(found, done=0.5 + seen / (2 * tensor.n_elements), counts=tuple(counts.tolist())))
    return replace(found, done=1.0, counts=tuple(counts.tolist()))


def _count(values: npt.NDArray[np.float32], least: float, most: float) -> npt.NDArray[np.int64]:
    import numpy as np

    finite = values[np.isfinite(values)].astype(np.float64)
    bins = ((finite - least) * (BINS / (most - least))).astype(np.int64)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)


def rebin(counts: tuple[int, ...], columns: int) -> list[float]:
    """Return the counts for so many equal columns; a bin that lies in two columns is divided between them."""
    sums = [0.0]
    for count in counts:
        sums.append(sums[-1] + count)

    def until(position: float) -> float:
        whole = min(int(position), len(counts) - 1)
        return sums[whole] + (position - whole) * counts[whole]

    edges = [until(len(counts) * index / columns) for index in range(columns + 1)]
    return [high - low for low, high in pairwise(edges)]


class Histogram(Working, Pane, can_focus=True):
    """The Histogram tab."""

    TITLE = "Histogram"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("o", "logarithmic", "Logarithmic scale")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"plot--bar", "plot--label", "plot--value", "plot--axis", "plot--warning"}
    DELAY = 0.08  # seconds without a further move of the selection

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.logarithmic = False
        self.found: Distribution | None = None
        self.error = ""

    def show(self, field: Field | None) -> None:
        tensor = self.document.tensor_of(field)
        if tensor is None or not tensor.n_elements:
            self.stop()
            self.found, self.error = None, ""
        elif self.found is None or self.found.tensor != tensor:
            self.found, self.error = Distribution(tensor), ""
            self.start(lambda report: distribution(tensor, report), delay=self.DELAY)
        self.refresh()

    def hide(self) -> None:
        if self.working:
            self.stop()
            self.found = None

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Exception):
            self.error = getattr(result, "message", str(result))
        else:
            self.found = result
        self.refresh()

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
            if y == 0:
                yield self._part(self.error or "Select a tensor to see how its values are distributed.", "label")
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

    def _plot(self, counts: tuple[int, ...], row: int, height: int, columns: int, gutter: int) -> Iterator[Segment]:
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
