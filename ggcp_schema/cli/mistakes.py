"""What is said of arguments that are meant otherwise than they were typed."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

from ggcp_schema.errors import FileError, GgcpError, PathError, UsageError, quoted, shell_word
from ggcp_schema.files.source import GIVE_A_FILE, names_like

PYTORCH = {".safetensors", ".pt", ".pth"}
ONE_FILE = {"get", "hex", "dump", "search", "extract", "stats", "tensors", "edit", "convert", "export", "repair"}
"""The commands that begin with the one file that they read."""
MISPLACED = re.compile("^Missing option --(vocab|base)| is a vocabulary$|unexpected extra argument")
"""What `export` says if the file of one of its options is typed as an argument."""
EXCHANGED = {
    "--vocab": re.compile("(.+) is a vocabulary"),
    "--base": re.compile("--base means nothing here, because (.+) contains no LoRA adapter"),
}
"""What `export` says if the file of one of these options stands in the place of its input."""
OTHER_OPTIONS = {  # what other programs call an option
    **dict.fromkeys(("--epsilon", "--eps"), "--rms-eps"),
    **dict.fromkeys(("--context", "--ctx-size"), "--context-length"),
    **dict.fromkeys(("--tokenizer", "--vocabulary", "--vocab-model"), "--vocab"),
    **dict.fromkeys(("--base-model", "--model-base"), "--base"),
    "--batch-size": "--batch",
    "--overwrite": "--force",
}
OTHER_COMMANDS = {
    **dict.fromkeys(("inspect", "list", "print", "show"), "info"),
    **dict.fromkeys(("merge", "rescue", "run"), "export"),
    **dict.fromkeys(("continue", "resume", "train"), "convert"),
    **dict.fromkeys(("cat", "tree"), "dump"),
    **dict.fromkeys(("find", "grep"), "search"),
    **dict.fromkeys(("compare", "cmp"), "diff"),
    **dict.fromkeys(("check", "test"), "validate"),
    **dict.fromkeys(("fix", "recover"), "repair"),
    **dict.fromkeys(("set", "change"), "edit"),
    "ls": "tensors",
}
PARAMETER = re.compile(r"^(\w+)(?= means nothing )")
BATCH_NEEDED = "Give the number of samples that was the trainer's --batch; it defaulted to 8."


def put_right(error: GgcpError) -> GgcpError:
    """Return the error with the words and the hint that this command line needs."""
    if parameter := PARAMETER.match(error.message):
        error = error.again()
        error.message = f"--{parameter[1].replace('_', '-')}{error.message[parameter.end() :]}"
    message = error.message
    if hint := _missing(message) or _typed_as_argument(message) or _exchanged(message):
        return error.with_hint(hint)
    if isinstance(error, PathError) and sys.argv[1:2] in (["get"], ["hex"], ["dump"]) and "*" in message:
        return error.with_hint("Give one path. `tensors`, `stats` and `extract` take patterns.")
    if isinstance(error, PathError) and message.endswith(" has no field 'all'"):
        return error.with_hint("'*' means all tensors.")
    if error.hint == GIVE_A_FILE:
        return error.with_hint(folder_hint(message.removesuffix(" is a directory")) or GIVE_A_FILE)
    if isinstance(error, FileError) and isinstance(error.__cause__, FileNotFoundError) and not error.hint:
        words = _words()
        arguments = _arguments(words) if words[0] in ONE_FILE else []
        first, second, *_ = [*arguments, "", ""]
        is_input = message.startswith(f"{first}: ") and "--into" not in words
        if first and is_input and os.path.isfile(second):
            return error.with_hint(f"The file comes first: {_line(_exchange(words, first, second))}")
    return error


def _words() -> list[str]:
    """Return the command and what was typed after it."""
    words = sys.argv[1:]
    return words[2:] if words[:1] == ["--color"] else words


def _arguments(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that are arguments, and neither options nor the values of options."""
    function = getattr(import_module(f"ggcp_schema.cli.{words[0]}"), words[0])
    hints = map(get_args, get_type_hints(function, include_extras=True).values())
    options = [hint[1] for hint in hints if hint and hint[0] is bool]
    flags = {name for option in options for name in (option.default, *option.param_decls)}  # typer takes the first so
    pairs = (pair for pair in pairwise(words) if not pair[1].startswith("-"))
    return [word for before, word in pairs if not before.startswith("-") or before in flags or "=" in before]


def _exchange(words: Sequence[str], one: str, other: str) -> list[str]:
    """Return the words with each of two in the place of the other."""
    return [{one: other, other: one}.get(word, word) for word in words]


