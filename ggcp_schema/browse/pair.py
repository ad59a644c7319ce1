"""Two files side by side: what changed, by how much, and where."""

from __future__ import annotations

import math
from collections import ChainMap
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.widget import Widget

from ggcp_schema.browse.document import Document, holders, readable_name
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import LineView, bar, fit, number
from ggcp_schema.browse.panes import Moved, TopBar, reads_file
from ggcp_schema.browse.screen import FileScreen
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.constructs.tree import Field
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import count_text, escape, plain_text, shape_text
from ggcp_schema.inspect.words import VERDICTS

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff import FieldRow, TensorRow
    from ggcp_schema.inspect.matching import Operand

LONGEST = 200  # characters of a value that are shown


class Change(NamedTuple):
    """A row of `diff`, its name as both trees have it, and where it is in both files: a field and an offset."""

    row: FieldRow | TensorRow
    name: str
    places: tuple[tuple[Field | None, int | None], ...]

    @property
    def words(self) -> list[str | None]:
        """What stands in A and in B; None where only the other file has it."""
        return [None if side is None else _words(side) for side in (self.row.a, self.row.b)]

    @property
    def difference(self) -> float | None:
        """The difference of two numbers."""
        a, b = (getattr(side, "value", None) for side in (self.row.a, self.row.b))
        return b - a if isinstance(a, int | float) and isinstance(b, int | float) else None


def _words(side: KeyValue | Operand) -> str:
    if isinstance(side, KeyValue):
        return plain_text(side.value, side.type, LONGEST)
    return f"{side.type} {shape_text(side.shape)}"


def place_of(document: Document, row: FieldRow | TensorRow, side: KeyValue | Operand | None) -> Any:
    """Return the field and the offset of a row: of a tensor its record, or its data where a format has no record."""
    if side is None:
        return None, None
    if isinstance(side, KeyValue):
        path = document.path_of(row.name)
        return (None if path is None else document.file.find(path)), None
    offset = side.item.tensor.offset
    tensor = document.file.tensors.at(offset)
    return (None if tensor is None else document.field_of(tensor)), offset


class Changes:
    """What is known so far: `done` of `total` tensors were compared. The comparison adds to it while it is shown.

    `marks` says for each file, by path, what has changed.
    """

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.fields = self.done = self.total = self.omitted = self.widest = 0
        self.marks: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def add(self, documents: tuple[Document, Document], row: FieldRow | TensorRow) -> None:
        """Add what is not the same in both files, and mark it in both."""
        by_path = all(document.by_path for document in documents)  # then the trees know no name of GGUF
        places = tuple(place_of(each, row, side) for each, side in zip(documents, (row.a, row.b)))
        change = Change(row, readable_name(row.name) if by_path else row.name, places)
        for (field, _), marks in zip(places, self.marks):
            if field is not None:
                marks[field.path] = "only" if row.a is None or row.b is None else "changed"
                for holder in holders(field.path):
                    marks.setdefault(holder, "changed inside")
        self.widest = max(self.widest, len(change.name))
        self.fields += isinstance(row.a or row.b, KeyValue)
        self.rows.append(change)  # last: the other thread counts the rows


def compare(a: Document, b: Document, report: Report) -> Changes:
    """Compare the files as `diff` does: all fields, then the tensors one after another."""
    from ggcp_schema.inspect.diff import field_rows, tensor_rows
    from ggcp_schema.inspect.matching import sides

    left, right, _ = sides(a.file, b.file)
    found = Changes()
    found.total = len(left.tensors) + sum(name not in left.tensors for name in right.tensors)
    found.omitted = left.omitted.counts.total() + right.omitted.counts.total()
    for field in field_rows(left, right):
        if field.verdict != "equal":
            found.add((a, b), field)
    report(found)
    for found.done, (row, _) in enumerate(tensor_rows(left, right, progress=lambda nbytes: report(None)), 1):
        if row.verdict != "equal":
            found.add((a, b), row)
        report(found)
    return found


def signed(value: float) -> str:
    """Return a difference with its sign; that of two integers with all digits."""
    text = f"{value:,}" if isinstance(value, int) else number(value)
    return text.replace("-", "−") if value < 0 else f"+{text}"


def counterpart(field: Field, here: Document, there: Document) -> Field | None:
    """Return the field of the other file that is the same: by its path, or by its tensor's name."""
    path = there.path_of(field.path)
    if path is None:
        tensor = here.tensor_of(field)
        names = () if tensor is None else (tensor.path, here.shared_name(tensor))
        path = next((found for name in names if name and (found := there.path_of(name)) is not None), None)
    return None if path is None else there.file.find(path)


class Found(Message):
    """The comparison has found something, or has ended."""


class Chosen(Message):
    """The cursor stands on another change."""


