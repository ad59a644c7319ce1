"""Interrupted, terminated, hung up, or started without standard streams: one line and the right exit code."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.builder import build_checkpoint
from tests.helpers import COMMAND, FIXTURES, TIMEOUT, environment, run_cli, thinned

SMALL = FIXTURES / "v1-adam.ggcp"
SIGNALS = {
    signal.SIGINT: (130, "ggcp-schema: interrupted; no file was changed\n"),
    signal.SIGTERM: (143, "ggcp-schema: terminated; no file was changed\n"),
    signal.SIGHUP: (129, "ggcp-schema: the terminal was closed; no file was changed\n"),
}
EARLY = [*product(["typer", "gguf"], SIGNALS)]

SIGNAL_AT_IMPORT = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            if swallow:
                Swallow()
            os.kill(os.getpid(), int(number))

class Swallow:
    def __del__(self):  # Python ignores exceptions here
        os.kill(os.getpid(), int(number))

module, number, swallow, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Finder())
from ggcp_schema.cli import main
main()
"""


def run_closed(closed: str, *args: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Run the command from a shell that closes some of its streams, as `command >&-` does."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *map(os.fspath, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=TIMEOUT, check=False)


# Signals ---------------------------------------------------------------------------------------------------


def take_all_signals() -> None:
    """Undo what a background job inherits: it ignores the signals of the terminal."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def run_with_signal(
    number: signal.Signals, module: str, folder: Path, *, in_destructor: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Convert to `folder`/out with a signal when that module is imported."""
    where = [module, str(int(number)), "1" if in_destructor else ""]
    return subprocess.run(
        [sys.executable, "-c", SIGNAL_AT_IMPORT, *where, "convert", SMALL, folder / "out"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT,
        check=False,
        **{"preexec_fn": take_all_signals, **options},
    )


@pytest.mark.parametrize(("module", "number"), thinned(EARLY, EARLY[::2]))
def test_a_signal_while_modules_are_imported(module: str, number: signal.Signals, tmp_path: Path) -> None:
    result = run_with_signal(number, module, tmp_path)
    assert (result.returncode, result.stderr) == SIGNALS[number]
    assert result.stdout == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", thinned([*SIGNALS], [signal.SIGTERM]))
def test_a_signal_where_exceptions_are_ignored(number: signal.Signals, tmp_path: Path) -> None:
    result = run_with_signal(number, "gguf", tmp_path, in_destructor=True)
    assert (result.returncode, result.stderr) == SIGNALS[number]
    assert os.listdir(tmp_path) == []


def test_nothing_slow_is_imported_before_signals_are_handled() -> None:
    """Until then, Ctrl-C gives a traceback. (These modules take longer than all others that are imported.)"""
    program = "import sys; import ggcp_schema.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append('.'); {program}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=FIXTURES.parent,
    ).stdout.split()
    assert "ggcp_schema.cli" in loaded
    assert not {"typing", "re", "typer", "construct", "numpy", "ggcp_schema.errors"} & set(loaded)


@pytest.mark.parametrize("number", thinned([*SIGNALS], [signal.SIGHUP]))
def test_an_ignored_signal_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    """As `nohup` and the background jobs of scripts require."""
    result = run_with_signal(number, "gguf", tmp_path, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    assert (result.returncode, result.stderr) == (0, "")
    assert os.listdir(tmp_path) == ["out"]


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """The progress bar goes, the cursor comes back, and the last line says that nothing was changed."""
    path, out = tmp_path / "large.ggcp", tmp_path / "out"
    path.write_bytes(build_checkpoint(n_vocab=10_000, n_embd=256, n_mult=256, n_head=4, n_layer=1))
    out.write_bytes(b"old")
    pid, terminal = pty.fork()
    if not pid:
        take_all_signals()
        command = [*COMMAND, "convert", str(path), str(out), "--force", "--verify"]
        os.execve(sys.executable, command, environment())  # noqa: S606
    received, pressed = b"", 0
    try:
        while piece := os.read(terminal, 1 << 16):
            received += piece
            if b"Converting" in received and not pressed:
                pressed = os.write(terminal, b"\x03")
    except OSError:
        pass  # Linux reports the end of a terminal as EIO
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert received.rfind(b"\x1b[?25h") > received.rfind(b"\x1b[?25l"), "the cursor stays hidden"
    last = received.decode().rstrip().splitlines()[-1]
    assert re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", last).strip("\r") == "ggcp-schema: interrupted; no file was changed"
    assert out.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["large.ggcp", "out"]


# Closed streams --------------------------------------------------------------------------------------------


def test_stdout_is_closed() -> None:
    result = run_closed(">&-", "info", SMALL)
    assert (result.returncode, result.stderr) == (2, "ggcp-schema: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("closed", thinned(["2>&-", "<&- >&- 2>&-", ">&-"], ["2>&-", "<&- >&- 2>&-"]))
def test_no_message_gets_into_the_output(closed: str, tmp_path: Path) -> None:
    """The first files that a process opens get the numbers of the closed streams."""
    run_cli("convert", SMALL, tmp_path / "expected", check=True)
    result = run_closed(closed, "convert", SMALL, tmp_path / "out", "--quiet", "--verify")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()
    result = run_closed(closed, "convert", SMALL, tmp_path / "out", "--force")
    assert result.returncode == (2 if ">&-" in closed.split() else 0), "a report that cannot be printed is an error"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()


ERRORS = {
    f"info {FIXTURES / 'none'}": 2,
    f"convert {FIXTURES / 'truncated-v0-lbfgs.ggcp'} {FIXTURES / 'none' / 'out'}": 4,
    f"info {SMALL} --no-such-option": 2,
}
UNHEARD = [*product(ERRORS, [">&-", "2>&-", ">&- 2>&-"])]


@pytest.mark.parametrize(("command", "closed"), thinned(UNHEARD, UNHEARD[::4]))
def test_errors_keep_their_exit_code(command: str, closed: str) -> None:
    result = run_closed(closed, *command.split())
    assert result.returncode == ERRORS[command]
    assert "Traceback" not in result.stderr
    assert bool(result.stderr) == ("2>&-" not in closed)
