"""The typer application. A command's module is imported only when the command runs, so that the others cost nothing."""

from __future__ import annotations

import os
import re
import sys
from copy import copy
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ggcp_schema.cli.options import one_of
from ggcp_schema.errors import UsageError

COMMANDS = {
    "Look inside": {
        "info": "Summarize a file: training progress, loss, optimizer, model, and what to do next.",
        "browse": "Browse a file in the terminal: fields, bytes, tensor values, training health.",
        "dump": "Print every field with its offset, size, type and value.",
        "search": "Search the paths, names and texts of a file.",
        "get": "Print one value, or a slice of a tensor's data.",
        "hex": "Print bytes, each with the field it belongs to.",
        "tensors": "List the tensors: name, shape, type, place and role.",
        "stats": "Measure the tensors: range, mean, deviation, NaN, a histogram, warning flags.",
        "extract": "Write tensors to a .npy, .safetensors or .csv file, or a picture of one.",
        "schema": "Print the reference of a file format.",
    },
    "Convert": {
        "convert": "Convert a checkpoint to GGUF so that training can be resumed.",
        "export": "Export a model or an adapter, for llama.cpp or for PyTorch.",
        "edit": "Write a copy of a file with some values changed.",
        "repair": "Write a copy of a damaged checkpoint with what it holds twice taken back.",
    },
    "Check and compare": {
        "validate": "Check files against every rule of their format.",
        "verify": "Compare a GGUF file or a folder with the file it was made from.",
        "diff": "Compare two files: fields, keys and tensors.",
    },
}
NO_OPTION = re.compile(r"No such option: (--?[\w-]+)")
FEW = 5  # commands that are named as those with an option
LIBRARIES = "construct", "numpy", "gguf", "typer", "rich", "textual"
COLORS = ("auto", "always", "never")
WIDTH = typer.get_terminal_size()[0]  # typer's own help is never narrower than 50
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,  # plain help takes half the start-up time, and fits any width
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "terminal_width": max(1, min(WIDTH, 80) - 2)},
}


class Command(TyperCommand):
    """A command that takes no empty name for the current folder, and whose usage line is as those of other programs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. Raises `UsageError` for a file without a name."""
        left: list[str] = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            values = value if isinstance(value, list | tuple) else [value]
            if hasattr(parameter.type, "readable") and "" in values and not ctx.resilient_parsing:
                raise UsageError("the name of a file is empty", "A variable of the shell may have no value.")
        return left

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line, of which typer puts braces around required ones."""
        return [word.strip("{}") for word in super().collect_usage_pieces(ctx)]

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the usage line, and one for many inputs if the command takes them."""
        super().format_usage(ctx, formatter)
        if any(parameter.name == "into" for parameter in self.params):
            formatter.write_usage(ctx.command_path, "[OPTIONS] INPUT... --into FOLDER", prefix="   or: ")


class Commands(TyperGroup):
    """The commands by section. The function of a command has the name of its module."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; `help COMMAND` means `COMMAND --help`, and `-v FILE` means `FILE -v`."""
        if args[:1] in ([], ["help"]):
            args = [*args[1:2], "--help"]
        elif args[:1] == ["-v"]:
            args = [*args[1:], "-v"]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, after importing its module; None if there is none of that name."""
        return _command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name; the name of a file means `info FILE`."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            from ggcp_schema.cli.mistakes import check_order, names_meant

            if os.path.lexists(name) or os.sep in name or "." in name:
                check_order(args, self.list_commands(ctx))
                return super().resolve_command(ctx, ["info", *args])
            meant = " or ".join(map(repr, names_meant(name, self.list_commands(ctx))))
            ctx.fail(f"No such command or file {name!r}." + (f" Did you mean {meant}?" if meant else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with their one-line helps, without importing them."""
        width = max(map(len, self.list_commands(ctx)))
        for section, helps in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in helps.items()])


@cache
def _command(name: str) -> Any:
    """Return a command, which is made once: to read the types of its parameters takes milliseconds."""
    single = typer.Typer(add_completion=False, **SETTINGS)
    single.command(name, cls=Command)(getattr(import_module(f"ggcp_schema.cli.{name}"), name))
    command = typer.main.get_command(single)
    for parameter in command.params:  # whether a file can be read is found, and said, when it is opened
        if hasattr(parameter.type, "readable"):
            parameter.type.readable = False
    for option in map(copy, app.params):  # --color and --version may stand after the command too
        if option.expose_value:
            option.expose_value, option.hidden = False, True
            command.params.append(option)
    return command


root = typer.Typer(cls=Commands, **SETTINGS)
WrongUsage: Any = typer.BadParameter.__base__
"""What typer raises for arguments that do not fit: it gives no other name to it."""


def _version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import version

        from ggcp_schema import __version__

        others = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
        typer.echo(f"ggcp-schema {__version__} (Python {platform.python_version()}, {others})")
        raise typer.Exit


def _color(value: str | None) -> None:
    if value not in (None, *COLORS):
        raise typer.BadParameter(f"choose from {', '.join(COLORS)}")
    if value in {"always", "never"}:
        os.environ.pop({"always": "NO_COLOR", "never": "FORCE_COLOR"}[value], None)
        os.environ[{"always": "FORCE_COLOR", "never": "NO_COLOR"}[value]] = "1"


@root.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    color: Annotated[
        str | None,
        typer.Option(
            "--color",
            metavar="|".join(COLORS),
            autocompletion=one_of(*COLORS),
            callback=_color,
            show_default=False,
            help="Use colours: on terminals (the default), always, or never. NO_COLOR and FORCE_COLOR do the same.",
        ),
    ] = None,
) -> None:
    """Read, inspect and convert what llama.cpp's trainers of 2023 saved: ggcp checkpoints, GGUF, ggjt, LoRA adapters.

    `ggcp-schema FILE` is short for `ggcp-schema info FILE`.

    Example: ggcp-schema checkpoint.bin
    """


app: Any = typer.main.get_command(root)


def usage_error(error: Any) -> UsageError:
    """Return what typer raises for arguments that do not fit as an error of ours, with what to do next."""
    text = re.sub("a valid int(eger)?( range)?", "a whole number", error.format_message())  # typer's versions differ
    text = re.sub("a valid float( range)?", "a number", text)
    named = [word for word in sys.argv[1:2] if not word.startswith("-")]
    command = error.ctx.command_path if error.ctx else " ".join(["ggcp-schema", *named])
    words = error.ctx.command.collect_usage_pieces(error.ctx) if error.ctx else []
    hint = f"Write `{' '.join([command, *words])}`. " if " argument" in text and words else ""
    if unknown := NO_OPTION.match(text):
        from ggcp_schema.cli.mistakes import OTHER_OPTIONS

        option = OTHER_OPTIONS.get(unknown[1].lower(), unknown[1].lower())
        if option in {"-o", "--output"} and any("OUTPUT" in word for word in words):
            text, hint = unknown[0], f"The output is an argument: `{' '.join([command, *words])}`. "
        elif having := _commands_with(option):
            most = "most other commands" if " " in command else "most commands, and comes after the command"
            which = ", ".join(having) if len(having) <= FEW else most
            text = unknown[0]  # without the options of similar names that may follow
            hint = f"{'It' if option == unknown[1] else option} is an option of {which}. "
    what = "the command" if " " in command else "the commands"
    return UsageError(text, f"{hint}`{command} --help` explains {what}.")


def _commands_with(option: str) -> list[str]:
    """Return the names of the commands that have an option."""
    commands = {name: app.get_command(None, name) for name in app.list_commands(None)}
    return [name for name, command in commands.items() if any(option in each.opts for each in command.params)]
