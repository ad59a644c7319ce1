"""Finds the next place that is odd: findings of the reader, damage, padding that is not zero, NaN and infinities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ggcp_schema.browse.document import Document, Report
from ggcp_schema.errors import UsageError
from ggcp_schema.files.tensor import Tensor


class Place(NamedTuple):
    """An odd place: its offset in the file, the path of the field, and what is odd."""

    offset: int
    path: str
    message: str


def known(document: Document) -> list[Place]:
    """Return what was found when the file was opened, by offset."""
    places = [
        Place(document.offset_of(finding.path), finding.path, finding.message) for finding in document.file.findings
    ]
    damage = document.file.damage
    if damage is not None:
        offset = min(damage.offset, max(0, document.file.size - 1))
        places.append(Place(offset, damage.path, f"damage: expected {damage.expected}, found {damage.found}"))
    return sorted(places)


def next_place(document: Document, after: int, report: Report) -> Place | None:
    """Return the first odd place after that offset; if there is none up to the end, the first of the file.

    Reads the padding and the data of the tensors on the way. `report` gets the share of the file that was read.
    """
    places, size = known(document), max(1, document.file.size)
    for start, stop in ((after + 1, size), (0, after + 1)):
        before = next((place for place in places if start <= place.offset < stop), None)
        end = stop if before is None else before.offset
        for tensor in document.file.tensors.between(start, end):
            for place in _odd(document, tensor, start, end):
                if isinstance(place, Place):
                    return place
                report(((place - after) % size) / size)
        if before is not None:
            return before
    return None


def _odd(document: Document, tensor: Tensor, start: int, stop: int) -> Iterator[Place | int]:
    """Give the offsets that were reached, and the first odd byte of the padding and element of the data."""
    import numpy as np

    first = max(start, tensor.offset - tensor.padding)
    size = min(stop, tensor.offset) - first
    if size > 0:
        padding = document.file.source.read(first, size)
        odd = next((index for index, byte in enumerate(padding) if byte), None)
        if odd is not None:
            yield Place(first + odd, tensor.path, "padding that is not zero")
    step = tensor.nbytes // tensor.n_elements
    element = max(0, -(-(start - tensor.offset) // step))
    last = min(tensor.n_elements, max(0, -(-(stop - tensor.offset) // step)))
    try:
        for piece in tensor.values(element, last):
            finite = np.isfinite(piece)
            if not finite.all():
                index = int(np.argmin(finite))
                word = "NaN" if np.isnan(piece[index]) else "infinite"
                at = element + index
                yield Place(tensor.offset + at * step, tensor.path, f"{tensor.path}: element {at:,} is {word}")
            element += len(piece)
            yield tensor.offset + element * step
    except UsageError:  # a type that is not decoded
        return
