"""The bytes of a damaged file, searched for what its headers must be."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

from ggcp_schema.files.source import Ahead, Source

CHUNK = 1 << 18  # bytes that are read at once; of more, most of the time is spent on fresh memory
SEARCHED = 1 << 30  # bytes in all, about half a second; a file of more, most of it holes, is not searched to its end
SEARCHED_FIRST = 1 << 29  # bytes of a file that may be of another kind
NAMED = b".weight"  # in each name of a model's tensor
COMPARED = 1 << 11  # bytes that are searched in the time that it takes to look at one place


class Searched:
    """The bytes of a file, as they are searched. What lies after the end is empty."""

    def __init__(self, source: Source, searched: int = SEARCHED) -> None:
        self.source, self.size, self._left = source, source.size, searched
        self._ahead = Ahead()
        self._searches: dict[bytes, tuple[int, array[int], Iterator[int]]] = {}  # its start, places, and later places

    @cached_property
    def zeros(self) -> int:
        """Where the zeros at the end of the file begin; its size if there are few."""
        return self.source.zeros_at_end()

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` that the file has."""
        start, stop = max(0, start), min(stop, self.size)
        return self._ahead.read(self.source, start, stop - start) if start < stop else b""

    def integer(self, offset: int) -> int:
        """Return a number of 4 bytes; -1 outside of the file."""
        data = self.read(offset, offset + 4) if offset >= 0 else b""
        return int.from_bytes(data, "little", signed=True) if len(data) == 4 else -1

    def find(self, pattern: bytes, start: int = 0) -> int:
        """Return where a pattern is first, from `start`; -1 if it is not there, or too much was searched already.

        What is found of a pattern is not searched again, nor are names, which are searched together.
        """
        sign = NAMED if NAMED in pattern else pattern
        within = pattern.index(sign)
        places = (at - within for at in self._places_of(sign, start + within))
        return next((at for at in places if self.read(at, at + len(pattern)) == pattern), -1)

    def all(self, pattern: bytes, start: int = 0) -> Iterator[int]:
        """Yield each place of a pattern, from `start`."""
        at = self.find(pattern, start)
        while at >= 0:
            yield at
            at = self.find(pattern, at + 1)

    def _places_of(self, sign: bytes, start: int) -> Iterator[int]:
        """Yield each place of `sign`, from `start`."""
        if sign not in self._searches or self._searches[sign][0] > start:
            self._searches[sign] = start, array("Q"), self._search(sign, start)
        _, found, later = self._searches[sign]
        index = bisect_left(found, start)
        while self._left > 0:
            if index == len(found):
                found.extend(islice(later, 1))
                if index == len(found):
                    break
            self._left -= COMPARED
            if found[index] >= start:
                yield found[index]
            index += 1

    def _search(self, sign: bytes, first: int) -> Iterator[int]:
        for start in range(first, self.size, CHUNK):
            if self._left <= 0:
                break
            self._left -= CHUNK
            data = self.read(start, start + CHUNK + len(sign) - 1)
            at = data.find(sign)
            while at >= 0:
                yield start + at
                at = data.find(sign, at + 1)
