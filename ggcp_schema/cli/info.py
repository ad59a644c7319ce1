"""`info`: what a file is, and what can be done with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ggcp_schema.cli.options import FILE_HELP, Json, Width
from ggcp_schema.cli.output import echo, escape, json_text, output_width, paint, print_json, raise_damage
from ggcp_schema.cli.table import print_table
from ggcp_schema.errors import GgcpError, UsageError
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.facts import Summary
from ggcp_schema.inspect.summary import summarize, summary_lines
from ggcp_schema.llama.eras import epsilon_text

LABEL = 13  # columns before the text of a line
NUMBERS = ("iterations", "samples", "loss", "epsilon")
DROPPED = ("samples", "optimizer")  # on a narrow terminal, in this order
HEAD = ("file", "iterations", "samples", "loss", "optimizer", "epsilon", "verdict")


def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=FILE_HELP)],
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="COLUMN", help="Sort the table of several files by a column, such as loss."),
    ] = None,
    as_json: Json = False,
    width: Width = None,
) -> None:
    """Summarize a file: training progress, loss, optimizer, model, and what to do next.

    Of several files one table is printed; --json then prints a line for each. A loss that is only a rough measure has a
    ~ before it, an epsilon that is not certain a ? after it.

    JSON keys: file, format, kind, size, version, layout, writer, era, rms_eps, train_its, train_samples, train_tokens,
    n_ctx, context, loss, optimizer, order, scale, hparams, n_ff, n_ff_source, n_params, tensor_types, n_tokens, bytes,
    details, findings, damage, condition, next. A file that cannot be read has only file and error.

    Exit code 0: every file is whole, 2: one cannot be read, 4: one is damaged or of an unknown format; the highest
    of all files counts.

    Example: ggcp-schema info *.ggcp --sort loss
    """
    if sort is not None and sort not in HEAD:
        raise UsageError(f"there is no column {sort!r}", f"The columns are {', '.join(HEAD)}.")
    if len(files) == 1:
        _one(files[0], as_json=as_json, width=width)
    else:
        _several(files, sort, as_json=as_json, width=width)


def _one(path: Path, *, as_json: bool, width: int | None) -> None:
    with open_file(path, partial=True) as file:
        summary = summarize(file)
        if as_json:
            print_json(summary.as_dict())
        else:
            for label, text in summary_lines(summary):
                _print_line(label, escape(text), output_width(width))
        raise_damage(file.damage)


def _print_line(label: str, text: str, width: int | None) -> None:
    """Print a line with its label. The text is wrapped between words, but for a command, which is copied as a whole."""
    lines = [text]
    if width is not None and not text.startswith("ggcp-schema "):
        lines = textwrap.wrap(text, max(width - LABEL, 20), break_long_words=False, break_on_hyphens=False) or [""]
    for number, line in enumerate(lines):
        echo(f"{paint(('' if number else label).ljust(LABEL - 1), 'cyan')} {line}")


def _several(paths: Sequence[Path], sort: str | None, *, as_json: bool, width: int | None) -> None:
    worst = 0
    rows: list[tuple[list[Any], dict[str, Any]]] = []  # the values of the columns, and the JSON data
    for path in paths:
        try:
            with open_file(path, partial=True) as file:
                summary = summarize(file)
        except GgcpError as error:
            worst = max(worst, error.exit_code)
            message = error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ")
            data = {"file": str(path), "error": {"message": error.message, "hint": error.hint}}
            rows.append(([str(path), None, None, None, None, None, message], data))
            continue
        if summary.damage is not None:
            worst = max(worst, summary.damage.exit_code)
        rows.append((_columns(summary), summary.as_dict() if as_json else {}))
    if sort is not None:
        index = HEAD.index(sort)
        rows.sort(key=lambda row: (row[0][index] is None, row[0][index]))
    if as_json:
        for _, data in rows:
            echo(json_text(data))
    else:
        cells = [[_cell(value) for value in values] for values, _ in rows]
        print_table(HEAD, cells, right=NUMBERS, optional=DROPPED, width=width)
    if worst:
        raise typer.Exit(worst)


class Number(float):
    """A number that is shown in another form than it is sorted by."""

    text: str

    def __new__(cls, value: float, text: str) -> Number:
        """Return the number with its text."""
        self = super().__new__(cls, value)
        self.text = text
        return self


def _columns(summary: Summary) -> list[Any]:
    """Return the values of the columns; None if the file does not tell."""
    loss = epsilon = None
    if summary.loss is not None and summary.losses is not None:
        loss = Number(summary.loss, f"{'~' * summary.losses.is_rough}{summary.loss:.4f}")
    if summary.rms_eps is not None:
        uncertain = summary.era is not None and not summary.era.rms_eps_certain
        epsilon = Number(summary.rms_eps, f"{epsilon_text(summary.rms_eps)}{'?' * uncertain}")
    optimizer = None if summary.optimizer is None else summary.optimizer.type
    return [summary.file, summary.train_its, summary.train_samples, loss, optimizer, epsilon, summary.verdict]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Number):
        return value.text
    return f"{value:,}" if isinstance(value, int) else str(value)
