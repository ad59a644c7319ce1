"""Composite fields: structs and arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count, takewhile
from typing import IO, Any

import construct
from construct import Construct, ConstructError, Container, ListContainer, StopFieldError

from ggcp_schema.constructs.conditions import chosen
from ggcp_schema.constructs.described import Described, Node, Sizes, docs_of, reference_of, sizes_of, unwrap
from ggcp_schema.constructs.errors import FieldError, count_bytes, counted
from ggcp_schema.constructs.expressions import compiled, expression_text, expression_tree
from ggcp_schema.constructs.extents import Hollow
from ggcp_schema.constructs.lists import CopiedList, Records, Row
from ggcp_schema.constructs.shown import Record
from ggcp_schema.constructs.streams import SMALL, position, stream_end

# What construct's classes and the functions of a schema raise; a FieldError of it has the path and the offset.
FOREIGN = (ConstructError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
AtOnce = Callable[[IO[bytes], Container, int], Row | None]
MANY = 10_000  # records, above which an array keeps them as `Records`


class Scope(Container):
    """The context of a Struct's fields, with the same keys as construct's.

    The outermost is its own `_root`, without holding a reference to itself: that cycle would keep all values
    until it is collected.
    """

    def __missing__(self, name: str) -> Any:
        if name == "_root":
            return self
        raise KeyError(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, with which construct's own classes ask for the root."""
        return self[name] if name == "_root" else super().get(name, default)


def new_scope(struct: Construct, stream: IO[bytes] | None, context: Container, *, building: bool = False) -> Scope:
    """Return the context for the fields of a Struct, with the same keys as construct's."""
    scope = Scope(
        _=context,
        _params=context["_params"],
        _parsing=not building,
        _building=building,
        _sizing=False,
        _subcons=struct._subcons,
        _io=stream,
        _index=context.get("_index"),
    )
    root = context.get("_root")
    if root is not None and not getattr(struct, "is_root", False):
        scope["_root"] = root
    return scope


def outermost(params: Mapping[str, Any]) -> Container:
    """Return the context around the outermost Struct. construct's is its own `_params`, and so a reference cycle."""
    return Container({**params, "_params": Container(params)})


