"""Find the next suspicious place: findings of the reader, damage, padding that is not zero, NaN and infinities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

from ggcp_schema.files.tensor import ELEMENT_SIZES, Tensor
from ggcp_schema.formats.rules import Oddity
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.fields import Fields

if TYPE_CHECKING:
    from ggcp_schema.formats.file import File
    from ggcp_schema.llama.state import Unsound


def known(file: File) -> list[Oddity]:
    """Return what was found when the file was opened."""
    fields, damage = Fields(file), file.damage
    found = [(fields.field(finding.path), finding) for finding in file.findings]
    places = [Oddity(finding.path, field.offset if field else 0, finding.message) for field, finding in found]
    if damage is not None:
        offset = min(damage.offset, max(0, file.size - 1))
        places.append(Oddity(damage.path, offset, f"damage: expected {damage.expected}, found {damage.found}"))
    return places


def next_place(file: File, after: int, report: Report, unsound: Iterable[Unsound] = ()) -> Oddity | None:
    """Return the first suspicious place after that offset; if there is none up to the end, the first of the file.

    `unsound` are places that count too, as `soundness` finds them.

    Reads the padding and the data of the tensors on the way, but not that of quantized ones. `report` gets the share of
    the file that was read.
    """
    others = [Oddity(bad.path, bad.start, f"{bad.path}: {bad.message}") for bad in unsound if bad.rule != "not-finite"]
    places, size = sorted(known(file) + others, key=attrgetter("offset")), max(1, file.size)
    for start, stop in ((after + 1, size), (0, after + 1)):
        before = next((place for place in places if start <= place.offset < stop), None)
        end = stop if before is None else before.offset
        for tensor in file.tensors.between(start, end):
            for place in _odd(tensor, start, end):
                if isinstance(place, Oddity):
                    return place
                report(((place - after) % size) / size)
        if before is not None:
            return before
    return None


def _odd(tensor: Tensor, start: int, stop: int) -> Iterator[Oddity | int]:
    """Yield the offsets that were reached, and the first odd byte of the padding and element of the data."""
    import numpy as np

    first = max(start, tensor.offset - tensor.padding)
    size = min(stop, tensor.offset) - first
    if size > 0:
        padding = tensor.source.read(first, size)
        odd = next((index for index, byte in enumerate(padding) if byte), None)
        if odd is not None:
            yield Oddity(tensor.path, first + odd, "padding that is not zero")
    if tensor.type not in ELEMENT_SIZES:
        return
    step = ELEMENT_SIZES[tensor.type]
    element = max(0, -(-(start - tensor.offset) // step))
    last = min(tensor.n_elements, max(0, -(-(stop - tensor.offset) // step)))
    for piece in tensor.values(element, last):
        finite = np.isfinite(piece)
        if not finite.all():
            index = int(np.argmin(finite))
            word = "NaN" if np.isnan(piece[index]) else "infinite"
            at = element + index
            yield Oddity(tensor.path, tensor.offset + at * step, f"{tensor.path}: element {at:,} is {word}")
        element += len(piece)
        yield tensor.offset + element * step
