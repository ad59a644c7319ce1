"""`convert`: what it prints, its options, what it refuses, and many files at once."""

from __future__ import annotations

import json
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from ggcp_schema.formats import open_file
from tests.builder import build_checkpoint
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
    run_pty_process,
    thinned,
)
from tests.mapping import gguf_files, independent_order

ADAM = FIXTURES / "v1-adam.ggcp"
FF48 = FIXTURES / "twin-ff48.v1.ggcp"
SUMMED = FIXTURES / "orders" / "jun-B-3.ggcp"  # trained with --ctx 32 --batch 4
UNDECIDED = FIXTURES / "orders" / "17a-B-3.ggcp"
EXPECTED = [path for path in GENUINE if (FIXTURES / f"{path.name.split('.')[0]}.resume.json").exists()]
EPSILON = "llama.attention.layer_norm_rms_epsilon"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
JSON_KEYS = {
    *("input", "output", "kind", "rms_eps", "rms_eps_reason", "notes", "findings", "conclusions"),
    *("keys", "tensors", "files", "written", "size", "not_finite", "replaced"),
}


def name_of(path: Path) -> str:
    return path.stem


def assert_refused(result: subprocess.CompletedProcess[str], code: int, *messages: str) -> None:
    """Check that there are one or two lines on stderr, and nothing on stdout."""
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (code, "")
    for message in messages:
        assert message in result.stderr
    assert result.stderr.startswith("ggcp-schema: ")
    assert len(result.stderr.splitlines()) <= 2
    assert not CONTROL.search(result.stderr)


def described(*args: Any) -> dict[str, Any]:
    result = run_cli("convert", *args, "--json", check=True)
    assert result.stderr == ""
    content: dict[str, Any] = json.loads(result.stdout)
    assert set(content) == JSON_KEYS
    return content


def built(path: Path, **options: Any) -> Path:
    path.write_bytes(build_checkpoint(**options))
    return path


def swapped(label: str) -> bytes:
    """Return the name of a tensor of the model, with those of wq and wk exchanged."""
    other = {"wq": "wk", "wk": "wq"}
    return re.sub("wq|wk", lambda found: other[found[0]], label).encode()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.gguf"


# The summary -----------------------------------------------------------------------------------------------


def test_the_summary(tmp_path: Path) -> None:
    result = run_cli("convert", FF48, "out.gguf", "--verify", cwd=tmp_path, check=True)
    size = (tmp_path / "out.gguf").stat().st_size
    assert result.stderr == ""
    source, epsilon, order, note, wrote, resume = result.stdout.splitlines()
    assert source == (
        f"{FF48}: 2 layers, n_embd 16, n_vocab 320, 16,976 parameters, Adam at iteration 6, 205,228 bytes (200.4 KiB)"
    )
    assert epsilon == "epsilon: 1e-5"
    assert order == "order: the optimizer's vectors are in order C already"
    assert note == "note: hparams.n_mult: n_ff is 48 according to w1, but 256 according to n_embd and n_mult (256)"
    assert re.fullmatch(rf"wrote out.gguf: 26 keys, 23 tensors, {size:,} bytes \(.* KiB\), every byte compared", wrote)
    assert resume.startswith("resume with llama.cpp from before 25 July 2024 (")
    assert ": llama-train-text-from-scratch " in resume
    assert os.listdir(tmp_path) == ["out.gguf"]


