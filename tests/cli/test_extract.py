"""`extract`: what numpy and safetensors read back is what the trainer wrote, and nothing else is written."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import xml.etree.ElementTree as ET

import gguf
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from ggcp_schema.cli import extract as module
from ggcp_schema.files.atomic import Output
from tests.builder import build_checkpoint, build_gguf
from tests.helpers import (
    FIXTURES,
    GENUINE,
    ONE_OF_EACH,
    TRUNCATED,
    assert_no_traceback,
    expected_resume,
    run_cli,
    run_process,
    run_pty,
    thinned,
)
from tests.samples import DECODED, FAST, KINDS, sample

CHECKPOINT = FIXTURES / "v1-adam.ggcp"
WITH_RESUME = [path for path in GENUINE if not path.name.startswith(("alice", "rotmax8"))]


def tensors_of(path):
    return json.loads(run_cli("tensors", path, "--json", check=True).stdout)


def refused(tmp_path, *args, code=2, run=run_cli, **options):
    """The message of a command that must refuse, and leave the folder as it was."""
    before = content(tmp_path)
    result = run("extract", *args, **options)
    assert_no_traceback(result)
    assert result.returncode == code
    assert not result.stdout
    assert content(tmp_path) == before
    return result.stderr


def content(folder):
    """The files of a folder by path, and its folders."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# Formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(WITH_RESUME, ONE_OF_EACH[:6]), ids=lambda path: path.name)
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
    assert result.stdout == f"wrote {out}: layers[1].w1, numpy shape (48, 16), 3,200 bytes (3.1 KiB)\n"


@pytest.mark.parametrize("name", ["layers[1].w1", "norm", "optimizer.state.v[layers[0].wo]"])
def test_csv_gives_the_same_float32_again(name, tmp_path):
    run_cli("extract", CHECKPOINT, name, tmp_path / "x.csv", check=True)
    run_cli("extract", CHECKPOINT, name, tmp_path / "x.npy", check=True)
    array = np.loadtxt(tmp_path / "x.csv", dtype=np.float32, delimiter=",")
    expected = np.load(tmp_path / "x.npy")
    assert array.shape == expected.shape
    assert array.tobytes() == expected.tobytes()


def test_csv_of_values_that_are_not_numbers(tmp_path):
    path, draws = tmp_path / "x.ggcp", iter([np.array([1e-45, -0.0, np.nan, -np.inf, 3.4e38, 0.1], np.float32)])
    path.write_bytes(build_checkpoint(n_vocab=3, n_embd=2, data=lambda count: next(draws, np.zeros(count))))
    run_cli("extract", path, "tok_embeddings", tmp_path / "x.csv", check=True)
    assert (tmp_path / "x.csv").read_text() == "1e-45,-0.0\nnan,-inf\n3.4e+38,0.1\n"


def test_a_folder_gets_a_file_for_each_tensor(tmp_path):
    report = json.loads(run_cli("extract", CHECKPOINT, "layers[1]", f"{tmp_path}/new/", "--json", check=True).stdout)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    tensors = ("attention_norm", "ffn_norm", "w1", "w2", "w3", "wk", "wo", "wq", "wv")
    assert names == [f"layers.1.{name}.npy" for name in tensors]
    rows = {row["path"]: row for row in tensors_of(CHECKPOINT)}
    for item in report["tensors"]:
        array, row = np.load(item["file"]), rows[item["path"]]
        assert array.tobytes() == CHECKPOINT.read_bytes()[row["offset"] : row["offset"] + row["nbytes"]]
    assert report["size"] == sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
    message = run_cli("extract", CHECKPOINT, "layers[1]", tmp_path / "new").stderr
    assert "--force" in message
    run_cli("extract", CHECKPOINT, "layers[1]", tmp_path / "new", "--force", check=True)


def test_a_new_folder_gets_its_name_when_it_is_whole_and_is_not_listed_for_each_file(tmp_path, monkeypatch):
    out, listed, seen = tmp_path / "out", [], []
    write, listdir = module.write_npy, os.listdir
    monkeypatch.setattr(module, "write_npy", lambda *args: (seen.append(out.exists()), write(*args)))
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    run_cli("extract", CHECKPOINT, "*", f"{out}/", check=True)
    assert len(seen) == len(listdir(out)) > len(listed)
    assert not any(seen)
    assert listdir(tmp_path) == ["out"]


