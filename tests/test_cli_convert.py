"""`convert` as a process: exit codes, what is said and where, terminals and pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema import open_checkpoint
from ggcp_schema.gguf.reader import open_gguf
from tests.builder import build_checkpoint
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, expected_resume, run_cli, run_pty

ADAM = FIXTURES / "v1-adam.ggcp"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def assert_refused(result: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """One or two lines on stderr, nothing on stdout."""
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.startswith("ggcp-schema: ")
    assert len(result.stderr.splitlines()) <= 2
    assert not CONTROL.search(result.stderr)


# It works --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_the_summary_of_a_genuine_file(path: Path, tmp_path: Path) -> None:
    result = run_cli("convert", path, "out.gguf", "--verify", cwd=tmp_path, check=True)
    assert result.stderr == ""
    first, optimizer, *notes, last = result.stdout.splitlines()
    layout = "v0" if "v0" in path.name else "v1-raw-params" if "raw" in path.name else "v1"
    assert first.startswith(f"{path}: ggcp checkpoint")
    assert layout in first.split()[-5:] or f" {layout}," in first
    assert f"{path.stat().st_size:,} bytes" in first
    kind = "lbfgs" if "lbfgs" in path.name else "adam"
    known = "inferred from the size of its state" if layout == "v1" else "stored in the file"
    assert optimizer.startswith(f"optimizer: {kind} ({known}")
    assert (len(notes) == 1) == ("ff48" in path.name)
    size = (tmp_path / "out.gguf").stat().st_size
    tensors = len(expected_resume(path)["tensors"])
    assert last.startswith(
        f"wrote out.gguf: {len(expected_resume(path)['kv']) + 2} keys, {tensors} tensors, {size:,} bytes"
    )
    assert last.endswith("every byte compared")
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_a_difference_from_the_formula_is_reported(tmp_path: Path) -> None:
    result = run_cli("convert", FIXTURES / "twin-ff48.v0.ggcp", tmp_path / "out.gguf", check=True)
    assert "note: hparams.n_mult: n_ff is 48 by the shape of w1" in result.stdout


def test_an_inference_that_size_contradicts_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint(optimizer="lbfgs", past=100_000, lbfgs_m=1))
    result = run_cli("convert", path, tmp_path / "out.gguf", check=True)
    assert "lbfgs (inferred from the shape of its third tensor; by its size it would be adam)" in result.stdout


def test_quiet_is_silent(tmp_path: Path) -> None:
    result = run_cli("convert", ADAM, tmp_path / "out.gguf", "--quiet", check=True)
    assert (result.stdout, result.stderr) == ("", "")
    assert (tmp_path / "out.gguf").exists()


def test_quiet_still_says_what_is_wrong(tmp_path: Path) -> None:
    assert_refused(run_cli("convert", TRUNCATED, tmp_path / "out.gguf", "-q"), 4, "layers[0].w3.padding")


def test_the_installed_command(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("ggcp-schema")
    result = subprocess.run(
        [command, "convert", ADAM, tmp_path / "out.gguf"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    run_cli("convert", ADAM, tmp_path / "module.gguf", check=True)
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "module.gguf").read_bytes()


def test_rms_eps(tmp_path: Path) -> None:
    run_cli("convert", ADAM, tmp_path / "out.gguf", "--rms-eps", "5e-6", check=True)
    with open_gguf(tmp_path / "out.gguf") as gguf:
        value = gguf.keys["llama.attention.layer_norm_rms_epsilon"].value
    assert value == pytest.approx(5e-6, rel=1e-6)


# JSON and dry runs -----------------------------------------------------------------------------------------


def described(*args: Any) -> dict[str, Any]:
    result = run_cli("convert", *args, "--json", check=True)
    assert result.stderr == ""
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_a_dry_run_lists_exactly_what_is_then_written(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    dry = described(path, out, "--dry-run")
    assert os.listdir(tmp_path) == []
    wet = described(path, out)
    assert dry | {"written": True, "size": out.stat().st_size} == wet
    assert (dry["written"], dry["size"]) == (False, None)
    with open_gguf(out) as gguf:
        assert [(key["key"], key["type"], key["value"]) for key in wet["keys"]] == [
            (key.key, key.type, key.value) for key in gguf.keys.values()
        ]
        assert [(t["name"], t["shape"], t["type"], t["nbytes"]) for t in wet["tensors"]] == [
            (t.name, list(t.shape), t.type, t.nbytes) for t in gguf.tensors.values()
        ]


def test_what_json_says_of_the_checkpoint(tmp_path: Path) -> None:
    content = described(FIXTURES / "twin-ff48.v1.ggcp", tmp_path / "out.gguf", "--dry-run")
    assert content["input"] == str(FIXTURES / "twin-ff48.v1.ggcp")
    assert content["output"] == str(tmp_path / "out.gguf")
    assert content["layout"] == "v1"
    assert content["optimizer"]["type"] == "adam"
    assert content["optimizer"]["inferred"] is True
    assert content["optimizer"]["confirmed"] is True
    assert [finding["path"] for finding in content["findings"]] == ["hparams.n_mult"]
    with open_checkpoint(FIXTURES / "twin-ff48.v1.ggcp") as ckpt:
        assert {tensor["source"] for tensor in content["tensors"]} == {
            path for path, tensor in ckpt.tensors.items() if not tensor.is_null
        }


def test_json_of_a_loss_that_is_no_number_is_still_json(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint(state={"fx_best": float("nan"), "fx_prev": float("-inf")}))
    keys = {key["key"]: key["value"] for key in described(path, tmp_path / "out", "--dry-run")["keys"]}
    assert keys["optimizer.adam.best_loss"] == "NaN"
    assert keys["optimizer.adam.previous_loss"] == "-Infinity"


def test_a_dry_run_in_words(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    result = run_cli("convert", ADAM, out, "--dry-run", check=True)
    lines = result.stdout.splitlines()
    assert f"would write {out}: 24 keys, 23 tensors" in lines
    assert "  llama.embedding_length UINT32 16" in lines
    assert "  blk.1.ffn_down.weight F32 [48, 16] 3072 bytes" in lines
    assert "wrote" not in result.stdout
    assert os.listdir(tmp_path) == []


def test_a_dry_run_leaves_an_existing_output_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    run_cli("convert", ADAM, out, "--dry-run", check=True)
    assert out.read_bytes() == b"old"


def test_errors_leave_stdout_empty_with_json_too(tmp_path: Path) -> None:
    assert_refused(run_cli("convert", TRUNCATED, tmp_path / "out", "--json"), 4, "13 bytes too short")


# It does not work ------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    result = run_cli("convert", TRUNCATED, tmp_path / "out.gguf")
    assert_refused(
        result,
        4,
        f"{TRUNCATED}: layers[0].w3.padding at offset 52147 (0xcbb3): expected 13 bytes, found 0 before the end: "
        "the file is 13 bytes too short",
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"), [("vocab.gguf", "This is a GGUF file."), ("vocab.ggjt", "This is a ggjt model or vocabulary")]
)
def test_a_file_of_another_kind(name: str, message: str, tmp_path: Path) -> None:
    assert_refused(run_cli("convert", FIXTURES / name, tmp_path / "out"), 4, message)


def test_a_missing_file(tmp_path: Path) -> None:
    result = run_cli("convert", tmp_path / "none", tmp_path / "out")
    assert_refused(result, 2, f"{tmp_path / 'none'}: No such file or directory")


def test_a_directory(tmp_path: Path) -> None:
    assert_refused(run_cli("convert", tmp_path, tmp_path / "out"), 2, f"{tmp_path}: is a directory")


def test_a_pipe_as_input_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert_refused(run_cli("convert", tmp_path / "fifo", tmp_path / "out"), 2, "is not a regular file")


def test_a_folder_as_file(tmp_path: Path) -> None:
    assert_refused(run_cli("convert", ADAM / "below", tmp_path / "out"), 2, "Not a directory")


@pytest.mark.skipif(sys.platform != "linux", reason="the file is Linux's")
def test_a_file_that_opens_and_cannot_be_read(tmp_path: Path) -> None:
    """A process's memory looks like a regular file, and reading its first page is an I/O error."""
    assert_refused(run_cli("convert", "/proc/self/mem", tmp_path / "out"), 2, "/proc/self/mem: Input/output error")