class ChangeList(LineView, Working):
    """The changes, the fields first."""

    top = 1
    error = ""

    def __init__(self, a: Document, b: Document) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.changes = Changes()

    def on_mount(self) -> None:
        self.start(lambda report: compare(self.a, self.b, report))

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Changes):
            self.changes = result
        else:
            self.error = str(result)
        self.relayout()
        self.post_message(Found())

    @property
    def change(self) -> Change:
        """The change under the cursor."""
        return self.changes.rows[self.cursor]

    def count(self) -> int:
        return len(self.changes.rows)

    def moved(self) -> None:
        self.post_message(Chosen())

    chosen = moved

    def _losses(self) -> str:
        """Return how the loss has changed, in words; empty if one file has none."""
        before, after = (document.summary.loss if document.summary else None for document in (self.a, self.b))
        if before is None or after is None:
            return ""
        share = f", {100 * (after - before) / before:+.1f} %".replace("-", "−") if before else ""
        return f"loss {number(before)} → {number(after)}{share}   "

    def draw_top(self, index: int, width: int) -> list[Segment]:
        found = self.changes
        if self.error:
            return [self.text(fit(self.error, width), "error")]
        tensors = count_text(len(found.rows) - found.fields, "changed tensor")
        words = f"{count_text(found.fields, 'changed field')}, {tensors}"
        if self.working:
            words += f"  comparing {bar(found.done / (found.total or 1), 10)}"
        elif not found.rows:
            words = "No field and no tensor differs."
        if found.omitted:
            words += f"   {found.omitted:,} not compared (see ggcp-schema diff)"
        return [self.text(self._losses(), "holder"), self.text(words, "detail")]

    def draw(self, index: int, width: int) -> list[Segment]:
        change = self.changes.rows[index]
        a, b = change.words
        label = min(self.changes.widest + 1, width // 2)
        sign = "≠" if a and b else "−" if b is None else "+"
        head = [self.text(f"{sign} ", "accent"), self.text(fit(escape(change.name), label, left=True))]
        relative = getattr(change.row, "relative", None)
        if relative is not None:
            share = "∞" if math.isinf(relative) else f"{100 * relative:.3g} %"
            scale = (math.log10(relative) + 6) / 7 if 0 < relative < math.inf else 1.0  # 1e-6 to 10
            bars = self.text(bar(scale, max(4, width - label - 36)), "bar")
            largest = number(getattr(change.row, "largest", None), 3)
            return [*head, self.text(f"{share:>9} ", "value"), bars, self.text(f"  max |Δ| {largest:>9}", "detail")]
        only = "" if a is not None and b is not None else f"{VERDICTS[change.row.verdict]}: "
        sides = dict.fromkeys(escape(side) for side in (a, b) if side is not None)
        words = only + " → ".join(sides) + ("" if only or len(sides) == 2 else ", of which the bytes differ")
        difference = "" if change.difference is None else f"   ({signed(change.difference)})"
        return [*head, self.text(f" {words}", "value"), self.text(difference, "detail")]


class PairScreen(FileScreen):
    """Two files: both trees at the top, then the changes, then the bytes of both."""

    NAMES = ("A", "B", "Changes", "Bytes A", "Bytes B")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(str(number), f"open({number - 1})", f"Open {name}", show=False) for number, name in enumerate(NAMES, 1)
    ]

    def __init__(self, *documents: Document) -> None:
        super().__init__(*documents)
        self.trees = [TreeView(each, id=f"tree-{letter}") for each, letter in zip(documents, "ab")]
        self.views = [HexView(each, id=f"hex-{letter}") for each, letter in zip(documents, "ab")]
        self.changes = ChangeList(*documents)

    def compose(self) -> ComposeResult:
        a, b = self.documents
        yield TopBar(f"{a.name} ↔ {b.name}", a)
        with Horizontal(classes="row"):
            for tree, letter in zip(self.trees, "AB"):
                yield self._frame(f"{letter}: {tree.document.name}".replace("[", r"\["), tree)
        yield self._frame("Changes", self.changes)
        with Horizontal(classes="row", id="bytes"):
            for view, letter in zip(self.views, "AB"):
                yield self._frame(f"Bytes of {letter}", view)
        yield from self.edges()

    def _frame(self, title: str, widget: Widget) -> Container:
        frame = Container(widget, classes="frame")
        frame.border_title = title
        return frame

    def on_mount(self) -> None:  # Textual calls the method of the base class too
        self.trees[0].focus()
        self.select(self.trees[0].field)

    def targets(self) -> list[Widget]:
        return [*self.trees, self.changes, *self.views]

    def action_open(self, index: int) -> None:
        self.open_pane(index)

    def on_descendant_focus(self, event: Any) -> None:
        """Let keys act on the file whose pane has the focus. Textual calls the method of the base class too."""
        if event.widget in (*self.trees, *self.views):
            self.side = self.documents.index(event.widget.document)
            self.query_one(TopBar).put(document=self.document)

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        super().studied(document, result, done=done)
        self.changes.refresh()

    # Selection ---------------------------------------------------------------------------------------------

    @reads_file
    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        self.field = field
        self.byte = offset if offset is not None else self.byte if field is None else field.offset
        other, (view, across) = 1 - self.side, self.views if not self.side else self.views[::-1]
        if origin is not self.trees[self.side] and field is not None:
            self.trees[self.side].reveal(field)
        view.mark(field, offset)
        same = None if field is None else counterpart(field, self.document, self.documents[other])
        inside = None
        if same is not None and field is not None:
            if offset is not None:
                inside = same.offset + min(offset - field.offset, max(0, same.size - 1))
            self.trees[other].reveal(same)
        across.mark(same, inside)
        for one, against in ((view, across), (across, view)):
            one.against = None if same is None else (against.file.source, against.selection)

    @reads_file
    def on_moved(self, message: Moved) -> None:
        self.side = self.views.index(message.origin)  # type: ignore[arg-type]
        self.select(self.document.file.at(message.offset or 0), message.offset, origin=message.origin)

    @reads_file
    def on_chosen(self) -> None:
        """Select the change in A, or in B if A lacks it; do nothing if it is a field of neither, as `n_rot` may be."""
        for side, (field, offset) in enumerate(self.changes.change.places):
            if field is not None:
                self.side = side
                self.select(field, offset)
                return

    def on_found(self) -> None:
        for tree, marks in zip(self.trees, self.changes.changes.marks):
            tree.marks = ChainMap(tree.document.marks, marks)
            for node in tree.root.children:  # Textual keeps lines until a node of theirs has changed; the root has none
                node.refresh()
            tree.refresh()
