"""The notation of paths, `layers[1].wq`: the steps that a path means, and the values at them."""

from __future__ import annotations

import re
from typing import Any

from construct import Container

from ggcp_schema.constructs import LISTS, Steps

STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d{1,18})\]")
LAST_INDEX = re.compile(r"(?P<stem>.+)\[(?P<index>[^\[\]]*)\]", re.DOTALL)


def parse_path(path: str) -> Steps | None:
    """Return the steps of a path, `layers[1].wq` as `("layers", 1, "wq")`; None if it is not a path."""
    if not isinstance(path, str):
        raise TypeError(f"a path is a text such as 'layers[0].wq', not {path!r}")
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        match = STEP.match(path, at)
        if match is None:
            return None
        name, index = match.groups()
        steps.append(name if index is None else int(index))
        at = match.end()
    return tuple(steps)


def value_at(value: Any, steps: Steps | None) -> Any:
    """Return the value that the field at these steps has, without making fields; None if there is none, or no step."""
    for step in steps or ("",):
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, Container) and step[:1] != "_" else None
        else:
            value = value[step] if isinstance(value, LISTS) and 0 <= step < len(value) else None
    return value
