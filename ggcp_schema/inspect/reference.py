"""The reference of a format for programs, read off the schema itself. `sections` makes the one for people.

docs/JSON.md describes the JSON data that `reference` gives.
"""

from __future__ import annotations

from typing import TypedDict

from ggcp_schema.constructs import Node, nodes, reference_of
from ggcp_schema.formats.file import Format


class Note(TypedDict):
    """What a function computes, in words."""

    name: str
    text: str


class Reference(TypedDict):
    """The reference as JSON."""

    format: str
    title: str
    description: str
    magic: str
    root: Node
    functions: dict[str, str]
    notes: list[Note]


def reference(format: Format) -> Reference:
    """Return the reference as JSON data."""
    root = reference_of(format.schema)
    notes = functions(root)
    for node in nodes(root):
        if "function" in node:
            node.pop("note", None)
            node.pop("kaitai", None)
    return {
        "format": format.name,
        "title": format.title,
        "description": format.description,
        "magic": format.magic.hex(),
        "root": root,
        "functions": notes,
        "notes": [{"name": name, "text": text} for name, text in notes.items()],
    }


def functions(root: Node) -> dict[str, str]:
    """Return the names of the functions of a record in a TYPE, with what they compute."""
    return {node["function"]: node["note"] for node in nodes(root) if "function" in node and "note" in node}
