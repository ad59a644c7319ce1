"""`info`: one file, several files as a table, damaged ones, and what reaches a terminal."""

from __future__ import annotations

import gc
import json
import math
import shlex
import shutil
import subprocess
import sys

import pytest
from construct import Container

from ggcp_schema import open_file
from ggcp_schema.inspect.text import cells
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, TRUNCATED, assert_no_traceback, run_cli, run_process, run_pty, thinned

ADAM = FIXTURES / "v1-adam.ggcp"
ALL_KEYS = [
    "file",
    "format",
    "kind",
    "size",
    "state",
    "version",
    "layout",
    "writer",
    "era",
    "rms_eps",
    "train_its",
    "train_samples",
    "train_tokens",
    "n_ctx",
    "context",
    "loss",
    "optimizer",
    "order",
    "scale",
    "hparams",
    "n_ff",
    "n_ff_source",
    "n_ff_source_text",
    "n_ff_by_n_mult",
    "n_params",
    "adapter",
    "tensor_types",
    "n_tokens",
    "bytes",
    "details",
    "findings",
    "unsound",
    "damage",
    "condition",
    "next",
]
FILES = sorted(
    path.relative_to(FIXTURES).as_posix()
    for pattern in ("*.g*", "orders/*.g*", "truth/*.g*", "lora/*.g*", "strange/*.g*", "strange/shard/*")
    for path in FIXTURES.glob(pattern)
    if path.suffix in {".ggcp", ".gguf", ".ggjt", ".ggla", ".ggcl"}
)


# One file --------------------------------------------------------------------------------------------------


