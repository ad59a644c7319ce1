"""General construct pieces for files that are larger than memory and may be damaged.

They know nothing of ggcp. `Record` and `Items` are construct's `Struct` and `Array` with three additions:
an error that knows the field's path with list indices, its file offset, what was expected and what was
found; a check of every size against the file before anything is read or looped over; and an optional
`Trace` (`parse_stream(f, trace=Trace())`) that collects every leaf with its place in the file.

They bypass construct's `parsed` hooks and its path strings, which cost more than the parsing itself.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from construct import (
    Array,
    Bytes,
    Construct,
    ConstructError,
    Container,
    FormatField,
    IfThenElse,
    ListContainer,
    Renamed,
    StreamError,
    Struct,
    Subconstruct,
)

from ggcp_schema.atomic import atomic_output

CHUNK = 1 << 20
Steps = tuple["str | int", ...]


class FieldError(ConstructError):
    """A field that is not what the layout says.

    `steps` is the way to the field from the root, `offset` where it begins in the file in bytes, `missing`
    the number of bytes by which the file is too short, or None where it is not a matter of length. `partial`
    is what was parsed before it.
    """

    partial: Any = None

    def __init__(
        self, offset: int, expected: str, found: str, *, missing: int | None = None, step: str | int | None = None
    ) -> None:
        super().__init__(expected)
        self.steps: list[str | int] = [] if step is None else [step]
        self.offset, self.expected, self.found, self.missing = offset, expected, found, missing

    def within(self, step: str | int | None, around: Container | ListContainer) -> FieldError:
        """The same error seen from the record or list around the field."""
        if step is not None:
            self.steps.insert(0, step)
            if isinstance(step, int):
                around.append(self.partial)
            else:
                around[step] = self.partial
        self.partial = around
        return self

    def __str__(self) -> str:
        short = "" if self.missing is None else f": the file is {self.missing} bytes too short"
        return (
            f"{format_path(self.steps)} at offset {self.offset} ({self.offset:#x}): "
            f"expected {self.expected}, found {self.found}{short}"
        )


def format_path(steps: list[str | int] | Steps) -> str:
    """`("layers", 1, "wq", "ne", 0)` as `layers[1].wq.ne[0]`; the root is `file`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "file"


class Expr:
    """A number or a condition that follows from earlier fields, with the words for it in the reference."""

    __slots__ = ("text", "value")

    def __init__(self, text: str, value: Callable[[Container], Any]) -> None:
        self.text, self.value = text, value

    def __call__(self, context: Container) -> Any:
        return self.value(context)

    def expected(self, context: Container, found: int) -> int:
        """What a field that states this number must hold, given what it holds."""
        number: int = self(context)
        return number

    def __str__(self) -> str:
        return self.text


class Stated(Expr):
    """A number that is in no field of its own: whoever states it first is believed, all others must agree."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        super().__init__(text, lambda context: context["_params"][text])

    def expected(self, context: Container, found: int) -> int:
        number: int = context["_params"].setdefault(self.text, found)
        return number


def lookup(context: Container, name: str) -> Any:
    """The nearest field of that name: in this record, else in the ones around it."""
    while name not in context:
        context = context["_"]
    return context[name]


class Ref(Expr):
    """An earlier field by its dotted name, sought from the record at hand outwards."""

    __slots__ = ("first", "rest")

    def __init__(self, path: str) -> None:
        self.text = path.rpartition(".")[2]
        self.first, *self.rest = path.split(".")

    def __call__(self, context: Container) -> Any:
        value = lookup(context, self.first)
        for name in self.rest:
            value = value[name]
        return value


def end_of(stream: IO[bytes], context: Container) -> int:
    """The stream's size, measured once a parse."""
    shared = context["_params"]
    if "_end" not in shared:
        here = stream.tell()
        shared["_end"] = stream.seek(0, io.SEEK_END)
        stream.seek(here)
    end: int = shared["_end"]
    return end


def too_short(offset: int, wanted: int, available: int) -> FieldError:
    available = max(available, 0)
    return FieldError(offset, f"{wanted} bytes", f"{available} before the end", missing=wanted - available)


def insist(error: FieldError, context: Container, *, found: int | None = None, expected: int | None = None) -> int:
    """Raises the error, unless a tolerant trace takes note of it; then gives the number to go on with.

    That is the one found or, if the trace mends, the one expected; None where parsing cannot go on with it.
    """
    trace = context["_params"].get("trace")
    number = None if trace is None else expected if trace.mends and expected is not None else found
    if number is None or not trace.tolerant:
        raise error
    trace.note(error)
    return number


# Leaves ----------------------------------------------------------------------------------------------------


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
        raise NotImplementedError


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


# Composites ------------------------------------------------------------------------------------------------