@pytest.mark.parametrize("path", ONE_OF_EACH, ids=name_of)
def test_the_command_to_resume_has_the_numbers_of_the_file(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "my out.gguf"
    line = run_cli("convert", path, out, check=True).stdout.splitlines()[-1]
    words = shlex.split(line.partition(": ")[2])
    if "lbfgs" in path.name:
        assert words == ["ggcp-schema", "convert", str(path), "FRESH.gguf", "--fresh-optimizer"]
        return
    assert words[:3] == ["llama-train-text-from-scratch", "--checkpoint-in", str(out)]
    assert words[-2:] == ["--no-flash", "--use-checkpointing"]
    n_embd, _, n_head, n_layer = struct.unpack_from("<4I", path.read_bytes(), 24)
    expected = {"--embd": n_embd, "--head": n_head, "--layer": n_layer}
    expected["--ff"] = gguf_files.value(out, "llama.feed_forward_length")
    expected["--opt-past"] = gguf_files.value(out, "optimizer.convergence_past_count")
    for option, number in expected.items():
        stated = words[words.index(option) + 1] if option in words else "0"
        assert stated == str(number), option


def test_the_context_length_follows_from_the_counts(tmp_path: Path, out: Path) -> None:
    """The samples have 32 tokens each; a file whose counts do not divide has no --ctx."""
    assert " --ctx 32 " in run_cli("convert", SUMMED, out, check=True).stdout
    odd = built(tmp_path / "odd.ggcp", train=(3, 12, 191))
    assert " --ctx " not in run_cli("convert", odd, out, "--force", check=True).stdout


def test_nothing_is_printed_of_a_file_that_could_not_be_written(out: Path) -> None:
    """The disk is full when the output is synchronized, after all has been planned and copied."""
    with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
        result = run_cli("convert", ADAM, out)
    assert_refused(result, 2, f"{out}: No space left on device")
    assert not out.exists()


@pytest.mark.parametrize(
    ("path", "rms_eps", "words"),
    [
        (
            FF48,
            1e-5,
            "epsilon: 1e-5 (that of llama.cpp's train-text-from-scratch, pull request branch by xaedes",
        ),
        (
            FIXTURES / "rotmax8-v1.ggcp",
            5e-6,
            "used 1e-6 (15 June to 27 July 2023), 5e-6 (28 July to 24 August",
        ),
        (
            FIXTURES / "v0-adam.ggcp",
            1e-6,
            "was used for the most days; a wrong one costs 1e-4 to 9e-3 in log",
        ),
    ],
    ids=["certain", "by-the-order", "open"],
)
def test_the_epsilon_is_that_of_the_writer(path: Path, rms_eps: float, words: str, out: Path) -> None:
    assert words in run_cli("convert", path, out, "-v", check=True).stdout
    assert gguf_files.value(out, EPSILON) == np.float32(rms_eps)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (ADAM, "from order A to order C (the rows of zeros in v, of tokens that did not occur, all lie in"),
        (SUMMED, "from order B to order C (x equals the model's weights bit for bit)"),
        (FIXTURES / "v1-lbfgs.ggcp", "are in order C already (x equals the model's weights bit for bit)"),
        (UNDECIDED, "unknown (v has rows of zeros outside of tok_embeddings in every known order); the optimizer's"),
    ],
    ids=["A", "B", "C", "unknown"],
)
def test_the_order_is_explained(path: Path, words: str, out: Path) -> None:
    lines = run_cli("convert", path, out, "--verbose", check=True).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("order: ")]
    assert words in line
    assert ("If you know the order, state it: --order A, B or C" in line) == (path == UNDECIDED)


def test_the_scale_is_explained(out: Path) -> None:
    text = run_cli("convert", SUMMED, out, "-v", check=True).stdout
    assert "scale: gradients were summed over the tokens of a batch" in text
    assert "by that length about 128 tokens, 4 × 32, or 74 to 239; by the counts the batch is" in text
    assert "m is divided by 128" in text
    assert "batch: a fresh optimizer is safer than a wrong one; in a test of 1,000 more iterations" in text
    assert "m and v are copied as they are" in run_cli("convert", ADAM, out, "--force", "-v", check=True).stdout


def test_without_evidence_what_is_changed_and_what_is_doubtful_is_said(out: Path) -> None:
    lines = run_cli("convert", SUMMED, out, check=True).stdout.splitlines()
    assert lines[1].startswith("epsilon: 1e-6, a guess (or ")
    assert lines[2:5] == [
        "order: the optimizer's vectors are rewritten from order B to order C",
        "scale: m is divided by 128, an estimate, v by its square",
        "batch: a fresh optimizer is safer than a wrong one. If you know the batch, state it: --batch N",
    ]
    lines = run_cli("convert", UNDECIDED, out, "--force", check=True).stdout.splitlines()
    known = "order: unknown; the optimizer's vectors are copied as they are."
    assert f"{known} If you know the order, state it: --order A, B or C" in lines


def test_a_partial_rotation_is_explained(out: Path) -> None:
    text = run_cli("convert", FIXTURES / "rotmax8-v1.ggcp", out, check=True).stdout
    assert (
        "rotation: n_rot 8 of heads of 16 dimensions is written as rope.dimension_count 16 and rope.freq_base 1e+08\n"
    ) in text


@pytest.mark.parametrize(("options", "why"), [({"n_rot": 3}, "n_rot"), ({"n_head": 3}, "n_head")])
def test_an_impossible_rotation_is_kept_and_named(options: dict[str, int], why: str, tmp_path: Path, out: Path) -> None:
    result = run_cli("convert", built(tmp_path / "in.ggcp", n_embd=8, **options), out, check=True)
    assert re.search(rf"^rotation: .*; n_rot {options.get('n_rot', 2)} is kept as it is$", result.stdout, re.MULTILINE)
    assert re.search(rf"^note: hparams\.{why}: ", result.stdout, re.MULTILINE)
    assert gguf_files.value(out, "llama.rope.dimension_count") == options.get("n_rot", 2)


