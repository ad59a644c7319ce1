"""`edit`: a copy of a file with some values changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ggcp_schema.cli.complete import complete_path
from ggcp_schema.cli.options import DryRun, Force, Json, NoSync, Quiet
from ggcp_schema.cli.output import echo, print_json, say
from ggcp_schema.cli.report import check_place, echo_made, name_text
from ggcp_schema.errors import UsageError
from ggcp_schema.files.values import LISTS
from ggcp_schema.formats import open_file
from ggcp_schema.formats.rules import Oddity
from ggcp_schema.inspect.edit import Change, changes, check, parse_assignment
from ggcp_schema.inspect.edit import edit as write_edited
from ggcp_schema.inspect.text import count_text, escape, json_value_of, plain_text, size_text, value_text

SHOWN = 60  # characters of a value


class ChangeJson(NamedTuple):
    """A change as JSON: null is no value, or data."""

    path: str
    old: Any
    new: Any


class JSON(NamedTuple):
    """What was changed; `warnings` are those of `validate` that the input does not have."""

    input: str
    output: str
    changes: list[ChangeJson]
    written: bool
    size: int | None
    warnings: Sequence[Oddity]


def edit(
    file: Annotated[Path, typer.Argument(metavar="INPUT", help="The file to copy.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")],
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH=VALUE...",
            help="What to change: numbers, text, or @FILE for the text in it or, of .npy, data of a tensor.",
            autocompletion=complete_path,
            show_default=False,
        ),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="KEY", help="Remove a GGUF key.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a copy of a file with some values changed.

    The copy is built by the schema, which refuses values that the format does not allow, and then validated. Computed
    values, the lengths of names and paddings follow from the rest; everything else is copied byte for byte. An error
    that the input does not have refuses the copy; a warning is told. Of a text that begins with @, write @@.

    KEY:TYPE=VALUE adds a key to a GGUF file, or changes its type: u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bool,
    string. With another general.alignment all tensors get new offsets. Elements of a tensor are numbers:
    'norm.data[0]=1', 'norm.data[0:2]=1,2', 'norm.data[:]=1', 'optimizer.state.m[norm]=0'.

    Example: ggcp-schema edit checkpoint.bin reset.ggcp train_its=0 optimizer.iter=0
    """
    for path, what in ((file, "input"), (output, "output")):
        if "=" in path.name and not path.exists():
            hint = "Write: INPUT OUTPUT PATH=VALUE."
            raise UsageError(f"{name_text(path)} stands where the {what} is expected", hint)
    if not assignments and not remove:
        raise UsageError("nothing to change", "Give PATH=VALUE, or --remove KEY.")
    with open_file(file) as opened:
        wanted = changes(opened, [parse_assignment(text) for text in assignments or ()], remove or ())
        replaced = check_place(output, file, force=force or dry_run)
        made = check(opened, wanted) if dry_run else write_edited(opened, output, wanted, force=force, sync=not no_sync)
        if as_json:
            size = None if dry_run else made.size
            shown = [*map(json_change, wanted)]
            print_json(JSON(opened.path, os.fsdecode(output), shown, not dry_run, size, made.warnings))
        elif not quiet:
            for change in wanted:
                echo(escape(line(change)))
                if change.elements is not None and change.elements.note:
                    say(escape(change.elements.note))
            for warning in made.warnings:
                echo(f"note: {escape(warning.path)}: {escape(warning.message)}")
            echo_made(output, replaced, size_text(made.size), dry_run=dry_run)


def line(change: Change) -> str:
    """Return what is changed in a line. Of long values the beginning is shown."""
    if change.elements is not None:
        if not change.elements.single:
            return f"{change.path}: {count_text(change.elements.count, 'value')} set"
        kind = change.elements.type
        return f"{change.path}: {plain_text(change.elements.value(), kind)} -> {plain_text(change.value.item(), kind)}"
    old = "" if change.field is None else value_text(change.field, SHOWN)
    if change.value is None:
        return f"{change.path}: {old} removed"
    kind = change.type[1] if change.type else change.field.type if change.field else ""
    is_data = isinstance(change.value, memoryview)
    new = f"{change.value.nbytes:,} bytes of data" if is_data else plain_text(change.value, kind, SHOWN)
    return f"{change.name or change.path}: {old} -> {new}" if old else f"{change.path}: {new} added"


def json_change(change: Change) -> ChangeJson:
    """Return a change for JSON. Of a list that is removed, and of several elements, the value is not given."""
    if change.elements is not None:
        values = (change.elements.value(), change.value.item()) if change.elements.single else (None, None)
        return ChangeJson(change.path, *(json_value_of(value, change.elements.type) for value in values))
    values = change.field and change.field.value, change.value
    old, new = (None if isinstance(value, LISTS) else value for value in values)
    old_type = change.field.type if change.field else ""
    new_type = change.type[1] if change.type else old_type
    new = None if isinstance(new, memoryview) else json_value_of(new, new_type)
    return ChangeJson(change.path, json_value_of(old, old_type), new)
