"""The tabs with tables: the health of the parameters, a statistic of each layer, the changes between two files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich.console import RenderableType
from rich.segment import Segment
from rich.text import Text
from textual.binding import Binding, BindingType

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import LineView, bar, fit, ink
from ggcp_schema.browse.panes import Moved, Pane, TopBar
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.constructs.tree import Field
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import count_text, escape, percent, short_number
from ggcp_schema.inspect.words import PART, UNTRAINED, VERDICTS
from ggcp_schema.llama.state import Unsound

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff_places import Difference, Differences
    from ggcp_schema.inspect.health import Examination, Health

LEGEND = (
    "RMS of the weights; m, v: how far and steadily they move\n"
    f"v = 0: {UNTRAINED}\n"
    "good: RMS 0.01 to 10, m/√v below 1, NaN and Inf 0"
)
ROOM = 16  # lines of the pane from which there is room for the legend
COLUMNS = {"RMS": 8, "m": 8, "v": 8, "m/√v": 8, "v = 0": 8, "NaN": 6, "Inf": 6}  # widths; no value is negative
STATISTICS = {"RMS": "rms", "largest": "largest", "m": "m", "v": "v", "m/√v": "ratio", "v = 0": "unused"}
NAME = 20  # columns for a path: enough to show the layer of an attention_norm


class Rows(LineView):
    """The rows of a table."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def draw(self, index: int, width: int) -> list[Segment]:
        return self.table.draw(self.table.rows[index], width)

    def moved(self) -> None:
        self.table.moved(self.table.rows[self.cursor])

    def chosen(self) -> None:
        self.table.chosen(self.table.rows[self.cursor])


class Table(Pane):
    """A tab with rows of what is measured once, when it is first opened.

    The cursor follows the selected tensor if a row has it as its `tensor`, and the selection follows the cursor.
    """

    VIEW = Rows
    target: Rows
    rows: Sequence[Any] = ()

    def subject_of(self, field: Field | None) -> Document:
        return self.document

    def begin(self) -> None:
        self.job.start(self.measure)

    def measure(self, report: Report) -> Any:
        """Measure what the rows are about, in a thread. `report` gets the same growing result each time."""
        return self.document.examine(report)

    def draw(self, row: Any, width: int) -> list[Segment]:
        """Return a row as it is drawn."""
        raise NotImplementedError

    def moved(self, row: Any) -> None:
        """React after the user has moved the cursor to a row."""
        tensor = getattr(row, "tensor", None)
        if tensor is not None:
            self.post_message(Moved(self, self.document, field=self.document.field_of(tensor)))

    def chosen(self, row: Any) -> None:
        """Act on a row, on Enter or a click."""

    def show(self, field: Field | None) -> None:
        super().show(field)
        self.follow()

    def update(self) -> None:
        super().update()
        self.target.put_items(len(self.rows))
        self.follow()

    def follow(self) -> None:
        """Put the cursor on the selected tensor."""
        selected = self.document.tensor_of(self.field)
        path = selected.path if selected else ""
        tensors = (getattr(row, "tensor", None) for row in self.rows if path)
        place = next((at for at, tensor in enumerate(tensors) if tensor and tensor.path == path), None)
        if place is not None:
            self.target.put(place, centre=True)


