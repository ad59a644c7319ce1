"""`diff`: what differs between two files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from construct import Container

from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.options import FILE_HELP, Json, Quiet, Width
from ggcp_schema.cli.output import HANGING, echo, output_width, print_json, progress, wrapped
from ggcp_schema.cli.table import GAP, print_table
from ggcp_schema.errors import UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.values import LISTS, first_different
from ggcp_schema.formats import open_file
from ggcp_schema.inspect import paths
from ggcp_schema.inspect.diff import MAX_ROWS, Comparison, FieldRow, TensorRow, compare
from ggcp_schema.inspect.matching import Label, Omission, Operand
from ggcp_schema.inspect.text import (
    cells,
    count_text,
    escape,
    json_value_of,
    line_text,
    names_text,
    shape_text,
    short_number,
    shorten,
)
from ggcp_schema.inspect.training_change import TrainingChange, change_lines
from ggcp_schema.inspect.words import PART, VERDICTS, Verdict

FIELDS = ("field", "verdict", "A", "B")
TENSORS = ("tensor", "verdict", "A", "B", "differing", "largest", "RMS")
NUMBERS = TENSORS[4:]
DROPPED = ("verdict", "RMS", "differing")  # on a narrow terminal, in this order; that A or B is empty tells the first
MAX_TEXT = 80  # characters of a value
LEAST_TEXT = 16  # that a narrow terminal leaves
MAX_NAMES = 4  # of things that were not compared, for each reason
TYPES = {"FLOAT32": "f32", "FLOAT64": "f64"}  # GGUF's names of the types that the text of a value depends on


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=FILE_HELP)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The file to compare with A.")],
    rtol: Annotated[
        float, typer.Option("--rtol", metavar="NUMBER", help="Relative tolerance: equal if |a - b| <= atol + rtol |b|.")
    ] = 0.0,
    atol: Annotated[float, typer.Option("--atol", metavar="NUMBER", help="Absolute tolerance.")] = 0.0,
    as_json: Json = False,
    quiet: Quiet = False,
    width: Width = None,
) -> None:
    """Compare two files: fields, keys and tensors.

    Checkpoints of one layout are compared field by field, ignoring padding. Otherwise both are compared as GGUF
    checkpoints (converting where needed). Against a model file, only its tensors and the keys that both files have are
    compared. Of LoRA adapters in files of different kinds the pairs are compared, with their scale. The optimizer's
    vectors are compared by parameter if their orders are known. What is left out is listed. Values of two element types
    are compared too; without a tolerance such tensors differ. The summary comes first, and how much further one
    training has come than the other; then the fields that differ, and the tensors, those with the largest change first.
    A tensor's line counts the elements that differ, and gives the largest and the RMS difference: NaN if an element is
    NaN in one file only, or has other bits. -0 and 0 are equal.

    In JSON no list has more than 10,000 rows. The value of a list of more than 1,000 elements, or of a text of more
    than 65,536 characters, is {length, index, value}, of the first element that differs.

    Exit codes: 0 equal; 1 different, or nothing was compared; 2 a file cannot be read, or the files have nothing in
    common; 4 a file is damaged.

    Example: ggcp-schema diff chk-100.ggcp chk-200.ggcp
    """
    if not (rtol >= 0 and atol >= 0):
        raise UsageError("tolerances must not be negative")
    with open_file(a, partial=True) as left, open_file(b, partial=True) as right:
        with progress(left.tensors.nbytes + right.tensors.nbytes, "Comparing", quiet=quiet) as advance:
            found = compare(left, right, rtol=rtol, atol=atol, progress=advance)
        if as_json:
            print_json(document(left.path, right.path, found))
        elif not quiet:
            _print(found, left.path, right.path, width)
        raise_damage(left.damage)
        raise_damage(right.damage)
        if not found.equal:
            raise typer.Exit(1)


def _print(found: Comparison, a: str, b: str, width: int | None) -> None:
    changed = [row for row in found.fields if row.verdict != "equal"]
    fields = _field_rows(changed, output_width(width))
    tensors = [tensor_cells(row) for row in found.tensors if row.verdict != "equal"]
    if fields or tensors:
        for label, path in (("A", a), ("B", b)):
            echo(f"{label}: {escape(path)}")
    _echo_all([verdict(found), *change_lines(found.change)], width)
    for head, rows, n_differing in (
        (FIELDS, fields, found.fields.differing),
        (TENSORS, tensors, found.tensors.differing),
    ):
        if rows:
            echo()
            print_table(head, rows, right=NUMBERS, optional=DROPPED, width=width)
        if n_differing > len(rows):
            echo(f"and {n_differing - len(rows):,} more")
    below = [*omissions(found), *found.notes]
    if below and (fields or tensors):
        echo()
    _echo_all(below, width)


def _echo_all(lines: Iterable[str], width: int | None) -> None:
    for text in map(escape, lines):
        for line in wrapped(text, output_width(width), HANGING):
            echo(line)


def _field_rows(rows: Sequence[FieldRow], width: int | None) -> list[tuple[str, ...]]:
    """Return the cells of a table, with values that are cut so that it fits, or that fill a line if it cannot."""
    if width is None:
        return [field_cells(row, None) for row in rows]
    room = (width - max((cells(row.name) for row in rows), default=0)) // 2 - len(GAP)
    found = [field_cells(row, max(LEAST_TEXT, room)) for row in rows]
    widths = (max(map(cells, column)) + len(GAP) for name, column in zip(FIELDS, zip(*found)) if name not in DROPPED)
    return found if sum(widths) <= width + len(GAP) else [field_cells(row, width - len(f"{GAP}A ")) for row in rows]


def field_cells(row: FieldRow, room: int | None) -> tuple[str, ...]:
    """Format a FieldRow as table cells, of at most `room` cells of the terminal for each value if that is given."""
    sides = ((row.a, row.b), (row.b, row.a))
    texts = (value_text(*side, MAX_TEXT if room is None else min(room, MAX_TEXT)) for side in sides)
    return row.name, verdict_text(row), *(shorten(text, room) for text in texts)


def verdict_text(row: FieldRow | TensorRow) -> str:
    """Return the verdict of a row that is shown; nothing if it is in both files: then it differs."""
    return "" if row.verdict == "different" else VERDICTS[row.verdict]


def value_text(value: KeyValue | None, other: KeyValue | None, room: int = MAX_TEXT) -> str:
    """Return a value as text: with its type if that is what differs, of a list or a long text from where it differs.

    A text is long if it has more than MAX_TEXT characters, or if what differs would be cut off for lack of room.
    """
    if value is None:
        return ""
    kind, item, where = TYPES.get(value.type.rpartition("/")[2], value.type), value.value, ""
    first = first_difference(value, other) if isinstance(item, (str, bytes, *LISTS)) else None
    is_long = other is not None and isinstance(item, str | bytes) and len(item) > room
    if is_long and len(item) <= MAX_TEXT:
        is_long = first is not None and first >= room - 1
    if is_long or isinstance(item, LISTS):
        where = f"[{len(item):,}]" if first is None else f"[{len(item):,}] with [{first}] = "
        item = "" if first is None else item[first:] if is_long else item[first]
    of_type = f" ({value.type})" if other is not None and other.type != value.type else ""
    if isinstance(item, Container):
        values = ((name, inner) for name, inner in item.items() if not name.startswith("_"))
        text = ", ".join(f"{name} {line_text(inner, 'char')}" for name, inner in values)
    else:
        text = line_text(item[:MAX_TEXT] if isinstance(item, str | bytes) else item, kind)
    shown = where + shorten(text, MAX_TEXT) or "''"  # an empty cell means that there is no value
    return f"{shown}{of_type}"


def tensor_cells(row: TensorRow) -> tuple[str, ...]:
    """Format a TensorRow as table cells: shapes and types if they differ, and by how much the data does."""
    if row.a is None or row.b is None or row.differing is None:
        return row.name, verdict_text(row), _shape(row.a), _shape(row.b), "", "", ""
    share = f"{row.differing:,} of {row.a.tensor.n_elements:,}"
    sides = (_shape(row.a), _shape(row.b)) if row.a.tensor.type != row.b.tensor.type else ("", "")
    return row.name, verdict_text(row), *sides, share, short_number(row.largest), short_number(row.rms)


def _shape(side: Operand | None) -> str:
    if side is None:
        return ""
    return shape_text(side.tensor.shape) + ("" if side.tensor.type == "F32" else f" {side.tensor.type}")


def omissions(found: Comparison) -> Iterator[str]:
    """Yield a line for each reason why something was not compared."""
    reasons: dict[tuple[Label, str], list[str]] = {}
    for name, side, _, reason in found.omitted:
        reasons.setdefault((side, reason), []).append(name)
    for (side, reason), names in reasons.items():
        shown = [shorten(name, MAX_TEXT) for name in names[:MAX_NAMES]]
        yield f"ignored in {side}: {names_text(shown, MAX_NAMES, found.omitted.counts[side, reason])} ({reason})"


def verdict(found: Comparison) -> str:
    """Summarize the comparison in one line."""
    if not found.fields and not found.tensors:
        return "nothing was compared"
    counts = [
        (found.fields.differing, found.fields.total, ("field",)),
        (found.tensors.differing - found.n_different_parts, found.tensors.total - found.n_parts, ("tensor",)),
        (found.n_different_parts, found.n_parts, PART),
    ]
    counted = [(differing, count_text(total, *noun)) for differing, total, noun in counts if total]
    if not found.equal:
        *first, last = (f"{differing:,} of {total}" for differing, total in counted)
        return f"{', '.join(first)}{' and ' if first else ''}{last} differ"
    elements = [count_text(found.n_elements, "element")] if found.n_elements else []
    compared = ", ".join([*(total for _, total in counted), *elements])
    within = f"; within the tolerance, the largest difference is {short_number(found.largest)}" if found.largest else ""
    return f"equal: {compared}{within}"


class Counts(NamedTuple):
    """The numbers of all rows, listed or not. The parts of the optimizer's vectors are among the tensors."""

    fields: int
    different_fields: int
    tensors: int
    different_tensors: int
    parts: int
    different_parts: int
    not_compared: int


