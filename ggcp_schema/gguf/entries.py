"""The keys and tensors of a GGUF file, as plain data. Nothing here writes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ggcp_schema.constructs import NaN
from ggcp_schema.errors import UnfitError, UsageError
from ggcp_schema.files.source import CHUNK, Source
from ggcp_schema.files.tensor import BIG, Tensor

Progress = Callable[[int], None]
Transform = Callable[[memoryview], memoryview]

ARCHITECTURE = "general.architecture"
ALIGNMENT = "general.alignment"

INTEGERS = {
    "UINT8": range(1 << 8),
    "INT8": range(-(1 << 7), 1 << 7),
    "UINT16": range(1 << 16),
    "INT16": range(-(1 << 15), 1 << 15),
    "UINT32": range(1 << 32),
    "INT32": range(-(1 << 31), 1 << 31),
    "UINT64": range(1 << 64),
    "INT64": range(-(1 << 63), 1 << 63),
}


QUIET = 1 << 22  # the bit of a float32 NaN that says that it is not a signalling one


@dataclass(frozen=True)
class KeyValue:
    """A key with its GGUF type (`UINT32`, `STRING`, `ARRAY/FLOAT32`, …) and value.

    A `FLOAT32` is the nearest one to the value given. Raises `UnfitError` if the value is out of range for the type;
    values are never wrapped.
    """

    key: str
    type: str
    value: Any

    def __post_init__(self) -> None:
        allowed = INTEGERS.get(self.type)
        if allowed is not None and self.value not in allowed:
            raise UnfitError(
                f"{self.key}: {self.value} is out of range for {self.type}, "
                f"which holds {allowed.start} to {allowed.stop - 1}"
            )
        if self.type == "FLOAT32":
            object.__setattr__(self, "value", to_float32(self.value))


class FileData(NamedTuple):
    """Data that lies in a file: `extents` are (offset, size) in bytes, joined in this order.

    `transform` changes each chunk, but not its size; None copies. `path` is the path of the tensor the data is from.
    """

    path: str
    source: Source
    extents: tuple[tuple[int, int], ...]
    transform: Transform | None = None

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.extents)


class Zeros(NamedTuple):
    """Data of `nbytes` zero bytes."""

    nbytes: int


class TensorEntry(NamedTuple):
    """An F32 tensor: its GGUF name, its shape in ggml order, and where its little-endian data comes from."""

    name: str
    shape: tuple[int, ...]
    data: FileData | Zeros

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


Entry = KeyValue | TensorEntry


def stored(name: str, tensor: Tensor) -> TensorEntry:
    """Return the entry of an F32 tensor that is copied as it is; from big-endian data its bytes are swapped.

    Raises `UsageError` if the tensor is not F32.
    """
    if tensor.type != "F32":
        message = f"{tensor.source.path}: tensor {tensor.path} is {tensor.type}; only F32 tensors can be copied"
        raise UsageError(message, "The trainers' checkpoints contain no others.")
    extents = ((tensor.offset, tensor.nbytes),) if tensor.nbytes else ()
    transform = swapped if tensor.byte_order == BIG else None
    return TensorEntry(name, tensor.shape, FileData(tensor.path, tensor.source, extents, transform))


def swapped(chunk: memoryview) -> memoryview:
    """Return 4-byte elements with the order of their bytes reversed."""
    import numpy as np

    elements: memoryview = np.frombuffer(chunk, "<u4").byteswap().data
    return elements.cast("B")


def key_values(entries: Sequence[Entry]) -> list[KeyValue]:
    """Return the key-values among the entries."""
    return [entry for entry in entries if isinstance(entry, KeyValue)]


def tensor_entries(entries: Sequence[Entry]) -> list[TensorEntry]:
    """Return the tensors among the entries."""
    return [entry for entry in entries if isinstance(entry, TensorEntry)]


def sources(entries: Sequence[Entry]) -> list[Source]:
    """Return the files that the tensors' data comes from, each once."""
    found = {
        id(entry.data.source): entry.data.source
        for entry in tensor_entries(entries)
        if isinstance(entry.data, FileData)
    }
    return list(found.values())


def tensor_data(entries: Sequence[TensorEntry]) -> Iterator[memoryview]:
    """Yield the data of the tensors one after another, in chunks of at most 2 MiB of one tensor each.

    Files are read ahead. A chunk is only valid until the next one is requested.
    """
    for source, group in groupby(
        entries, key=lambda entry: entry.data.source if isinstance(entry.data, FileData) else None
    ):
        run = list(group)
        if source is None:
            zeros = memoryview(bytes(min(CHUNK, max((entry.nbytes for entry in run), default=0))))
            yield from (zeros[: min(CHUNK, entry.nbytes - at)] for entry in run for at in range(0, entry.nbytes, CHUNK))
            continue
        data = [entry.data for entry in run if isinstance(entry.data, FileData)]
        chunks = source.stream([extent for item in data for extent in item.extents])
        for item in data:
            left = item.nbytes
            while left:
                chunk = next(chunks)
                left -= len(chunk)
                yield item.transform(chunk) if item.transform else chunk


def to_float32(value: float) -> float:
    """Return the nearest float32, as a Python float. Raises `UnfitError` if there is none.

    A NaN keeps its bits, except that it becomes a quiet one: a conversion between float types does that too.
    """
    if isinstance(value, NaN):
        return NaN(value.bits | QUIET)
    if not math.isfinite(value):
        return value
    try:
        number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise UnfitError(f"{value} is out of range for FLOAT32") from None
    return number