def test_every_fixture_fits_on_one_screen():
    """At 80 columns a terminal shows at most ten lines, with the error of a damaged file; a pipe gets the same ones."""
    screens = []
    for name in FILES:
        result = run_cli("info", name, cwd=FIXTURES)
        text = result.stdout
        if result.returncode == 4:
            assert len(run_pty("info", name, cwd=FIXTURES)[1].splitlines()) <= 10
        assert sum(max(1, -(-cells(line) // 80)) for line in text.splitlines()) <= 10, text
        assert run_cli("info", name, "--width", "200", cwd=FIXTURES).stdout == text
        assert "#" not in text  # zsh would hand the rest of the line to the command
        screens.append(text)
    assert_golden("info/screens.txt", "\n".join(screens))


@pytest.mark.parametrize(
    ("source", "length", "shown"),
    [
        ("v0-adam.ggcp", 20, "ggcp-schema export --to hf {} --vocab VOCABULARY"),
        ("v0-adam.ggcp", 24, "ggcp-schema export --to hf FILE --vocab VOCABULARY"),
        ("v0-adam.ggcp", 40, None),
        ("v0-adam.ggcp", 70, None),
        ("v0-adam.ggcp", 240, "ggcp-schema export --to hf FILE --vocab VOCABULARY"),
        ("truncated-v0-lbfgs.ggcp", 240, None),
        ("lora/adam.ggla", 240, "ggcp-schema export --to peft FILE --base BASE.gguf"),
        ("lora/base.gguf", 70, "ggcp-schema export --to hf {}"),
    ],
)
def test_a_long_name_does_not_take_the_screen(source, length, shown, tmp_path):
    """It is shortened where the file is named, and in as few commands as are needed FILE stands for it."""
    name = "x" * length + FIXTURES.joinpath(source).suffix
    (tmp_path / name).write_bytes((FIXTURES / source).read_bytes())
    text = run_cli("info", name, cwd=tmp_path).stdout
    assert sum(-(-cells(line) // 80) for line in text.splitlines()) <= 10
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert lines.get("PyTorch") == (shown and shown.format(name))
    assert (f" {name}" in lines.get("run", "")) is (length <= 70)
    assert lines["look"] in (f"ggcp-schema browse {name}", "ggcp-schema browse FILE")


@pytest.mark.parametrize("name", ["v0-adam.ggcp", "v1-adam-past5.ggcp", "v1-lbfgs.ggcp", "vocab.gguf"])
def test_everything(name):
    result = run_cli("info", "-v", name, cwd=FIXTURES, check=True)
    assert_golden(f"info/{name}.txt", result.stdout)
    assert not result.stderr


def test_values_are_examined_if_everything_is_asked_for(tmp_path):
    path = tmp_path / "page.ggcp"
    data = bytearray(ADAM.read_bytes())
    with open_file(ADAM) as file:
        offset = file.tensors["output"].offset
    data[offset : offset + 4096] = bytes(4096)
    path.write_bytes(data)
    assert "not examined" in run_cli("info", path, check=True).stdout
    for option in ((), ("--json",)):
        result = run_cli("info", "-v", path, *option)
        assert (result.returncode, result.stderr) == (1, "")
    assert json.loads(result.stdout)["unsound"][0]["rule"] == "zeros-in-weights"


@pytest.mark.parametrize(
    ("best", "previous", "rule", "shown"),
    [(0.0, 0.0, "loss-zero", "0,"), (-2.5, 3.0, "loss-negative", "-2.5,"), (3.0, -0.5, "loss-negative", "-0.5,")],
)
def test_a_loss_that_is_impossible_is_not_the_best(best, previous, rule, shown, tmp_path):
    path = tmp_path / "impossible.ggcp"
    path.write_bytes(build_checkpoint(state={"fx_best": best, "fx_prev": previous, "iter": 7}))
    facts = json.loads(run_cli("info", path, "--json").stdout)
    assert [facts["state"], *{bad["rule"] for bad in facts["unsound"]}] == ["unsound", rule]
    assert f"{shown} which no training reaches" in run_cli("info", path).stdout
    assert rule == json.loads(run_cli("validate", path, "--json").stdout)["unsound"][0]["rule"]
    result = run_cli("info", path, ADAM, "--sort", "Loss")
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [str(ADAM), str(path)]


def test_a_file_with_a_hole_in_a_text_is_unsound_for_every_command(tmp_path):
    (source, *_) = sorted((FIXTURES / "lora").glob("*.checkpoint.gguf"))
    path, data = tmp_path / "hole.gguf", bytearray(source.read_bytes())
    at = data.index(b"training.shuffle.rng_state") + 1000
    data[at : at + 512] = bytes(512)
    path.write_bytes(data)
    said = f"bytes {at:,} to {at + 511:,} of the file are zeros, which no text has"
    for command in ("info", "validate", "stats"):
        result = run_cli(command, path)
        assert said in " ".join(result.stdout.split()), command
        assert (result.returncode, result.stderr) == (command != "stats", "")
    assert json.loads(run_cli("info", path, "--json").stdout)["state"] == "unsound"
    assert run_cli("info", path, source).returncode == 1


@pytest.mark.parametrize(("tokenizer", "is_advised"), [("llama", True), ("gpt2", True), ("bert", False), ("t5", False)])
def test_only_a_vocabulary_that_export_takes_is_advised_for_it(tokenizer, is_advised, tmp_path):
    path = tmp_path / "vocab.gguf"
    run_cli("edit", FIXTURES / "vocab.gguf", path, f"tokenizer.ggml.model={tokenizer}", check=True)
    text = run_cli("info", path, check=True).stdout
    assert "320 tokens" in text
    assert (f"export CHECKPOINT --vocab {path}" in " ".join(text.split())) == is_advised


def test_an_export_of_a_model_with_a_hole_in_a_text_says_so(tmp_path):
    path, copy, again = (tmp_path / name for name in ("model.gguf", "copy.gguf", "again.gguf"))
    run_cli("export", ADAM, path, "--vocab", FIXTURES / "vocab.ggjt", check=True)
    run_cli("edit", path, copy, f"general.description:string={'text' * 200}", check=True)
    data = copy.read_bytes()
    copy.write_bytes(data.replace(b"text" * 200, b"text" * 50 + bytes(400) + b"text" * 50))
    assert "are zeros, which no text has" in run_cli("export", copy, again, check=True).stdout
    result = run_cli("export", copy, tmp_path / "strict.gguf", "--strict")
    assert result.returncode == 2
    assert "are zeros, which no text has" in result.stderr
    assert not (tmp_path / "strict.gguf").exists()


@pytest.mark.parametrize("missing", [0, 1000])
def test_an_optimizer_that_has_not_started_has_no_loss(missing, tmp_path):
    source, fresh = tmp_path / "source.ggcp", tmp_path / "fresh.gguf"
    source.write_bytes(ADAM.read_bytes()[: ADAM.stat().st_size - missing])
    run_cli("convert", source, fresh, "--partial", "--fresh-optimizer", check=True)
    loss = json.loads(run_cli("info", fresh, "--json", check=True).stdout)["loss"]
    assert loss == {"best": None, "previous": None, "latest": None}
    assert "loss" not in run_cli("info", fresh, check=True).stdout.replace(str(tmp_path), "")
    lines = run_cli("info", fresh, ADAM, "--sort", "loss", check=True).stdout.splitlines()
    assert lines[1].split()[0] == str(ADAM)


def test_of_every_checkpoint_it_is_said_how_the_training_goes_on(tmp_path):
    (tmp_path / "cut.ggcp").write_bytes(ADAM.read_bytes()[:-1000])
    (command,) = (text for text in advice("cut.ggcp", tmp_path) if " convert " in text)
    assert command.endswith(" --partial")
    said = run_cli(*shlex.split(command)[1:], cwd=tmp_path, check=True).stdout
    resume = advice("cut.resume.gguf", tmp_path)[1]
    assert resume.startswith("llama-train-text-from-scratch --checkpoint-in cut.resume.gguf ")
    assert said.endswith(f": {resume}\n")
    run_cli("convert", FIXTURES / "v0-adam.ggcp", "fresh.gguf", "--fresh-optimizer", cwd=tmp_path, check=True)
    assert advice("fresh.gguf", tmp_path)[1].startswith("llama-train-text-from-scratch ")
    assert "batch" not in run_cli("info", "fresh.gguf", cwd=tmp_path).stdout  # which would divide nothing but zeros
    for name in ("truth/jan24-D.gguf", "v1-lbfgs.ggcp"):  # of an order that is not known, and of L-BFGS
        command = advice(name, FIXTURES)[1]
        assert command.endswith(f"convert {name} --fresh-optimizer")
        said = run_cli(*shlex.split(command)[1:], tmp_path / "new.gguf", "--force", cwd=FIXTURES, check=True).stdout
        assert "llama-train-text-from-scratch --checkpoint-in " in said
    said = run_cli("convert", FIXTURES / "lora/adam.ggcl", "lora.gguf", cwd=tmp_path, check=True).stdout
    assert said.endswith(f": {advice('lora.gguf', tmp_path)[1]}\n")


def advice(name, folder):
    return json.loads(run_cli("info", "--json", name, cwd=folder).stdout)["next"]


@pytest.mark.parametrize("name", ["v1-adam.ggcp", "vocab.gguf", "vocab.ggjt", TRUNCATED.name])
def test_json_has_the_same_keys_for_every_file(name):
    facts = json.loads(run_cli("info", FIXTURES / name, "--json").stdout)
    assert list(facts) == ALL_KEYS
    assert facts["file"] == str(FIXTURES / name)


@pytest.mark.parametrize("name", ["adam.ggla", "adam.ggcl", "master-adam.checkpoint.gguf", "peft-layers-names.ggla"])
def test_json_has_the_facts_of_an_adapter(name):
    facts = json.loads(run_cli("info", FIXTURES / "lora" / name, "--json", check=True).stdout)
    assert list(facts) == ALL_KEYS
    assert facts["n_params"] is None
    adapter = facts["adapter"]
    rows = json.loads(run_cli("tensors", FIXTURES / "lora" / name, "--json", check=True).stdout)
    shapes = [row["shape"] for row in rows if row["role"] == "model"]
    assert len(shapes) == 2 * (len(adapter["matrices"]) + len(adapter["norms"]))
    assert adapter["n_params"] == sum(math.prod(shape) for shape in shapes)
    if facts["optimizer"]:
        assert adapter["n_params"] == facts["optimizer"]["n_params"]
    stored = name.endswith(".ggla")
    assert (adapter["r"], adapter["alpha"]) == (((4, 4), (4, 16))["peft" in name] if stored else (None, None))
    assert adapter["scale"] == (adapter["alpha"] / adapter["r"] if stored else 1)
    assert adapter["ranks"]["wq"] == [4]
    assert ("layers[1].ffn_norm" in adapter["norms"]) == ("peft" not in name)
    assert "layers[1].wq" in adapter["matrices"]


@pytest.mark.parametrize("name", ["master-adam.checkpoint.gguf", "feb2024-adam.checkpoint.gguf"])
def test_a_file_without_a_model_has_no_bytes_of_one(name: str) -> None:
    text = run_cli("info", "-v", FIXTURES / "lora" / name, check=True).stdout
    assert "without a model" in text
    line = next(line for line in text.splitlines() if line.startswith("bytes"))
    assert "model" not in line
    assert "adapter 32,404 bytes" in line  # 4 * 8,101


def test_json_has_the_latest_loss() -> None:
    names = [f"{name}.ggcp" for name in ("alice", "v0-adam", "rotmax8-v0", "v1-lbfgs", "twin-lbfgs.v0")]
    lines = run_cli("info", "--json", *names, cwd=FIXTURES, check=True).stdout.splitlines()
    for name, line in zip(names, lines, strict=True):
        with open_file(FIXTURES / name) as file:
            assert json.loads(line)["loss"]["latest"] == file.loss


@pytest.mark.parametrize("name", ["adam", "lbfgs", "twin-adam"])
def test_the_losses_of_finetune_are_shown_as_they_are_stored(name):
    keys = json.loads((FIXTURES / "lora" / f"{name}.resume.json").read_text("utf-8"))["kv"]
    losses = [keys[key]["value"] for key in keys if key.endswith(("best_loss", "previous_loss"))]
    path = FIXTURES / "lora" / f"{name}.ggcl"
    (line,) = (line for line in run_cli("info", "-v", path, check=True).stdout.splitlines() if line[:5] == "loss ")
    numbers = [f"{word} {loss:.4f}" for word, loss in zip(("best", "previous"), losses)]
    assert line.split(maxsplit=1)[1] == f"{', '.join(numbers)}; what it measures is not known"
    stored = json.loads(run_cli("info", "--json", path, check=True).stdout)["loss"]
    assert stored == {"best": None, "previous": None, "latest": None} | dict(zip(("best", "previous"), losses))


def test_no_program_is_named_that_nothing_shows():
    text = run_cli("info", "-v", FIXTURES / "lora/base.ggjt", check=True).stdout
    assert "nothing shows which program made the file; train-text-from-scratch used 1e-6 (" in text
    assert "the trainer of the file" not in text


def test_where_the_optimizer_is_lost_it_is_open_whether_iterations_were_counted():
    """The trainers did not count those of L-BFGS."""
    assert "iterations not counted, or none, 8 samples of 16 tokens on average" in run_cli("info", TRUNCATED).stdout


def test_the_commands_it_proposes_run(tmp_path):
    for name in ("it's $HOME; an old file.ggcp", "-dash.ggcp"):
        (tmp_path / name).write_bytes(ADAM.read_bytes())
        facts = json.loads(run_cli("info", "--json", "--", name, cwd=tmp_path, check=True).stdout)
        export, convert, folder, browse = map(shlex.split, facts["next"])
        assert browse[:2] == ["ggcp-schema", "browse"]
        assert (tmp_path / browse[2]).exists()
        run_cli(*convert[1:], cwd=tmp_path, check=True)
        for command in (export, folder):
            words = [str(FIXTURES / "vocab.gguf") if word == "VOCABULARY" else word for word in command]
            run_cli(*words[1:], cwd=tmp_path, check=True)
        stem = name.removesuffix(".ggcp")
        assert {f"{stem}.resume.gguf", f"{stem}.model.gguf", f"{stem}-hf"} <= {path.name for path in tmp_path.iterdir()}


def test_the_command_for_a_damaged_file_runs(tmp_path):
    path = tmp_path / "cut.ggcp"
    path.write_bytes(ADAM.read_bytes()[:100_000])
    result = run_cli("info", path.name, "--json", cwd=tmp_path)
    assert result.returncode == 4
    facts = json.loads(result.stdout)
    assert facts["condition"]["model_whole"]
    export = [str(FIXTURES / "vocab.gguf") if word == "VOCABULARY" else word for word in shlex.split(facts["next"][0])]
    run_cli(*export[1:], cwd=tmp_path)
    assert (tmp_path / "cut.model.gguf").stat().st_size
    (tmp_path / "cut.ggcp").write_bytes(ADAM.read_bytes()[:30_000])
    extract = shlex.split(json.loads(run_cli("info", path.name, "--json", cwd=tmp_path).stdout)["next"][0])
    run_cli(*extract[1:], cwd=tmp_path)
    assert (tmp_path / "cut.safetensors").stat().st_size


def test_no_command_is_proposed_for_a_file_that_is_another_one_then():
    with ADAM.open() as stdin:
        screen = run_process("info", "/dev/stdin", stdin=stdin, check=True).stdout
    assert "12 iterations" in screen
    assert "ggcp-schema " not in screen
    assert "\nlook     ggcp-schema browse " in run_cli("info", f"/dev/..{ADAM}", check=True).stdout  # as in /dev/shm


def test_a_damaged_file_shows_what_can_be_read():
    result = run_cli("info", "-v", TRUNCATED.name, cwd=FIXTURES)
    assert result.returncode == 4
    assert_golden(f"info/{TRUNCATED.name}.txt", result.stdout)
    assert "layers[0].w3.padding" in result.stderr
    assert "Copy it again" not in result.stderr
    assert_no_traceback(result)


def test_a_file_cut_anywhere_gives_strict_json(tmp_path):
    whole = build_checkpoint()
    cut = tmp_path / "cut.ggcp"
    for size in thinned([*range(4, 60, 3), *range(60, len(whole), 401)]):
        cut.write_bytes(whole[:size])
        result = run_cli("info", cut, "--json")
        assert result.returncode == 4
        assert json.loads(result.stdout)["damage"]["offset"] <= size
        assert_no_traceback(result)


def test_a_loss_that_is_not_a_number_is_strict_json(tmp_path):
    path = tmp_path / "nan.ggcp"
    path.write_bytes(build_checkpoint(state={"fx_best": float("nan"), "fx_prev": float("-inf")}))
    text = run_cli("info", path, "--json", check=True).stdout
    facts = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (facts["loss"]["best"], facts["loss"]["previous"]) == ("NaN", "-Infinity")


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"PK\x03\x04" + bytes(40))
    result = run_cli("info", path)
    assert result.returncode == 2
    assert "zip" in result.stderr
    assert not result.stdout


# Several files ---------------------------------------------------------------------------------------------


def test_several_files_are_a_table(tmp_path):
    names = ["v1-adam.ggcp", "v0-adam.ggcp", TRUNCATED.name, "twin-ff48.v1.ggcp", "vocab.gguf", "vocab.ggjt"]
    for name in names:
        (tmp_path / name).write_bytes((FIXTURES / name).read_bytes())
    (tmp_path / "text").write_text("hello")
    (tmp_path / "cut.ggcp").write_bytes(ADAM.read_bytes()[:-20])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one.ggcp").write_bytes(ADAM.read_bytes())
    (tmp_path / "folder" / "text").write_text("of no known format")
    result = run_cli("info", *names, "cut.ggcp", "text", "missing", "folder", cwd=tmp_path)
    assert result.returncode == 4
    assert result.stderr == "ggcp-schema: folder: 1 file of no known format left out: text\n"
    assert_golden("info/several.txt", result.stdout)
    narrow = run_cli("info", *names, "cut.ggcp", "text", "missing", "--width", "80", cwd=tmp_path).stdout
    assert len(narrow.splitlines()) == 12
    assert max(map(cells, narrow.splitlines())) <= 80


@pytest.mark.parametrize("command", ["info", "validate"])
def test_of_several_files_one_of_another_format_is_named(command, tmp_path):
    shutil.copy(FIXTURES / "vocab.gguf", tmp_path)
    (tmp_path / "page.gguf").write_text("<!doctype html><title>Log in</title>")
    result = run_cli(command, "vocab.gguf", "page.gguf", cwd=tmp_path)
    assert result.returncode == 2
    assert "unknown file format: a web page, not the file\n" in result.stdout
    (tmp_path / "notes.txt").write_text("of no known format")
    left_out = "ggcp-schema: .: 2 files of no known format left out: page.gguf, notes.txt\n"
    assert run_cli(command, ".", cwd=tmp_path, check=True).stderr == left_out
    assert run_cli(command, ".", "--json", cwd=tmp_path, check=True).stderr == ""


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (["v1-adam.ggcp", "vocab.gguf", "lora/adam.ggla"], ["file", "kind", "iterations", "loss", "epsilon", "state"]),
        (["v1-adam.ggcp", "lora/peft-layers-names.ggla"], ["file", "kind", "loss", "state"]),
        (["v1-adam.ggcp", "v1-adam-raw-params.ggcp"], ["file", "iterations", "loss", "epsilon", "state"]),
    ],
)
def test_files_of_several_kinds_are_told_apart_on_a_narrow_terminal(names, head):
    table = run_cli("info", *names, "--width", "72", cwd=FIXTURES, check=True).stdout.splitlines()
    assert table[0].split() == head
    assert max(map(cells, table)) <= 72
    assert ("? not certain" in table[-1]) == ("epsilon" in head)
    narrower = run_cli("info", *names, "--width", "44", cwd=FIXTURES, check=True).stdout
    assert narrower.count("  kind ") == len(names)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["v1-adam.ggcp", "v0-adam.ggcp"], 0),
        (["v1-adam.ggcp", "missing"], 2),
        (["missing", TRUNCATED.name, "v1-adam.ggcp"], 4),
    ],
)
def test_the_worst_exit_code_counts(names, code):
    assert run_cli("info", *names, cwd=FIXTURES).returncode == code
    result = run_cli("info", *names, "--json", cwd=FIXTURES)
    assert result.returncode == code
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == names
    assert [list(row) == ALL_KEYS for row in rows] == [name != "missing" for name in names]
    assert all("error" in row for row in rows if row["file"] == "missing")


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("loss", ["alice.ggcp", "v0-adam.ggcp", "v1-adam.ggcp", TRUNCATED.name]),
        ("iterations", [TRUNCATED.name, "v0-adam.ggcp", "v1-adam.ggcp", "alice.ggcp"]),
        ("epsilon", ["v0-adam.ggcp", "v1-adam.ggcp", TRUNCATED.name, "alice.ggcp"]),
        ("file", ["alice.ggcp", TRUNCATED.name, "v0-adam.ggcp", "v1-adam.ggcp"]),
    ],
)
def test_sorting(column, names):
    given = ["v0-adam.ggcp", "v1-adam.ggcp", TRUNCATED.name, "alice.ggcp"]
    lines = run_cli("info", *given, "--sort", column, cwd=FIXTURES).stdout.splitlines()[1:-1]
    assert [line.split()[0] for line in lines] == names