class Struct(Described, construct.Struct):
    """A Struct whose errors have the path and the offset of the field, when parsing and when building.

    The container that it parses to has the offset of its first byte as `_offset` and its size as `_size`; the size is
    not there if an error ended the parse inside the Struct. Fields that the Struct does not have are an error when
    building. construct's `parsed` hooks and path strings are skipped, because they take longer than the parsing itself.

    With `root` the Struct is the `_root` of the expressions in it, also where it is a field of another Struct.
    `type_name` is its name in the reference. `at_once` reads the values of a record from the stream, in a context, from
    the offset where the stream is; if it returns None, the fields are parsed one after the other.

    Attributes:
        record: the class of the containers.
    """

    record: type[Container] = Record

    def __init__(
        self, *subcons: Construct, root: bool = False, type_name: str | None = None, at_once: AtOnce | None = None
    ) -> None:
        super().__init__(*subcons)
        self.is_root, self.type_name, self.at_once = root, type_name, at_once
        self.fields: list[tuple[str | None, Construct]] = [(field.name, unwrap(field)) for field in self.subcons]
        self._least = sum(sizes_of(field).least for _, field in self.fields)
        self._names = ("_offset", *(name for name, _ in self.fields if name), "_size")

    def sizes(self) -> Sizes:
        return Sizes(self._least)

    def reference(self) -> Node:
        fields = [{"name": f.name, "type": reference_of(f), "docs": docs_of(f)} for f in self.subcons]
        return {"kind": "struct", "name": self.type_name, "fields": fields}

    def parse_stream(self, stream: IO[bytes], **params: Any) -> Container:
        """Parse a stream. Raises `FieldError` if it does not match the schema."""
        return self._parse(stream, outermost(params), "")

    def resume(self, stream: IO[bytes], kept: Container, **params: Any) -> Container:
        """Parse the fields after the last that `kept` has, from where the stream is."""
        return self._parse(stream, outermost(params), "", kept)

    def build_stream(self, obj: Any, stream: IO[bytes], **params: Any) -> None:
        """Build a value into a stream. Raises `FieldError` if the schema does not allow it."""
        self._build(obj, stream, outermost(params), "")

    def row(self, stream: IO[bytes], context: Container) -> Row | None:
        """Return the values of the next record if `at_once` reads it; else None, and the stream stays where it was."""
        if self.at_once is None:
            return None
        here = position(stream)
        row = self.at_once(stream, context, here)
        if row is None:
            stream.seek(here)
        return row

    def _parse(self, stream: IO[bytes], context: Container, path: str, kept: Container | None = None) -> Container:
        row = self.row(stream, context) if kept is None else None
        if row is not None:
            return self.record(zip(self._names, row))
        here = position(stream)
        scope = new_scope(self, stream, context)
        obj, fields = kept, self.fields
        if obj is None:
            obj = self.record(_offset=here)
        else:
            scope.update(obj)
            fields = fields[1 + max(index for index, (name, _) in enumerate(fields) if name in obj) :]
        for name, field in fields:
            try:
                value = field._parse(stream, scope, path)
            except FieldError as error:
                raise error.within(name, obj) from None
            except StopFieldError:
                break
            except OSError:
                raise
            except FOREIGN as error:
                raise _foreign(error, stream).within(name, obj) from error
            if name:
                obj[name] = scope[name] = value
        obj["_size"] = position(stream) - obj["_offset"]
        return obj

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Container:
        if not isinstance(obj, Mapping):
            if obj is not None:
                raise FieldError(stream.tell(), "a mapping of fields", repr(obj))
            obj = {}
        scope = new_scope(self, stream, context, building=True)
        for name, value in obj.items():
            if name in self._subcons:
                scope[name] = value
            elif str(name)[:1] != "_":
                raise FieldError(stream.tell(), f"one of the fields {', '.join(self._subcons)}", repr(name))
        built = Container()
        for name, field in self.fields:
            if name and name not in obj and not field.flagbuildnone:
                raise FieldError(stream.tell(), "a value", "none").within(name)
            try:
                value = field._build(obj.get(name), stream, scope, path)
            except FieldError as error:
                raise error.within(name) from None
            except StopFieldError:
                break
            except OSError:
                raise
            except FOREIGN as error:
                raise _foreign(error, stream).within(name) from error
            if name:
                built[name] = scope[name] = value
        return built


class Variants(Struct):
    """A Struct in variants with the same fields, whose types differ. It is made with the fields of one of them.

    `of` returns the variant that parsed a value, or builds it; `at` that of a record which begins with `HEAD` bytes.
    """

    HEAD = 64
    of: Callable[[Mapping[str, Any]], Struct]
    at: Callable[[bytes], Struct]

    def _parse(self, stream: IO[bytes], context: Container, path: str, kept: Container | None = None) -> Container:
        if kept is not None:
            return self.of(kept)._parse(stream, context, path, kept)
        here = stream.tell()
        head = stream.read(self.HEAD)
        stream.seek(here)
        return self.at(head)._parse(stream, context, path)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Container:
        return self.of(obj if isinstance(obj, Mapping) else {})._build(obj, stream, context, path)


def _foreign(error: Exception, stream: IO[bytes]) -> FieldError:
    """Return a FieldError for an error of a class that is not from this package."""
    return FieldError(stream.tell(), "a valid field", f"{type(error).__name__}: {str(error).splitlines()[-1]}")


