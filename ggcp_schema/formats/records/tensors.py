"""The tensors whose records were parsed: those of ggcp files and, alike, of ggcl, ggla and ggml's model files."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from construct import Container

from ggcp_schema.constructs import Extent, Field
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor, same_shape
from ggcp_schema.formats.file import File
from ggcp_schema.formats.records.extent import state_schemas
from ggcp_schema.llama.names import STATE


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


def tensor_records(container: Container, path: str = "") -> Iterator[tuple[str, Container]]:
    """Yield the tensor records among the parsed values with their paths, in file order."""
    for name, value in container.items():
        if isinstance(value, Container) and "n_dims" in value:
            yield f"{path}{name}", value
        elif name == "layers":
            for index, layer in enumerate(value):
                yield from tensor_records(layer, f"{name}[{index}].")
        elif isinstance(value, Container):
            yield from tensor_records(value, f"{path}{name}.")


def tensors_in(file: File) -> Iterator[Tensor]:
    """Yield the tensors whose records are whole among the parsed values, in file order.

    Those of an optimizer whose type is not proven are left out of a damaged file: they may have other names.
    """
    optimizer = file.container.get("optimizer") or {}
    is_named = file.damage is None or "type" not in optimizer or len(state_schemas(optimizer)) == 1
    for path, record in tensor_records(file.container):
        if "_size" in record and (is_named or not path.startswith(STATE)):
            yield tensor_of_record(record, path, file.source)
