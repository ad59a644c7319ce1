"""`dump`: every field, in file order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggcp_schema.cli.complete import complete_path

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.constructs import Span
    from ggcp_schema.inspect.fields import Node

LIST_SHOWN = 4
DATA_SHOWN = 4
INDENT = "  "


def dump(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ggcp checkpoint.")],
    path: Annotated[
        str,
        typer.Argument(metavar="[PATH]", help="Only this field and those in it.", autocompletion=complete_path),
    ] = "",
    full: Annotated[bool, typer.Option("--full", help="All of long lists and of tensor data.")] = False,
    depth: Annotated[int, typer.Option("--depth", min=1, help="How many levels to show, below PATH if given.")] = 99,
    as_json: Annotated[bool, typer.Option("--json", help="An array of the leaves: no gaps, no overlaps.")] = False,
) -> None:
    """Show every field in file order: offset, size, type, name and value.

    With --json, an array of {path, type, offset, size, value}. The leaves tile the file exactly, padding and
    tensor data included: their value is hex and null. Type "derived" marks what the file does not state (size 0).
    """
    from ggcp_schema.cli.output import raise_damage
    from ggcp_schema.inspect.fields import tree, under
    from ggcp_schema.reader import open_checkpoint

    with open_checkpoint(file, partial=True) as ckpt:
        spans = under(ckpt, path)
        if as_json:
            print_leaves(spans)
        else:
            nodes = tree(spans)
            while path and nodes[0].path != path:
                nodes = nodes[0].children
            print_tree(ckpt, nodes, full, depth + bool(path))
        raise_damage(ckpt.damage)


def print_leaves(spans: list[Span]) -> None:
    """The array, a leaf a line: it may be long."""
    import json

    from ggcp_schema.cli.output import echo, to_json

    for index, span in enumerate(spans):
        leaf = {
            "path": span.path,
            "type": span.kind,
            "offset": span.offset,
            "size": span.size,
            "value": to_json(json_value(span)),
        }
        text = json.dumps(leaf, ensure_ascii=False, allow_nan=False)
        echo(f"{'[' if index == 0 else ' '}{text}{',' if index + 1 < len(spans) else ']'}")


def json_value(span: Span) -> Any:
    """Null for data, text for names; bytes stay bytes."""
    if span.kind == "data":
        return None
    return span.text if span.kind == "char" else span.value


def print_tree(ckpt: Checkpoint, nodes: tuple[Node, ...], full: bool, depth: int) -> None:
    """The fields as an indented tree."""
    from ggcp_schema.cli.output import echo, paint

    width = len(f"{ckpt.size:,}")
    echo(paint(f"{'offset':>{width}} {'size':>{width}}  {'type':<8} field", dim=True))
    for level, node in walk(nodes, full, depth):
        if isinstance(node, str):
            echo(f"{'':{2 * width + 11}} {INDENT * level}{paint(node, dim=True)}")
            continue
        kind = node.leaf.kind if node.leaf else ""
        value = f" {paint('=', dim=True)} {leaf_text(ckpt, node.leaf, full)}" if node.leaf else shape_text(node)
        name = node.path.rpartition(".")[2] if level else node.path
        label = paint(name, None if node.leaf else "cyan", bold=not node.leaf)
        numbers = paint(f"{node.offset:>{width},} {node.size:>{width},}", dim=True)
        echo(f"{numbers}  {paint(f'{kind:<8}', 'yellow')} {INDENT * level}{label}{value}")


def walk(nodes: tuple[Node, ...], full: bool, depth: int, level: int = 0) -> Iterator[tuple[int, Node | str]]:
    """The nodes with their level, long lists abridged to their ends."""
    is_list = len(nodes) > LIST_SHOWN and nodes[0].path.endswith("]")
    for index, node in enumerate(nodes):
        if is_list and not full and LIST_SHOWN - 2 <= index < len(nodes) - 1:
            if index == LIST_SHOWN - 2:
                yield level, f"… {len(nodes) - LIST_SHOWN + 1} more"
            continue
        yield level, node
        if level + 1 < depth:
            yield from walk(node.children, full, depth, level + 1)


def leaf_text(ckpt: Checkpoint, span: Span, full: bool) -> str:
    """The value in words: numbers that have a meaning with it, data by its first elements."""
    from ggcp_schema.cli.output import escape, float32
    from ggcp_schema.inspect.fields import data_slice

    value = span.value
    if span.kind == "data":
        count = value.nbytes // 4
        shown = count if full else min(count, DATA_SHOWN)
        text = " ".join(map(float32, data_slice(ckpt.source, value, slice(shown))))
        return text if shown == count else f"{text} … ({count:,} values)"
    if span.kind == "padding":
        return "" if not value else f"{len(value)} × 00" if not any(value) else value.hex(" ")
    if span.kind == "char":
        return f'"{escape(span.text)}"'
    if isinstance(value, float):
        return float32(value)
    meaning = meaning_of(span)
    return f"{value} ({meaning})" if meaning else str(value)


def shape_text(node: Node) -> str:
    """The shape of a tensor record, in ggml order; nothing for another record."""
    ne = next((child for child in node.children if child.path == f"{node.path}.ne"), None)
    return f" [{', '.join(str(dim.leaf.value) for dim in ne.children if dim.leaf)}]" if ne else ""


def meaning_of(span: Span) -> str:
    """What the schema says that a number stands for; empty if it says nothing."""
    meanings = getattr(span.field, "allowed", None)
    return meanings.get(span.value, "") if isinstance(meanings, dict) else ""
