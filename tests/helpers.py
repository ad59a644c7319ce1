"""What the tests share: the genuine files, what they must become, and the command as a process."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TRUNCATED = FIXTURES / "truncated-v0-lbfgs.ggcp"
GENUINE = sorted(path for path in FIXTURES.glob("*.ggcp") if path != TRUNCATED)
COMMAND = (sys.executable, "-m", "ggcp_schema")
TIMEOUT = 120  # seconds after which a command counts as hung


def expected_resume(path: Path) -> dict[str, Any]:
    """The keys and tensors of the GGUF resume checkpoint that this checkpoint must become."""
    return _expected(path, "resume")


def expected_model(path: Path) -> dict[str, Any]:
    """The keys and tensors of the model that the trainer itself exported from these weights; twins only."""
    return _expected(path, "model")


def _expected(path: Path, kind: str) -> dict[str, Any]:
    stem = path.name.removesuffix(".ggcp").removesuffix(".v0").removesuffix(".v1")
    expected: dict[str, Any] = json.loads((FIXTURES / f"{stem}.{kind}.json").read_text("utf-8"))
    return expected


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change how a command prints, and with `env`."""
    decisive = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"}
    return (
        {key: value for key, value in os.environ.items() if key not in decisive} | {"TERM": "xterm"} | dict(env or {})
    )


def run_cli(
    *args: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: Any = subprocess.DEVNULL,
    cwd: str | os.PathLike[str] | None = None,
    text: bool = True,
    check: bool = False,
    timeout: float = TIMEOUT,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Runs the command with its output in pipes; `env` is added to the environment. With `check` it must exit 0."""
    result = subprocess.run(
        [*COMMAND, *map(os.fspath, args)],
        env=environment(env),
        stdin=stdin,
        cwd=cwd,
        capture_output=True,
        encoding="utf-8" if text else None,
        timeout=timeout,
        check=False,
        **options,
    )
    if check:
        assert result.returncode == 0, f"exit {result.returncode}: {result.stderr!r}"
    return result


def run_pty(
    *args: str | os.PathLike[str],
    columns: int = 80,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> tuple[int, str]:
    """Runs the command on a pseudo terminal of that width: its exit code and all that the terminal received.

    Line ends are those of a program: `\\n`, where the terminal receives `\\r\\n`.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *map(os.fspath, args)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(env), cwd=cwd
    )
    os.close(theirs)
    received = bytearray()
    try:
        while piece := os.read(ours, 1 << 16):
            received += piece
    except OSError:
        pass  # Linux says EIO when the last writer has closed the terminal
    finally:
        os.close(ours)
    return process.wait(TIMEOUT), received.decode("utf-8", "replace").replace("\r\n", "\n")


def assert_no_traceback(result: subprocess.CompletedProcess[Any]) -> None:
    """What went wrong must be said in at most three lines, never as a Python traceback."""
    stderr = result.stderr if isinstance(result.stderr, str) else result.stderr.decode("utf-8", "replace")
    assert "Traceback" not in stderr, stderr
    assert result.returncode >= 0, f"killed by signal {-result.returncode}: {stderr}"
