"""An open file with what the browser derives from it, and what differs between two. Formats are known to `inspect`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from construct import ConstructError

from ggcp_schema.errors import GgcpError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.fields import Fields, holders
from ggcp_schema.inspect.search import Index
from ggcp_schema.inspect.text import plain_text, shape_text
from ggcp_schema.inspect.usage import Usage, usage

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.formats.file import File
    from ggcp_schema.inspect.diff import FieldRow, TensorRow
    from ggcp_schema.inspect.facts import Summary
    from ggcp_schema.inspect.health import Examination
    from ggcp_schema.inspect.matching import Operand
    from ggcp_schema.llama.state import Unsound

READ_ERRORS = (GgcpError, OSError, ConstructError)  # of a file that was changed while it is shown
LONGEST = 200  # characters of a value that are shown


class Document(Fields):
    """An open file with its fields, name, marks and facts.

    `summary` is what `info` says, `usage` what the bytes are used for; both are None until `study` has found them;
    `problem` says why it could not.
    """

    def __init__(self, file: File, tokens: Callable[[int], str] | None = None) -> None:
        super().__init__(file, tokens)
        self.summary: Summary | None = None
        self.usage: Usage | None = None
        self.problem = ""
        self._unsound: list[Unsound] | None = None
        self._examined: Examination | None = None

    @cached_property
    def index(self) -> Index:
        """What can be searched for."""
        return Index(self.file)

    def prepare(self) -> None:
        """Compute what the first picture needs and what takes long for a file of many tensors.

        What `study` needs is imported here, because an import keeps the screen waiting when it shows something.
        """
        import ggcp_schema.inspect.summary  # noqa: F401

        _ = self.marks, self.by_path, self.file.tensors.at(0)

    @property
    def advice(self) -> tuple[str, ...]:
        """The commands that `info` gives, as far as they are known."""
        return () if self.summary is None else self.summary.next

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return Path(self.file.path).name

    @cached_property
    def marks(self) -> dict[str, str]:
        """What is odd, by path: `damage`, `finding`, `changed` or `only`, for the field and for what holds it."""
        marks: dict[str, str] = {}
        damage = () if self.file.damage is None else ((self.file.damage.path, "damage"),)
        for path, kind in (*damage, *((finding.path, "finding") for finding in self.file.findings)):
            mark(marks, path, kind)
        return marks

    def broken_off(self, field: Field) -> str:
        """Return the name of the damaged field if it should follow in this one, but is not there; else nothing."""
        path = "" if self.file.damage is None else self.file.damage.path
        if next(holders(path), None) != field.path or self.field(path) is not None:
            return ""
        return path.removeprefix(field.path).lstrip(".")

    def examine(self, report: Report) -> Examination:
        """Return the health of the parameters. Reads all weights and moments once."""
        from ggcp_schema.inspect.health import examine

        if self._examined is None:
            self._examined = examine(self.file, report)
        return self._examined

    def unsound(self, report: Report) -> list[Unsound]:
        """Return what the program that wrote the file cannot have written. Reads all weights and moments once."""
        from ggcp_schema.inspect.soundness import soundness

        if self._unsound is None:
            self._unsound = soundness(self.file, lambda nbytes: report(None))
        return self._unsound

    def study(self, report: Report) -> None:
        """Find out what `info` says, and what the bytes are used for. Reads some tensor data, so it takes a while."""
        from ggcp_schema.inspect.summary import summarize

        used = usage(self.file, report)
        summary = summarize(self.file)
        report(None)
        self.usage, self.summary = used, summary


def mark(marks: dict[str, str], path: str, kind: str) -> None:
    """Mark a field and what holds it, unless it has a mark."""
    marks.setdefault(path, kind)
    for holder in holders(path):
        marks.setdefault(holder, "changed" if kind == "only" else kind)


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
        return document.field(row.name), None
    offset = side.tensor.offset
    tensor = document.file.tensors.at(offset)
    return (None if tensor is None else document.field_of(tensor)), offset


class Comparison:
    """What is known so far: `done` of `total` tensors were compared. The comparison adds to it while it is shown.

    `training` says what happened in the training.
    """

    def __init__(self) -> None:
        self.rows: list[Change] = []
        self.training = ""
        self.fields = self.done = self.total = self.omitted = self.widest = 0

    def add(self, documents: tuple[Document, Document], row: FieldRow | TensorRow) -> None:
        """Add what is not the same in both files, and mark it in both."""
        places = tuple(place_of(each, row, side) for each, side in zip(documents, (row.a, row.b)))
        paths = (field.path for field, _ in places if field is not None)
        by_path = all(document.by_path for document in documents)  # then the trees know no name of GGUF
        change = Change(row, next(paths, row.name) if by_path else row.name, places)
        for document, (field, _) in zip(documents, places):
            if field is not None:
                mark(document.marks, field.path, "only" if row.a is None or row.b is None else "changed")
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