def test_an_existing_folder_is_listed_once_and_rid_of_what_killed_processes_left(tmp_path, monkeypatch):
    listed, listdir = [], os.listdir
    (tmp_path / "other").touch()
    (tmp_path / f"{Output(str(tmp_path / 'norm.npy')).prefix}1.part").touch()
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    run_cli("extract", CHECKPOINT, "*", f"{tmp_path}/", check=True)
    assert len(listed) == 1
    names = set(listdir(tmp_path))
    assert "norm.npy" in names
    assert {name for name in names if not name.endswith(".npy")} == {"other"}


def test_a_folder_is_left_as_it_was_if_a_file_cannot_be_written(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "layers.1.wk.npy").write_text("mine")
    result = run_cli("extract", CHECKPOINT, "layers[1]", f"{tmp_path}/old/")
    assert result.returncode == 2
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["layers.1.wk.npy"]

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # attention_norm fits, w1 does not

    refused(tmp_path, CHECKPOINT, "layers[0]", f"{tmp_path}/new/", run=run_process, preexec_fn=limit)


def test_names_of_files_come_from_names_of_tensors(tmp_path):
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("../../up", "a/b", "c d", "..", "/etc/x", "\x1b[31m"):
        writer.add_tensor(name, np.ones(2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    run_cli("extract", path, "*", f"{tmp_path}/out/", check=True)
    names = ["_.._up.npy", "_.npy", "__31m.npy", "_etc_x.npy", "a_b.npy", "c_d.npy"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "x.gguf"]


def test_a_tensor_without_a_name_is_not_left_out(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(build_gguf([], [("", (2,), 0, bytes(8)), ("b", (2,), 0, bytes(8))]))
    run_cli("extract", path, "*", tmp_path / "out.safetensors", check=True)
    assert sorted(load_file(tmp_path / "out.safetensors")) == ["", "b"]


@pytest.mark.parametrize("name", ["layers[0].wq", "norm"])
def test_pictures(name, tmp_path):
    for out in (tmp_path / "x.svg", tmp_path / "x.png"):
        run_cli("extract", FIXTURES / "alice.ggcp", name, out, check=True)
    from matplotlib.image import imread  # slow, and all processes that run tests import this module

    picture = imread(tmp_path / "x.png")
    height, width = picture.shape[:2]
    assert height >= 400
    root = ET.parse(tmp_path / "x.svg").getroot()  # noqa: S314 - it was just written
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    left = picture[:, : width // 2, :3]
    red, blue = (left[..., a] > left[..., b] + 0.3 for a, b in ((0, 2), (2, 0)))
    is_matrix = name != "norm"
    assert (red.mean() > 0.01) == is_matrix  # the image of the matrix, in red and blue
    assert blue.mean() > 0.005
    assert (b"<image" in (tmp_path / "x.svg").read_bytes()) == is_matrix


def test_the_picture_of_a_matrix_shows_its_values(tmp_path):
    """A matrix whose upper half is positive, and whose lower half is negative."""
    path = tmp_path / "x.ggcp"
    halves = np.repeat([1.0, -1.0], 1500 * 4).astype(np.float32)
    draws = iter([halves])
    path.write_bytes(build_checkpoint(n_vocab=3000, n_layer=0, data=lambda count: next(draws, np.ones(count))))
    run_cli("extract", path, "tok_embeddings", tmp_path / "x.png", check=True)
    from matplotlib.image import imread  # slow, and all processes that run tests import this module

    picture = imread(tmp_path / "x.png")
    height, width = picture.shape[:2]
    upper, lower = (picture[height // 4 * quarter, width // 4, :3] for quarter in (1, 3))
    assert upper[0] > upper[2] + 0.1
    assert lower[2] > lower[0] + 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_format(kind, tmp_path):
    path = sample(kind, tmp_path)
    half, row = "half" if "gguf" in kind else "layers[0].wq", "blk.0.attn_q.weight"
    run_cli("extract", path, half, tmp_path / "half.npy", check=True)
    assert np.load(tmp_path / "half.npy").tobytes() == FAST.tobytes()
    run_cli("extract", path, row, tmp_path / "row.npy", check=True)
    assert np.load(tmp_path / "row.npy").tobytes() == FAST.tobytes()
    report = json.loads(run_cli("extract", path, "*", tmp_path / "all.safetensors", "--json", check=True).stdout)
    quantized = "quantized" if "gguf" in kind else "layers.0.feed_forward.w1.weight"
    assert report["left_out"] == ([] if kind in DECODED else [quantized])
    assert (quantized in load_file(tmp_path / "all.safetensors")) == (kind in DECODED)
    if kind not in DECODED:
        said = run_cli("extract", path, "*", tmp_path / "more.safetensors", check=True).stdout
        assert f"left out {quantized}: values of Q" in said
        assert "cannot be read" in refused(tmp_path, path, quantized, tmp_path / "one.npy")


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
    common = {"shape": [16, 16], "nbytes": 1024, "file": str(out)}
    assert report == {
        "input": str(CHECKPOINT),
        "output": str(out),
        "size": out.stat().st_size,
        "tensors": [{"path": f"layers[{i}].wq", "gguf_name": f"blk.{i}.attn_q.weight", **common} for i in range(2)],
        "left_out": [],
    }
    with safe_open(out, "np") as file:
        assert file.metadata()["source"] == "v1-adam.ggcp"


def test_a_tensor_of_several_chunks(tmp_path):
    path = tmp_path / "large.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=3, n_embd=50_001, n_layer=0))
    for name in ("large.npy", "large.safetensors", "large.csv"):
        run_cli("extract", path, "tok_embeddings", tmp_path / name, check=True)
    row = tensors_of(path)[0]
    wanted = np.fromfile(path, "<f4", row["nbytes"] // 4, offset=row["offset"]).reshape(3, 50_001)
    assert (np.load(tmp_path / "large.npy") == wanted).all()
    assert (load_file(tmp_path / "large.safetensors")["tok_embeddings"] == wanted).all()
    lines = (tmp_path / "large.csv").read_text().splitlines()
    assert [len(line.split(",")) for line in lines] == [50_001] * 3
    assert np.float32(lines[2].rpartition(",")[2]) == wanted[2, -1]


def test_tensors_without_elements(tmp_path):
    path = tmp_path / "empty.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=0, n_embd=4, n_layer=0))
    for name in ("empty.npy", "empty.safetensors", "empty.csv"):
        run_cli("extract", path, "tok_embeddings", tmp_path / name, check=True)
    assert np.load(tmp_path / "empty.npy").shape == (0, 4)
    assert load_file(tmp_path / "empty.safetensors")["tok_embeddings"].shape == (0, 4)
    assert (tmp_path / "empty.csv").read_text() == ""
    assert "no finite values" in refused(tmp_path, path, "tok_embeddings", tmp_path / "empty.png")


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".png"])
def test_one_tensor_only_fits_a_file_of_one(suffix, tmp_path):
    message = refused(tmp_path, CHECKPOINT, "layers[0]", tmp_path / f"x{suffix}")
    assert f"'layers[0]' matches 9 tensors, but a {suffix} file holds one" in message


def test_a_null_tensor_has_no_data(tmp_path):
    message = refused(tmp_path, CHECKPOINT, "optimizer.state.pf", tmp_path / "pf.npy")
    assert "optimizer.state.pf is a NULL tensor and has no data to extract" in message
    run_cli("extract", CHECKPOINT, "optimizer", tmp_path / "state.safetensors", check=True)
    assert set(load_file(tmp_path / "state.safetensors")) == {"optimizer.state.m", "optimizer.state.v"}


def test_an_unknown_tensor_has_suggestions(tmp_path):
    assert "layers[0].wq" in refused(tmp_path, CHECKPOINT, "layers[0].wx", tmp_path / "x.npy")
    assert "layers[0].wq" in refused(tmp_path, CHECKPOINT, "wQ", tmp_path / "x.npy")


def test_a_value_is_not_a_tensor(tmp_path):
    message = refused(tmp_path, CHECKPOINT, "train_its", tmp_path / "x.npy")
    assert "train_its is a field of type u32, not a tensor: 12" in message
    assert "ggcp-schema get" in message


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "csv", "svg", "png"])
def test_the_case_of_the_output_format_does_not_matter(suffix, tmp_path):
    for name in (f"x.{suffix}", f"y.{suffix.upper()}"):
        run_cli("extract", CHECKPOINT, "norm", tmp_path / name, check=True)
    assert (tmp_path / f"y.{suffix.upper()}").read_bytes()[:8] == (tmp_path / f"x.{suffix}").read_bytes()[:8]


@pytest.mark.parametrize("name", ["x", "x.txt", "x.pt"])
def test_an_unknown_output_format(name, tmp_path):
    message = refused(tmp_path, CHECKPOINT, "norm", tmp_path / name)
    assert "unknown output format" in message
    assert ".safetensors" in message


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    out = tmp_path / "norm.npy"
    out.write_text("mine")
    assert "--force" in refused(tmp_path, CHECKPOINT, "norm", out)
    run_cli("extract", CHECKPOINT, "norm", out, "--force", check=True)
    assert np.load(out).shape == (16,)


def test_never_onto_the_input(tmp_path):
    path = tmp_path / "input.npy"
    path.write_bytes(CHECKPOINT.read_bytes())
    assert "output and input are the same file" in refused(tmp_path, path, "norm", path, "--force")


@pytest.mark.parametrize(("module", "suffix"), [("safetensors", ".safetensors"), ("matplotlib", ".png")])
def test_without_the_optional_library(module, suffix, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / f"{module}.py").write_text("raise ImportError('hidden')")
    work = tmp_path / "work"
    work.mkdir()
    path = f"{tmp_path / 'hide'}:{os.getcwd()}"
    result = run_process("extract", CHECKPOINT, "norm", work / f"x{suffix}", env={"PYTHONPATH": path})
    assert result.returncode == 2
    assert f"pip install {module}\n" in result.stderr
    assert_no_traceback(result)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("name", thinned(["x.npy", "x.csv", "x.safetensors"], ["x.npy", "x.csv"]))
def test_a_full_disk_leaves_nothing(name, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    refused(tmp_path, CHECKPOINT, "tok_embeddings", tmp_path / name, run=run_process, preexec_fn=limit)


# Damaged files ---------------------------------------------------------------------------------------------


def test_a_whole_tensor_of_a_damaged_file_is_written(tmp_path):
    result = run_cli("extract", TRUNCATED, "norm", tmp_path / "norm.npy", check=True)
    assert "offset 52147" in result.stderr
    assert np.load(tmp_path / "norm.npy").shape == (16,)
    assert "offset 52147" in refused(tmp_path, TRUNCATED, "optimizer.state.x", tmp_path / "x.npy", code=4)


def test_a_part_of_what_was_asked_for_is_written_only_if_that_is_asked_for(tmp_path):
    out = tmp_path / "layer.safetensors"
    message = refused(tmp_path, TRUNCATED, "layers[0]", out, code=4)
    assert "Nothing was written: layers[0].w3 missing. Use --partial" in message
    result = run_cli("extract", TRUNCATED, "layers[0]", out, "--partial")
    assert result.returncode == 4
    assert len(load_file(out)) == 8


def test_a_part_never_replaces_a_file(tmp_path):
    out = tmp_path / "layer.safetensors"
    run_cli("extract", FIXTURES / "v0-adam.ggcp", "layers[0]", out, check=True)
    message = refused(tmp_path, TRUNCATED, "layers[0]", out, "--partial", "--force")
    assert "already exists" in message
    assert len(load_file(out)) == 9


def test_a_damaged_gguf_file(tmp_path):
    run_cli("convert", CHECKPOINT, tmp_path / "whole.gguf", check=True)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "whole.gguf").read_bytes()[:-1000])
    message = refused(tmp_path, cut, "optimizer", tmp_path / "x.safetensors", code=4)
    assert "optimizer.state.v missing" in message
    run_cli("extract", cut, "layers[*].*", tmp_path / "layers.safetensors")
    assert len(load_file(tmp_path / "layers.safetensors")) == 18


# What is printed -------------------------------------------------------------------------------------------


def test_on_a_narrow_terminal(tmp_path):
    code, text = run_pty("extract", CHECKPOINT, "norm", "b.npy", columns=30, cwd=tmp_path)
    assert (code, text) == (0, "wrote b.npy: norm, numpy shape\n  (16,), 192 bytes\n")


def test_names_that_are_not_utf8_are_escaped_in_safetensors(tmp_path):
    path, out = tmp_path / "x.gguf", tmp_path / "o.safetensors"
    path.write_bytes(build_gguf([], [("\udcff\n", (2,), 0, bytes(8))]))
    run_cli("extract", path, "*", out, check=True)
    assert [*load_file(out)] == ["\\xff\n"]


@pytest.mark.parametrize("names", [("\udcff", "\\xff"), ("a", "__metadata__")])
def test_names_that_safetensors_cannot_hold_are_refused_before_anything_is_read(tmp_path, names):
    path = tmp_path / "x.gguf"
    path.write_bytes(build_gguf([], [(name, (2,), 0, bytes(8)) for name in names]))
    message = refused(tmp_path, path, "*", tmp_path / "o.safetensors")
    assert "in a .safetensors file\n" in message
