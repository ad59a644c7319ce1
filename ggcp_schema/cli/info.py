"""`info`: what a file is, and what can be done with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ggcp_schema.cli.errors import Unread, echo_error, in_a_line, unread
from ggcp_schema.cli.files import files_in
from ggcp_schema.cli.options import FILES_HELP, Json, Verbose, Width, one_of
from ggcp_schema.cli.output import echo, json_text, output_width, paint, progress, wrapped, write
from ggcp_schema.cli.table import print_table
from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.brief import brief_lines, loss_in_short, state_text
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.summary import summarize, summary_lines
from ggcp_schema.inspect.text import escape
from ggcp_schema.llama.writers import epsilon_text
from ggcp_schema.schema.inference import optimizer_text

NUMBERS = ("iterations", "samples", "loss", "epsilon")
DROPPED = ("samples", "optimizer", "kind")  # on a narrow terminal, in this order
DROPPED_OF_KINDS = ("samples", "optimizer", "epsilon", "iterations")  # where the files are not of one kind
COLOURS = {"✓": "green", "✗": "red"}
HEAD = ("file", "kind", "iterations", "samples", "loss", "optimizer", "epsilon", "state")


def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=FILES_HELP)],
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="COLUMN",
            autocompletion=one_of(*HEAD),
            help="Sort the table of several files by a column, such as loss.",
        ),
    ] = None,
    verbose: Verbose = False,
    as_json: Json = False,
    width: Width = None,
) -> None:
    """Summarize a file on one screen: its state, the model, the training, the loss, and what to do next.

    -v adds who wrote it, the evidence, what the bytes are for, and examines the values of a training state, which reads
    them all. Of several files, or of those in a folder, one table is printed: a loss that is a rough measure, or a sum
    over threads, has a ~ before it, what is not certain a ? after it.

    --json prints one object on a line for each file, including files that cannot be read.

    Exit codes: 0 every file is whole; 1 one is unsound: -v found what no training leaves; 2 one cannot be read, or is
    of an unknown format; 4 one is damaged. The highest of all files counts.

    Example: ggcp-schema info *.ggcp --sort loss
    """
    sort = sort and sort.lower()
    if sort is not None and sort not in HEAD:
        raise UsageError(f"there is no column {sort!r}", f"The columns are {', '.join(HEAD)}.")
    if len(files) == 1 and not files[0].is_dir() and not as_json:
        code = _one(files[0], verbose=verbose, width=width)
    else:
        code = _several(files_in(files, quiet=as_json), sort, verbose=verbose, as_json=as_json, width=width)
    if code:
        raise typer.Exit(code)


def _summary(path: Path, *, verbose: bool, quiet: bool = False) -> Summary:
    with (
        open_file(path, partial=True) as file,
        progress(file.tensors.nbytes if verbose else 0, "Reading", quiet=quiet) as advance,
    ):
        return summarize(file, data=verbose, progress=advance)


def _one(path: Path, *, verbose: bool, width: int | None) -> int:
    summary = _summary(path, verbose=verbose)
    lines = summary_lines(summary) if verbose else brief_lines(summary)
    commands, label_width = dict(summary.advice), max(len(label) for label, _ in lines) + 1
    for label, text in lines:
        # A command is copied as a whole.
        _print_line(label.ljust(label_width), text, None if label in commands else output_width(width))
    if summary.damage is None:
        return int(bool(summary.unsound))
    # If the hint is a command: what to do is among the lines.
    echo_error(summary.damage.with_hint("") if "`ggcp-schema " in summary.damage.hint else summary.damage)
    return summary.damage.exit_code


def _print_line(label: str, text: str, width: int | None) -> None:
    """Print a line with its label. The text is wrapped between words, but without a width."""
    for number, line in enumerate(wrapped(escape(text), width and width - len(label))):
        colour = COLOURS.get(line[:1]) if not number else None
        write(paint((" " * len(label) if number else label), "cyan") + paint(line, colour) + "\n")


JSON = Summary | Unread


class Row(NamedTuple):
    """A file in the table: what its cells are sorted by, their texts, and the JSON data."""

    values: Sequence[Any]
    cells: Sequence[str]
    data: JSON


def _several(paths: Sequence[Path], sort: str | None, *, verbose: bool, as_json: bool, width: int | None) -> int:
    worst, rows, wrong = 0, list[Row](), None
    for path in paths:
        try:
            summary = _summary(path, verbose=verbose, quiet=as_json)
        except GgcpError as error:
            message = in_a_line(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
            cells = [str(path), *[""] * (len(HEAD) - 2), f"✗ {message}"]
            rows.append(Row([str(path), *[None] * (len(HEAD) - 2), message], cells, unread(path, error)))
            wrong = error
        else:
            rows.append(_row(summary))
            worst, wrong = max(worst, int(bool(summary.unsound))), summary.damage
        if wrong is not None:
            worst = max(worst, wrong.exit_code)
    if as_json and len(paths) == 1 and wrong is not None:
        echo_error(wrong)
    if sort is not None:
        rows.sort(key=lambda row: _sort_key(row.values[HEAD.index(sort)]))
    if as_json:
        for row in rows:
            echo(json_text(row.data))
        return worst
    dropped = DROPPED if len({row.values[1] for row in rows} - {None}) < 2 else DROPPED_OF_KINDS
    columns = print_table(HEAD, [row.cells for row in rows], right=NUMBERS, optional=dropped, cut="state", width=width)
    marks = {"~": "~ a rough measure, or a sum over threads", "?": "? not certain"}
    marked = [HEAD.index(name) for name in NUMBERS if name in columns]
    texts = [row.cells[column] for row in rows for column in marked]
    if shown := [text for mark, text in marks.items() if any(mark in cell for cell in texts)]:
        echo(paint("; ".join(shown), dim=True))
    return worst


def _sort_key(value: Any) -> tuple[bool, bool, Any]:
    """Return the key to sort a value by: numbers first, then NaN, then missing values."""
    return value is None, isinstance(value, float) and math.isnan(value), value


def _row(summary: Summary) -> Row:
    epsilon = ""
    if summary.rms_eps is not None:
        uncertain = summary.era is not None and not summary.era.rms_eps_certain
        epsilon = f"{epsilon_text(summary.rms_eps)}{'?' * uncertain}"
    optimizer = None if summary.optimizer is None else summary.optimizer.type
    counts = [summary.train_its if summary.is_counted else None, summary.train_samples]
    number = summary.loss if summary.impossible_loss is None else None
    state = state_text(summary)
    values = [summary.file, summary.short, *counts, number, optimizer, summary.rms_eps, state]
    its, samples = ("" if count is None else f"{count:,}" for count in counts)
    cells = [
        summary.file,
        summary.short,
        its,
        samples,
        loss_in_short(summary),
        optimizer_text(optimizer or ""),
        epsilon,
        state,
    ]
    return Row(values, cells, summary)
