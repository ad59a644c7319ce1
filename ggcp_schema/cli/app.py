"""The typer application. A command is imported when it is called, or listed; so the others cost it nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

SECTIONS = {
    "Convert": ("convert", "export"),
    "Look inside": ("info", "dump", "get", "hex", "tensors", "stats", "extract", "schema"),
    "Check and compare": ("validate", "verify", "diff"),
}
WIDTH = typer.get_terminal_size()[0]  # typer's own help is never narrower than 50
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,  # plain help: half the start-up time, and right at any width
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "terminal_width": min(WIDTH, 80) - 2},
}


class Commands(TyperGroup):
    """The modules of this package, each with the function of its name, as commands by section."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in SECTIONS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        single = typer.Typer(add_completion=False, **SETTINGS)
        single.command(cmd_name)(getattr(import_module(f"ggcp_schema.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for section, names in SECTIONS.items():
            with formatter.section(section):
                helps = [(name, self.get_command(ctx, name).get_short_help_str(limit=200)) for name in names]
                formatter.write_dl([(name.ljust(width), text) for name, text in helps])


app = typer.Typer(cls=Commands, no_args_is_help=True, **SETTINGS)


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
