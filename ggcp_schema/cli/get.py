"""`get`: one value, or a slice of a list or of a tensor's data."""

from __future__ import annotations

import sys
from itertools import chain, islice
from typing import Annotated, Any, TypedDict

import typer

from ggcp_schema.cli import options
from ggcp_schema.cli.complete import complete_path
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.output import json_text, say, until_closed, write
from ggcp_schema.formats import open_file
from ggcp_schema.formats.elements import Values
from ggcp_schema.inspect.paths import reading
from ggcp_schema.inspect.text import escape, json_value_of, line_text


class Place(TypedDict):
    """Where values lie."""

    path: str
    type: str
    offset: int
    size: int


class JSON(Place):
    """Values as JSON: one, or a list."""

    value: Any


def get(
    file: options.File,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A field path as in `dump`, a GGUF key or a tensor; [i], [a:b], [row,column] and [row,a:b] select.",
            autocompletion=complete_path,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Print one value, or a slice of a tensor's data.

    One value per line; control characters in texts are escaped on a terminal, not in a pipe. Elements are indexed as in
    Python, without a step. Those of a tensor count in file order: layers[0].wq.data[0:4] are the first four of the
    first row, and layers[0].wq[2,0], as in numpy, is the first of the third. Tensors may be given by their ggcp path or
    GGUF name, in GGUF files without .data. optimizer.state.m[layers[0].wq] are the moments of one parameter.

    Exit code 4 if damage of the file may have taken a part of what was asked for. Damage elsewhere is told on stderr.

    Example: ggcp-schema get checkpoint.ggcp 'norm.data[0:4]'
    """
    with open_file(file, partial=True) as opened, reading(opened):
        values = opened.values(path)
        with until_closed():
            if as_json:
                print_json_values(values)
            else:
                print_values(values)
        if values.note:
            say(escape(values.note))
        raise_damage(opened.damage, is_whole=values.is_whole, path=values.path)


def print_values(values: Values) -> None:
    """Print the values, one to a line. Text is escaped, except a single text that does not go to a terminal."""
    raw = values.single and not sys.stdout.isatty()
    for chunk in values.chunks():
        lines = (line_text(value, values.type) for value in chunk)
        write("".join(f"{line if raw else escape(line)}\n" for line in lines))


def print_json_values(values: Values) -> None:
    """Print the values and where they lie as one JSON object. Only a piece of a long list is in memory at a time."""
    chunks = values.chunks()
    first = list(islice(chunks, 1))  # an error comes before the output
    head: Place = {"path": values.path, "type": values.type, "offset": values.offset, "size": values.size}
    write(json_text(head, indented=True).removesuffix("\n}") + ',\n  "value": ')
    before = "" if values.single else "["
    for chunk in chain(first, chunks):
        write(before + json_text([json_value_of(value, values.type) for value in chunk])[1:-1])
        before = ", "
    write(("" if values.single else "[]" if before == "[" else "]") + "\n}\n")
