"""What the commands share: text that is safe on a terminal, JSON, sizes, progress, damage."""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ggcp_schema.errors import MalformedError

PROGRESS_FROM = 1 << 26  # bytes; less is done before a bar could be read


def escape(text: str, *, keep_newlines: bool = False) -> str:
    """The text with everything that a terminal might obey, or that is not printable, as a backslash escape."""
    return "".join(
        char if char.isprintable() or (keep_newlines and char == "\n") else char.encode("unicode_escape").decode()
        for char in text.encode("utf-8", "backslashreplace").decode("utf-8")
    )


def echo(text: str = "") -> None:
    """A line on stdout; the text must be safe already."""
    _write(f"{text}\n")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except BrokenPipeError:  # typer would make it exit code 1, which is a verdict here
        raise SystemExit(0) from None


def paint(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """The text in colour, if stdout is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    import typer

    return typer.style(text, fg=colour, bold=bold or None, dim=dim or None)


def print_json(value: Any) -> None:
    """Strict JSON on stdout: what is not a finite number stands as the string NaN, Infinity or -Infinity."""
    _write(json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """The value with bytes as hex and numbers that JSON does not know as strings."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def float32(value: float) -> str:
    """The shortest text that gives the same float32 again."""
    if not math.isfinite(value):
        return str(value)
    packed = struct.pack("<f", value)
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        if struct.pack("<f", float(text)) == packed:
            break
    return text if set(text) & set(".e") else f"{text}.0"


def size(nbytes: int) -> str:
    """`269,056 bytes (262.8 KiB)`."""
    exact = f"{nbytes:,} bytes"
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= scale:
            return f"{exact} ({nbytes / scale:.1f} {unit})"
    return exact


@contextmanager
def progress(total: int, what: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of bytes just done; a bar on stderr, if that is a terminal and
    there is enough to do."""
    if quiet or total < PROGRESS_FROM or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def raise_damage(damage: MalformedError | None) -> None:
    """Ends a view that has shown what can be read of a damaged file."""
    if damage is not None:
        sys.stdout.flush()
        raise damage
