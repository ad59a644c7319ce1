"""What the records of a file are like whose tensors are found by their names: of ggla, ggjt, ggmf and ggml files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ggcp_schema.formats.records.headers import Record, record_at
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.formats.records.search import Searched
from ggcp_schema.schema.ggml import GgmlType
from ggcp_schema.schema.tensor import ALIGNMENT

LONGEST = 64  # bytes of a name
LEAST = 12 + 4  # bytes of a header
N_DIMS = re.compile(rb"[\1\2]\0\0\0")


@dataclass(frozen=True)
class Series:
    """What tells where the records of a file are.

    Attributes:
        types: the element types, by number.
        name: what the names are like.
        sign: what is in each name, `after` bytes before its end.
        usual: returns the names and the shapes of the tensors of two layers in the usual order, for names that are
            found. The numbers in a shape have names too.
        numbers: those of the model, if they are known.
        alignment: of the data.
    """

    types: Mapping[int, GgmlType]
    name: re.Pattern[bytes]
    sign: bytes
    after: int
    usual: Callable[[Iterable[str]], list[tuple[str, Sequence[Any]]]] = lambda found: []
    numbers: Mapping[str, int] = field(default_factory=dict)
    alignment: int = ALIGNMENT

    def record(self, at: int, name: str, shape: Iterable[int], type: int) -> Record:
        """Return the record of a tensor at an offset."""
        return record_at(at, name, tuple(shape), name, type, self.types, self.alignment)

    def record_in(self, file: Searched, at: int) -> Record | None:
        """Return the record whose header begins at an offset, if there is one."""
        n_dims, length, kind = (file.integer(at + offset) for offset in (0, 4, 8))
        if n_dims not in (1, 2) or not len(self.sign) < length < LONGEST or kind not in self.types:
            return None
        name = file.read(at + 12 + 4 * n_dims, at + 12 + 4 * n_dims + length)
        shape = [file.integer(at + 12 + 4 * index) for index in range(n_dims)]
        return self.record(at, name.decode(), shape, kind) if self.name.fullmatch(name) and min(shape) > 0 else None

    def records_in(self, file: Searched, at: int) -> Iterator[Record]:
        """Yield the records whose headers are found from an offset on, where they are.

        Their data is where it is if nothing was inserted or lost. A record that would end after the header of another
        has a wrong length, and is left out.
        """
        record = self.record_in(file, at) or next(self._found(file, at), None)
        while record is not None:
            after = record.start + len(record.header)
            following = self.record_in(file, record.end) or next(self._found(file, after), None)
            if following is None or record.end - following.start <= MOST_MOVED + self.alignment:
                yield record
            record = following

    def _found(self, file: Searched, after: int) -> Iterator[Record]:
        for at in file.all(self.sign, after):
            end = at + len(self.sign) + self.after
            data = file.read(max(0, end - LONGEST - LEAST - 4), end)
            for match in N_DIMS.finditer(data):
                size = len(data) - match.start()
                length = int.from_bytes(data[match.start() + 4 : match.start() + 8], "little")
                record = self.record_in(file, end - size) if size == 12 + 4 * match[0][0] + length else None
                if record is not None:
                    yield record