# Options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(EXPECTED, ONE_OF_EACH[:6]), ids=name_of)
def test_verbatim_is_what_the_programs_of_2023_wrote(path: Path, out: Path) -> None:
    result = run_cli("convert", path, out, "--verbatim", "--verify", check=True)
    assert "epsilon: 1e-5 (the converter of 2023 always wrote it)\nverbatim: " in result.stdout
    assert gguf_files.read_gguf(out) == expected_resume(path)


@pytest.mark.parametrize(
    "option", [("--order", "A"), ("--batch", "4"), ("--rms-eps", "1e-6"), ("--fresh-optimizer",)], ids=lambda o: o[0]
)
def test_verbatim_allows_no_choice(option: tuple[str, ...], out: Path) -> None:
    assert_refused(run_cli("convert", ADAM, out, "--verbatim", *option), 2, "a verbatim conversion allows no")
    assert not out.exists()


def test_an_order_that_is_stated(tmp_path: Path) -> None:
    """The vectors of one file, taken for those of each order: only C is copied as it is."""
    path, found = tmp_path / "x.ggcp", {}
    path.write_bytes(build_checkpoint(n_layer=2))  # of random numbers, which tell no order
    for order in "ABC":
        text = run_cli("convert", path, tmp_path / order, "--order", order, "-v", "--verify", check=True).stdout
        change = f"are rewritten from order {order} to order C" if order != "C" else "are in order C already"
        assert f"order: the optimizer's vectors {change} (order {order} was stated)\n" in text
        found[order] = gguf_files.data(tmp_path / order)["optimizer.adam.second_moments"]
    assert (found["C"] == independent_order.read(path).state["v"].data).all()
    for one, other in ("AB", "AC", "BC"):
        assert not (found[one] == found[other]).all()
        assert (np.sort(found[one]) == np.sort(found[other])).all()


def test_an_order_that_cannot_be_decided_may_be_stated(tmp_path: Path) -> None:
    run_cli("convert", UNDECIDED, tmp_path / "default", check=True)
    run_cli("convert", UNDECIDED, tmp_path / "C", "--order", "C", check=True)
    run_cli("convert", UNDECIDED, tmp_path / "A", "--order", "A", check=True)
    default, same, other = (
        gguf_files.data(tmp_path / name)["optimizer.adam.first_moments"] for name in ("default", "C", "A")
    )
    assert (default == same).all()
    assert not (default == other).all()


@pytest.mark.parametrize("order", ["E", "AB", "c", ""])
def test_there_is_no_such_order(order: str, out: Path) -> None:
    assert_refused(run_cli("convert", ADAM, out, "--order", order), 2, f"there is no order '{order}'", "A, B, C")
    assert not out.exists()


def test_a_batch_that_is_stated(tmp_path: Path) -> None:
    """Twice the batch gives half of m and a quarter of v, exactly, since both are powers of two."""
    moments = {}
    for batch in (4, 8):
        text = run_cli(
            "convert", SUMMED, tmp_path / str(batch), "--batch", str(batch), "-v", "--verify", check=True
        ).stdout
        assert f"{batch * 32} tokens, {batch} × 32, as stated; m is divided by {batch * 32}, v by" in text
        assert "about" not in text
        moments[batch] = gguf_files.data(tmp_path / str(batch))
    for name, factor in (("first", 2), ("second", 4)):
        key = f"optimizer.adam.{name}_moments"
        assert moments[4][key].any()
        assert (moments[4][key] == moments[8][key] * factor).all()


def test_a_batch_that_changes_nothing_is_named(out: Path) -> None:
    result = run_cli("convert", ADAM, out, "--batch", "4", check=True)
    assert result.stderr.startswith("ggcp-schema: --batch changes nothing here: ")
    assert run_cli("convert", ADAM, out, "--batch", "4", "--force", "--quiet", check=True).stderr == ""


@pytest.mark.parametrize("batch", ["0", "-1"])
def test_an_impossible_batch(batch: str, out: Path) -> None:
    assert_refused(run_cli("convert", SUMMED, out, "--batch", batch), 2, f"a batch of {batch} samples is impossible")


def test_a_fresh_optimizer(out: Path) -> None:
    text = run_cli("convert", SUMMED, out, "--fresh-optimizer", "--verify", check=True).stdout
    assert "optimizer: written as one that has not started yet, with zeros and iteration counts of 0" in text
    assert "order: " not in text
    assert "scale: " not in text
    tensors = gguf_files.data(out)
    assert not any(values.any() for name, values in tensors.items() if name.startswith("optimizer."))
    assert all(values.any() for name, values in tensors.items() if name.startswith("blk."))
    assert gguf_files.value(out, "optimizer.iteration_count") == 0
    assert gguf_files.value(out, "training.iteration_count") == 0
    assert gguf_files.value(out, "training.sample_count") > 0


