"""Write a safetensors file. The safetensors package writes only what is in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from math import prod

from ggcp_schema.errors import FileError

DTYPES = {"F32": 4, "F16": 2, "BF16": 2}
"""The element types that can be written, with their sizes in bytes."""
ALIGNMENT = 8  # of the data


TensorInfo = tuple[str, str, tuple[int, ...]]
"""The name of a tensor, its element type, and its shape in numpy's order."""


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Iterable[TensorInfo],
    data: Iterator[memoryview],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors in this order. `data` is their little-endian data, one after the other, in chunks of any size.

    Raises `FileError` if the data is more or less than the tensors have.
    """
    head, size = header(tensors, metadata)
    written = 0
    with open(path, "wb") as file:
        file.write(head)
        for chunk in data:
            written += file.write(chunk)
    if written != size:
        raise FileError(f"{os.fsdecode(path)}: {written:,} bytes of tensor data were written instead of {size:,}")


def header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, int]:
    """Return what precedes the data in the file, and the size of the data in bytes."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + prod(shape) * DTYPES[dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, end
