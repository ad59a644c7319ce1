"""The rules of a GGUF file that its schema does not state, and what is odd in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggcp_schema.constructs import count_bytes
from ggcp_schema.formats.rules import Oddity, Rules, broken_field, broken_rows, odd_padding, repeated
from ggcp_schema.llama.names import ALIGNMENT, ARCHITECTURE
from ggcp_schema.schema.ggml import GGML_TYPES

if TYPE_CHECKING:
    from ggcp_schema.formats.parsing import Parse


def gguf_rules(parse: Parse) -> Rules:
    """Return what the rules find."""
    container, root = parse.container, parse.file.root
    infos = [info for info in container.get("tensor_infos") or () if "_size" in info]
    datas = [data for data in container.get("tensor_data") or () if "_size" in data]
    keys = [item for item in container.get("metadata_kv") or () if "_size" in item]
    alignment = container.get("alignment", 1)
    errors = [
        *repeated("metadata_kv", "key", keys),
        *repeated("tensor_infos", "name", infos),
        *broken_rows("tensor_infos", "dimensions", infos, GGML_TYPES, root),
    ]
    for index, item in enumerate(keys):
        value = item["value"]
        if item["key"] == ALIGNMENT and not (isinstance(value, int) and value.bit_count() == 1 and value > 0):
            field = root.find(("metadata_kv", index, "value"))
            errors.append(broken_field(field, "a power of two", repr(value)[:40]))
    for index, info in enumerate(infos):
        if info["offset"] % alignment:
            field = root.find(("tensor_infos", index, "offset"))
            errors.append(broken_field(field, f"a multiple of {alignment} (alignment)", str(info["offset"])))
    warnings: list[Oddity] = []
    for path in ("padding", "end_padding"):
        padding = root.child(path)
        if padding is not None:
            warnings += odd_padding(path, padding.value, padding.end)
    if not any(item["key"] == ARCHITECTURE for item in keys) and parse.damage is None:
        warnings.append(Oddity("metadata_kv", 0, f"the key {ARCHITECTURE} is missing"))
    for index, data in enumerate(datas):
        path, extent, padding = f"tensor_data[{index}].padding", data["data"], data["padding"]
        warnings += odd_padding(path, padding, extent.offset)
        start: int = data["_offset"]
        if extent.offset - start != -start % alignment:
            text = f"{count_bytes(extent.offset - start)} of padding, where {-start % alignment} would do"
            warnings.append(Oddity(path, start, text))
    return Rules(len(datas), container.get("tensor_count"), errors, warnings)
