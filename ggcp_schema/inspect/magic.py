"""Entries for the magic file of file(1), made from the tree by which the schema describes itself.

An entry names the format and the numbers that lie at the same offset in every file of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ggcp_schema.constructs import Node, nodes, reference_of
from ggcp_schema.formats.file import Format

INTEGERS = {"u8": "ubyte", "i8": "byte", "u16": "ushort", "i16": "short", "u32": "ulong", "i32": "long"}
INTEGERS |= {"u64": "uquad", "i64": "quad"}


def magic_entry(format: Format) -> str:
    """Return the entry of a format as text."""
    root = reference_of(format.schema)
    first = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in format.magic)
    lines = [f"0\tstring\t{first}\t{format.title}"]
    if not any(isinstance(node.get("byte_order"), dict) for node in nodes(root)):
        return "\n".join([*lines, *_numbers(root, "little", ">"), ""])
    offset = len(format.magic)  # of the version, whose low half is not zero; in the oldest, numbers have other sizes
    oldest = next((node["condition"]["args"][1] for node in nodes(root) if _is_by_version(node)), None)
    for order in ("little", "big"):
        short = _type("u32", order)
        lines.append(f">{offset}\t{short}\t<0x10000\t\\b, {order}-endian")
        if oldest is not None and order == "little":
            lines.append(f">>{offset}\t{short}\t{oldest}")
            lines += _numbers(root, order, ">>>", oldest)
            lines.append(f">>{offset}\t{short}\t>{oldest}")
            lines += _numbers(root, order, ">>>")
        else:
            lines += _numbers(root, order, ">>")
    return "\n".join([*lines, ""])


def _is_by_version(node: Node) -> bool:
    asked = node.get("condition")
    return isinstance(asked, dict) and asked.get("op") == "==" and asked["args"][0] == {"field": "_root.version"}


def _numbers(root: Node, order: str, depth: str, version: int | None = None) -> Iterator[str]:
    for name, kind, offset in _fixed(root, version):
        if offset:  # the magic itself is named by the title
            shown = ("ll" if kind.endswith("64") else "") + ("u" if kind.startswith("u") else "d")
            yield f"{depth}{offset}\t{_type(kind, order)}\tx\t\\b, {name} %{shown}"


def _type(kind: str, order: str) -> str:
    name = INTEGERS[kind]
    unsigned, plain = name[: name.startswith("u")], name.removeprefix("u")
    return name if plain == "byte" else f"{unsigned}{'le' if order == 'little' else 'be'}{plain}"


def _fixed(struct: Node, version: int | None, offset: int = 0) -> Iterator[tuple[str, str, int]]:
    """Yield the name, type and offset of the integers before the first field whose size varies.

    `version` is given if the fields depend on it.
    """
    for field in struct["fields"]:
        node: Any = field["type"]
        if _is_by_version(node):
            node = node["then" if node["condition"]["args"][1] == version else "else"]
        if node["kind"] == "computed":
            continue
        if node["kind"] == "struct" and _size(node) is not None:
            yield from _fixed(node, version, offset)
        elif node["kind"] in INTEGERS:
            yield field["name"], node["kind"], offset
        size = _size(node)
        if size is None:
            return
        offset += size


def _size(node: Node) -> int | None:
    """Return the size of a field in bytes; None if it varies."""
    if node["kind"] == "struct":
        sizes = [_size(field["type"]) for field in node["fields"]]
        return None if None in sizes else sum(filter(None, sizes))
    size = node.get("size")
    return size if isinstance(size, int) else None
