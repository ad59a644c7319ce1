"""Fuzzy search over field paths and tensor names."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.browse.document import Document, Report

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field

SHOWN = 100  # hits kept
LIMIT = 300_000  # fields looked at, besides tensors
OFTEN = 500  # candidates between two reports


class Hit(NamedTuple):
    """A field that matches: the better, the higher the score. `text` is what matched, `at` its matching places."""

    score: float
    path: str
    text: str
    at: tuple[int, ...]


@dataclass(frozen=True)
class Hits:
    """The best hits so far, how many fields were looked at, and whether some were left out."""

    hits: tuple[Hit, ...]
    seen: int
    cut: bool = False


class Query:
    """Words that all have to match: their letters in order, in any case, with anything between them."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()
        self.patterns = [re.compile(".*?".join(map(re.escape, word)), re.IGNORECASE | re.DOTALL) for word in self.words]

    def match(self, text: str) -> tuple[float, tuple[int, ...]] | None:
        """Return the score and the matching places; None if a word does not match.

        Whole words and letters at the start of a step count most, then letters in a row; long texts count less.
        """
        if not all(pattern.search(text) for pattern in self.patterns):
            return None
        lower, score, places = text.lower(), 0.0, []
        for word in self.words:
            start = lower.rfind(word)
            found = list(range(start, start + len(word))) if start >= 0 else _last_places(word, lower)
            for index, place in enumerate(found):
                begins = place == 0 or not lower[place - 1].isalnum()
                follows = index > 0 and found[index - 1] == place - 1
                score += 1 + 2 * begins + 2 * follows
            ends = found[-1] == len(lower) - 1
            score += 6 * (start >= 0) + 4 * ends
            places += found
        return score - 0.05 * len(text), tuple(sorted(set(places)))


def _last_places(word: str, text: str) -> list[int]:
    """Return the places of the letters, each as near to the end as possible: names end in what tells them apart."""
    places, stop = [], len(text)
    for letter in reversed(word):
        stop = text.rfind(letter, 0, stop)
        places.append(stop)
    return places[::-1]


def candidates(document: Document) -> Iterator[tuple[str, str]]:
    """Give what can be found as (path, text): all tensors under their paths and names, then all other fields.

    The fields that every tensor record has come last.
    """
    file = document.file
    for path, tensor in file.tensors.items():
        yield path, path
        if tensor.name and tensor.name != path:
            yield path, tensor.name
    records: list[Field] = []
    for field in _walk(file.root, document, records):
        yield field.path, field.path
    for record in records:
        for field in _everything(record):
            yield field.path, field.path


def _walk(field: Field, document: Document, records: list[Field]) -> Iterator[Field]:
    for child in field.children():
        if child.path in document.file.tensors:
            if len(records) < LIMIT // 10:
                records.append(child)
            continue
        yield child
        if not child.is_leaf:
            yield from _walk(child, document, records)


def _everything(field: Field) -> Iterator[Field]:
    for child in field.children():
        yield child
        if not child.is_leaf:
            yield from _everything(child)


def search(document: Document, text: str, report: Report) -> Hits:
    """Return the best hits. `report` gets the hits found so far, so that they can be shown at once."""
    query, seen, order = Query(text), 0, 0
    best: list[tuple[float, int, Hit]] = []
    tensors = 2 * len(document.file.tensors)
    if not query.words:
        return Hits((), 0)
    taken: set[str] = set()
    for path, candidate in candidates(document):
        seen += 1
        if seen > tensors + LIMIT:
            return Hits(_sorted(best), seen, cut=True)
        found = query.match(candidate)
        if found is not None and path not in taken:
            order -= 1  # of equal hits, the first in the file wins
            item = (found[0], order, Hit(found[0], path, candidate, found[1]))
            if len(best) < SHOWN:
                heapq.heappush(best, item)
                taken.add(path)
            elif item > best[0]:
                taken.discard(heapq.heapreplace(best, item)[2].path)
                taken.add(path)
        if seen % OFTEN == 0:
            report(Hits(_sorted(best), seen))
    return Hits(_sorted(best), seen)


def _sorted(best: list[tuple[float, int, Hit]]) -> tuple[Hit, ...]:
    return tuple(item[2] for item in sorted(best, reverse=True))
