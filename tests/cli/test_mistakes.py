"""Command lines that are meant otherwise than they were typed: the message helps, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers import FIXTURES, assert_no_traceback, run_cli

NAMES = ("alice.ggcp", "v0-adam.ggcp", "vocab.gguf", "alice-tokenizer.model")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    for name in NAMES:
        shutil.copy(FIXTURES / name, tmp_path / "old" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("get alice.ggcp layers[1].wqq", "Did you mean layers[1].wq,"),
        ("get alice.ggcp layers[0].wq", "layers[0].wq[0:4]"),
        ("get alice.ggcp loss", "optimizer.state.fx_prev"),
        ("get layers[0].wq alice.ggcp", "The file comes first: ggcp-schema get alice.ggcp 'layers[0].wq'"),
        ("alice.ggcp info", "Run: ggcp-schema info alice.ggcp"),
        ("alise.ggcp", "Did you mean alice.ggcp?"),
        ("info ../olt/alise.ggcp", "Did you mean ../old/alice.ggcp?"),
        ("info *.bin", "quotes keep the shell from expanding"),
        ("chekpoint", "No such command or file"),
        ("verify vocab.gguf alice.ggcp", "The checkpoint comes first."),
        ("verify alice.ggcp alice.ggcp", "`ggcp-schema diff`"),
        ("extract alice.ggcp out.npy layers[0].wq", "The tensor comes before the output"),
        ("convert alice.ggcp v0-adam.ggcp", "For several inputs, give --into FOLDER."),
        ("convert alice.ggcp vocab.gguf", "GGUF vocabulary"),
        ("edit alice.ggcp v0-adam.ggcp train_its=1", "ggcp training checkpoint"),
        ("export alice.ggcp alice-tokenizer.model --vocab vocab.gguf --name x", "vocabulary has 320 tokens"),
        ("extract alice.ggcp norm alice.ggcp", "unknown output format"),
    ],
)
def test_the_message_puts_the_user_right(typed: str, said: str, folder: Path) -> None:
    before = contents(folder)
    result = run_cli(*typed.split(), cwd=folder / "old")
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "--force" not in result.stderr
    assert contents(folder) == before


def test_what_is_replaced_is_named(folder: Path) -> None:
    old = folder / "old"
    result = run_cli("convert", "alice.ggcp", "v0-adam.ggcp", "--force", cwd=old, check=True)
    assert "replaced v0-adam.ggcp, which was: ggcp training checkpoint" in result.stdout
    (old / "text").write_text("of no known format")
    assert "Use --force to overwrite it." in run_cli("convert", "alice.ggcp", "text", cwd=old).stderr
    assert "replaced" not in run_cli("convert", "alice.ggcp", "text", "--force", cwd=old, check=True).stdout


def test_a_folder_stands_for_the_files_in_it(folder: Path) -> None:
    assert run_cli("validate", folder / "old", check=True).stdout.endswith("3 files: 3 valid\n")
    assert len(run_cli("info", folder / "old", "--json", check=True).stdout.splitlines()) == 3
    run_cli("convert", folder / "old", "--into", folder / "new")
    assert sorted(path.name for path in (folder / "new").iterdir()) == ["alice.resume.gguf", "v0-adam.resume.gguf"]
    assert "no file in the folder" in run_cli("info", folder).stderr
