"""The JSON Schema of what a command prints, made from the types of which that is made."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

SIMPLE: dict[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def json_schema(kind: Any, title: str) -> dict[str, Any]:
    """Return the schema of values of a type: of `TypedDict`, NamedTuples, dataclasses, lists and what JSON has."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_schema(kind)}


def _schema(kind: Any) -> dict[str, Any]:
    origin, args = get_origin(kind), get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if origin is Literal:
        return {"enum": list(args)}
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_schema(arg) for arg in args]}
    if is_typeddict(kind) or is_dataclass(kind) or hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return {
            "type": "object",
            "properties": {name: _schema(hint) for name, hint in hints.items()},
            "required": sorted(getattr(kind, "__required_keys__", hints)),
            "additionalProperties": False,
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1])}
    return {"type": "array", "items": _schema(args[0])}
