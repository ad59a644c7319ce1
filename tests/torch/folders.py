"""The folders of all fixtures, and what the programs in a model card define."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.huggingface.folders import programs


def card_namespace(folder: Path) -> dict[str, Any]:
    """Return what the second program of the card defines before it trains: `load_moments`, if there is one."""
    program = programs((folder / "README.md").read_text("utf-8"))[1]
    namespace: dict[str, Any] = {}
    exec(program[: program.index("\ntexts = ")], namespace)  # noqa: S102 - it is what a reader of the card runs
    return namespace
