"""Output that may be long: it is written piece by piece, and ends when its reader has seen enough."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ggcp_schema.cli.output import drop_output


@contextmanager
def until_closed() -> Iterator[None]:
    """End the block, and what it writes, when the reader closes the pipe, as `head` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def echo(text: str = "") -> None:
    """Write a line to stdout. The text must not contain control characters: see `escape`."""
    sys.stdout.write(f"{text}\n")


def write(text: str) -> None:
    """Write text to stdout. Raises `BrokenPipeError` if its reader has closed the pipe."""
    sys.stdout.write(text)
