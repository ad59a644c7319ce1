"""Runs of a command under a fault, and what must hold after each."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers import FIXTURES, environment

OLD = "the file that was there before"
ERRORS = ("EIO", "ENOSPC", "EACCES")
SIGNALS = ("SIGHUP", "SIGINT", "SIGTERM")
CHANGES = ("shrink", "grow", "overwrite")
EXPORT = ("--vocab", str(FIXTURES / "vocab.gguf"), "--context-length", "16")
COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # the command, its input, what follows the output
    "convert": ("convert", "v1-adam.ggcp", ("--verify",)),
    "large": ("convert", "alice.ggcp", ()),
    "export": ("export", "v0-adam.ggcp", EXPORT),
    "folder": ("export", "v0-adam.ggcp", (*EXPORT, "--to", "folder", "--verify")),  # see server.py
}
OLD_FILE = "config.json"  # of the folder that was there before
LONG_AGO = (1_690_000_000, 1_690_000_000)  # the time of inputs, so that any change gives them another


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `files` has the SHA-256 of each file in the output's folder, `calls` its I/O calls."""

    code: int
    stdout: str
    stderr: str
    calls: list[str]
    seconds: float
    files: dict[str, str]


class Server:
    """A process that runs commands (see server.py). With `private` it is in a namespace of its own and can mount."""

    def __init__(self, *, private: bool = False) -> None:
        prefix = ("unshare", "--user", "--map-root-user", "--mount") if private else ()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment({"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
            text=True,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the server ended with {self.process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def server(*, private: bool = False) -> Iterator[Server]:
    opened = Server(private=private)
    try:
        yield opened
    finally:
        opened.close()


@dataclass
class Case:
    """A command that writes an output, to be run under faults again and again.

    With `existing` there is an output to be replaced; with `named` the system has no files without a name, and cannot
    exchange the names of two folders. `content` is that of the input, by default a fixture's.
    """

    server: Server
    folder: Path
    command: str = "convert"
    existing: bool = True
    named: bool = False
    content: bytes = b""
    name: str = "out"
    new: str = field(init=False)
    changed: str = ""
    codes: Counter[int] = field(default_factory=Counter)
    calls: list[str] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        command, fixture, rest = COMMANDS[self.command]
        self.inputs, self.outputs = self.folder / "inputs", self.folder / "outputs"
        for folder in (self.inputs, self.outputs):
            folder.mkdir(exist_ok=True)
        self.source = self.inputs / fixture
        self.content = self.content or (FIXTURES / fixture).read_bytes()
        self.restore_input()
        self.output = self.outputs / self.name
        self.args = [command, str(self.source), str(self.output), "--force", *rest]
        self.server.ask(load=self.args)
        clean = self.run()
        assert clean.code == 0, clean.stderr
        assert set(clean.files) == {self.name}
        self.new, self.calls = clean.files[self.name], clean.calls
        self.seconds = clean.seconds

    @property
    def old(self) -> str | None:
        """The SHA-256 of the output before a run, None if there is none."""
        if not self.existing:
            return None
        return sha256(f"{OLD_FILE} {sha256(OLD.encode())}".encode()) if self.is_folder else sha256(OLD.encode())

    @property
    def is_folder(self) -> bool:
        return self.command == "folder"

    def restore_input(self) -> None:
        self.source.write_bytes(self.content)
        os.utime(self.source, LONG_AGO)

    def run(self, **request: Any) -> Outcome:
        """Run the command, with the output as it was before. For `request` see server.py."""
        old = OLD if self.existing else None
        standard = {"args": self.args, "output": str(self.output), "old": old, "named": self.named}
        standard["old_file"] = OLD_FILE if self.is_folder else ""
        return Outcome(**self.server.ask(**standard, **request))

    def output_of(self, outcome: Outcome) -> str:
        """Which file the output is: "old", "new" or something else."""
        content = outcome.files.get(self.name)
        return "old" if content == self.old else "new" if content == self.new else f"neither old nor new ({content})"

    def moments(self, *, all_calls: bool = False) -> list[int]:
        """The numbers of the calls to strike: all, or only the first and the last of several equal calls in a row."""
        names = ["", *self.calls, ""]
        last = len(self.calls)
        return [at for at in range(1, last + 1) if all_calls or not names[at - 1] == names[at] == names[at + 1]]

    def strike(self, at: int, fault: str) -> list[str]:
        """Run the command with a fault at a call; return what is wrong after it."""
        if fault in CHANGES:
            outcome = self.run(at=at, fault="CHANGE", change=[fault, str(self.source)])
            self.restore_input()
            wrong = self.after_change(outcome, before_all=at == 1)
        else:
            outcome = self.run(at=at, fault=fault)
            if fault in ERRORS:
                wrong = self.after_error(outcome)
            elif fault == "SIGKILL":
                wrong = self.after_kill(outcome)
            elif fault in SIGNALS:
                wrong = self.after_signal(outcome, signal.Signals[fault])
            else:  # SHORT, RUN
                wrong = self.after_success(outcome)
        self.codes[outcome.code] += 1
        return [f"{fault} at call {at} ({self.calls[at - 1]}): {text}" for text in wrong]

    def kill(self, when: float) -> list[str]:
        """Kill the command after this part of its usual time; return what is wrong after it."""
        delay = when * self.seconds
        outcome = self.run(kill=delay)
        self.codes[outcome.code] += 1
        return [f"killed after {delay:.4f} s: {text}" for text in self.after_kill(outcome)]

    # What must hold after a run; each returns what does not.

    def after_error(self, outcome: Outcome) -> list[str]:
        """After an I/O error: exit 2 with the old file or the new one, or 0 with the new one, and nothing else."""
        state = self.output_of(outcome)
        return [
            *complain(outcome.code in {0, 2}, f"exit code {outcome.code}"),
            *complain(outcome.code != 0 or state == "new", f"exit code 0, but the output is {state}"),
            *complain(state in {"old", "new"}, f"the output is {state}"),
            *self.no_litter(outcome),
            *(one_message(outcome.stderr) if outcome.code else []),
        ]

    def after_success(self, outcome: Outcome) -> list[str]:
        """After no fault, or one that does no harm: the new file and nothing else."""
        state = self.output_of(outcome)
        return [
            *complain(outcome.code == 0, f"exit code {outcome.code}: {outcome.stderr}"),
            *complain(state == "new", f"the output is {state}"),
            *self.no_litter(outcome),
        ]

    def after_signal(self, outcome: Outcome, number: int) -> list[str]:
        """After a signal that can be caught: one line that says truly whether the output was changed."""
        state = self.output_of(outcome)
        if outcome.code == 0:  # the signal came when all was done
            return complain(state == "new", f"exit code 0, but the output is {state}") + self.no_litter(outcome)
        said = "new" if outcome.stderr.endswith("was written\n") else "old"
        return [
            *complain(outcome.code == 128 + number, f"exit code {outcome.code}"),
            *complain(state == said, f"the output is {state}, but the message is {outcome.stderr!r}"),
            *complain(outcome.stderr.count("\n") == 1, f"not one line: {outcome.stderr!r}"),
            *one_message(outcome.stderr),
            *self.no_litter(outcome),
        ]

    def after_kill(self, outcome: Outcome) -> list[str]:
        """After SIGKILL: the old file or the new one, and at most one temporary file."""
        state = self.output_of(outcome)
        litter = sorted(set(outcome.files) - {self.name})
        return [
            *complain(outcome.code in {0, -9}, f"exit code {outcome.code}: {outcome.stderr}"),
            *complain(state in {"old", "new"}, f"the output is {state}"),
            *complain(len(litter) <= 1, f"more than one temporary file: {litter}"),
        ]

    def after_change(self, outcome: Outcome, *, before_all: bool) -> list[str]:
        """After a change of the input: an error and the old file, or a new one of either input, never a mixture.

        With `before_all` the input changed before anything was read.
        """
        content = outcome.files.get(self.name)
        if outcome.code == 0:
            if before_all:
                self.changed = content or ""
            return complain(content in {self.new, self.changed}, "exit code 0, but the output is of neither input")
        return [
            *complain(outcome.code in {2, 4}, f"exit code {outcome.code}"),
            *complain(content == self.old, "an error, but the output was changed"),
            *self.no_litter(outcome),
            *one_message(outcome.stderr),
        ]

    def no_litter(self, outcome: Outcome) -> list[str]:
        litter = sorted(set(outcome.files) - {self.name})
        return complain(not litter, f"litter: {litter}")


def complain(holds: bool, text: str) -> list[str]:
    return [] if holds else [text]


def one_message(stderr: str) -> list[str]:
    """One message of one or two lines, and no traceback."""
    lines = stderr.splitlines()
    good = 1 <= len(lines) <= 2 and lines[0].startswith("ggcp-schema: ") and "Traceback" not in stderr
    return complain(good, f"not one or two lines of a message: {stderr!r}")


def can_mount() -> bool:
    """True if an ordinary user may mount a filesystem in a namespace of its own."""
    try:
        command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", os.curdir]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
