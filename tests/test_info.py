"""`info` on every genuine file, on GGUF files, on a damaged one."""

from __future__ import annotations

import json
import shlex
import struct

import pytest

from tests.builder import build_checkpoint
from tests.golden import assert_golden
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_resume, run_cli, run_pty

ALL_KEYS = [
    *("file", "kind", "size", "layout", "writer", "rms_eps", "train_its", "train_samples", "train_tokens", "loss"),
    *("optimizer", "hparams", "n_ff", "n_ff_source", "n_params", "bytes", "findings", "damage", "next"),
]


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_screen(path):
    result = run_cli("info", path.name, cwd=FIXTURES, check=True)
    assert_golden(f"info/{path.name}.txt", result.stdout)
    assert not result.stderr


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_json_says_what_the_trainer_wrote(path):
    facts = json.loads(run_cli("info", path, "--json", check=True).stdout)
    expected = {key: entry["value"] for key, entry in expected_resume(path)["kv"].items()}
    assert list(facts) == ALL_KEYS
    assert facts["train_its"] == expected["training.iteration_count"]
    assert facts["train_samples"] == expected["training.sample_count"]
    assert facts["train_tokens"] == expected["training.token_count"]
    assert facts["hparams"]["n_embd"] == expected["llama.embedding_length"]
    assert facts["n_ff"] == expected["llama.feed_forward_length"]
    assert facts["n_params"] == facts["optimizer"]["n_params"] == expected["optimizer.parameter_count"]
    assert facts["optimizer"]["type"] == expected["optimizer.type"]
    assert facts["optimizer"]["iter"] == expected["optimizer.iteration_count"]
    assert facts["optimizer"]["past"] == expected["optimizer.convergence_past_count"]
    assert facts["loss"]["best"] == expected[f"optimizer.{expected['optimizer.type']}.best_loss"]
    assert facts["optimizer"]["inferred"] == (facts["layout"] == "v1")
    assert facts["optimizer"]["confirmed"] is (True if facts["layout"] == "v1" else None)
    assert sum(facts["bytes"].values()) == facts["size"] == path.stat().st_size


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_the_gguf_says_the_same(path, tmp_path):
    gguf = tmp_path / "resume.gguf"
    run_cli("convert", path, gguf, check=True)
    old, new = (json.loads(run_cli("info", file, "--json", check=True).stdout) for file in (path, gguf))
    assert list(new) == ALL_KEYS
    assert new["kind"] == "gguf-resume"
    same = ("train_its", "train_samples", "train_tokens", "n_ff", "n_params", "loss")
    assert {key: new[key] for key in same} == {key: old[key] for key in same}
    assert new["bytes"]["model"] == old["bytes"]["model"]
    assert new["bytes"]["optimizer"] == old["bytes"]["optimizer"]
    assert sum(new["bytes"].values()) == new["size"] == gguf.stat().st_size
    for name in ("n_vocab", "n_embd", "n_head", "n_layer", "n_rot"):
        assert new["hparams"][name] == old["hparams"][name]


def test_the_commands_it_proposes_work(tmp_path):
    name = "it's $HOME; an old file.ggcp"
    (tmp_path / name).write_bytes((FIXTURES / "v1-adam.ggcp").read_bytes())
    facts = json.loads(run_cli("info", name, "--json", cwd=tmp_path, check=True).stdout)
    proposed = facts["next"][0]
    assert proposed.startswith("ggcp-schema convert ")
    run_cli(*shlex.split(proposed)[1:], cwd=tmp_path, check=True)
    assert (tmp_path / "it's $HOME; an old file.resume.gguf").stat().st_size


def test_v0_waste_is_the_five_tensors_that_no_reader_needs():
    facts = json.loads(run_cli("info", FIXTURES / "v0-adam.ggcp", "--json", check=True).stdout)
    padding = facts["bytes"]["waste"] - 5 * 4 * facts["n_params"]
    assert 0 <= padding < 32 * 20


def test_damaged_file_shows_what_can_be_read():
    result = run_cli("info", TRUNCATED.name, cwd=FIXTURES)
    assert result.returncode == 4
    assert_golden("info/truncated-v0-lbfgs.ggcp.txt", result.stdout)
    assert "layers[0].w3.padding" in result.stderr
    assert_no_traceback(result)


def test_damaged_at_every_field_gives_strict_json(tmp_path):
    whole = build_checkpoint()
    cut = tmp_path / "cut.ggcp"
    for size in range(4, len(whole), 149):
        cut.write_bytes(whole[:size])
        result = run_cli("info", cut, "--json")
        assert result.returncode == 4
        assert json.loads(result.stdout)["damage"]["offset"] <= size
        assert_no_traceback(result)


def test_n_ff_that_n_mult_denies_is_reported():
    result = run_cli("info", FIXTURES / "twin-ff48.v0.ggcp", check=True)
    assert "48 (by the shape of w1, where n_mult 256 would give 256)" in result.stdout


def test_non_finite_loss_is_strict_json(tmp_path):
    path = tmp_path / "nan.ggcp"
    path.write_bytes(build_checkpoint(state={"fx_best": float("nan"), "fx_prev": float("-inf")}))
    text = run_cli("info", path, "--json", check=True).stdout
    facts = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert facts["loss"] == {"best": "NaN", "previous": "-Infinity"}


def test_colour_only_on_a_terminal_that_wants_it():
    path = FIXTURES / "v1-adam.ggcp"
    assert "\x1b" not in run_cli("info", path).stdout
    assert "\x1b" in run_pty("info", path)[1]
    assert "\x1b" not in run_pty("info", path, env={"NO_COLOR": "1"})[1]


def test_a_file_name_cannot_speak_to_the_terminal(tmp_path):
    path = tmp_path / "a\x1b]0;owned\x07b[bold].ggcp"
    path.write_bytes((FIXTURES / "v1-adam.ggcp").read_bytes())
    _, screen = run_pty("info", path, env={"NO_COLOR": "1"})
    assert "\x1b" not in screen
    assert "\\x1b]0;owned\\x07b[bold].ggcp" in screen


def test_a_wrapped_count_is_shown_as_it_is(tmp_path):
    path = tmp_path / "long.ggcp"
    path.write_bytes(build_checkpoint(train=(0xFFFFFFFF, 1, 0)))
    assert json.loads(run_cli("info", path, "--json", check=True).stdout)["train_its"] == 0xFFFFFFFF


def test_something_else_is_named(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(struct.pack("<I", 0x67676A74) + bytes(40))
    result = run_cli("info", path)
    assert result.returncode == 4
    assert "ggjt" in result.stderr
    assert not result.stdout
