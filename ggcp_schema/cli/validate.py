"""`validate`: all that is wrong with a file, and all that is odd."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ggcp_schema.inspect.validate import Odd, Report


def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ggcp checkpoint.")],
    data: Annotated[
        bool, typer.Option("--data", help="Read the tensor data too, and look for NaN, infinities, negative variances.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Give the findings as JSON.")] = False,
) -> None:
    """Check a checkpoint against every rule of its format.

    Lists all errors, and apart from them warnings: what is allowed, but odd. Exit codes: 0 valid, with or without
    warnings; 1 invalid, but everything else could be checked; 4 damaged so that the rest cannot be read, or
    another kind of file.
    """
    from contextlib import closing

    from ggcp_schema.cli.output import progress
    from ggcp_schema.inspect.validate import odd_values
    from ggcp_schema.inspect.validate import validate as check
    from ggcp_schema.source import Source

    with closing(Source(file)) as source:
        report = check(source)
        warnings = list(report.warnings)
        if data:
            with progress(sum(tensor.nbytes for tensor in report.tensors), "Reading") as advance:
                warnings += odd_values(report, advance)
    if as_json:
        from ggcp_schema.cli.output import print_json

        print_json(as_dict(report, warnings, data))
    else:
        show(report, warnings, data)
    if not report.valid:
        raise typer.Exit(4 if report.damage else 1)


def as_dict(report: Report, warnings: list[Odd], data: bool) -> dict[str, Any]:
    """The findings as data. `damage` is null where all could be read, `expected` where damage hides the number."""
    return {
        "file": report.source.path,
        "valid": report.valid,
        "records": {"checked": report.checked, "expected": report.expected},
        "fields": report.fields,
        "data": data,
        "errors": [error._asdict() for error in report.errors],
        "warnings": [warning._asdict() for warning in warnings],
        "damage": report.damage._asdict() if report.damage else None,
    }


def show(report: Report, warnings: list[Odd], data: bool) -> None:
    """A line for each finding, and the verdict."""
    from ggcp_schema.cli.output import echo, escape, paint

    errors = [*report.errors, *([report.damage] if report.damage else [])]
    for error in errors:
        missing = f": the file is {error.missing} bytes too short" if error.missing else ""
        where = f"{error.path} at offset {error.offset} ({error.offset:#x})"
        echo(f"{paint('error:', 'red')} {where}: expected {error.expected}, found {error.found}{missing}")
    for odd in warnings:
        echo(
            f"{paint('warning:', 'yellow')} {odd.path} at offset {odd.offset} ({odd.offset:#x}): {escape(odd.message)}"
        )
    verdict = "damaged" if report.damage else "valid" if report.valid else "invalid"
    if report.expected is None:
        records = f"{count(report.checked, 'record')} (the damage hides how many there are)"
    else:
        records = f"{report.checked:,} of {report.expected:,} records"
    read = f", {sum(tensor.n_elements for tensor in report.tensors):,} values" if data else ""
    findings = f"{count(len(errors), 'error')}, {count(len(warnings), 'warning')}"
    colour = "green" if report.valid else "red"
    name = escape(report.source.path)
    echo(f"{paint(verdict, colour, bold=True)}: {name}: {findings}; checked {records}, {report.fields:,} fields{read}")


def count(number: int, noun: str) -> str:
    """`no errors`, `1 error`, `2 errors`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}" if number else f"no {noun}s"
