"""`extract`: what numpy and safetensors read back is what the trainer wrote; and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_resume, run_cli, run_pty

CHECKPOINT = FIXTURES / "v1-adam.ggcp"


def tensors_of(path):
    return json.loads(run_cli("tensors", path, "--json", check=True).stdout)


def refused(tmp_path, *args, code=2, **options):
    """The message of a command that must refuse, and leave the folder as it was."""
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run_cli("extract", *args, **options)
    assert_no_traceback(result)
    assert result.returncode == code
    assert not result.stdout
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    return result.stderr


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_all_tensors_as_safetensors(path, tmp_path):
    out = tmp_path / "all.safetensors"
    run_cli("extract", path, "*", out, check=True)
    arrays, expected = load_file(out), {row["name"]: row for row in expected_resume(path)["tensors"]}
    rows = [row for row in tensors_of(path) if row["shape"] is not None]
    assert set(arrays) == {row["path"] for row in rows}
    for row in rows:
        array, wanted = arrays[row["path"]], expected.get(row["gguf_name"])
        assert array.dtype == np.float32
        assert list(array.shape[::-1]) == row["shape"]
        assert wanted is None or hashlib.sha256(array.tobytes()).hexdigest() == wanted["sha256"]
    assert len([row for row in rows if row["gguf_name"]]) == len(expected)


@pytest.mark.parametrize("name", ["layers[1].w1", "blk.1.ffn_gate.weight"])
def test_npy(name, tmp_path):
    out = tmp_path / "w1.npy"
    result = run_cli("extract", CHECKPOINT, name, out, check=True)
    array = np.load(out)
    wanted = next(row for row in expected_resume(CHECKPOINT)["tensors"] if row["name"] == "blk.1.ffn_gate.weight")
    assert array.dtype == np.float32
    assert list(array.shape) == wanted["shape"][::-1] == [48, 16]
    assert hashlib.sha256(array.tobytes()).hexdigest() == wanted["sha256"]
    assert result.stdout == f"wrote {out}: layers[1].w1 [48, 16], 3,200 bytes (3.1 KiB)\n"


def test_from_a_gguf_by_either_name(tmp_path):
    model = tmp_path / "resume.gguf"
    run_cli("convert", CHECKPOINT, model, check=True)
    wanted = next(tensor for tensor in gguf.GGUFReader(model).tensors if tensor.name == "blk.0.attn_q.weight")
    for number, name in enumerate(("layers[0].wq", "blk.0.attn_q.weight")):
        run_cli("extract", model, name, tmp_path / f"{number}.npy", check=True)
        assert (np.load(tmp_path / f"{number}.npy") == wanted.data).all()
    run_cli("extract", model, "layers[0]", tmp_path / "layer.safetensors", check=True)
    assert "blk.0.attn_q.weight" in load_file(tmp_path / "layer.safetensors")


def test_a_pattern_gives_many(tmp_path):
    out = tmp_path / "queries.safetensors"
    report = json.loads(run_cli("extract", CHECKPOINT, "layers[*].wq", out, "--json", check=True).stdout)
    assert set(load_file(out)) == {"layers[0].wq", "layers[1].wq"}
    assert report == {
        "input": str(CHECKPOINT),
        "output": str(out),
        "size": out.stat().st_size,
        "tensors": [
            {"path": f"layers[{i}].wq", "gguf_name": f"blk.{i}.attn_q.weight", "shape": [16, 16], "nbytes": 1024}
            for i in range(2)
        ],
    }
    with safe_open(out, "np") as file:
        assert file.metadata()["source"] == "v1-adam.ggcp"


def test_larger_than_a_piece(tmp_path):
    path = tmp_path / "large.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=3, n_embd=750_001, n_layer=0))
    for name in ("large.npy", "large.safetensors"):
        run_cli("extract", path, "tok_embeddings", tmp_path / name, check=True)
    row = tensors_of(path)[0]
    wanted = np.fromfile(path, "<f4", row["nbytes"] // 4, offset=row["offset"]).reshape(3, 750_001)
    assert (np.load(tmp_path / "large.npy") == wanted).all()
    assert (load_file(tmp_path / "large.safetensors")["tok_embeddings"] == wanted).all()


def test_tensors_without_elements(tmp_path):
    path = tmp_path / "empty.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=0, n_embd=4, n_layer=0))
    for name in ("empty.npy", "empty.safetensors"):
        run_cli("extract", path, "tok_embeddings", tmp_path / name, check=True)
    assert np.load(tmp_path / "empty.npy").shape == (0, 4)
    assert load_file(tmp_path / "empty.safetensors")["tok_embeddings"].shape == (0, 4)


def test_one_array_only_fits_npy(tmp_path):
    message = refused(tmp_path, CHECKPOINT, "layers[0]", tmp_path / "x.npy")
    assert "9 tensors" in message
    assert ".safetensors" in message


def test_null_holds_nothing(tmp_path):
    assert "NULL" in refused(tmp_path, CHECKPOINT, "optimizer.state.pf", tmp_path / "x.npy")


def test_an_unknown_tensor_has_near_ones(tmp_path):
    assert "layers[0].wq" in refused(tmp_path, CHECKPOINT, "layers[0].wx", tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["x", "x.txt", "x.pt"])
def test_another_format(name, tmp_path):
    assert ".npy or .safetensors" in refused(tmp_path, CHECKPOINT, "norm", tmp_path / name)


def test_what_exists_is_kept_unless_forced(tmp_path):
    out = tmp_path / "norm.npy"
    out.write_text("mine")
    assert "--force" in refused(tmp_path, CHECKPOINT, "norm", out)
    run_cli("extract", CHECKPOINT, "norm", out, "--force", check=True)
    assert np.load(out).shape == (16,)


def test_never_onto_the_input(tmp_path):
    path = tmp_path / "input.npy"
    path.write_bytes(CHECKPOINT.read_bytes())
    assert "the input itself" in refused(tmp_path, path, "norm", path, "--force")


def test_without_the_library(tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "safetensors.py").write_text("raise ImportError('hidden')")
    work = tmp_path / "work"
    work.mkdir()
    result = run_cli(
        "extract", CHECKPOINT, "norm", work / "x.safetensors", env={"PYTHONPATH": f"{tmp_path / 'hide'}:{os.getcwd()}"}
    )
    assert result.returncode == 2
    assert "pip install 'ggcp-schema[safetensors]'" in result.stderr
    assert_no_traceback(result)
    assert list(work.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    for name in ("x.npy", "x.safetensors"):
        refused(tmp_path, CHECKPOINT, "tok_embeddings", tmp_path / name, preexec_fn=limit)


def test_what_is_whole_of_a_damaged_file(tmp_path):
    result = run_cli("extract", TRUNCATED, "norm", tmp_path / "norm.npy")
    assert result.returncode == 4
    assert "offset 52147" in result.stderr
    assert np.load(tmp_path / "norm.npy").shape == (16,)
    assert "offset 52147" in refused(tmp_path, TRUNCATED, "optimizer.state.x", tmp_path / "x.npy", code=4)


def test_quiet_and_narrow(tmp_path):
    assert run_cli("extract", CHECKPOINT, "norm", tmp_path / "a.npy", "-q", check=True).stdout == ""
    code, text = run_pty("extract", CHECKPOINT, "norm", "b.npy", columns=30, cwd=tmp_path)
    assert (code, text) == (0, "wrote b.npy: norm [16], 192 bytes\n")


def test_names_do_not_reach_the_terminal_as_they_are(tmp_path):
    result = run_cli("extract", CHECKPOINT, "norm", tmp_path / "\x1b[31mred.npy", check=True)
    assert r"\x1b[31mred.npy" in result.stdout
    assert "\x1b" not in result.stdout
