"""The values that a path means: of a leaf, elements of a list or of a tensor's data, a parameter in a flat vector.

Everything is an iterator, so that no more of a file is in memory than is being shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.constructs import Extent, Field, counted
from ggcp_schema.errors import PathError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.paths import LAST_INDEX
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import FLAT_FIELDS, RESUME_ORDER, PartPath, parse_part_path, vector_part

if TYPE_CHECKING:
    from ggcp_schema.formats.parsed import ParsedFile

INDEX = re.compile(r"-?\d{1,18}(?:, ?-?\d{1,18})*")
SLICE = re.compile(r"(-?\d{1,18})?:(-?\d{1,18})?")
AT_ONCE = 1 << 12  # values of a list that are parsed at a time
MAX_QUOTED = 40  # characters of an index that an error repeats
MAX_FIELDS = 16  # names that an error lists


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
        tensor: the part of a flat vector, if the values are a whole one.
        count: how many there are.
        is_whole: False if damage may have taken some of them.
    """

    path: str
    type: str
    offset: int
    size: int
    single: bool
    chunks: Callable[[], Iterator[list[Any]]] = field(repr=False)
    note: str = ""
    tensor: Tensor | None = None
    count: int = 1
    is_whole: bool = True

    def value(self) -> Any:
        """Return the value, or the list of all values."""
        values = [value for chunk in self.chunks() for value in chunk]
        return values[0] if self.single else values


@dataclass(frozen=True)
class Elements:
    """Values that can be indexed.

    `chunks(start, stop)` yields those from `start` to `stop` in lists. `offset_of(index)` is where one lies in the
    file; with `count` as the index, the end of the last. Damage ended the list if it is `truncated`, and may have taken
    any of the values if it is `doubtful`.
    """

    type: str
    count: int
    offset_of: Callable[[int], int]
    chunks: Callable[[int, int], Iterator[list[Any]]]
    note: str = ""
    truncated: bool = False
    doubtful: bool = False
    tensor: Tensor | None = None

    def values(self, path: str, start: int, stop: int, *, single: bool = False) -> Values:
        """Return the values from `start` to `stop`."""
        begin, end = self.offset_of(start), self.offset_of(stop)
        whole = self.tensor if (start, stop) == (0, self.count) else None
        chunks = partial(self.chunks, start, stop)
        from_end = "-" in path[path.rfind("[") :]
        is_whole = not self.doubtful and (not self.truncated or (stop < self.count and not from_end))
        return Values(path, self.type, begin, end - begin, single, chunks, self.note, whole, stop - start, is_whole)


def values_of(file: ParsedFile, found: Field, path: str) -> Values:
    """Return the value of a leaf, or all values of a list or of data. Raises `UsageError` for a record."""
    if isinstance(found.value, Extent) or (found.is_list and _holds_leaves(found)):
        sequence = _sequence(file, found, path)
        return sequence.values(path, 0, sequence.count)
    if not found.is_leaf:
        raise _not_a_value(found, path)
    return Values(path, found.type, found.offset, found.size, True, lambda: iter([[found.value]]))


def elements_at(file: ParsedFile, path: str) -> Values | None:
    """Return the elements at a path that is not that of a field; None if there is nothing.

    The path is an index or a slice of a field, `PATH[i]`, `PATH[a:b]`, `PATH[row,column]` or `PATH[row,a:b]`; a part of
    a flat vector, `optimizer.state.m[layers[0].wq]`; or an index or a slice of such a part.
    """
    match = LAST_INDEX.fullmatch(path)
    if match is not None and not match["index"][:1].isalpha():
        stem, index = match["stem"], match["index"]
        whole = file.field(stem)
        sequence = _part_at(file, stem) if whole is None else _sequence(file, whole, stem)
        if sequence is not None:
            return _at_index(file, path, sequence, stem, index)
    sequence = _part_at(file, path)
    return None if sequence is None else sequence.values(path, 0, sequence.count)


def _holds_leaves(field: Field) -> bool:
    inner = field.children()
    return not inner or inner[0].is_leaf


