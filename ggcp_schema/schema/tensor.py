"""The tensor record: a header, padding up to a multiple of 32 of the file offset, and the data."""

from collections.abc import Mapping
from typing import IO, Any, NamedTuple

from construct import Container, ListContainer

from ggcp_schema.constructs import (
    Array,
    Chars,
    Const,
    Extent,
    Int32ul,
    Node,
    OneOf,
    Origin,
    Padding,
    Payload,
    Record,
    Struct,
    Switch,
    compiled,
    count_bytes,
    expression_tree,
    prod_,
    stream_end,
    this,
)
from ggcp_schema.schema import at_once

ALIGNMENT = 32
MAX_DIMS = 4
NAME_LENGTHS = range(1 << 16)  # ggml's names have fewer than 64 bytes; the limit keeps a wrong length out of the memory
F32 = {0: "F32"}


class Place(NamedTuple):
    """The record of a damaged file: its shape and header, as they must be, and where it begins and has its data.

    The header is empty if it is not known. `stop` is where the next record begins. `is_whole` tells if all of the data
    is proven to be there.
    """

    shape: tuple[int, ...]
    header: bytes
    start: int
    data: int
    end: int
    stop: int
    is_whole: bool
    type: int = 0


class TensorRecord(Record):
    """The values of a tensor's record. Their text is one line."""

    __slots__ = ()

    def __str__(self) -> str:
        name, data = self.get("name", b""), self.get("data")
        shape = f" {list(self['ne'])}" if self.get("ne") else ""
        where = "" if data is None else f", {count_bytes(data.nbytes)} at {data.offset}" if shape else ", NULL"
        return f"<{F32.get(self.get('type'), self.get('type'))}{shape}{where}{f', {name!r}' if name else ''}>"

    __repr__ = __str__


class Placed(Struct):
    """The record of a tensor, which can be read from a place that is known, whatever stands there."""

    def _parse(self, stream: IO[bytes], context: Container, path: str, kept: Container | None = None) -> Container:
        """Parse the record; with the parameter `places`, read it from the next place instead."""
        place: Place | None = next(context["_params"].get("places", iter(())), None)
        if place is None:
            return super()._parse(stream, context, path, kept)
        n_dims, size = len(place.shape), stream_end(stream, context)
        if place.start + len(place.header) > size:
            stream.seek(min(place.start, size))
            return super()._parse(stream, context, path)  # the file ends before
        stream.seek(place.start + len(place.header))
        padding = stream.read(max(0, min(place.data, size) - stream.tell()))
        start, end = stream.tell(), max(place.data, place.stop)
        if place.is_whole:  # also if bytes of the header, or more than the padding, are missing
            start, end = place.data, place.end
        data = Extent(start, max(0, min(end, size) - start), Origin.of(stream, context))
        record = Container(
            _offset=place.start,
            n_dims=n_dims,
            name_len=max(0, len(place.header) - 12 - 4 * n_dims),
            type=place.type,
            ne=ListContainer(place.shape),
            name=place.header[12 + 4 * n_dims :],
            padding=padding,
            data=data,
        )
        if place.is_whole:
            record["_size"] = data.offset + data.nbytes - place.start
        stream.seek(min(place.stop, size))
        return record


# The fields of which each tensor has the same.
BEFORE_SHAPE = (
    "name_len" / OneOf(Int32ul, NAME_LENGTHS) * "0 for the optimizer's tensors until 28 August 2023",
    "type" / OneOf(Int32ul, F32) * "ggml type",
)
AFTER_SHAPE = (
    "name" / Chars(this.name_len) * "no terminator",
    "padding" / Padding(multiple_of=ALIGNMENT) * "zero in files from the trainers",
    "data" / Payload(4 * prod_(this.ne) * (this.n_dims != 0), ["<f"], shape=this.ne[::-1]) * "little-endian F32",
)


class Tensor(Placed):
    """The record of a tensor of this shape; of any shape if none is given.

    `shape` holds expressions, in ggml order: the first number is the fastest-varying. With `null_if_zero`, a vector of
    length 0 is stored as a NULL: a record without dimensions and without data.
    """

    record = TensorRecord

    def __init__(self, *shape: Any, null_if_zero: bool = False) -> None:
        self.shape, self.null_if_zero = shape, null_if_zero
        self.shape_of = [compiled(length) for length in shape]
        n_dims = Const(shape[0] != 0 if null_if_zero else len(shape), Int32ul, tolerable=range(MAX_DIMS + 1))
        length = Switch(this._index, {i: Const(n, Int32ul) for i, n in enumerate(shape)}, default=Int32ul)
        super().__init__(
            "n_dims"
            / (n_dims if shape else OneOf(Int32ul, range(MAX_DIMS + 1)))
            * "0 for a NULL: the program had no such tensor",
            *BEFORE_SHAPE,
            "ne"
            / Array(this.n_dims, length if shape else Int32ul)
            * "shape in ggml order: the first number is the fastest-varying",
            *AFTER_SHAPE,
            type_name="tensor",
            at_once=at_once.tensor_record(self.shape_of, ALIGNMENT, F32) if shape else None,
        )

    def reference(self) -> Node:
        """Return the description of the record, with the `shape` that it must have, and if it may be a NULL instead."""
        shape = [expression_tree(length) for length in self.shape] or None
        return super().reference() | {"shape": shape, "null_if_zero": self.null_if_zero}

    def shape_in(self, context: Mapping[str, Any]) -> list[int]:
        """Return the shape that the record must have in a context, which holds earlier fields; `[]` for a NULL."""
        shape = [int(length(context)) for length in self.shape_of]
        return [] if self.null_if_zero and shape == [0] else shape


TENSOR = Tensor()
