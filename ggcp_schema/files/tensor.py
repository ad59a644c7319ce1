"""Tensors stored in a file, and the one place where their elements are read."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

from ggcp_schema.constructs import short_size
from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import PathError, UsageError
from ggcp_schema.files.source import Ahead, Source
from ggcp_schema.schema.ggml import GGML_TYPES

if TYPE_CHECKING:
    import numpy.typing as npt

LITTLE, BIG = "little", "big"
MARKS = {LITTLE: "<", BIG: ">"}  # of struct and numpy
AT_ONCE = 1 << 16  # elements that `values` yields at a time; a multiple of every block's size
ELEMENT_SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""The floating-point types that become float32, with their sizes in bytes."""
NUMBERS = {"F64": "d", "I8": "b", "I16": "h", "I32": "i", "I64": "q"}
"""The types that are read as they are, with their codes in `struct`."""
DEQUANTIZED = frozenset((2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 34, 35, 39, 40))
BLOCKS = {kind.name: kind for number, kind in GGML_TYPES.items() if number in DEQUANTIZED}
"""The quantized types that `gguf.quants.dequantize` knows. Their values become float32."""


@dataclass(frozen=True, slots=True, repr=False)
class Tensor:
    """A tensor in a file. Nothing is read until its elements are asked for.

    Two tensors are equal if they are the same one of the same file.

    Attributes:
        path: its field path (`layers[0].wq`); in a GGUF or ggml file its name.
        name: the name that the file stores.
        shape: in ggml order, the first number the fastest-varying; `()` for a NULL tensor, which has no data.
        offset, nbytes: where the data lies, in bytes.
        type: ggml's name of the element type. It is F32 in every checkpoint.
        byte_order: "little" or "big".
        padding: the number of bytes of padding before the data.
        is_known: False for quantized data in an older arrangement than the type has today, which is not decoded.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    source: Source = field(repr=False)
    type: str = "F32"
    byte_order: str = LITTLE
    padding: int = 0
    is_known: bool = True

    def __repr__(self) -> str:
        return f"<Tensor {self.path} {self.type} {list(self.shape)} {short_size(self.nbytes)}>"

    def __getitem__(self, key: Any) -> Any:
        """Return elements by their indices in `array`."""
        return self.array()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array())

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

    @property
    def dtype(self) -> str:
        """Numpy's type of the elements as they are read: float32, or that of integers and F64."""
        return f"<{NUMBERS[self.type]}" if self.type in NUMBERS else "<f"

    @property
    def is_readable(self) -> bool:
        """True if the elements can be read. Quantized rows must be whole blocks, in little-endian order."""
        if self.type in BLOCKS:
            whole = self.n_elements and self.shape[0] % BLOCKS[self.type].block_size == 0
            return self.is_known and self.byte_order == LITTLE and bool(whole)
        return self.type in ELEMENT_SIZES or self.type in NUMBERS

    @property
    def block(self) -> tuple[int, int]:
        """The elements that are stored together, and the bytes that they take: (1, 4) for F32, (32, 18) for Q4_0."""
        if self.type in BLOCKS:
            return BLOCKS[self.type][1:]
        return 1, ELEMENT_SIZES.get(self.type) or struct.calcsize(NUMBERS[self.type])

    def array(self) -> npt.NDArray[Any]:
        """Return the elements as a read-only array of numpy's shape, which is `shape` reversed.

        Little-endian F32 data, as in every checkpoint, is mapped, not read, and the array outlives the file object.
        Other data is converted to `dtype`, which takes memory. Raises `FileError` if the file is closed or has become
        too short, `UsageError` if the elements cannot be read.
        """
        import numpy as np

        self.check_readable()
        shape = self.shape[::-1] if self.shape else (0,)
        if self.is_mapped:
            return self.source.map(self.offset, self.nbytes).reshape(shape)
        values = np.concatenate([np.empty(0, self.dtype), *self.values()]).reshape(shape)
        values.flags.writeable = False
        return values

    def small(self, ahead: Ahead) -> bytes | None:
        """Return the data if it is few bytes and not quantized; None if it is to be read in pieces."""
        is_small = 0 < self.nbytes <= ahead.LARGEST and self.type not in BLOCKS
        return ahead.read(self.source, self.offset, self.nbytes) if is_small else None

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes of the data from `start` to `stop`, in chunks of at most 256 KiB with their own memory."""
        stop = self.nbytes if stop is None else stop
        self._check_bounds(start, stop)
        for at in range(start, stop, CHUNK):
            yield memoryview(self.source.read(self.offset + at, min(CHUNK, stop - at)))

    def values(self, start: int = 0, stop: int | None = None) -> Iterator[npt.NDArray[Any]]:
        """Yield the elements from `start` to `stop`, in file order, as arrays of `dtype` of at most 2**16 elements."""
        import numpy as np

        self.check_readable()
        stop = self.n_elements if stop is None else stop
        length, nbytes = self.block
        self._check_bounds(start // length * nbytes, -(-stop // length) * nbytes)
        for at in range(start - start % length, stop, AT_ONCE):
            end = min(at + AT_ONCE, stop)
            data = np.empty(-(-(end - at) // length) * nbytes, np.uint8)
            self.source.read_into(data.data, self.offset + at // length * nbytes)
            yield decode(data.data, self.type, self.byte_order)[max(start - at, 0) : end - at]

    def numbers(self, start: int, stop: int) -> list[Any]:
        """Return a few elements, from `start` to `stop`, as Python numbers. Unquantized, they need no numpy."""
        self.check_readable()
        if self.type in BLOCKS:
            return [number for values in self.values(start, stop) for number in values.tolist()]
        size, mark, count = self.block[1], MARKS[self.byte_order], stop - start
        self._check_bounds(start * size, stop * size)
        data = self.source.read(self.offset + start * size, count * size)
        if self.type == "BF16":
            halves = struct.unpack(f"{mark}{count}H", data)
            data = struct.pack(f"{mark}{count}I", *(half << 16 for half in halves))
        code = NUMBERS.get(self.type) or ("e" if self.type == "F16" else "f")
        return list(struct.unpack(f"{mark}{count}{code}", data))

    def _check_bounds(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.nbytes:
            raise UsageError(f"{self.path} has {self.nbytes:,} bytes of data: there are no bytes {start} to {stop}")

    def check_readable(self) -> None:
        """Check that the elements can be read. Raises `UsageError`."""
        if not self.is_readable:
            raise UsageError(f"the values of {self.path} cannot be read: its type is {self.type.removeprefix('type ')}")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        import numpy as np

        if copy is False and not (self.is_mapped and (dtype is None or np.dtype(dtype) == np.dtype("<f4"))):
            raise ValueError(f"{self.path} is {self.type}, so an array of {np.dtype(dtype)} is a copy of it")
        array = self.array()
        return np.array(array, dtype=dtype) if copy else np.asarray(array, dtype=dtype)


@lru_cache
def same_shape(*lengths: int) -> tuple[int, ...]:
    """Return a shape as one tuple that all tensors of this shape share, for there may be very many."""
    return lengths


def decode(data: memoryview | bytes, type: str, byte_order: str) -> npt.NDArray[Any]:
    """Return elements as numbers of `Tensor.dtype`. This is the only place where types and byte orders matter.

    `type` must be readable, and quantized data must consist of whole blocks. Little-endian F32 data is not copied.
    """
    import numpy as np

    if type == "F32" and byte_order == LITTLE:
        return np.frombuffer(data, "<f4")
    mark = MARKS[byte_order]
    if type in BLOCKS:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCKS[type].type_size)
        with np.errstate(all="ignore"):  # scales may be anything
            values: npt.NDArray[Any] = dequantize(blocks, GGMLQuantizationType[type])
        return values.reshape(-1).astype(np.float32, copy=False)
    if type == "BF16":
        return (np.frombuffer(data, mark + "u2").astype(np.uint32) << 16).view(np.float32)
    if type in NUMBERS:
        values = np.frombuffer(data, mark + NUMBERS[type])
        return values.astype("<" + NUMBERS[type], copy=False)
    values = np.frombuffer(data, mark + ("f4" if type == "F32" else "f2"))
    return values.astype(np.float32, copy=False)


def encode(values: npt.NDArray[Any], type: str) -> memoryview:
    """Return numbers as little-endian data of a type in `ELEMENT_SIZES`; F16 may overflow, and NaN stays NaN."""
    import numpy as np

    with np.errstate(all="ignore"):
        numbers = np.ascontiguousarray(values, "<f2" if type == "F16" else "<f4")
    if type != "BF16":
        return numbers.data.cast("B")
    bits = numbers.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # to the nearest, of two the even one
    return np.where(np.isnan(numbers), bits >> 16 | 0x40, rounded).astype("<u2").data.cast("B")


def stream_values(tensors: Sequence[Tensor], ahead: Ahead | None = None) -> Iterator[npt.NDArray[Any]]:
    """Yield the elements of the tensors one after another, as arrays of at most 256 KiB of one tensor each.

    An array is only valid until the next one is requested. `ahead` reads small tensors for several calls. Raises
    `UsageError` if the elements of a tensor cannot be read.
    """
    return (values for _, _, values in stream_pieces(tensors, ahead))


def stream_pieces(
    tensors: Sequence[Tensor], ahead: Ahead | None = None
) -> Iterator[tuple[Tensor, int, npt.NDArray[Any]]]:
    """Yield what `stream_values` does, with the tensor before it, and the index of the first element."""
    for tensor in tensors:
        tensor.check_readable()
    ahead = ahead or Ahead()
    for tensor in tensors:
        small = tensor.small(ahead)
        if small is not None:
            yield tensor, 0, decode(small, tensor.type, tensor.byte_order)
            continue
        at = 0
        chunks = () if tensor.type in BLOCKS else tensor.source.stream([(tensor.offset, tensor.nbytes)])
        decoded = (decode(chunk, tensor.type, tensor.byte_order) for chunk in chunks)
        for values in tensor.values() if tensor.type in BLOCKS else decoded:
            yield tensor, at, values
            at += len(values)


class Tensors(dict[str, Tensor]):
    """The tensors of a file by path. It is not changed after it has been made."""

    def __missing__(self, path: str) -> Tensor:
        raise PathError(
            f"no tensor has the path {path!r}", "The file itself takes other names and paths too: file[PATH]."
        )

    @property
    def n_elements(self) -> int:
        """The elements of all tensors."""
        return sum(tensor.n_elements for tensor in self.values())

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors' data."""
        return sum(tensor.nbytes for tensor in self.values())

    @property
    def padding(self) -> int:
        """The bytes of padding before the data of all tensors."""
        return sum(tensor.padding for tensor in self.values())

    def types(self) -> dict[str, int]:
        """Return the number of tensors of each element type."""
        return dict(Counter(tensor.type for tensor in self.values()))

    def in_file_order(self) -> Iterator[Tensor]:
        """Yield all tensors by their offsets."""
        return iter(sorted(self.values(), key=lambda tensor: tensor.offset))

    def at(self, offset: int) -> Tensor | None:
        """Return the tensor whose data holds the byte, of several that share it the first; None if there is none."""
        place = self._place_before(offset)
        if not self._holds(place, offset):
            return None
        first = bisect_left(self._filled, self._filled[place].offset, key=lambda tensor: tensor.offset)
        return next(self._filled[shared] for shared in range(first, place + 1) if self._holds(shared, offset))

    def next_to(self, offset: int, step: int) -> Tensor | None:
        """Return the first tensor with data after the byte, and after the tensor that holds it.

        With a step of -1, return the last one before. None if there is none.
        """
        place = self._place_before(offset)
        place = place + 1 if step > 0 else place - self._holds(place, offset)
        return self._filled[place] if 0 <= place < len(self._filled) else None

    def between(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the tensors with padding or data in these bytes, in file order."""
        for tensor in islice(self._filled, max(0, self._place_before(start)), None):
            if tensor.offset - tensor.padding >= stop:
                return
            if tensor.offset + tensor.nbytes > start:
                yield tensor

    @cached_property
    def _filled(self) -> list[Tensor]:
        """The tensors that have data, by offset."""
        return [tensor for tensor in self.in_file_order() if tensor.nbytes]

    def _place_before(self, offset: int) -> int:
        """Return the place, by offset, of the last tensor that does not begin after the byte; -1 if there is none."""
        return bisect_right(self._filled, offset, key=lambda tensor: tensor.offset) - 1

    def _holds(self, place: int, offset: int) -> bool:
        return place >= 0 and offset < self._filled[place].offset + self._filled[place].nbytes
