"""Fuzzy search over field paths, names of tensors, and texts in the file."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ggcp_schema.inspect import Report
from ggcp_schema.inspect.text import readable

if TYPE_CHECKING:
    from ggcp_schema.constructs import Field
    from ggcp_schema.formats.file import File

SHOWN = 100  # hits kept
LIMIT = 300_000  # fields looked at, besides tensors
OFTEN = 500  # candidates between two reports
LONGEST = 200  # characters of a text that are searched


class Hit(NamedTuple):
    """A field that matches: the better, the higher the score. `text` is what matched, `at` its matching places."""

    score: float
    path: str
    text: str
    at: tuple[int, ...]


class Query:
    """Words that all have to match, in any case: their letters in order, with anything between them unless `exact`."""

    def __init__(self, text: str, *, exact: bool = False) -> None:
        self.words, self.exact = text.lower().split(), exact

    def match(self, text: str) -> tuple[float, tuple[int, ...]] | None:
        """Return the score and the matching places; None if a word does not match.

        Whole words and letters at the start of a step count most, then letters in a row; long texts count less.
        """
        lower = text.lower()
        if len(lower) != len(text):  # some letters have a longer small form, which would shift the places
            lower = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
        score, places = 0.0, []
        for word in self.words:
            start = lower.rfind(word)
            found = list(range(start, start + len(word)))
            if start < 0:
                found = [] if self.exact else _last_places(word, lower)
            if not found:
                return None
            for index, place in enumerate(found):
                begins = place == 0 or not lower[place - 1].isalnum()
                follows = index > 0 and found[index - 1] == place - 1
                score += 1 + 2 * begins + 2 * follows
            ends = found[-1] == len(lower) - 1
            score += 6 * (start >= 0) + 4 * ends
            places += found
        return score - 0.05 * len(text), tuple(sorted(set(places)))


def _last_places(word: str, text: str) -> list[int]:
    """Return the places of the letters, each as near to the end as possible: names end in what tells them apart.

    The list is empty if the letters do not occur in this order.
    """
    places, stop = [], len(text)
    for letter in reversed(word):
        stop = text.rfind(letter, 0, stop)
        if stop < 0:
            return []
        places.append(stop)
    return places[::-1]


class Index:
    """What can be found in a file as (path, text). It is collected during the first search and kept for the others.

    First come all tensors with their paths and names, then the values of keys with the keys, then the paths of all
    other fields and the texts in them, and last the fields that every tensor record has. Of a list of numbers or texts
    only the texts are candidates.
    """

    def __init__(self, file: File) -> None:
        self.entries: list[tuple[str, str]] = []
        self._rest = islice(_candidates(file), 2 * len(file.tensors) + LIMIT)
        self._lock = threading.Lock()

    def batches(self) -> Iterator[list[tuple[str, str]]]:
        """Yield the candidates in lists of at most `OFTEN`."""
        at = 0
        while True:
            with self._lock:  # the search before this one may still be collecting
                if at == len(self.entries):
                    self.entries += list(islice(self._rest, OFTEN))
            batch = self.entries[at : at + OFTEN]
            if not batch:
                return
            yield batch
            at += len(batch)


def _candidates(file: File) -> Iterator[tuple[str, str]]:
    for path, tensor in file.tensors.items():
        names = dict.fromkeys((path, tensor.name, *file.names_of(tensor)[:2]))
        yield from ((path, name) for name in names if name)
    for key in file.key_values:
        if (value := file.key_field(key)) is not None:
            yield value.path, key
    records: list[Field] = []
    yield from _walk(file.root, file, records)
    for record in records:
        yield from _walk(record, None, records)


def _walk(field: Field, file: File | None, records: list[Field]) -> Iterator[tuple[str, str]]:
    children = field.children()
    plain = field.type == "array" and len(children) > 0 and children[0].is_leaf
    if plain and not isinstance(children[0].value, str | bytes):
        return
    for child in children:
        if file is not None and child.path in file.tensors:
            if len(records) < LIMIT // 10:
                records.append(child)
            continue
        if not plain:
            yield child.path, child.path
        if not child.is_leaf:
            yield from _walk(child, file, records)
        elif child.type != "padding" and isinstance(child.value, str | bytes):
            text = readable(child.value[:LONGEST])
            if text:
                yield child.path, text


def search(index: Index, text: str, report: Report, *, exact: bool = False) -> list[Hit]:
    """Return the best hits of a `Query`. `report` gets those found so far, so that they can be shown at once."""
    query, order = Query(text, exact=exact), 0
    best: list[tuple[float, int, Hit]] = []
    if not query.words:
        return []
    taken: set[str] = set()
    for batch in index.batches():
        for path, candidate in batch:
            found = query.match(candidate)
            if found is None or path in taken:
                continue
            order -= 1  # of equal hits, the first in the file wins
            item = (found[0], order, Hit(found[0], path, candidate, found[1]))
            if len(best) < SHOWN:
                heapq.heappush(best, item)
                taken.add(path)
            elif item > best[0]:
                taken.discard(heapq.heapreplace(best, item)[2].path)
                taken.add(path)
        report(_sorted(best))
    return _sorted(best)


def _sorted(best: list[tuple[float, int, Hit]]) -> list[Hit]:
    return [item[2] for item in sorted(best, reverse=True)]
