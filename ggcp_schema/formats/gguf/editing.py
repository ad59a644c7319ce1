"""Change the keys of a GGUF file that was parsed, and lay its tensors out anew. `edit` builds the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from construct import Container, ListContainer

from ggcp_schema.errors import UsageError
from ggcp_schema.schema.ggml import GGML_TYPES
from ggcp_schema.schema.gguf import VALUE_TYPES, Extents, alignment, in_order
from ggcp_schema.schema.trailing import given_size

if TYPE_CHECKING:
    from ggcp_schema.formats.gguf.file import GgufFile

SCALARS = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", None, "u64", "i64", "f64")
"""The schema's types of values by their numbers; None for arrays."""


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
