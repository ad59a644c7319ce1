"""Two files side by side: what changed, by how much, and where."""

from __future__ import annotations

import math
from collections import ChainMap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget

from ggcp_schema.browse.document import FIELDS, Document, holders
from ggcp_schema.browse.hexview import HexView
from ggcp_schema.browse.jobs import Working
from ggcp_schema.browse.lines import LineView
from ggcp_schema.browse.panes import Frame, TopBar, reads_file
from ggcp_schema.browse.screen import FileScreen
from ggcp_schema.browse.text import bar, fit, number
from ggcp_schema.browse.tree import TreeView
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import count_text, escape, plain_text, shape_text
from ggcp_schema.llama import names

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff import FieldRow, TensorRow

FRAMES = ("a", "b", "changes", "bytes-a", "bytes-b")


@dataclass(frozen=True)
class Change:
    """A field or a tensor that is not the same in both files.

    `a` and `b` are the values in words, None where only the other file has it. `relative` is the length of the
    difference in units of the length of A's tensor, infinite where that is zero; None for fields, and for tensors that
    cannot be compared. `largest` is the largest absolute difference. `places` are the offsets of a tensor's data in
    both files, `paths` those of the fields that have changed. `name` is that of `diff`, `shown` as in both trees.
    """

    name: str
    a: str | None
    b: str | None
    difference: float | None = None
    relative: float | None = None
    largest: float | None = None
    places: tuple[int | None, int | None] | None = None
    paths: tuple[str | None, str | None] = (None, None)
    shown: str = ""

    @property
    def is_tensor(self) -> bool:
        """Whether this is a tensor or a part of one, and not a field."""
        return self.places is not None


class Changes:
    """What is known so far: `done` of `total` tensors were compared. The comparison adds to it while it is shown.

    `marks` says for each file, by path, what has changed.
    """

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.fields = self.done = self.total = self.omitted = self.widest = 0
        self.marks: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def add(self, documents: tuple[Document, Document], change: Change) -> None:
        """Add a change, and mark it in both files."""
        fields = [field_of(document, change, side) for side, document in enumerate(documents)]
        a, b = (None if field is None else field.path for field in fields)
        change = replace(change, paths=(a, b))
        if all(document.by_path for document in documents):  # then the trees know no name of GGUF
            change = replace(change, shown=FIELDS.get(change.name) or names.field_path(change.name) or change.name)
        for path, marks in zip(change.paths, self.marks):
            if path is not None:
                marks[path] = "changed" if change.a is not None and change.b is not None else "only"
                for holder in holders(path):
                    marks.setdefault(holder, "changed inside")
        self.widest = max(self.widest, len(change.shown or change.name))
        self.fields += not change.is_tensor
        self.rows.append(change)  # last: the other thread counts the rows


def compare(a: Document, b: Document, report: Report) -> Changes:
    """Compare the files as `diff` does: all fields, then the tensors one after another."""
    from ggcp_schema.inspect.diff import EQUAL, field_rows, tensor_rows
    from ggcp_schema.inspect.sides import sides

    left, right, _ = sides(a.file, b.file)
    found = Changes()
    found.total = len(left.tensors) + sum(name not in left.tensors for name in right.tensors)
    found.omitted = left.omitted.counts.total() + right.omitted.counts.total()
    for field in field_rows(left, right):
        if field.verdict != EQUAL:
            found.add((a, b), _changed_field(field))
    report(found)
    for found.done, (row, _) in enumerate(tensor_rows(left, right, progress=lambda nbytes: report(None)), 1):
        if row.verdict != EQUAL:
            places = (None if side is None else side.item.tensor.offset for side in (row.a, row.b))
            found.add((a, b), _changed_tensor(row, *places))
        report(found)
    return found


def _changed_field(row: FieldRow) -> Change:
    words = [None if side is None else plain_text(side.value, side.type) for side in (row.a, row.b)]
    numbers = [side.value for side in (row.a, row.b) if side is not None and isinstance(side.value, int | float)]
    return Change(row.name, words[0], words[1], numbers[1] - numbers[0] if len(numbers) == 2 else None)


def _changed_tensor(row: TensorRow, at_a: int | None, at_b: int | None) -> Change:
    words = [None if side is None else f"{side.type} {shape_text(side.shape)}" for side in (row.a, row.b)]
    return Change(row.name, words[0], words[1], None, row.relative, row.largest, (at_a, at_b))


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


