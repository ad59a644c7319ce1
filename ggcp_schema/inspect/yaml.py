"""YAML, as people write it: short lists in a line, long texts as blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

PLAIN = re.compile(r"(?![-?:,\[\]{}#&*!|>'\"%@`\s]|\d)(?:(?!: | #).)*[^:\s]|\d+|0x[0-9a-f]+")
SEALED = {"true", "false", "null", "yes", "no", "on", "off"}
WIDTH = 100  # characters of a line of notes


def yaml_lines(value: Any) -> Iterator[str]:
    """Yield the lines of a mapping or a list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            name = key if isinstance(key, int) else _scalar(key)
            yield from _entry(f"{name}:", item)
    else:
        for item in value:
            first, *others = yaml_lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in others)


def _entry(name: str, item: Any) -> Iterator[str]:
    if isinstance(item, list) and not any(isinstance(inner, Mapping) for inner in item):
        yield f"{name} [{', '.join(map(_scalar, item))}]"
    elif isinstance(item, Mapping | list) and item:
        yield name
        yield from (f"  {line}" for line in yaml_lines(item))
    elif isinstance(item, str) and ("\n" in item or len(item) > WIDTH):
        yield f"{name} |"
        yield from (f"  {line}".rstrip() for line in item.splitlines())
    else:
        yield f"{name} {_scalar(item)}"


def _scalar(item: Any) -> str:
    if isinstance(item, bool):
        return str(item).lower()
    text = str(item)
    plain = isinstance(item, int) or (PLAIN.fullmatch(text) and text not in SEALED)
    return text if plain else "'" + text.replace("'", "''") + "'"
