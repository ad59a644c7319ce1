"""A file whose values no program can have left: every command that reads them says so, with the place."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggcp_schema import UsageError, convert, export_model, open_file
from ggcp_schema.formats.ggcp.checkpoint import Checkpoint
from ggcp_schema.formats.ggcp.repair import repairable
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, ONE_OF_EACH, run_cli, thinned

GENUINE = sorted(
    [*FIXTURES.glob("*.ggcp"), *(FIXTURES / "truth").glob("*.ggcp"), *(FIXTURES / "orders").glob("*.ggcp")]
)
PAGE = 512


@pytest.fixture(params=["output", "optimizer.state.v", "optimizer.state.m"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, int]:
    """A genuine file with a page of zeros, the path of the tensor it lies in, and its offset."""
    path = tmp_path / "lost.ggcp"
    shutil.copy(FIXTURES / "v1-adam.ggcp", path)
    with open_file(path) as file:
        tensor = file.tensors[request.param]
        start = -(-(tensor.offset + tensor.nbytes * 3 // 4) // PAGE) * PAGE  # behind the rows of tokens
    with path.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(PAGE))
    return path, request.param, start


def told(path: str, start: int) -> str:
    """Return the place of a lost page; where v is lost, the finding may begin at a value that was zero before."""
    return f"{path}: " if path.endswith(".m") else f"bytes {start:,} to {start + PAGE - 1:,} of the file"


def test_validate_says_where_and_exits_1(page: tuple[Path, str, int]) -> None:
    path, name, start = page
    result = run_cli("validate", "--data", path)
    assert result.returncode == 1
    assert told(name, start) in result.stdout
    document = json.loads(run_cli("validate", "--data", "--json", path).stdout)
    assert (document["verdict"], document["valid"], document["errors"]) == ("unsound", False, [])
    assert document["unsound"][0]["path"] == name
    assert document["unsound"][0]["start"] <= start + PAGE
    assert run_cli("validate", path).returncode == 0  # only the bytes of the fields are looked at


def test_stats_says_where(page: tuple[Path, str, int]) -> None:
    path, name, start = page
    assert told(name, start) in run_cli("stats", path, check=True).stdout
    rows = json.loads(run_cli("stats", path, "--json", check=True).stdout)
    assert [row["path"] for row in rows if row["unsound"]] == [name]


@pytest.mark.parametrize("command", ["convert", "export"])
def test_what_is_unsound_is_noted_while_it_is_copied(command: str, page: tuple[Path, str, int], tmp_path: Path) -> None:
    path, name, start = page
    more = () if command == "convert" else ("--vocab", FIXTURES / "vocab.gguf", "--ctx", "16")
    result = run_cli(command, path, tmp_path / "out.gguf", *more, check=True)
    copied = command == "convert" or not name.startswith("optimizer.")
    assert (told(name, start) in result.stdout) is copied
    refused = run_cli(command, path, tmp_path / "strict.gguf", *more, "--strict")
    assert refused.returncode == (2 if copied else 0)
    assert (tmp_path / "strict.gguf").exists() is not copied
    assert len(list(tmp_path.iterdir())) == 3 - copied


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_lost_page_of_a_gguf_checkpoint_is_noted_while_it_is_exported(to: str, tmp_path: Path) -> None:
    path = tmp_path / "resume.gguf"
    convert(FIXTURES / "v1-adam.ggcp", path, sync=False)
    with open_file(path) as file, path.open("r+b") as stream:
        stream.seek(file.tensors["output.weight"].offset)
        stream.write(bytes(PAGE))
    written = export_model(path, tmp_path / to, to=to, context_length=16, vocab=FIXTURES / "vocab.gguf", sync=False)
    assert [finding.path for finding in written.unsound] == ["output"]


@pytest.fixture
def half_of_v(tmp_path: Path) -> Path:
    """A genuine file whose v is zero from the middle on, in places that m tells to be wrong."""
    path = tmp_path / "half.ggcp"
    shutil.copy(FIXTURES / "alice.ggcp", path)
    with open_file(path) as file, path.open("r+b") as stream:
        v = file.tensors["optimizer.state.v"]
        stream.seek(v.offset + v.nbytes // 2)
        stream.write(bytes(v.nbytes // 2))
    return path


def test_of_an_unsound_state_the_remedy_is_a_fresh_optimizer(half_of_v: Path, tmp_path: Path) -> None:
    assert f"train on    ggcp-schema convert {half_of_v} --fresh-optimizer" in run_cli("info", "-v", half_of_v).stdout
    out = tmp_path / "out.gguf"
    lines = run_cli("convert", half_of_v, out, check=True).stdout.splitlines()
    (note,) = (line for line in lines if line.startswith("unsound: optimizer.state.v"))
    assert note.endswith(" more places")
    command = shlex.split(lines[-1].partition(": ")[2])
    result = run_cli(*command[1:], "--strict", cwd=tmp_path, check=True)
    assert result.stdout.splitlines()[-1].startswith("resume with llama.cpp")
    assert "Use --fresh-optimizer" in run_cli("convert", half_of_v, tmp_path / "no.gguf", "--strict").stderr


def test_an_unsound_state_does_not_come_into_a_folder(half_of_v: Path, tmp_path: Path) -> None:
    vocab = FIXTURES / "alice-vocab.gguf"
    export_model(half_of_v, tmp_path / "folder", to="hf", vocab=vocab, sync=False)
    assert not (tmp_path / "folder" / "optimizer.safetensors").exists()
    assert run_cli("verify", half_of_v, tmp_path / "folder", "--vocab", vocab).returncode == 0


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "v1-lbfgs.ggcp", "lora/twin-adam.ggcl", "lora/lbfgs.ggcl"])
def test_a_loss_of_zero_is_unsound_for_all_commands(name: str, tmp_path: Path) -> None:
    """No other value need be read for that."""
    path = tmp_path / "zeros"
    path.write_bytes((FIXTURES / name).read_bytes()[:-100] + bytes(100))
    for words in (("info",), ("info", "-v"), ("validate",), ("validate", "--data")):
        result = run_cli(*words, path)
        assert result.returncode == 1
        assert "optimizer.state.fx_best: a loss of exactly 0 after training" in result.stdout


def test_repair_is_named_where_it_takes_back_something(tmp_path: Path) -> None:
    hole = tmp_path / "hole.ggcp"
    content = (FIXTURES / "v0-adam.ggcp").read_bytes()
    hole.write_bytes(content[:20000] + bytes(4096) + content[24096:])
    command = f"ggcp-schema repair {hole}"
    for words in (("info",), ("info", "-v"), ("validate",)):
        assert command in run_cli(*words, hole).stdout
    for words in (("convert", "--partial"), ("convert",), ("export", "--partial", "--vocab", FIXTURES / "vocab.gguf")):
        assert "`ggcp-schema repair`" in run_cli(words[0], hole, *words[1:]).stderr
    assert run_cli("repair", hole, tmp_path / "whole.ggcp").returncode == 0
    assert "ggcp-schema repair" not in run_cli("info", tmp_path / "whole.ggcp", check=True).stdout
    cut = tmp_path / "cut.ggcp"
    cut.write_bytes(content[:300_000])
    assert "ggcp-schema repair" not in run_cli("info", cut).stdout


def test_convert_looks_for_records_only_where_values_are_there_twice(
    half_of_v: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For very many records that takes more memory than all the rest."""
    hole = tmp_path / "hole.ggcp"
    shutil.copy(FIXTURES / "v0-adam.ggcp", hole)
    with open_file(hole) as file, hole.open("r+b") as stream:
        stream.seek(file.tensors["output"].offset + 400)
        stream.write(bytes(PAGE))
    asked: list[str] = []
    monkeypatch.setattr(Checkpoint, "repairable", lambda _, source: asked.append(source.path) or repairable(source))
    for path, advised in ((half_of_v, "--fresh-optimizer"), (hole, "ggcp-schema repair ")):
        said = run_cli("convert", path, tmp_path / "out.gguf", "--force", check=True).stdout.splitlines()
        assert advised in said[-1]
    assert asked == [str(hole)]


