"""Fixtures of the tests of what the fields mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mapping.flat_files import close_all


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()
