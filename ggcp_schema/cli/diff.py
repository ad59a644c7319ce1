"""`diff`: what differs between two files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ggcp_schema.inspect.diff import Comparison, Field, FieldRow, TensorRow

HEAD = ("field or tensor", "verdict", "A", "B", "differing", "largest", "RMS")
NUMBERS = HEAD[4:]


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A ggcp checkpoint, or a GGUF file made from one.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    rtol: Annotated[
        float, typer.Option("--rtol", help="Relative tolerance: equal if |a - b| <= atol + rtol |b|.")
    ] = 0.0,
    atol: Annotated[float, typer.Option("--atol", help="Absolute tolerance.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="The whole comparison as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing; the exit code is the answer.")] = False,
) -> None:
    """Compare two files: fields, keys and tensors. Exit code 0: equal, 1: they differ.

    Checkpoints of one layout are compared field by field, but for padding. Otherwise, both files are compared as the
    GGUF checkpoints that they are or become; and with a model, its tensors and the keys that both have. What is left
    out is listed. A tensor's line counts the elements that differ, and gives the largest and the RMS difference.

    JSON keys: a, b, equal; fields {name, verdict, a, b}; tensors {name, verdict, a, b (shapes), differing, largest,
    rms}; not_compared {name, side, reason}. Verdicts: equal, different, only in A, only in B.
    """
    from ggcp_schema.cli.output import echo, escape, print_json, progress, raise_damage
    from ggcp_schema.cli.table import print_table
    from ggcp_schema.errors import UsageError
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.diff import EQUAL, compare, shared_bytes

    if not (rtol >= 0 and atol >= 0):
        raise UsageError("a tolerance cannot be negative")
    with open_any(a, partial=True) as left, open_any(b, partial=True) as right:
        with progress(shared_bytes(left, right), "Comparing", quiet=quiet) as advance:
            found = compare(left, right, rtol=rtol, atol=atol, progress=advance)
        if as_json:
            print_json({"a": left.path, "b": right.path, **as_dict(found)})
        elif not quiet:
            rows = [
                *(field_cells(row) for row in found.fields if row.verdict != EQUAL),
                *(tensor_cells(row) for row in found.tensors if row.verdict != EQUAL),
            ]
            if rows:
                echo(f"A: {escape(left.path)}")
                echo(f"B: {escape(right.path)}")
                print_table(HEAD, rows, right=NUMBERS)
            for line in (*omissions(found), verdict(found)):
                echo(escape(line))
        raise_damage(getattr(left, "damage", None))
        raise_damage(getattr(right, "damage", None))
        if not found.equal:
            raise typer.Exit(1)


def field_cells(row: FieldRow) -> tuple[str, ...]:
    """A line of the table."""
    return row.name, row.verdict, field_text(row.a, row.b), field_text(row.b, row.a), "", "", ""


def field_text(field: Field | None, other: Field | None) -> str:
    """The value; with its type where that is what differs, and of a list only the first element that differs."""
    from ggcp_schema.cli.output import float32

    if field is None:
        return ""
    value: Any = field.value
    where = ""
    if isinstance(value, list | tuple):
        others = other.value if other and isinstance(other.value, list | tuple) else ()
        first = next((i for i, item in enumerate(value) if i >= len(others) or item != others[i]), None)
        where = f"[{len(value)}]" if first is None else f"[{len(value)}] with [{first}] = "
        value = "" if first is None else value[first]
    text = float32(value) if isinstance(value, float) else value.hex() if isinstance(value, bytes) else str(value)
    return f"{where}{text}" + (f" ({field.type})" if other and other.type != field.type else "")


def tensor_cells(row: TensorRow) -> tuple[str, ...]:
    """A line of the table: the shapes where they differ, else by how much the data does."""
    from ggcp_schema.cli.tensors import shape_text

    if row.a is None or row.b is None or row.differing is None:
        shapes = (
            (shape_text(side.shape) + ("" if side.type == "F32" else f" {side.type}")) if side else ""
            for side in (row.a, row.b)
        )
        return row.name, row.verdict, *shapes, "", "", ""
    share = f"{row.differing:,} of {row.a.n_elements:,}"
    return row.name, row.verdict, "", "", share, f"{row.largest:.4g}", f"{row.rms:.4g}"


def omissions(found: Comparison) -> Iterator[str]:
    """What was not compared, a line for each reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for omission in found.omitted:
        reasons.setdefault((omission.side, omission.reason), []).append(omission.name)
    for (side, reason), names in reasons.items():
        some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        yield f"not compared, in {side}: {some} ({reason})"


def verdict(found: Comparison) -> str:
    """The last line."""
    from ggcp_schema.inspect.diff import EQUAL

    fields, tensors = len(found.fields), len(found.tensors)
    if not found.equal:
        differ = [sum(row.verdict != EQUAL for row in rows) for rows in (found.fields, found.tensors)]
        return f"{differ[0]} of {fields} fields and {differ[1]} of {tensors} tensors differ"
    elements = sum(row.a.n_elements for row in found.tensors if row.a)
    largest = max((row.largest or 0.0 for row in found.tensors), default=0.0)
    within = f"; within the tolerance, the largest difference is {largest:.4g}" if largest else ""
    return f"equal: {fields} fields, {tensors} tensors, {elements:,} elements{within}"


def as_dict(found: Comparison) -> dict[str, Any]:
    """The comparison as data, equal fields and tensors included."""
    return {
        "equal": found.equal,
        "fields": [
            {"name": row.name, "verdict": row.verdict, "a": row.a and row.a.value, "b": row.b and row.b.value}
            for row in found.fields
        ],
        "tensors": [
            {
                "name": row.name,
                "verdict": row.verdict,
                "a": row.a and list(row.a.shape),
                "b": row.b and list(row.b.shape),
                "differing": row.differing,
                "largest": row.largest,
                "rms": row.rms,
            }
            for row in found.tensors
        ],
        "not_compared": [vars(omission) for omission in found.omitted],
    }
