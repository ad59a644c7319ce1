"""`schema`: the reference of a format, as the program itself reads it."""

from __future__ import annotations

import difflib
import os
from importlib import import_module
from itertools import groupby
from typing import Annotated, Literal

import typer

from ggcp_schema.cli import options
from ggcp_schema.cli.app import COMMANDS
from ggcp_schema.cli.complete import complete_format
from ggcp_schema.cli.output import echo, output_width, paint, print_json, wrapped, write
from ggcp_schema.constructs import reference_of
from ggcp_schema.errors import UsageError
from ggcp_schema.formats import FORMATS, known_formats
from ggcp_schema.inspect.hexpat import pattern
from ggcp_schema.inspect.json_schema import json_schema
from ggcp_schema.inspect.kaitai import specification
from ggcp_schema.inspect.magic import magic_entry
from ggcp_schema.inspect.reference import Reference, Section, byte_order_text, functions, reference, sections

WITH_JSON = [name for names in COMMANDS.values() for name in names if name != "browse"]
JSON = Reference
GENERATED = {"ksy": specification, "hexpat": pattern, "magic": magic_entry}
COLUMNS = "name", "type", "condition", "rule", "note"


def schema(
    name: Annotated[
        str, typer.Argument(metavar="[FORMAT]", help=f"{', '.join(FORMATS)}.", autocompletion=complete_format)
    ] = "ggcp",
    format: Annotated[
        Literal["text", "markdown", "json", "ksy", "hexpat", "magic"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="text, markdown, json, ksy (Kaitai Struct), hexpat (ImHex), or magic (file(1)).",
        ),
    ] = "text",
    width: options.Width = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    json_of: Annotated[
        str | None,
        typer.Option(
            "--json-of",
            metavar="COMMAND",
            autocompletion=options.one_of(*WITH_JSON),
            help="Print the JSON Schema of what a command's --json prints.",
        ),
    ] = None,
) -> None:
    """Print the reference of a file format: every field, type, condition, rule and note.

    It is generated from the declarations that parse and build the files. The JSON is meant for programs that generate
    readers: a type is an object with its kind, and with its size, fields, count, condition and rule as far as it has
    them. Each of these is a value or an expression: {"field": PATH}, {"op": OPERATOR, "args": […]}, {"function": NAME}.

    Example: ggcp-schema schema gguf --format markdown
    """
    if json_of is not None:
        if json_of not in WITH_JSON:
            raise UsageError(f"no JSON Schema of {json_of!r}", f"There is one of {', '.join(WITH_JSON)}.")
        print_json(json_schema(import_module(f"ggcp_schema.cli.{json_of}").JSON, f"ggcp-schema {json_of} --json"))
        return
    formats = known_formats()
    chosen = formats.get(name.lower())
    if chosen is None:
        near = difflib.get_close_matches(name.lower(), formats, n=1)
        hint = (
            f"Did you mean {near[0]}? " if near else "For a file: `ggcp-schema dump`. " if os.path.isfile(name) else ""
        )
        raise UsageError(f"there is no format {name!r}", f"{hint}The formats are {', '.join(formats)}.")
    if as_json or format == "json":
        print_json(reference(chosen))
        return
    if format in GENERATED:
        write(GENERATED[format](chosen))
        return
    marked = format == "markdown"
    columns = output_width(width)
    echo(f"{'# ' if marked else ''}The {chosen.title}\n")
    shapes = "Shapes are in ggml order: the first number is the fastest-varying."
    intro = " ".join(filter(None, (chosen.description, byte_order_text(chosen), shapes)))
    write("\n".join(wrapped(intro, columns)) + "\n")
    for section in sections(chosen):
        echo()
        if marked:
            markdown(section)
        else:
            text(section, columns)
    for title, words in functions(reference_of(chosen.schema)).items():
        echo(f"\n## {title}()\n" if marked else f"\n{paint(f'{title}()', 'cyan', bold=True)}\n")
        write(f"{words if marked or columns is None else filled(words, columns)}\n")


def text(section: Section, width: int | None) -> None:
    """Print the section as aligned lines; condition, rule and note follow the type, wrapped to the width if given."""
    echo(paint(section.title, "cyan", bold=True))
    name_width = max(len(row.name) for row in section.rows)
    type_width = max(len(row.type) for row in section.rows)
    for row in section.rows:
        condition = f"if {row.condition}" if row.condition else ""
        words = "; ".join(filter(None, (condition, row.rule, row.note)))
        start = f"  {row.name:<{name_width}}  {row.type:<{type_width}}  "
        for index, line in enumerate(wrapped(words, None if width is None else width - len(start))):
            if index:
                echo(" " * len(start) + line)
            else:
                echo(f"  {row.name:<{name_width}}  {paint(f'{row.type:<{type_width}}', 'yellow')}  {line}".rstrip())


def filled(words: str, width: int) -> str:
    """Return the paragraphs wrapped to the width; lines that are indented stay as they are."""
    return "\n".join(
        line
        for indented, lines in groupby(words.splitlines(), key=lambda line: line.startswith(" "))
        for line in (lines if indented else wrapped(" ".join(lines), width))
    )


def markdown(section: Section) -> None:
    """Print the section as a table."""
    echo(f"## {section.title}\n")
    used = [column for column in COLUMNS if any(getattr(row, column) for row in section.rows)]
    echo(f"| {' | '.join(used)} |")
    echo(f"|{'---|' * len(used)}")
    for row in section.rows:
        cells = [getattr(row, column).replace("|", "\\|").replace("*", "\\*") for column in used]
        cells[0] = f"`{cells[0]}`"
        echo(f"| {' | '.join(cells)} |")
