"""Look up what a path means: a field, elements of a list or of a tensor's data, or a range of bytes.

Everything is an iterator, so that no more of a file is in memory than is being shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from construct import ConstructError, Container, ListContainer

from ggcp_schema.constructs import Extent, Field, LazyList
from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.tensors import listing, model_of, order_of, state_of
from ggcp_schema.inspect.text import count_text, element_type, shorten
from ggcp_schema.llama.moments import Moments, parse_moments
from ggcp_schema.llama.names import STATE, tensor_name
from ggcp_schema.llama.parameters import RESUME_ORDER, piece_of

LAST_INDEX = re.compile(r"(?P<stem>.+)\[(?P<index>[^\[\]]*)\]", re.DOTALL)
INDEX = re.compile(r"-?\d{1,18}")
SLICE = re.compile(r"(-?\d{1,18})?:(-?\d{1,18})?")
NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|\d{1,18}")
RANGE = re.compile(r"(?P<target>.*?)(?::(?P<length>[^\]]*))?", re.DOTALL)  # the colon of a slice is in brackets
AT_ONCE = 1 << 12  # values of a list that are parsed at a time
MAX_QUOTED = 40  # characters of an index that an error repeats
MAX_FIELDS = 16  # names that an error lists


@contextmanager
def reading(file: File) -> Iterator[None]:
    """Convert the errors of a list that is parsed while it is shown: the file has been changed meanwhile."""
    try:
        yield
    except ConstructError as error:
        file.source.check_unchanged()
        raise FileError(f"{file.path}: {error}") from error


# The fields ------------------------------------------------------------------------------------------------


def resolve(file: File, path: str) -> Field | None:
    """Return the field at a path; None if there is none.

    A tensor may be given by its ggcp path or its GGUF name in any file, followed by `.data` if its data is meant.
    """
    if path in file:
        return file.find(path)
    stem = path.removesuffix(".data")
    name = stem if stem in file else tensor_name(stem, file.get("optimizer.type")) or ""
    if not name or name not in file:
        return None
    found = file.find(name)
    return found if found.is_leaf or stem == path else found.child("data")


def find(file: File, path: str) -> Field:
    """Return the field at a path. Raise `PathError` if there is none, or the damage after which it may be."""
    found = resolve(file, path)
    if found is None:
        raise file.unknown_path(path)
    return found


def elements(field: Field, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """Yield the elements of a list field from `start` to `stop`; those of a `LazyList` are parsed in sequence."""
    items, children = field.value, field.children()
    stop = len(children) if stop is None else stop
    if not isinstance(items, LazyList):
        for index in range(start, stop):
            yield children[index]
        return
    offset = items.offset_of(start)
    for index, value in enumerate(items.iterate(start, stop), start):
        child = Field(field, index, field.construct.subcon, value, offset, field.context)
        offset = child.end
        yield child


def children(field: Field) -> Iterator[Field]:
    """Yield the fields in a record or list, in file order."""
    return elements(field) if is_list(field) else iter(field.children())


def is_list(field: Field) -> bool:
    """Return True if the field is a list."""
    return isinstance(field.value, ListContainer | LazyList)


def leaves(field: Field) -> Iterator[Field]:
    """Yield the leaves at or below the field, in file order. Those that hold bytes cover it without gaps."""
    if field.is_leaf:
        yield field
    else:
        for child in children(field):
            yield from leaves(child)


# Values ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """One value, or a sequence of values that lie one after the other.

    Attributes:
        path: the path that was asked for.
        type: the type of each value, as in the reference: `f32`, `u32`, `string`.
        offset, size: where they lie in the file, in bytes. A computed value has size 0.
        single: True for one value, False for a sequence, which may be empty.
        chunks: yields the values in lists.
        note: what the user should know about them.
    """

    path: str
    type: str
    offset: int
    size: int
    single: bool
    chunks: Callable[[], Iterator[list[Any]]] = field(repr=False)
    note: str = ""

    def value(self) -> Any:
        """Return the value, or the list of all values."""
        values = [value for chunk in self.chunks() for value in chunk]
        return values[0] if self.single else values


def values_at(file: File, path: str) -> Values:
    """Return the values at a path: of a leaf, of a tensor's data, or of a list of leaves.

    `PATH[i]` and `PATH[a:b]` are elements of data and lists as in Python, without a step. Elements of data count in
    file order, so that `[0]` to `[ne[0] - 1]` are the first row. `optimizer.state.m[layers[0].wq]` is the part of a
    flat vector that belongs to a parameter.

    Raises `PathError` for a path that does not exist, `UsageError` for a record, for an index out of range, and for
    data that cannot be read, and the damage if the values may lie after it.
    """
    found = resolve(file, path)
    if found is not None:
        return _whole(file, found, path)
    match = LAST_INDEX.fullmatch(path)
    if match is not None and not match["index"][:1].isalpha():
        stem, index = match["stem"], match["index"]
        whole = resolve(file, stem)
        if whole is not None:
            return _part(file, path, _sequence(file, whole, stem), stem, index)
        moments = parse_moments(stem)
        if moments is not None:
            return _part(file, path, moment_slice(file, moments), stem, index)
    moments = parse_moments(path)
    if moments is not None:
        sequence = moment_slice(file, moments)
        return sequence.values(path, 0, sequence.count)
    raise file.unknown_path(path)


def _whole(file: File, field: Field, path: str) -> Values:
    """Return the value of a leaf, or all values of a list or of data."""
    if isinstance(field.value, Extent) or (is_list(field) and _holds_leaves(field)):
        sequence = _sequence(file, field, path)
        return sequence.values(path, 0, sequence.count)
    if not field.is_leaf:
        raise _not_a_value(field, path)
    return Values(path, field.type, field.offset, field.size, True, lambda: iter([[field.value]]))


def _holds_leaves(field: Field) -> bool:
    inner = field.children()
    return not inner or inner[0].is_leaf


def _not_a_value(field: Field, path: str) -> UsageError:
    if is_list(field):
        count = len(field.children())
        return UsageError(
            f"{path} is a list of {count_text(count, 'record')}, not a value",
            f"Its elements are {path}[0] to {path}[{count - 1}].",
        )
    names = [child.name for child in field.children()]
    more = f" and {len(names) - MAX_FIELDS} more" if len(names) > MAX_FIELDS else ""
    if isinstance(field.value, Container) and isinstance(field.value.get("data"), Extent):
        hint = f"Its values are {path}.data, the first four of them {path}[0:4]."
        return UsageError(f"{path} is a tensor, not a value", hint)
    hint = f"Its fields are: {', '.join(names[:MAX_FIELDS])}{more}."
    return UsageError(f"{path or 'the file'} is a record, not a value", hint)


@dataclass(frozen=True)
class Elements:
    """Values that can be indexed.

    `chunks(start, stop)` yields those from `start` to `stop` in lists; `offset_of(index)` is their place in the file,
    that of `count` the end. With `truncated`, damage ended the list.
    """

    type: str
    count: int
    offset_of: Callable[[int], int]
    chunks: Callable[[int, int], Iterator[list[Any]]]
    note: str = ""
    truncated: bool = False

    def values(self, path: str, start: int, stop: int, *, single: bool = False) -> Values:
        """Return the values from `start` to `stop`."""
        begin, end = self.offset_of(start), self.offset_of(stop)
        return Values(path, self.type, begin, end - begin, single, lambda: self.chunks(start, stop), self.note)


def _part(file: File, path: str, sequence: Elements, stem: str, index: str) -> Values:
    """Return the value at an index, or the values of a slice, of a sequence."""
    count = sequence.count
    match = SLICE.fullmatch(index)
    if match is not None:
        start, stop, _ = slice(*(None if text is None else int(text) for text in match.groups())).indices(count)
        return sequence.values(path, start, max(start, stop))
    if INDEX.fullmatch(index) is None or not -count <= int(index) < count:
        if file.damage is not None and sequence.truncated:
            raise file.damage.again()
        raise UsageError(
            f"{stem} has no element [{shorten(index, MAX_QUOTED)}]",
            f"It has {count_text(count, 'element')}." + (" Give [i] or [a:b]; [-1] is the last." if count else ""),
        )
    position = int(index) % count
    return sequence.values(path, position, position + 1, single=True)


def _sequence(file: File, field: Field, path: str) -> Elements:
    """Return the elements of data, of a tensor record's data, or of a list. Raises `UsageError` for other fields."""
    data = field if field.is_leaf or is_list(field) else field.child("data")
    if data is not None and isinstance(data.value, Extent):
        tensor = file.tensor_of_data(data)
        return _no_elements(data.offset) if tensor is None else _elements_of(tensor, [(0, tensor.n_elements)])
    if is_list(field):
        return _list_of(field, path)
    if field.is_leaf:
        raise UsageError(f"{path} is a single value, not a list")
    raise _not_a_value(field, path)


