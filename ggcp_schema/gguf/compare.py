"""Compare a GGUF file with the entries it should contain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ggcp_schema.constructs import NaN
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.gguf.entries import ALIGNMENT, KeyValue, Progress, TensorEntry, stored, tensor_data

MAX_SHOWN = 8  # elements of an array


class Difference(NamedTuple):
    """A difference: `kind` is key, tensor (its presence, type or shape), data, or file."""

    kind: str
    name: str
    message: str

    def __str__(self) -> str:
        subject = {"key": self.name, "file": "the file"}.get(self.kind, f"tensor {self.name}")
        return f"{subject} {self.message}"


def key_differences(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[Difference]:
    """Compare keys, types and values. Keys beyond those expected are not reported: see `extra_keys`."""
    for entry in expected:
        found = gguf.keys.get(entry.key)
        if found is None:
            yield Difference("key", entry.key, "is missing")
        elif found.type != entry.type:
            yield Difference("key", entry.key, f"has type {found.type}, expected {entry.type}")
        elif not same_value(found.value, entry.value):
            yield Difference("key", entry.key, f"is {_shown(found.value)}, expected {_shown(entry.value)}")


def _shown(value: Any) -> str:
    """Return a value for a message: an array by its length, a NaN with its bits."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"an array of {len(value)}" if len(value) > MAX_SHOWN else repr(list(value))
    return f"NaN ({value.bits:#x})" if isinstance(value, NaN) else repr(value)


def extra_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> list[str]:
    """Return the keys of the file that are not among those expected, in file order."""
    known = {entry.key for entry in expected} | {ALIGNMENT}
    return [key for key in gguf.keys if key not in known]


def table_differences(gguf: GgufFile, expected: Sequence[TensorEntry]) -> Iterator[Difference]:
    """Compare the names, types and shapes of the tensors."""
    names = {entry.name for entry in expected}
    for entry in expected:
        if entry.name not in gguf.tensors:
            yield Difference("tensor", entry.name, "is missing")
    for name in gguf.tensors:
        if name not in names:
            yield Difference("tensor", name, "is not in the checkpoint")
    for entry in expected:
        tensor = gguf.tensors.get(entry.name)
        if tensor is not None and (tensor.type, tensor.shape) != ("F32", entry.shape):
            message = f"is {tensor.type} {list(tensor.shape)}, expected F32 {list(entry.shape)}"
            yield Difference("tensor", entry.name, message)


def comparable(gguf: GgufFile, expected: Sequence[TensorEntry]) -> list[TensorEntry]:
    """Return the entries whose tensors the file has with the same type and shape."""
    return [
        entry
        for entry in expected
        if (tensor := gguf.tensors.get(entry.name)) and (tensor.type, tensor.shape) == ("F32", entry.shape)
    ]


def data_differences(
    gguf: GgufFile, expected: Sequence[TensorEntry], progress: Progress | None = None
) -> Iterator[Difference]:
    """Compare every bit of the tensors' data, in constant memory. Incomparable tensors are skipped.

    `progress` is called with the number of bytes just compared.
    """
    import numpy as np

    both = comparable(gguf, expected)
    written = Pieces(tensor_data([stored(entry.name, gguf.tensors[entry.name]) for entry in both]))
    original = Pieces(tensor_data(both))
    for entry in both:
        at = count = first = 0
        while at < entry.nbytes:
            size = min(original.available(), written.available())
            found, wanted = (np.frombuffer(pieces.take(size), "<u4") for pieces in (written, original))
            if not np.array_equal(found, wanted):
                wrong = np.flatnonzero(found != wanted)
                first = first if count else at // 4 + int(wrong[0])
                count += len(wrong)
            at += size
            if progress:
                progress(size)
        if count:
            verb = "differs; it" if count == 1 else "differ; the first"
            message = f"{count} of {entry.nbytes // 4} elements {verb} is element {first}"
            yield Difference("data", entry.name, f"data: {message}")


class Pieces:
    """Chunks of bytes, taken in sizes that the caller chooses. Each part is only valid until the next is taken."""

    def __init__(self, chunks: Iterator[memoryview]) -> None:
        self.chunks, self.rest = chunks, memoryview(b"")

    def available(self) -> int:
        """Return how many bytes can be taken at once."""
        while not len(self.rest):
            self.rest = next(self.chunks)
        return len(self.rest)

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes, which must be available."""
        part, self.rest = self.rest[:size], self.rest[size:]
        return part
