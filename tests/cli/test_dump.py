"""`dump`: every field of every format, aligned, in little memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from ggcp_schema import open_file
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import paths
from ggcp_schema.inspect.text import json_value
from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import (
    FIXTURES,
    GENUINE,
    ONE_OF_EACH,
    TRUNCATED,
    assert_no_traceback,
    run_cli,
    run_process,
    run_pty,
    thinned,
)
from tests.samples import KINDS, sample
from tests.vocabularies import make

ADAM = FIXTURES / "v1-adam.ggcp"


def dumped(*args):
    return json.loads(run_cli("dump", *args, "--json", check=True).stdout)


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=lambda path: path.name)
def test_top_level(path):
    assert_golden(f"dump/{path.name}.txt", run_cli("dump", path.name, "--depth", "1", cwd=FIXTURES, check=True).stdout)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("whole", ["v1-adam-past5.ggcp"]),
        ("params", ["v0-adam.ggcp", "optimizer.params"]),
        ("raw", ["v1-adam-raw-params.ggcp", "optimizer", "--depth", "1"]),
        ("tensor", ["v1-lbfgs.ggcp", "layers[0].w2"]),
        ("pf-full", ["v1-adam-past5.ggcp", "optimizer.state.pf.data", "--full"]),
        ("null", ["v1-adam.ggcp", "optimizer.state.pf"]),
        ("narrow", ["v1-adam-past5.ggcp", "layers[0].wq", "--width", "44"]),
        ("full-60", ["v1-adam-past5.ggcp", "norm", "--width", "60", "--full"]),
        ("vocabulary", ["alice-vocab.gguf", "--depth", "2", "--width", "80"]),
        ("token", ["alice-vocab.ggjt", "tokens[300]"]),
    ],
)
def test_tree(name, args):
    assert_golden(f"dump/{name}.txt", run_cli("dump", *args, cwd=FIXTURES, check=True).stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind, tmp_path):
    path = sample(kind, tmp_path)
    found = dumped(path)
    with open_file(path) as file:
        fields = list(file.root.leaves())
    assert [(leaf["path"], leaf["offset"], leaf["size"]) for leaf in found] == [
        (f.path, f.offset, f.size) for f in fields
    ]
    assert sum(leaf["size"] for leaf in found) == path.stat().st_size
    tree = run_cli("dump", path, "--full", check=True).stdout
    for name in ("quantized", "half") if kind.startswith("gguf") else ("norm.weight", "日本語"):
        assert name in tree
    for value in map(json_value, fields):
        if isinstance(value, int) and abs(value) < 1 << 24:
            assert f" = {json.dumps(value)}" in tree


def test_a_path_shows_what_is_below_it():
    assert dumped(ADAM, "layers[1].wq") == [leaf for leaf in dumped(ADAM) if leaf["path"].startswith("layers[1].wq.")]
    assert dumped(ADAM, "blk.1.attn_q.weight") == dumped(ADAM, "layers[1].wq")
    assert dumped(FIXTURES / "vocab.gguf", "general.name")[0]["value"] == "tiny-vocab"


def test_a_record_shown_by_its_name_has_it_once():
    adapter = run_cli("dump", FIXTURES / "lora" / "adam.ggla", "token_embd.weight.lora_a", check=True).stdout
    assert adapter.splitlines()[1].split(maxsplit=2)[2] == "tok_embeddings.weight.loraA [4, 32]"


def test_a_long_key_leaves_room_for_its_value():
    args = ("dump", FIXTURES / "alice-vocab.gguf", "metadata_kv", "--depth", "1", "--width", "72")
    (line,) = (line for line in run_cli(*args, check=True).stdout.splitlines() if "rms" in line)
    assert re.search(r" metadata_kv\[\d+\] llama\.atten.*…\w*epsilon = 1e-05$", line), line


def test_long_lists_are_abridged_unless_full(tmp_path):
    path = tmp_path / "deep.ggcp"
    path.write_bytes(build_checkpoint(n_layer=9))
    short, full = (run_cli("dump", path, *more, check=True).stdout for more in ([], ["--full"]))
    assert "… 6 more" in short
    assert "layers[5]" not in short
    assert "layers[8]" in short
    assert all(f"layers[{i}]" in full for i in range(9))
    keys = run_cli("dump", FIXTURES / "vocab.gguf", "--depth", "2", check=True).stdout
    assert keys.count("metadata_kv[") == 16  # of keys nothing is left out


def test_all_elements_of_data_with_full():
    text = run_cli("dump", ADAM, "norm.data", "--full", "--width", "60", check=True).stdout
    values = text.partition("=")[2].split()
    with open_file(ADAM) as file:
        assert np.array_equal(np.array(values, np.float32), file.tensors["norm"].array())


@pytest.mark.parametrize("width", [30, 44, 60, 80, 120])
@pytest.mark.parametrize("name", ["v1-adam-past5.ggcp", "vocab.gguf", "alice-vocab.ggjt"])
def test_lines_fit_and_columns_are_aligned(name, width):
    lines = run_cli("dump", FIXTURES / name, "--width", str(width), check=True).stdout.splitlines()
    head = lines[0]
    for line in lines[1:]:
        assert len(line) <= width or "=" not in line[:width], line
        if "more" not in line:
            assert line[: len(head) - len("field")].endswith(" "), line
            assert line[: head.index("offset") + len("offset")].replace(",", "").strip().isdecimal(), line


@pytest.mark.parametrize("columns", [50, 250])
def test_a_terminal_gets_lines_of_its_width(columns):
    _, screen = run_pty("dump", ADAM, "--depth", "3", columns=columns, env={"NO_COLOR": "1"})
    assert screen == run_cli("dump", ADAM, "--depth", "3", "--width", str(columns), check=True).stdout


def test_a_damaged_file_is_shown_up_to_the_damage():
    result = run_cli("dump", TRUNCATED, "--json")
    assert result.returncode == 4
    found = json.loads(result.stdout)
    assert found[-1]["path"] == "layers[0].w3.name"
    assert found[-1]["offset"] + found[-1]["size"] == TRUNCATED.stat().st_size
    assert "layers[0].w3.padding at offset 52147" in result.stderr


@pytest.mark.parametrize("command", ["dump", "get", "hex"])
def test_a_path_after_the_damage_is_the_damage(command):
    result = run_cli(command, TRUNCATED, "optimizer.nx")
    assert result.returncode == 4
    assert "layers[0].w3.padding" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("command", ["dump", "get", "hex"])
def test_an_unknown_path_names_the_nearest(command):
    result = run_cli(command, ADAM, "layers[0].qw")
    assert result.returncode == 2
    assert "layers[0].wq" in result.stderr
    assert_no_traceback(result)


PIPED = [
    "dump {} --full",
    "dump {} --json",
    "get {} 'tok_embeddings.data'",
    "hex {} --full tok_embeddings",
    "hex {} 0:9999999",
    "dump {} --help",
]


@pytest.mark.parametrize("command", thinned(PIPED, PIPED[::2]))
def test_a_closed_pipe_ends_the_output_quietly(command, tmp_path):
    path = tmp_path / "deep.ggcp"
    path.write_bytes(build_checkpoint(n_layer=60, n_vocab=40_000))
    line = f"set -o pipefail; {sys.executable} -m ggcp_schema {command.format(path)} | head -c 10"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stdout), result.stderr) == (0, 10, "")


def test_a_closed_pipe_does_not_hide_damage():
    line = f"set -o pipefail; {sys.executable} -m ggcp_schema dump {TRUNCATED} --full | head -c 10"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.returncode == 4


def test_text_in_the_file_cannot_act_on_the_terminal(tmp_path):
    path = tmp_path / "names.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"\x1b[31m[bold]\xff\xc2\x9b\xe2\x80\xae\r\n"))
    screen = run_cli("dump", path, check=True).stdout
    assert "\x1b" not in screen
    assert "'\\x1b[31m[bold]\\xff\\x9b\\u202e\\r\\n'" in screen
    raw = run_cli("dump", path, "norm.name", "--json", check=True).stdout
    assert raw.replace("\n", "").isprintable()
    assert json.loads(raw)[0]["value"] == "\x1b[31m[bold]\\xff\x9b\u202e\r\n"


LARGE = [
    ("dump {} tok_embeddings --full", False),
    ("get {} tok_embeddings.data --json", False),
    ("hex {} 96:9999999999 --json", False),
    ("get {} tok_embeddings.data --json", True),
]


@pytest.mark.parametrize(("command", "damaged"), thinned(LARGE, LARGE[::3]))
def test_a_large_tensor_in_little_memory(command, damaged, tmp_path):
    """The process may have 320 MB, with the program in it. The file has holes of 256 MiB instead of the data."""
    path = tmp_path / "large.ggcp"
    content = bytearray(build_checkpoint(n_vocab=1, n_embd=1024, n_layer=0, n_ff=8, nx=1))
    path.write_bytes(content)
    with open_file(path) as file:
        first, last = file.find("tok_embeddings").end, file.find("output").end
        n_vocab = [file.find(name).offset for name in ("hparams.n_vocab", "tok_embeddings.ne[1]", "output.ne[1]")]
    for offset in n_vocab:
        content[offset : offset + 4] = (1 << 16).to_bytes(4, "little")
    hole = 4 * 1024 * ((1 << 16) - 1)
    with path.open("wb") as out:
        out.write(content[:first])
        out.seek(hole, 1)
        if damaged:
            out.truncate()
        else:
            out.write(content[first:last])
            out.seek(hole, 1)
            out.write(content[last:])

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (320 << 20, 320 << 20))

    line = f"{sys.executable} -m ggcp_schema {command.format(path)} | head -c 100000 | wc -c"
    result = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert result.stdout.strip() == "100000"
    assert bool(result.stderr) == damaged == ("norm.n_dims" in result.stderr)  # where the file ends


def test_help_has_an_example():
    for command in ("dump", "get", "hex", "schema"):
        text = run_cli(command, "--help", check=True).stdout
        assert f"ggcp-schema {command} " in text.partition("Example")[2]
    assert run_process("dump", ADAM, "magic", check=True).stdout == run_cli("dump", ADAM, "magic", check=True).stdout


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("orders/aug-B-3.ggcp", "layers[0].wq.data[2:7]"),
        ("orders/aug-B-3.ggcp", "optimizer.state.m[layers[0].wq]"),
        ("orders/aug-B-3.ggcp", "optimizer.adam.second_moments[blk.0.attn_q.weight][-3:]"),
        ("twin-lbfgs.v1.ggcp", "optimizer.state.lmy[norm]"),
        ("alice-vocab.gguf", "tokenizer.ggml.tokens[3:6]"),
        ("strange/shared-data.gguf", "a_tied[2:5]"),
        ("strange/shared-data.gguf", "a_tied.data[-1:]"),
    ],
)
def test_elements_are_the_same_in_every_command_and_in_python(file, path):
    (shown,) = dumped(FIXTURES / file, path)
    assert shown == json.loads(run_cli("get", FIXTURES / file, path, "--json", check=True).stdout)
    with open_file(FIXTURES / file) as opened:
        assert opened.get(path) == shown["value"]
        found = opened[path]
        assert (np.ravel(found).tolist() if isinstance(found, Tensor) else found) == shown["value"]
    pieces = json.loads(run_cli("hex", FIXTURES / file, path, "--json", "--full", check=True).stdout)
    assert (pieces[0]["offset"], sum(piece["size"] for piece in pieces)) == (shown["offset"], shown["size"])
    line = run_cli("dump", FIXTURES / file, path, check=True).stdout.splitlines()[1]
    assert f" {path} = " in line


@pytest.mark.parametrize("kind", ["ggjt3", "vocab.gguf"])
def test_json_of_long_lists(kind, tmp_path, monkeypatch):
    """The leaves cover the file without gaps; what is left out is one row, whose path `get` takes."""
    path = tmp_path / "vocabulary"
    path.write_bytes(make(kind))
    whole = json.loads(run_cli("dump", path, "--json", "--full").stdout)
    assert json.loads(run_cli("dump", path, "--json").stdout) == whole  # 320 tokens
    monkeypatch.setattr(paths, "MAX_LIST", 100)
    found = json.loads(run_cli("dump", path, "--json").stdout)
    left_out = [row for row in found if "more" in row]
    assert left_out
    assert {row["more"] for row in left_out} == {220}
    assert all(row["path"].endswith("[100:]") for row in left_out)
    ends = [0, *(row["offset"] + row["size"] for row in found if row["size"])]
    assert [row["offset"] for row in found if row["size"]] == ends[:-1]
    assert ends[-1] == path.stat().st_size
    assert [row for row in whole if row in found] == [row for row in found if "more" not in row]


def test_a_tensor_of_which_a_few_bytes_are_left(tmp_path):
    data, path = build_checkpoint(), tmp_path / "x.ggcp"
    path.write_bytes(data)
    with open_file(path) as file:
        start = file["layers[0].wq"].offset
    path.write_bytes(data[: start + 4] + data[start + 61 :])
    for options in ((), ("--full",), ("--json",)):
        result = run_cli("dump", path, *options)
        assert (result.returncode, "no bytes" in result.stderr) == (4, False)
        assert "wk" in result.stdout


def test_shared_data_has_the_name_of_its_first_owner():
    said = run_cli("dump", FIXTURES / "strange" / "shared-data.gguf", "tensor_data", check=True).stdout
    assert "tensor_data[0] a [8] F32\n" in said
    assert "a_tied" not in said
