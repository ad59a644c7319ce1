"""Compare the tensors, or the JSON, of a file with the expected ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ggcp_schema.files.tensor import BIG, ELEMENT_SIZES, MARKS, Tensor
from ggcp_schema.files.tensor_entries import Progress, TensorEntry


class Difference(NamedTuple):
    """A difference: `kind` is key, tensor (its presence, type or shape), data, or file, of a folder with its name."""

    kind: Literal["key", "tensor", "data", "file"]
    name: str
    message: str

    def __str__(self) -> str:
        subject = {"key": self.name, "file": self.name or "the file"}.get(self.kind, f"tensor {self.name}")
        return f"{subject} {self.message}"


def table_differences(found: Mapping[str, Tensor], expected: Sequence[TensorEntry]) -> Iterator[Difference]:
    """Compare the names, types and shapes of the tensors."""
    names = {entry.name for entry in expected}
    for entry in expected:
        if entry.name not in found:
            yield Difference("tensor", entry.name, "is missing")
    for name in found:
        if name not in names:
            yield Difference("tensor", name, "is not in the checkpoint")
    for entry in expected:
        tensor = found.get(entry.name)
        if tensor is not None and not _alike(tensor, entry):
            message = f"is {tensor.type} {list(tensor.shape)}, expected {entry.type} {list(entry.shape)}"
            yield Difference("tensor", entry.name, message)


def comparable(found: Mapping[str, Tensor], expected: Sequence[TensorEntry]) -> list[TensorEntry]:
    """Return the entries whose tensors the file has with the same type and shape."""
    return [entry for entry in expected if entry.name in found and _alike(found[entry.name], entry)]


def _alike(tensor: Tensor, entry: TensorEntry) -> bool:
    return (tensor.type, tensor.shape) == (entry.type, entry.shape)


def data_differences(
    found: Mapping[str, Tensor], expected: Sequence[TensorEntry], progress: Progress | None = None
) -> Iterator[Difference]:
    """Compare every bit of the tensors' data, in constant memory. Incomparable tensors are skipped.

    Quantized tensors are compared byte by byte, others number by number. `progress` is called with the number of bytes
    just compared.
    """
    import numpy as np

    for entry in comparable(found, expected):
        tensor, width = found[entry.name], ELEMENT_SIZES.get(entry.type, 1)
        at = count = first = 0
        for chunk in entry.chunks():
            data = tensor.source.read(tensor.offset + at, len(chunk))
            if data != chunk or tensor.byte_order == BIG:
                is_ = np.frombuffer(data, f"{MARKS[tensor.byte_order]}u{width}")
                wrong = np.flatnonzero(is_ != np.frombuffer(chunk, f"<u{width}"))
                first = first if count or not len(wrong) else at // width + int(wrong[0])
                count += len(wrong)
            at += len(chunk)
            if progress:
                progress(len(chunk))
        if count:
            unit = "element" if entry.type in ELEMENT_SIZES else "byte"
            verb = "differs; it" if count == 1 else "differ; the first"
            message = f"{count:,} of {entry.nbytes // width:,} {unit}s {verb} is {unit} {first}"
            yield Difference("data", entry.name, f"data: {message}")


def json_differences(expected: Any, found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of each value of JSON that differs, and how."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            inner = f"{path}.{key}" if path else key
            if key not in found:
                yield inner, "is missing"
            elif key not in expected:
                yield inner, "is unexpected"
            else:
                yield from json_differences(expected[key], found[key], inner)
    elif isinstance(expected, list | tuple) and isinstance(found, list) and len(expected) == len(found):
        for index, pair in enumerate(zip(expected, found)):
            yield from json_differences(*pair, f"{path}[{index}]")
    elif type(expected) is not type(found) or expected != found:
        yield path, f"is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, list | tuple) else json.dumps(value, ensure_ascii=False)[:60]
