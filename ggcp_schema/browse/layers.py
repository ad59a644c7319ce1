"""The Layers tab: one statistic of the tensors that every layer has, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from rich.segment import Segment
from textual.binding import Binding, BindingType

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.panes import JobPane, Jump
from ggcp_schema.browse.text import bar, fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import escape

STATISTICS = ("RMS", "mean", "std", "largest", "zero")


class Measured(NamedTuple):
    """The statistics of a tensor, by their names; None where it has no finite value."""

    rms: float | None
    mean: float | None
    std: float | None
    largest: float | None
    zero: float | None


def measure_all(tensors: Sequence[Tensor], report: Report) -> dict[str, Measured]:
    """Read the tensors and return their statistics by path. `report` gets the same growing result each time."""
    from ggcp_schema.inspect.stats import measure

    found: dict[str, Measured] = {}
    for tensor in tensors:
        stats = next(iter(measure([tensor], lambda nbytes: report(None))))
        if stats is not None:
            largest = None if stats.min is None or stats.max is None else max(-stats.min, stats.max)
            zero = stats.zeros / stats.count if stats.count else None
            found[tensor.path] = Measured(stats.rms, stats.mean, stats.std, largest, zero)
        report(found)
    return found


class Line(NamedTuple):
    """A line of the pane: a group's head (`tensor` is None), or one of its tensors."""

    pattern: str
    tensor: Tensor | None


class Layers(LineView, JobPane):
    """The Layers tab."""

    TITLE = "Layers"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "statistic", "Next statistic")]
    top = 1

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document
        self.statistic = STATISTICS[0]
        self.lines: list[Line] = []
        self.scales: dict[str, float] = {}
        self.found: dict[str, Measured] = {}
        self.widest = 0
        self._complete = False
        self._total, self._scaled = 0, 0
        self._at: dict[str, int] = {}

    def show(self, field: Field | None) -> None:
        if not self.lines:
            for pattern, tensors in self.document.groups().items():
                self.lines.append(Line(pattern, None))
                self.lines += [Line(pattern, tensor) for tensor in tensors]
            self._total = sum(1 for line in self.lines if line.tensor)
            self._at = {line.tensor.path: index for index, line in enumerate(self.lines) if line.tensor}
            self.widest = max((len(line.tensor.path) for line in self.lines if line.tensor), default=0)
            self.relayout()
        if not self._complete and not self.working and not self.error:
            self.start(lambda report: measure_all([line.tensor for line in self.lines if line.tensor], report))
        tensor = self.document.tensor_of(field)
        current = self.lines[self.cursor].tensor if self.lines else None
        if tensor is not None and tensor.path in self._at and (current is None or current.path != tensor.path):
            self.put(self._at[tensor.path], centre=True)

    def forget(self) -> None:
        self.found, self._scaled = {}, 0

    def reported(self, result: Any, *, done: bool) -> None:
        super().reported(result, done=done)
        self._complete = done and not self.error
        self._scale_more()

    def _rescale(self) -> None:
        """Find the largest value of each group."""
        self.scales, self._scaled = {}, 0
        self._scale_more()

    def _scale_more(self) -> None:
        """Take the tensors into account that were measured since."""
        lines = [self.lines[self._at[path]] for path in islice(self.found, self._scaled, len(self.found))]
        self._scaled += len(lines)
        for line in lines:
            value = self._value(line.tensor)
            if value is not None:
                self.scales[line.pattern] = max(self.scales.get(line.pattern, 0.0), abs(value))

    def _value(self, tensor: Tensor | None) -> float | None:
        if tensor is None or tensor.path not in self.found:
            return None
        return self.found[tensor.path][STATISTICS.index(self.statistic)]

    def action_statistic(self) -> None:
        self.statistic = STATISTICS[(STATISTICS.index(self.statistic) + 1) % len(STATISTICS)]
        self._rescale()
        self.refresh()

    def count(self) -> int:
        return len(self.lines)

    def moved(self) -> None:
        tensor = self.lines[self.cursor].tensor
        if tensor is not None:
            self.post_message(Jump(tensor=tensor))

    # Drawing -----------------------------------------------------------------------------------------------

    def draw_top(self, index: int, width: int) -> list[Segment]:
        if self.error:
            return [self.text(self.error, "error")]
        if not self.lines:
            return [self.text("No tensors repeat from layer to layer.", "detail")]
        marked = [
            self.text(f"[{name}]", "accent") if name == self.statistic else self.text(f" {name} ", "detail")
            for name in STATISTICS
        ]
        progress = "" if self._complete else f"  {len(self.found):,} of {self._total:,} tensors"
        return [*marked, self.text(f" s: next{progress}", "detail")]

    def draw(self, index: int, width: int) -> list[Segment]:
        line = self.lines[index]
        if line.tensor is None:
            most = self.scales.get(line.pattern)
            words = "" if most is None else f"  up to {number(most)}"
            return [self.text(escape(line.pattern), "holder"), self.text(words, "detail")]
        label = min(self.widest + 3, width // 2)
        name = fit(escape(line.tensor.path), label - 2, left=True)
        value = self._value(line.tensor)
        text = number(value, 4)
        room = max(4, width - label - 12)
        share = 0.0 if value is None else abs(value) / (self.scales[line.pattern] or 1.0)
        return [
            self.text(f"  {name} ", "name"),
            self.text(bar(share, room), "bar"),
            self.text(f"{text:>10}", "value"),
        ]
