"""Fields that hold no others: numbers, text, padding, data that is passed over, and what is derived."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any

from construct import Bytes, Construct, Container, FormatField, SizeofError, StreamError, Subconstruct

from ggcp_schema.constructs.base import Expr, FieldError, end_of, insist, too_short

CHUNK = 1 << 20


class Number(FormatField):
    """A fixed-size little-endian number; `kind` is its name in the reference."""

    def __init__(self, kind: str, code: str) -> None:
        super().__init__("<", code)
        self.kind, self.layout = kind, struct.Struct("<" + code)

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        data = stream.read(self.length)
        try:
            return self.layout.unpack(data)[0]
        except struct.error:
            raise too_short(stream.tell() - len(data), self.length, len(data)) from None


class NaN32(float):
    """A float32 NaN that remembers its bits, which a Python float does not (it quiets signalling ones)."""

    bits: int

    def __new__(cls, bits: int) -> NaN32:
        self = super().__new__(cls, "nan")
        self.bits = bits
        return self


class Float32(Number):
    """An IEEE 754 single that builds back bit for bit."""

    def __init__(self) -> None:
        super().__init__("f32", "f")

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        value = super()._parse(stream, context, path)
        if not math.isnan(value):
            return value
        stream.seek(-4, io.SEEK_CUR)
        return NaN32(int.from_bytes(stream.read(4), "little"))

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        if isinstance(obj, NaN32):
            stream.write(obj.bits.to_bytes(4, "little"))
            return obj
        return super()._build(obj, stream, context, path)


UInt8 = Number("u8", "B")
UInt32 = Number("u32", "L")
Int32 = Number("i32", "l")
Int64 = Number("i64", "q")
F32 = Float32()


class OneOf(Subconstruct):
    """A number that must be one of those allowed: a range, or `{value: meaning}`. Where it does not `matter` to
    what follows, a tolerant parse goes on with any."""

    def __init__(self, subcon: Number, allowed: dict[int, str] | range, *, matters: bool = True) -> None:
        super().__init__(subcon)
        self.kind, self.allowed, self.matters = subcon.kind, allowed, matters

    def __str__(self) -> str:
        if isinstance(self.allowed, range):
            return f"{self.allowed.start} to {self.allowed.stop - 1}"
        numbers = [str(value) if value < 1 << 16 else f"{value:#x}" for value in self.allowed]
        words = [f" ({meaning})" if meaning else "" for meaning in self.allowed.values()]
        return " or ".join(map("".join, zip(numbers, words)))

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        return self._checked(self.subcon._parse(stream, context, path), stream, context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        return self._checked(self.subcon._build(obj, stream, context, path), stream, context)

    def _checked(self, value: int, stream: IO[bytes], context: Container) -> int:
        if value in self.allowed:
            return value
        error = FieldError(stream.tell() - self.subcon.length, str(self), str(value))
        sole = min(self.allowed) if isinstance(self.allowed, dict) and len(self.allowed) == 1 else None
        return insist(error, context, found=None if self.matters else value, expected=sole)


class Name(Bytes):
    """Text of that many bytes, checked against the file first: a false length allocates nothing."""

    kind = "char"

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> bytes:
        length: int = self.length(context)
        if length > 64:
            offset, end = stream.tell(), end_of(stream, context)
            if offset + length > end:
                raise too_short(offset, length, end - offset)
        data = stream.read(length)
        if len(data) != length:
            raise too_short(stream.tell() - len(data), length, len(data))
        return data


class Hole(Name):
    """Bytes without meaning, which are kept as they are."""

    kind = "padding"


class PaddingTo(Construct):
    """Bytes up to the next multiple of `modulus` of the *stream's* offset; kept as they are, zero if not given."""

    kind = "padding"

    def __init__(self, modulus: int) -> None:
        super().__init__()
        self.modulus = modulus
        self.flagbuildnone = True

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> bytes:
        offset = stream.tell()
        length = -offset % self.modulus
        data = stream.read(length)
        if len(data) != length:
            raise too_short(offset, length, len(data))
        return data

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> bytes:
        offset = stream.tell()
        length = -offset % self.modulus
        data = bytes(length) if obj is None else bytes(obj)
        if len(data) != length:
            raise FieldError(offset, f"{length} bytes of padding", f"{len(data)} (leave it out to have zeros)")
        stream.write(data)
        return data

    def _sizeof(self, context: Container, path: str) -> int:
        raise SizeofError("padding depends on the offset in the stream", path=path)


class Extent:
    """Where data lies in a stream: `offset` and `nbytes`. The bytes are not read until `chunks` is asked."""

    __slots__ = ("nbytes", "offset", "source")

    def __init__(self, offset: int, nbytes: int, source: IO[bytes]) -> None:
        self.offset, self.nbytes, self.source = offset, nbytes, source

    def __repr__(self) -> str:
        return f"Extent(offset={self.offset}, nbytes={self.nbytes})"

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces of at most 1 MiB, from the source, which is opened again if it was closed."""
        source = open(self.source.name, "rb") if self.source.closed else self.source  # noqa: SIM115 - closed below
        try:
            source.seek(self.offset)
            left = self.nbytes
            while left:
                piece = source.read(min(left, CHUNK))
                if not piece:
                    raise StreamError(f"the source of the data at offset {self.offset} is now {left} bytes too short")
                left -= len(piece)
                yield piece
        finally:
            if source is not self.source:
                source.close()


class Payload(Construct):
    """Data that is passed over, never read: parses to its `Extent`; builds from one, or from any buffer."""

    kind = "data"

    def __init__(self, nbytes: Expr) -> None:
        super().__init__()
        self.nbytes = nbytes

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Extent:
        nbytes = self.nbytes(context)
        offset = stream.tell()
        available = end_of(stream, context) - offset
        if nbytes > available:
            raise too_short(offset, nbytes, available)
        stream.seek(nbytes, io.SEEK_CUR)
        return Extent(offset, nbytes, stream)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        data = obj if isinstance(obj, Extent) else memoryview(obj).cast("B")
        wanted = self.nbytes(context)
        if data.nbytes != wanted:
            raise FieldError(stream.tell(), f"{wanted} bytes of data", f"{data.nbytes}")
        for piece in data.chunks() if isinstance(data, Extent) else (data,):
            stream.write(piece)
        return obj

    def _sizeof(self, context: Container, path: str) -> int:
        size: int = self.nbytes(context)
        return size


class Derived(Construct):
    """No bytes: a value that follows from what is already parsed, or from a look ahead. Builds to nothing."""

    kind = "derived"

    def __init__(self, value: Callable[[IO[bytes], Container], Any]) -> None:
        super().__init__()
        self.value = value

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        here = stream.tell()
        try:
            return self.value(stream, context)
        finally:
            stream.seek(here)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        return obj

    def _sizeof(self, context: Container, path: str) -> int:
        return 0


class EndOfFile(Construct):
    """Nothing may follow."""

    kind = "end"

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> None:
        offset, end = stream.tell(), end_of(stream, context)
        if offset != end:
            insist(FieldError(offset, "the end of the file", f"{end - offset} more bytes"), context, found=end)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _sizeof(self, context: Container, path: str) -> int:
        return 0
