"""The standard streams of the process: closed ones, and those whose reader has gone."""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """Give each closed standard stream (`>&-`) a descriptor, so that no other file gets its number.

    Writing to a closed stdout is an error, as for other programs: /dev/null is opened for reading only. Messages for a
    closed stderr are dropped.
    """
    if None in {sys.stdin, sys.stdout, sys.stderr}:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)
    if sys.stdout is None:
        _redirect_to_null(1, os.O_RDONLY)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # for locales that are not UTF-8


def discard_output() -> None:
    """Drop what is printed from now on, and what is still buffered, because Python would write it at exit."""
    _redirect_to_null(1, os.O_WRONLY)


def _redirect_to_null(fd: int, flags: int) -> None:
    null = os.open(os.devnull, flags)
    os.dup2(null, fd)
    os.close(null)
