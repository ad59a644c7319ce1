"""The commands that the browser shows, copies and runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.errors import shell_word

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.files.tensor import Tensor

PROGRAM = "ggcp-schema"
FILE = "the path of a new file"
VOCABULARY = "a llama GGUF, ggjt or sentencepiece model with the vocabulary of the training"


class Blank(NamedTuple):
    """A word of a command that the user may change: its label, the option before it, and what stands there first.

    An empty word leaves the option out. `wants` says what has to be given, if a word is required. `is_path` means that
    it can be completed.
    """

    label: str
    option: str = ""
    value: str = ""
    wants: str = ""
    is_path: bool = False

    @property
    def gap(self) -> str:
        """What stands in the command for a required word that is missing."""
        return self.label.upper() if self.wants else ""


class Command(NamedTuple):
    """A command with blanks: what it does, and the words before the blanks."""

    title: str
    note: str
    words: tuple[str, ...]
    blanks: tuple[Blank, ...]

    def filled(self, values: Sequence[str]) -> list[str]:
        """Return the words after the name of the program."""
        words = list(self.words)
        for blank, value in zip(self.blanks, values, strict=True):
            if value.strip():
                words += [blank.option, value.strip()] if blank.option else [value.strip()]
        return words


def line(words: Sequence[str]) -> str:
    """Return the command as it is typed into a shell. Paths that begin with a dash have `./` before them already."""
    return " ".join([PROGRAM, *(word if word.startswith("-") else shell_word(word) for word in words)])


def arguments(words: Sequence[str]) -> list[str]:
    """Return the words with which this Python runs the command."""
    return [sys.executable, "-m", "ggcp_schema", *words]


def _path(file: str) -> str:
    return f"./{file}" if file.startswith("-") else file


def printing(file: str, field: Field | None, offset: int, element: int | None = None) -> str:
    """Return the command that prints the field, of data only the element, if one is given; or the bytes of no field."""
    if field is None:
        return line(["hex", _path(file), str(offset)])
    path = field.path
    if field.type == "data" and element is not None:
        path += f"[{element}]"
    is_value = field.type != "padding" and (field.type != "data" or element is not None)
    return line([("get" if is_value else "hex") if field.is_leaf else "dump", _path(file), *([path] if path else [])])


def extracting(file: str, tensor: Tensor) -> Command:
    """Return the command that copies one tensor to a numpy file."""
    out = "".join(char if char.isalnum() or char in "._-" else "-" for char in tensor.path.replace("]", "")) + ".npy"
    note = "Write the tensor to a file: .npy, .safetensors, .csv or .png."
    words = ("extract", _path(file), tensor.path)
    return Command("Extract this tensor", note, words, (Blank("Output", "", out, FILE, is_path=True),))


def exporting(file: str, advised: Sequence[str] = (), has_tokens: bool = False) -> Command:
    """Return the command that writes a model that can be run; `advised` are the commands that `info` gives."""
    options = next((each for each in advised if each.startswith(f"{PROGRAM} export ")), "")
    words = ("export", *(["--partial"] if " --partial " in options else []), _path(file))
    context = re.search(r" --context-length (\d+)", options)
    blanks = [
        Blank("Output", "", _output(file, ".model.gguf"), FILE, is_path=True),
        Blank("Vocabulary", "--vocab", "", "" if has_tokens else VOCABULARY, is_path=True),
        Blank("Context", "--context-length", context[1] if context else ""),
    ]
    return Command("Export a model", "Write a GGUF model to run with llama.cpp.", words, tuple(blanks))


def converting(file: str) -> Command:
    """Return the command that writes a checkpoint to resume from."""
    blank = Blank("Output", "", _output(file, ".resume.gguf"), FILE, is_path=True)
    note = "Write a GGUF checkpoint from which training can go on."
    return Command("Convert to a GGUF checkpoint", note, ("convert", _path(file)), (blank,))


def _output(file: str, suffix: str) -> str:
    return _path(f"{Path(file).stem}{suffix}")


def complete(text: str) -> tuple[str, list[str]]:
    """Return a path with as many letters as all files have that begin so, and the names of these files."""
    start = text.rpartition("/")[2]
    before = text[: len(text) - len(start)]
    try:
        found = [each for each in Path(before or ".").expanduser().iterdir() if each.name.startswith(start)]
    except OSError:
        return text, []
    names = sorted(f"{each.name}/" if each.is_dir() else each.name for each in found)
    return before + commonprefix(names) if names else text, names  # noqa: RUF071 - of names, not of paths