def _list_of(field: Field, path: str) -> Elements:
    count = len(field.children())

    def chunks(start: int, stop: int) -> Iterator[list[Any]]:
        if not _holds_leaves(field):
            raise _not_a_value(field, path)
        for at in range(start, stop, AT_ONCE):
            yield [element.value for element in elements(field, at, min(at + AT_ONCE, stop))]

    def offset_of(index: int) -> int:
        return field.end if index == count else field.children()[index].offset

    truncated = field.parent is not None and "_size" not in field.parent.value
    return Elements(element_type(field), count, offset_of, chunks, truncated=truncated)


def _no_elements(offset: int) -> Elements:
    return Elements("f32", 0, lambda index: offset, lambda start, stop: iter(()))


def _elements_of(tensor: Tensor, parts: list[tuple[int, int]], note: str = "") -> Elements:
    """Return the elements of a tensor that lie in these parts, each given by its first element and its count."""
    tensor.check_readable()
    length, nbytes = tensor.block
    count = sum(length for _, length in parts)

    def pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
        passed = 0
        for first, length in parts:
            begin, end = max(start - passed, 0), min(stop - passed, length)
            if begin < end:
                yield first + begin, first + end
            passed += length

    def chunks(start: int, stop: int) -> Iterator[list[Any]]:
        for begin, end in pieces(start, stop):
            for at in range(begin, end, AT_ONCE):
                yield tensor.numbers(at, min(at + AT_ONCE, end))

    def offset_of(index: int) -> int:
        begin = next((begin for begin, _ in pieces(index, index + 1)), None)
        if begin is None:  # the end
            begin = parts[-1][0] + parts[-1][1]
        return tensor.offset + begin // length * nbytes

    return Elements(tensor.type.lower(), count, offset_of, chunks, note)


