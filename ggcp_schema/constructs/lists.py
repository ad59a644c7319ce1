"""Long lists, whose elements are made each time they are accessed: the base class, and that of records."""

from __future__ import annotations

import operator
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, SupportsIndex

from construct import Container, ListContainer

from ggcp_schema.constructs.errors import counted
from ggcp_schema.constructs.extents import Extent
from ggcp_schema.constructs.shown import Record

PACK = 512  # records that are put together
CODES: dict[Any, str] = {int: "q", float: "d"}
Row = tuple[Any, ...]
"""The values of a record, in the order of its fields."""


class LongList(Sequence[Any]):
    """A list that makes an element each time it is accessed."""

    __slots__ = ()

    @abstractmethod
    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the elements from `start` to `stop`."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return list(self.iterate(start, max(start, stop)))
            return [self[i] for i in range(start, stop, step)]
        number = operator.index(index)
        position = number + len(self) if number < 0 else number
        if not 0 <= position < len(self):
            raise IndexError(f"index {number} is out of range: the array has {counted(len(self), 'element')}")
        return next(self.iterate(position, position + 1))

    def __iter__(self) -> Iterator[Any]:
        return self.iterate(0, len(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # lists have none


class FixedRecord(Record):
    """A record that is made each time it is accessed, and so cannot be changed."""

    __slots__ = ()

    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError("this record is made when it is accessed: put the list in place of its own, and change that")

    def __reduce__(self) -> Any:
        return Record, (dict(self),)


class Records(LongList):
    """Very many records. Their values are kept in columns, which take a small part of the memory of records."""

    __slots__ = ("_last", "_names", "_packs")

    def __init__(self, records: Sequence[Container]) -> None:
        self._names = tuple(records[0])
        self._packs: list[Sequence[Any]] = []
        self._last: list[Container | Row] = []  # fewer than PACK
        for record in records:
            self.append(record)

    def append(self, record: Container | Row) -> None:
        """Add a record. A tuple is the values of one with the same fields as the first record."""
        if isinstance(record, Container) and tuple(record) == self._names:
            record = tuple(record.values())
        self._last.append(record)
        if len(self._last) == PACK:
            self._packs.append(self._packed(self._last))
            self._last = []

    def _packed(self, rows: Sequence[Container | Row]) -> Sequence[Any]:
        """Return the records of these values."""
        if {*map(type, rows)} == {tuple}:
            return Columns(partial(_record, self._names), rows, self._names)
        return [_record(self._names, row) if isinstance(row, tuple) else row for row in rows]

    def __len__(self) -> int:
        return PACK * len(self._packs) + len(self._last)

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the records from `start` to `stop`."""
        for number in range(start // PACK, -(-stop // PACK)):
            part = slice(max(0, start - PACK * number), stop - PACK * number)
            yield from self._packs[number][part] if number < len(self._packs) else self._packed(self._last[part])

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int) or not 0 <= index < PACK * len(self._packs):
            return super().__getitem__(index)
        return self._packs[index // PACK][index % PACK]

    def each(self, name: str) -> Iterator[Any]:
        """Yield the value of a field of each record; None where damage ended the record before it."""
        for pack in (*self._packs, self._packed(self._last)):
            yield from pack.column(name)[:] if isinstance(pack, Columns) else (record.get(name) for record in pack)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'record')}>"


class CopiedList(LongList):
    """Elements that are built by copying their bytes, which lie in an `Extent`. No element can be changed."""

    __slots__ = ("extent", "items")

    def __init__(self, items: Sequence[Any], extent: Extent) -> None:
        self.items, self.extent = items, extent

    def __len__(self) -> int:
        return len(self.items)

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the elements from `start` to `stop`."""
        return iter(self.items[start:stop])


def each(records: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield the value of a field of each record, None if it has none. For `Records` no record is made."""
    return records.each(name) if isinstance(records, Records) else (record.get(name) for record in records)


def _record(names: tuple[str, ...], values: Iterable[Any]) -> FixedRecord:
    return FixedRecord(zip(names, values))


def column(values: Sequence[Any]) -> Sequence[Any]:
    """Return values in little memory: numbers as an array; records, lists and extents as columns, if they are alike."""
    kind: Any = type(values[0]) if values else None
    if {*map(type, values)} != {kind}:
        return tuple(values)
    if kind is Record and all(map(tuple(values[0]).__eq__, map(tuple, values))):
        names = tuple(values[0])
        return Columns(partial(_record, names), [tuple(record.values()) for record in values], names)
    if kind is ListContainer and {*map(len, values)} == {len(values[0]) or -1}:
        return Columns(ListContainer, values)
    if kind is Extent:
        return Columns(_extent, [(extent.offset, extent.nbytes, extent.origin) for extent in values])
    if kind in CODES:
        with suppress(OverflowError):
            return array(CODES[kind], values)
    return tuple(values)


class Columns(Sequence[Any]):
    """A sequence whose values are put together from columns when they are asked for."""

    __slots__ = ("_columns", "_make", "_names")

    def __init__(
        self, make: Callable[[Iterable[Any]], Any], rows: Sequence[Sequence[Any]], names: Sequence[str] = ()
    ) -> None:
        self._make, self._names, self._columns = make, names, [column(values) for values in zip(*rows)]

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a field of records."""
        return self._columns[self._names.index(name)]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: Any) -> Any:
        values = [column[index] for column in self._columns]
        return list(map(self._make, zip(*values))) if isinstance(index, slice) else self._make(values)


def _extent(values: Iterable[Any]) -> Extent:
    return Extent(*values)


LISTS = (ListContainer, LongList)
"""The classes of the lists in parsed values."""
