"""The reference of a format, read off the schema itself: as JSON data for programs, as tables for people.

docs/JSON.md describes the JSON data. The tables have types, conditions and rules in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

from ggcp_schema.constructs import Node, expression_text, nodes, reference_of, rule_text
from ggcp_schema.formats.file import Format
from ggcp_schema.inspect.text import count_text
from ggcp_schema.schema.tensor import TENSOR

NEGATED = {"==": "!=", "!=": "=="}


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


# Tables ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A field: its `type`, the `condition` under which the file has it, the `rule` for its value, and a `note`.

    Each is in words, and may be empty except the name and the type.
    """

    name: str
    type: str
    condition: str = ""
    rule: str = ""
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A record of the format, titled by its path, with its fields in file order; or the cases of a value."""

    title: str
    rows: tuple[Row, ...]


def sections(format: Format) -> list[Section]:
    """Return the records of the format: the file, each record in it once, then the tensor record if it has one."""
    root = reference_of(format.schema)
    found = list(_record("file", "", root, ()))
    if any(node.get("shape") for node in nodes(root)):
        found += _record("tensor", "tensor", TENSOR.reference(), ())
    return found


def byte_order_text(format: Format) -> str:
    """Return what the reference says of the byte order."""
    orders = [node["byte_order"] for node in nodes(reference_of(format.schema)) if "byte_order" in node]
    little = all(order == "little" for order in orders)
    return "All numbers are little-endian." if little else "Numbers are in the byte order of the file."


def _record(title: str, path: str, record: Node, around: tuple[object, ...]) -> Iterator[Section]:
    """Yield the section of a record, then those of the records in it. `around` are the records around it."""
    rows: list[Row] = []
    inner: list[tuple[str, Node]] = []
    for field in record["fields"]:
        node, name, condition = field["type"], field["name"] or "(end of file)", ""
        if node["kind"] == "if" and node["else"]["kind"] == "nothing":
            condition, node = expression_text(node["condition"]), node["then"]
        rows.append(Row(name, type_text(node), condition, rule(node), field["docs"]))
        inner.append((f"{path}.{name}".removeprefix("."), node))
    section = Section(title, tuple(rows))
    if section.rows in around:  # a record in itself, such as an array of arrays
        return
    yield section
    for where, node in inner:
        if "element_types" in node:
            yield Section(f"{title}, blocks by type", tuple(_blocks(node["element_types"])))
        yield from _inside(where, (), node, record, (*around, section.rows))


def _blocks(types: Node) -> Iterator[Row]:
    for number, kind in types.items():
        elements, size = count_text(kind["block_size"], "element"), count_text(kind["type_size"], "byte")
        yield Row(number, kind["name"], rule=f"{elements} in {size}")


def _inside(
    path: str, conditions: tuple[str, ...], node: Node, record: Node, around: tuple[object, ...]
) -> Iterator[Section]:
    """Yield the sections of the records in a field of a record."""
    title = f"{path} ({', '.join(conditions)})" if conditions else path
    if node["kind"] == "struct":
        if not node.get("shape"):
            yield from _record(title, path, node, around)
    elif node["kind"] == "array":
        yield from _inside(f"{path}[i]", conditions, node["of"], record, around)
    elif node["kind"] == "if":
        if type_text(node) in ("record", f"record × {_count(node['then'])}"):
            text = expression_text(node["condition"])
            yield from _inside(path, (*conditions, text), node["then"], record, around)
            yield from _inside(path, (*conditions, negated(node["condition"])), node["else"], record, around)
    elif node["kind"] == "switch" and type_text(node).startswith("by "):
        yield from _cases(path, conditions, node, record, around)


def _cases(
    path: str, conditions: tuple[str, ...], switch: Node, record: Node, around: tuple[object, ...]
) -> Iterator[Section]:
    """Yield the cases of a switch as a section if some are values, then the sections of the cases that are records."""
    key, cases = expression_text(switch["on"]), [(case["key"], case["type"]) for case in switch["cases"]]
    named = (field["type"].get("names", {}) for field in record["fields"] if field["name"] == key)
    meanings: dict[str, str] = next(named, {})
    if any(type_text(case) != "record" for _, case in cases):
        rows = tuple(Row(str(on), type_text(case), "", rule(case), meanings.get(str(on), "")) for on, case in cases)
        if rows not in around:
            yield Section(f"{path}, by {key}", rows)
    for value, case in cases:
        yield from _inside(path, (*conditions, f"{key} == {value!r}"), case, record, around)


def negated(expression: Node) -> str:
    """Return the text of the opposite of a condition."""
    opposite = NEGATED.get(expression.get("op", ""))
    return expression_text(expression | {"op": opposite}) if opposite else f"not ({expression_text(expression)})"


def type_text(node: Node) -> str:  # noqa: PLR0911 - a return for each kind
    """Return the type in the reference's words: `u32`, `tensor [n_embd]`, `record × n_layer`."""
    kind: str = node["kind"]
    if kind == "if":
        then, otherwise = type_text(node["then"]), type_text(node["else"])
        if {then, otherwise} == {"u32", "u64"}:  # by the version of the file, as the description of the format says
            return "u32 or u64"
        return then if then == otherwise else f"{then} if {expression_text(node['condition'])}, else {otherwise}"
    if kind == "switch":
        texts = {type_text(case["type"]) for case in node["cases"]}
        return texts.pop() if len(texts) == 1 and "record" not in texts else f"by {expression_text(node['on'])}"
    if kind == "array":
        return f"{type_text(node['of'])} × {_count(node)}"
    if kind == "struct":
        shape = [expression_text(length) for length in node.get("shape") or ()]
        null = f", or NULL if {shape[0]} == 0" if node.get("null_if_zero") else ""
        return f"tensor [{', '.join(shape)}]{null}" if shape else "record"
    if kind == "string":
        return f"string, its length as {type_text(node['length'])} first"
    if kind in {"bytes", "char", "padding"} and "size" in node:
        return f"{kind} × {expression_text(node['size'])}"
    return "derived" if kind == "computed" else kind


def _count(node: Node) -> str:
    if node["kind"] != "array":
        return ""
    return "any number" if node["count"] is None else expression_text(node["count"])


def rule(node: Node) -> str:
    """Return what the value must be, or how it is computed; empty if there is nothing to say."""
    kind = node["kind"]
    if kind == "if":
        texts = list(dict.fromkeys(filter(None, (rule(node["then"]), rule(node["else"])))))
        return " or ".join(texts)
    if kind == "computed":
        value = node["value"]
        return f"= {value['field'] if isinstance(value, dict) and 'field' in value else _call_text(value)}"
    if "until" in node:
        return f"up to the offset {_call_text(node['until'])}"
    if "to_multiple_of" in node:
        text = f"up to the next multiple of {_call_text(node['to_multiple_of'])} of the offset in the file"
        return f"{text}, or to its end" if node["optional"] else text
    if kind == "data":
        return f"{_call_text(node['size'])} bytes"
    return "nothing may follow" if kind == "end" else rule_text(node)


def _call_text(expression: Any) -> str:
    text = expression_text(expression)
    return f"{text}()" if isinstance(expression, dict) and "note" in expression else text
