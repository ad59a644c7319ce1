"""What JSON has of a record: by default its fields under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def json_keys(keys: str) -> Callable[[type[T]], type[T]]:
    """Declare the keys that JSON has of a record, in order: names of attributes, or `key=attribute`."""

    def declare(kind: type[T]) -> type[T]:
        kind.json_keys = keys  # type: ignore[attr-defined]
        return kind

    return declare


@cache
def json_attributes(kind: type[Any]) -> Mapping[str, str] | None:
    """Return the names of the attributes of a record by key; None if the class is not of records."""
    if declared := getattr(kind, "json_keys", None):
        pairs = (word.partition("=") for word in declared.split())
        return {key: attribute or key for key, _, attribute in pairs}
    if is_dataclass(kind):
        return {field.name: field.name for field in fields(kind)}
    names = getattr(kind, "_fields", None)
    return None if names is None else dict(zip(names, names))
