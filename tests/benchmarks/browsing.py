"""The browser, on a sparse checkpoint of 50 GB and on one of 20,000 tensors: the limits are those of `browse`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks import browse
from tests.benchmarks.measure import Bench, Result, at_most

LABELS = {"jump": "the slowest jump", "growth": "growth over 1,000 nodes"}


def browsing(bench: Bench) -> Iterator[Result]:
    """Start the browser, and move about in it."""
    for name, jump, most, numbers in browse.FILES[:2]:
        path = bench.folder / "browse.ggcp"
        browse.write_checkpoint(path, **numbers)
        rounds = [browse.measure(path) for _ in range(min(bench.rounds, 3))]
        path.unlink()
        limits = {"first paint": browse.FIRST_PAINT, "jump": jump, "memory": most, "growth": browse.GROWTH}
        for key, limit in limits.items():
            unit = "s" if key in ("first paint", "jump") else "MB"
            yield at_most(f"browse, {name}: {LABELS.get(key, key)}", limit, min(found[key] for found in rounds), unit)
