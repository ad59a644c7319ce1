"""The browser, on a sparse checkpoint of 50 GB and on one of 20,000 tensors: the limits are those of `browse`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import browse
from tests.benchmarks.measure import Bench, Result, at_most

FILES = {
    "50 GB": {"n_vocab": 8000, "n_embd": 8192, "n_layer": 5, "n_ff": 22016},
    "20,000 tensors": {"n_vocab": 3, "n_embd": 2, "n_layer": 2222, "n_ff": 2},
}
LIMITS = {
    "first paint": (browse.FIRST_PAINT, "s"),
    "jump": (browse.JUMP, "s"),
    "memory": (browse.MEMORY, "MB"),
    "growth": (browse.GROWTH, "MB"),
}
LABELS = {"jump": "the slowest jump", "growth": "growth over 1,000 nodes"}


def browsing(bench: Bench) -> Iterator[Result]:
    """Start the browser, and move about in it."""
    for name, numbers in FILES.items():
        path = bench.folder / "browse.ggcp"
        browse.write_checkpoint(path, **numbers)
        rounds = [browse.measure(path) for _ in range(min(bench.rounds, 3))]
        path.unlink()
        for key, (limit, unit) in LIMITS.items():
            yield at_most(f"browse, {name}: {LABELS.get(key, key)}", limit, min(found[key] for found in rounds), unit)
