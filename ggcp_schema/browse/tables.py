"""The tabs that measure all tensors of a file: the health of the parameters, and a statistic of each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType

from ggcp_schema.browse.lines import LineView, bar, fit, number
from ggcp_schema.browse.panes import JobPane, Moved
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import count_text, escape

if TYPE_CHECKING:
    from ggcp_schema.inspect.health import Examination, Health
    from ggcp_schema.inspect.stats import Stats
    from ggcp_schema.llama.state import Unsound

LEGEND = (
    "RMS of the weights; m and v: how far and how steadily they move; v = 0: never trained",
    "good: RMS 0.01 to 10, m/√v below 1, NaN and Inf 0",
)
ROOM = 16  # lines of the pane from which there is room for the legend
COLUMNS = {"RMS": 8, "m": 8, "v": 8, "m/√v": 8, "v = 0": 8, "NaN": 6, "Inf": 6}  # widths; no value is negative
NAME = 20  # columns for a path: enough to show the layer of an attention_norm


class Measured(LineView, JobPane):
    """A table of tensors that are measured once, when the tab is first opened. The cursor follows the selection."""

    complete = False
    tensor: Tensor | None = None

    def measure(self, report: Report) -> Any:
        """Measure all tensors, in a thread. `report` gets the same growing result each time."""
        raise NotImplementedError

    def tensor_at(self, index: int) -> Tensor | None:
        """Return the tensor of a line."""
        raise NotImplementedError

    def show(self, field: Field | None) -> None:
        self.tensor = self.document.tensor_of(field)
        if not (self.complete or self.working or self.error):
            self.start(self.measure)
        self.follow()

    def follow(self) -> None:
        """Put the cursor on the selected tensor."""
        current = self.tensor_at(self.cursor) if self.cursor < self.count() else None
        if self.tensor is not None and (current is None or current.path != self.tensor.path):
            for index in range(self.count()):
                tensor = self.tensor_at(index)
                if tensor is not None and tensor.path == self.tensor.path:
                    self.put(index, centre=True)
                    return

    def reported(self, result: Any, *, done: bool) -> None:
        super().reported(result, done=done)
        self.complete = done and not self.error
        if done:
            self.follow()
        self.relayout()

    def moved(self) -> None:
        tensor = self.tensor_at(self.cursor)
        if tensor is not None:
            self.post_message(Moved(self, tensor=tensor))

    def path_text(self, path: str, width: int) -> Segment:
        """Return a path cut at its start."""
        return self.text(fit(escape(path), width - 1, left=True) + " ")


class HealthView(Measured):
    """The Health tab: a verdict, each parameter with its moments, what is unsound, and the tokens never trained."""

    TITLE = "Health"
    found: Examination | None = None
    below: Sequence[Unsound | int | str] = ()

    def measure(self, report: Report) -> Examination:
        from ggcp_schema.inspect.health import examine

        return examine(self.document.file, report)

    @property
    def rows(self) -> Sequence[Health]:
        """The parameters measured so far."""
        return () if self.found is None else self.found.rows

    def reported(self, result: Any, *, done: bool) -> None:
        if not isinstance(result, Exception):
            self.below = [*self._below(result)]
        super().reported(result, done=done)

    def _below(self, found: Examination) -> Iterator[Unsound | int | str]:
        """Yield the lines below the table: unsound places and tokens, and the heads of both lists."""
        if found.unsound:
            yield from ("", f"{count_text(len(found.unsound), 'unsound place')} (Enter: go there)")
            yield from found.unsound
        if found.n_tokens:
            words = f"{len(found.dead):,} of {count_text(found.n_tokens, 'token')} never trained"
            yield from ("", f"{words} (v of the row is all zero)")
            yield from found.dead

    def count(self) -> int:
        return len(self.rows) + len(self.below)

    def tensor_at(self, index: int) -> Tensor | None:
        return self.rows[index].tensor if index < len(self.rows) else None

    def chosen(self) -> None:
        if self.found is None or self.cursor < len(self.rows):
            return
        item, path = self.below[self.cursor - len(self.rows)], self.found.moments.embeddings
        embeddings = next((row.tensor for row in self.rows if row.tensor.path == path), None)
        if isinstance(item, int) and embeddings is not None:
            row = embeddings.shape[0] * (embeddings.nbytes // embeddings.n_elements)
            self.post_message(Moved(self, embeddings.offset + item * row, embeddings))
        elif not isinstance(item, int | str):
            self.post_message(Moved(self, item.start))

    # Drawing -----------------------------------------------------------------------------------------------

    def _columns(self, width: int) -> dict[str, int]:
        """Return the columns that there is room for, with their widths."""
        columns = dict(COLUMNS)
        while len(columns) > 1 and sum(columns.values()) + NAME > width:
            columns.popitem()
        return columns

    @property
    def top(self) -> int:  # type: ignore[override]
        """The lines of the verdict, how the moments are known, the legend, and the head of the table."""
        return len(self._paragraphs()) + 1

    def _paragraphs(self) -> list[tuple[str, str]]:
        """Return the lines above the table with their inks; on a low screen only the verdict."""
        width, height = max(20, self.scrollable_content_region.width), self.scrollable_content_region.height
        found = self.found
        if self.error or found is None:
            texts = [(self.error or "reading …", "error" if self.error else "detail")]
        else:
            is_good = found.is_sound and found.damage is None
            words = f"{'✓' if is_good else '✗'} {found.text}"
            if self.working:
                words = f"{bar(len(found.rows) / (found.total or 1), 12)} reading …"
            texts = [(words, "value" if is_good else "error")]
            if height >= ROOM:
                texts += [(words, "detail") for words in (found.moments.evidence, *LEGEND)]
        return [(line, ink) for words, ink in texts for line in wrap(words, width)]

    def draw_top(self, index: int, width: int) -> list[Segment]:
        lines = self._paragraphs()
        if index < len(lines):
            return [self.text(*lines[index])]
        columns = self._columns(width)
        titles = "".join(f"{title:>{size}}" for title, size in columns.items())
        can_grow = width < self.screen.size.width // 2 and len(columns) < len(COLUMNS)
        name = "parameter (z: more)" if can_grow else "parameter"
        return [self.text(f"{name:<{width - sum(columns.values())}}{titles}" if self.count() else "", "head")]

    def draw(self, index: int, width: int) -> list[Segment]:
        if index >= len(self.rows):
            return self._draw_item(self.below[index - len(self.rows)])
        row, columns = self.rows[index], self._columns(width)
        cells = [number(value, 3) for value in (row.rms, row.m, row.v, row.ratio)]
        cells += ["–" if row.unused is None else f"{100 * row.unused:.3g} %", str(row.nan), str(row.inf)]
        segments = [self.path_text(row.tensor.path, width - sum(columns.values()))]
        for (title, size), cell in zip(columns.items(), cells):
            ink = "detail" if cell in ("0", "0 %", "–") else "error" if title in ("NaN", "Inf") else "value"
            ink = "warning" if title == "v = 0" and row.unused == 1 else ink
            segments.append(self.text(f"{cell:>{size}}", ink))
        return segments

    def _draw_item(self, item: Unsound | int | str) -> list[Segment]:
        if isinstance(item, str):
            return [self.text(item, "head")]
        if isinstance(item, int):
            texts = self.document.token_texts
            text = "" if texts is None else f"  {escape(repr(texts(item)))}"
            return [self.text(f"{item:>7}", "value"), self.text(text, "index")]
        return [self.text(f"{item.start:>11,}  ", "error"), self.text(escape(f"{item.path}: {item.message}"))]


STATISTICS: dict[str, Callable[[Stats], float | None]] = {
    "RMS": lambda stats: stats.rms,
    "mean": lambda stats: stats.mean,
    "std": lambda stats: stats.std,
    "largest": lambda stats: None if stats.min is None or stats.max is None else max(-stats.min, stats.max),
    "zero": lambda stats: stats.zeros / stats.count if stats.count else None,
}


class Bars:
    """The statistics of tensors by path, and the largest absolute value of each statistic in each group of tensors."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, float | None]] = {}
        self.largest: dict[tuple[str, str], float] = {}

    def add(self, group: str, path: str, stats: Stats | None) -> None:
        """Add a tensor; `stats` is None if it cannot be measured."""
        values = {name: None if stats is None else find(stats) for name, find in STATISTICS.items()}
        for name, value in values.items():
            if value is not None:
                self.largest[group, name] = max(self.largest.get((group, name), 0.0), abs(value))
        self.values[path] = values