def _not_a_value(field: Field, path: str) -> UsageError:
    if field.is_list:
        count = len(field.children())
        return UsageError(
            f"{path} is a list of {counted(count, 'record')}, not a value",
            f"Its elements are {path}[0] to {path}[{count - 1}].",
        )
    names = [child.name for child in field.children()]
    more = f" and {len(names) - MAX_FIELDS} more" if len(names) > MAX_FIELDS else ""
    if isinstance(field.value, Container) and isinstance(field.value.get("data"), Extent):
        hint = f"Its values are {path}.data, the first four of them {path}[0:4]."
        return UsageError(f"{path} is a tensor, not a value", hint)
    hint = f"Its fields are: {', '.join(names[:MAX_FIELDS])}{more}."
    return UsageError(f"{path or 'the file'} is a record, not a value", hint)


def _at_index(file: ParsedFile, path: str, sequence: Elements, stem: str, index: str) -> Values:
    """Return the value at an index, or the values of a slice, of a sequence."""
    count = sequence.count
    sequence = replace(sequence, note=sequence.note or _file_order(sequence, stem, index))
    sizes = [count] if sequence.tensor is None else [*sequence.tensor.shape[::-1]]
    row, comma, last = index.rpartition(",")
    match = SLICE.fullmatch(last.strip())
    if match is None:
        position = _position(index, sizes if comma else [count])
    elif (position := _position(row, sizes[:-1]) if comma else 0) is not None:
        length = sizes[-1] if comma else count
        start, stop, _ = slice(*(None if text is None else int(text) for text in match.groups())).indices(length)
        return sequence.values(path, position * length + start, position * length + max(start, stop))
    if position is None:
        if file.damage is not None and sequence.truncated:
            raise file.damage.again()
        raise PathError(
            f"{stem} has no element [{index if len(index) <= MAX_QUOTED else f'{index[:MAX_QUOTED]}…'}]",
            f"It has {counted(count, 'element')}{_rows(sequence)}; [-1] is the last." if count else "It is empty.",
        )
    return sequence.values(path, position, position + 1, single=True)


def _file_order(sequence: Elements, stem: str, index: str) -> str:
    """Return how to ask for a row, if one may be meant; empty where the data itself is indexed."""
    is_matrix = sequence.tensor is not None and len(sequence.tensor.shape) == 2
    if not is_matrix or "," in index or stem.endswith(".data"):
        return ""
    return f"elements count in file order; {stem}[ROW,:] is a row"


def _position(index: str, sizes: Sequence[int]) -> int | None:
    """Return where the element of a matrix of these sizes, `row,column` as in numpy, is; None if there is none."""
    numbers = [int(number) for number in index.split(",")] if INDEX.fullmatch(index) else []
    if len(numbers) != len(sizes) or not all(-size <= number < size for number, size in zip(numbers, sizes)):
        return None
    position = 0
    for number, size in zip(numbers, sizes):
        position = position * size + number % size
    return position


def _rows(sequence: Elements) -> str:
    """Return how the elements are indexed, in words."""
    if sequence.tensor is None or len(sequence.tensor.shape) != 2:
        return ". Give [i] or [a:b]"
    length, count = sequence.tensor.shape
    return f" in {counted(count, 'row')} of {length}. Give [i], [a:b], [row,column] or [row,a:b]"


def _sequence(file: ParsedFile, field: Field, path: str) -> Elements:
    """Return the elements of data, of a tensor record's data, or of a list. Raises `UsageError` for other fields."""
    data = field if field.is_leaf or field.is_list else field.child("data")
    if data is not None and isinstance(data.value, Extent):
        tensor = file.tensor_of_data(data) or file.tensors.get(path.removesuffix(".data"))  # of data that is shared
        if tensor is None or not tensor.nbytes:
            return Elements("f32", 0, lambda index: data.offset, lambda start, stop: iter(()))
        return replace(_elements_of([tensor]), doubtful=data.parent is not None and not data.parent.is_whole)
    if field.is_list:
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
            yield field.value[at : min(at + AT_ONCE, stop)]

    def offset_of(index: int) -> int:
        return field.end if index == count else field.children()[index].offset

    return Elements(field.element_type, count, offset_of, chunks, truncated=not field.is_whole)


def _part_at(file: ParsedFile, path: str) -> Elements | None:
    """Return the values of the part of a flat vector that a path means; None if it means none.

    Of `lms` and `lmy`, which have a column for each iteration that L-BFGS remembers, these are the parameter's values
    in the first column, then those in the second, and so on.
    """
    part_path = parse_part_path(path.removesuffix(".data"))
    if part_path is None:
        return None
    parts, note = parts_of(file, part_path)
    return _elements_of(parts, note) if parts else None


