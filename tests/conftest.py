"""Settings for all tests."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import settings

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