def test_an_unknown_column():
    result = run_cli("info", ADAM, "--sort", "beauty")
    assert result.returncode == 2
    assert "The columns are file, kind, iterations" in result.stderr


# On a terminal ---------------------------------------------------------------------------------------------


def test_colour_only_on_a_terminal_that_wants_it():
    assert "\x1b" not in run_cli("info", ADAM).stdout
    assert "\x1b" in run_pty("info", ADAM)[1]
    assert "\x1b" not in run_pty("info", ADAM, env={"NO_COLOR": "1"})[1]


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_are_wrapped_between_words_but_commands_are_not(columns):
    wide = run_cli("info", "-v", "v0-adam.ggcp", cwd=FIXTURES).stdout
    narrow = run_cli("info", "-v", "v0-adam.ggcp", "--width", str(columns), cwd=FIXTURES).stdout
    assert " ".join(narrow.split()) == " ".join(wide.split())
    lines = narrow.splitlines()
    commands = [line for line in lines if " ggcp-schema " in line]
    assert max(len(line) for line in lines if line not in commands) <= columns
    assert commands == [line for line in wide.splitlines() if " ggcp-schema " in line]
    assert len(commands) == 4
    code, screen = run_pty("info", "-v", "v0-adam.ggcp", columns=columns, cwd=FIXTURES, env={"NO_COLOR": "1"})
    assert (code, screen) == (0, narrow)


