"""Command lines that are meant otherwise than they were typed: the message helps, and nothing is lost."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ggcp_schema import open_checkpoint, open_file
from ggcp_schema.cli import convert
from tests.helpers import FIXTURES, assert_no_traceback, run_cli

NOT_THERE = "No such file or directory"
NAMES = ("alice.ggcp", "v0-adam.ggcp", "vocab.gguf", "alice-tokenizer.model")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def filled(folder: Path) -> Path:
    """Copy the files that the commands name into a folder."""
    (folder / "old").mkdir()
    (folder / "lora").mkdir()
    for name in NAMES:
        shutil.copy(FIXTURES / name, folder / "old" / name)
    for name in ("lora/adam.ggla", "lora/base.gguf"):
        shutil.copy(FIXTURES / name, folder / name)
    (folder / "old" / "hf").mkdir()
    (folder / "old" / "peft").mkdir()
    (folder / "old" / "peft" / "adapter_config.json").write_bytes(b"{}")
    for name in ("config.json", "tokenizer.model"):
        (folder / "old" / "hf" / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all tests, which must not change it."""
    return filled(tmp_path_factory.mktemp("unchanged"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("get alice.ggcp layers[1].wqq", "Did you mean layers[1].wq,"),
        ("get alice.ggcp layers[0].wq", "layers[0].wq[0:4]"),
        ("get alice.ggcp layers[0].wq[2][0]", "Did you mean layers[0].wq[2,0]?"),
        ("get alice.ggcp wq[2,0]", "Did you mean layers[0].wq[2,0]?"),
        ("get alice.ggcp hparams.n_embed[0]", "Did you mean hparams.n_embd,"),
        ("get alice.ggcp layers[9].wq[2,0]", "layers has 3 elements, [0] to [2]."),
        ("get alice.ggcp m[layers[0].wq]", "Did you mean optimizer.state.m[layers[0].wq]?"),
        ("get alice.ggcp layers[-1].wq", "layers has 3 elements, [0] to [2]."),
        ("get alice.ggcp loss", "Did you mean optimizer.state.fx_prev,"),
        ("get layers[0].wq alice.ggcp", "The file comes first: ggcp-schema get alice.ggcp 'layers[0].wq'"),
        ("get alice alice.ggcp", "Did you mean alice.ggcp?"),
        ("tensors --moments norm alice.ggcp", "The file comes first: ggcp-schema tensors --moments alice.ggcp norm\n"),
        ("--color never get norm alice.ggcp", "The file comes first: ggcp-schema get alice.ggcp norm\n"),
        (
            "export new.gguf --vocab vocab.gguf alice.ggcp",
            "first: ggcp-schema export alice.ggcp --vocab vocab.gguf new.gg",
        ),
        ("repair new.ggcp alice.ggcp", "The file comes first: ggcp-schema repair alice.ggcp new.ggcp\n"),
        ("export -q vocab.gguf v0-adam.ggcp", "Run: ggcp-schema export -q v0-adam.ggcp --vocab vocab.gguf\n"),
        ("convert new.gguf alice.ggcp -q", "The file comes first: ggcp-schema convert alice.ggcp new.gguf -q"),
        ("convert alise.ggcp vocab.gguf", "Did you mean alice.ggcp?"),
        ("alice.ggcp info -v", "Run: ggcp-schema info alice.ggcp -v\n"),
        ("alise.ggcp", "Did you mean alice.ggcp?"),
        ("info ../olt/alise.ggcp", "Did you mean ../old/alice.ggcp?"),
        ("info *.ggcp", "Files match this name, but quotes keep the shell from expanding it."),
        ("alice", "No such command or file 'alice'. Did you mean 'alice.ggcp'?"),
        ("INFO alice.ggcp", "Did you mean 'info'?"),
        ("validate alice.ggcp --DATA", "--data is an option of validate. "),
        ("info https://example.com/alice.ggcp", "This is an address. Download the file, and give its path."),
        ("info ~/alise.ggcp", "Quotes keep the shell from taking ~ for the home folder."),
        ("export alice.ggcp new.gguf --ctx 64k", "'64k' is not a whole number."),
        ("export alice.ggcp --vocab VOCABULARY", "Give the file that was the trainer's --vocab-model"),
        ("export alice.ggcp --vocab vocab.gguf --context-length N", "Give the number of tokens"),
        ("export CHECKPOINT --vocab vocab.gguf", "Give the checkpoint"),
        ("convert v0-adam.ggcp --batch N", "Give the number of samples"),
        ("edit train_its=1 alice.ggcp new.ggcp", "Write: INPUT OUTPUT PATH=VALUE."),
        ("verify vocab.gguf alice.ggcp", "The checkpoint comes first."),
        ("verify hf alice.ggcp", "The checkpoint comes first."),
        ("verify alice.ggcp alice.ggcp", "`ggcp-schema diff`"),
        ("verify vocab.gguf vocab.gguf", "`ggcp-schema diff`"),
        ("extract alice.ggcp out.npy layers[0].wq", "The tensor comes before the output"),
        ("convert alice.ggcp v0-adam.ggcp", "For several inputs, give --into FOLDER."),
        ("convert alice.ggcp vocab.gguf", "GGUF vocabulary"),
        ("convert ../old", "give --into FOLDER."),
        ("convert alice.ggcp --into v0-adam.ggcp", "v0-adam.ggcp: cannot make a folder: File exists"),
        ("nosuch", "`ggcp-schema --help` explains the commands."),
        ("convert --into", "`ggcp-schema convert --help` explains the command."),
        ("edit alice.ggcp . train_its=0", "Add the name of the file to write."),
        ("edit alice.ggcp train_its=1", "Write: INPUT OUTPUT PATH=VALUE."),
        ("edit alice.ggcp train_its=1 new.ggcp", "Write: INPUT OUTPUT PATH=VALUE."),
        ("hex alice.ggcp 0x28-0x30", "Give OFFSET:LENGTH"),
        ("stats alice.ggcp nothing*", "`ggcp-schema tensors alice.ggcp` lists them."),
        ("tensors alice.ggcp --order X", "there is no order 'X'"),
        ("verify alice.ggcp vocab.gguf", "found a ggcp checkpoint and a GGUF vocabulary"),
        ("edit alice.ggcp v0-adam.ggcp train_its=1", "ggcp training checkpoint"),
        ("export alice.ggcp alice-tokenizer.model --vocab vocab.gguf --name x", "vocabulary has 320 tokens"),
        ("extract alice.ggcp norm alice.ggcp", "unknown output format"),
        ("convert alice.ggcp new/", "new/ is the name of a folder"),
        ("export v0-adam.ggcp new/ --vocab vocab.gguf", "new/ is the name of a folder"),
        ("extract alice.ggcp layers[0] q/../new/", "the folder q/.. does not exist"),
        ("export v0-adam.ggcp q/../new --to hf --vocab vocab.gguf", "the folder q/.. does not exist"),
        ("convert alice.ggcp q/../new.gguf", "the folder q/.. does not exist"),
        ("edit alice.ggcp new/ train_its=1", "new/ is the name of a folder"),
        ("repair alice.ggcp new/", "new/ is the name of a folder"),
        (
            "export v0-adam.ggcp new.pt --vocab vocab.gguf",
            "`ggcp-schema export --to hf` writes a folder",
        ),
        ("export alice.ggcp --to pytorch --vocab vocab.gguf", "hf (for PyTorch)"),
        ("export alice.ggcp --vocab hf", "The vocabulary in it is hf/tokenizer.model."),
        ("export --vocab v0-adam.ggcp vocab.gguf", "Run: ggcp-schema export --vocab vocab.gguf v0-adam.ggcp\n"),
        (
            "export v0-adam.ggcp new.gguf vocab.gguf",
            "Run: ggcp-schema export v0-adam.ggcp new.gguf --vocab vocab.gguf\n",
        ),
        (
            "export --to hf v0-adam.ggcp new vocab.gguf",
            "ggcp-schema export --to hf v0-adam.ggcp new --vocab vocab.gguf\n",
        ),
        ("export v0-adam.ggcp vocab.gguf", "ggcp-schema export v0-adam.ggcp --vocab vocab.gguf\n"),
        ("export vocab.gguf v0-adam.ggcp", "ggcp-schema export v0-adam.ggcp --vocab vocab.gguf\n"),
        ("export vocab.gguf new v0-adam.ggcp", "Run: ggcp-schema export v0-adam.ggcp new --vocab vocab.gguf\n"),
        ("export vocab.gguf v0-adam.ggcp new", "Run: ggcp-schema export v0-adam.ggcp new --vocab vocab.gguf\n"),
        ("export new v0-adam.ggcp vocab.gguf", "Run: ggcp-schema export v0-adam.ggcp new --vocab vocab.gguf\n"),
        ("export vocab.gguf new ../lora/base.gguf", "Write `ggcp-schema export [OPTIONS] INPUT [OUTPUT]`."),
        ("export ../lora/base.gguf new ../lora/adam.ggla", "Run: ggcp-schema export ../lora/adam.ggla new --base ../"),
        ("export ../lora/adam.ggla ../lora/base.gguf", "export ../lora/adam.ggla --base ../lora/base.gguf\n"),
        ("export ../lora/adam.ggla new ../lora/base.gguf", "export ../lora/adam.ggla new --base ../lora/base.gguf\n"),
        ("get ../lora/adam.ggla layers[0].wq", "Its pair is layers.0.attention.wq.weight.loraA, layers.0."),
        ("get ../lora/adam.ggla blk.1.ffn_up.weight", "Its pair is layers.1.feed_forward.w3.weight.loraA, layers.1."),
        ("get ../lora/adam.ggla norm.weight.lora", "Did you mean norm.weight.lora"),
        ("edit ../lora/base.gguf new.gguf llama.block_count=x", ": llama.block_count is a number of type u32, got 'x'"),
        ("export ../lora/adam.ggla --base ../lora/base.gguf --to pytorch", "Choose from: adapter, peft (for PyTorch);"),
        ("edit ../lora/base.gguf new.gguf general.author:str=me", "such as x:u32=1 or x:string=text."),
        ("tensors layers[0].wq alice.ggcp", "The file comes first: ggcp-schema tensors alice.ggcp 'layers[0].wq'"),
        ("get alice.ggcp layer[0].wq[0]", "Did you mean layers[0].wq[0], layers[0].wv[0],"),
        ("get alice.ggcp layer[0]", "Did you mean layers[0], hparams.n_layer?\n"),
        ("get alice.ggcp optimizer.state.m.layers[0].wq", "Did you mean optimizer.state.m[layers[0].wq]?"),
        ("edit alice.ggcp new.ggcp norm=0", "Write norm.data=@FILE.npy, or norm.data[:]=NUMBER."),
        (
            "convert alice.ggcp --vocab vocab.gguf",
            "It is an option of browse, export, verify. `",
        ),
        ("browse alice.ggcp --json", "No such option: --json\nIt is an option of most other commands. "),
        ("--json alice.ggcp", "No such option: --json\nIt is an option of most commands, and comes after "),
        ("export alice.ggcp o.gguf --epsilon 1e-6", "--epsilon\n--rms-eps is an option of convert, export. "),
        ("export alice.ggcp -o o.gguf", "-o\nThe output is an argument: `ggcp-schema export [OPTIONS] "),
        ("extract alice.ggcp all x.safetensors", "alice.ggcp has no field 'all'\n'*' means all tensors."),
        ("resume alice.ggcp", "No such command or file 'resume'. Did you mean 'convert'?"),
        ("info alice.ggcp --into new", "It is an option of convert. `"),
        (
            "convert alice.ggcp --nothing",
            "No such option: --nothing\n`ggcp-schema convert --help` ",
        ),
        ("edit vocab.gguf new.gguf general.author:string=@me", "@@ for a text that begins with @."),
        ("schema alice.ggcp", "For a file: `ggcp-schema dump`."),
        ("diff alice.ggcp hf", "`ggcp-schema verify CHECKPOINT hf` compares it."),
        ("export peft", "`ggcp-schema verify ADAPTER peft --base BASE.gguf` compares it."),
        (
            "export ../lora/base.gguf new --base ../lora/adam.ggla",
            "Run: ggcp-schema export ../lora/adam.ggla new --base ",
        ),
        ("verify ../lora/base.gguf peft --base ../lora/adam.ggla", "An adapter comes first."),
        ("export alice.ggcp new --base ../lora/base.gguf", "Leave it out."),
        ("convert ../lora/adam.ggla", "its base: ggcp-schema export ../lora/adam.ggla --base BASE.gguf\n"),
        ("export v0-adam.ggcp new.gguf nothing.gguf", "Write `ggcp-schema export [OPTIONS] INPUT [OUTPUT]`."),
        ("export v0-adam.ggcp new.gguf alice.ggcp --vocab vocab.gguf", "Write `ggcp-schema export "),
        ("get alice.ggcp", "Write `ggcp-schema get [OPTIONS] FILE PATH`."),
        ("info hf", "`ggcp-schema verify CHECKPOINT hf` compares it."),
        ("info peft", "`ggcp-schema verify ADAPTER peft --base BASE.gguf` compares it."),
    ],
)
def test_the_message_puts_the_user_right(typed: str, said: str, unchanged: Path) -> None:
    before = contents(unchanged)
    result = run_cli(*typed.split(), cwd=unchanged / "old")
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "--force" not in result.stderr
    assert contents(unchanged) == before


