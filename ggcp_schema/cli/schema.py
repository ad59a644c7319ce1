"""`schema`: the reference of the format, as the program itself reads it."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ggcp_schema.inspect.reference import Section

COLUMNS = "name", "type", "condition", "rule", "note"


class Format(str, Enum):
    """How to print it."""

    text = "text"
    markdown = "markdown"
    json = "json"


def schema(
    format: Annotated[Format, typer.Option("--format", help="text, markdown or json.")] = Format.text,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Print the reference of the ggcp format: every field, type, condition, rule and note.

    It is generated from the very declarations that parse and build the files, so it cannot be out of date.
    """
    from ggcp_schema.cli.output import echo, print_json
    from ggcp_schema.inspect.reference import notes, sections

    found = sections()
    if as_json or format is Format.json:
        print_json(
            {
                "format": "ggcp",
                "byte_order": "little-endian",
                "sections": [asdict(section) for section in found],
                "notes": [{"name": name, "text": text} for name, text in notes()],
            }
        )
        return
    show, head = (markdown, "# ") if format is Format.markdown else (text, "")
    echo(f"{head}The ggcp checkpoint")
    echo("\nAll numbers are little-endian. Shapes are in ggml order: the first number is the fastest-varying.")
    for section in found:
        echo()
        show(section)
    for name, words in notes():
        echo(f"\n{'## ' if format is Format.markdown else ''}{name}\n")
        echo(words)


def text(section: Section) -> None:
    """The section as aligned lines; a line's rule, condition and note follow its type."""
    from ggcp_schema.cli.output import echo, paint

    echo(paint(section.title, "cyan", bold=True))
    name_width = max(len(field.name) for field in section.fields)
    type_width = max(len(field.type) for field in section.fields)
    for field in section.fields:
        condition = f"if {field.condition}" if field.condition else ""
        words = "; ".join(filter(None, (condition, field.rule, field.note)))
        echo(f"  {field.name:<{name_width}}  {paint(f'{field.type:<{type_width}}', 'yellow')}  {words}".rstrip())


def markdown(section: Section) -> None:
    """The section as a table."""
    from ggcp_schema.cli.output import echo

    echo(f"## {section.title}\n")
    used = [column for column in COLUMNS if any(getattr(field, column) for field in section.fields)]
    echo(f"| {' | '.join(used)} |")
    echo(f"|{'---|' * len(used)}")
    for field in section.fields:
        cells = [getattr(field, column).replace("|", "\\|").replace("*", "\\*") for column in used]
        cells[0] = f"`{cells[0]}`"
        echo(f"| {' | '.join(cells)} |")