def test_an_epsilon_that_is_stated(out: Path) -> None:
    text = run_cli("convert", ADAM, out, "--rms-eps", "5e-6", check=True).stdout
    assert "epsilon: 5e-6 (stated by the user)" in text
    assert gguf_files.value(out, EPSILON) == np.float32(5e-6)


@pytest.mark.parametrize("rms_eps", ["0", "-1e-5", "nan", "inf", "1", "1e-50"])
def test_an_impossible_epsilon(rms_eps: str, out: Path) -> None:
    result = run_cli("convert", ADAM, out, f"--rms-eps={rms_eps}")
    assert_refused(result, 2, "RMS epsilon must be between 1e-30 and 1", "1e-6, 5e-6 or 1e-5")


def test_names_that_contradict_places_are_told_and_strict_refuses_them(tmp_path: Path, out: Path) -> None:
    path = built(tmp_path / "in.ggcp", name=swapped)
    lines = run_cli("convert", path, out, check=True).stdout.splitlines()
    notes = [line for line in lines if line.startswith("note: layers[0].w")]
    assert [line.split()[1] for line in notes] == ["layers[0].wq.name:", "layers[0].wk.name:"]
    assert all("attention.wk.weight" in line or "attention.wq.weight" in line for line in notes)
    out.unlink()
    for option in ((), ("--dry-run",)):
        result = run_cli("convert", path, out, "--strict", *option)
        assert_refused(result, 2, f"{path}: layers[0].wq.name: ", "Nothing was written")
        assert not out.exists()


def test_strict_accepts_a_file_without_findings(out: Path) -> None:
    run_cli("convert", ADAM, out, "--strict", check=True)
    assert_refused(run_cli("convert", FF48, out, "--strict", "--force"), 2, "hparams.n_mult: n_ff is 48")


def test_a_checkpoint_by_a_trainer_of_late_august(tmp_path: Path, out: Path) -> None:
    """It keeps its keys, which include an epsilon and a vocabulary; its vectors are put in order."""
    source = gguf_files.write_as_trainer(tmp_path / "in.gguf", FIXTURES / "orders" / "jul-A-3.ggcp", order=("A", "B"))
    result = run_cli("convert", source, out, "--verify", check=True)
    assert "epsilon: 1e-5 (stored in the file)" in result.stdout
    assert "from order B to order C" in result.stdout
    before, after = gguf_files.read_gguf(source)["kv"], gguf_files.read_gguf(out)["kv"]
    assert before.items() <= after.items()
    assert_refused(run_cli("convert", source, out, "-f", "--verbatim"), 2, "read only ggcp checkpoints")


@pytest.mark.parametrize("option", [(), ("--no-sync",)], ids=["sync", "no-sync"])
def test_the_output_is_on_the_disk_unless_that_is_not_wanted(option: tuple[str, ...], out: Path) -> None:
    with mock.patch("os.fsync", side_effect=os.fsync) as fsync:
        run_cli("convert", ADAM, out, *option, check=True)
    assert fsync.called == (not option)
    assert out.exists()


# JSON and dry runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", thinned(GENUINE, ONE_OF_EACH[:6]), ids=name_of)
def test_a_dry_run_lists_exactly_what_is_then_written(path: Path, tmp_path: Path, out: Path) -> None:
    dry = described(path, out, "--dry-run")
    assert os.listdir(tmp_path) == []
    wet = described(path, out)
    assert dry | {"written": True, "size": out.stat().st_size} == wet
    assert (dry["written"], dry["size"]) == (False, None)
    found = gguf_files.read_gguf(out)
    assert {key["key"]: (key["type"], key["value"]) for key in wet["keys"]} == {
        key: (entry["type"], entry["value"]) for key, entry in found["kv"].items()
    }
    assert [(tensor["name"], tensor["shape"], tensor["type"]) for tensor in wet["tensors"]] == [
        (tensor["name"], tensor["shape"], tensor["dtype"]) for tensor in found["tensors"]
    ]
    assert all(tensor["nbytes"] == 4 * np.prod(tensor["shape"]) for tensor in wet["tensors"])


def test_json_of_the_conclusions(out: Path) -> None:
    content = described(SUMMED, out, "--dry-run")
    assert (content["input"], content["output"], content["kind"]) == (str(SUMMED), str(out), "resume")
    assert set(content["conclusions"]) == {"era", "order", "scale"}
    assert content["conclusions"]["order"]["order"] == "B"
    assert content["rms_eps"] == 1e-6
    assert [note.partition(":")[0] for note in content["notes"]] == ["order", "scale", "batch"]
    assert content["findings"] == []
    assert content["not_finite"] == {}
    (finding,) = described(FF48, out, "--dry-run")["findings"]
    assert finding["path"] == "hparams.n_mult"
    assert described(FF48, out, "--dry-run", "--verbatim")["conclusions"] is None
    assert "--order A, B or C" in described(UNDECIDED, out, "--dry-run")["notes"][0]


