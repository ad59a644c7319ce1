"""Records of which a file may have very many, read at once where nothing is wrong with them.

The pages declare what these records are. A reader gives the values that the parse of the fields gives, in less than
half the time, or None for a record that it leaves to that parse. A test holds each against the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from math import prod
from typing import IO, Any

from construct import Container, ListContainer

from ggcp_schema.constructs import SMALL, AtOnce, Extent, Origin, Row, stream_end

ZEROS = [bytes(n) for n in range(32)]  # of paddings, once in the memory


def tensor_record(shape_of: Sequence[Callable[[Any], Any]], alignment: int, types: Collection[int]) -> AtOnce:
    """Return the reader of ggcp's tensor records of a shape, which the functions of the context give."""
    header = struct.Struct(f"<{3 + len(shape_of)}I")

    def read(stream: IO[bytes], context: Container, here: int) -> Row | None:
        scope = {"_": context, "_root": context.get("_root")}
        shape, head = [length(scope) for length in shape_of], stream.read(header.size)
        if len(head) < header.size:
            return None
        n_dims, name_len, type_, *ne = header.unpack(head)
        end = here + len(head) + name_len
        start, size = end + -end % alignment, 4 * prod(ne)
        is_usual = ne == shape and n_dims == len(shape) and type_ in types and name_len <= SMALL and 0 not in ne
        if not is_usual or start + size > stream_end(stream, context):
            return None
        name, padding = stream.read(name_len), stream.read(start - end)
        zeros = ZEROS[len(padding)]
        stream.seek(start + size)
        padding = zeros if padding == zeros else padding
        data = Extent(start, size, Origin.of(stream, context))
        return here, n_dims, name_len, type_, ListContainer(ne), name, padding, data, start + size - here

    return read


def tensor_info(count: str, most_dimensions: int) -> AtOnce:
    """Return the reader of GGUF's headers of tensors. `count` is struct's format of lengths and dimensions."""
    mark, kind_of_count = count[0], count[1]
    length, number = struct.Struct(count), struct.Struct(mark + "L")
    rests = [struct.Struct(f"{mark}{n}{kind_of_count}LQ") for n in range(most_dimensions + 1)]

    def read(stream: IO[bytes], context: Container, here: int) -> Row | None:
        try:
            (size,) = length.unpack(stream.read(length.size))
            name = stream.read(min(size, SMALL))
            (n_dims,) = number.unpack(stream.read(number.size))
            rest = rests[n_dims]
            *dimensions, kind, offset = rest.unpack(stream.read(rest.size))
        except (struct.error, IndexError):
            return None
        if len(name) != size:
            return None
        text, nbytes = name.decode("utf-8", "surrogateescape"), length.size + size + number.size + rest.size
        return here, text, n_dims, ListContainer(dimensions), kind, offset, nbytes

    return read


def tensor_data(stream: IO[bytes], context: Container, here: int) -> Row | None:
    """Read the padding before the data of a GGUF tensor, and skip the data."""
    root = context["_root"]
    if "_extents" not in root:
        return None
    begin, end = root["_extents"][root["_order"][context["_index"]]]
    start = max(begin, here)
    if end is None or start - here > SMALL or max(start, end) > stream_end(stream, context):
        return None
    padding, size = stream.read(start - here), max(0, end - start)
    stream.seek(start + size)
    return here, padding, Extent(start, size, Origin.of(stream, context)), start + size - here
