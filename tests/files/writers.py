"""System calls that fail, and programs that write an output and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def refuse(number: int) -> Callable[..., Any]:
    """A function that fails with that error number."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def start(program: str, way: str, path: Path) -> subprocess.Popen[str]:
    """Start a program, and wait for its first line or its end."""
    command = [sys.executable, "-c", program, way, str(path)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    return writer


def kill(program: str, way: str, path: Path) -> None:
    """Start a program, and kill it if it does not do so itself."""
    writer = start(program, way, path)
    writer.kill()
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
