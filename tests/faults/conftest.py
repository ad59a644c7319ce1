"""The process that runs the commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import Server, server


@pytest.fixture(scope="module")
def commands() -> Iterator[Server]:
    with server() as opened:
        yield opened
