"""The headers of safetensors files, and reading these. The safetensors package writes only what is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

from ggcp_schema.errors import MalformedError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor

DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""The element types that can be written, with their sizes in bytes."""
ALIGNMENT = 8  # of the data
METADATA = "__metadata__"


TensorInfo = tuple[str, str, tuple[int, ...]]
"""The name of a tensor, its element type, and its shape in numpy's order."""


def header(tensors: Iterable[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Return what precedes the data in the file, in which that of the tensors follows each other in this order."""
    entries, end = [f'"{METADATA}": {json.dumps(dict(metadata))}'], 0
    for name, dtype, shape in tensors:
        start, end = end, end + prod(shape) * DTYPES[dtype]
        entry = f'"dtype": "{dtype}", "shape": {list(shape)}, "data_offsets": [{start}, {end}]'
        entries.append(f"{json.dumps(name)}: {{{entry}}}")
    text = f"{{{', '.join(entries)}}}".encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


MAX_HEADER = 100_000_000  # bytes, as the safetensors package allows
MAX_DIMS = 64  # as numpy allows
MAX_QUOTED = 200  # characters that an error repeats


def read_tensors(source: Source) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors in a safetensors file by name, and its metadata: None or, if it is sound, texts by key.

    Raises `MalformedError`, also for types that are not written.

    As the safetensors package demands, the data has no holes, no overlaps, and nothing after it.
    Shapes are those of ggml, in which the first number is the fastest-varying.
    """
    size = int.from_bytes(source.read(0, 8), "little") if source.size >= 8 else source.size
    if size > min(source.size - 8, MAX_HEADER):
        raise _malformed(source, "a header that the file has", f"one of {size:,} bytes")
    start, found = 8 + size, {}
    try:
        entries = json.loads(source.read(8, size).decode("utf-8"))
        metadata = entries.pop(METADATA, None)
        for name, entry in entries.items():
            shape, (first, last) = _numbers(entry["shape"]), _numbers(entry["data_offsets"])
            if last - first != prod(shape) * DTYPES[entry["dtype"]]:
                raise ValueError(f"tensor {name} of {entry['dtype']} {shape} at {first} to {last}")
            found[name] = Tensor(name, name, shape[::-1], start + first, last - first, source, entry["dtype"])
        end = start
        for tensor in sorted(found.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
            if tensor.offset != end:
                raise ValueError(f"tensor {tensor.name} at {tensor.offset - start}, after others to {end - start}")
            end += tensor.nbytes
        if end != source.size:
            raise ValueError(f"tensors to {end - start} of {source.size - start} bytes of data")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = f"a table of tensors in {', '.join(DTYPES)} that fill the file"
        raise _malformed(source, expected, f"{error!s:.{MAX_QUOTED}}") from error
    return found, metadata


def _numbers(values: Any) -> tuple[int, ...]:
    """Return numbers of elements or bytes. Raises `ValueError` for anything else."""
    if not isinstance(values, list) or len(values) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError(f"{values!r:.{MAX_QUOTED}} in place of numbers")
    return tuple(values)


def _malformed(source: Source, expected: str, found: str) -> MalformedError:
    message = f"{source.path}: header: expected {expected}, found {found}"
    return MalformedError(message, "Write the file again.", path="header", offset=8, expected=expected, found=found)
