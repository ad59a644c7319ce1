"""What the commands share: safe text, colours, JSON, progress."""

from __future__ import annotations

import datetime
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any

import typer

from ggcp_schema.cli.streams import discard_output
from ggcp_schema.files.json_keys import json_record
from ggcp_schema.inspect import MARK, PROGRESS
from ggcp_schema.inspect.text import cells, float_text
from ggcp_schema.inspect.words import CODES, WITH_TEXT

PROGRESS_FROM = 1 << 26  # bytes; less is done before a bar could be read
COMMAND = "ggcp-schema "
HANGING = "  "  # before the lines after the first
INDENT = "  "  # of JSON
COLOURED = re.compile(r"\x1b\[[0-9;]*m")
# DEL and the C1 controls, surrogates, and characters that reorder text on a terminal
UNSAFE = "[\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]"


def echo(text: str = "") -> None:
    """Write a line to stdout, wrapped on a terminal. The text must not contain control characters: see `escape`."""
    write("".join(f"{line}\n" for line in wrapped(text, output_width(), HANGING)))


def write(text: str) -> None:
    """Write text to stdout. A closed pipe ends the output, not the command, so that the exit code stays right.

    In a block `until_closed` it ends the block.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:  # typer would turn it into exit code 1, which is a verdict here
        discard_output()
        if _blocks:
            raise _ClosedError from None


class _ClosedError(Exception):
    """The reader of stdout has closed the pipe, as `head` does when it has seen enough."""


_blocks: list[None] = []  # the blocks `until_closed` that have been entered


@contextmanager
def until_closed() -> Iterator[None]:
    """End the block, whose output may be long, when the reader closes the pipe."""
    _blocks.append(None)
    try:
        yield
        sys.stdout.flush()
    except _ClosedError:
        pass
    except BrokenPipeError:
        discard_output()
    finally:
        _blocks.pop()


def paint(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """Return the text in colour: on a terminal, unless NO_COLOR is set, and elsewhere if FORCE_COLOR is."""
    if not os.environ.get("FORCE_COLOR") and (
        not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    ):
        return text
    return typer.style(text, fg=colour, bold=bold or None, dim=dim or None)


def output_width(width: int | None = None) -> int | None:
    """Return the width to wrap at: as given, or that of the terminal; None in a pipe."""
    if width is not None:
        return max(width, 20)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, width: int | None, indent: str = "") -> list[str]:
    """Return the text in lines of at most `width` cells, wrapped between words; all but the first are indented.

    There is one line if the width is None. No line is narrower than 20 cells.
    """
    if width is None or cells(text) <= width:
        return [text]
    lines = [""]
    for space, word in re.findall(r"( *)([^ ]+)", text):
        if lines[-1].strip() and cells(COLOURED.sub("", lines[-1] + space + word)) > max(width, 20):
            lines.append(indent + word)
        else:
            lines[-1] += space + word
    return lines


def print_json(value: Any) -> None:
    """Write strict JSON: NaN and infinities as the strings NaN, Infinity and -Infinity, control characters escaped.

    The elements of an iterator, which may be a value of a mapping, are made one at a time and take no memory.
    """
    for part in _parts(to_json(value), "\n"):
        write(_safe(part))
    write("\n")


def write_array(elements: Iterable[Iterable[str]]) -> None:
    """Write a JSON array with an element on each line, of which each comes in parts."""
    before = "["
    for parts in elements:
        write(before)
        for part in parts:
            write(part)
        before = ",\n "
    write("]\n" if before != "[" else "[]\n")


def json_text(value: Any, *, indented: bool = False) -> str:
    """Return a value as strict JSON that is safe to show on a terminal."""
    return _safe(_indented(to_json(value), "\n") if indented else _encoder()(to_json(value)))


@cache
def _encoder() -> Callable[[Any], str]:
    import json

    return json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _safe(text: str) -> str:
    return (
        text if text.isascii() and "\x7f" not in text else re.sub(UNSAFE, lambda char: f"\\u{ord(char[0]):04x}", text)
    )


def _parts(value: Any, before: str) -> Iterator[str]:
    """Yield JSON in lines that begin with `before`: each element of an iterator, and other values as a whole."""
    inner, start = before + INDENT, ""
    if isinstance(value, Iterator):
        for item in value:
            yield f"{start or '['}{inner}{_indented(item, inner)}"
            start = ","
        yield f"{before}]" if start else "[]"
    elif isinstance(value, dict) and any(isinstance(item, Iterator) for item in value.values()):
        for key, item in value.items():
            yield f"{start or '{'}{inner}{_encoder()(key)}: "
            yield from _parts(item, inner)
            start = ","
        yield f"{before}}}"
    else:
        yield _indented(value, before)


def _indented(value: Any, before: str) -> str:
    """Return JSON in lines that begin with `before`. Python's own leaves reference cycles at each call."""
    if not value or not isinstance(value, dict | list):
        return _encoder()(value)
    inner = before + INDENT
    if isinstance(value, list):
        items = [_indented(item, inner) for item in value]
    else:
        items = [f"{_encoder()(str(key))}: {_indented(item, inner)}" for key, item in value.items()]
    text = inner + f",{inner}".join(items) + before
    return f"[{text}]" if isinstance(value, list) else f"{{{text}}}"