class Array(Described, construct.Array):
    """An Array whose errors have the index of the element.

    A count that the file cannot hold is an error before the first element is parsed. With `unchecked` it is not, so
    that the elements before a cut are parsed: the file's end is the error.

    Attributes:
        ends: the exceptions of an element that end the array before it.
    """

    ends: tuple[type[Exception], ...] = ()

    def __init__(self, count: Any, subcon: Construct, *, unchecked: bool = False) -> None:
        super().__init__(count, unwrap(subcon))
        self.count_of, self.element_size, self.unchecked = compiled(count), sizes_of(subcon).fixed, unchecked

    def reference(self) -> Node:
        count = None if self.count is None else expression_tree(self.count)
        return {"kind": "array", "count": count, "of": reference_of(self.subcon)}

    def _counted(self, stream: IO[bytes], context: Container) -> int:
        count: int = self.count_of(context)
        if not (self.unchecked or 0 <= count <= SMALL):
            self._check_count(count, stream, context)
        return count

    def _check_count(self, count: int, stream: IO[bytes], context: Container) -> None:
        end, here = stream_end(stream, context), stream.tell()
        size = sizes_of(chosen(self.subcon, context)).least
        if count < 0 or count * size > end - here:
            most = max(0, end - here) // max(1, size)
            text = expression_text(self.count) if callable(self.count) else "the count"
            raise FieldError(here, f"{text} to be at most {most} in a file of {count_bytes(end)}", str(count))

    def _indices(self, stream: IO[bytes], context: Container) -> Iterable[int]:
        """Return the indices of the elements to parse."""
        return range(self._counted(stream, context))

    def _parse(self, stream: IO[bytes], context: Container, path: str) -> Any:
        items: Any = ListContainer()
        subcon, are_many = self.subcon, False
        for index in self._indices(stream, context):
            if index == MANY and type(items[0]) is Record:
                items, are_many = Records(items), isinstance(subcon, Struct)
            context["_index"] = index
            try:
                row = subcon.row(stream, context) if are_many else None
                items.append(subcon._parse(stream, context, path) if row is None else row)
            except FieldError as error:
                raise error.within(index, items) from None
            except self.ends:
                break
        return items

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        count = self.count_of(context)
        if isinstance(obj, str | bytes) or not isinstance(obj, Sequence) or len(obj) != count:
            found = str(len(obj)) if isinstance(obj, Sequence) else repr(obj)
            text = f" ({expression_text(self.count)})" if callable(self.count) else ""
            raise FieldError(stream.tell(), counted(count, "element") + text, found)
        self._build_items(obj, stream, context, path)
        return obj

    def _build_items(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> None:
        if isinstance(obj, CopiedList) and not isinstance(stream, Hollow):
            obj.extent.copy_to(stream)
            return
        for index, item in enumerate(obj):
            context["_index"] = index
            try:
                self.subcon._build(item, stream, context, path)
            except FieldError as error:
                raise error.within(index) from None


MOST_ZEROS = 1 << 20  # bytes after the last element of a list to the end


class GreedyRange(Array):
    """Elements up to the end of the stream, or to a `StopIf`. Unlike construct's, it hides no element's error.

    Fewer than `least` bytes before the end are no element, unless the first byte is one of `first`: then an element
    begins there, and its rest is missing. If there are some, nor are zeros up to the end, `MOST_ZEROS` at most.
    """

    ends = (StopFieldError,)

    def __init__(self, subcon: Construct, least: int = 1, first: Collection[int] = ()) -> None:
        super().__init__(None, subcon)
        self.flagbuildnone = True
        self.least, self.first = least, first

    def reference(self) -> Node:
        return super().reference() | {"least": self.least, "first": list(self.first)}

    def _indices(self, stream: IO[bytes], context: Container) -> Iterable[int]:
        end = stream_end(stream, context)
        return takewhile(lambda index: self._follows(stream, end - stream.tell()), count())

    def _follows(self, stream: IO[bytes], left: int) -> bool:
        """Return True if an element follows, or begins, in the bytes that are left."""
        if left <= 0 or not self.first:
            return left >= self.least
        here = stream.tell()
        first = stream.read(1)
        is_zeros = first == b"\0" and left <= MOST_ZEROS and not any(stream.read(left - 1))
        stream.seek(here)
        return first[0] in self.first or (left >= self.least and not is_zeros)

    def _build(self, obj: Any, stream: IO[bytes], context: Container, path: str) -> Any:
        self._build_items(obj or (), stream, context, path)
        return obj