def field_of(document: Document, change: Change, side: int) -> Field | None:
    """Return the field that has changed: of a tensor its record, or its data where a format has no record."""
    if change.places is None:
        path = document.path_of(change.name)
        return None if path is None else document.file.find(path)
    offset = change.places[side]
    tensor = None if offset is None else document.file.tensors.at(offset)
    return None if tensor is None else document.field_of(tensor)


class ChangeList(LineView, Working):
    """The changes, the fields first."""

    top = 1

    class Chosen(Message):
        """The cursor stands on another change."""

        def __init__(self, change: Change) -> None:
            super().__init__()
            self.change = change

    def __init__(self, a: Document, b: Document) -> None:
        super().__init__()
        self.a, self.b = a, b
        self.changes: Changes | None = None
        self.error = ""

    def on_mount(self) -> None:
        self.start(lambda report: compare(self.a, self.b, report))

    def reported(self, result: Any, *, done: bool) -> None:
        if isinstance(result, Changes):
            self.changes = result
        else:
            self.error = str(result)
        self.relayout()
        self.post_message(Found(self.changes))

    def count(self) -> int:
        return 0 if self.changes is None else len(self.changes.rows)

    def moved(self) -> None:
        if self.changes is not None:
            self.post_message(self.Chosen(self.changes.rows[self.cursor]))

    chosen = moved

    def _losses(self) -> str:
        """Return how the loss has changed, in words; empty if one file has none."""
        before, after = (document.summary.loss if document.summary else None for document in (self.a, self.b))
        if before is None or after is None:
            return ""
        share = f", {100 * (after - before) / before:+.1f} %".replace("-", "−") if before else ""
        return f"loss {number(before)} → {number(after)}{share}   "

    def draw_top(self, index: int, width: int) -> list[Segment]:
        if self.error:
            return [self.text(fit(self.error, width), "error")]
        if self.changes is None:
            return [self.text("comparing …", "detail")]
        fields = self.changes.fields
        words = (
            f"{count_text(fields, 'changed field')}, {count_text(len(self.changes.rows) - fields, 'changed tensor')}"
        )
        if self.changes.done < self.changes.total:
            words += f"  {bar(self.changes.done / self.changes.total, 10)}"
        elif not self.changes.rows:
            words = "No field and no tensor differs."
        if self.changes.omitted:
            words += f"   {self.changes.omitted:,} not compared (see ggcp-schema diff)"
        return [self.text(self._losses(), "holder"), self.text(words, "detail")]

    def draw(self, index: int, width: int) -> list[Segment]:
        assert self.changes is not None  # noqa: S101 - lines are drawn when there are some
        row = self.changes.rows[index]
        label = min(self.changes.widest + 1, width // 2)
        sign = "≠" if row.a is not None and row.b is not None else "−" if row.b is None else "+"
        head = [
            self.text(f"{sign} ", "changed"),
            self.text(fit(escape(row.shown or row.name), label, left=True), "name"),
        ]
        if row.relative is not None:
            share = "∞" if math.isinf(row.relative) else f"{100 * row.relative:.3g} %"
            room = max(4, width - label - 36)
            scale = (math.log10(row.relative) + 6) / 7 if 0 < row.relative < math.inf else 1.0  # 1e-6 to 10
            return [
                *head,
                self.text(f"{share:>9} ", "value"),
                self.text(bar(scale, room), "bar"),
                self.text(f"  max |Δ| {number(row.largest, 3):>9}", "detail"),
            ]
        only = "only in A: " if row.b is None else "only in B: " if row.a is None else ""
        sides = dict.fromkeys(escape(side) for side in (row.a, row.b) if side is not None)
        words = only + " → ".join(sides) + ("" if only or len(sides) == 2 else ", of which the bytes differ")
        change = "" if row.difference is None else f"   ({signed(row.difference)})"
        return [*head, self.text(f" {words}", "value"), self.text(change, "detail")]


class Found(Message):
    """The comparison has found something, or has ended."""

    def __init__(self, changes: Changes | None) -> None:
        super().__init__()
        self.changes = changes


class PairScreen(FileScreen):
    """Two files: both trees at the top, then the changes, then the bytes of both."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "open(0)", "File A", show=False),
        Binding("2", "open(1)", "File B", show=False),
        Binding("3", "open(2)", "Changes", show=False),
        Binding("4", "open(3)", "Bytes of A", show=False),
        Binding("5", "open(4)", "Bytes of B", show=False),
    ]

    NAMES = ("A", "B", "Changes", "Bytes A", "Bytes B")
    OWNERS: ClassVar[dict[str, type[Widget]]] = {"Fields": TreeView, "Changes": ChangeList, "Bytes": HexView}

    def frames(self) -> list[str]:
        return list(FRAMES)

    @property
    def crowded(self) -> bool:
        return self.single or self.has_class("-low")

    def compose(self) -> ComposeResult:
        a, b = self.documents
        yield TopBar(f"{a.name} ↔ {b.name}", a)
        with Horizontal(id="trees"):
            for letter, document in zip("ab", self.documents):
                with Frame(id=f"{letter}-frame"):
                    yield TreeView(document, id=f"tree-{letter}")
        with Frame(id="changes-frame"):
            yield ChangeList(a, b)
        with Horizontal(id="hexes"):
            for letter, document in zip("ab", self.documents):
                with Frame(id=f"bytes-{letter}-frame"):
                    yield HexView(document, id=f"hex-{letter}")
        yield from self.edges()

    async def on_mount(self) -> None:
        self.fit_to(self.app.size.width, self.app.size.height)
        for letter, document in zip("ab", self.documents):
            title = f"{letter.upper()}: {document.name}".replace("[", r"\[")
            self.query_one(f"#{letter}-frame").border_title = title
            self.query_one(f"#bytes-{letter}-frame").border_title = f"Bytes of {letter.upper()}"
        self.query_one("#changes-frame").border_title = "Changes"
        tree = self.query_one("#tree-a", TreeView)
        tree.focus()
        self.select(tree.field)

    def target(self, name: str) -> Widget:
        if name == "changes":
            return self.query_one(ChangeList)
        return self.query_one(f"#{name.replace('bytes', 'hex') if name.startswith('bytes') else f'tree-{name}'}")

    def action_open(self, index: int) -> None:
        self.open_pane(index)

    def on_descendant_focus(self, event: Any) -> None:
        """Let keys act on the file whose pane has the focus. Textual calls the method of the base class too."""
        name = FRAMES[self.frame_of(event.widget)]
        if name != "changes":
            self.side = int(name.endswith("b"))
            self.query_one(TopBar).put(document=self.document)

    def studied(self, document: Document, result: Any, *, done: bool) -> None:
        super().studied(document, result, done=done)
        self.query_one(ChangeList).refresh()

    # Selection ---------------------------------------------------------------------------------------------

    @reads_file
    def select(self, field: Field | None, offset: int | None = None, origin: Widget | None = None) -> None:
        self.hold_work()
        self.field = field
        self.byte = offset if offset is not None else self.byte if field is None else field.offset
        here, there = ("b", "a") if self.side else ("a", "b")
        other = self.documents[1 - self.side]
        self._mark(here, field, offset, origin)
        same = None if field is None else counterpart(field, self.document, other)
        if same is not None and field is not None:
            inside = None if offset is None else same.offset + min(offset - field.offset, max(0, same.size - 1))
            self._mark(there, same, inside, origin)
        else:
            self.query_one(f"#hex-{there}", HexView).mark(None)
        views = [self.query_one(f"#hex-{letter}", HexView) for letter in "ab"]
        for view, against in (views, views[::-1]):
            view.against = None if same is None else (against.file.source, against.selection)

    def _mark(self, letter: str, field: Field | None, offset: int | None, origin: Widget | None) -> None:
        tree, view = self.query_one(f"#tree-{letter}", TreeView), self.query_one(f"#hex-{letter}", HexView)
        if origin is not tree and field is not None:
            tree.reveal(field)
        view.mark(field, view.cursor if origin is view else offset)

    def on_tree_view_moved(self, message: TreeView.Moved) -> None:
        self.side = int(message.view.id == "tree-b")
        self.select(message.field, origin=message.view)

    @reads_file
    def on_hex_view_moved(self, message: HexView.Moved) -> None:
        self.side = int(message.view.id == "hex-b")
        self.select(self.document.file.at(message.offset), message.offset, origin=message.view)

    @reads_file
    def on_change_list_chosen(self, message: ChangeList.Chosen) -> None:
        """Select the change in A, or in B if A lacks it; do nothing if it is a field of neither, as `n_rot` may be."""
        change = message.change
        side = next((side for side, path in enumerate(change.paths) if path is not None), None)
        if side is not None:
            self.side = side
            places = change.places
            self.select(field_of(self.document, change, side), None if places is None else places[side])

    def on_found(self, message: Found) -> None:
        for side, tree in enumerate(self.query(TreeView)):
            if message.changes is not None:
                tree.marks = ChainMap(self.documents[side].marks, message.changes.marks[side])
            for node in tree.root.children:  # Textual keeps lines until a node of theirs has changed; the root has none
                node.refresh()
            tree.refresh()
