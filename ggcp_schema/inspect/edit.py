"""Write a copy of a file with some values changed, built by the schema that parsed it."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Sequence
from typing import IO, Any, NamedTuple, cast

from construct import ConstructError, Container, ListContainer
from construct.expr import Path

from ggcp_schema.constructs import (
    Chars,
    Counter,
    Extent,
    Field,
    FieldError,
    LazyList,
    NaN,
    expression_text,
    format_path,
)
from ggcp_schema.errors import FileError, MalformedError, UsageError
from ggcp_schema.files.atomic import atomic_output, check_output
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import BIG
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.file import File, open_source

FLOATS = ("f32", "f64")
WORDS = {"true": "1", "false": "0"}
ELEMENTS = {"F32": "f4", "F16": "f2"}  # numpy's types of tensors whose data can be set


class Assignment(NamedTuple):
    """A change as the command line gives it: the path of a leaf, and its value, or `@FILE.npy` for a tensor's data."""

    path: str
    text: str


class Change(NamedTuple):
    """A change that has been understood: the field, and its new value."""

    field: Field
    value: Any


def parse_assignment(text: str) -> Assignment:
    """Return the parts of `PATH=VALUE`. Raises `UsageError` if it has no `=`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UsageError(f"{text!r} is not an assignment", "Write PATH=VALUE, such as train_its=0.")
    return Assignment(path, value)


def changes(file: File, assignments: Sequence[Assignment]) -> list[Change]:
    """Return the changes that the assignments mean.

    Raises `PathError` for an unknown path, and `UsageError` for a field that cannot be set or a value that its type
    cannot hold.
    """
    wanted: dict[str, Change] = {}
    for assignment in assignments:
        change = _change(file, assignment)
        if change.field.path in wanted:
            raise UsageError(f"{change.field.path} is set twice")
        wanted[change.field.path] = change
    return list(wanted.values())


def _change(file: File, assignment: Assignment) -> Change:
    field = file.find(assignment.path)
    field = field.child("data") or field  # a tensor means its data
    if not field.is_leaf:
        names = ", ".join(child.name for child in field.children()[:8])
        raise UsageError(f"{field.path} is not a single value", f"It consists of {names}." if names else "")
    if field.type == "derived":
        raise UsageError(f"{field.path} follows from other fields, so it cannot be set", field.docs)
    return Change(field, _value(file, field, assignment.text))


def _value(file: File, field: Field, text: str) -> Any:
    if isinstance(field.value, Extent):
        if not text.startswith("@"):
            raise UsageError(f"{field.path} is the data of a tensor", f"Write {field.path}=@FILE.npy.")
        return _data(file, field, text[1:])
    if isinstance(field.value, bytes):
        return text.encode("utf-8", "surrogateescape") if field.type == "char" else _bytes(field, text)
    if isinstance(field.value, str):
        return text
    try:
        return _float(field, text) if field.type in FLOATS else _integer(field, text)
    except (ValueError, OverflowError):
        raise UsageError(f"{field.path} is a number of type {field.type}, got {text!r}") from None


def _integer(field: Field, text: str) -> int:
    number = int(WORDS.get(text.lower(), text), 0)
    if field.type == "bool" and number not in (0, 1):
        raise UsageError(f"{field.path}: expected 0 or 1, found {number}")
    return bool(number) if field.type == "bool" else number


def _float(field: Field, text: str) -> float:
    """Return the nearest number that the field can hold. A NaN keeps its bits if it is set to NaN."""
    value = float(text)
    if math.isnan(value) and isinstance(field.value, NaN):
        return field.value
    if math.isinf(value) and "inf" not in text.lower():
        raise OverflowError
    nearest: float = struct.unpack("<f", struct.pack("<f", value))[0] if field.type == "f32" else value
    return nearest


def _bytes(field: Field, text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{field.path} is bytes, which are written in hex; got {text!r}") from None
    if len(data) != field.size:
        raise UsageError(f"{field.path} has {field.size} bytes, got {len(data)}")
    return data


def _data(file: File, field: Field, path: str) -> memoryview:
    """Return the elements in a .npy file as the bytes of the tensor's data, which the field is."""
    import numpy as np

    array = _load(path)
    tensor = file.tensor_of_data(field)
    if tensor is None or tensor.type not in ELEMENTS or not tensor.n_elements:
        raise UsageError(f"{field.path} cannot be set: it is not the data of an {' or '.join(ELEMENTS)} tensor")
    expected = np.dtype(ELEMENTS[tensor.type])
    shape = tensor.shape[::-1]
    if array.dtype.newbyteorder("=") != expected or array.shape not in (shape, (tensor.n_elements,)):
        wanted = f"{expected} of shape {shape}"
        raise UsageError(f"{path}: expected {wanted} for {field.path}, found {array.dtype} of shape {array.shape}")
    stored = expected.newbyteorder(">" if tensor.byte_order == BIG else "<")
    return np.ascontiguousarray(array, stored).data.cast("B")