def test_in_python(page: tuple[Path, str, int], tmp_path: Path) -> None:
    path, name, _ = page
    assert [finding.path for finding in convert(path, tmp_path / "out.gguf").unsound] == [name]
    with pytest.raises(UsageError, match=name.replace(".", r"\.")):
        convert(path, tmp_path / "strict.gguf", strict=True)
    assert export_model(path, tmp_path / "model", to="hf", context_length=16, vocab=FIXTURES / "vocab.gguf").plan


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH), ids=lambda path: path.name)
def test_no_genuine_file_is_unsound(path: Path, tmp_path: Path) -> None:
    assert json.loads(run_cli("validate", "--data", "--json", path).stdout)["unsound"] == []
    if path.name.startswith("truncated"):
        return
    assert convert(path, tmp_path / "out.gguf").unsound == ()
    assert convert(tmp_path / "out.gguf", tmp_path / "again.gguf").unsound == ()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("v1-adam.ggcp", "convert {} out"),
        ("lora/base.ggjt", "export {} out --context-length 32 --vocab " + str(FIXTURES / "lora" / "base.ggjt")),
        ("lora/adam.ggla", "export {} out --norms ignore --base " + str(FIXTURES / "lora" / "base.gguf")),
    ],
)
@pytest.mark.parametrize("change", thinned([lambda byte: byte if byte < 0x80 else ord("?"), lambda byte: byte & 0x7F]))
def test_a_file_of_7_bits_is_unsound(change: Callable[[int], int], name: str, command: str, tmp_path: Path) -> None:
    """Its headers are whole, as names and small numbers have no byte above 127."""
    path = tmp_path / "seven"
    path.write_bytes(bytes(map(change, (FIXTURES / name).read_bytes())))
    result = run_cli("validate", "--data", path)
    assert result.returncode == 1
    assert "sent as text: copy the original again in binary mode" in result.stdout
    assert "sent as text" not in run_cli("validate", "--data", FIXTURES / name, check=True).stdout
    for words in (("info", "-v", path), ("info", "-v", path, FIXTURES / name)):
        assert run_cli(*words).returncode == 1
    assert run_cli("info", "-v", FIXTURES / name).returncode == 0
    words = [word.format(path) for word in command.split()]
    refused = run_cli(*words, "--strict", cwd=tmp_path)
    assert refused.returncode == 2
    assert "no byte is above 127" in refused.stderr
    assert not (tmp_path / "out").exists()
    assert "no byte is above 127" in run_cli(*words, cwd=tmp_path).stdout


