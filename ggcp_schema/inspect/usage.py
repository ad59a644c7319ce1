"""What the bytes of a file are used for: in all, and part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ggcp_schema.formats.file import File
from ggcp_schema.inspect import Report
from ggcp_schema.inspect.tensors import Listed

MODEL, M, V, STATE = "model", "m", "v", "other state"
WASTE, PADDING, FIELDS, UNKNOWN = "not converted", "padding", "fields", "after the damage"
USES = MODEL, M, V, STATE, WASTE, PADDING, FIELDS, UNKNOWN
CELLS = 2520  # parts of the file; divisible by most widths


def usage(file: File, report: Report) -> Usage:
    """Return what the bytes of the file are used for. Reads no tensor data; `report` gets None."""
    found = Usage(file.size)
    for count, region in enumerate(_regions(file)):
        found.add(*region)
        if count % 100 == 0:
            report(None)
    return found


def _regions(file: File) -> Iterator[tuple[str, int, int]]:
    """Yield a use, an offset and a size, from the start of the file to its end. Some regions may be empty."""
    at = 0
    for tensor in file.tensors.in_file_order():
        item = Listed.of(file, tensor)
        use = {None: MODEL, "m": M, "v": V}.get(item.moment, STATE)
        start = tensor.offset - tensor.padding
        yield FIELDS, at, start - at
        yield PADDING, start, tensor.padding
        yield WASTE if item.moment and item.gguf_name is None else use, tensor.offset, tensor.nbytes
        at = max(at, tensor.offset + tensor.nbytes)
    damage, size = file.damage, file.size
    known = size if damage is None else max(at, min(damage.offset, size))
    yield FIELDS, at, known - at
    yield UNKNOWN, known, size - known


class Usage:
    """What the bytes of a file are used for: the bytes of each use, and what each of `CELLS` equal parts holds."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sizes = dict.fromkeys(USES, 0)
        self.cells = [Counter[str]() for _ in range(min(CELLS, size))]

    def add(self, use: str, offset: int, size: int) -> None:
        """Count bytes of one use, next to each other. Regions may come in any order, but must not overlap."""
        if size <= 0:
            return
        self.sizes[use] += size
        stop, count = offset + size, len(self.cells)
        for index in range(offset * count // self.size, (stop - 1) * count // self.size + 1):
            first, last = -(-index * self.size // count), -(-(index + 1) * self.size // count)
            self.cells[index][use] += min(stop, last) - max(offset, first)

    def pooled(self, parts: int) -> list[str]:
        """Return for each of so many equal parts of the file the use that takes most of it."""
        uses, count = [], len(self.cells)
        for part in range(parts):
            start = count * part // parts
            share = sum(self.cells[start : max(start + 1, count * (part + 1) // parts)], Counter[str]())
            uses.append(max(share, key=share.__getitem__) if share else UNKNOWN)
        return uses