class HealthView(Table):
    """The Health tab: a verdict, each parameter with its moments, what is unsound, and the tokens not trained."""

    TITLE = "Health"
    found: Examination | None = None

    def update(self) -> None:
        self.rows = () if self.found is None else [*self.found.rows, *self._below(self.found)]
        super().update()
        self.screen.query_one(TopBar).refresh()  # which tells if the file is unsound

    def _below(self, found: Examination) -> Iterator[Unsound | int | str]:
        """Yield the lines below the table: unsound places and tokens, and the heads of both lists."""
        if found.unsound:
            yield from ("", f"{count_text(len(found.unsound), 'unsound place')} (Enter: go there)")
            yield from found.unsound
        if found.n_tokens:
            yield from ("", f"{found.untrained} (v of the row is all zero)")
            yield from found.dead

    def chosen(self, row: Health | Unsound | int | str) -> None:
        if isinstance(row, int | Unsound) and self.found is not None:
            offset = row.start if isinstance(row, Unsound) else self.found.row_of(row)
            self.post_message(Moved(self, self.document, offset=offset))

    def text(self, found: Examination) -> Text:
        """Return the verdict, how the moments are known, the legend, and the head; on a low screen less of it."""
        width = self.target.scrollable_content_region.width
        is_good = found.is_sound and found.damage is None
        mark = "✗ " if not is_good else "✓ " if found.verdict == "healthy" else ""
        words = f"{mark}{found.text}"
        if self.job.working:
            words = f"{bar(len(found.rows) / (found.total or 1), 12)} reading …"
        text = Text(f"{words}\n", ink(self, "value" if is_good else "error"))
        if self.size.height >= ROOM:
            text.append(f"{found.moments.evidence}\n{LEGEND}\n", ink(self, "detail"))
        columns = self._columns(width)
        titles = "".join(f"{title:>{size}}" for title, size in columns.items())
        can_grow = width < self.screen.size.width // 2 and len(columns) < len(COLUMNS)
        name = "parameter (z: more)" if can_grow else "parameter"
        return text.append(f"{name.ljust(width - sum(columns.values()))}{titles}" * bool(self.rows), ink(self, "head"))

    def _columns(self, width: int) -> dict[str, int]:
        """Return the columns that there is room for, with their widths."""
        columns = dict(COLUMNS)
        while len(columns) > 1 and sum(columns.values()) + NAME > width:
            columns.popitem()
        return columns

    def draw(self, row: Health | Unsound | int | str, width: int) -> list[Segment]:
        text, texts = self.target.text, self.document.token_texts
        if isinstance(row, str):
            return [text(row, "head")]
        if isinstance(row, int):
            return [text(f"{row:>7}", "value"), text("" if texts is None else f"  {escape(repr(texts(row)))}", "index")]
        if isinstance(row, Unsound):
            return [text(f"{row.start:>11,}  ", "error"), text(escape(f"{row.path}: {row.message}"))]
        columns = self._columns(width)
        cells = [short_number(value, 3) for value in (row.rms, row.m, row.v, row.ratio)]
        cells += [percent(row.unused), str(row.nan), str(row.inf)]
        name = fit(escape(row.tensor.path), width - sum(columns.values()) - 1, middle=True)
        segments = [text(f"{name} ")]
        for (title, size), cell in zip(columns.items(), cells):
            kind = "detail" if cell in ("0", "0 %", "-") else "error" if title in ("NaN", "Inf") else "value"
            segments.append(text(f"{cell:>{size}}", "warning" if title == "v = 0" and row.unused == 1 else kind))
        return segments


class Layer(NamedTuple):
    """A tensor that every layer has, or the head of the group of these tensors."""

    group: str
    tensor: Tensor | None


