"""Arrays whose elements are parsed when they are accessed: of numbers, of texts, of very many records, of data."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import IO, Any

from construct import Construct, Container, ListContainer

from ggcp_schema.constructs.conditions import chosen
from ggcp_schema.constructs.errors import DataGoneError, ErrorLog, FieldError, counted, too_short
from ggcp_schema.constructs.extents import Extent, Origin
from ggcp_schema.constructs.fields import MOST_READ, PascalString
from ggcp_schema.constructs.numbers import FormatField
from ggcp_schema.constructs.records import Array, GreedyRange, Struct
from ggcp_schema.constructs.shown import Record
from ggcp_schema.constructs.streams import CHUNK, stream_end

SPACING = 512  # bytes: the place of one text in about so many is noted
RECORD_SPACING = 64  # the same for records, which take longer to parse
AT_ONCE = 64  # elements that are parsed together


class LazyArray(Array):
    """An Array that parses numbers and texts when they are accessed, so that it takes little memory: see `LazyList`.

    Records, which must not refer to fields outside of them, are parsed again if there are more than `MANY`.
    """

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        element = chosen(self.subcon, context)
        if not isinstance(element, FormatField | PascalString):
            return super()._parse(stream, context, path)
        count, start = self._counted(stream, context), stream.tell()
        items = LazyList(element, Origin.of(stream, context), start)
        if isinstance(element, FormatField):
            available = stream_end(stream, context) - start
            if count * element.length > available:
                raise too_short(start, count * element.length, available)
            element.skip_all(stream, count)
        else:
            self._skip_texts(element, stream, context, path, count, items)
        items.length, items.nbytes = count, stream.tell() - start
        return items

    def _compact(self, items: Any, stream: IO[bytes], context: Container) -> Any:
        return _compacted(self, items, stream, context)

    def _skip_texts(
        self, element: PascalString, stream: IO[bytes], context: Container, path: str, count: int, items: LazyList
    ) -> None:
        """Move to the end of the texts and note some of their offsets. Only their lengths can be wrong.

        An element that lies whole in a chunk of the file is counted there; others are parsed.
        """
        lengthfield = chosen(element.lengthfield, context)
        assert isinstance(lengthfield, FormatField)  # noqa: S101 - a length is a number
        unpack, width, longest = lengthfield.packer.unpack_from, lengthfield.length, element.longest
        last = here = items.offset
        index = 0
        while index < count:
            chunk, at = stream.read(CHUNK), 0
            size, mark = len(chunk), last + SPACING - here
            for index in range(index, count):  # noqa: B020 - a large vocabulary goes through this loop: each step counts
                if at + width > size:
                    break
                (length,) = unpack(chunk, at)
                end = at + width + length
                if end > size or not 0 <= length <= longest:
                    break
                if at >= mark:
                    last, mark = here + at, at + SPACING
                    items.note(index, last)
                at = end
            else:
                index = count
            here += at
            stream.seek(here)
            if index < count and not at:
                items.note(index, here)
                try:
                    element._parse(stream, context, path)
                except FieldError as error:
                    items.length, items.nbytes = index, here - items.offset
                    raise error.within(index, items) from None
                index, last, here = index + 1, here, stream.tell()

    def _build_items(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        if isinstance(obj, LazyList) and obj.element is chosen(self.subcon, context):
            for piece in obj.extent.chunks():
                stream.write(piece)
        else:
            super()._build_items(obj, stream, context, path)


class LazyRange(GreedyRange):
    """A GreedyRange of records that are parsed again if there are very many, as those of a LazyArray."""

    def _compact(self, items: Any, stream: IO[bytes], context: Container) -> Any:
        return _compacted(self, items, stream, context)


def _compacted(array: Array, items: ListContainer, stream: IO[bytes], context: Container) -> Any:
    """Return the list of an array that keeps only the places of its elements, if they are records."""
    element = chosen(array.subcon, context)
    if not isinstance(element, Struct):
        return items
    places = LazyList(element, Origin.of(stream, context), items[0]["_offset"], context["_params"].get("errors"))
    for item in items:
        places.append(item)
    return places


class FixedRecord(Record):
    """A record that is made anew each time it is accessed, and so cannot be changed."""

    __slots__ = ()

    def __setitem__(self, name: str, value: Any) -> None:
        raise TypeError("this record is made when it is accessed: put the list in place of its own, and change that")

    def __reduce__(self) -> Any:
        return Record, (dict(self),)


class LazyList(Sequence[Any]):
    """The elements of a LazyArray: a sequence that parses an element each time it is accessed.

    `offset` and `nbytes` say where they lie in the stream, but for the record in which an error ended the parse: `cut`.
    """

    __slots__ = ("_indices", "_offsets", "cut", "element", "errors", "length", "nbytes", "offset", "origin")

    def __init__(self, element: Construct, origin: Origin, offset: int, errors: ErrorLog | None = None) -> None:
        self.element, self.origin, self.offset, self.errors = element, origin, offset, errors
        self.length, self.nbytes = 0, 0
        self.cut: Container | None = None
        if not isinstance(element, FormatField):  # of numbers the places are known
            self._indices, self._offsets = array("Q", [0]), array("Q", [offset])

    def append(self, record: Container) -> None:
        """Add the place of a record, or the record in which an error ended the parse."""
        if "_size" not in record:
            self.cut = record
            return
        if record["_offset"] >= self._offsets[-1] + RECORD_SPACING:
            self.note(self.length, record["_offset"])
        self.length += 1
        self.nbytes = record["_offset"] + record["_size"] - self.offset

    def note(self, index: int, offset: int) -> None:
        """Note the place of an element, from which later ones are found."""
        self._indices.append(index)
        self._offsets.append(offset)

    @property
    def extent(self) -> Extent:
        """Where the elements lie."""
        return Extent(self.offset, self.nbytes, self.origin)

    def offset_of(self, index: int) -> int:
        """Return the offset of an element; `len(self)` gives the end of the last one."""
        if isinstance(self.element, FormatField):
            return self.offset + index * int(self.element.length)
        if index >= self.length:
            return self.offset + self.nbytes
        mark = bisect_right(self._indices, index) - 1
        if self._indices[mark] == index:
            return self._offsets[mark]
        with self.origin.open() as stream:
            stream.seek(self._offsets[mark])
            self._read(stream, index - self._indices[mark])
            return stream.tell()

    def index_at(self, offset: int) -> int:
        """Return the index of the element that holds the byte at `offset`; `len(self)` for one after the last."""
        if isinstance(self.element, FormatField):
            return min(self.length, (offset - self.offset) // int(self.element.length))
        if offset >= self.offset + self.nbytes:
            return self.length
        mark = bisect_right(self._offsets, offset) - 1
        index = self._indices[mark]
        with self.origin.open() as stream:
            stream.seek(self._offsets[mark])
            while True:
                self._read(stream, 1)
                if stream.tell() > offset:
                    return index
                index += 1

    def _read(self, stream: IO[bytes], count: int) -> list[Any]:
        """Parse elements outside of the parse of the file, whose context would keep all of its values."""
        params = Container(_end=self.offset + self.nbytes, _origin=self.origin)
        if self.errors is not None:  # of a tolerant parse, which has reported them
            params["errors"] = ErrorLog(repair=self.errors.repair)
        context = Container(_params=params)
        items = [self.element._parse(stream, context, "") for _ in range(count)]
        return [FixedRecord(item) for item in items] if isinstance(self.element, Struct) else items

    def __len__(self) -> int:
        return self.length + (self.cut is not None)

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

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the elements from `start` to `stop`. Raises `DataGoneError` if the file has changed meanwhile."""
        if isinstance(self.element, FormatField):
            return self._numbers(start, stop, self.element)
        return self._others(start, stop)

    def _numbers(self, start: int, stop: int, element: FormatField) -> Iterator[Any]:
        size = int(element.length)
        at, end = self.offset + start * size, self.offset + stop * size
        while at < end:
            with self.origin.open() as stream:
                stream.seek(at)
                data = stream.read(min(end - at, size << 12))
            data = data[: len(data) - len(data) % size]
            if not data:
                raise DataGoneError(None, f"the array at offset {self.offset} has lost its last elements")
            at += len(data)
            yield from element.unpack_all(data)

    def _others(self, start: int, stop: int) -> Iterator[Any]:
        at, whole = self.offset_of(start), min(stop, self.length)
        for first in range(start, whole, AT_ONCE):
            with self.origin.open() as stream:
                stream.seek(at)
                items = self._read(stream, min(first + AT_ONCE, whole) - first)
                at = stream.tell()
            yield from items
        if start < stop > self.length:
            yield self.cut

    def common(self, other: LazyList) -> int:
        """Return a number of first elements that are the same in both, which is found by comparing bytes in pieces."""
        if self.element is not other.element or not isinstance(self.element, FormatField):
            return 0
        same = 0
        for one, two in zip(self.extent.chunks(), other.extent.chunks(), strict=False):
            if one != two:
                break
            same += len(one)
        return same // int(self.element.length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # lists have none

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyList:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        if isinstance(self.element, Struct):  # whose functions cannot be pickled
            return ListContainer, (list(self),)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'element')} at offset {self.offset}>"