def _elements_of(tensors: Sequence[Tensor], note: str = "") -> Elements:
    """Return the elements of tensors that count as one after the other."""
    tensors[0].check_readable()
    length, nbytes = tensors[0].block

    def pieces(start: int, stop: int) -> Iterator[tuple[Tensor, int, int]]:
        passed = 0
        for tensor in tensors:
            begin, end = max(start - passed, 0), min(stop - passed, tensor.n_elements)
            if begin < end:
                yield tensor, begin, end
            passed += tensor.n_elements

    def chunks(start: int, stop: int) -> Iterator[list[Any]]:
        for tensor, begin, end in pieces(start, stop):
            for at in range(begin, end, AT_ONCE):
                yield tensor.numbers(at, min(at + AT_ONCE, end))

    def offset_of(index: int) -> int:
        tensor, begin, _ = next(pieces(index, index + 1), (tensors[-1], tensors[-1].n_elements, 0))
        return tensor.offset + begin // length * nbytes

    count = sum(tensor.n_elements for tensor in tensors)
    whole = tensors[0] if len(tensors) == 1 else None
    return Elements(tensors[0].type.lower(), count, offset_of, chunks, note, tensor=whole)


# The parts of the optimizer's flat vectors that belong to the parameters of the model -----------------------


def parts_of(file: ParsedFile, part_path: PartPath, order: str | None = None) -> tuple[list[Tensor], str]:
    """Return the parts of a flat vector that belong to a parameter, as `VectorPart.of`, and a note if unproven.

    `order` is what the user states. Raises `PathError` for an unknown parameter or vector, and `UsageError` if the
    order of the parameters in the vectors is not known, or not the one stated.
    """
    vector = file.state_tensors.get(part_path.field)
    if vector is None or vector.is_null:
        raise file.unknown_path(str(part_path) if file.field(whole := f"{STATE}{part_path.field}") else whole)
    decision = file.order_or(order)
    is_zero = decision.harmless and part_path.field in {"m", "v"}  # the same in every order
    known = RESUME_ORDER if is_zero else decision.order
    if known is None:
        raise UsageError(
            f"{file.path}: which values of {vector.path} belong to {part_path.parameter} is not known: "
            f"{decision.reason}",
            f"The whole vector is {vector.path}. An order that you know, `extract --order` or moments(order=…) takes.",
        )
    part = vector_part(known, file.model_tensors, part_path.parameter)
    note = "" if is_zero or decision.is_certain else f"order {known} of the parameters is likely, not proven"
    return part.of(vector, str(part_path), file.model_tensors[part.path].shape, file.model_tensors.n_elements), note


def moments_of(
    file: ParsedFile, paths: Iterable[str], order: str | None
) -> tuple[dict[str, dict[str, Any]], Iterable[str]]:
    """Return the arrays of parameters by path and state field, as `ParsedFile.moments`, and notes if unproven."""
    if not any(name in FLAT_FIELDS for name in file.state_tensors):
        raise file.damage or UsageError(f"{file.path} has no state of an optimizer", "A checkpoint has one.")
    if not file.model_tensors:
        hint = f"The whole vectors are {', '.join(STATE + name for name in file.state_tensors if name in FLAT_FIELDS)}."
        raise UsageError(f"{file.path}: which moments belong to which part of an adapter is not told", hint)
    found, notes = {}, set[str]()
    for path in paths:
        found[path], unproven = _moments_at(file, path, order)
        notes |= unproven
    return found, sorted(notes - {""})


def _moments_at(file: ParsedFile, path: str, order: str | None) -> tuple[dict[str, Any], set[str]]:
    import numpy as np

    tensor = file[path]
    parameter = file.names_of(tensor)[0] if isinstance(tensor, Tensor) else None
    if parameter is None or parameter not in file.model_tensors:
        raise PathError(f"{path} is not a parameter of the model")
    n_params, shape, notes, found = file.model_tensors.n_elements, tensor.shape[::-1], set[str](), {}
    for name, vector in file.state_tensors.items():
        if name not in FLAT_FIELDS or vector.shape[:1] != (n_params,):
            continue
        parts, note = parts_of(file, PartPath(name, parameter), order)
        arrays, notes = [part.array() for part in parts], notes | {note}
        if len(vector.shape) > 1:
            arrays = [np.reshape(arrays, (*vector.shape[1:], *shape)).astype(np.float32, copy=False)]
            arrays[0].flags.writeable = False
        found[name] = arrays[0]
    return found, notes