def to_json(value: Any) -> Any:
    """Return the value as JSON has it: records as objects, bytes as hex, dates and what JSON does not know as text."""
    record = json_record(value)
    value = value if record is None else record
    if isinstance(value, dict | MappingProxyType):
        found: dict[Any, Any] = {}
        for key, item in value.items():
            found[key] = to_json(item)
            if key in WITH_TEXT:
                found |= _text_beside(key, found[key])
        return found
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Iterator):
        return map(to_json, value)
    if isinstance(value, bytes | datetime.date):
        return value.hex() if isinstance(value, bytes) else value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return float_text(value)
    return value


def _text_beside(key: str, found: Any) -> dict[str, Any]:
    """Return what a code means, or each code of a list, under the key for it; nothing if the value is no code."""
    meanings = {None: None, **CODES[key]}
    codes = found if isinstance(found, list) else [found]
    if not all(isinstance(code, str | type(None)) and code in meanings for code in codes):
        return {}
    texts = [meanings[code] for code in codes]
    return {f"{key}_text": texts if isinstance(found, list) else texts[0]}


@contextmanager
def progress(total: int, what: str, then: str = "", *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of bytes just done.

    It moves a bar on stderr if that is a terminal and there is enough to do. The second half of it is called `then`.
    For the browser it writes numbers.
    """
    if PROGRESS in os.environ:
        yield _counter(total)
        return
    if quiet or total < PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(done: int) -> None:
            bar.advance(task, done)
            at = bar.tasks[0].completed
            if at >= total:
                bar.update(task, description="Finishing")  # the disk may take its time
            elif then and 2 * at >= total:
                bar.update(task, description=then)

        yield advance


def _counter(total: int) -> Callable[[int], None]:
    """Return a function that writes how many bytes are done of all, after each hundredth."""
    seen = shown = 0

    def advance(done: int) -> None:
        nonlocal seen, shown
        seen += done
        hundredths = 100 * seen // max(1, total)
        if hundredths > shown:
            shown = hundredths
            sys.stderr.write(f"{MARK}{seen} {total}\n")
            sys.stderr.flush()

    return advance


def say(text: str) -> None:
    """Write a message, which must be safe to print, to stderr after what was printed before; wrapped on a terminal."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    text = f"ggcp-schema: {text}"
    if sys.stderr.isatty():
        width = os.get_terminal_size(2).columns or 80
        text = "\n".join(part for line in text.splitlines() for part in _said(line, width))
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _said(line: str, width: int) -> list[str]:
    """Return a line of a message wrapped between words; a command that it ends in is not, for it is copied."""
    words, mark, command = line.partition(f": {COMMAND}")
    if not mark or cells(line) <= width:
        return wrapped(line, width, HANGING)
    return [*wrapped(f"{words}:", width, HANGING), f"{HANGING}{COMMAND}{command}"]
