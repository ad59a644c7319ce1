"""What is printed on terminals: wrapped between words, in colours if wanted, with commands that can be copied."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ggcp_schema
from ggcp_schema.cli.output import COLOURED, wrapped
from ggcp_schema.errors import quoted
from ggcp_schema.inspect.text import cells
from tests.helpers import FIXTURES, run_cli, run_process, run_pty

WORDS = st.lists(st.text("abc日\u0301-", min_size=1, max_size=30) | st.just("\x1b[31mred\x1b[0m"), min_size=1)


@given(WORDS, st.integers(20, 100))
def test_no_word_is_lost_or_broken(words: list[str], width: int) -> None:
    lines = wrapped(" ".join(words), width, "  ")
    assert [word for line in lines for word in line.split(" ") if word] == words
    for line in lines:
        assert cells(COLOURED.sub("", line)) <= width or len(line.split()) == 1
    assert all(line.startswith("  ") for line in lines[1:])


@given(st.lists(st.text("ab 1'’“\"$`\\\n\x1b\u202e日-~!*[]{}=,@#%\udce9", max_size=30), min_size=1, max_size=9))
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_shell_reads_a_command(shell: str, words: list[str]) -> None:
    """A newline at the end only bash and zsh can have."""
    words = words if shell == "bash" else [word.rstrip("\n") for word in words]
    text = " ".join(map(quoted, words))
    assert text.isprintable()
    read = subprocess.run([shell, "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True).stdout
    assert read.decode("utf-8", "surrogateescape") == "".join(f"{word}\0" for word in words)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("it's", '"it\'s"'),
        ("it’s a", '"it’s a"'),
        ("it's $1", "'it'\"'\"'s $1'"),
        ("it's!", "'it'\"'\"'s!'"),
        ("“x”", "'“x”'"),
    ],
)
def test_an_apostrophe_is_for_all_shells_where_it_can_be(text: str, word: str) -> None:
    """PowerShell ends a word after a quoted part, and takes ’ for an apostrophe."""
    assert quoted(text) == word


@pytest.mark.parametrize("name", ["a\\\\b", "a\\", "a\\'b", "\\\\'\\"])
def test_backslashes_that_fish_reads_as_fewer_are_written_as_numbers(name: str) -> None:
    """Between apostrophes fish knows two escapes, of a backslash and of an apostrophe; other shells know none."""
    assert "\\\\" not in quoted(name)
    assert "\\'" not in quoted(name)
    assert quoted("a\\b") == "'a\\b'"
    read = subprocess.run(["sh", "-c", f"printf %s {quoted(name)}"], capture_output=True, check=True, text=True).stdout
    assert read == name


def test_a_command_in_a_message_can_be_copied() -> None:
    words = ("export", "v0-adam.ggcp", "a-name-that-is-long.gguf", "vocab.gguf")
    code, screen = run_pty(*words, cwd=FIXTURES, columns=50, env={"NO_COLOR": "1"})
    assert code == 2
    *said, command = screen.splitlines()
    assert command.strip() == "ggcp-schema export v0-adam.ggcp a-name-that-is-long.gguf --vocab vocab.gguf"
    assert said[-1] == "Run:"
    assert run_cli(*words, cwd=FIXTURES).stderr.endswith(f"{said[-1]} {command.strip()}\n")


def test_what_to_run_next_is_one_line_to_copy(tmp_path: Path) -> None:
    """Shells differ in how a line goes on, and zsh hands what follows a # to the command."""
    words = ("convert", FIXTURES / "v1-adam.ggcp", "new.gguf", "--no-sync")
    in_pipe = run_cli(*words, cwd=tmp_path, check=True).stdout.splitlines()[-1]
    screen = run_pty(*words, "--force", cwd=tmp_path, columns=60, env={"NO_COLOR": "1"})[1].splitlines()
    assert " ".join(line.strip() for line in screen[-3:]) == in_pipe
    assert screen[-1].startswith("llama-train-text-from-scratch ")
    assert "#" not in screen[-1]


def test_colours_as_they_are_wanted() -> None:
    alice = FIXTURES / "alice.ggcp"
    assert "\x1b" in run_cli("--color", "always", "info", alice, check=True).stdout
    assert "\x1b" not in run_pty("--color", "never", "info", alice)[1]
    assert "\x1b" in run_cli("info", alice, "--color", "always", check=True).stdout
    assert run_cli("--color", "pink", "info", alice).returncode == 2


@pytest.mark.parametrize("command", ["info", "stats", "dump"])
def test_no_terminal_is_narrower_than_20_columns(command: str) -> None:
    path = FIXTURES / "v1-adam.ggcp"
    texts = [run_cli(command, path, "--width", width, check=True).stdout for width in ("1", "20", "30")]
    assert texts[0] == texts[1] != texts[2]


def test_the_version_has_those_of_the_libraries_which_a_report_of_a_fault_needs() -> None:
    printed = run_cli("--version", check=True).stdout
    assert printed.startswith(f"ggcp-schema {ggcp_schema.__version__} (Python {platform.python_version()}, ")
    assert all(f"{name} {version(name)}" in printed for name in ("construct", "gguf", "textual"))


@pytest.mark.parametrize("columns", ["1", "2", "7"])
def test_help_is_printed_on_the_narrowest_terminal(columns: str) -> None:
    result = run_process("info", "--help", env={"COLUMNS": columns}, check=True)
    assert "".join(result.stdout.split()) == "".join(run_process("info", "--help", check=True).stdout.split())
