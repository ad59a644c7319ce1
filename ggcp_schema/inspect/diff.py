"""Compares two files, field by field and tensor by tensor, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import key_values
from ggcp_schema.gguf.resume import resume_entries
from ggcp_schema.inspect.selection import listing

if TYPE_CHECKING:
    from ggcp_schema.constructs import Span
    from ggcp_schema.gguf.reader import GgufFile
    from ggcp_schema.source import Tensor

File = Checkpoint | "GgufFile" if TYPE_CHECKING else Any
EQUAL, DIFFERENT, ONLY_A, ONLY_B = "equal", "different", "only in A", "only in B"
HEADER = frozenset({"n_dims", "name_len", "type", "ne", "padding", "data"})
BLOCK = 1 << 16  # elements compared at a time, which stay in a core's L2 cache


@dataclass(frozen=True)
class Field:
    """A field in one file: its type and value."""

    type: str
    value: Any


@dataclass(frozen=True)
class FieldRow:
    """A field in both files; `a` or `b` is None where only the other has it."""

    name: str
    verdict: str
    a: Field | None
    b: Field | None


@dataclass(frozen=True)
class TensorRow:
    """A tensor in both files; `a` or `b` is None where only the other has it.

    `differing` counts the elements that are not equal, nor close within the tolerance. `largest` is the largest
    absolute difference, `rms` the root of the mean square of all differences; both infinite where an element is NaN or
    infinite in one file and something else in the other. All three are None where the data was not compared: the
    shapes or types differ.
    """

    name: str
    verdict: str
    a: Tensor | None
    b: Tensor | None
    differing: int | None = None
    largest: float | None = None
    rms: float | None = None


@dataclass(frozen=True)
class Omission:
    """Something that one file (`A` or `B`) holds and that was not compared, and why."""

    name: str
    side: str
    reason: str


@dataclass
class Side:
    """A file as names that both files share. What it holds besides goes to `omitted`."""

    label: str
    fields: dict[str, Field]
    tensors: dict[str, Tensor]
    omitted: list[Omission] = field(default_factory=list)

    def omit(self, names: Sequence[str], reason: str) -> None:
        for name in names:
            self.fields.pop(name, None)
            self.tensors.pop(name, None)
            self.omitted.append(Omission(name, self.label, reason))


def sides(a: File, b: File) -> tuple[Side, Side]:
    """The two files under the names by which they can be compared.

    Checkpoints of one layout are compared field by field; only padding is left out. Otherwise, both are compared as
    the GGUF checkpoints that they are or become: what those have no place for is left out. Where one file is a model
    without an optimizer, the tensors of the model and the keys that both files have are compared. What lies behind the
    damage of a file is left out of the other.

    Raises `UsageError` if a count of a checkpoint does not fit its GGUF type.
    """
    if isinstance(a, Checkpoint) and isinstance(b, Checkpoint) and _same_layout(a, b):
        left, right = _by_path(a, "A"), _by_path(b, "B")
    else:
        left, right = _by_gguf_name(a, "A"), _by_gguf_name(b, "B")
        for one, other in ((left, right), (right, left)):
            if keys.RMS_EPSILON in one.fields and keys.RMS_EPSILON not in other.fields:
                one.omit([keys.RMS_EPSILON], "no ggcp file states it")
            if _is_model(one) and not _is_model(other):
                _reduce_to_model(one, other)
    for file, one, other in ((a, left, right), (b, right, left)):
        if getattr(file, "damage", None) is not None:
            hidden = [name for name in (*other.fields, *other.tensors) if name not in one.fields | one.tensors]
            other.omit(hidden, f"hidden by the damage of {one.label}")
    return left, right


def _same_layout(a: Checkpoint, b: Checkpoint) -> bool:
    layouts = {file.fields.get("optimizer").get("layout") for file in (a, b) if "optimizer" in file.fields}
    return len(layouts - {None}) < 2  # where damage hides one, what is left is the same in all


def _by_path(ckpt: Checkpoint, label: str) -> Side:
    found = {path: Field(span.kind, _value(span)) for path, span in ckpt.spans.items() if not _in_record(span, ckpt)}
    return Side(label, found, dict(ckpt.tensors))


def _in_record(span: Span, ckpt: Checkpoint) -> bool:
    """Whether the leaf is padding, or part of a tensor's record other than its name."""
    last = next(step for step in reversed(span.steps) if isinstance(step, str))
    record = span.path[: span.path.rindex(last)].removesuffix(".")
    return last == "padding" or (last in HEADER and f"{record}.n_dims" in ckpt.spans)


def _value(span: Span) -> Any:
    return span.text if span.kind == "char" else span.value


def _by_gguf_name(file: File, label: str) -> Side:
    if not isinstance(file, Checkpoint):
        return Side(label, {key: Field(entry.type, entry.value) for key, entry in file.keys.items()}, dict(file.tensors))
    side = Side(label, {}, {})
    for item in listing(file):
        if item.gguf_name:
            side.tensors[item.gguf_name] = item.tensor
        elif not item.tensor.is_null:
            side.omit([item.name], "a GGUF checkpoint has no place for it")
    if file.damage is None:
        entries = key_values(resume_entries(file))
        side.fields = {entry.key: Field(entry.type, entry.value) for entry in entries if entry.key != keys.RMS_EPSILON}
    return side


def _is_model(side: Side) -> bool:
    return not any(name.startswith(("optimizer.", "training.")) for name in (*side.fields, *side.tensors))


def _reduce_to_model(model: Side, other: Side) -> None:
    other.omit([name for name in other.tensors if keys.is_optimizer(name)], f"{model.label} is a model")
