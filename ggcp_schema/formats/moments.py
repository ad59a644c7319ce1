"""The optimizer's state of single parameters, as arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ggcp_schema.errors import PathError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.formats.paths import parts_of
from ggcp_schema.llama.parameters import FLAT_FIELDS
from ggcp_schema.llama.vector_parts import PartPath


def moments_of(file: File, path: str, order: str | None) -> dict[str, Any]:
    """Return the arrays of a parameter by state field, as `File.moments`."""
    tensor = file[path]
    parameter = file.names_of(tensor)[0] if isinstance(tensor, Tensor) else None
    if parameter is None or parameter not in file.model_tensors:
        raise PathError(f"{path} is not a parameter of the model")
    n_params, shape, notes, found = file.model_tensors.n_elements, tensor.shape[::-1], set[str](), {}
    for field, vector in file.state_tensors.items():
        if field not in FLAT_FIELDS or vector.shape[:1] != (n_params,):
            continue
        parts, note = parts_of(file, PartPath(field, parameter), order)
        arrays, notes = [part.array() for part in parts], notes | {note}
        if len(vector.shape) > 1:
            arrays = [np.reshape(arrays, (*vector.shape[1:], *shape)).astype(np.float32, copy=False)]
            arrays[0].flags.writeable = False
        found[field] = arrays[0]
    for note in filter(None, notes):
        warnings.warn(f"{file.path}: {note}", stacklevel=3)
    return found