def test_json_names_the_source_of_each_tensor(out: Path) -> None:
    sources = [tensor["source"] for tensor in described(FF48, out, "--dry-run")["tensors"]]
    assert sources[:4] == ["tok_embeddings", "norm", "output", "layers[0].attention_norm"]
    assert sources[-2:] == ["optimizer.state.m", "optimizer.state.v"]


def test_json_of_a_loss_that_is_not_a_number(tmp_path: Path, out: Path) -> None:
    path = built(tmp_path / "in.ggcp", state={"fx_best": float("nan"), "fx_prev": float("-inf")})
    keys = {key["key"]: key["value"] for key in described(path, out, "--dry-run")["keys"]}
    assert keys["optimizer.adam.best_loss"] == "NaN"
    assert keys["optimizer.adam.previous_loss"] == "-Infinity"


def test_a_dry_run_in_words(tmp_path: Path, out: Path) -> None:
    lines = run_cli("convert", ADAM, out, "--dry-run", check=True).stdout.splitlines()
    assert f"would write {out}: 27 keys, 23 tensors" in lines
    assert "  llama.embedding_length UINT32 16" in lines
    assert "  blk.1.ffn_down.weight F32 [48, 16] 3,072 bytes" in lines
    assert not [line for line in lines if line.startswith(("wrote", "resume"))]
    assert os.listdir(tmp_path) == []


def test_a_dry_run_leaves_an_existing_output_alone(out: Path) -> None:
    out.write_bytes(b"old")
    run_cli("convert", ADAM, out, "--dry-run", check=True)
    run_cli("convert", ADAM, out, "--dry-run", "--force", "--json", check=True)
    assert out.read_bytes() == b"old"


def test_errors_leave_stdout_empty_with_json_too(out: Path) -> None:
    assert_refused(run_cli("convert", TRUNCATED, out, "--json"), 4, "at least 13 bytes too short")


# Many files ------------------------------------------------------------------------------------------------


def test_outputs_in_a_folder_are_not_converted_again(tmp_path: Path) -> None:
    (tmp_path / "a.ggcp").write_bytes(ADAM.read_bytes())
    for count in (0, 1):
        said = run_cli("convert", ".", "--into", ".", "--force", cwd=tmp_path, check=True).stdout
        assert said.startswith("left out 1 file of a name that ends in .resume.gguf") is bool(count)
        assert said.endswith("converted 1 of 1 file into .\n")
    assert len(os.listdir(tmp_path)) == 2


def test_it_is_said_if_nothing_had_to_be_converted(tmp_path: Path, out: Path) -> None:
    run_cli("convert", ADAM, tmp_path / "one.gguf", check=True)
    said = run_cli("convert", tmp_path / "one.gguf", out, check=True).stdout
    assert "input: it is a GGUF checkpoint already; nothing had to be converted" in said
    assert out.read_bytes() == (tmp_path / "one.gguf").read_bytes()
    said = run_cli("convert", out, tmp_path / "x.gguf", "--rms-eps", "2e-6", "--fresh-optimizer", check=True).stdout
    assert f"already; changed are {EPSILON}, training.iteration_count, " in said
    assert "the optimizer's vectors\n" in said


def test_many_files_into_a_folder(tmp_path: Path) -> None:
    """One is damaged and one has no training state: the others are converted, and the worst exit code is kept."""
    folder = tmp_path / "new" / "folder"
    files = [ADAM, TRUNCATED, FIXTURES / "vocab.gguf", tmp_path / "none.ggcp", SUMMED]
    result = run_cli("convert", *files, "--into", folder)
    assert_no_traceback(result)
    assert result.returncode == 4
    assert sorted(os.listdir(folder)) == ["jun-B-3.resume.gguf", "v1-adam.resume.gguf"]
    assert result.stdout.splitlines()[-1] == f"converted 2 of 5 files into {folder}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("ggcp-schema: ")]
    assert [next(path for path in files if str(path) in line) for line in errors] == files[1:4]
    for path in (ADAM, SUMMED):
        run_cli("convert", path, tmp_path / "alone.gguf", "--force", check=True)
        assert (folder / f"{path.stem}.resume.gguf").read_bytes() == (tmp_path / "alone.gguf").read_bytes()


def test_the_exit_code_is_the_worst(tmp_path: Path) -> None:
    assert run_cli("convert", ADAM, "none", "--into", tmp_path).returncode == 2
    result = run_cli("convert", ADAM, FF48, "--into", tmp_path)
    assert result.returncode == 2
    assert f"{tmp_path / 'v1-adam.resume.gguf'} already exists: GGUF training checkpoint, to" in result.stderr
    assert run_cli("convert", ADAM, FF48, "--into", tmp_path, "--force").returncode == 0
    assert run_cli("convert", ADAM, "none", TRUNCATED, "--into", tmp_path, "--force").returncode == 4