def moment_slice(file: File, moments: Moments) -> Elements:
    """Return the values of a flat vector of the optimizer that belong to one parameter.

    Of `lms` and `lmy`, which have a column for each iteration that L-BFGS remembers, these are the parameter's values
    in the first column, then those in the second, and so on. Raises `PathError` for an unknown parameter or vector,
    and `UsageError` if the order of the parameters in the vectors cannot be told.
    """
    items = listing(file)
    model, state = model_of(items), state_of(items)
    vector = state.get(moments.field)
    if vector is None:
        raise file.unknown_path(f"{STATE}{moments.field}")
    decision = order_of(file, items)
    zero = decision.harmless and moments.field in {"m", "v"}  # the same in every order
    order = RESUME_ORDER if zero else decision.order
    if order is None:
        raise UsageError(
            f"{file.path}: which values of {vector.path} belong to {moments.parameter} is not known: {decision.reason}",
            f"The whole vector is {vector.path}.",
        )
    piece = piece_of(order, model, moments.parameter)
    n_params = sum(tensor.n_elements for tensor in model.values())
    parts = [(column + piece.start, piece.count) for column in range(0, vector.n_elements, n_params)]
    known = decision.is_certain or zero
    return _elements_of(vector, parts, "" if known else f"order {order} of the parameters is likely, not proven")


# Bytes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Bytes of one field, or of none (`field` is None) after damage. `offset` and `size` are in bytes."""

    field: Field | None
    offset: int
    size: int

    @property
    def path(self) -> str:
        """The path of the field; empty if the bytes belong to none."""
        return "" if self.field is None else self.field.path


def place(file: File, where: str) -> tuple[int, int | None]:
    """Return the offset and the size that `PATH`, `OFFSET`, `PATH:LENGTH` or `OFFSET:LENGTH` means, in bytes.

    The size is None for a bare offset. PATH may be a slice, as in `values_at`. Numbers are decimal, or hexadecimal with
    0x. Raises `UsageError`.
    """
    match = RANGE.fullmatch(where)
    target, length = (where, None) if match is None or where in file else match.groups()
    size = None if length is None else number(length)
    if length is not None and not size:
        wrong = f"{shorten(length, MAX_QUOTED)!r} is not a length"
        raise UsageError(f"{shorten(where, MAX_QUOTED)}: {wrong}", "Give PATH:LENGTH or OFFSET:LENGTH, in bytes.")
    offset = number(target)
    if offset is not None:
        if not 0 <= offset < file.size:
            raise UsageError(f"offset {offset} is beyond the end of {file.path} ({count_text(file.size, 'byte')})")
        return offset, size
    offset, own = _extent(file, target)
    if size is None and not own:
        raise UsageError(f"{target} occupies no bytes in {file.path}")
    if offset >= file.size:
        raise UsageError(f"there are no bytes at {target}, the end of {file.path}")
    return offset, own if size is None else size


def _extent(file: File, path: str) -> tuple[int, int]:
    found = resolve(file, path)
    if found is not None:
        return found.offset, found.size
    values = values_at(file, path)
    return values.offset, values.size


def number(text: str) -> int | None:
    """Return a number in decimal, or in hexadecimal with 0x; None if the text is neither."""
    return int(text, 0 if text[:2] in ("0x", "0X") else 10) if NUMBER.fullmatch(text) else None


def pieces(file: File, offset: int, size: int) -> Iterator[Piece]:
    """Yield the fields of a range of the file, each cut to the range, and what follows damage as one piece."""
    end = min(offset + size, file.size)
    for leaf in _leaves_between(file.root, offset, end):
        start, stop = max(leaf.offset, offset), min(leaf.end, end)
        yield Piece(leaf, start, stop - start)
    known = file.root.end
    if end > known:
        yield Piece(None, max(known, offset), end - max(known, offset))


def _leaves_between(field: Field, start: int, stop: int) -> Iterator[Field]:
    """Yield the leaves that hold bytes from `start` to `stop`, in file order."""
    if not field.size or field.offset >= stop or field.end <= start:
        return
    if field.is_leaf:
        yield field
        return
    inner = field.children()
    first = getattr(inner, "index_at", lambda offset: 0)(max(start, field.offset)) or 0
    for child in elements(field, first) if is_list(field) else inner:
        if child.offset >= stop:
            return
        yield from _leaves_between(child, start, stop)
