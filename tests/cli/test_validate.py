"""`validate`: what a person and what a script see of the checks."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ggcp_schema import CHECKPOINT
from tests.builder import build_checkpoint, build_gguf
from tests.helpers import FIXTURES, GENUINE, TRUNCATED, assert_no_traceback, run_cli, run_pty


def report_of(*arguments: Any) -> tuple[int, Any]:
    result = run_cli("validate", *arguments, "--json")
    assert_no_traceback(result)
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    return result.returncode, reports[0] if len(reports) == 1 else reports


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A file with a wrong element type, and padding that is not zero."""
    data = bytearray(build_checkpoint())
    whole = CHECKPOINT.parse(bytes(data))
    struct.pack_into("<I", data, whole.norm["_offset"] + 8, 1)
    data[whole.output.data.offset - 1] = 7
    path = tmp_path / "damaged.ggcp"
    path.write_bytes(data)
    return path


def test_what_a_person_sees_of_a_valid_file() -> None:
    result = run_cli("validate", "twin-ff48.v1.ggcp", cwd=FIXTURES)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "valid: twin-ff48.v1.ggcp: no errors, 1 warning; checked 24 of 24 tensors\n"
        "warning: hparams.n_mult at offset 28 (0x1c): "
        "n_ff is 48 according to w1, but 256 according to n_embd and n_mult (256)\n"
    )


def test_what_a_person_sees_of_a_damaged_file() -> None:
    result = run_cli("validate", TRUNCATED.name, cwd=FIXTURES)
    assert (result.returncode, result.stderr) == (4, "")
    assert result.stdout == (
        "damaged: truncated-v0-lbfgs.ggcp: 1 error, no warnings; "
        "checked 11 tensors (the damage hides how many there are)\n"
        "error: layers[0].w3.padding at offset 52147 (0xcbb3): "
        "expected 13 bytes, found 0 before the end of the file: the file is at least 13 bytes too short\n"
    )


def test_what_a_person_sees_of_an_invalid_file(tmp_path: Path) -> None:
    """All of it can be read, and yet llama.cpp refuses it."""
    path = tmp_path / "invalid.gguf"
    path.write_bytes(build_gguf([("general.architecture", 8, "llama")] * 2, []))
    result = run_cli("validate", path.name, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("invalid: invalid.gguf: 1 error, no warnings")
    assert run_cli("info", path).returncode == 0


def test_damage_that_the_parse_goes_on_after_is_damage(damaged: Path) -> None:
    """So `info` says too."""
    assert run_cli("info", damaged).returncode == 4
    result = run_cli("validate", damaged.name, cwd=damaged.parent)
    assert (result.returncode, result.stderr) == (4, "")
    assert result.stdout.splitlines() == [
        "damaged: damaged.ggcp: 1 error, 1 warning; checked 15 of 15 tensors",
        "error: norm.type at offset 184 (0xb8): expected 0 (F32), found 1",
        "warning: output.padding at offset 273 (0x111): 1 of 15 bytes of padding is not zero",
        "rescue: ggcp-schema repair damaged.ggcp damaged.repaired.ggcp",
    ]


def test_a_file_that_lacks_one_byte(tmp_path: Path) -> None:
    (tmp_path / "x.ggcp").write_bytes(build_checkpoint()[:-1])
    lines = run_cli("validate", "x.ggcp", cwd=tmp_path).stdout.splitlines()
    assert lines[1].endswith("expected 4 bytes, found 3 before the end of the file: the file is 1 byte too short")


def test_data_and_quantized_tensors_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    tensors = [("t", (2,), 0, bytes(8)), ("q", (32,), 9, bytes(36))]
    path.write_bytes(build_gguf([("general.architecture", 8, "llama")], tensors))
    assert run_cli("validate", "x.gguf", "--data", cwd=tmp_path).stdout == (
        "valid: x.gguf: no errors, no warnings; checked 2 of 2 tensors, 2 values; 1 tensor not read\n"
    )
    vocabulary = run_cli("validate", "vocab.gguf", cwd=FIXTURES).stdout
    assert vocabulary.startswith("valid: vocab.gguf: no errors, no warnings\n")


def test_strict_makes_a_warning_an_error() -> None:
    code, report = report_of(FIXTURES / "twin-ff48.v1.ggcp", "--strict")
    assert (code, report["verdict"], report["valid"], report["errors"]) == (1, "invalid", False, [])
    assert report_of(FIXTURES / "v1-adam.ggcp", "--strict")[0] == 0
    assert run_cli("validate", FIXTURES / "twin-ff48.v1.ggcp", "--strict").stdout.startswith("invalid: ")


def test_the_json_of_one_file(damaged: Path) -> None:
    code, report = report_of(damaged, "--data")
    assert code == 4
    unsound = {bad["rule"]: bad["path"] for bad in report.pop("unsound")}
    assert unsound == {"m-exceeds-v": "optimizer.state.m", "negative-v": "optimizer.state.v"}
    assert report == {
        "file": str(damaged),
        "format": "ggcp",
        "verdict": "damaged",
        "verdict_text": "something in the file cannot be read",
        "valid": False,
        "records": {"checked": 15, "expected": 15},
        "fields": 127,
        "data": True,
        "errors": [
            {
                "path": "norm.type",
                "offset": 184,
                "expected": "0 (F32)",
                "found": "1",
                "missing": None,
                "file_missing": None,
            }
        ],
        "warnings": [
            {"path": "output.padding", "offset": 273, "message": "1 of 15 bytes of padding is not zero"},
        ],
        "more": {"errors": 0, "warnings": 0},
        "damage": None,
    }


def test_the_json_of_a_cut_file_says_what_the_field_and_the_file_lack(tmp_path: Path) -> None:
    (tmp_path / "x.ggcp").write_bytes(build_checkpoint(layout="v0")[:-30])
    code, report = report_of(tmp_path / "x.ggcp")
    assert (code, report["verdict"], report["records"]["expected"]) == (4, "damaged", 20)
    assert report["damage"]["file_missing"] == 30
    assert 0 < report["damage"]["missing"] <= 30


def test_several_files_have_a_summary_and_the_worst_exit_code(damaged: Path) -> None:
    files = [FIXTURES / "v1-adam.ggcp", damaged, TRUNCATED, FIXTURES / "vocab.gguf"]
    result = run_cli("validate", *files)
    assert result.returncode == 4
    verdicts = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert verdicts == ["valid", "damaged", "error", "warning", "rescue", "damaged", "error", "valid", "4 files"]
    assert result.stdout.endswith("4 files: 2 valid, 2 damaged\n")
    code, reports = report_of(*files)
    assert (code, [report["verdict"] for report in reports]) == (4, ["valid", "damaged", "damaged", "valid"])
    assert run_cli("validate", *files[:2]).returncode == 4
    assert run_cli("validate", *GENUINE).stdout.splitlines()[-1] == f"{len(GENUINE)} files: {len(GENUINE)} valid"


def test_a_file_that_cannot_be_read_does_not_stop_the_others(damaged: Path) -> None:
    files = ["nothing.ggcp", "README.md", "v1-adam.ggcp", damaged]
    result = run_cli("validate", *files, cwd=FIXTURES)
    assert (result.returncode, result.stderr) == (4, "")
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "unreadable: nothing.ggcp: No such file or directory",
        "unknown: README.md: unknown file format: a text that begins with '# Fixtures'",
    ]
    assert lines[-1] == "4 files: 1 unreadable, 1 unknown, 1 valid, 1 damaged"
    assert run_cli("validate", "nothing.ggcp", "v1-adam.ggcp", cwd=FIXTURES).returncode == 2
    code, reports = report_of(FIXTURES / "nothing.ggcp", FIXTURES / "v1-adam.ggcp")
    assert code == 2
    error = reports[0].pop("error")
    assert error.keys() == {"message", "hint"}
    assert error["message"] == f"{FIXTURES / 'nothing.ggcp'}: No such file or directory"
    assert reports[0] == {
        "file": str(FIXTURES / "nothing.ggcp"),
        "format": None,
        "verdict": "unreadable",
        "verdict_text": "the file cannot be read",
        "valid": False,
    }