class DataArray(Array):
    """An Array of records of `padding` and `data`, of which only the places are kept: see `DataList`."""

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        items = DataList(self.subcon, Origin.of(stream, context), stream.tell())
        return self._parse_items(items, stream, context, path)


class DataList(LazyList):
    """The elements of a DataArray: a sequence that makes a record each time it is accessed."""

    __slots__ = ("_data",)

    def __init__(self, element: Construct, origin: Origin, offset: int) -> None:
        super().__init__(element, origin, offset)
        self._data = array("Q")  # where the data of each record begins; the record before ends at its own offset

    def append(self, record: Container) -> None:
        if "_size" in record:
            self._data.append(record["data"].offset)
            self._offsets.append(record["_offset"] + record["_size"])
            self.length, self.nbytes = len(self._data), self._offsets[-1] - self.offset
        else:
            self.cut = record

    def offset_of(self, index: int) -> int:
        return self._offsets[min(index, self.length)]

    def index_at(self, offset: int) -> int:
        return bisect_right(self._offsets, offset) - 1

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        return map(self._record, range(start, stop))

    def common(self, other: LazyList) -> int:
        return 0

    def _record(self, index: int) -> Any:
        if index == self.length:
            return self.cut
        start, data, end = self._offsets[index], self._data[index], self._offsets[index + 1]
        padding: bytes | Extent = b""
        if data - start > MOST_READ:
            padding = Extent(start, data - start, self.origin)
        elif data > start:
            padding = b"".join(Extent(start, data - start, self.origin).chunks())
        data_of = Extent(data, end - data, self.origin)
        return FixedRecord(_offset=start, padding=padding, data=data_of, _size=end - start)
