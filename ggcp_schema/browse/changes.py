"""The tab of what changed between two files, by how much, and where."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import RenderableType
from rich.segment import Segment
from rich.text import Text
from textual.message import Message

from ggcp_schema.browse.document import Document, mark, readable_name
from ggcp_schema.browse.lines import bar, fit, ink, number
from ggcp_schema.browse.panes import Moved
from ggcp_schema.browse.tables import Table
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


def _words(side: KeyValue | Operand) -> str:
    if isinstance(side, KeyValue):
        return plain_text(side.value, side.type, LONGEST)
    return f"{side.tensor.type} {shape_text(side.tensor.shape)}"


def place_of(document: Document, row: FieldRow | TensorRow, side: KeyValue | Operand | None) -> Any:
    """Return the field and the offset of a row: of a tensor its record, or its data where a format has no record."""
    if side is None:
        return None, None
    if isinstance(side, KeyValue):
        path = document.path_of(row.name)
        return (None if path is None else document.file.find(path)), None
    offset = side.tensor.offset
    tensor = document.file.tensors.at(offset)
    return (None if tensor is None else document.field_of(tensor)), offset


class Comparison:
    """What is known so far: `done` of `total` tensors were compared. The comparison adds to it while it is shown.

    `training` says what happened in the training, `marks` for each file, by path, what has changed.
    """

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.training = ""
        self.fields = self.done = self.total = self.omitted = self.widest = 0
        self.marks: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def add(self, documents: tuple[Document, Document], row: FieldRow | TensorRow) -> None:
        """Add what is not the same in both files, and mark it in both."""
        by_path = all(document.by_path for document in documents)  # then the trees know no name of GGUF
        places = tuple(place_of(each, row, side) for each, side in zip(documents, (row.a, row.b)))
        change = Change(row, readable_name(row.name) if by_path else row.name, places)
        for (field, _), marks in zip(places, self.marks):
            if field is not None:
                mark(marks, field.path, "changed")
                if row.a is None or row.b is None:
                    marks[field.path] = "only"
        self.widest = max(self.widest, len(change.name))
        self.fields += isinstance(row.a or row.b, KeyValue)
        self.rows.append(change)  # last: the other thread counts the rows


def compare(a: Document, b: Document, report: Report) -> Comparison:
    """Compare the files as `diff` does: all fields, then the tensors one after another."""
    from ggcp_schema.inspect.diff import field_rows, tensor_rows
    from ggcp_schema.inspect.matching import sides
    from ggcp_schema.inspect.training_change import change_between, change_lines

    left, right, _ = sides(a.file, b.file)
    found = Comparison()
    found.training = "; ".join(change_lines(change_between(left.summary, right.summary, {})))
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

    def __init__(self, found: Comparison) -> None:
        super().__init__()
        self.found = found


class Changes(Table):
    """The Changes tab: the fields first."""

    TITLE = "Changes"
    found: Comparison | None = None

    def measure(self, report: Report) -> Comparison:
        a, b = self.documents
        return compare(a, b, report)

    def update(self) -> None:
        if self.found is not None:
            self.rows = self.found.rows
            self.post_message(Found(self.found))
        super().update()

    def moved(self, row: Change) -> None:
        """Select the change in A, or in B if A lacks it; do nothing if it is a field of neither, as `n_rot` may be."""
        places = zip(self.documents, row.places)
        place = next(((document, at) for document, at in places if at[0] is not None), None)
        if place is not None:
            self.post_message(Moved(self, place[0], field=place[1][0], offset=place[1][1]))

    chosen = moved

    def text(self) -> RenderableType:
        found = self.found
        if self.error or found is None:
            return super().text()
        tensors = count_text(len(found.rows) - found.fields, "changed tensor")
        words = f"{count_text(found.fields, 'changed field')}, {tensors}"
        if self.job.working:
            words += f"  comparing {bar(found.done / (found.total or 1), 10)}"
        elif not found.rows:
            words = "No field and no tensor differs."
        if found.omitted:
            words += f"   {found.omitted:,} not compared (see ggcp-schema diff)"
        return Text.assemble(
            (f"{found.training}\n" if found.training else "", ink(self, "holder")), (words, ink(self, "detail"))
        )

    def draw(self, row: Change, width: int) -> list[Segment]:
        text, (a, b), diff = self.view.text, row.words, row.row
        label = min(self.found.widest + 1, width // 2) if self.found else 0
        sign = "≠" if a and b else "−" if b is None else "+"
        head = [text(f"{sign} ", "accent"), text(fit(escape(row.name), label, left=True))]
        relative = getattr(diff, "relative", None)
        if relative is not None:
            share = "∞" if math.isinf(relative) else f"{100 * relative:.3g} %"
            scale = (math.log10(relative) + 6) / 7 if 0 < relative < math.inf else 1.0  # 1e-6 to 10
            bars = text(bar(scale, max(4, width - label - 36)), "bar")
            largest = number(getattr(diff, "largest", None), 3)
            return [*head, text(f"{share:>9} ", "value"), bars, text(f"  max |Δ| {largest:>9}", "detail")]
        only = "" if a is not None and b is not None else f"{VERDICTS[diff.verdict]}: "
        sides = dict.fromkeys(escape(side) for side in (a, b) if side is not None)
        words = only + " → ".join(sides) + ("" if only or len(sides) == 2 else ", of which the bytes differ")
        return [*head, text(f" {words}", "value")]
