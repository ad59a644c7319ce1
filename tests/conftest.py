"""Settings for all tests."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each processor has a worker

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import settings

# No test cuts the power, so nothing needs to be on the disk. A descriptor that is not open remains an error.
os.fsync = os.fstat


def write_bytes(path: Path, data: Any) -> int:
    """Write over a file. What ext4 has cut to nothing first, it writes to the disk, for which the next cut waits."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        written = file.write(data)
        file.truncate()
    return written


Path.write_bytes = write_bytes  # type: ignore[method-assign]

# A busy machine must not fail a test, so there is no deadline. .ci/run loads the thorough profile, twice.
settings.register_profile("quick", parent=settings(), deadline=None, max_examples=25)
settings.register_profile("thorough", parent=settings(), deadline=None, max_examples=200)
settings.load_profile("quick")

# gguf's reader takes thousands of pieces of a numpy.memmap, each of which takes five times as long as one of an array
# that shows the same bytes.
GGUFReader.data = property(lambda self: self.bytes, lambda self, data: setattr(self, "bytes", np.asarray(data)))

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
