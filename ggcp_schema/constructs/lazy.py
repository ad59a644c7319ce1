"""Arrays whose elements are parsed when they are asked for."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import IO, Any

from construct import Construct, Container

from ggcp_schema.constructs.errors import DataGoneError, FieldError, counted, too_short
from ggcp_schema.constructs.extents import Extent, Origin
from ggcp_schema.constructs.numbers import FormatField
from ggcp_schema.constructs.records import Array, Struct, chosen
from ggcp_schema.constructs.streams import stream_end

SPACING = 512  # bytes: the place of one element in about so many is noted
AT_ONCE = 64  # elements that are parsed together


class LazyArray(Array):
    """An Array whose elements are parsed when they are asked for, so that it takes little memory: see `LazyList`.

    Records are parsed at once all the same, unless the parse is told `lazy=True`: a program may want to change them,
    and a change of a record that is parsed anew each time would be lost. With `keep=cls` the parse makes an object that
    gets each record in its method `add`, to note what is often needed of all: the attribute `kept` of the list.
    """

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        element = chosen(self.subcon, context)
        if isinstance(element, Struct) and not context["_params"].get("lazy"):
            return super()._parse(stream, context, path)
        count, start = self._counted(stream, context), stream.tell()
        items = LazyList(self.subcon, context, Origin.of(stream, context), start)
        keep = context["_params"].get("keep") if isinstance(element, Struct) else None
        items.kept = None if keep is None else keep()
        if isinstance(element, FormatField):
            available = stream_end(stream, context) - start
            if count * element.length > available:
                raise too_short(start, count * element.length, available)
            element.skip_all(stream, count)
        else:
            self._parse_all(stream, context, path, count, items)
        items.length, items.nbytes = count, stream.tell() - start
        return items

    def _parse_all(self, stream: IO[bytes], context: Container, path: str, count: int, items: LazyList) -> None:
        """Parse the elements, note places, and forget the values but for what is kept."""
        parse, last, kept = self.subcon._parse, items.offset, items.kept
        for index in range(count):
            here = stream.tell()
            if here - last >= SPACING:
                items.note(index, here)
                last = here
            context["_index"] = index
            try:
                value = parse(stream, context, path)
            except FieldError as error:
                items.length, items.nbytes = index, here - items.offset
                raise error.within(index, items) from None
            if kept is not None:
                kept.add(value)

    def _build_items(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        if (
            isinstance(obj, LazyList)
            and obj.is_whole
            and obj.subcon is self.subcon
            and obj.layout == fixed_layout(self.subcon, context)
        ):
            obj.extent.copy_to(stream)
        else:
            super()._build_items(obj, stream, context, path)


class LazyList(Sequence[Any]):
    """The elements of a LazyArray: a sequence that parses the elements it is asked for, each time anew.

    `offset` and `nbytes` say where they lie in the stream. If an error ended the parse in an element, the values that
    were parsed of it are the last element, and `nbytes` are those of the whole elements before it.
    """

    def __init__(self, subcon: Construct, context: Container, origin: Origin, offset: int) -> None:
        self.subcon, self.context, self.origin = subcon, context, origin
        self.offset, self.length, self.nbytes = offset, 0, 0
        self.layout = fixed_layout(subcon, context)
        self.broken: tuple[Any, ...] = ()  # the element in which an error ended the parse
        self.kept: Any = None
        self._indices, self._offsets = array("Q", [0]), array("Q", [offset])

    def note(self, index: int, offset: int) -> None:
        """Note the place of an element, from which later ones are found."""
        self._indices.append(index)
        self._offsets.append(offset)

    def append(self, element: Any) -> None:
        """Add the element in which an error ended the parse."""
        self.broken = (element,)

    @property
    def is_whole(self) -> bool:
        """True if no error ended the parse in an element."""
        return not self.broken

    @property
    def extent(self) -> Extent:
        """Where the whole elements lie."""
        return Extent(self.offset, self.nbytes, self.origin)

    def offset_of(self, index: int) -> int:
        """Return the offset of an element; that of the first one after the whole elements is their end."""
        if self.layout is not None:
            return self.offset + index * self.layout.length
        if index >= self.length:
            return self.offset + self.nbytes
        mark = bisect_right(self._indices, index) - 1
        if self._indices[mark] == index:
            return self._offsets[mark]
        with self.origin.open() as stream:
            stream.seek(self._offsets[mark])
            for passed in range(self._indices[mark], index):
                self._element(stream, passed)
            return stream.tell()

    def index_at(self, offset: int) -> int:
        """Return the index of the element that holds the byte at `offset`; `len(self)` for one after the last."""
        if self.layout is not None:
            return min(self.length, (offset - self.offset) // self.layout.length)
        if offset >= self.offset + self.nbytes:
            return self.length
        mark = bisect_right(self._offsets, offset) - 1
        index = self._indices[mark]
        with self.origin.open() as stream:
            stream.seek(self._offsets[mark])
            while True:
                self._element(stream, index)
                if stream.tell() > offset:
                    return index
                index += 1

    def _element(self, stream: IO[bytes], index: int) -> Any:
        self.context["_index"] = index
        return self.subcon._parse(stream, self.context, "")

    def __len__(self) -> int:
        return self.length + len(self.broken)

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
        whole = min(stop, self.length)
        yield from self._parsed(start, whole) if self.layout is None else self._numbers(start, whole, self.layout)
        yield from self.broken[max(0, start - self.length) : max(0, stop - self.length)]

    def _numbers(self, start: int, stop: int, layout: FormatField) -> Iterator[Any]:
        size = layout.length
        at, end = self.offset + start * size, self.offset + stop * size
        while at < end:
            with self.origin.open() as stream:
                stream.seek(at)
                data = stream.read(min(end - at, size << 12))
            data = data[: len(data) - len(data) % size]
            if not data:
                raise DataGoneError(None, f"the array at offset {self.offset} has lost its last elements")
            at += len(data)
            yield from layout.unpack_all(data)

    def _parsed(self, start: int, stop: int) -> Iterator[Any]:
        at = self.offset_of(start)
        for first in range(start, stop, AT_ONCE):
            with self.origin.open() as stream:
                stream.seek(at)
                items = [self._element(stream, index) for index in range(first, min(first + AT_ONCE, stop))]
                at = stream.tell()
            yield from items

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes) or not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # lists have none

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyList:
        return self

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'element')} at offset {self.offset}>"


def fixed_layout(field: Construct, context: Container) -> FormatField | None:
    """Return the number format of an array's elements; None if they are not plain numbers."""
    field = chosen(field, context)
    return field if isinstance(field, FormatField) else None
