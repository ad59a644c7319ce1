"""The commands that are shown, copied and filled in."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ggcp_schema.formats import open_file
from ggcp_schema.inspect import commands
from ggcp_schema.inspect.summary import summarize
from tests.helpers import FIXTURES, run_cli

ALICE = FIXTURES / "alice.ggcp"


@pytest.mark.parametrize(
    "path", ["hparams.n_vocab", "layers[0].wq", "layers[0].wq.data", "norm.padding", "magic", "file"]
)
def test_the_command_that_prints_the_same_runs(path: str) -> None:
    with open_file(ALICE) as file:
        line = commands.printing(str(ALICE), file.find(path), 0)
    words = shlex.split(line)
    assert words[0] == "ggcp-schema"
    result = run_cli(*words[1:])
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_command_for_an_element_prints_its_value() -> None:
    with open_file(ALICE) as file:
        line = commands.printing(str(ALICE), file.find("layers[0].wq.data"), 0, 17)
        value = float(file.tensors["layers[0].wq"].array().reshape(-1)[17])
    result = run_cli(*shlex.split(line)[1:])
    assert float(result.stdout) == pytest.approx(value, rel=1e-6)


def test_file_names_are_quoted() -> None:
    name = "my file; rm -rf $HOME.ggcp"
    with open_file(ALICE) as file:
        for line in (
            commands.printing(name, file.find("norm"), 0),
            *(
                commands.line(command.filled({"OUTPUT": command.output}))
                for command in (
                    commands.extracting(name, file.tensors["layers[0].wq"]),
                    commands.exporting(name),
                    commands.converting(name),
                )
            ),
            commands.printing(name, None, 3),
        ):
            assert name in shlex.split(line)


@pytest.mark.parametrize("name", ["two words.ggcp", "caf\udce9.ggcp", "new\nline.ggcp", "-x.ggcp", "it's.ggcp"])
def test_a_command_to_fill_in_has_the_file_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(ALICE.read_bytes())
    with open_file(name) as file:
        advice = summarize(file).next
    path = f"./{name}" if name.startswith("-") else name
    assert commands.exporting(name, advice).words[:3] == ["export", path, "OUTPUT"]
    assert commands.converting(name, advice).words == ["convert", path, "OUTPUT"]


def test_a_file_name_like_an_option_is_a_path() -> None:
    with open_file(ALICE) as file:
        assert commands.printing("-x.ggcp", file.find("norm"), 0) == "ggcp-schema dump ./-x.ggcp norm"
    assert commands.converting("-x.ggcp").filled({"OUTPUT": "out.gguf"}) == ["convert", "./-x.ggcp", "out.gguf"]


def test_what_info_advises_is_asked_for() -> None:
    advice = ("ggcp-schema export --partial 'a b' --base BASE.gguf", "ggcp-schema export 'a b' --vocab VOCABULARY")
    command = commands.exporting("a b", advice)
    assert command.words == ["export", "--partial", "a b", "OUTPUT", "--base", "BASE.gguf"]
    assert (command.title, command.output) == ("Export an adapter", "a b.adapter.gguf")
    folder = commands.exporting("a.gguf", ("ggcp-schema export --to hf a.gguf",))
    assert (folder.title, folder.output) == ("Export for PyTorch", "a-hf")
    command = commands.exporting("a b", advice[1:])
    assert command.filled({"OUTPUT": "c", "VOCABULARY": "d"}) == ["export", "a b", "c", "--vocab", "d"]
    full = command.filled({"CONTEXT": " 64 "})
    assert full == ["export", "a b", "OUTPUT", "--vocab", "VOCABULARY", "--context-length", "64"]
    assert [isinstance(word, commands.Blank) for word in full] == [False, False, True, False, True, False, False]
