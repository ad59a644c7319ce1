"""The parts of the optimizer's flat vectors that belong to the parameters of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ggcp_schema.errors import PathError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import FLAT_FIELDS, RESUME_ORDER, PartPath, vector_part

if TYPE_CHECKING:
    from ggcp_schema.formats.parsed import ParsedFile


def parts_of(file: ParsedFile, part_path: PartPath, order: str | None = None) -> tuple[list[Tensor], str]:
    """Return the parts of a flat vector that belong to a parameter, as `VectorPart.of`, and a note if unproven.

    `order` is what the user states. Raises `PathError` for an unknown parameter or vector, and `UsageError` if the
    order of the parameters in the vectors is not known, or not the one stated.
    """
    vector = file.state_tensors.get(part_path.field)
    if vector is None or vector.is_null:
        raise file.unknown_path(str(part_path) if file.field(whole := f"{STATE}{part_path.field}") else whole)
    decision = file.order_or(order)
    is_zero = decision.harmless and part_path.field in {"m", "v"}  # the same in every order
    known = RESUME_ORDER if is_zero else decision.order
    if known is None:
        raise UsageError(
            f"{file.path}: which values of {vector.path} belong to {part_path.parameter} is not known: "
            f"{decision.reason}",
            f"The whole vector is {vector.path}. An order that you know, `extract --order` or moments(order=…) takes.",
        )
    part = vector_part(known, file.model_tensors, part_path.parameter)
    note = "" if is_zero or decision.is_certain else f"order {known} of the parameters is likely, not proven"
    return part.of(vector, str(part_path), file.model_tensors[part.path].shape, file.model_tensors.n_elements), note


def moments_of(
    file: ParsedFile, paths: Iterable[str], order: str | None
) -> tuple[dict[str, dict[str, Any]], Iterable[str]]:
    """Return the arrays of parameters by path and state field, as `ParsedFile.moments`, and notes if unproven."""
    if not any(name in FLAT_FIELDS for name in file.state_tensors):
        raise file.damage or UsageError(f"{file.path} has no state of an optimizer", "A checkpoint has one.")
    if not file.model_tensors:
        hint = f"The whole vectors are {', '.join(STATE + name for name in file.state_tensors if name in FLAT_FIELDS)}."
        raise UsageError(f"{file.path}: which moments belong to which part of an adapter is not told", hint)
    found, notes = {}, set[str]()
    for path in paths:
        found[path], unproven = _moments_at(file, path, order)
        notes |= unproven
    return found, sorted(notes - {""})


def _moments_at(file: ParsedFile, path: str, order: str | None) -> tuple[dict[str, Any], set[str]]:
    import numpy as np

    tensor = file[path]
    parameter = file.names_of(tensor)[0] if isinstance(tensor, Tensor) else None
    if parameter is None or parameter not in file.model_tensors:
        raise PathError(f"{path} is not a parameter of the model")
    n_params, shape, notes, found = file.model_tensors.n_elements, tensor.shape[::-1], set[str](), {}
    for name, vector in file.state_tensors.items():
        if name not in FLAT_FIELDS or vector.shape[:1] != (n_params,):
            continue
        parts, note = parts_of(file, PartPath(name, parameter), order)
        arrays, notes = [part.array() for part in parts], notes | {note}
        if len(vector.shape) > 1:
            arrays = [np.reshape(arrays, (*vector.shape[1:], *shape)).astype(np.float32, copy=False)]
            arrays[0].flags.writeable = False
        found[name] = arrays[0]
    return found, notes