def test_an_unreadable_file(tmp_path: Path) -> None:
    """Root may read anything, so as root the command runs as nobody."""
    path = tmp_path / "secret.ggcp"
    path.write_bytes(ADAM.read_bytes())
    path.chmod(0)
    if os.geteuid():
        assert_refused(run_cli("convert", path, tmp_path / "out"), 2, f"{path}: Permission denied")
        return
    program = (
        "import os, sys; from ggcp_schema import open_checkpoint, FileError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: open_checkpoint('secret.ggcp')\n"
        "except FileError as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("secret.ggcp: Permission denied\n", "")


def test_an_existing_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    assert_refused(run_cli("convert", ADAM, out), 2, f"{out}: exists already\nUse --force to replace it.")
    assert out.read_bytes() == b"old"
    run_cli("convert", ADAM, out, "-f", check=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_missing_output_folder(tmp_path: Path) -> None:
    result = run_cli("convert", ADAM, tmp_path / "none" / "out")
    assert_refused(result, 2, f"there is no folder {tmp_path / 'none'}")


@pytest.mark.parametrize(
    "args",
    [
        ("convert",),
        ("convert", str(ADAM)),
        ("convert", str(ADAM), "out", "more"),
        ("convert", str(ADAM), "out", "--no-such-option"),
        ("convert", str(ADAM), "out", "--rms-eps", "small"),
        ("konvert", str(ADAM), "out"),
    ],
)
def test_a_wrong_command_line(args: tuple[str, ...], tmp_path: Path) -> None:
    result = run_cli(*args, cwd=tmp_path)
    assert_no_traceback(result)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: ggcp-schema" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_count_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "in.ggcp"
    path.write_bytes(build_checkpoint(state={"iter": -1}))
    result = run_cli("convert", path, tmp_path / "out")
    assert_refused(result, 4, "optimizer.iteration_count: -1 does not fit UINT32")
    assert os.listdir(tmp_path) == ["in.ggcp"]


def test_no_room_on_the_standard_output(tmp_path: Path) -> None:
    """What was written stays; that nothing could be said is an error."""
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "ggcp_schema", "convert", ADAM, tmp_path / "out", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
    assert "No space left on device" in result.stderr


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ggcp_schema", "convert", ADAM, tmp_path / "out", "--dry-run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


# Terminals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("args", [("--help",), ("convert", "--help")])
def test_help_fits_the_terminal(args: tuple[str, ...], columns: int) -> None:
    code, output = run_pty(*args, columns=columns)
    assert code == 0
    assert "convert" in output
    assert not CONTROL.search(output)
    if columns >= 40:
        assert max(map(len, output.splitlines())) <= columns
    for option in ("--force", "--verify", "--dry-run", "--json", "--quiet", "--rms-eps"):
        assert args == ("--help",) or option in output


def test_help_says_the_same_in_a_pipe_and_without_colour() -> None:
    plain = run_cli("convert", "--help", check=True).stdout
    assert not CONTROL.search(plain)
    assert run_cli("convert", "--help", env={"NO_COLOR": "1"}, check=True).stdout == plain
    assert run_cli("convert", "-h", check=True).stdout == plain


def test_no_arguments_show_the_help() -> None:
    result = run_cli()
    assert "convert" in result.stdout + result.stderr
    assert_no_traceback(result)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is long work: its tensors have more than 64 MiB."""
    path = tmp_path_factory.mktemp("large") / "large.ggcp"
    path.write_bytes(build_checkpoint(n_vocab=10_000, n_embd=256, n_mult=256, n_head=4, n_layer=1))
    return path


def test_a_progress_bar_for_long_work_on_a_terminal(large: Path, tmp_path: Path) -> None:
    code, output = run_pty("convert", large, tmp_path / "out", "--verify")
    assert code == 0
    assert "Converting" in output
    assert "\x1b[" in output
    last = output.splitlines()[-1]
    assert "wrote" in last
    assert "every byte compared" in output.replace("\n", "")


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_progress_bar_for_short_work(env: dict[str, str], tmp_path: Path) -> None:
    code, output = run_pty("convert", ADAM, tmp_path / "out", env=env)
    assert code == 0
    assert not CONTROL.search(output)
    assert "Converting" not in output


def test_no_progress_bar_when_quiet(large: Path, tmp_path: Path) -> None:
    assert run_pty("convert", large, tmp_path / "out", "--quiet") == (0, "")


def test_no_progress_bar_in_a_pipe(large: Path, tmp_path: Path) -> None:
    result = run_cli("convert", large, tmp_path / "out", env={"FORCE_COLOR": "1"}, check=True)
    assert result.stderr == ""
    assert not CONTROL.search(result.stdout)


def test_no_colour_in_the_bar_where_none_is_wanted(large: Path, tmp_path: Path) -> None:
    code, output = run_pty("convert", large, tmp_path / "out", env={"NO_COLOR": "1"})
    assert code == 0
    assert not re.search(r"\x1b\[(3[0-7]|38|9[0-7])[;m]", output)


EVIL = b"\x1b]0;owned\x07\x1b[31m\r[bold red]x[/bold red]\x9b31m\xff\xfe"


@pytest.mark.parametrize("args", [(), ("--dry-run",), ("--dry-run", "--json"), ("--force", "--verify")])
def test_names_in_the_file_do_not_reach_the_terminal_raw(args: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "evil.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: EVIL, optimizer_name=lambda: EVIL, n_embd=8, n_ff=7))
    code, output = run_pty("convert", path, tmp_path / "out", *args)
    assert code == 0
    assert not CONTROL.search(output)


def test_paths_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[31mred[bold]\n.ggcp"
    path.write_bytes(ADAM.read_bytes())
    for name in (path, tmp_path / "\x1b[31mmissing"):
        code, output = run_pty("convert", name, tmp_path / "\x1b[32mout", "--force")
        assert code == (0 if name == path else 2)
        assert not CONTROL.search(output)
        assert r"\x1b[31m" in output
    assert (tmp_path / "\x1b[32mout").exists()


def test_a_path_that_is_no_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.ggcp"
    Path(os.fsdecode(path)).write_bytes(ADAM.read_bytes())
    for args in ((), ("--json", "--force")):
        result = run_cli("convert", os.fsdecode(path), tmp_path / "out", *args, check=True)
        assert result.stderr == ""


def test_an_ascii_terminal(tmp_path: Path) -> None:
    path = tmp_path / "größe.ggcp"
    path.write_bytes(ADAM.read_bytes())
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    for args in ((), ("--json", "--force")):
        result = run_cli("convert", path, tmp_path / "out", *args, env=env)
        assert_no_traceback(result)
        assert result.returncode == 0