def test_a_constant_without_a_highest_bit_is_sound(tmp_path: Path) -> None:
    """The bytes of 0.5 are 00 00 00 3f."""
    path = tmp_path / "half.ggcp"
    path.write_bytes(build_checkpoint(data=lambda count: np.full(count, 0.5, "<f4")))
    assert "no byte is above 127" not in run_cli("validate", "--data", path).stdout


# Every format of checkpoints -------------------------------------------------------------------------------

LORA = FIXTURES / "lora"
CHECKPOINTS = [*(LORA / f"{name}.ggcl" for name in ("adam", "lbfgs")), *LORA.glob("*.checkpoint.gguf"), GENUINE[-1]]
MODELS = [LORA / "base.gguf", LORA / "base.ggjt", LORA / "adam.ggla", FIXTURES / "vocab.gguf"]


@pytest.mark.parametrize("path", [*CHECKPOINTS, *MODELS], ids=lambda path: path.name)
def test_info_says_that_values_are_not_examined_where_it_can_examine_them(path: Path) -> None:
    is_checkpoint = path in CHECKPOINTS
    assert ("values not examined" in run_cli("info", path, check=True).stdout) is is_checkpoint
    examined = "no impossible value was found in its tensors" in run_cli("info", "-v", path, check=True).stdout
    assert examined is is_checkpoint


@pytest.mark.parametrize("name", ["adam.ggcl", "master-adam.checkpoint.gguf", "feb2024-adam.checkpoint.gguf"])
def test_a_lost_page_of_a_checkpoint_of_finetune_is_found(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with open_file(LORA / name) as file:
        a = max(file.dense_tensors.values(), key=lambda tensor: tensor.nbytes)
        m = file.state_tensors["m"]
    for tensor in (a, m):
        shutil.copy(LORA / name, path)
        with path.open("r+b") as stream:
            stream.seek(tensor.offset)
            stream.write(bytes(128) if tensor is a else b"\x7f" * 128)
        assert run_cli("info", "-v", path).returncode == 1
        document = json.loads(run_cli("validate", "--data", "--json", path).stdout)
        path_in_ggcp = "optimizer.state.m" if tensor is m else tensor.path
        assert (document["verdict"], {bad["path"] for bad in document["unsound"]}) == ("unsound", {path_in_ggcp})


@pytest.mark.parametrize("name", ["adam.ggcl", "master-adam.checkpoint.gguf"])
def test_pairs_that_have_not_been_trained_are_sound(name: str, tmp_path: Path) -> None:
    """Each B begins with zeros, and so do the moments."""
    path = tmp_path / name
    shutil.copy(LORA / name, path)
    with open_file(LORA / name) as file, path.open("r+b") as stream:
        fresh = [tensor for tensor in file.tensors.values() if tensor.path.endswith(("_b", "moments", ".m", ".v"))]
        for tensor in fresh:
            stream.seek(tensor.offset)
            stream.write(bytes(tensor.nbytes))
    assert len(fresh) == 21 + 2
    assert "no impossible value was found in its tensors" in run_cli("info", "-v", path, check=True).stdout
