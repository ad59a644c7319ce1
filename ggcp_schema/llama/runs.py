"""Runs of elements that have something in common, found piece by piece in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

KEPT = 1000


class Run(NamedTuple):
    """The elements from `start` to `stop`, which is the first one after them."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def within(self, other: Run) -> bool:
        """Return True if another run holds all elements of this one."""
        return other.start <= self.start and self.stop <= other.stop


class Runs:
    """The runs of at least `least` elements. `kept` has the first thousand, `count` counts the elements of all."""

    def __init__(self, least: int = 1) -> None:
        self.least, self.count = least, 0
        self._runs: list[Run] = []
        self._open: Run | None = None  # it may go on in the next piece

    def add(self, at: int, mask: npt.NDArray[np.bool_]) -> None:
        """Add the runs of True in the next piece, of which the first is element `at`."""
        if not mask.any():  # which takes a tenth of the time of what follows
            return
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        lengths = edges[:, 1] - edges[:, 0]
        at_an_edge = (edges[:, 0] == 0) | (edges[:, 1] == len(mask))
        if len(self._runs) >= KEPT:
            self.count += int(lengths[lengths >= self.least].sum())
            return
        for start, stop in (edges[(lengths >= self.least) | at_an_edge] + at).tolist():
            if self._open is not None and self._open.stop == start:
                self._open = Run(self._open.start, stop)
            else:
                self._close()
                self._open = Run(start, stop)

    def _close(self) -> None:
        if self._open is not None and self._open.stop - self._open.start >= self.least:
            self.count += self._open.stop - self._open.start
            if len(self._runs) < KEPT:
                self._runs.append(self._open)
        self._open = None

    @property
    def kept(self) -> list[Run]:
        """The first runs."""
        self._close()
        return self._runs

    def covers(self, run: Run) -> bool:
        """Return True if a run that was kept holds all elements of another."""
        return any(run.within(kept) for kept in self.kept)


def joined(runs: list[Run], within: list[Run]) -> Iterator[Run]:
    """Yield the runs in order. Those that lie in the same run of `within` become one."""

    def longer(run: Run) -> Run:
        """Return the longer run that holds a run, or the run itself."""
        place = bisect_right(within, run.start, key=lambda other: other.start) - 1
        return within[place] if place >= 0 and run.within(within[place]) else run

    for _, group in groupby(runs, longer):
        first, *others = group
        yield Run(first.start, others[-1].stop) if others else first
