"""The JSON Schema of what a command prints, made from the types of which that is made."""

from __future__ import annotations

import datetime
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from ggcp_schema.files.json_keys import json_attributes
from ggcp_schema.inspect.words import WITH_TEXT

SIMPLE: dict[Any, dict[str, Any]] = {
    Any: {},
    str: {"type": "string"},
    datetime.date: {"type": "string"},
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
    attributes = json_attributes(kind)
    if attributes is not None or is_typeddict(kind):
        own = get_type_hints(kind)
        hints = own if attributes is None else {key: _hint(kind, own, name) for key, name in attributes.items()}
        hints |= {f"{name}_text": text for name, text in WITH_TEXT.items() if name in hints}
        return {
            "type": "object",
            "properties": {name: _schema(hint) for name, hint in hints.items()},
            "required": sorted(hints.keys() - getattr(kind, "__optional_keys__", ())),
            "additionalProperties": False,
        }
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1])}
    return {"type": "array", "items": _schema(args[0])}


def _hint(kind: Any, hints: dict[str, Any], name: str) -> Any:
    """Return the type of an attribute: a field, or a property."""
    return hints[name] if name in hints else get_type_hints(getattr(kind, name).fget)["return"]
