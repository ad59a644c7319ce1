"""`validate`: check files against every rule of their format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import typer

from ggcp_schema.cli.files import files_in
from ggcp_schema.cli.options import FILES_HELP, Json, Quiet
from ggcp_schema.cli.output import Unread, echo, echo_error, json_text, paint, progress, unread, write
from ggcp_schema.errors import GgcpError, NotACheckpointError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.rules import Oddity, Problem
from ggcp_schema.inspect.text import count_text, escape
from ggcp_schema.inspect.validate import Report, examine_data
from ggcp_schema.inspect.validate import validate as check
from ggcp_schema.llama.state import Unsound

Outcome = Literal["valid", "unsound", "invalid", "unreadable", "damaged", "unknown"]
EXIT_CODES: dict[Outcome, int] = {"valid": 0, "unsound": 1, "invalid": 1, "unreadable": 2, "damaged": 4, "unknown": 2}


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=FILES_HELP)],
    data: Annotated[
        bool,
        typer.Option(
            "--data",
            help="Read the tensors too, and report NaN, infinities, and values that training cannot have left.",
        ),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as errors.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check files against every rule of their format.

    Reports errors, and warnings for values that are allowed but unusual. With --data, a checkpoint with values that no
    training leaves, as after a lost page of a disk, is unsound. Exit codes: 0 valid, 1 invalid or unsound, 2 the file
    cannot be read or is of an unknown format, 4 it is damaged so that the rest cannot be checked. Of several files the
    highest code counts.

    --json prints one object on a line for each file, including files that cannot be read.

    Example: ggcp-schema validate --data --strict *.ggcp
    """
    verdicts: Counter[Outcome] = Counter()
    files = files_in(files)

    def results() -> Iterator[Verdict]:
        for file in files:
            try:
                result: Verdict = examine(file, data=data, strict=strict, quiet=as_json or quiet)
            except GgcpError as error:
                if len(files) == 1 and not as_json:
                    raise
                result = unreadable(file, error, quiet=as_json or quiet)
                if len(files) == 1:
                    echo_error(error)
            verdicts[result["verdict"]] += 1
            yield result

    for result in results():
        if as_json:
            write(json_text(result) + "\n")
    if len(files) > 1 and not (as_json or quiet):
        echo(f"{count_text(len(files), 'file')}: {', '.join(f'{count:,} {name}' for name, count in verdicts.items())}")
    raise typer.Exit(max(EXIT_CODES[verdict] for verdict in verdicts))


def examine(file: Path, *, data: bool, strict: bool, quiet: bool) -> Verdict:
    """Check a file. Print what was found and return the verdict; if `quiet`, return all of it for JSON."""
    with closing(Source(file)) as source:
        report = check(source)
        warnings, unsound = list(report.warnings), list[Unsound]()
        if data:
            from ggcp_schema.inspect.soundness import bytes_read_again

            total = sum(tensor.nbytes for tensor in report.readable) + bytes_read_again(report.file)
            with progress(total, "Reading", quiet=quiet) as advance:
                odd, unsound = examine_data(report, advance)
            warnings += odd
        source.check_unchanged()
        valid = report.valid and not (strict and warnings)
        verdict: Outcome = "damaged" if report.damage else "invalid" if not valid else "unsound" if unsound else "valid"
        if not quiet:
            show(report, unsound, warnings, verdict, data=data)
            return {"verdict": verdict}
        return as_dict(report, unsound, warnings, verdict, data=data)


def unreadable(file: Path, error: GgcpError, *, quiet: bool) -> Unreadable:
    """Print that one of several files could not be checked, unless `quiet`, and return it for JSON."""
    verdict: Outcome = "unknown" if isinstance(error, NotACheckpointError) else "unreadable"
    if not quiet:
        echo(f"{paint(verdict, 'red', bold=True)}: {escape(error.message)}")
    return {**unread(file, error), "format": None, "verdict": verdict, "valid": False}


class Verdict(TypedDict):
    """The verdict on a file."""

    verdict: Outcome


class Unreadable(Verdict, Unread):
    """A file that could not be checked."""

    format: None
    valid: bool


class Records(TypedDict):
    """How many tensors were checked; `expected` is null if damage hides the number."""

    checked: int
    expected: int | None


class More(TypedDict):
    """How many were left out after the first 1,000."""

    errors: int
    warnings: int


class Checked(Verdict):
    """What was found in a file; `damage` is null if all was read."""

    file: str
    format: str
    valid: bool
    records: Records
    fields: int
    data: bool
    errors: Sequence[Problem]
    unsound: Sequence[Unsound]
    warnings: Sequence[Oddity]
    more: More
    damage: Problem | None


JSON = Checked | Unreadable


def as_dict(report: Report, unsound: list[Unsound], warnings: list[Oddity], verdict: Outcome, *, data: bool) -> Checked:
    """Return the findings for JSON."""
    return {
        "file": report.file.path,
        "format": report.file.format.name,
        "verdict": verdict,
        "valid": report.valid and not unsound,
        "records": {"checked": report.checked, "expected": report.expected},
        "fields": report.fields,
        "data": data,
        "errors": report.errors,
        "unsound": unsound,
        "warnings": warnings,
        "more": {"errors": report.errors.more, "warnings": report.warnings.more},
        "damage": report.damage,
    }


def show(report: Report, unsound: list[Unsound], warnings: list[Oddity], verdict: Outcome, *, data: bool) -> None:
    """Print a line for each finding, and the verdict."""
    errors = [*report.errors, *([report.damage] if report.damage else [])]
    for error in errors:
        echo(f"{paint('error:', 'red')} {place(error)}: {escape(error.message)}")
    if report.errors.more:
        echo(f"and {count_text(report.errors.more, 'more error')}")
    for bad in unsound:
        echo(f"{paint('unsound:', 'red')} {escape(bad.path)}: {escape(bad.message)}")
    for warning in warnings:
        echo(f"{paint('warning:', 'yellow')} {place(warning)}: {escape(warning.message)}")
    if report.warnings.more:
        echo(f"and {count_text(report.warnings.more, 'more warning')}")
    noun = "tensor"
    if report.expected is None:
        checked = count_text(report.checked, noun)
        checked += "" if report.valid else " (the damage hides how many there are)"
    elif report.expected == 0:
        checked = f"no {noun}s"
    else:
        checked = f"{report.checked:,} of {count_text(report.expected, noun)}"
    checked += f", {count_text(report.fields, 'field')}"
    if data:
        checked += f", {count_text(sum(tensor.n_elements for tensor in report.readable), 'value')}"
        unread = len(report.file.tensors) - len(report.readable)
        checked += f"; {count_text(unread, 'tensor')} not read" if unread else ""
    n_errors, n_warnings = len(errors) + report.errors.more, len(warnings) + report.warnings.more
    found = f"{count_text(n_errors, 'error')}, {count_text(n_warnings, 'warning')}"
    found += f", {len(unsound):,} unsound" if unsound else ""
    name, colour = escape(report.file.path), "green" if verdict == "valid" else "red"
    echo(f"{paint(verdict, colour, bold=True)}: {name}: {found}; checked {checked}")


def place(finding: Problem | Oddity) -> str:
    """Return where a finding is: `norm.type at offset 20552 (0x5048)`."""
    return f"{escape(finding.path)} at offset {finding.offset} ({finding.offset:#x})"