class Layers(Table):
    """The Layers tab: one statistic of the tensors that every layer has, as bars."""

    TITLE = "Layers"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "statistic", "Statistic", tooltip="the next one")]
    found: Examination | None = None
    rows: Sequence[Layer] = ()
    statistic = "RMS"

    def begin(self) -> None:
        groups = self.document.groups.items()
        self.rows = [Layer(group, each) for group, tensors in groups for each in (None, *tensors)]
        self.widest = max((len(tensor.path) for _, tensor in self.rows if tensor), default=0)
        super().begin()

    def action_statistic(self) -> None:
        names = [*STATISTICS]
        self.statistic = names[(names.index(self.statistic) + 1) % len(names)]
        self.update()

    def update(self) -> None:
        """Find the values of the statistic, and the largest of each group."""
        rows = self.found.rows if self.found else ()
        self.values = {row.tensor.path: getattr(row, STATISTICS[self.statistic]) for row in rows}
        self.largest: dict[str, float] = {}
        for group, tensor in self.rows:
            value = self.values.get(tensor.path) if tensor else None
            if value is not None:
                self.largest[group] = max(self.largest.get(group, 0.0), value)
        super().update()

    def text(self, found: Examination) -> RenderableType:
        if not self.rows:
            return "No tensors repeat from layer to layer."
        text = Text()
        for name in STATISTICS:
            chosen = name == self.statistic
            text.append(f"[{name}]" if chosen else f" {name} ", ink(self, "accent" if chosen else "detail"))
        progress = f" {len(found.rows):,} tensors" if self.job.working else ""
        return text.append(progress, ink(self, "detail"))

    def draw(self, row: Layer, width: int) -> list[Segment]:
        (group, tensor), text = row, self.target.text
        most = self.largest.get(group)
        if tensor is None:
            up_to = "" if most is None else f"  up to {short_number(most)}"
            return [text(escape(group), "holder"), text(up_to, "detail")]
        label = min(self.widest, width // 2)
        value = self.values.get(tensor.path)
        bars = text(bar((value or 0.0) / (most or 1.0), max(4, width - label - 13)), "bar")
        name = fit(escape(tensor.path), label, middle=True)
        return [text(f"  {name} "), bars, text(f"{short_number(value):>10}", "value")]


class Changes(Table):
    """The Changes tab: the fields first."""

    TITLE = "Changes"
    found: Differences | None = None
    marked = 0  # rows, in the trees too

    def measure(self, report: Report) -> Differences:
        from ggcp_schema.inspect.diff_places import differences

        a, b = self.documents

        def mark_and_report(found: Differences | None) -> None:
            for row in found.rows[self.marked :] if found else ():
                kind = "changed" if row.is_in_both else "only"
                for document, place in zip(self.documents, row.places):
                    if place.field is not None:
                        document.mark(place.field.path, kind)
                self.marked += 1
            report(found)

        return differences(a, b, mark_and_report)

    def update(self) -> None:
        if self.found is not None:
            self.rows = self.found.rows
            for tree in self.screen.query(TreeView):
                tree.notify_style_update()  # the marks of its rows
        super().update()

    def moved(self, row: Difference) -> None:
        """Select the change in A, or in B if A lacks it; do nothing if it is a field of neither, as `n_rot` may be."""
        for document, place in zip(self.documents, row.places):
            if place.field is not None:
                self.post_message(Moved(self, document, field=place.field, offset=place.offset))
                return

    chosen = moved

    def text(self, found: Differences) -> Text:
        tensors = count_text(len(found.rows) - found.fields - found.parts, "changed tensor")
        words = f"{count_text(found.fields, 'changed field')}, {tensors}"
        words += f", {count_text(found.parts, *PART)}" if found.parts else ""
        if self.job.working:
            words += f"  comparing {bar(found.done / (found.total or 1), 10)}"
        elif not found.rows:
            words = "No field and no tensor differs."
        if found.omitted:
            words += f"   {found.omitted:,} not compared (see ggcp-schema diff)"
        return Text.assemble(
            (f"{found.training}\n" if found.training else "", ink(self, "holder")), (words, ink(self, "detail"))
        )

    def draw(self, row: Difference, width: int) -> list[Segment]:
        text, (a, b), diff = self.target.text, row.words, row.row
        label = min(self.found.widest + 1, width // 2) if self.found else 0
        sign = "≠" if row.is_in_both else "−" if b is None else "+"
        head = [text(f"{sign} ", "accent"), text(fit(escape(row.name), label, middle=True))]
        relative = getattr(diff, "relative", None)
        if relative is not None:
            share = "∞" if math.isinf(relative) else percent(relative)
            scale = (math.log10(relative) + 6) / 7 if 0 < relative < math.inf else 1.0  # 1e-6 to 10
            bars = text(bar(scale, max(4, width - label - 36)), "bar")
            largest = short_number(getattr(diff, "largest", None), 3)
            return [*head, text(f"{share:>9} ", "value"), bars, text(f"  max |Δ| {largest:>9}", "detail")]
        only = "" if row.is_in_both else f"{VERDICTS[diff.verdict]}: "
        sides = dict.fromkeys(escape(side) for side in (a, b) if side is not None)
        words = only + " → ".join(sides) + ("" if only or len(sides) == 2 else ", of which the bytes differ")
        return [*head, text(f" {words}", "value")]
