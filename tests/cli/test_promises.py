"""What every command promises: names act on no terminal, `--quiet` prints errors only, and a reader may leave early."""

from __future__ import annotations

import io
import json
import os
import re
from importlib import import_module
from inspect import signature
from pathlib import Path
from unittest import mock

import pytest

from ggcp_schema import cli
from ggcp_schema.cli.app import COMMANDS
from tests import helpers
from tests.builder import build_checkpoint, build_gguf
from tests.helpers import FIXTURES, assert_no_traceback, run_cli
from tests.vocabularies import ggml_file

LINES = {  # what is run of each command, after its options; and its exit code
    "info": ("-- {file}", 0),
    "browse": ("-- {file}", 2),  # which needs a terminal
    "dump": ("-- {file}", 0),
    "search": ("-- {file} n", 0),
    "get": ("-- {file} {tensor}[0:4]", 0),
    "hex": ("-- {file} 0:9999", 0),
    "tensors": ("-- {file}", 0),
    "stats": ("-- {file}", 0),
    "extract": ("-- {file} * {out}.safetensors", 0),
    "schema": ("-- {format}", 0),
    "convert": ("--no-sync --verify -- {file} {out}.gguf", 0),
    "export": ("--no-sync --vocab ./{vocabulary} --ctx 16 -- {file} {out}.gguf", 0),
    "edit": ("--no-sync -- {file} {out}.ggcp {tensor}.name={new}", 0),
    "repair": ("--no-sync -- {repairable} {out}.ggcp", 0),
    "validate": ("-- {file}", 0),
    "verify": ("-- {file} {made}", 1),
    "diff": ("-- {file} {other}", 1),
}
EVIL = "-\x1b[31m[red]\x07\x9b\r\nMARK\u202e"
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]|^MARK", re.MULTILINE)
NAME = os.fsdecode(EVIL.encode() + b"\xff")


def takes(parameter: str) -> list[str]:
    """Return the commands that have a parameter of this name."""
    modules = {name: import_module(f"ggcp_schema.cli.{name}") for name in LINES}
    return [name for name, module in modules.items() if parameter in signature(getattr(module, name)).parameters]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with odd names, in which all names of tensors and keys, and a token, are odd too."""
    folder = tmp_path_factory.mktemp("promises")
    tokens = [b"", b"", b"", EVIL.encode(), b"b"]
    for name, data in {
        "file": build_checkpoint(name=lambda default: EVIL.encode() + b"\xff"),
        "other": build_checkpoint(train=(4, 16, 256), name=lambda default: EVIL.encode() + b"\xff"),
        "vocabulary": ggml_file("ggjt", 3, tokens),
        "made": build_gguf([(f"{EVIL}{n}", 8, EVIL) for n in "ab"], [(f"{EVIL}{n}", (4,), 0, bytes(16)) for n in "ab"]),
        "repairable": (FIXTURES / "v1-adam.ggcp").read_bytes().replace(b"norm.weight", b"n0rm.weight", 1),
        "damaged": build_checkpoint(name=lambda default: EVIL.encode())[:700],
    }.items():
        (folder / (NAME + name)).write_bytes(data)
    return folder


def words(command: str, *options: str, kind: str = "file", out: str = "out") -> list[str]:
    """Return the command on a file of that kind."""
    names = {name: NAME + name for name in ("other", "vocabulary", "made")} | {"file": NAME + kind}
    names["repairable"] = NAME + ("repairable" if kind == "file" else kind)
    tensor, form = f"{EVIL}a" if kind == "made" else "norm", NAME if kind == "missing" else "ggcp"
    given = names | {"tensor": tensor, "format": form, "new": EVIL, "out": NAME + command + out}
    return [command, *options, *(word.format(**given) for word in LINES[command][0].split())]


def test_the_table_has_every_command() -> None:
    assert set(LINES) == {name for names in COMMANDS.values() for name in names}


# Names -----------------------------------------------------------------------------------------------------


def with_options(command: str) -> list[list[str]]:
    """Return the options with which another function prints."""
    options = (("as_json", "--json"), ("dry_run", "--dry-run"))
    return [[], *([option] for parameter, option in options if command in takes(parameter))]


@pytest.mark.parametrize("command", LINES)
@pytest.mark.parametrize("kind", ["file", "made", "damaged", "missing"])
def test_no_name_acts_on_the_terminal(command: str, kind: str, folder: Path) -> None:
    """Nor begins a line, nor is taken for an option; whether it is that of a file, a tensor, a key or an output."""
    for options in with_options(command):
        out = f"{kind}{options}"
        result = run_cli(*words(command, *options, kind=kind, out=out), cwd=folder)
        assert_no_traceback(result)
        assert not UNSAFE.search(result.stdout + result.stderr), (result.stdout, result.stderr)
        if kind == "file":
            assert result.returncode == LINES[command][1], result.stderr
            is_written = "{out}" in LINES[command][0] and options != ["--dry-run"]
            assert any(name.startswith(NAME + command + out) for name in os.listdir(folder)) == is_written
        if kind == "missing":
            assert result.returncode == 2
            assert len(result.stderr.splitlines()) <= 2
            assert options == ["--json"] or command == "browse" or r"-\x1b[31m[red]" in result.stdout + result.stderr
        if options == ["--json"] and result.stdout:
            json.loads(result.stdout)


# What is printed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [name for name in takes("quiet") if name != "stats"])  # there it is the bar only
@pytest.mark.parametrize("kind", ["file", "damaged", "missing"])
def test_quiet_prints_errors_only(command: str, kind: str, folder: Path) -> None:
    loud = run_cli(*words(command, kind=kind, out=f"loud{kind}"), cwd=folder)
    quiet = run_cli(*words(command, "--quiet", kind=kind, out=f"quiet{kind}"), cwd=folder)
    is_told = loud.returncode == 2 or (loud.returncode == 4 and command != "validate")  # whose exit code is the result
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (loud.returncode, "", loud.stderr if is_told else "")


class Closed(io.RawIOBase):
    """A pipe whose reader has gone, until the command gives it up."""

    is_open = True

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        if self.is_open:
            raise BrokenPipeError
        return len(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", LINES)
def test_a_reader_that_has_gone_is_no_error_and_changes_no_verdict(command: str, folder: Path) -> None:
    for options in with_options(command):
        expected = run_cli(*words(command, *options, out=f"read{options}"), cwd=folder)
        pipe, stderr = Closed(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        stdout = io.TextIOWrapper(io.BufferedWriter(pipe, 1 << 20), encoding="utf-8")
        with mock.patch.object(cli, "discard_output", lambda pipe=pipe: setattr(pipe, "is_open", False)):
            argv = ["ggcp-schema", *words(command, *options, out=f"unread{options}")]
            code = helpers._run(argv, [io.TextIOWrapper(io.BytesIO()), stdout, stderr], None, folder)
        assert (code, stderr.buffer.getvalue().decode()) == (expected.returncode, expected.stderr)
        assert pipe.is_open == (command == "browse"), "something was printed"