def folder_hint(name: str) -> str:
    """Return what compares a folder for transformers or PEFT; empty for any other folder."""
    from ggcp_schema.mapping.hf import CONFIG
    from ggcp_schema.mapping.peft import PEFT_CONFIG

    if os.path.exists(os.path.join(name, CONFIG)):
        return f"It is a model for transformers: `ggcp-schema verify CHECKPOINT {shell_word(name)}` compares it."
    if os.path.exists(os.path.join(name, PEFT_CONFIG)):
        command = f"ggcp-schema verify ADAPTER {shell_word(name)} --base BASE.gguf"
        return f"It is an adapter for PEFT: `{command}` compares it."
    return ""


def check_name(output: Path, *, is_folder: bool = False) -> None:
    """Check that an output does not have the name of something else. Raises `FileError`.

    A slash at the end, which `Path` drops, means a folder.
    """
    if is_folder:
        if output.suffix in {*PYTORCH, ".gguf"}:
            raise FileError(f"{output} would be a folder", f"Choose a name without {output.suffix}.")
        return
    if output.suffix in PYTORCH:
        hint = "`ggcp-schema export --to hf` writes a folder that PyTorch opens."
        raise FileError(f"{output} would not be what its name says", hint)
    typed = next((word for word in sys.argv if word.endswith("/") and Path(word) == output), None)
    if typed is not None:
        raise FileError(f"{typed} is the name of a folder", "Give the name of the file to write.")


def check_options(path: Path, of_adapters: Mapping[str, object]) -> None:
    """Check that none of these options has a value for a file without an adapter. Raises `UsageError`."""
    if given := next((option for option, value in of_adapters.items() if value is not None), None):
        why = f"because {path} contains no LoRA adapter"
        raise UsageError(f"{given} means nothing here, {why}", "Leave it out. An adapter comes first.")


def _missing(message: str) -> str:
    """Return what has to be given in place of a word that `info` prints in capitals; empty if there is none."""
    word, _, why = message.partition(": ")
    if why != "No such file or directory" and "'N' is not a whole number" not in message:
        return ""
    from ggcp_schema.mapping.export import BASE_NEEDED, CONTEXT_NEEDED, VOCABULARY_NEEDED

    for option, hint in {"--context-length": CONTEXT_NEEDED, "--batch": BATCH_NEEDED}.items():
        if option in word:
            return hint
    checkpoint = "Give the checkpoint whose model was trained with this vocabulary."
    return {"VOCABULARY": VOCABULARY_NEEDED, "BASE.gguf": BASE_NEEDED, "CHECKPOINT": checkpoint}.get(word, "")


def _typed_as_argument(message: str) -> str:
    """Return the line that is meant if the file of an option of `export` was typed as an argument, else nothing."""
    words = _words()
    arguments = _arguments(words) if words[:1] == ["export"] and MISPLACED.search(message) else []
    files = [word for word in arguments if os.path.isfile(word)]
    if len(files) != 2:
        return ""
    for source, given in (files, files[::-1]):
        option = _option_for(source, given)
        if option and option not in words:
            others = [word for word in words if word not in files]
            others.insert(words.index(arguments[0]), source)
            return f"Run: {_line([*others, option, given])}"
    return ""


def _exchanged(message: str) -> str:
    """Return the line that is meant if the file of `export` and that of an option change places, else nothing."""
    words = _words()
    for option, pattern in EXCHANGED.items():
        found, given = pattern.fullmatch(message), [word for before, word in pairwise(words) if before == option]
        if words[:1] == ["export"] and found and given and _option_for(given[0], found[1]) == option:
            return f"Run: {_line(_exchange(words, found[1], given[0]))}"
    return ""


def _option_for(path: str, other: str) -> str:
    """Return the option of `export` that takes another file if the first one needs what that contains, else nothing."""
    from ggcp_schema.formats import open_file
    from ggcp_schema.mapping.vocabulary import read_vocabulary

    with suppress(GgcpError), open_file(path, partial=True) as file:
        if file.has_adapter:
            with open_file(other, partial=True) as base:
                base.model()
            return "--base"
        if not file.model().has_vocabulary:
            read_vocabulary(other)
            return "--vocab"
    return ""


def names_meant(name: str, commands: Sequence[str]) -> list[str]:
    """Return the commands and files that a word may mean which is the name of none."""
    if other := OTHER_COMMANDS.get(name.lower()):
        return [other]
    return [*difflib.get_close_matches(name.lower(), commands, n=1, cutoff=0.7), *names_like(name)]


def check_order(words: list[str], commands: list[str]) -> None:
    """Check that no command stands after the file that the words begin with. Raises `UsageError`."""
    later = next((word for word in words[1:] if word in commands and not os.path.lexists(word)), None)
    if later is not None:
        words.remove(later)
        raise UsageError(f"{later} is a command, which comes first", f"Run: {_line([later, *words])}")


def _line(words: list[str]) -> str:
    """Return a command line. Its second word is the path of a file, or an option."""
    command, second, *others = [word for word in words if word]
    word = shell_word(second) if os.path.lexists(second) else quoted(second)
    return " ".join(["ggcp-schema", command, word, *map(quoted, others)])
