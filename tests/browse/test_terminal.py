"""The browser in a real terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import FIXTURES, TRUNCATED, environment, run_cli, run_pty_process, thinned

ALICE = FIXTURES / "alice.ggcp"
TIMEOUT = 60  # seconds


class Terminal:
    """A terminal of tmux, with a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "tmux"

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self.socket), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout

    def start(self, *words: str, columns: int, lines: int, env: str = "") -> None:
        command = shlex.join([sys.executable, "-m", "ggcp_schema", *words])
        shell = f"{env} {command}; echo exit $?; sleep 60"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(lines), shell)

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def press_until(self, key: str, words: str) -> None:
        """Press a key twice a second until the words are shown: while the panes are made, it may reach none of them."""
        for turn in range(TIMEOUT * 20):
            if words in self.screen():
                return
            if not turn % 10:
                self.keys(key)
            time.sleep(0.05)
        raise AssertionError(f"{words!r} does not appear:\n{self.screen()}")

    def wait_for(self, words: str) -> str:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            screen = self.screen()
            if words in screen:
                return screen
            time.sleep(0.02)
        raise AssertionError(f"{words!r} does not appear:\n{self.screen()}")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    assert shutil.which("tmux"), "these tests need tmux"
    terminal = Terminal(tmp_path)
    yield terminal
    subprocess.run(["tmux", "-S", str(terminal.socket), "kill-server"], check=False, capture_output=True)


def test_it_starts_moves_and_quits(terminal: Terminal) -> None:
    terminal.start("browse", str(ALICE), columns=100, lines=30)
    terminal.wait_for("✓ whole")
    terminal.wait_for("6,000 iterations")
    terminal.keys("Down", "Down", "Down")
    terminal.wait_for("train_samples  u32  96000")
    terminal.keys("g")
    terminal.wait_for("wq 0, 1024 or 0x400")
    terminal.keys("layers[1].wq", "Enter")
    terminal.wait_for("0x94740")
    terminal.keys("3")
    terminal.wait_for("mean")
    terminal.keys("q")
    screen = terminal.wait_for("exit 0")
    assert "Traceback" not in screen


@pytest.mark.parametrize("number", thinned([signal.SIGHUP, signal.SIGTERM, signal.SIGINT]), ids=lambda one: one.name)
def test_a_signal_ends_it_and_restores_the_terminal(terminal: Terminal, number: signal.Signals) -> None:
    terminal.start("browse", str(TRUNCATED), columns=60, lines=15, env="NO_COLOR=1")
    terminal.wait_for("✗ damaged")
    terminal.press_until("Tab", "[Bytes]")
    shell = int(terminal.tmux("list-panes", "-F", "#{pane_pid}"))
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    os.kill(int(children[0]), number)
    assert f"exit {128 + number}" in terminal.wait_for("exit ")
    assert "Bytes" not in terminal.screen()


def test_without_a_terminal_there_is_a_hint() -> None:
    result = run_cli("browse", ALICE)
    assert result.returncode == 2
    assert "needs a terminal" in result.stderr
    assert "ggcp-schema dump" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("env", "missing"),
    [
        ({"TERM": "dumb"}, "that can move its cursor (TERM is dumb)"),
        ({"PYTHONIOENCODING": "ascii"}, "with UTF-8 (the encoding of this one is ascii)"),
    ],
)
def test_a_terminal_that_cannot_show_it_is_not_drawn_on(env: dict[str, str], missing: str) -> None:
    code, screen = run_pty_process("browse", ALICE, columns=200, env=env)
    assert (code, screen.splitlines()[0]) == (2, f"ggcp-schema: browse needs a terminal {missing}")
    assert "\x1b" not in screen


def test_what_is_no_known_file_is_refused(terminal: Terminal, tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("no checkpoint")
    terminal.start("browse", str(path), columns=250, lines=30)
    screen = terminal.wait_for("exit 2")
    assert "unknown file format" in screen
    assert "Traceback" not in screen


def test_the_first_picture_does_not_wait_for_numpy() -> None:
    program = "import sys; import ggcp_schema.browse.app; print({'numpy', 'gguf'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout == "set()\n"
