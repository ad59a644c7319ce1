"""The disk is full, or a file may not become larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import Case, Server, can_mount, server

PAGE = 4096


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_with_a_file_that_is_too_large(named: bool, existing: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, "folder", named=named, existing=existing)
    for limit in (1, PAGE, 3 * PAGE):
        outcome = case.run(limit=limit)
        assert case.after_error(outcome) == []
        assert (outcome.code, case.output_of(outcome)) == (2, "old")


@pytest.mark.parametrize("named", [False, True], ids=["nameless", "named"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_limit_on_the_size_of_files(named: bool, existing: bool, commands: Server, tmp_path: Path) -> None:
    case = Case(commands, tmp_path, named=named, existing=existing)
    case.run()
    size = case.output.stat().st_size
    for limit in (1, PAGE, size // 2, size - 1):
        outcome = case.run(limit=limit)
        assert case.after_error(outcome) == []
        assert (outcome.code, case.output_of(outcome)) == (2, "old")
        assert outcome.stderr == f"ggcp-schema: {case.output}: File too large\n"
    assert case.after_success(case.run(limit=size)) == []


def test_a_full_filesystem(tmp_path: Path) -> None:
    """A tmpfs in a namespace of its own, where the system allows that; otherwise limits on the size of files."""
    mountable = can_mount()
    with server(private=mountable) as private:
        case = Case(private, tmp_path)
        case.run()
        size = case.output.stat().st_size
        whole = -(-size // PAGE)  # pages
        for pages in (2, whole // 2, whole):  # one is needed by the old output
            if mountable:
                private.ask(mount=[str(case.outputs), f"size={pages * PAGE}"])
            outcome = case.run(limit=0 if mountable else (pages - 1) * PAGE)
            assert case.after_error(outcome) == []
            assert (outcome.code, case.output_of(outcome)) == (2, "old"), outcome.stderr
            assert ("No space left on device" if mountable else "File too large") in outcome.stderr