@pytest.mark.parametrize("typed", ["verify new.gguf alice.ggcp", "validate *.nothing", "diff x.gguf alice.ggcp"])
def test_nothing_is_advised_that_may_not_be_meant(typed: str, unchanged: Path) -> None:
    assert run_cli(*typed.split(), cwd=unchanged / "old").stderr == f"ggcp-schema: {typed.split()[1]}: {NOT_THERE}\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("export model.gguf alice.ggcp", "The input comes first: alice.ggcp model.gguf? Otherwise choose"),
        ("export model.gguf resume.gguf", "The input comes first: resume.gguf model.gguf?"),
        ("export alice.ggcp alice-vocab.ggjt --vocab alice-vocab.gguf", "Choose another name."),
        ("export alice.ggcp alice-tokenizer.model --vocab alice-vocab.gguf", "Choose another name."),
        ("export adam.ggla alice.ggcp --base base.gguf --norms ignore", "Choose another name."),
        ("export adam.ggla new.gguf --base base.gguf --patched-base alice.ggcp", "Choose another name."),
        ("convert resume.gguf alice.ggcp", "The input comes first: alice.ggcp resume.gguf?"),
        ("convert v0-adam.ggcp alice.ggcp", "For several inputs, give --into FOLDER."),
        ("convert alice.ggcp model.gguf", "Choose another name."),
        ("edit resume.gguf alice.ggcp training.iteration_count=0", "Choose another name."),
        ("repair damaged.ggcp model.gguf", "Choose another name."),
        ("extract alice.ggcp norm wq.npy", "Choose another name."),
        ("extract alice.ggcp norm wq.svg", "Choose another name."),
    ],
)
def test_only_force_replaces_a_file_and_what_it_was_is_said(typed: str, said: str, kinds: Path, tmp_path: Path) -> None:
    before = contents(kinds)
    result = run_cli(*typed.split(), cwd=kinds)
    assert (result.returncode, result.stdout) == (2, "")
    assert "already exists: " in result.stderr
    assert said in result.stderr
    assert "--force" not in result.stderr
    assert contents(kinds) == before
    name, what = re.search(r"ggcp-schema: (\S+) already exists: (.*)", result.stderr).groups()
    folder = shutil.copytree(kinds, tmp_path / "kinds")
    assert f"replaced {name}, which was: {what}\n" in run_cli(*typed.split(), "--force", cwd=folder, check=True).stdout
    assert (folder / name).read_bytes() != (kinds / name).read_bytes()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of all kinds, two of which have the names of arrays."""
    folder = tmp_path_factory.mktemp("kinds")
    names = (*NAMES, "alice-vocab.gguf", "alice-vocab.ggjt", "lora/adam.ggla", "lora/base.gguf")
    for name in names:
        shutil.copy(FIXTURES / name, folder)
    for name in ("wq.npy", "wq.svg"):
        shutil.copy(FIXTURES / "v0-adam.ggcp", folder / name)
    write_damaged(folder / "damaged.ggcp")
    run_cli("convert", "alice.ggcp", "resume.gguf", cwd=folder, check=True)
    run_cli("export", "alice.ggcp", "model.gguf", "--vocab", "alice-vocab.gguf", cwd=folder, check=True)
    return folder


def write_damaged(path: Path) -> None:
    """Write a checkpoint with one bit of a name flipped, which follows from the rest."""
    data = bytearray((FIXTURES / "v0-adam.ggcp").read_bytes())
    with open_checkpoint(FIXTURES / "v0-adam.ggcp") as file:
        data[file.find("norm.name").offset] ^= 1
    path.write_bytes(data)


def test_what_is_replaced_is_named(folder: Path) -> None:
    old = folder / "old"
    run_cli("convert", "alice.ggcp", "resume.gguf", cwd=old, check=True)
    write_damaged(old / "damaged.ggcp")
    for typed, was in (
        ("convert v0-adam.ggcp resume.gguf", "resume.gguf, which was: GGUF training checkpoint, to resume from"),
        ("edit alice.ggcp v0-adam.ggcp train_its=1", "v0-adam.ggcp, which was: ggcp training checkpoint"),
        ("repair damaged.ggcp v0-adam.ggcp", "v0-adam.ggcp, which was: ggcp training checkpoint"),
    ):
        assert f"replaced {was}" in run_cli(*typed.split(), "--force", cwd=old, check=True).stdout
    (old / "text").write_text("of no known format")
    assert "Use --force to overwrite it." in run_cli("convert", "alice.ggcp", "text", cwd=old).stderr
    assert "replaced" not in run_cli("convert", "alice.ggcp", "text", "--force", cwd=old, check=True).stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("help", "--help"), ("help get", "get --help"), ("-V", "--version"), ("-v alice.ggcp", "info alice.ggcp -v")],
)
def test_habits_from_other_programs(typed: str, meant: str, folder: Path) -> None:
    results = [run_cli(*words.split(), cwd=folder / "old", check=True) for words in (typed, meant)]
    assert results[0].stdout == results[1].stdout != ""


def test_opening_a_file_tells_if_it_can_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the library that reads the arguments, which would call a file without rights wrong usage."""
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    run_cli("info", folder / "old" / "v0-adam.ggcp", check=True)
    run_cli("info", folder / "old", check=True)


