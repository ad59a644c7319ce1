"""Outputs that a person has read and found right, in tests/goldens.

Run the tests with GGCP_UPDATE_GOLDENS=1 to write them anew, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

GOLDENS = Path(__file__).resolve().parent / "goldens"


def assert_golden(name: str, text: str) -> None:
    """Check that the text is that of the golden file `name`."""
    path = GOLDENS / name
    if os.environ.get("GGCP_UPDATE_GOLDENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.exists(), f"there is no {path}: see tests/golden.py"
    assert text == path.read_text("utf-8")
