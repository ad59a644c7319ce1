"""Arrays of numbers and texts, which are parsed when they are accessed."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

from construct import Construct, Container

from ggcp_schema.constructs.conditions import chosen
from ggcp_schema.constructs.errors import DataGoneError, FieldError, counted, too_short
from ggcp_schema.constructs.extents import Extent, Origin
from ggcp_schema.constructs.fields import PascalString
from ggcp_schema.constructs.lists import LongList
from ggcp_schema.constructs.numbers import FormatField
from ggcp_schema.constructs.records import Array
from ggcp_schema.constructs.streams import CHUNK, stream_end

SPACING = 1024  # bytes: the place of one text in about so many is noted
SHORT = 64  # bytes: the size of most texts with their lengths
AT_ONCE = 64  # texts that are parsed together
NONE = array("Q")  # of all lists in which no place is noted


class LazyArray(Array):
    """An Array that parses numbers and texts when they are accessed, so that it takes little memory: see `LazyList`."""

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
            stream.seek(start + count * element.length)
        else:
            self._skip_texts(element, stream, context, path, count, items)
        items.length, items.nbytes = count, stream.tell() - start
        return items

    def _skip_texts(
        self, element: PascalString, stream: IO[bytes], context: Container, path: str, count: int, items: LazyList
    ) -> None:
        """Move to the end of the texts and note some of their offsets. Only their lengths can be wrong.

        An element that lies whole in a chunk of the file is only passed there; others are parsed.
        """
        lengthfield = chosen(element.lengthfield, context)
        assert isinstance(lengthfield, FormatField)  # noqa: S101 - a length is a number
        unpack, width = lengthfield.packer.unpack_from, lengthfield.length
        # No text in a chunk is too long then, or shorter than nothing, so that its end says all.
        quick = element.longest >= CHUNK and lengthfield.fmtstr[-1].isupper()
        last = here = items.offset
        index = 0
        while index < count:
            chunk, at = stream.read(min(CHUNK, SHORT * (count - index))) if quick else b"", 0
            size = len(chunk)
            stop = min(last + SPACING - here, size + 1)
            with suppress(struct.error):  # the chunk ends in a length
                for index in range(index, count):  # noqa: B020 - a large vocabulary goes through this loop: each step counts
                    end = at + width + unpack(chunk, at)[0]
                    if end >= stop:
                        if end > size:
                            break
                        last, stop = here + end, min(end + SPACING, size + 1)
                        items.note(index + 1, last)
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


class LazyList(LongList):
    """The elements of a LazyArray: a sequence that parses an element each time it is accessed.

    `offset` and `nbytes` say where they lie in the stream.
    """

    __slots__ = ("_indices", "_offsets", "element", "length", "nbytes", "offset", "origin")

    def __init__(self, element: Construct, origin: Origin, offset: int) -> None:
        self.element, self.origin, self.offset = element, origin, offset
        self.length, self.nbytes = 0, 0
        self._indices = self._offsets = NONE

    def note(self, index: int, offset: int) -> None:
        """Note the place of an element, from which later ones are found."""
        if self._indices is NONE:
            self._indices, self._offsets = array("Q"), array("Q")
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
        at, offset = self._noted(self._indices, index)
        if at == index:
            return offset
        with self.origin.open() as stream:
            stream.seek(offset)
            self._read(stream, index - at)
            return stream.tell()

    def _noted(self, places: Sequence[int], place: int) -> tuple[int, int]:
        """Return the index and the offset of the last text noted whose index or offset is not above `place`."""
        mark = bisect_right(places, place) - 1
        return (0, self.offset) if mark < 0 else (self._indices[mark], self._offsets[mark])

    def index_at(self, offset: int) -> int:
        """Return the index of the element that holds the byte at `offset`; `len(self)` for one after the last."""
        if isinstance(self.element, FormatField):
            return min(self.length, (offset - self.offset) // int(self.element.length))
        if offset >= self.offset + self.nbytes:
            return self.length
        index, at = self._noted(self._offsets, offset)
        with self.origin.open() as stream:
            stream.seek(at)
            while True:
                self._read(stream, 1)
                if stream.tell() > offset:
                    return index
                index += 1

    def _read(self, stream: IO[bytes], count: int) -> list[Any]:
        """Parse elements outside of the parse of the file, whose context would keep all of its values."""
        context = Container(_params=Container(_end=self.offset + self.nbytes, _origin=self.origin))
        return [self.element._parse(stream, context, "") for _ in range(count)]

    def __len__(self) -> int:
        return self.length

    def iterate(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the elements from `start` to `stop`. Raises `DataGoneError` if the file has changed meanwhile."""
        if isinstance(self.element, FormatField):
            return self._numbers(start, stop, self.element)
        return self._texts(start, stop)

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

    def _texts(self, start: int, stop: int) -> Iterator[Any]:
        at = self.offset_of(start)
        for first in range(start, stop, AT_ONCE):
            with self.origin.open() as stream:
                stream.seek(at)
                items = self._read(stream, min(first + AT_ONCE, stop) - first)
                at = stream.tell()
            yield from items

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

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyList:
        return self

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'element')} at offset {self.offset}>"
