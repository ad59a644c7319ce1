"""Long lists, whose elements are made each time they are accessed: the base class, and that of records."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from construct import Container, ListContainer

from ggcp_schema.constructs.errors import counted
from ggcp_schema.constructs.extents import Extent
from ggcp_schema.constructs.shown import Record

PACK = 512  # records that are put together
Pack = tuple[tuple[str, ...], list[Sequence[Any]]] | list[Container]
CODES: dict[Any, str] = {int: "q", float: "d"}


class LongList(Sequence[Any]):
    """A list that makes an element each time it is accessed."""

    __slots__ = ()

    @abstractmethod
    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the elements from `start` to `stop`."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return list(self.iterate(start, max(start, stop)))
            return [self[i] for i in range(start, stop, step)]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is out of range: the array has {counted(len(self), 'element')}")
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

    __slots__ = ("_last", "_packs")

    def __init__(self, records: Iterable[Container]) -> None:
        self._packs: list[Pack] = []
        self._last: list[Container] = []  # fewer than PACK records
        for record in records:
            self.append(record)

    def append(self, record: Container) -> None:
        """Add a record."""
        self._last.append(record)
        if len(self._last) == PACK:
            self._packs.append(_packed(self._last))
            self._last = []

    def __len__(self) -> int:
        return PACK * len(self._packs) + len(self._last)

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the records from `start` to `stop`."""
        for number in range(start // PACK, -(-stop // PACK)):
            part = slice(max(0, start - PACK * number), stop - PACK * number)
            pack = self._last if number == len(self._packs) else self._packs[number]
            if isinstance(pack, list):
                yield from pack[part]
                continue
            names, columns = pack
            for values in zip(*(column[part] for column in columns)):
                yield FixedRecord(zip(names, values))

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int) or not 0 <= index < PACK * len(self._packs):
            return super().__getitem__(index)
        pack = self._packs[index // PACK]
        if isinstance(pack, list):
            return pack[index % PACK]
        return FixedRecord(zip(pack[0], [values[index % PACK] for values in pack[1]]))

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'record')}>"


def _packed(records: list[Container]) -> Pack:
    """Return the names and columns of some records; the records themselves if not all have the same fields."""
    names = tuple(records[0])
    if any(tuple(record) != names for record in records):
        return records
    return names, [column([record[name] for record in records]) for name in names]


def column(values: list[Any]) -> Sequence[Any]:
    """Return values in little memory: numbers and the places of data as arrays."""
    kind = type(values[0]) if values else None
    if any(type(value) is not kind for value in values):
        return tuple(values)
    if kind is Extent:
        return Extents(values)
    if kind in CODES:
        with suppress(OverflowError):
            return array(CODES[kind], values)
    return tuple(values)


class Extents(Sequence[Any]):
    """A column of extents: their offsets, sizes and origins."""

    __slots__ = ("_columns",)

    def __init__(self, extents: list[Extent]) -> None:
        self._columns = [column([getattr(each, name) for each in extents]) for name in ("offset", "nbytes", "origin")]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: Any) -> Any:
        values = [column[index] for column in self._columns]
        return list(map(Extent, *values)) if isinstance(index, slice) else Extent(*values)


LISTS = (ListContainer, LongList)
"""The classes of the lists in parsed values."""
