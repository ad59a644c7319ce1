"""The reference of the format, read off the schema itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from construct import Construct

from ggcp_schema import inference
from ggcp_schema.constructs import Choice, EndOfFile, Hole, If, Items, OneOf, PaddingTo, Payload, Record, unlabelled
from ggcp_schema.schema import CHECKPOINT, TENSOR
from ggcp_schema.schema.lookahead import optimizer_layout
from ggcp_schema.schema.tensor import Rank, Shape, TensorRecord


@dataclass(frozen=True)
class Field:
    """A field: `type` in the schema's words, `condition` under which it is there, `rule` that its value obeys,
    `note` for the reader. Each may be empty but the name and the type."""

    name: str
    type: str
    condition: str
    rule: str
    note: str


@dataclass(frozen=True)
class Section:
    """A record of the file, by the path to it, with its fields in file order."""

    title: str
    fields: tuple[Field, ...]


def sections() -> list[Section]:
    """The records of the format: the file, then each record in it once, then the tensor record."""
    return [*_record("file", "", CHECKPOINT), *_record("tensor", "tensor", TENSOR)]


def notes() -> list[tuple[str, str]]:
    """The rules that no single field states, from the docstrings of the functions that follow them."""
    rules = {
        "n_ff": inference.n_ff_by_formula,
        "optimizer.layout": optimizer_layout,
        "optimizer.type": inference.infer_type,
        "bound": inference.record_bound,
        "adam_bound": inference.adam_bound,
        "lbfgs_bound": inference.lbfgs_bound,
    }
    return [(name, inspect.getdoc(function) or "") for name, function in rules.items()]


def _record(title: str, path: str, record: Record) -> Iterator[Section]:
    fields, inner = [], []
    for labelled in record.subcons:
        field = unlabelled(labelled)
        name = labelled.name or "(end of file)"
        condition = str(field.condition) if isinstance(field, If) else ""
        field = unlabelled(field.thensubcon) if isinstance(field, If) else field
        fields.append(Field(name, type_of(field), condition, rule_of(field), _docs(labelled)))
        inner += list(_inside(f"{path}.{name}".lstrip("."), field))
    yield Section(title, tuple(fields))
    for where, nested in inner:
        yield from _record(where, where.partition(" ")[0], nested)


def _inside(path: str, field: Construct) -> Iterator[tuple[str, Record]]:
    """The records that the field holds, with the titles of their sections."""
    if isinstance(field, Record) and not isinstance(field, TensorRecord):
        yield path, field
    elif isinstance(field, Items) and isinstance(field.subcon, Record):
        yield f"{path}[i]", field.subcon
    elif isinstance(field, Choice):
        for key, case in field.cases.items():
            yield f"{path} ({key})", case


def type_of(field: Construct) -> str:  # noqa: PLR0911 - a return for each kind of construct
    """The type in the reference's words: `u32`, `tensor [n_embd]`, `n_layer × layers[i]`."""
    if isinstance(field, TensorRecord):
        null = f", or NULL where {field.shape[0]} = 0" if field.null_if_zero else ""
        return f"tensor [{', '.join(map(str, field.shape))}]{null}"
    if isinstance(field, Items):
        return f"{field.subcon.kind if hasattr(field.subcon, 'kind') else 'record'} × {field.count}"
    if isinstance(field, Choice):
        return f"record, by {field.key}"
    if isinstance(field, Record):
        return "record"
    if isinstance(field, PaddingTo):
        return f"0 to {field.modulus - 1} bytes"
    if isinstance(field, Payload):
        return f"{field.nbytes} bytes"
    if isinstance(field, Hole):
        return f"{field.length} bytes"
    if field.kind == "char":
        return f"char × {field.length}"
    return str(field.kind)


def rule_of(field: Construct) -> str:
    """What the value must be."""
    if isinstance(field, OneOf | Rank):
        return str(field)
    if isinstance(field, Shape):
        return "the shape that its place in the file gives"
    if isinstance(field, PaddingTo):
        return f"up to the next multiple of {field.modulus} of the file offset"
    return "nothing may follow" if isinstance(field, EndOfFile) else ""


def _docs(labelled: Construct) -> str:
    return str(labelled.docs or "")
