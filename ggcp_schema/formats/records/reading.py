"""A damaged file, read with its records at the places where they were found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import IO, Any, cast

from construct import Container

from ggcp_schema.constructs import Extent, Field, FieldError, Struct, count_bytes, root_field
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered
from ggcp_schema.formats.records.places import Places


class Mended:
    """A stream in which some bytes are replaced."""

    def __init__(self, stream: IO[bytes], values: Mapping[int, bytes]) -> None:
        self._stream, self._values = stream, values

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        start = self._stream.tell()
        data = bytearray(self._stream.read(size))
        for offset, value in self._values.items():
            for at, byte in enumerate(value, offset - start):
                if 0 <= at < len(data):
                    data[at] = byte
        return bytes(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def recovered_at(
    source: Source,
    error: FieldError,
    schema: Struct,
    places: Places | None,
    values: Mapping[int, bytes],
    kept: Container | None = None,
) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error, with the records at these places.

    None is returned if that is no more. With `kept`, only the fields after those are read.
    """
    if places is None or not (kept or ((places.wrong or places.moved) and not places.end_before(error))):
        return None
    return read_at(source, schema, places, error, values, kept)


def read_at(
    source: Source,
    schema: Struct,
    places: Places,
    error: FieldError,
    values: Mapping[int, bytes],
    kept: Container | None = None,
    **params: Any,
) -> Recovered:
    """Return what is read of a file whose records are at these places, with other values in it.

    `error` is that of the parse without them. With `kept`, only the fields after those are read.
    """
    log: list[FieldError] = []
    ended = None
    params |= {"places": iter(places.records), "errors": log}
    with source.reading() as stream:
        mended = cast(IO[bytes], Mended(stream, values))
        try:
            container = schema.resume(mended, kept, **params) if kept else schema.parse_stream(mended, **params)
        except FieldError as found:
            container, ended = found.partial, found.with_traceback(None)
    root = root_field(schema, container)
    known = {one.offset: _placed(one, root.at(one.offset)) for one in log}
    lost = {place.start for place in places.records if not place.header}
    known |= {one.offset: one for one in filter(None, (_wrong(source, root, at, lost) for at in places.wrong))}
    known |= {one.offset: one for one in (_moved(root, *move) for move in places.moved)}
    errors = [error if offset == error.offset else known[offset] for offset in sorted(known)]
    return Recovered(container, errors or [ended or error], ended)


def _wrong(source: Source, root: Field, offset: int, lost: Collection[int]) -> FieldError | None:
    """Return what the file has in place of the value at an offset; None if no field is there.

    `lost` is where records begin of which nothing is known.
    """
    field = root.at(offset)
    if field is None:
        return None
    if offset in lost or isinstance(field.value, Extent):  # of a tensor of which not all is there
        return _placed(FieldError(offset, "a tensor's header", "other bytes"), field)
    found = source.read(field.offset, min(field.size, source.size - field.offset))
    expected, words = repr(field.value).removeprefix("b"), repr(found)[1:]
    if field.value is None:
        expected = "a value that is lost"
    elif field.size in {4, 8} and isinstance(field.value, int):
        expected, words = str(field.value), str(int.from_bytes(found, "little", signed=field.size == 8))
    return _placed(FieldError(field.offset, expected, words), field)


def _moved(root: Field, offset: int, count: int) -> FieldError:
    """Return that bytes were inserted or lost before an offset."""
    words = f"offset {offset}: {count_bytes(abs(count))} {'more' if count > 0 else 'fewer'} before it"
    return _placed(FieldError(offset, f"offset {offset - count}", words), root.at(offset))


def _placed(error: FieldError, field: Field | None) -> FieldError:
    error.steps = [] if field is None else list(field.steps)
    return error
