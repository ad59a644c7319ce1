"""Compare a GGUF file with what it should contain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ggcp_schema.constructs import NaN, counted
from ggcp_schema.files.compare import Difference, data_differences, table_differences
from ggcp_schema.files.key_values import ALIGNMENT, KeyValue, quieted
from ggcp_schema.files.tensor_entries import Progress, TensorEntry
from ggcp_schema.files.values import LISTS, first_different, same_value
from ggcp_schema.formats.gguf.file import GgufFile


def differences(
    gguf: GgufFile,
    keys: Sequence[KeyValue],
    tensors: Sequence[TensorEntry],
    *,
    data: bool = True,
    progress: Progress | None = None,
) -> Iterator[Difference]:
    """Compare the keys, the tensor table, the end, and with `data` every byte of the tensors, in constant memory.

    Keys beyond those expected are not reported: see `extra_keys`.
    """
    yield from key_differences(gguf, keys)
    yield from table_differences(gguf.tensors, tensors)
    if "trailing" in gguf:
        yield Difference("file", "", f"has {counted(gguf['trailing'].nbytes, 'byte')} after its end")
    if data:
        yield from data_differences(gguf.tensors, tensors, progress)


def key_differences(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[Difference]:
    """Compare keys, types and values. Keys beyond those expected are not reported: see `extra_keys`."""
    for entry in expected:
        found = gguf.key_values.get(entry.key)
        if found is None:
            yield Difference("key", entry.key, "is missing")
        elif found.type != entry.type:
            yield Difference("key", entry.key, f"has type {found.type}, expected {entry.type}")
        elif message := _difference(found.value, entry.value, entry.type):
            yield Difference("key", entry.key, message)


def _difference(found: Any, expected: Any, kind: str) -> str:
    """Return how values differ as they are written: of FLOAT32 numbers all NaNs are quiet ones. Empty if they do not.

    Of arrays the first element that differs is shown.
    """
    if not isinstance(expected, LISTS):
        return "" if same_value(found, expected) else f"is {_shown(found)}, expected {_shown(expected)}"
    if len(found) != len(expected):
        return f"has {len(found):,} elements, expected {len(expected):,}"
    if kind == "ARRAY/FLOAT32":
        found, expected = list(map(quieted, found)), list(map(quieted, expected))
    index = first_different(found, expected)
    return "" if index is None else f"has [{index}] {_shown(found[index])}, expected {_shown(expected[index])}"


def _shown(value: Any) -> str:
    """Return a value for a message: a NaN with its bits, the beginning of a long text."""
    return f"NaN ({value.bits:#x})" if isinstance(value, NaN) else f"{value!r:.100}"


def extra_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> list[str]:
    """Return the keys of the file that are not among those expected, in file order."""
    known = {entry.key for entry in expected} | {ALIGNMENT}
    return [key for key in gguf.key_values if key not in known]