def _load(path: str) -> Any:
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path} is not a .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise UsageError(f"{path} contains several arrays", "Save one array with numpy.save.")
    return array


def edit(
    file: File,
    output: str | os.PathLike[str],
    wanted: Sequence[Change],
    *,
    force: bool = False,
    sync: bool = True,
) -> int:
    """Write the file with these changes, completely or not at all, and return the size of the output in bytes.

    Computed values, the lengths of names and the lengths of paddings follow from the rest. The result is parsed again
    before it gets its name. Raises `UsageError` if the schema does not allow a value, `FileError` if a file cannot be
    read or written.
    """
    check_output(output, (file.path,), overwrite=force)
    container = changed(file, wanted)
    with atomic_output(output, overwrite=force, sync=sync) as place:
        with open(place, "wb", buffering=1 << 20) as stream:
            _build(file, container, stream)
        file.source.check_unchanged()
        _check_result(file, place, wanted)
        return os.stat(place).st_size


def check(file: File, wanted: Sequence[Change]) -> int:
    """Check that the schema allows the changes, and return the size that the output would have in bytes.

    No data is read or written. Raises `UsageError`.
    """
    counter = Counter()
    _build(file, changed(file, wanted), cast("IO[bytes]", counter))
    return counter.position


def changed(file: File, wanted: Sequence[Change]) -> Container:
    """Return the parsed values of a file with the changes. The file's own values stay as they are."""
    if file.damage is not None:
        raise file.damage.again()
    container = _copy(file.container)
    for field, value in wanted:
        record = container
        *steps, last = field.steps
        for step in steps:
            record[step] = _copy(record[step])
            record = record[step]
        record[last] = value
        if isinstance(field.construct, Chars) and isinstance(field.construct.length, Path):
            record[expression_text(field.construct.length)] = len(value)
    return container


def _copy(value: Any) -> Any:
    """Return a copy of a record or a list, which shares its elements."""
    return ListContainer(value) if isinstance(value, LazyList | ListContainer) else value.copy()


def _build(file: File, container: Container, stream: IO[bytes]) -> None:
    try:
        file.format.schema.build_stream(container, stream, recompute=True)
    except FieldError as error:
        where = format_path(error.steps)
        raise _refused(f"{where}: expected {error.expected}, found {error.found}") from error
    except ConstructError as error:  # the file has changed since it was parsed
        raise FileError(f"{file.path}: {error}", "Nothing was written.") from error


def _refused(why: str) -> UsageError:
    return UsageError(why, "The format does not allow this value. Nothing was written.")


def _check_result(file: File, place: str, wanted: Sequence[Change]) -> None:
    """Check that the file just built is parsed, and has the values that were wanted."""
    source = Source(place)
    try:
        with open_source(source, file.format, partial=False) as built:
            for field, value in wanted:
                found = built.root.find(field.steps)
                if found is None or not _has(found.value, value):
                    raise _refused(f"{field.path} would not have the value {value!r} in the result")
    except MalformedError as error:
        raise _refused(f"{error.path}: expected {error.expected}, found {error.found}") from error
    finally:
        source.close()


def _has(found: Any, wanted: Any) -> bool:
    """Return True if a field that was set to `wanted` has the value `found` after parsing."""
    if isinstance(wanted, memoryview):
        return isinstance(found, Extent)
    if isinstance(wanted, float) and math.isnan(wanted):
        return isinstance(found, NaN)
    return same_value(found, wanted)
