"""Tensors stored in a file, and the one place where their elements are read."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, Any

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import UsageError
from ggcp_schema.files.source import Source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LITTLE, BIG = "little", "big"
MARKS = {LITTLE: "<", BIG: ">"}  # of struct and numpy
ELEMENT_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""The element types that can be read, with their sizes in bytes."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file. Nothing is read until its elements are asked for.

    Attributes:
        path: its field path (`layers[0].wq`); in a GGUF or ggml file its name.
        name: the name that the file stores.
        shape: in ggml order, the first number the fastest-varying; `()` for a NULL tensor, which has no data.
        offset, nbytes: where the data lies, in bytes.
        type: ggml's name of the element type. It is F32 in every checkpoint.
        byte_order: "little" or "big".
        padding: the number of bytes of padding before the data.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    source: Source = field(repr=False, compare=False)
    type: str = "F32"
    byte_order: str = LITTLE
    padding: int = 0

    @property
    def is_null(self) -> bool:
        """True for a tensor that the program did not have (a NULL pointer)."""
        return not self.shape

    @property
    def is_mapped(self) -> bool:
        """True if `array` maps the data into memory, which is so for little-endian F32; other data is converted."""
        return self.type == "F32" and self.byte_order == LITTLE

    @property
    def n_elements(self) -> int:
        return prod(self.shape) if self.shape else 0

    def array(self) -> npt.NDArray[np.float32]:
        """Return the elements as a read-only float32 array of numpy's shape, which is `shape` reversed.

        Little-endian F32 data, as in every checkpoint, is mapped, not read, and the array outlives the file object.
        Other data is converted, which takes memory. Raises `FileError` if the file is closed or has become too short,
        `UsageError` if the elements cannot be read.
        """
        import numpy as np

        self.check_readable()
        shape = self.shape[::-1] if self.shape else (0,)
        if self.is_mapped:
            return self.source.map(self.offset, self.nbytes).reshape(shape)
        values = np.concatenate([np.empty(0, np.float32), *self.values()]).reshape(shape)
        values.flags.writeable = False
        return values

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes of the data from `start` to `stop`, in chunks of at most 256 KiB with their own memory."""
        stop = self.nbytes if stop is None else stop
        self._check_bounds(start, stop)
        for at in range(start, stop, CHUNK):
            yield memoryview(self.source.read(self.offset + at, min(CHUNK, stop - at)))

    def values(self, start: int = 0, stop: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the elements from `start` to `stop`, in file order, as float32 arrays of at most 2**17 elements."""
        self.check_readable()
        size = ELEMENT_SIZES[self.type]
        for chunk in self.chunks(start * size, None if stop is None else stop * size):
            yield decode(chunk, self.type, self.byte_order)

    def numbers(self, start: int, stop: int) -> list[float]:
        """Return a few elements, from `start` to `stop`, as Python numbers. Unlike `values`, this needs no numpy."""
        self.check_readable()
        size, mark = ELEMENT_SIZES[self.type], MARKS[self.byte_order]
        self._check_bounds(start * size, stop * size)
        data = self.source.read(self.offset + start * size, (stop - start) * size)
        if self.type == "BF16":
            halves = struct.unpack(f"{mark}{stop - start}H", data)
            data = struct.pack(f"{mark}{stop - start}I", *(half << 16 for half in halves))
        return list(struct.unpack(f"{mark}{stop - start}{'e' if self.type == 'F16' else 'f'}", data))

    def _check_bounds(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.nbytes:
            raise UsageError(f"{self.path} has {self.nbytes} bytes of data: there are no bytes {start} to {stop}")

    def check_readable(self) -> None:
        """Check that the elements can be read as float32. Raises `UsageError`."""
        if self.type not in ELEMENT_SIZES:
            raise UsageError(f"{self.path} is {self.type}; only {', '.join(ELEMENT_SIZES)} tensors can be read")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        if copy is False and not (self.is_mapped and (dtype is None or np.dtype(dtype) == np.dtype("<f4"))):
            raise ValueError(f"{self.path} is {self.type}, so an array of {np.dtype(dtype)} is a copy of it")
        array = self.array()
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)


def decode(data: memoryview | bytes, type: str, byte_order: str) -> npt.NDArray[np.float32]:
    """Return elements as float32. This is the only place where element types and byte orders matter.

    `type` is one of `ELEMENT_SIZES`. Little-endian F32 data is not copied.
    """
    import numpy as np

    mark = MARKS[byte_order]
    if type == "BF16":
        return (np.frombuffer(data, mark + "u2").astype(np.uint32) << 16).view(np.float32)
    values = np.frombuffer(data, mark + ("f4" if type == "F32" else "f2"))
    return values.astype(np.float32, copy=False)


def stream_values(tensors: Sequence[Tensor]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the elements of the tensors one after another, as float32 arrays of at most 256 KiB of one tensor each.

    An array is only valid until the next one is requested. Raises `UsageError` if a tensor's
    elements cannot be read.
    """
    for tensor in tensors:
        tensor.check_readable()
    for source, group in groupby(tensors, key=lambda tensor: tensor.source):
        run = list(group)
        chunks = source.stream([(tensor.offset, tensor.nbytes) for tensor in run])
        for tensor in run:
            left = tensor.nbytes
            while left:
                chunk = next(chunks)
                left -= len(chunk)
                yield decode(chunk, tensor.type, tensor.byte_order)
