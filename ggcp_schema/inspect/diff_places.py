"""Where two files differ: the rows of `diff`, while they are found, with their places in both files.

This module imports numpy, as `ggcp_schema.inspect.diff` does.
"""

from __future__ import annotations

from typing import NamedTuple

from ggcp_schema.constructs import Field
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.diff import FieldRow, TensorRow, field_rows, tensor_rows
from ggcp_schema.inspect.fields import Fields
from ggcp_schema.inspect.matching import Operand, sides
from ggcp_schema.inspect.text import plain_text, shape_text
from ggcp_schema.inspect.training_change import change_between, change_lines

LONGEST = 200  # characters of a value


class Place(NamedTuple):
    """Where one of two files has what differs; both are None if it has it not, or as no field of its own."""

    field: Field | None = None
    offset: int | None = None


class Difference(NamedTuple):
    """A row of `diff`, its name as both trees have it, and its places in A and in B."""

    row: FieldRow | TensorRow
    name: str
    places: tuple[Place, ...]

    @property
    def is_in_both(self) -> bool:
        """False if only one file has it."""
        return self.row.a is not None and self.row.b is not None

    @property
    def words(self) -> list[str | None]:
        """What stands in A and in B; None where only the other file has it."""
        return [None if side is None else _words(side) for side in (self.row.a, self.row.b)]


def _words(side: KeyValue | Operand) -> str:
    if isinstance(side, KeyValue):
        return plain_text(side.value, side.type, LONGEST)
    return f"{side.tensor.type} {shape_text(side.tensor.shape)}"


class Differences:
    """What is known so far: `done` of `total` tensors were compared. `differences` adds to it while it is shown.

    `rows` are the fields and then the tensors that differ, `fields` is the number of the fields, `parts` that of parts
    of the optimizer's vectors, and `omitted` that of what was not compared. `training` says what happened in the
    training. `widest` is the length of the longest name.
    """

    def __init__(self) -> None:
        self.rows: list[Difference] = []
        self.training = ""
        self.fields = self.parts = self.done = self.total = self.omitted = self.widest = 0

    def add(self, files: tuple[Fields, Fields], row: FieldRow | TensorRow) -> None:
        """Add a row, unless it is the same in both files."""
        if row.verdict == "equal":
            return
        places = tuple(place_of(each, row.name, side) for each, side in zip(files, (row.a, row.b)))
        paths = (place.field.path for place in places if place.field is not None)
        by_path = all(each.by_path for each in files)  # then the trees know no name of GGUF
        name = next(paths, row.name) if by_path else row.name
        self.widest = max(self.widest, len(name))
        self.fields += isinstance(row, FieldRow)
        self.parts += isinstance(row, TensorRow) and row.is_part
        self.rows.append(Difference(row, name, places))  # last: the other thread counts the rows


def place_of(fields: Fields, name: str, side: KeyValue | Operand | None) -> Place:
    """Return where a file has what a row is about: of a tensor its record, or its data where a format has no record."""
    if side is None:
        return Place()
    if isinstance(side, KeyValue):
        return Place(fields.field(name))
    offset = side.tensor.offset
    tensor = fields.file.tensors.at(offset)
    return Place(None if tensor is None else fields.field_of(tensor), offset)


def differences(a: Fields, b: Fields, report: Report) -> Differences:
    """Compare the files as `diff` does: all fields, then the tensors one after another.

    `report` gets the same growing result each time. Raises what `inspect.diff.compare` raises.
    """
    left, right, _ = sides(a.file, b.file)
    found = Differences()
    found.training = "; ".join(change_lines(change_between(left.summary, right.summary, {})))
    found.total = len(left.tensors) + sum(name not in left.tensors for name in right.tensors)
    found.omitted = left.omitted.counts.total() + right.omitted.counts.total()
    for field in field_rows(left, right):
        found.add((a, b), field)
    report(found)
    for found.done, (row, _) in enumerate(tensor_rows(left, right, progress=lambda nbytes: report(None)), 1):
        found.add((a, b), row)
        report(found)
    return found