@pytest.mark.parametrize(
    "words", ["info", "validate", "convert --into new", "convert v0-adam.ggcp", "diff v0-adam.ggcp", "stats", "dump"]
)
def test_an_empty_name_is_not_the_current_folder(words: str, folder: Path) -> None:
    """As of a variable of the shell that has no value."""
    before = contents(folder)
    result = run_cli(*words.split(), "", cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("ggcp-schema: the name of a file is empty\n")
    assert contents(folder) == before


def test_a_folder_stands_for_the_files_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_cli("validate", folder / "old", check=True).stdout.endswith("3 files: 3 valid\n")
    assert len(run_cli("info", folder / "old", "--json", check=True).stdout.splitlines()) == 3
    (folder / "old" / "cut.ggla").write_bytes((folder / "lora" / "adam.ggla").read_bytes()[:-1])
    shutil.copy(FIXTURES / "vocab.ggjt", folder / "old")  # whose output would have the name of that of vocab.gguf
    opened: list[str] = []
    monkeypatch.setattr(convert, "open_file", lambda path, **how: opened.append(path.name) or open_file(path, **how))
    said = run_cli("convert", folder / "old", "--into", folder / "new", check=True).stdout
    alike = ["vocab.ggjt", "vocab.gguf"]  # which are looked into before anything is written; others are opened once
    assert sorted(opened) == sorted(["alice.ggcp", "cut.ggla", "v0-adam.ggcp", *alike, *alike])
    assert "left out 3 files without a training to convert\nconverted 2 of 2 files into" in said
    assert sorted(path.name for path in (folder / "new").iterdir()) == ["alice.resume.gguf", "v0-adam.resume.gguf"]
    assert "no file in the folder" in run_cli("info", folder).stderr
