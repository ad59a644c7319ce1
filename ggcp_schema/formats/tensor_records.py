"""The tensors whose records were parsed."""

from __future__ import annotations

from math import prod

from construct import Container

from ggcp_schema.constructs import Extent, Field
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor, same_shape


def tensor_of(field: Field, source: Source) -> Tensor | None:
    """Return the tensor whose record the field is; None if it is not one, or if its data is cut off."""
    record = field.value
    if not isinstance(record, Container) or "ne" not in record:
        return None
    data = record.get("data")
    if not isinstance(data, Extent) or data.nbytes < 4 * prod(record["ne"]) * bool(record["ne"]):
        return None
    return tensor_of_record(record, field.path, source)


def tensor_of_record(
    record: Container, path: str | None, source: Source, type: str = "F32", *, is_known: bool = True
) -> Tensor:
    """Return the tensor of a whole record that has been parsed. Without a path it has its name as one."""
    data, shape = record["data"], same_shape(*record["ne"])
    name = record["name"].decode("utf-8", "backslashreplace")
    path = name if path is None else path
    name = path if name == path else name  # once in the memory
    padding = len(record.get("padding", b""))
    return Tensor(path, name, shape, data.offset, data.nbytes, source, type, padding=padding, is_known=is_known)
