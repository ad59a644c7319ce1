"""The statistics of a tensor with its full histogram, in one pass over the data.

This module imports numpy, as `ggcp_schema.inspect.stats` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ggcp_schema.files.tensor import Tensor
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.stats import Stats, Sums, finish, sums

BINS = 960  # divisible by most widths, so that few columns show a part of a bin
DROPPED = 13  # bits of a float32 that do not matter here: neighbouring counts differ by less than a thousandth
PATTERNS = 1 << (32 - DROPPED)


@dataclass
class Distribution:
    """What is known so far: the share of the elements read; at the end the statistics and the counts of equal bins.

    The bins reach from the least to the greatest value; there are none if all values are equal. A value counts in the
    right bin or beside it, because it is known to a thousandth while its tensor is read.
    """

    tensor: Tensor
    done: float = 0.0
    stats: Stats | None = None
    counts: tuple[float, ...] = field(default=(), repr=False)


def distribution(tensor: Tensor, report: Report) -> Distribution:
    """Read a tensor once, for its statistics and its histogram.

    `report` gets what is known after each piece. Raises `FileError` if the file becomes too short, `UsageError` if the
    elements cannot be read.
    """
    found, total, seen = Distribution(tensor), Sums(), 0
    patterns = np.zeros(PATTERNS, np.int64)  # how often each sign, exponent and ten bits of the mantissa occur
    for piece in tensor.values():
        with np.errstate(over="ignore", invalid="ignore"):
            total.add(sums(piece))
        bits = np.ascontiguousarray(piece, np.float32).view(np.uint32) >> DROPPED
        patterns += np.bincount(bits, minlength=PATTERNS)
        seen += len(piece)
        found.done = seen / tensor.n_elements
        report(found)
    found.stats = finish(total)
    if total.min < total.max:
        found.counts = _in_bins(patterns, total.min, total.max)
    found.done = 1.0
    return found


def _in_bins(patterns: npt.NDArray[np.int64], least: float, most: float) -> tuple[float, ...]:
    """Return the counts of the finite values in equal bins; what is known to lie in two is divided evenly."""
    used = np.flatnonzero(patterns)
    with np.errstate(invalid="ignore"):  # the patterns of NaN
        low = (used.astype(np.uint32) << DROPPED).view(np.float32).astype(np.float64)
        high = ((used.astype(np.uint32) << DROPPED) | ((1 << DROPPED) - 1)).view(np.float32).astype(np.float64)
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.minimum(low, high)[finite], np.maximum(low, high)[finite]
    scale = BINS / (most - least)
    first, last = ((np.clip(edge, least, most) - least) * scale for edge in (low, high))
    start, stop = (np.clip(edge.astype(np.int64), 0, BINS - 1) for edge in (first, last))
    width = stop - start + 1
    share = patterns[used][finite] / width
    change = np.bincount(start, share, BINS + 1) - np.bincount(stop + 1, share, BINS + 1)
    return tuple(np.maximum(np.cumsum(change)[:BINS].round(6), 0).tolist())


def rebin(counts: tuple[float, ...], columns: int) -> list[float]:
    """Return the counts for so many equal columns; a bin that lies in two columns is divided between them."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    edges = np.arange(columns + 1) * len(counts) / columns
    found: list[float] = np.diff(np.interp(edges, np.arange(len(below)), below)).tolist()
    return found
