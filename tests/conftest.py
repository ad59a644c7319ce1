"""Settings for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import sys

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each processor has a worker

import pytest
from hypothesis import settings

# No test cuts the power, so nothing needs to be on the disk. A descriptor that is not open remains an error.
os.fsync = os.fstat

# Files in memory, where there is room: a quarter of the time goes into a disk. Where this variable is set, it decides.
MEMORY = "/dev/shm"  # noqa: S108
if os.path.isdir(MEMORY) and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)

# A busy machine must not fail a test, so there is no deadline. .ci/run loads the thorough profile, twice.
settings.register_profile("quick", parent=settings(), deadline=None, max_examples=12)
settings.register_profile("thorough", parent=settings(), deadline=None, max_examples=200)
settings.load_profile("quick")

# A process that has collected thousands of tests holds many objects, none of which becomes garbage. To look through
# them as often as Python does by default takes a tenth of the time. (They are not frozen, which would hide them from
# Hypothesis.)
gc.set_threshold(200_000, 50, 1000)


# Also where Python is told to write no bytecode: else each run compiles all tests anew, and each process that a test
# starts compiles the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Let the collections after pytest's own, which are at the end of the process, find nothing to look at."""
    gc.freeze()
