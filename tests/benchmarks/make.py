"""Makes a large checkpoint: `python -m tests.benchmarks.make PATH MEGABYTES [LAYOUT] [--sparse]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tests.builder import build_checkpoint

N_EMBD, N_MULT, N_FF = 512, 256, 1536
LAYER = 4 * N_EMBD**2 + 3 * N_EMBD * N_FF + 2 * N_EMBD  # parameters
COPIES = {"v0": 8, "v1": 3}  # of the parameters in the file: the model's, and the state's of Adam
BLOCK = 1 << 20


def make(path: Path, size: int, layout: str, *, sparse: bool) -> None:
    """Writes an Adam checkpoint of about that many bytes; a sparse one holds zeros that take no room on disk."""
    parameters = size // 4 // COPIES[layout]
    n_layer = max(1, parameters // 2 // LAYER)
    tile = np.zeros(BLOCK, "<f4") if sparse else np.random.default_rng(1).standard_normal(BLOCK, np.float32)
    content = memoryview(
        build_checkpoint(
            layout=layout,
            n_vocab=(parameters - n_layer * LAYER) // (2 * N_EMBD),
            n_embd=N_EMBD,
            n_mult=N_MULT,
            n_head=8,
            n_rot=64,
            n_layer=n_layer,
            data=lambda count: np.resize(tile, count),
        )
    )
    with path.open("wb") as file:
        for start in range(0, len(content), BLOCK):
            block = content[start : start + BLOCK]
            if sparse and not any(block):
                file.seek(len(block), 1)
            else:
                file.write(block)
        file.truncate(len(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("megabytes", type=int)
    parser.add_argument("layout", choices=COPIES, default="v1", nargs="?")
    parser.add_argument("--sparse", action="store_true")
    options = parser.parse_args()
    make(options.path, options.megabytes * 1_000_000, options.layout, sparse=options.sparse)
