"""The notation for the part of a flat vector that belongs to one parameter: `optimizer.state.m[layers[0].wq]`."""

from __future__ import annotations

from typing import NamedTuple

from ggcp_schema.llama.names import STATE, field_path
from ggcp_schema.llama.parameters import FLAT_FIELDS


class PartPath(NamedTuple):
    """A state field (`m`) and the ggcp path of the parameter (`layers[0].wq`) of which it holds the values."""

    field: str
    parameter: str

    def __str__(self) -> str:
        return f"{STATE}{self.field}[{self.parameter}]"


def parse_part_path(path: str) -> PartPath | None:
    """Return what a path in this notation means, None if it is not in this notation.

    GGUF names are understood for both parts: `optimizer.adam.first_moments[blk.0.attn_q.weight]`. Whether the model has
    the parameter is not checked here, but by `llama.parameters.vector_part`. None for an index: `optimizer.state.m[3]`.
    """
    vector, bracket, parameter = path.partition("[")
    if not bracket or not parameter.endswith("]"):
        return None
    parameter = parameter[:-1]
    vector = vector if vector.startswith(STATE) else field_path(vector) or ""
    name = vector.removeprefix(STATE)
    if name not in FLAT_FIELDS or not parameter[:1].isalpha():
        return None
    return PartPath(name, field_path(parameter) or parameter)
