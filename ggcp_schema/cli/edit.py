"""`edit`: a copy of a file with some values changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ggcp_schema.cli.complete import complete_path
from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet
from ggcp_schema.cli.output import echo, escape, print_json
from ggcp_schema.cli.report import name_text
from ggcp_schema.constructs import Field
from ggcp_schema.files.atomic import check_output
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.edit import changes, check, parse_assignment
from ggcp_schema.inspect.edit import edit as write_edited
from ggcp_schema.inspect.text import plain_text, size_text, value_text


def edit(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help="The file to copy.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")],
    assignments: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH=VALUE...",
            help="What to change: numbers, text, or @FILE.npy for the data of a tensor.",
            autocompletion=complete_path,
        ),
    ],
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a copy of a file with some values changed.

    The copy is built by the schema, which refuses values that the format does not allow. Computed values, the lengths
    of names and paddings follow from the rest; everything else is copied byte for byte.

    JSON keys: input, output, changes {path, old, new}, written, size.

    Example: ggcp-schema edit checkpoint.bin reset.ggcp train_its=0 optimizer.iter=0
    """
    with open_file(file) as opened:
        wanted = changes(opened, [parse_assignment(text) for text in assignments])
        check_output(output, (file,), overwrite=force or dry_run)
        rows = [(field.path, value_text(field), new_text(field, value)) for field, value in wanted]
        size = check(opened, wanted) if dry_run else write_edited(opened, output, wanted, force=force, sync=not no_sync)
        if as_json:
            print_json(
                {
                    "input": opened.path,
                    "output": os.fsdecode(output),
                    "changes": [{"path": path, "old": old, "new": new} for path, old, new in rows],
                    "written": not dry_run,
                    "size": None if dry_run else size,
                }
            )
        elif not quiet:
            for path, old, new in rows:
                echo(f"{path}: {escape(old)} -> {escape(new)}")
            echo(f"{'would write' if dry_run else 'wrote'} {name_text(output)}: {size_text(size)}")


def new_text(field: Field, value: Any) -> str:
    """Return a new value as `dump` would show it."""
    return f"{value.nbytes:,} bytes of data" if isinstance(value, memoryview) else plain_text(value, field.type)