def test_many_files_as_json_lines(tmp_path: Path) -> None:
    result = run_cli("convert", ADAM, SUMMED, TRUNCATED, "--into", tmp_path, "--json")
    *documents, unread = [json.loads(line) for line in result.stdout.splitlines()]
    assert unread["file"] == str(TRUNCATED)
    assert unread["error"]["message"] in result.stderr
    assert [set(document) for document in documents] == [JSON_KEYS, JSON_KEYS]
    assert [document["input"] for document in documents] == [str(ADAM), str(SUMMED)]
    assert result.returncode == 4


def test_an_adapter_in_a_folder_that_cannot_be_converted_is_no_file_without_a_training(tmp_path: Path) -> None:
    path = FIXTURES / "lora" / "adam.ggcl"
    (tmp_path / "old").mkdir()
    with open_file(path) as file, open(tmp_path / "old" / "flat.ggcl", "wb") as built:
        flat = file.container.copy()
        flat.layers, flat.hparams.n_layer = [], 0
        file.format.schema.build_stream(flat, built, recompute=True)
    result = run_cli("convert", tmp_path / "old", "--into", tmp_path / "new")
    assert (result.returncode, result.stdout) == (2, f"converted 0 of 1 file into {tmp_path / 'new'}\n")
    assert "flat.ggcl: n_ff is unknown, because the model has no layers" in result.stderr


def test_many_files_quietly_or_dry(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    result = run_cli("convert", ADAM, SUMMED, "--into", folder, "--dry-run", check=True)
    assert result.stdout.splitlines()[-1] == f"would convert 2 of 2 files into {folder}"
    assert not folder.exists()
    result = run_cli("convert", ADAM, SUMMED, "--into", folder, "--quiet", check=True)
    assert (result.stdout, result.stderr) == ("", "")
    assert len(os.listdir(folder)) == 2


def test_names_of_outputs_in_a_folder(tmp_path: Path) -> None:
    """What is not the suffix of a checkpoint stays; two inputs do not become one output."""
    names = {"a.ggcp": "a", "b.bin": "b", "c.v1": "c.v1", "chk-LATEST": "chk-LATEST"}
    for name in names:
        (tmp_path / name).write_bytes(ADAM.read_bytes())
    run_cli("convert", *names, "--into", "out", cwd=tmp_path, check=True)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(f"{stem}.resume.gguf" for stem in names.values())
    result = run_cli("convert", "a.ggcp", "./a.bin", "--into", "twice", cwd=tmp_path)
    assert_refused(result, 2, "a.ggcp and a.bin would both be written to twice/a.resume.gguf")
    assert not (tmp_path / "twice").exists()
    (tmp_path / "a.bin").write_bytes(ADAM.read_bytes())
    for folder in ("out", "twice"):
        before = os.listdir(tmp_path)
        result = run_cli("convert", ".", "--into", folder, "--force", cwd=tmp_path)
        assert_refused(result, 2, "a.bin and a.ggcp would both be written to", "Nothing was converted.")
        assert os.listdir(tmp_path) == before
    (tmp_path / "a.bin").write_bytes((FIXTURES / "vocab.gguf").read_bytes())  # which has no training
    result = run_cli("convert", ".", "--into", "out", "--force", cwd=tmp_path, check=True)
    assert result.stdout.endswith("converted 4 of 4 files into out\n")


def test_no_folder_is_left_if_nothing_was_converted(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for folder in ("new", "new/inner", "there/inner", "there"):
        assert run_cli("convert", "old/*", "--into", folder, cwd=tmp_path).returncode == 2
        assert [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")] == ["there"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_refused(
        run_cli("convert", ADAM, "--into", tmp_path / "file"),
        2,
        f"{tmp_path / 'file'}: cannot make a folder: File exists",
    )


# Refused ---------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint(tmp_path: Path, out: Path) -> None:
    assert_refused(
        run_cli("convert", TRUNCATED, out),
        4,
        f"{TRUNCATED}: layers[0].w3.padding at offset 52147 (0xcbb3): expected 13 bytes, found 0 before the end of "
        "the file: the file is at least 13 bytes too short\n",
        "the file has 11 of its 12 tensors, which `ggcp-schema extract --partial` can save",
    )
    assert os.listdir(tmp_path) == []


def test_a_damaged_checkpoint_whose_model_is_whole(tmp_path: Path, out: Path) -> None:
    cut = tmp_path / "cut.ggcp"
    cut.write_bytes(ADAM.read_bytes()[:180_000])
    whole = "All tensors of the model are whole. Use --partial to convert it with a fresh optimizer, or to export it."
    assert_refused(run_cli("convert", cut, out), 4, "the file is 25,196 bytes too short", whole)


def test_a_cut_gguf_checkpoint_is_converted_as_with_a_fresh_optimizer(tmp_path: Path, out: Path) -> None:
    genuine, cut, fresh = FIXTURES / "truth" / "jan24-D.gguf", tmp_path / "cut.gguf", tmp_path / "fresh.gguf"
    cut.write_bytes(genuine.read_bytes()[:-100])
    assert "model whole; damaged at tensor_data[40].data" in run_cli("info", cut).stdout
    assert "Use --partial to convert it" in run_cli("convert", cut, out).stderr
    run_cli("convert", cut, out, "--partial", check=True)
    run_cli("convert", genuine, fresh, "--fresh-optimizer", check=True)
    assert out.read_bytes() == fresh.read_bytes()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("vocab.gguf", 2, "is a GGUF file without a training state"),
        ("vocab.ggjt", 2, "ggjt"),
        ("README.md", 2, "README.md"),
    ],
)
def test_a_file_of_another_kind(name: str, code: int, message: str, out: Path) -> None:
    assert_refused(run_cli("convert", FIXTURES / name, out), code, message)


