"""The command lines that the browser shows, copies and runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.inspect.text import shell_word

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.files.tensor import Tensor

PROGRAM = "ggcp-schema"


class Command(NamedTuple):
    """A command line as a person would type it, and what it does."""

    title: str
    line: str
    note: str = ""


def _line(command: str, *words: str) -> str:
    return " ".join([PROGRAM, command, *map(shell_word, words)])


def printing(file: str, field: Field, element: int | None = None) -> str:
    """Return the command that prints the field; of an unread payload only the element, if one is given."""
    path = field.path
    if field.type == "data" and element is not None:
        path += f"[{element}]"
    view = "get" if field.is_leaf and field.type != "padding" and (field.type != "data" or element is not None) else ""
    view = view or ("hex" if field.is_leaf else "dump")
    return _line(view, file, *([path] if path else []))


def hex_at(file: str, offset: int) -> str:
    """Return the command that prints bytes from an offset."""
    return _line("hex", file, str(offset))


def extracting(file: str, tensor: Tensor) -> Command:
    """Return the command that copies one tensor to a numpy file."""
    out = "".join(char if char.isalnum() or char in "._-" else "-" for char in tensor.path.replace("]", "")) + ".npy"
    line = _line("extract", file, tensor.path, out)
    return Command("Extract this tensor", line, "Write the tensor to a .npy file (.safetensors takes several).")


def exporting(file: str, advised: Sequence[str] = ()) -> Command:
    """Return the command that writes a model that can be run; `advised` are the commands that `info` gives."""
    out = f"{Path(file).stem}.model.gguf"
    line = _line("export", file, out) + " --vocab VOCABULARY --context-length N"
    note = "Write a GGUF model to run. Replace the words in capitals."
    return Command("Export a model", _advised("export", advised) or line, note)


def converting(file: str, advised: Sequence[str] = ()) -> Command:
    """Return the command that writes a checkpoint to resume from."""
    line = _line("convert", file, f"{Path(file).stem}.resume.gguf")
    note = "Write a GGUF checkpoint from which training can go on."
    return Command("Convert to a GGUF checkpoint", _advised("convert", advised) or line, note)


def _advised(name: str, advised: Sequence[str]) -> str | None:
    return next((line for line in advised if line.startswith(f"{PROGRAM} {name} ")), None)


def arguments(line: str) -> list[str]:
    """Return the words with which this Python runs the command line. Raises `ValueError` if it is another program's."""
    words = shlex.split(line)
    if words[:1] != [PROGRAM]:
        raise ValueError(f"only {PROGRAM} is run from here")
    return [sys.executable, "-m", "ggcp_schema", *words[1:]]
