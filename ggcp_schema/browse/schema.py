"""The Schema tab: what the format says about the selected field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from ggcp_schema.browse.document import Document
from ggcp_schema.browse.lines import Hanging
from ggcp_schema.browse.panes import Pane
from ggcp_schema.constructs.tree import Field
from ggcp_schema.inspect.text import escape, shape_text, size_text, value_text

MEMBERS = 40  # children listed at most


def describe(document: Document, field: Field) -> Iterator[tuple[str, str]]:
    """Give what is known of a field as labels and texts."""
    yield "path", field.path
    yield "type", field.type
    if field.is_leaf and field.type != "padding":
        yield "value", value_text(field, 2000)
    if field.rule:
        yield "rule", field.rule
    if field.docs:
        yield "note", field.docs
    yield "offset", f"{field.offset:,} (0x{field.offset:x})"
    yield "size", size_text(field.size)
    tensor = document.tensor_of(field)
    if tensor is not None:
        yield "tensor", tensor.path
        if tensor.name:
            yield "name", tensor.name
        shape = shape_text(tensor.shape)
        numpy = ", ".join(map(str, reversed(tensor.shape)))
        yield "shape", f"{shape} (ggml order), ({numpy}) in numpy" if tensor.shape else shape
        yield "elements", f"{tensor.n_elements:,} {tensor.type}"
    for finding in document.file.findings:
        if finding.path == field.path:
            yield "finding", finding.message
    damage = document.file.damage
    if damage is not None and document.marks.get(field.path, "").startswith("damage"):
        yield "damage", f"{damage.path}: expected {damage.expected}, found {damage.found}"
    yield "format", document.file.format.title
    if document.summary is not None and document.summary.era is not None:
        yield "era", document.summary.era.writer_text


class Schema(VerticalScroll, Pane, can_focus=True):
    """The Schema tab."""

    TITLE = "Schema"

    def __init__(self, document: Document, **options: Any) -> None:
        super().__init__(**options)
        self.document = document

    def compose(self) -> ComposeResult:
        yield Static(id="schema")

    def show(self, field: Field | None) -> None:
        static = self.query_one("#schema", Static)
        if field is None:
            static.update("These bytes belong to no field: they come after the damage.")
            return
        text = Text()
        for label, words in describe(self.document, field):
            text.append(f"{label:<9} ", "bold")
            text.append(f"{escape(words)}\n")
        if not field.is_leaf:
            children = field.children()
            text.append("\nfields    ", "bold")
            text.append(f"{len(children):,}")
            for index in range(min(len(children), MEMBERS)):
                child = children[index]
                text.append(f"\n  {escape(child.name):<18}", "bold")
                text.append(f" {child.type:<8} {escape(child.docs)}")
            if len(children) > MEMBERS:
                text.append(f"\n  … and {len(children) - MEMBERS:,} more")
        static.update(Hanging(text, 10))