def test_files_that_cannot_be_read(tmp_path: Path, out: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, message in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "is a directory"),
        (tmp_path / "fifo", "not a regular file"),
        (ADAM / "below", "Not a directory"),
    ):
        assert_refused(run_cli("convert", path, out), 2, f"{path}", message)
    assert not out.exists()


def test_an_existing_output(out: Path) -> None:
    out.write_bytes(b"old")
    assert_refused(run_cli("convert", ADAM, out), 2, f"{out} already exists\nUse --force to overwrite it.\n")
    assert out.read_bytes() == b"old"
    run_cli("convert", ADAM, out, "-f", check=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_the_output_is_not_the_input(tmp_path: Path) -> None:
    path = built(tmp_path / "in.ggcp")
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for output in (path, tmp_path / "link"):
        assert_refused(run_cli("convert", path, output, "--force"), 2, "output and input are the same file")
    assert path.read_bytes() == before


def test_no_file_is_called_minus(tmp_path: Path) -> None:
    for args in ((ADAM, "-"), (ADAM, "-", "--force"), (ADAM, "-", "--dry-run")):
        assert_refused(run_cli("convert", *args, cwd=tmp_path), 2, "cannot write to standard output")
    assert os.listdir(tmp_path) == []
    run_cli("convert", ADAM, tmp_path / "-", check=True)
    assert os.listdir(tmp_path) == ["-"]


def test_a_missing_output_folder(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    assert_refused(run_cli("convert", ADAM, folder / "out"), 2, f"the folder {folder} does not exist")


@pytest.mark.parametrize("args", [(ADAM, "out", "more"), (ADAM, SUMMED, FF48, "out")])
def test_more_than_an_input_and_an_output(args: tuple[Path | str, ...], tmp_path: Path) -> None:
    result = run_cli("convert", *args, cwd=tmp_path)
    assert_refused(result, 2, f"expected INPUT and OUTPUT, found {len(args)} name", "--into FOLDER")
    assert os.listdir(tmp_path) == []


def test_without_a_name_the_output_has_that_of_the_input(tmp_path: Path) -> None:
    for _ in range(2):  # the second time it exists
        result = run_cli("convert", ADAM, cwd=tmp_path)
        run_cli("export", ADAM, "--vocab", FIXTURES / "vocab.gguf", cwd=tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["v1-adam.model.gguf", "v1-adam.resume.gguf"]
    assert_refused(result, 2, "v1-adam.resume.gguf already exists")


@pytest.mark.parametrize(
    "args", [("convert",), ("convert", str(ADAM), "out", "--no-such"), ("convert", str(ADAM), "out", "--rms-eps", "x")]
)
def test_a_wrong_command_line(args: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(*args, cwd=tmp_path)
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (2, "")
    assert "`ggcp-schema convert --help`" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_negative_count_is_refused_with_a_command_that_helps(tmp_path: Path, out: Path) -> None:
    path = built(tmp_path / "in.ggcp", state={"iter": -1})
    result = run_cli("convert", path, out)
    assert_refused(result, 4, f"{path}: optimizer.iter is -1, but optimizer.iteration_count (UINT32) holds 0 to")
    words = shlex.split(result.stderr.partition("another value: ")[2].replace("OUTPUT", str(tmp_path / "edited.ggcp")))
    run_cli(*words[1:], check=True)
    run_cli("convert", tmp_path / "edited.ggcp", out, check=True)
    assert gguf_files.value(out, "optimizer.iteration_count") == 0


# Pipes and terminals ---------------------------------------------------------------------------------------


def test_no_room_on_the_standard_output(out: Path) -> None:
    """What was written stays; that nothing could be said is an error."""
    with open("/dev/full", "w") as full:
        result = run_process("convert", ADAM, out, "--json", stdout=full, stderr=subprocess.PIPE)
    assert_no_traceback(result)
    assert result.returncode == 2
    assert "No space left on device" in result.stderr
    assert out.exists()


def test_a_reader_that_has_seen_enough(out: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = run_process("convert", ADAM, out, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
    assert out.exists()


def test_the_installed_command_writes_the_same(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("ggcp-schema")
    subprocess.run([command, "convert", ADAM, tmp_path / "a", "--quiet"], check=True)
    run_cli("convert", ADAM, tmp_path / "b", check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is long work: its tensors have more than 64 MiB."""
    return built(
        tmp_path_factory.mktemp("large") / "large.ggcp",
        n_vocab=11_000,
        n_embd=256,
        n_mult=256,
        n_head=4,
        data=lambda count: np.ones(count, "<f4"),
    )


def test_a_progress_bar_for_long_work_on_a_terminal(large: Path, out: Path) -> None:
    code, output = run_pty("convert", large, out, "--verify", "--no-sync", env={"NO_COLOR": "1"})
    assert code == 0
    assert "Converting" in output
    assert not re.search(r"\x1b\[(3[0-7]|38|9[0-7])[;m]", output)
    assert "every byte compared" in output.rpartition("Converting")[2].replace("\n", "")


def test_no_progress_bar_in_a_pipe(large: Path, out: Path) -> None:
    result = run_cli("convert", large, out, "--no-sync", env={"FORCE_COLOR": "1"}, check=True)
    assert result.stderr == ""
    assert not CONTROL.search(result.stdout)


def test_no_progress_bar_for_short_work_or_when_quiet(large: Path, out: Path) -> None:
    code, output = run_pty("convert", ADAM, out)
    assert code == 0
    assert not CONTROL.search(output)
    assert run_pty("convert", large, out, "--force", "--quiet", "--no-sync") == (0, "")


def test_an_output_in_a_folder_has_the_name_of_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.ggcp"))
    path.write_bytes(ADAM.read_bytes())
    run_cli("convert", path, "--into", tmp_path / "folder", check=True)
    assert os.listdir(os.fsencode(tmp_path / "folder")) == [b"\xff\xfe.resume.gguf"]


def test_an_ascii_terminal(tmp_path: Path, out: Path) -> None:
    path = built(tmp_path / "größe.ggcp")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    result = run_process("convert", path, out, env=env, check=True)
    assert r"gr\xc3\xb6\xc3\x9fe.ggcp: 1 layer" in result.stdout
    assert result.stdout.isascii()


# Help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", thinned([40, 80, 200], [40]))
def test_help_fits_the_terminal(columns: int) -> None:
    code, output = run_pty_process("convert", "--help", columns=columns, env={"NO_COLOR": "1"})
    assert code == 0
    assert max(map(len, output.splitlines())) <= columns
    assert not CONTROL.search(output)


@pytest.mark.parametrize("command", ["convert", "export", "verify", "edit"])
def test_help_is_plain_in_a_pipe_and_has_an_example(command: str) -> None:
    text = run_cli(command, "--help", check=True).stdout
    assert not CONTROL.search(text)
    assert f"Example: ggcp-schema {command} " in text
    assert run_cli(command, "-h", check=True).stdout == text


def test_no_arguments_show_the_help() -> None:
    result = run_cli()
    assert_no_traceback(result)
    assert "convert" in result.stdout + result.stderr


def test_a_file_with_changed_line_ends_is_told_what_restores_it(tmp_path: Path) -> None:
    """Every command says the same, and none advises to save a part of what can be restored as a whole."""
    source = tmp_path / "crlf.ggcp"
    source.write_bytes((FIXTURES / "alice.ggcp").read_bytes().replace(b"\n", b"\r\n"))
    remedy = r"perl -pe 's/\r\n/\n/'"
    for words in ("info FILE", "validate FILE", "convert FILE --into out", "repair FILE r.ggcp", "export FILE"):
        result = run_cli(*words.replace("FILE", source.name).split(), cwd=tmp_path)
        said = result.stdout + result.stderr
        assert remedy in said, words
        assert "extract" not in said, words


def test_the_usage_has_the_form_for_many_inputs_of_this_command_alone():
    lines = [run_cli(command, "--help", check=True).stdout.splitlines()[:2] for command in ("convert", "export")]
    assert lines[0] == [
        "Usage: ggcp-schema convert [OPTIONS] INPUT [OUTPUT]",
        "   or: ggcp-schema convert [OPTIONS] INPUT... --into FOLDER",
    ]
    assert lines[1] == ["Usage: ggcp-schema export [OPTIONS] INPUT [OUTPUT]", ""]
