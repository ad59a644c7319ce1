"""Every I/O call of a whole run fails once: the output is the old file or the new one, and the message is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import CHANGES, ERRORS, SIGNALS, Case, Server


@pytest.mark.parametrize(
    ("command", "named"),
    [("convert", False), ("convert", True), ("export", False), ("folder", False), ("folder", True)],
)
def test_a_call_that_fails(command: str, named: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, command, named=named)
    naming = {"mkdir", *(["rename"] if named else [])} if case.is_folder else {"replace"}
    assert {"open", "read", "preadv", "write", "fsync", "close", *naming} <= set(case.calls)
    problems = []
    for turn, at in enumerate(case.moments(all_calls=command == "convert" and not named)):
        problems += case.strike(at, ERRORS[turn % len(ERRORS)])
    assert not problems, "\n".join(problems)
    assert case.codes[2] > 20, "the errors did not reach the command"


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named"])
def test_a_call_that_fails_where_there_was_no_output(named: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, existing=False, named=named)
    at = len(case.calls) - case.calls[::-1].index("close") - 5  # what comes before was tested above
    problems = [problem for at in range(at, len(case.calls) + 1) for problem in case.strike(at, "EIO")]
    assert not problems, "\n".join(problems)


def test_reads_and_writes_that_transfer_one_byte(commands: Server, tmp_path: Path) -> None:
    """The system may always transfer less than it was asked for."""
    case = Case(commands, tmp_path)
    moments = [at for at in case.moments() if case.calls[at - 1] in {"read", "preadv", "write"}]
    problems = [problem for at in moments for problem in case.strike(at, "SHORT")]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("error", ERRORS)
def test_what_is_said_of_an_error(error: str, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path)
    text = {"EIO": "Input/output error", "ENOSPC": "No space left on device", "EACCES": "Permission denied"}[error]
    outcome = case.run(at=case.calls.index("write") + 1, fault=error)
    assert outcome.stderr == f"ggcp-schema: {case.output}: {text}\n"
    outcome = case.run(at=case.calls.index("preadv") + 1, fault=error)
    assert outcome.stderr.startswith(f"ggcp-schema: {case.source}: {text}")


def test_an_error_after_the_output_got_its_name(commands: Server, tmp_path: Path) -> None:
    """The message must not make the user believe that nothing happened."""
    case = Case(commands, tmp_path)
    at = len(case.calls) - case.calls[::-1].index("fsync")
    outcome = case.run(at=at, fault="EIO")
    assert (outcome.code, case.output_of(outcome)) == (2, "new")
    assert f"{case.output} was written, but" in outcome.stderr


def test_data_that_the_system_copies(commands: Server, tmp_path: Path) -> None:
    """What it cannot copy is read and written."""
    case = Case(commands, tmp_path, "large")
    moments = [at for at, call in enumerate(case.calls, 1) if call == "copy_file_range"]
    assert len(moments) > 1
    faults = (*ERRORS, "SHORT", *SIGNALS, "SIGKILL", *CHANGES)
    assert not [problem for at in moments for fault in faults for problem in case.strike(at, fault)]
    for fault in (*ERRORS, "SHORT"):
        assert case.after_success(case.run(at=moments[0], fault=fault)) == []
    limit = case.output.stat().st_size - 1 if case.run().code == 0 else 0
    outcome = case.run(limit=limit)
    assert case.after_error(outcome) == []
    assert outcome.stderr == f"ggcp-schema: {case.output}: File too large\n"
