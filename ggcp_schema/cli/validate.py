"""`validate`: check files against every rule of their format."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import typer

from ggcp_schema.cli.errors import ErrorJson, echo_error, in_a_line, unread
from ggcp_schema.cli.files import files_in
from ggcp_schema.cli.options import FILES_HELP, Json, Quiet
from ggcp_schema.cli.output import echo, json_text, paint, progress, write
from ggcp_schema.errors import GgcpError, NotACheckpointError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.source import Source
from ggcp_schema.formats.parsing import how_altered
from ggcp_schema.formats.rules import Oddity, Problem
from ggcp_schema.formats.state import has_values_twice
from ggcp_schema.inspect.commands import repair_command
from ggcp_schema.inspect.text import count_text, escape
from ggcp_schema.inspect.validate import Report, examine_data
from ggcp_schema.inspect.validate import validate as check

EXIT_CODES = {"valid": 0, "unsound": 1, "invalid": 1, "damaged": 4, "unknown": 4}


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
    cannot be read or is of an unknown format, 4 it is damaged: something in it cannot be read. Of several files the
    highest code counts.

    --json prints one object on a line for each file, including files that cannot be read.

    Example: ggcp-schema validate --data --strict *.ggcp
    """
    verdicts: Counter[str] = Counter()
    worst = 0
    files = files_in(files, quiet=as_json or quiet)
    for file in files:
        try:
            result: JSON = examine(file, data=data, strict=strict, quiet=as_json or quiet)
            worst = max(worst, EXIT_CODES[result.verdict])
        except GgcpError as error:
            if len(files) == 1 and not as_json:
                raise
            result, worst = unreadable(file, error), max(worst, error.exit_code)
            if not (as_json or quiet):
                echo(f"{paint(result.verdict, 'red', bold=True)}: {escape(in_a_line(error))}")
            elif len(files) == 1:
                echo_error(error)
        verdicts[result.verdict] += 1
        if as_json:
            write(json_text(result) + "\n")
    if len(files) > 1 and not (as_json or quiet):
        echo(f"{count_text(len(files), 'file')}: {', '.join(f'{count:,} {name}' for name, count in verdicts.items())}")
    raise typer.Exit(worst)


def examine(file: Path, *, data: bool, strict: bool, quiet: bool) -> Report:
    """Check a file. Print what was found, unless `quiet`, and return it."""
    with closing(Source(file)) as source:
        report = check(source, strict=strict)
        if data:
            from ggcp_schema.inspect.soundness import bytes_read

            with progress(bytes_read(report.file, report.readable), "Reading", quiet=quiet) as advance:
                report = examine_data(report, advance)
        source.check_unchanged()
        is_rescued = not quiet and _is_rescued(report)
        altered = None if quiet or report.is_whole else how_altered(source)
    if not quiet:
        show(report)
    if altered:
        echo(escape(str(altered)))
    if is_rescued:
        echo(f"rescue: {repair_command(report.file.path)}")
    return report


def _is_rescued(report: Report) -> bool:
    """Return True if `repair` takes back something of the file."""
    if report.verdict == "unsound":
        return has_values_twice(report.file)
    return report.verdict not in {"valid", "unknown"} and report.file.is_repairable


@json_keys("file error format verdict valid")
class Unreadable(NamedTuple):
    """A file that could not be checked."""

    file: str
    error: ErrorJson
    verdict: Literal["unreadable", "unknown"]
    format: None = None
    valid: bool = False


JSON = Report | Unreadable


def unreadable(file: Path, error: GgcpError) -> Unreadable:
    """Return that a file could not be checked."""
    is_unknown = isinstance(error, NotACheckpointError)
    return Unreadable(**unread(file, error), verdict="unknown" if is_unknown else "unreadable")


def show(report: Report) -> None:
    """Print the verdict, and a line for each finding."""
    errors = [*report.errors, *([report.damage] if report.damage else [])]
    n_errors, n_warnings = len(errors) + report.more.errors, len(report.warnings) + report.more.warnings
    found = f"{count_text(n_errors, 'error')}, {count_text(n_warnings, 'warning')}"
    found += f", {len(report.unsound):,} unsound" if report.unsound else ""
    name, colour = escape(report.file.path), "green" if report.verdict == "valid" else "red"
    echo(f"{paint(report.verdict, colour, bold=True)}: {name}: {found}{checked_text(report)}")
    for error in errors:
        echo(f"{paint('error:', 'red')} {place(error)}: {escape(error.message)}")
    if report.more.errors:
        echo(f"and {count_text(report.more.errors, 'more error')}")
    for bad in report.unsound:
        echo(f"{paint('unsound:', 'red')} {escape(bad.path)}: {escape(bad.message)}")
    for warning in report.warnings:
        echo(f"{paint('warning:', 'yellow')} {place(warning)}: {escape(warning.message)}")
    if report.more.warnings:
        echo(f"and {count_text(report.more.warnings, 'more warning')}")


def checked_text(report: Report) -> str:
    """Return how many tensors were checked, in words that follow others; nothing of a file that has none."""
    checked, expected = report.records
    if not checked and not expected:
        return ""
    if expected is None:
        cause = "what is unknown" if report.is_unknown else "the damage"
        text = count_text(checked, "tensor") + (f" ({cause} hides how many there are)" if report.damage else "")
    else:
        text = f"{checked:,} of {count_text(expected, 'tensor')}"
    if report.data:
        text += f", {count_text(sum(tensor.n_elements for tensor in report.readable), 'value')}"
        unread = len(report.file.tensors) - len(report.readable)
        text += f"; {count_text(unread, 'tensor')} not read" if unread else ""
    return f"; checked {text}"


def place(finding: Problem | Oddity) -> str:
    """Return where a finding is: `norm.type at offset 20552 (0x5048)`."""
    return f"{escape(finding.path)} at offset {finding.offset} ({finding.offset:#x})"
