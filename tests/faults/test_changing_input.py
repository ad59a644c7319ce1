"""The input changes while it is read: the output is of one version of the input, or there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import CHANGES, Case, Server


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("command", ["convert", "export"])
def test_an_input_that_changes(command: str, how: str, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, command)
    moments = case.moments()
    problems = [
        problem for at in (1, *moments[1 :: 2 if command == "convert" else 5]) for problem in case.strike(at, how)
    ]
    assert not problems, "\n".join(problems)
    assert case.codes[2] >= 5, "the changes came too late or too early to test anything"
    # A file that grew is read to its end, with a finding.
    assert bool(case.changed) == (how in {"overwrite", "grow"}), "only a file of the right size can be converted"