def test_a_file_name_in_the_table_cannot_speak_to_the_terminal(tmp_path):
    path = tmp_path / "a\x1b]0;owned\x07b[bold].ggcp"
    path.write_bytes(ADAM.read_bytes())
    screen = run_cli("info", path, ADAM, check=True).stdout
    assert screen.replace("\n", "").isprintable()
    assert "\\x1b]0;owned\\x07b[bold].ggcp" in screen


def test_a_file_name_that_is_not_utf8(tmp_path):
    path = bytes(tmp_path) + b"/caf\xe9.ggcp"
    with open(path, "wb") as file:
        file.write(ADAM.read_bytes())
    result = run_cli("info", path, "--json", check=True)
    assert "/caf\\351.ggcp')\"" in json.loads(result.stdout)["next"][0]


def test_what_is_kept_of_a_file_does_not_grow_with_the_number_of_files():
    """Without garbage collection, which the command switches off."""

    def containers(count):
        run_cli("info", *[FIXTURES / "v1-adam.ggcp", FIXTURES / "vocab.gguf"] * count, check=True)
        return sum(isinstance(kept, Container) for kept in gc.get_objects())

    gc.collect()
    gc.freeze()  # what there is now is not looked at
    gc.disable()
    try:
        assert containers(1) == containers(4)
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_takes_long_to_import_is_not() -> None:
    """A small checkpoint and a vocabulary need no arrays."""
    program = "import sys; from ggcp_schema.cli import run; run(); print({'numpy', 'gguf', 'rich'} & {*sys.modules})"
    command = [sys.executable, "-c", program, "info", "--json", ADAM, FIXTURES / "alice-vocab.gguf"]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_iterations_that_are_not_counted_are_no_zero_in_the_table_either() -> None:
    """The trainers count those of Adam only; a checkpoint of Adam that was just made has none."""
    lbfgs = FIXTURES / "v1-lbfgs.ggcp"
    table = run_cli("info", lbfgs, ADAM, "--sort", "iterations", check=True).stdout.splitlines()
    assert [line.split()[0] for line in table[1:3]] == [str(ADAM), str(lbfgs)]
    assert [line.split()[3] for line in table[1:3]] == ["12", "48"]  # the samples follow the kind of the file
    assert "training    iterations not counted, 48 samples" in run_cli("info", "-v", lbfgs, check=True).stdout
    assert json.loads(run_cli("info", lbfgs, "--json", check=True).stdout)["train_its"] == 0
