"""The keys of a GGUF file, as plain data. Nothing here writes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from ggcp_schema.constructs import NaN
from ggcp_schema.errors import UnfitError, UsageError

ARCHITECTURE = "general.architecture"
ALIGNMENT = "general.alignment"

BITS = (8, 16, 32, 64)
INTEGERS = {f"UINT{n}": range(1 << n) for n in BITS} | {f"INT{n}": range(-(1 << n - 1), 1 << n - 1) for n in BITS}
QUIET = 1 << 22  # the bit of a float32 NaN that says that it is not a signalling one


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its GGUF type (`UINT32`, `STRING`, `ARRAY/FLOAT32`, …) and value.

    A `FLOAT32` is the nearest one to the value given. Raises `UnfitError` if the value is out of range for the type;
    values are never wrapped.
    """

    key: str
    type: str
    value: Any

    def __post_init__(self) -> None:
        allowed = INTEGERS.get(self.type)
        if allowed is not None and not (isinstance(self.value, int) and self.value in allowed):  # None would be sought
            raise UnfitError(
                f"{self.key}: {self.value} is out of range for {self.type}, "
                f"which holds {allowed.start} to {allowed.stop - 1}"
            )
        if self.type == "FLOAT32":
            object.__setattr__(self, "value", to_float32(self.value))


def quieted(value: float) -> float:
    """Return the number; a signalling NaN of 4 bytes as a quiet one, as which it is packed from a Python float."""
    return NaN(value.bits | QUIET) if isinstance(value, NaN) and value.size == 4 else value


def to_float32(value: float) -> float:
    """Return the nearest float32, as a Python float. Raises `UnfitError` if there is none.

    A NaN keeps its bits, except that it becomes a quiet one: see `quieted`.
    """
    if isinstance(value, NaN):
        return quieted(value)
    if not math.isfinite(value):
        return value
    try:
        number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise UnfitError(f"{value} is out of range for FLOAT32") from None
    return number


def is_copied(path: str, entry: KeyValue) -> bool:
    """Return False for the alignment, since the output has its own, and for empty arrays, which gguf cannot write.

    Raises `UsageError` for an array of arrays, which no trainer wrote.
    """
    if entry.type == "ARRAY/ARRAY":
        raise UsageError(f"{path}: {entry.key} is an array of arrays, which cannot be copied")
    return entry.key != ALIGNMENT and not (entry.type.startswith("ARRAY/") and not len(entry.value))