class FieldJson(NamedTuple):
    """A field as JSON: its values; of long ones the length, and the first element that differs with its index."""

    name: str
    verdict: Verdict
    a: Any
    b: Any


class JSON(NamedTuple):
    """A comparison; no list has more than 10,000 rows, of which the equal ones come last."""

    a: str
    b: str
    equal: bool
    change: TrainingChange | None
    counts: Counts
    fields: Iterable[FieldJson]
    tensors: Iterable[TensorRow]
    not_compared: Sequence[Omission]
    notes: Sequence[str]


def document(a: str, b: str, found: Comparison) -> JSON:
    """Return the comparison of two files for JSON. The rows are made when they are iterated."""
    fields, tensors, omitted = found.fields, found.tensors, found.omitted
    of_tensors = tensors.total, tensors.differing, found.n_parts, found.n_different_parts
    counts = Counts(fields.total, fields.differing, *of_tensors, omitted.counts.total())
    rows = (FieldJson(row.name, row.verdict, _json_value(row.a, row.b), _json_value(row.b, row.a)) for row in fields)
    return JSON(a, b, found.equal, found.change, counts, rows, iter(tensors), omitted[:MAX_ROWS], found.notes)


def _json_value(side: KeyValue | None, other: KeyValue | None) -> Any:
    if side is None:
        return None
    value = side.value
    if isinstance(value, str | bytes) and len(value) > paths.MAX_TEXT:
        index = first_difference(side, other)
        part = None if index is None else json_value_of(value[index : index + MAX_TEXT], side.type)
        return {"length": len(value), "index": index, "value": part}
    if not isinstance(value, LISTS):
        return json_value_of(value, side.type)
    if len(value) <= paths.MAX_LIST:
        return _plain(value)
    index = first_difference(side, other)
    return {"length": len(value), "index": index, "value": None if index is None else _plain(value[index])}


def _plain(value: Any) -> Any:
    """Return an element of a list for JSON. Of a record or list that is in it, a long list is only counted."""
    if isinstance(value, Container):
        return {name: _plain(inner) for name, inner in value.items() if not name.startswith("_")}
    if isinstance(value, LISTS):
        long = len(value) > paths.MAX_LIST
        return {"length": len(value), "index": None, "value": None} if long else [_plain(inner) for inner in value]
    return json_value_of(value, "char")


def first_difference(side: KeyValue, other: KeyValue | None) -> int | None:
    """Return the index of the first element of a list or text that the other side does not have; None if it has all."""
    alike = (str, bytes) if isinstance(side.value, str | bytes) else LISTS
    if other is None or not isinstance(other.value, alike):
        return 0 if side.value else None
    return first_different(side.value, other.value)
