"""The blocks of README.md, run in a shell from top to bottom, in a folder that holds what a fresh clone holds."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ggcp_schema.cli.app import COMMANDS
from tests.helpers import FIXTURES, run_cli

README = FIXTURES.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SETUP = "python3 -m venv"
EXCERPT = "py"  # of the code, which is not run
PYTHON = README.parent / "docs" / "PYTHON.md"
SHELL = README.parent / "docs" / "SHELL.md"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of each block but excerpts and those that set up an environment, in order."""
    found = BLOCK.findall(page.read_text("utf-8"))
    return [(language, text) for language, text in found if SETUP not in text and language != EXCERPT]


def script(language: str, text: str) -> str:
    """Return a block as a shell script."""
    if language == "python":
        return f"python - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"
    if language == "console":
        return "".join(line.removeprefix("$ ") for line in text.splitlines(keepends=True) if line.startswith("$ "))
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    shutil.copytree(FIXTURES, folder / "fixtures")
    return folder


def test_the_page_on_python_is_one_program(folder: Path) -> None:
    program = "".join(text for language, text in blocks(PYTHON) if language == "python")
    assert program.count("import") == 9
    subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", program], cwd=folder, check=True)


def test_the_page_on_the_shell_is_one_script(folder: Path) -> None:
    """`less` and `watch`, which wait for a user, print what they get, and once what the command prints."""
    for name, code in {"less": "cat", "watch": 'shift 4; exec "$@"'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    texts = [text for language, text in blocks(SHELL) if language == "sh"]
    assert len(texts) == 5
    result = in_shell(f'PATH="$PWD:$PATH"\n{"".join(texts)}', folder)
    assert result.returncode == 0, result.stderr
    assert "\x1b[1mfile " in result.stdout  # the table that is watched
    assert "\x1b[0mtrain_its" in result.stdout
    assert "\nsound\n3\n12\n" in result.stdout
    assert all((folder / f"ggcp-schema.{shell}").read_text() for shell in ("bash", "fish"))
    assert (folder / "_ggcp-schema").read_text().startswith("\n#compdef ggcp-schema")
    assert {path.name for path in folder.joinpath("resumes").iterdir()} >= {"v0-adam.resume.gguf"}


def test_every_block_runs_from_top_to_bottom(folder: Path) -> None:
    """Commands run in this process, which takes a tenth of the time, but where the shell does more than that."""
    for language, text in blocks(README):
        assert language in {"sh", "console", "python"}, language
        code = script(language, text)
        lines = code.splitlines()
        plain = all(line.startswith("ggcp-schema ") and not set(line) & set("|<>&;$`#\\") for line in lines)
        results = [run_cli(*shlex.split(line)[1:], cwd=folder) for line in lines] if plain else [in_shell(code, folder)]
        assert not any(result.returncode for result in results), f"{text}\n{results[-1].stderr}"
        shown = "".join(result.stdout for result in results)
        if language == "console":
            assert shown.splitlines() == [line for line in text.splitlines() if not line.startswith("$ ")], text
        if "xllamacpp" in text:
            assert "tired of sitting by her sister on the bank, and of having nothing to do" in shown


def in_shell(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def test_the_set_up_commands_are_two() -> None:
    commands = [line for line in README.read_text("utf-8").splitlines() if line.startswith(SETUP)]
    assert len(commands) == 2
    assert all(shlex.split(command) for command in commands)
    assert "pytest" in commands[1]


def test_every_command_is_in_the_table() -> None:
    section = README.read_text("utf-8").partition("## Commands")[2].partition("## ")[0]
    table = "".join(line for line in section.splitlines() if line.startswith("|"))
    assert {name for names in COMMANDS.values() for name in names} <= {*re.findall(r"`(\w+)`", table)}


def test_it_is_short_and_shows_the_schema_as_it_is() -> None:
    text = README.read_text("utf-8")
    assert len(text.split()) <= 1000
    (excerpt,) = [text for language, text in BLOCK.findall(text) if language == EXCERPT]
    source = (README.parent / "ggcp_schema" / "schema" / "checkpoint.py").read_text("utf-8").splitlines()
    assert {line for line in excerpt.splitlines() if "…" not in line} <= {*source}


def test_the_pictures_exist() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README.read_text("utf-8"))
    assert len(pictures) >= 2
    assert all((README.parent / picture).is_file() for picture in pictures)
