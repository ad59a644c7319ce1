"""What a GGUF file is to hold: key-values and tensors, in file order. Pure data; nothing here writes."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from ggcp_schema.errors import UnfitError
from ggcp_schema.source import Tensor

Progress = Callable[[int], None]

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


@dataclass(frozen=True)
class KeyValue:
    """A key with its GGUF type (`UINT32`, `STRING`, `ARRAY/FLOAT32`, …) and value.

    Raises `UnfitError` if the value does not fit the type: nothing wraps.
    """

    key: str
    type: str
    value: Any

    def __post_init__(self) -> None:
        fits = INTEGERS.get(self.type)
        if fits is not None and self.value not in fits:
            raise UnfitError(
                f"{self.key}: {self.value} does not fit {self.type}, which holds {fits.start} to {fits.stop - 1}"
            )
        if self.type == "FLOAT32":
            object.__setattr__(self, "value", to_float32(self.value))


class RawTensor(NamedTuple):
    """A tensor that no checkpoint holds: its little-endian F32 bytes, and its shape in ggml order."""

    shape: tuple[int, ...]
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


class TensorEntry(NamedTuple):
    """An F32 tensor by its GGUF name, with where its data comes from."""

    name: str
    source: Tensor | RawTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """In ggml order: the first number is the fastest-varying."""
        return self.source.shape

    @property
    def nbytes(self) -> int:
        return self.source.nbytes


Entry = KeyValue | TensorEntry


def key_values(entries: Sequence[Entry]) -> list[KeyValue]:
    """The key-values among the entries."""
    return [entry for entry in entries if isinstance(entry, KeyValue)]


def tensor_entries(entries: Sequence[Entry]) -> list[TensorEntry]:
    """The tensors among the entries."""
    return [entry for entry in entries if isinstance(entry, TensorEntry)]


def tensor_data(entries: Sequence[TensorEntry]) -> Iterator[memoryview]:
    """The data of the tensors one after another, in pieces of at most 2 MiB of one tensor each, read ahead."""
    for source, run in groupby((entry.source for entry in entries), key=lambda data: getattr(data, "source", None)):
        if source is None:
            yield from (memoryview(raw.data) for raw in run if isinstance(raw, RawTensor))
        else:
            yield from source.stream([(tensor.offset, tensor.nbytes) for tensor in run if isinstance(tensor, Tensor)])


def to_float32(value: float) -> float:
    """The nearest float32, as a Python float. Raises `UnfitError` where there is none."""
    if not math.isfinite(value):
        return value
    try:
        number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise UnfitError(f"{value} does not fit FLOAT32") from None
    return number
