"""The keys of a GGUF file: their values by type; and in a copy, other keys, with the tensors laid out anew for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from construct import Container, ListContainer

from ggcp_schema.errors import UsageError
from ggcp_schema.formats.file import CHECKPOINT_NEEDED
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import COUNTS, OPTIMIZER, STATE
from ggcp_schema.schema.ggml import GGML_TYPES
from ggcp_schema.schema.gguf import VALUE_TYPES, Extents, alignment, in_order
from ggcp_schema.schema.trailing import given_size

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

THREADS = (names.CONVERTED_THREADS, "UINT32", "optimizer.params.n_threads")
SCALARS = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", None, "u64", "i64", "f64")
"""The schema's types of values by their numbers; None for arrays."""


def shown(value: Any) -> str:
    """Return a value as a message shows it."""
    return "an array of arrays" if isinstance(value, list) else repr(value)[:40]


class Keys:
    """The values of a GGUF file's keys; None for a key that is missing or of another type."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf

    def own(self, key: str) -> str:
        """Return the key of llama under the name that a file of another architecture has for it."""
        return f"{self.text(names.ARCHITECTURE) or 'llama'}.{key.removeprefix('llama.')}"

    def integer(self, key: str) -> int | None:
        """Return an integer."""
        value = self.gguf.value(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def count(self, key: str, least: int = 0) -> int | None:
        """Return an integer of at least that value."""
        value = self.integer(key)
        return None if value is None or value < least else value

    def required(self, key: str, default: int | None = None) -> int:
        """Return a count; `default` if the key is missing. Raises `UsageError` if there is none."""
        if key not in self.gguf.key_values and default is not None:
            return default
        value = self.count(key)
        if value is None:
            raise self.unexpected(key, "a count")
        return value

    def finite(self, key: str, default: float) -> float:
        """Return a finite number; `default` if the key is missing. Raises `UsageError` for another value."""
        value = self.gguf.value(key, default)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self.unexpected(key, "a number")
        return value

    def unexpected(self, key: str, expected: str) -> UsageError:
        """Return the error for a key without the expected value."""
        value = self.gguf.value(key)
        found = "missing" if value is None else shown(value)
        return UsageError(f"{self.gguf.path}: {key} is {found}, expected {expected}", CHECKPOINT_NEEDED)

    def real(self, key: str) -> float | None:
        """Return a floating-point number."""
        value = self.gguf.value(key)
        return value if isinstance(value, float) else None

    def text(self, key: str) -> str | None:
        """Return a string."""
        value = self.gguf.value(key)
        return value if isinstance(value, str) else None

    def flag(self, key: str) -> bool | None:
        """Return a boolean."""
        value = self.gguf.value(key)
        return value if isinstance(value, bool) else None

    def field(self, path: str) -> Any:
        """Return the value of the key that a field of a ggcp file becomes."""
        optimizer = self.text(names.OPTIMIZER_TYPE) or ""
        for key, kind, field in (*COUNTS, *OPTIMIZER, *STATE.get(optimizer, ()), THREADS):
            if field == path:
                read = {"STRING": self.text, "BOOL": self.flag, "FLOAT32": self.real}.get(kind, self.integer)
                return read(key)
        return None

    def length(self, key: str) -> int | None:
        """Return the length of an array."""
        entry = self.gguf.key_values.get(key)
        return len(entry.value) if entry is not None and entry.type.startswith("ARRAY/") else None


# Changing them ---------------------------------------------------------------------------------------------


def key_type(name: str) -> tuple[int, str] | None:
    """Return the number of a type of values, `u32` or `UINT32`, and its name in the schema; None for all others."""
    kinds = ((number, kind) for number, kind in enumerate(SCALARS) if kind)
    return next((pair for pair in kinds if name.lower() in (pair[1], VALUE_TYPES[pair[0]].lower())), None)


def set_keys(gguf: GgufFile, container: Container, wanted: Mapping[str, tuple[int, Any] | None]) -> None:
    """Set keys in `container`, a copy of the parsed values, to (type, value); remove a key whose entry is None."""
    keys = ListContainer(item for item in container["metadata_kv"] if wanted.get(item["key"], item) is not None)
    places = {item["key"]: place for place, item in enumerate(keys)}
    for key, entry in wanted.items():
        if entry is not None:
            item = Container(key=key, value_type=entry[0], value=entry[1])
            if key in places:
                keys[places[key]] = item
            else:
                keys.append(item)
    if wanted:
        container["metadata_kv"], container["metadata_kv_count"] = keys, len(keys)
    step: int = alignment(container)  # type: ignore[no-untyped-call]
    if step != gguf.container["alignment"]:
        _lay_out(gguf, container, step)


def _lay_out(gguf: GgufFile, container: Container, step: int) -> None:
    """Give each tensor the next offset that the new alignment allows, in the order of their data.

    Raises `UsageError` if tensors share data, or the size of one is not known.
    """
    infos = ListContainer(info.copy() for info in container["tensor_infos"])
    places, offset, end = Extents(gguf.container, gguf.size), 0, 0
    for index in in_order(places):
        info, (begin, stop) = infos[index], places[index]
        if info["type"] not in GGML_TYPES or begin < end:
            why = "shares data with another tensor" if begin < end else f"is of type {info['type']}, which is not known"
            raise UsageError(f"{gguf.path} cannot be aligned to {step}: {info['name']} {why}")
        info["offset"] = offset
        offset += stop - begin + -(stop - begin) % step
        end = stop
    container["tensor_infos"] = infos
    after: int = given_size(container["end_padding"])  # type: ignore[no-untyped-call]
    if after == -end % gguf.container["alignment"]:
        container["end_padding"] = None  # as much as the alignment asks for
