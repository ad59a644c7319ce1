"""The values that the texts of assignments mean: numbers, texts, bytes, and arrays of numpy in files."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import closing
from typing import Any

from ggcp_schema.constructs import Extent, Field, NaN, counted
from ggcp_schema.errors import FileError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import BIG, Tensor
from ggcp_schema.formats.elements import Values
from ggcp_schema.formats.file import File

FLOATS = ("f32", "f64")
INFINITE = "Write inf for infinity."
WORDS = {"true": "1", "false": "0"}
AT = "Write @FILE for the text in a file, @@ for a text that begins with @."
LONGEST_TEXT = 1 << 24  # bytes
ELEMENTS = {"F32": "f4", "F16": "f2"}  # numpy's types of tensors whose data can be set


def value_from(file: File, field: Field, text: str, name: str = "") -> Any:
    """Return the value of a field that a text means. Raises `UsageError` if it means none, `FileError` for a file.

    `name` is what the user called the field, if that is not its path.
    """
    path = name or field.path
    if isinstance(field.value, Extent):
        if not text.startswith("@"):
            raise UsageError(f"{path} is the data of a tensor", f"Write {path}=@FILE.npy, or {path}[:]=NUMBER.")
        return _data(file, field, path, text[1:])
    if isinstance(field.value, bytes):
        return _text(text).encode("utf-8", "surrogateescape") if field.type == "char" else _bytes(field, text)
    if isinstance(field.value, str):
        return _text(text)
    return number_or_text(path, field.type, text, field.value)


def _text(text: str) -> str:
    """Return the text, or what is in the file that it names."""
    if text.startswith("@@") or not text.startswith("@"):
        return text.removeprefix("@")
    if text == "@":
        raise UsageError("@ names no file", AT)
    try:
        opened = Source(text[1:])
    except FileError as error:
        raise error.with_hint(f"{error.hint} {AT}".lstrip()) from error
    with closing(opened) as source:
        if source.size > LONGEST_TEXT:
            raise UsageError(f"{source.path} has {source.size:,} bytes, more than a text may have")
        return source.read(0, source.size).decode("utf-8", "surrogateescape")


def number_or_text(path: str, kind: str, text: str, old: Any = None) -> Any:
    """Return a number or a string of a type that a text means. Raises `UsageError` if it means none."""
    if kind == "string":
        return _text(text)
    try:
        return _float(kind, text, old) if kind in FLOATS else _integer(path, kind, text)
    except OverflowError:
        raise UsageError(f"{path}: {text} is too large for a number of type {kind}", INFINITE) from None
    except ValueError:
        raise UsageError(f"{path} is a number of type {kind}, got {text!r}") from None


def _integer(path: str, kind: str, text: str) -> int:
    number = int(WORDS.get(text.lower(), text), 0)
    if kind == "bool" and number not in (0, 1):
        raise UsageError(f"{path}: expected 0 or 1, found {number}")
    return bool(number) if kind == "bool" else number


def _float(kind: str, text: str, old: Any) -> float:
    """Return the nearest number that the field can hold. A NaN keeps its bits if it is set to NaN."""
    value = float(text)
    if math.isnan(value) and isinstance(old, NaN):
        return old
    if math.isinf(value) and "inf" not in text.lower():
        raise OverflowError
    nearest: float = struct.unpack("<f", struct.pack("<f", value))[0] if kind == "f32" else value
    return nearest


def _bytes(field: Field, text: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{field.path} is bytes, which are written in hex; got {text!r}") from None
    if len(data) != field.size:
        raise UsageError(f"{field.path} has {field.size:,} bytes, got {len(data):,}")
    return data


def elements_from(file: File, field: Field, elements: Values, text: str) -> Any:
    """Return elements of a tensor's data, which the field is, as an array of numpy of the type as they are stored.

    The text is `@FILE.npy`, one number for all, or numbers with commas between them. Raises `UsageError`, `FileError`.
    """
    import numpy as np

    tensor, dtype = _settable(file, field, elements.path)
    count = elements.count
    if elements.size != count * dtype.itemsize:
        raise UsageError(f"{elements.path} does not lie in one place", f"Set parts of {tensor.path} one by one.")
    if text.startswith("@"):
        wanted = f"{count} elements of {dtype.newbyteorder('=')} for {elements.path}"
        return _load(text[1:], dtype, wanted, lambda array: array.size == count).ravel()
    numbers = text.split(",")
    if len(numbers) not in (1, count):
        raise UsageError(f"{elements.path} has {counted(count, 'element')}, got {len(numbers)}")
    try:
        with np.errstate(over="raise"):
            array = np.array([_float("f64", number, None) for number in numbers], np.float64).astype(dtype)
    except (FloatingPointError, OverflowError):
        raise UsageError(f"{elements.path}: {text} is too large for {tensor.type}", INFINITE) from None
    except ValueError:
        raise UsageError(f"{elements.path}: expected numbers of type {tensor.type}, found {text!r}") from None
    return np.broadcast_to(array, count)


def _settable(file: File, field: Field, name: str) -> tuple[Tensor, Any]:
    """Return the tensor whose data a field is, and numpy's type of its elements as they are stored."""
    import numpy as np

    tensor = file.tensor_of_data(field)
    if tensor is None or tensor.type not in ELEMENTS or not tensor.n_elements:
        why = f"is not the data of an {' or '.join(ELEMENTS)} tensor" if field.size else "has no data of its own"
        raise UsageError(f"{name} cannot be set: it {why}")
    return tensor, np.dtype(ELEMENTS[tensor.type]).newbyteorder(">" if tensor.byte_order == BIG else "<")


def _data(file: File, field: Field, name: str, path: str) -> memoryview:
    """Return the elements in a .npy file as the bytes of the tensor's data, which the field is."""
    tensor, stored = _settable(file, field, name)
    shapes = tensor.shape[::-1], (tensor.n_elements,)
    wanted = f"{stored.newbyteorder('=')} of shape {shapes[0]} for {name}"
    data: memoryview = _load(path, stored, wanted, lambda array: array.shape in shapes).data.cast("B")
    return data


def _load(path: str, stored: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
    """Return the array in a .npy file as it is stored in a tensor, if its elements are of that type and it fits."""
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
    if array.dtype.newbyteorder("=") != stored.newbyteorder("=") or not fits(array):
        raise UsageError(f"{path}: expected {wanted}, found {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, stored)