@pytest.mark.parametrize(("name", "code"), [("README.md", 2), ("nothing.ggcp", 2)])
def test_one_file_that_cannot_be_checked_is_an_error(name: str, code: int) -> None:
    result = run_cli("validate", FIXTURES / name, "--json")
    assert (result.returncode, json.loads(result.stdout)["valid"]) == (code, False)
    assert_no_traceback(result)
    assert result.stderr.startswith("ggcp-schema: ")
    assert run_cli("validate", FIXTURES / name).stdout == ""


def test_a_long_name_is_cut_in_a_message(tmp_path: Path) -> None:
    path = tmp_path / "x.ggcp"
    path.write_bytes(build_checkpoint(name=lambda default: b"\x1b]0;evil\x07[red]\xff" + b"n" * 200))
    _, report = report_of(path)
    assert "\\x1b]0;evil\\x07[red]" in report["warnings"][0]["message"]
    assert len(report["warnings"][0]["message"]) < 250


def test_colours_only_on_a_terminal(damaged: Path) -> None:
    assert "\x1b" not in run_cli("validate", damaged).stdout
    assert "\x1b[31m" in run_pty("validate", damaged)[1]


def test_quiet_leaves_the_exit_code_to_answer() -> None:
    good, bad = FIXTURES / "v1-adam.ggcp", FIXTURES / "truncated-v0-lbfgs.ggcp"
    for files, code in (([good, bad], 4), ([bad, FIXTURES / "README.md"], 4)):
        result = run_cli("validate", "-q", *files)
        assert (result.returncode, result.stdout, result.stderr) == (code, "", "")


def test_of_very_many_findings_the_first_are_shown_and_all_are_counted(tmp_path):
    """1,500 tensors that are not aligned, and 1,200 bools of 2."""

    def string(text):
        return struct.pack("<Q", len(text)) + text.encode()

    keys = b"".join(string(f"k{index}") + struct.pack("<IB", 7, 2) for index in range(1200))
    infos = b"".join(string(f"t{index}") + struct.pack("<IQIQ", 1, 0, 0, 1) for index in range(1500))
    data = b"GGUF" + struct.pack("<IQQ", 3, 1500, 1200) + keys + infos
    path = tmp_path / "many.gguf"
    path.write_bytes(data + bytes(-len(data) % 32 + 1))
    report = json.loads(run_cli("validate", path, "--json").stdout)
    assert (len(report["errors"]), len(report["warnings"])) == (1000, 1000)
    assert report["more"] == {"errors": 500, "warnings": 202}  # no general.architecture, and a byte after the end
    assert report["errors"] == sorted(report["errors"], key=lambda error: error["offset"])
    lines = run_cli("validate", path).stdout.splitlines()
    assert {"and 500 more errors", "and 202 more warnings"} < set(lines)
    assert "1,500 errors, 1,202 warnings" in lines[0]
