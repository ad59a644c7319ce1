"""The README's examples, run as they stand there."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.helpers import FIXTURES, run_cli

README = FIXTURES.parent / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the README speaks of."""
    for name, fixture in (("old", "v1-adam"), ("twin-ff48.v1", "twin-ff48.v1")):
        (tmp_path / f"{name}.ggcp").write_bytes((FIXTURES / f"{fixture}.ggcp").read_bytes())
    (tmp_path / "VOCABULARY").write_bytes((FIXTURES / "vocab.gguf").read_bytes())
    return tmp_path


def test_console_examples_print_what_they_are_shown_to_print(folder):
    examples = [example for block in blocks("console") for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    assert len(examples) >= 4
    for example in examples:
        command, _, shown = example.partition("\n")
        program, *args = shlex.split(command)
        assert program == "ggcp-schema"
        printed = run_cli(*args, cwd=folder, check=True).stdout
        assert not shown or printed == shown, command


def test_shell_examples_run(folder):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("ggcp-schema ")]
    assert len(commands) >= 2
    for command in commands:
        run_cli(*shlex.split(command)[1:], cwd=folder, check=True)


def test_python_examples_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = (folder / "old.ggcp").read_bytes()
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), {})  # noqa: S102 - our own README
    after = (folder / "reset.ggcp").read_bytes()
    assert after == before[:8] + bytes(4) + before[12:]


def test_every_command_is_in_the_table():
    table = re.findall(r"^\| `(\w+)", README.read_text("utf-8"), re.MULTILINE)
    listed = re.findall(r"^  (\w+)  ", run_cli("--help").stdout.split("Convert:")[1], re.MULTILINE)
    assert table == listed
