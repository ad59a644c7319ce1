"""A run is killed or interrupted: the output is the old file or the new one, bit for bit."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.builder import build_checkpoint
from tests.faults.harness import SIGNALS, Case, Server

KILLS = int(os.environ.get("GGCP_KILLS", "30"))  # at random moments


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_killed_before_a_call(named: bool, existing: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, named=named, existing=existing)
    problems, litter = [], 0
    for at in case.moments()[not existing :: 2 - existing]:
        problems += case.strike(at, "SIGKILL")
        litter += bool(set(os.listdir(case.outputs)) - {case.name})
    assert not problems, "\n".join(problems)
    assert set(case.codes) == {-9}
    assert bool(litter) == (named or existing), "temporary files are only where they are needed"
    assert case.after_success(case.run()) == [], "the next run removes the temporary file"


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_folder_killed_before_a_call(existing: bool, commands: Server, tmp_path: Path) -> None:
    """Where two names can be exchanged; for other systems see `test_atomic_folder`."""
    case = Case(commands, tmp_path, "folder", existing=existing)
    problems = [problem for at in case.moments()[:: 2 - existing] for problem in case.strike(at, "SIGKILL")]
    assert not problems, "\n".join(problems)
    assert set(case.codes) == {-9}
    assert case.after_success(case.run()) == [], "the next run removes the temporary folder"


def test_killed_at_random_moments(commands: Server, tmp_path: Path) -> None:
    content = build_checkpoint(n_vocab=2000, n_embd=128, n_mult=256, n_head=4, n_layer=2)
    cases = [Case(commands, tmp_path, named=named, content=content) for named in (False, True)]
    (tmp_path / "folder").mkdir()
    model = build_checkpoint(n_vocab=320, n_embd=256, n_mult=256, n_head=4, n_layer=2, n_rot=64)
    cases.append(Case(commands, tmp_path / "folder", "folder", content=model))
    moments = random.Random(11)
    problems = []
    for turn in range(KILLS):
        problems += cases[turn % len(cases)].kill(moments.random())
    assert not problems, "\n".join(problems)
    assert sum(case.codes[-9] for case in cases) >= KILLS // 4, "the kills came too late to test anything"
    for case in cases:
        assert case.after_success(case.run()) == [], "the next run removes the temporary file"


@pytest.mark.parametrize("command", ["convert", "folder"])
@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_signal_before_a_call(command: str, named: bool, existing: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, command, named=named, existing=existing)
    problems = []
    for turn, at in enumerate(case.moments()[existing::2]):
        problems += case.strike(at, SIGNALS[turn % len(SIGNALS)])
    problems += case.strike(len(case.calls), "SIGINT")
    assert not problems, "\n".join(problems)
    assert {129, 130, 143} <= set(case.codes)


def test_a_signal_after_the_output_got_its_name(commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path)
    outcome = case.run(at=len(case.calls), fault="SIGINT")
    assert (outcome.code, case.output_of(outcome)) == (130, "new")
    assert outcome.stderr == f"ggcp-schema: interrupted; {case.output} was written\n"


def test_two_runs_at_once(commands: Server, tmp_path: Path) -> None:
    """The second takes place in the middle of the first, and must not remove its temporary file."""
    for command in ("convert", "folder"):
        (tmp_path / command).mkdir()
        case = Case(commands, tmp_path / command, command, named=command == "convert")
        last = len(case.calls) - case.calls[::-1].index("fsync")  # what follows only prints
        moments = [at for at in case.moments() if at <= last]
        problems = [problem for at in moments[::4] for problem in case.strike(at, "RUN")]
        assert not problems, "\n".join(problems)
