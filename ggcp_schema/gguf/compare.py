"""Compare the keys of a GGUF file with those it should contain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ggcp_schema.constructs import NaN
from ggcp_schema.files.compare import Difference
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.gguf.file import GgufFile
from ggcp_schema.gguf.entries import ALIGNMENT, KeyValue, quieted

MAX_SHOWN = 8  # elements of an array


def key_differences(gguf: GgufFile, expected: Iterable[KeyValue]) -> Iterator[Difference]:
    """Compare keys, types and values. Keys beyond those expected are not reported: see `extra_keys`."""
    for entry in expected:
        found = gguf.key_values.get(entry.key)
        if found is None:
            yield Difference("key", entry.key, "is missing")
        elif found.type != entry.type:
            yield Difference("key", entry.key, f"has type {found.type}, expected {entry.type}")
        elif not _same(found, entry):
            yield Difference("key", entry.key, f"is {_shown(found.value)}, expected {_shown(entry.value)}")


def _same(found: KeyValue, expected: KeyValue) -> bool:
    """Return whether both have the same value, as it is written: of FLOAT32 numbers, all NaNs are quiet ones."""
    a, b = found.value, expected.value
    if expected.type == "ARRAY/FLOAT32":
        return len(a) == len(b) and all(map(same_value, map(quieted, a), map(quieted, b)))
    return same_value(a, b)


def _shown(value: Any) -> str:
    """Return a value for a message: an array by its length, a NaN with its bits."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"an array of {len(value)}" if len(value) > MAX_SHOWN else f"[{', '.join(map(_shown, value))}]"
    return f"NaN ({value.bits:#x})" if isinstance(value, NaN) else repr(value)


def extra_keys(gguf: GgufFile, expected: Iterable[KeyValue]) -> list[str]:
    """Return the keys of the file that are not among those expected, in file order."""
    known = {entry.key for entry in expected} | {ALIGNMENT}
    return [key for key in gguf.key_values if key not in known]
