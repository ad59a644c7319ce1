"""How errors are told: as text, in a line of a table, and as JSON."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypedDict

from ggcp_schema.cli.mistakes import put_right
from ggcp_schema.cli.options import option_of
from ggcp_schema.cli.output import say
from ggcp_schema.errors import GgcpError, MalformedError, NotACheckpointError
from ggcp_schema.inspect.text import escape

IT_IS = "This is "  # begins what is said of a file of another format
FIRST_BYTES = re.compile("; it begins with the bytes [0-9a-f ]+$")


def error_text(error: GgcpError) -> str:
    """Return an error as the command line prints it: safe to print, and with the option that the hint means.

    A newline inside of a line, as in a file name, is escaped.
    """
    error = put_right(error)
    hint = error.shell_hint or error.hint
    if error.option:
        hint = hint.replace(f"{error.option}=True", option_of(error.option))
    return "\n".join(escape(line) for line in (error.message, hint) if line)


class ErrorJson(TypedDict):
    """An error as JSON: what is wrong, and what to do next."""

    message: str
    hint: str


class Unread(TypedDict):
    """A file that cannot be read, as JSON."""

    file: str
    error: ErrorJson


def unread(file: Path, error: GgcpError) -> Unread:
    """Return for JSON that a file cannot be read."""
    return {"file": os.fsdecode(file), "error": {"message": error.message, "hint": error.hint}}


def in_a_line(error: GgcpError) -> str:
    """Return why a file cannot be read, and of another format what it is, in place of its first bytes."""
    is_known = isinstance(error, NotACheckpointError) and error.hint.startswith(IT_IS)
    what = re.split(r"[.:] |\.$", error.hint.removeprefix(IT_IS))[0] if is_known else ""
    return FIRST_BYTES.sub(lambda _: f": {what}", error.message) if what else error.message


def echo_error(error: GgcpError) -> None:
    """Write an error to stderr, with what to do next."""
    say(error_text(error))


def raise_damage(damage: MalformedError | None, *, is_whole: bool = False, path: str = "") -> None:
    """Raise the damage of a file, after a view has shown what can be read of it; only tell it if that is whole.

    It is not whole if `path`, which was shown, is the field with the damage.
    """
    if damage is None:
        return
    if not is_whole or damage.path == path:
        raise damage
    echo_error(damage.with_hint("All bytes of what was asked for were read."))
