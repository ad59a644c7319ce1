"""Leaf fields other than numbers: rules for values, bytes, text, padding, and computed values."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import IO, Any

import construct
from construct import Construct, Container, Subconstruct

from ggcp_schema.constructs.described import Described, Node, Sizes, number_text, reference_of, rule_text, sizes_of
from ggcp_schema.constructs.errors import FieldError, count_bytes, counted, report
from ggcp_schema.constructs.expressions import compiled, expression_text, expression_tree
from ggcp_schema.constructs.extents import Extent, skip
from ggcp_schema.constructs.streams import CHUNK, position, read_exactly, stream_end

MOST_READ = 1 << 16  # bytes of padding
MOST_LISTED = 8  # valid numbers in a message
NEAR = 1 << 16  # how much larger than the valid numbers one is at most that is among later ones

# Rules -----------------------------------------------------------------------------------------------------


class Const(Described, construct.Const):
    """A field that must hold a value: a constant, or the value of an expression of earlier fields.

    `tolerable` is the range of wrong numbers that a tolerant parse may keep. `above` is that of `OneOf`.
    """

    def __init__(
        self, value: Any, subcon: Construct | None = None, *, tolerable: range | None = None, above: str = ""
    ) -> None:
        if subcon is None:
            subcon = Bytes(len(value))
        super().__init__(value, subcon)
        self.flagbuildnone = True
        self.tolerable, self.above = tolerable, above
        self.dynamic, self.value_of = callable(value), compiled(value)

    def reference(self) -> Node:
        return reference_of(self.subcon) | {"equals": expression_tree(self.value)}

    def sizes(self) -> Sizes:
        return sizes_of(self.subcon)

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        found = self.subcon._parse(stream, context, path)
        expected = self.value_of(context)
        if found == expected:
            return found
        return self._report(found, expected, stream.tell() - self.subcon._sizeof(context, ""), context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        expected = self.value_of(context)
        if obj is not None and obj != expected:
            self._report(obj, expected, stream.tell(), context)
        return self.subcon._build(expected, stream, context, path)

    def _report(self, found: Any, expected: Any, offset: int, context: Container) -> Any:
        words = number_text(expected)
        is_magic = words.startswith("0x") and isinstance(found, int)
        found_words = f"{found:#x}" if is_magic and number_text(found).isdecimal() else number_text(found)
        if self.dynamic:
            words += f" ({expression_text(self.value)})"
        usable = isinstance(found, int) and (self.tolerable is None or found in self.tolerable)
        kept = found if usable else None
        error = FieldError(offset, words, found_words)
        return report(_later(error, found, expected, self.above) if self.above else error, context, found=kept)


class OneOf(Described, Subconstruct):
    """A number that must be among `valids`: a collection, or a mapping from the valid numbers to their meaning.

    `critical=False` means that later fields do not depend on the value, so that a tolerant parse may keep a wrong one.
    With `others`, numbers that are not among `valids` are accepted, and have no meaning. `above` is what a message adds
    to a number that is larger than all of them, by `near` at most: a later program may have written it.
    """

    def __init__(
        self,
        subcon: Construct,
        valids: Collection[int] | Mapping[int, str],
        *,
        critical: bool = True,
        others: bool = False,
        above: str = "",
        near: int = NEAR,
    ) -> None:
        super().__init__(subcon)
        self.valids, self.critical, self.others, self.above, self.near = valids, critical, others, above, near

    def reference(self) -> Node:
        return reference_of(self.subcon) | self._rule()

    def sizes(self) -> Sizes:
        return sizes_of(self.subcon)

    def _rule(self) -> Node:
        if isinstance(self.valids, range):
            return {"range": [self.valids.start, self.valids.stop - 1]}
        if isinstance(self.valids, Mapping):
            key = "meanings" if self.others else "names"
            return {key: {str(value): meaning for value, meaning in self.valids.items()}}
        return {"one_of": list(self.valids)}

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        value = self.subcon._parse(stream, context, path)
        if value in self.valids or self.others:
            return value
        return self._report(value, stream.tell() - self.subcon._sizeof(context, ""), context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        if obj not in self.valids and not self.others:
            self._report(obj, stream.tell(), context)
        return self.subcon._build(obj, stream, context, path)

    def _report(self, value: Any, offset: int, context: Container) -> Any:
        return report(self._error(value, offset), context, found=None if self.critical else value)

    def _error(self, value: Any, offset: int) -> FieldError:
        error = FieldError(offset, rule_text(self._rule(), MOST_LISTED), number_text(value))
        return _later(error, value, max(self.valids), self.above, self.near) if self.above else error


def _later(error: FieldError, value: int, greatest: int, words: str, near: int = NEAR) -> FieldError:
    """Return an error with these words added for a number that exceeds the greatest valid one by `near` at most."""
    if 0 < value - greatest <= near:
        error.found, error.is_unknown = error.found + words, True
    return error


# Bytes and text --------------------------------------------------------------------------------------------


class Bytes(Described, construct.Bytes):
    """A number of bytes, which may be an expression."""

    kind = "bytes"

    def __init__(self, length: Any) -> None:
        super().__init__(length)
        self.length_of = compiled(length)

    def reference(self) -> Node:
        return {"kind": self.kind, "size": expression_tree(self.length)}

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> bytes:
        return read_exactly(stream, self.length_of(context), context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        length = self.length_of(context)
        if not isinstance(obj, bytes | bytearray | memoryview):
            raise FieldError(stream.tell(), f"{length} bytes", repr(obj))
        if len(obj) != length:
            raise FieldError(stream.tell(), f"{length} bytes", str(len(obj)))
        stream.write(obj)
        return obj


class Chars(Bytes):
    """Bytes that are text without a terminator. They are kept as bytes, since they may not be valid UTF-8."""

    kind = "char"


class PascalString(Described, Construct):
    """Text preceded by its length in bytes. Invalid UTF-8 is kept as surrogate escapes and written back unchanged.

    A length above `longest` is an error, so that a wrong one does not fill the memory.
    """

    kind = "string"

    def __init__(self, lengthfield: Construct, encoding: str = "utf-8", *, longest: int = sys.maxsize) -> None:
        super().__init__()
        self.lengthfield, self.encoding, self.longest = lengthfield, encoding, longest

    def reference(self) -> Node:
        length = reference_of(self.lengthfield)
        return {"kind": "string", "length": length, "encoding": self.encoding, "longest": self.longest}

    def sizes(self) -> Sizes:
        return Sizes(sizes_of(self.lengthfield).least)

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> str:
        length = self.lengthfield._parse(stream, context, path)
        if length > self.longest:
            offset = stream.tell() - sizes_of(self.lengthfield).least
            raise FieldError(offset, f"at most {self.longest} bytes of text", str(length))
        return read_exactly(stream, length, context).decode(self.encoding, "surrogateescape")

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        if not isinstance(obj, str):
            raise FieldError(stream.tell(), "text", repr(obj))
        data = obj.encode(self.encoding, "surrogateescape")
        self.lengthfield._build(len(data), stream, context, path)
        stream.write(data)
        return obj


def recomputes(context: Container) -> bool:
    """Return True if a build corrects computed values and the lengths of paddings: `build(…, recompute=True)`."""
    return bool(context["_params"].get("recompute"))


class Padding(Described, Construct):
    """Padding. Unlike construct's, its bytes are kept and written back; zeros are written if none are given.

    It is `size` bytes long, or ends at the next multiple of `multiple_of`, or at the offset `until`; give one of them,
    which may be an expression. Offsets count from the start of the stream, not of the record. With `optional` the
    stream may end before or inside the padding. Padding of more than 64 KiB is not read: it is parsed to an `Extent`.
    """

    kind = "padding"

    def __init__(self, size: Any = None, *, multiple_of: Any = None, until: Any = None, optional: bool = False) -> None:
        super().__init__()
        self.flagbuildnone = True
        self.size, self.multiple_of, self.until, self.optional = size, multiple_of, until, optional
        self.size_of, self.multiple_of_of, self.until_of = map(compiled, (size, multiple_of, until))

    def reference(self) -> Node:
        if self.until is not None:
            return {"kind": "padding", "until": expression_tree(self.until)}
        if self.multiple_of is not None:
            multiple = expression_tree(self.multiple_of)
            return {"kind": "padding", "to_multiple_of": multiple, "optional": self.optional}
        return {"kind": "padding", "size": expression_tree(self.size)}

    def _length(self, here: int, context: Container) -> int:
        length: int
        if self.until is not None:
            end = self.until_of(context)
            if end < here:
                expected = f"{expression_text(self.until)} to be at least {here}, the end of what precedes it"
                raise FieldError(here, expected, str(end))
            length = end - here
        elif self.multiple_of is not None:
            length = -here % self.multiple_of_of(context)
        else:
            length = self.size_of(context)
        return length

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> bytes | Extent:
        here = position(stream)
        length = self._length(here, context)
        if self.optional:
            length = min(length, stream_end(stream, context) - here)
        return read_exactly(stream, length, context) if length <= MOST_READ else skip(stream, length, context)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        length = self._length(stream.tell(), context)
        if obj is not None and not isinstance(obj, bytes | bytearray | memoryview | Extent):
            raise FieldError(stream.tell(), f"{count_bytes(length)} of padding", repr(obj))
        size = length if obj is None else obj.nbytes if isinstance(obj, Extent) else len(obj)
        if size > length or (size < length and not self.optional):
            if not recomputes(context):
                found = f"{size} (omit it to get zeros)"
                raise FieldError(stream.tell(), f"{count_bytes(length)} of padding", found)
            obj = None
        if obj is None and length > MOST_READ and recomputes(context):  # by a wrong offset, gigabytes
            raise FieldError(stream.tell(), f"at most {MOST_READ:,} bytes of new padding", f"{length:,}")
        if isinstance(obj, Extent):
            obj.copy_to(stream)
        elif obj is not None:
            stream.write(obj)
        else:
            for at in range(0, length, CHUNK):
                stream.write(bytes(min(CHUNK, length - at)))
        return obj

    def _sizeof(self, context: Container, path: str) -> int:
        if self.size is None:
            raise construct.SizeofError("the size of padding depends on the offset in the stream", path=path)
        size: int = self.size_of(context)
        return size


# Values without bytes --------------------------------------------------------------------------------------


class Computed(Described, construct.Computed):
    """A computed value that occupies no bytes: a constant, an expression, or a function of the context.

    The function may look ahead in `context._io`, whose position is restored. When building, the value is computed
    again from the object, and a different value given for it is an error, unless the build has `recompute=True`.
    """

    kind = "derived"

    def __init__(self, func: Any) -> None:
        super().__init__(func)
        self.value_of = compiled(func)

    def reference(self) -> Node:
        return {"kind": "computed", "value": expression_tree(self.func)}

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        here = stream.tell()
        try:
            return self.value_of(context)
        finally:
            stream.seek(here)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        value = self.value_of(context)
        if obj is not None and obj != value and not recomputes(context):
            raise FieldError(stream.tell(), f"{value} (it follows from other fields)", str(obj))
        return value


class _Empty(Described, Construct):
    """A field without bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.flagbuildnone = True

    def _sizeof(self, context: Container, path: str) -> int:
        return 0


class _Pass(_Empty):
    """A field without bytes or value. Unlike construct's, building it from a value is an error."""

    kind = "nothing"

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> None:
        return None

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        if obj is not None:
            raise FieldError(stream.tell(), "no value: the field does not exist here", repr(obj))


Pass = _Pass()


class _Terminated(_Empty):
    """The end of the stream: nothing may follow."""

    kind = "end"

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> None:
        offset, end = stream.tell(), stream_end(stream, context)
        if offset != end:
            found = counted(end - offset, "more byte")
            report(FieldError(offset, "the end of the file", found), context, found=end)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        return None


Terminated = _Terminated()
