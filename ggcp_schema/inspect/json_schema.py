"""The JSON Schema of what a command prints, made from the types of which that is made."""

from __future__ import annotations

import datetime
import sys
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
        of_record = {key: _hint(kind, *way) for key, way in (attributes or {}).items()}
        hints = get_type_hints(kind) if attributes is None else of_record
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


def _hint(kind: Any, name: str, *further: str) -> Any:
    """Return the type of an attribute of a record: a property, or a field. Types of other fields may be unknown.

    `further` leads on to an attribute of that; it is None too if that may be.
    """
    found = getattr(kind, name, None)
    if isinstance(found, property):
        hint = get_type_hints(found.fget)["return"]
    else:
        owner = next(base for base in kind.__mro__ if name in getattr(base, "__annotations__", {}))
        only = types.SimpleNamespace(__annotations__={name: owner.__annotations__[name]})
        hint = get_type_hints(only, vars(sys.modules[owner.__module__]))[name]
    if not further:
        return hint
    is_optional = type(None) in get_args(hint)
    inner = _hint(get_args(hint)[0] if is_optional else hint, *further)
    return inner | None if is_optional else inner
