"""The verdict of llama.cpp on GGUF files: `gguf_init_from_file`, which xllamacpp's library exports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPT = """
import ctypes, sys, xllamacpp
from pathlib import Path
library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
class Params(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]
read = library.gguf_init_from_file
read.argtypes, read.restype = [ctypes.c_char_p, Params], ctypes.c_void_p
for name in sys.argv[1:]:
    print(int(bool(read(name.encode(), Params(True, None)))), flush=True)
"""


def accepted(paths: Sequence[Path]) -> list[bool]:
    """Return whether llama.cpp reads each file. It aborts on some, so it runs in a process of its own."""
    verdicts: list[bool] = []
    while len(verdicts) < len(paths):
        left = [str(path) for path in paths[len(verdicts) :]]
        run = subprocess.run([sys.executable, "-c", SCRIPT, *left], capture_output=True, text=True, check=False)
        verdicts += [line == "1" for line in run.stdout.split()]
        if run.returncode:
            verdicts.append(False)
    return verdicts
