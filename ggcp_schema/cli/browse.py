"""`browse`: walk through a file in the terminal."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggcp_schema.cli.options import File
from ggcp_schema.errors import UsageError, shell_word

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggcp_schema.formats.file import File as OpenFile


def browse(
    file: File,
    other: Annotated[
        Path | None, typer.Argument(metavar="[FILE2]", help="A second file, to compare with the first.")
    ] = None,
    vocab: Annotated[
        Path | None, typer.Option("--vocab", metavar="VOCABULARY", help="The vocabulary, to show the text of tokens.")
    ] = None,
    light: Annotated[bool, typer.Option("--light", help="Use light colours.")] = False,
) -> None:
    """Browse a file in the terminal: fields and bytes side by side, tensor values, training health.

    Press ? for the keys. The file is never modified; x, e and c show a command that writes another one. A damaged file
    is shown up to the damage. With two files, the differences are shown.

    Example: ggcp-schema browse alice.ggcp --vocab tokenizer.gguf
    """
    if needed := _missing():
        hint = f"Run `ggcp-schema dump {shell_word(str(file))}` to print the fields."
        raise UsageError(f"browse needs {needed}", hint)
    from ggcp_schema.files.source import Source
    from ggcp_schema.formats import format_of

    paths = [str(path) for path in (file, other) if path is not None]
    for path in paths:  # before the screen changes, refuse what is no file of a known format
        with closing(Source(path)) as source:
            format_of(source)
    tokens = None if vocab is None else token_texts(vocab)

    from ggcp_schema.browse.app import BrowseApp

    app = BrowseApp(paths, open_for_long, tokens=tokens, light=light)
    _end_by_exception()
    sys.setswitchinterval(0.0005)  # seconds; with Python's 0.005, work in the background delays each key several times
    try:
        app.run()
    finally:
        app.close_files()
    if app.error is not None:
        raise app.error
    if app.return_code:
        sys.exit(app.return_code)


def _missing() -> str:
    """Return what is needed to draw on the terminal, which is stderr, and is not there; empty if all is."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        return "a terminal"
    if os.environ.get("TERM") == "dumb":
        return "a terminal that can move its cursor (TERM is dumb)"
    encoding = sys.stderr.encoding.lower()
    return "" if encoding.startswith("utf") else f"a terminal with UTF-8 (the encoding of this one is {encoding})"


def open_for_long(path: str) -> OpenFile:
    """Open a file; from then on garbage is collected, but for what the file consists of.

    When a file is opened again, the remains of the last one are collected first, or they never would be.
    """
    from ggcp_schema.formats import open_file

    if gc.isenabled():
        gc.unfreeze()
        gc.collect()
    file = open_file(path, partial=True)
    gc.freeze()
    gc.enable()  # main() switches it off for short commands
    return file


def _end_by_exception() -> None:
    """Let signals raise `SystemExit`: the handlers of `main` end the process and would leave the terminal as it is."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def token_texts(path: Path) -> Callable[[int], str]:
    """Return a function that gives the text of a token of a vocabulary file."""
    from ggcp_schema.inspect.fields import text_of_token
    from ggcp_schema.mapping.vocabulary import read_vocabulary

    return text_of_token([token.text for token in read_vocabulary(path).tokens])
