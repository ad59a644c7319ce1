"""The typer application: the commands by section. Each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ggcp_schema.cli.convert import convert
from ggcp_schema.cli.diff import diff
from ggcp_schema.cli.dump import dump
from ggcp_schema.cli.export import export
from ggcp_schema.cli.extract import extract
from ggcp_schema.cli.get import get
from ggcp_schema.cli.hex import hex
from ggcp_schema.cli.info import info
from ggcp_schema.cli.schema import schema
from ggcp_schema.cli.stats import stats
from ggcp_schema.cli.tensors import tensors
from ggcp_schema.cli.validate import validate
from ggcp_schema.cli.verify import verify

CONVERT, LOOK, CHECK = "Convert", "Look inside", "Check and compare"


class Sections(TyperGroup):
    """Lists the commands in their sections, in the order in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for section in dict.fromkeys(getattr(command, "rich_help_panel", None) for command in self.commands.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(limit=200))
                        for name, command in self.commands.items()
                        if getattr(command, "rich_help_panel", None) == section
                    ]
                )


app = typer.Typer(
    cls=Sections,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: half the start-up time, and right at any width
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ggcp-schema {version('ggcp-schema')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Read, inspect and convert the ggcp checkpoints of llama.cpp's train-text-from-scratch (2023)."""


for section, commands in {
    CONVERT: (convert, export),
    LOOK: (info, dump, get, hex, tensors, stats, extract, schema),
    CHECK: (validate, verify, diff),
}.items():
    for command in commands:
        app.command(rich_help_panel=section)(command)