class Record(Struct):
    """A Struct whose errors and traces know where they are."""

    def __init__(self, *subcons: Construct) -> None:
        super().__init__(*subcons)
        self.fields = [(field.name, unlabelled(field)) for field in subcons]

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Container:
        params = context["_params"]
        scope = Container(
            _=context,
            _params=params,
            _root=context.get("_root"),
            _parsing=True,
            _building=False,
            _sizing=False,
            _subcons=self._subcons,
            _io=stream,
            _index=context.get("_index"),
        )
        if scope["_root"] is None:
            scope["_root"] = scope
        trace = params.get("trace")
        obj = Container()
        for name, field in self.fields:
            try:
                value = field._parse(stream, scope, path) if trace is None else trace.parse(name, field, stream, scope)
            except FieldError as error:
                raise error.within(name, obj) from None
            if name:
                obj[name] = scope[name] = value
        return obj

    def build_file(self, obj: Any, filename: str, **contextkw: Any) -> None:
        """Builds into a file, whole or not at all: it may be the one that the data's extents are in."""
        with atomic_output(filename, overwrite=True) as place:
            super().build_file(obj, place, **contextkw)


class Items(Array):
    """An Array. `floor` is the least size of an element in bytes: a count that the file cannot hold fails at
    once, before the first element is read."""

    def __init__(self, count: Expr, subcon: Construct, floor: int) -> None:
        super().__init__(count, subcon)
        self.floor = floor

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> ListContainer:
        count, end = self.count(context), end_of(stream, context)
        if count * self.floor > end:
            most = f"{self.count} to be at most {end // self.floor} in a file of {end} bytes"
            raise FieldError(stream.tell(), most, str(count))
        trace = context["_params"].get("trace")
        items = ListContainer()
        for index in range(count):
            context["_index"] = index
            try:
                if trace is None:
                    items.append(self.subcon._parse(stream, context, path))
                else:
                    items.append(trace.parse(index, self.subcon, stream, context))
            except FieldError as error:
                raise error.within(index, items) from None
        return items


class If(IfThenElse):
    """A field that is there only under a condition; otherwise no bytes, and None."""

    def __init__(self, condition: Expr, subcon: Construct) -> None:
        super().__init__(condition, subcon, Absent())
        self.condition = condition
        self.flagbuildnone = True


class Choice(Construct):
    """One of several records, by a key that is known to be among them."""

    def __init__(self, key: Expr, cases: dict[str, Construct]) -> None:
        super().__init__()
        self.key, self.cases = key, cases

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        return self.cases[self.key(context)]._parse(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        return self.cases[self.key(context)]._build(obj, stream, context, path)

    def _sizeof(self, context: Container, path: str) -> int:
        size: int = self.cases[self.key(context)]._sizeof(context, path)
        return size


class Absent(Construct):
    """No bytes, None."""

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _sizeof(self, context: Container, path: str) -> int:
        return 0


def unlabelled(field: Construct) -> Construct:
    """The construct under its name and notes."""
    while isinstance(field, Renamed):
        field = field.subcon
    return field


# What a trace sees -----------------------------------------------------------------------------------------


class Span(NamedTuple):
    """One leaf of the file: where it is, what it holds, and the construct that says what that means.

    `value` is an `Extent` for data; a derived value has size 0.
    """

    steps: Steps
    kind: str
    offset: int
    size: int
    value: Any
    field: Construct | None = None

    @property
    def path(self) -> str:
        return format_path(self.steps)

    @property
    def text(self) -> str:
        """The value of a `char` leaf as text; what is not UTF-8 as backslash escapes."""
        text: str = self.value.decode("utf-8", "backslashreplace")
        return text


class Trace:
    """Collects the leaves of a parse in file order, up to the damage if there is some.

    A tolerant trace also collects the errors after which parsing can go on, instead of stopping at the first. It
    goes on with the number that was found; one that also `mends` with the number that was expected, where only
    one can be.
    """

    def __init__(self, *, tolerant: bool = False, mends: bool = False) -> None:
        self.tolerant, self.mends = tolerant, mends
        self.steps: list[str | int] = []
        self.spans: list[Span] = []
        self.errors: list[FieldError] = []

    def parse(self, step: str | int | None, field: Construct, stream: IO[bytes], context: Container) -> Any:
        """Parses the field; if that brought no leaves of its own, the field is one."""
        if step is None:
            return field._parse(stream, context, "")
        offset, count = stream.tell(), len(self.spans)
        self.steps.append(step)
        value = field._parse(stream, context, "")
        if len(self.spans) == count and value is not None and not isinstance(value, ListContainer):
            leaf = field.thensubcon if isinstance(field, If) else field
            self.spans.append(Span(tuple(self.steps), leaf.kind, offset, stream.tell() - offset, value, leaf))
        self.steps.pop()  # not on an error: the steps then say where parsing ended
        return value

    def note(self, error: FieldError) -> None:
        error.steps = [*self.steps, *error.steps]
        self.errors.append(error)
