"""The size that a truncated checkpoint had when it was whole."""

from __future__ import annotations

from collections.abc import Sequence

from construct import Container

from ggcp_schema.constructs import Struct, compiled
from ggcp_schema.schema.ggml import GGML_TYPES, data_size
from ggcp_schema.schema.inference import ADAM, LBFGS, V0
from ggcp_schema.schema.optimizer import ADAM_STATE, ADAM_STATE_V0, LBFGS_STATE
from ggcp_schema.schema.tensor import ALIGNMENT, declared_shape

LENGTHS = range(1 << 32)  # what a field of `ne` can hold


def expected_size(checkpoint: Container) -> int | None:
    """Return the size in bytes that the whole file had; None if the values that were parsed do not tell it.

    They tell it once the optimizer's fields before its state are whole, since only the state can be missing then. In a
    file that is not damaged it is the size of the file.
    """
    sizes = expected_sizes(checkpoint)
    return next(iter(sizes.values())) if len(sizes) == 1 else None


def expected_sizes(checkpoint: Container) -> dict[str, int]:
    """Return the sizes in bytes that the whole file can have had, by the type of the optimizer.

    There is one size if the type is known, and none if the file ends before the state. The size of a truncated file
    does not tell the type, but its records may; and a v1 file with lbfgs_m 0 is Adam's.
    """
    optimizer = checkpoint.get("optimizer") or Container()
    if "state" not in optimizer:
        return {}
    sizes = {kind: _end_of_state(optimizer, schema) for kind, schema in state_schemas(optimizer).items()}
    return {kind: size for kind, size in sizes.items() if size is not None}


def state_schemas(optimizer: Container) -> dict[str, Struct]:
    """Return the schemas that the optimizer's state can have, by the type of the optimizer."""
    schemas = {ADAM: ADAM_STATE_V0 if optimizer["layout"] == V0 else ADAM_STATE, LBFGS: LBFGS_STATE}
    inference = optimizer.get("inference")
    if inference is None or inference.by_records:
        known = optimizer["type"]
    elif not optimizer["lbfgs_m"]:
        known = ADAM
    else:
        return schemas
    return {known: schemas[known]}


def _end_of_state(optimizer: Container, schema: Struct) -> int | None:
    """Return the offset of the first byte after the state; None if a tensor of it cannot have the shape it should."""
    state = optimizer["state"]
    scope = {"_": {"_": optimizer}}
    at: int = state["_offset"]
    for name, field in schema.fields:
        record, lengths = state.get(name), declared_shape(field)
        if isinstance(record, Container) and "_size" in record:
            at += record["_size"]
        elif lengths is None:
            at += field.sizeof()
        else:
            n_dims = compiled(dict(field.fields)["n_dims"].value)(scope)
            shape = [compiled(length)(scope) for length in lengths[:n_dims]]
            if not all(length in LENGTHS for length in shape):
                return None
            at = end_of_tensor(at, shape)
    return at


def end_of_tensor(start: int, shape: Sequence[int], name_len: int = 0) -> int:
    """Return the offset of the first byte after a tensor record that begins at `start`."""
    header = start + 12 + 4 * len(shape) + name_len
    return header + -header % ALIGNMENT + data_size(GGML_TYPES[0], list(shape))