def measure_all(groups: dict[str, list[Tensor]], report: Report) -> Bars:
    """Read the tensors and return their statistics. `report` gets the same growing result each time."""
    from ggcp_schema.inspect.stats import measure

    found = Bars()
    for group, tensors in groups.items():
        for tensor in tensors:
            found.add(group, tensor.path, next(measure([tensor], lambda nbytes: report(None))))
            report(found)
    return found


class Layers(Measured):
    """The Layers tab: one statistic of the tensors that every layer has, as bars."""

    TITLE = "Layers"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "statistic", "Next statistic")]
    top = 1
    found: Bars | None = None
    statistic = "RMS"
    lines: Sequence[tuple[str, Tensor | None]] = ()
    widest = 0

    def show(self, field: Field | None) -> None:
        if not self.lines:
            groups = self.document.groups.items()
            self.lines = [(group, each) for group, tensors in groups for each in (None, *tensors)]
            self.widest = max((len(tensor.path) for _, tensor in self.lines if tensor), default=0)
            self.relayout()
        super().show(field)

    def measure(self, report: Report) -> Bars:
        return measure_all(self.document.groups, report)

    def count(self) -> int:
        return len(self.lines)

    def tensor_at(self, index: int) -> Tensor | None:
        return self.lines[index][1]

    def action_statistic(self) -> None:
        names = [*STATISTICS]
        self.statistic = names[(names.index(self.statistic) + 1) % len(names)]
        self.refresh()

    # Drawing -----------------------------------------------------------------------------------------------

    def draw_top(self, index: int, width: int) -> list[Segment]:
        if self.error:
            return [self.text(self.error, "error")]
        if not self.lines:
            return [self.text("No tensors repeat from layer to layer.", "detail")]
        marked = (f"[{name}]" if name == self.statistic else f" {name} " for name in STATISTICS)
        names = [self.text(name, "accent" if name[0] == "[" else "detail") for name in marked]
        count = len(self.found.values) if self.found else 0
        progress = "" if self.complete else f"  {count:,} of {len(self.lines) - len(self.document.groups):,} tensors"
        return [*names, self.text(f" s: next{progress}", "detail")]

    def draw(self, index: int, width: int) -> list[Segment]:
        group, tensor = self.lines[index]
        found = self.found or Bars()
        most = found.largest.get((group, self.statistic))
        if tensor is None:
            up_to = "" if most is None else f"  up to {number(most)}"
            return [self.text(escape(group), "holder"), self.text(up_to, "detail")]
        label = min(self.widest + 1, width // 2)
        value = found.values.get(tensor.path, {}).get(self.statistic)
        share = 0.0 if value is None else abs(value) / (most or 1.0)
        bars = self.text(bar(share, max(4, width - label - 12)), "bar")
        return [self.text("  "), self.path_text(tensor.path, label), bars, self.text(f"{number(value):>10}", "value")]
