"""What JSON has of a record: by default its fields under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def json_keys(keys: str) -> Callable[[type[T]], type[T]]:
    """Declare the keys that JSON has of a record, in order: names of attributes, or `key=attribute`.

    The attribute may be one of another: `offset=tensor.offset`, which is None if there is no tensor.
    """

    def declare(kind: type[T]) -> type[T]:
        kind.json_keys = keys  # type: ignore[attr-defined]
        return kind

    return declare


@cache
def json_attributes(kind: type[Any]) -> Mapping[str, list[str]] | None:
    """Return the attributes of a record by key, each as the way to it; None if the class is not of records."""
    if declared := getattr(kind, "json_keys", None):
        pairs = (word.partition("=") for word in declared.split())
        return {key: (attribute or key).split(".") for key, _, attribute in pairs}
    names = [field.name for field in fields(kind)] if is_dataclass(kind) else getattr(kind, "_fields", None)
    return None if names is None else {name: [name] for name in names}


def json_record(value: Any) -> dict[str, Any] | None:
    """Return the attributes of a record by key; None if the value is none."""
    attributes = json_attributes(value.__class__)
    return None if attributes is None else {key: _followed(value, way) for key, way in attributes.items()}


def _followed(value: Any, way: list[str]) -> Any:
    for name in way:
        value = None if value is None else getattr(value, name)
    return value
