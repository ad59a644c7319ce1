"""The Health tab: a verdict, what is unsound, each parameter with its moments, and the tokens never trained."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.segment import Segment

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.panes import JobPane, Jump
from ggcp_schema.browse.text import bar, fit, number
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import count_text, escape

if TYPE_CHECKING:
    from ggcp_schema.files.tensor import Tensor
    from ggcp_schema.inspect.health import Examination
    from ggcp_schema.llama.state import Unsound

LEGEND = (
    "RMS of the weights; m and v: how far and how steadily they move; v = 0: never trained",
    "good: RMS 0.01 to 10, m/√v below 1, NaN and Inf 0",
)
ROOM = 16  # lines of the pane from which there is room for the legend
COLUMNS = ("RMS", "m", "v", "m/√v", "v = 0", "NaN", "Inf")
WIDTHS = (8, 8, 8, 8, 8, 6, 6)  # no value is negative
NAME = 20  # columns for a path: enough to show the layer of an attention_norm


class HealthView(LineView, JobPane):
    """The Health tab."""

    TITLE = "Health"
    found: Examination | None = None

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document

    def show(self, field: Field | None) -> None:
        if self.found is None and not self.working and not self.error:
            self.start(self._examine)
        self._tensor = self.document.tensor_of(field)
        self._follow()

    _tensor: Tensor | None = None

    def _follow(self) -> None:
        """Put the cursor on the selected tensor."""
        tensor = self._tensor
        if self.found is not None and tensor is not None:
            for index, row in enumerate(self.found.rows):
                if row.tensor.path == tensor.path and index != self.cursor:
                    self.put(index)

    def _examine(self, report: Report) -> Examination:
        from ggcp_schema.inspect.health import examine

        return examine(self.document.file, report)

    def reported(self, result: Any, *, done: bool) -> None:
        super().reported(result, done=done)
        if done:
            self._follow()
        self.relayout()

    def count(self) -> int:
        return 0 if self.found is None else len(self.found.rows) + sum(2 + len(items) for _, items in self._below())

    def _below(self) -> list[tuple[str, Sequence[Unsound | int]]]:
        """Return the lists below the table, with their heads."""
        assert self.found is not None  # noqa: S101 - called when there is a table
        lists: list[tuple[str, Sequence[Unsound | int]]] = []
        if self.found.unsound:
            lists.append(
                (f"{count_text(len(self.found.unsound), 'unsound place')} (Enter: go there)", self.found.unsound)
            )
        if self.found.n_tokens:
            words = f"{len(self.found.dead):,} of {count_text(self.found.n_tokens, 'token')} never trained"
            lists.append((f"{words} (v of the row is all zero)", self.found.dead))
        return lists

    def _item(self, index: int) -> Unsound | int | str:
        """Return what a line below the table is about: an unsound place, a token, or words."""
        assert self.found is not None  # noqa: S101 - as above
        index -= len(self.found.rows)
        for head, items in self._below():
            if index < 2 + len(items):
                return items[index - 2] if index > 1 else head if index else ""
            index -= 2 + len(items)
        return ""

    def moved(self) -> None:
        if self.found is not None and self.cursor < len(self.found.rows):
            self.post_message(Jump(tensor=self.found.rows[self.cursor].tensor))

    def chosen(self) -> None:
        if self.found is None or self.cursor < len(self.found.rows):
            return
        item, path = self._item(self.cursor), self.found.moments.embeddings
        embeddings = next((row.tensor for row in self.found.rows if row.tensor.path == path), None)
        if isinstance(item, int) and embeddings is not None:
            size = embeddings.nbytes // embeddings.n_elements
            self.post_message(Jump(offset=embeddings.offset + item * embeddings.shape[0] * size, tensor=embeddings))
        elif not isinstance(item, int | str):
            self.post_message(Jump(offset=item.start))

    # Drawing -----------------------------------------------------------------------------------------------

    def _columns(self, width: int) -> int:
        """Return how many columns there is room for."""
        count = len(COLUMNS)
        while count > 1 and sum(WIDTHS[:count]) + NAME > width:
            count -= 1
        return count

    @property
    def top(self) -> int:  # type: ignore[override]
        """The lines of the verdict, how the moments are known, the legend, and the head of the table."""
        return len(self._paragraphs()) + 1

    def _paragraphs(self) -> list[tuple[str, str]]:
        """Return the lines above the table with their styles; on a low screen only the verdict."""
        width, height = max(20, self.scrollable_content_region.width), self.scrollable_content_region.height
        if self.error or self.found is None:
            texts = [(self.error or "reading …", "error" if self.error else "detail")]
        else:
            found = self.found
            words = f"{'✓' if found.is_sound else '✗'} {found.verdict}"
            if self.working:
                words = f"{bar(len(found.rows) / (found.total or 1), 12)} reading …"
            texts = [(words, "value" if found.is_sound else "error")]
            if height >= ROOM:
                texts += [(words, "detail") for words in (found.moments.evidence, *LEGEND)]
        return [(line, style) for words, style in texts for line in wrap(words, width)]

    def draw_top(self, index: int, width: int) -> list[Segment]:
        lines = self._paragraphs()
        if index < len(lines):
            return [self.text(*lines[index])]
        if not self.count():
            return []
        count = self._columns(width)
        room = width - sum(WIDTHS[:count])
        titles = "".join(f"{title:>{size}}" for title, size in zip(COLUMNS[:count], WIDTHS))
        return [self.text(f"{'parameter':<{room}}{titles}", "head")]

    def draw(self, index: int, width: int) -> list[Segment]:
        assert self.found is not None  # noqa: S101 - lines are drawn when there are some
        if index >= len(self.found.rows):
            return self._draw_item(self._item(index))
        row, count = self.found.rows[index], self._columns(width)
        room = width - sum(WIDTHS[:count])
        segments = [self.text(fit(escape(row.tensor.path), room - 1, left=True) + " ", "name")]
        unused = None if row.unused is None else f"{100 * row.unused:.3g} %"
        cells = [number(value, 3) for value in (row.rms, row.m, row.v, row.ratio)]
        cells += ["–" if unused is None else unused, str(row.nan), str(row.inf)]
        for position, (cell, size) in enumerate(zip(cells[:count], WIDTHS)):
            bad = position >= 5 and cell != "0"
            idle = position == 4 and row.unused == 1
            style = "error" if bad else "warning" if idle else "detail" if cell in ("0", "0 %", "–") else "value"
            segments.append(self.text(f"{cell:>{size}}", style))
        return segments

    def _draw_item(self, item: Unsound | int | str) -> list[Segment]:
        if isinstance(item, str):
            return [self.text(item, "head")]
        if isinstance(item, int):
            texts = self.document.token_texts
            text = "" if texts is None else f"  {escape(repr(texts(item)))}"
            return [self.text(f"{item:>7}", "value"), self.text(text, "index")]
        return [self.text(f"{item.start:>11,}  ", "error"), self.text(escape(f"{item.path}: {item.message}"), "name")]
