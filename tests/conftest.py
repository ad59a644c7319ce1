"""Settings for all tests."""

from __future__ import annotations

import gc
import os
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# A busy machine must not fail a test, so there is no deadline. .ci/run loads the thorough profile.
settings.register_profile("quick", parent=settings(), deadline=None, max_examples=50)
settings.register_profile("thorough", parent=settings(), deadline=None, max_examples=200)
settings.load_profile("quick")

# A process that has collected thousands of tests holds many objects, none of which becomes garbage. To look through
# them as often as Python does by default takes a tenth of the time. (They are not frozen, which would hide them from
# Hypothesis.)
gc.set_threshold(200_000, 50, 1000)

BYTECODE = "GGCP_TESTS_BYTECODE"  # the folder, for the processes that run tests


def pytest_configure(config: pytest.Config) -> None:
    """Make a folder for bytecode, once for all processes that run tests, if Python is told to write none."""
    if os.environ.get("PYTHONDONTWRITEBYTECODE") and BYTECODE not in os.environ:
        folder = TemporaryDirectory(prefix="ggcp-schema-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(folder.cleanup)
        os.environ[BYTECODE] = folder.name


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Let the collections after pytest's own, which are at the end of the process, find nothing to look at."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _processes_keep_their_bytecode() -> None:
    """Let the processes that tests start run as a user's do: without bytecode, each compiles the package anew.

    What they write goes to that folder instead of the source tree.
    """
    if BYTECODE in os.environ:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = os.environ[BYTECODE]
