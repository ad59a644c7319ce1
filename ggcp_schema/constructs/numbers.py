"""Numbers of fixed size, which are written back bit for bit."""

from __future__ import annotations

import io
import struct
from math import isnan
from typing import IO, Any, Literal

import construct
from construct import Container

from ggcp_schema.constructs.described import Described, Node, Sizes
from ggcp_schema.constructs.errors import FieldError, too_short

KINDS = dict(
    zip("BbHhLlQqfd?", ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool"), strict=True)
)


class FormatField(Described, construct.FormatField):
    """A fixed-size number. `kind` is its name in the reference, such as `u32`."""

    def __init__(self, endianity: str, format: str) -> None:
        super().__init__(endianity, format)
        self.kind = KINDS[format]
        self.packer = struct.Struct(endianity + format)
        self.order: Literal["little", "big"] = "little" if endianity == "<" else "big"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return number, (self.kind, self.order)

    def reference(self) -> Node:
        return {"kind": self.kind, "size": self.length, "byte_order": self.order}

    def sizes(self) -> Sizes:
        return Sizes(self.length, self.length)

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        data = stream.read(self.length)
        try:
            return self.packer.unpack(data)[0]
        except struct.error:
            raise too_short(stream.tell() - len(data), self.length, len(data)) from None

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        try:
            stream.write(self.packer.pack(obj))
        except (struct.error, OverflowError, TypeError):
            raise FieldError(stream.tell(), f"a value of type {self.kind}", repr(obj)) from None
        return obj

    def unpack_all(self, data: bytes) -> list[Any]:
        """Return the numbers in `data`, which must hold a whole number of them."""
        return [value for (value,) in self.packer.iter_unpack(data)]


class NaN(float):
    """A NaN that keeps its bits. Converting to a Python float would set the quiet bit.

    `size` is that of the number in bytes, 4 or 8. NaNs are equal if their bits are.
    """

    __slots__ = ("bits", "size")  # there may be very many
    bits: int
    size: int

    def __new__(cls, bits: int, size: int = 4) -> NaN:
        self = super().__new__(cls, "nan")
        self.bits, self.size = bits, size
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NaN) and (self.bits, self.size) == (other.bits, other.size)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.bits)

    def __reduce__(self) -> tuple[type[NaN], tuple[int, int]]:
        return NaN, (self.bits, self.size)


class FloatField(FormatField):
    """An IEEE 754 number that is written back bit for bit: a NaN is parsed to a `NaN`."""

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        data = stream.read(self.length)
        try:
            value = self.packer.unpack(data)[0]
        except struct.error:
            raise too_short(stream.tell() - len(data), self.length, len(data)) from None
        return NaN(int.from_bytes(data, self.order), self.length) if isnan(value) else value

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        if isinstance(obj, NaN):
            stream.write(obj.bits.to_bytes(self.length, self.order))
            return obj
        return super()._build(obj, stream, context, path)

    def unpack_all(self, data: bytes) -> list[Any]:
        values = super().unpack_all(data)
        if any(map(isnan, values)):
            stream = io.BytesIO(data)
            return [self._parse(stream, Container(), "") for _ in values]
        return values


class _Flag(FormatField):
    """A byte that is 0 or 1, parsed to False or True. Another number is kept as it is."""

    def __init__(self) -> None:
        super().__init__("<", "B")
        self.kind = "bool"

    def __reduce__(self) -> str:
        return "Flag"

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> bool | int:
        value: int = super()._parse(stream, context, path)
        return bool(value) if value < 2 else value

    def unpack_all(self, data: bytes) -> list[Any]:
        return [bool(value) if value < 2 else value for value in data]


Flag = _Flag()
Int8ul, Int8sl = FormatField("<", "B"), FormatField("<", "b")
Int16ul, Int16sl = FormatField("<", "H"), FormatField("<", "h")
Int32ul, Int32sl = FormatField("<", "L"), FormatField("<", "l")
Int64ul, Int64sl = FormatField("<", "Q"), FormatField("<", "q")
Float32l, Float64l = FloatField("<", "f"), FloatField("<", "d")
Int16ub, Int16sb = FormatField(">", "H"), FormatField(">", "h")
Int32ub, Int32sb = FormatField(">", "L"), FormatField(">", "l")
Int64ub, Int64sb = FormatField(">", "Q"), FormatField(">", "q")
Float32b, Float64b = FloatField(">", "f"), FloatField(">", "d")

BY_ORDER = {
    (field.kind, order): field
    for order, fields in {
        "little": (Int8ul, Int8sl, Int16ul, Int16sl, Int32ul, Int32sl, Int64ul, Int64sl, Float32l, Float64l),
        "big": (Int8ul, Int8sl, Int16ub, Int16sb, Int32ub, Int32sb, Int64ub, Int64sb, Float32b, Float64b),
    }.items()
    for field in fields
}


def number(kind: str, order: str) -> FormatField:
    """Return the field of a kind of number, such as `u32`, in a byte order: "little" or "big"."""
    return BY_ORDER[kind, order]
