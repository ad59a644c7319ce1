"""The tensors of an output: their names, types and shapes, and where their bytes come from. Nothing here writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from ggcp_schema.constructs.streams import CHUNK
from ggcp_schema.errors import UsageError
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.source import Ahead, Rows, Source
from ggcp_schema.files.tensor import BIG, ELEMENT_SIZES, Tensor
from ggcp_schema.schema.ggml import GGML_TYPES, data_size

Progress = Callable[[int], None]
Transform = Callable[[memoryview], memoryview]
BLOCK = 16 << 20  # bytes that the system copies at once
TYPES = {kind.name: kind for kind in GGML_TYPES.values()}


class FileData(NamedTuple):
    """Data that lies in a file: `extents` as those of `Source.stream`, joined in this order.

    `transform` converts each chunk; None copies. `path` is the path of the tensor the data is from.
    """

    path: str
    source: Source
    extents: tuple[tuple[int, int] | Rows, ...]
    transform: Transform | None = None


class Computed(NamedTuple):
    """Data that `chunks` yields when it is needed. `sources` are the files that it reads."""

    chunks: Callable[[], Iterable[bytes | memoryview]]
    sources: tuple[Source, ...] = ()


class Zeros(NamedTuple):
    """Data that is zero bytes."""


@json_keys("name shape type nbytes source=source_path")
class TensorEntry(NamedTuple):
    """A tensor: its name, its shape in ggml order, where its little-endian data comes from, and its element type.

    The shape of a single number is `()`. The type is named as ggml does.
    """

    name: str
    shape: tuple[int, ...]
    data: FileData | Computed | Zeros
    type: str = "F32"

    @property
    def nbytes(self) -> int:
        """The bytes of the data."""
        return _nbytes(self.type, self.shape)

    @property
    def source_path(self) -> str | None:
        """The path of the file that the data is from, as it is there; None for data that is made."""
        return self.data.path if isinstance(self.data, FileData) else None

    def chunks(self, at: int = 0) -> Iterator[memoryview]:
        """Yield the data in chunks of at most 256 KiB. A chunk is only valid until the next one is requested.

        `at` is where the data is written to in a file.
        """
        data = self.data
        if not isinstance(data, FileData):
            return _made(self)
        chunks = data.source.stream(data.extents, at)
        return map(data.transform, chunks) if data.transform else chunks

    def small(self, ahead: Ahead) -> bytes | None:
        """Return the data if it is few bytes in one place of a file; None if `chunks` yields it."""
        data = self.data
        if not isinstance(data, FileData) or len(data.extents) != 1 or data.transform:
            return None
        offset, size, *rows = data.extents[0]
        return None if rows or size > ahead.LARGEST else ahead.read(data.source, offset, size)

    def blocks(self) -> list[tuple[int, int]]:
        """Return the data as (offset, size) of blocks that can be copied as they are; an empty list if it is small."""
        data = self.data
        if not isinstance(data, FileData) or data.transform or self.nbytes < CHUNK * max(1, len(data.extents)):
            return []
        extents = [Rows(*each) for each in data.extents]
        if any(extent.n_rows != 1 for extent in extents):
            return []
        return [
            (extent.offset + done, min(BLOCK, extent.size - done))
            for extent in extents
            for done in range(0, extent.size, BLOCK)
        ]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that the data comes from."""
        if isinstance(self.data, Zeros):
            return ()
        return (self.data.source,) if isinstance(self.data, FileData) else self.data.sources


@lru_cache
def _nbytes(type: str, shape: tuple[int, ...]) -> int:
    return data_size(TYPES[type], [*shape] or [1])


def stored(name: str, tensor: Tensor) -> TensorEntry:
    """Return the entry of a tensor that is copied as it is; from big-endian data the bytes of its numbers are swapped.

    Raises `UsageError` for big-endian data of a quantized type, and for a type that is not known.
    """
    transform = None
    if tensor.type not in TYPES:
        raise UsageError(f"{tensor.source.path}: tensor {tensor.path} is of {tensor.type}, which is not known")
    if tensor.byte_order == BIG:
        if tensor.type not in ELEMENT_SIZES:
            message = f"{tensor.source.path}: tensor {tensor.path} is big-endian {tensor.type}, which cannot be copied"
            raise UsageError(message, f"Of big-endian files, only {', '.join(ELEMENT_SIZES)} tensors can be copied.")
        transform = partial(swapped, size=ELEMENT_SIZES[tensor.type])
    extents = ((tensor.offset, tensor.nbytes),) if tensor.nbytes else ()
    return TensorEntry(name, tensor.shape, FileData(tensor.path, tensor.source, extents, transform), tensor.type)


def swapped(chunk: memoryview, size: int) -> memoryview:
    """Return elements of that many bytes with the order of their bytes reversed."""
    import numpy as np

    elements: memoryview = np.frombuffer(chunk, f"<u{size}").byteswap().data
    return elements.cast("B")


def sources(tensors: Sequence[TensorEntry]) -> list[Source]:
    """Return the files that the tensors' data comes from, each once."""
    return list({id(source): source for tensor in tensors for source in tensor.sources}.values())


def _made(entry: TensorEntry) -> Iterator[memoryview]:
    """Yield data that does not lie in a file."""
    if isinstance(entry.data, Computed):
        made = 0
        for whole in entry.data.chunks():
            view = memoryview(whole).cast("B")
            made += len(view)
            yield from (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
        if made != entry.nbytes:
            raise ValueError(f"{entry.name} has {entry.nbytes} bytes, but {made} were computed")
    else:
        zeros = memoryview(bytes(min(CHUNK, entry.nbytes)))
        yield from (zeros[: min(CHUNK, entry.nbytes - at)] for at in range(0, entry.nbytes, CHUNK))
