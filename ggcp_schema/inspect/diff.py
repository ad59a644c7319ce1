"""Compares two files, field by field and tensor by tensor, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ggcp_schema.checkpoint import Checkpoint
from ggcp_schema.constructs import format_path
from ggcp_schema.errors import UsageError
from ggcp_schema.gguf import keys
from ggcp_schema.gguf.entries import key_values
from ggcp_schema.gguf.reader import GgufFile
from ggcp_schema.gguf.resume import resume_entries
from ggcp_schema.inspect.selection import listing

if TYPE_CHECKING:
    from ggcp_schema.constructs import Span
    from ggcp_schema.source import Tensor

File: TypeAlias = Checkpoint | GgufFile
Floats: TypeAlias = npt.NDArray[np.float32]
T = TypeVar("T")

EQUAL, DIFFERENT, ONLY_A, ONLY_B = "equal", "different", "only in A", "only in B"
RECORD = frozenset({"n_dims", "name_len", "type", "ne", "name", "data"})  # of a tensor, which is compared as such
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


@dataclass(frozen=True)
class Comparison:
    """All fields and tensors of both files, in the order of A, those that only B has at the end."""

    fields: list[FieldRow]
    tensors: list[TensorRow]
    omitted: list[Omission]

    @property
    def equal(self) -> bool:
        return all(row.verdict == EQUAL for row in self.fields) and all(row.verdict == EQUAL for row in self.tensors)


@dataclass
class Side:
    """A file as names that both files share. What it holds besides goes to `omitted`."""

    label: str
    fields: dict[str, Field]
    tensors: dict[str, Tensor]
    omitted: list[Omission] = field(default_factory=list)

    def omit(self, names: Iterable[str], reason: str) -> None:
        for name in list(names):
            self.fields.pop(name, None)
            self.tensors.pop(name, None)
            self.omitted.append(Omission(name, self.label, reason))


def compare(
    a: File, b: File, *, rtol: float = 0.0, atol: float = 0.0, progress: Callable[[int], None] | None = None
) -> Comparison:
    """Compares the files under the names that `sides` gives them.

    Numbers are equal if `|a - b| <= atol + rtol * |b|`; a NaN equals only the same bits, an infinity only itself.
    `progress` is called with the number of bytes just read of both files. Raises `FileError` if a file becomes too
    short, `UsageError` if the elements of a tensor are F32 in neither.
    """
    left, right = sides(a, b)
    fields = [
        FieldRow(name, _verdict(one, other, same=_same_field(one, other, rtol, atol)), one, other)
        for name, one, other in _pairs(left.fields, right.fields)
    ]
    pairs = list(_pairs(left.tensors, right.tensors))
    comparable = [(one, other) for _, one, other in pairs if one and other and _alike(one, other)]
    distances = _distances(comparable, rtol, atol, progress)
    tensors = []
    for name, one, other in pairs:
        apart = next(distances) if one and other and _alike(one, other) else (None, None, None)
        tensors.append(TensorRow(name, _verdict(one, other, same=apart[0] == 0), one, other, *apart))
    return Comparison(fields, tensors, [*left.omitted, *right.omitted])


def shared_bytes(a: File, b: File) -> int:
    """The number of bytes of both files that `compare` reads, at most."""
    return sum(tensor.nbytes for file in (a, b) for tensor in file.tensors.values())


# The names that both files share ---------------------------------------------------------------------------


def sides(a: File, b: File) -> tuple[Side, Side]:
    """The two files under the names by which they can be compared.

    Two checkpoints of one layout are compared field by field; only padding is left out. Otherwise both are compared as
    the GGUF checkpoints that they are or become, and what those have no place for is left out. Where one file is a
    model without an optimizer, the model's tensors and the keys that both files have are compared. What the damage of
    one file hides is left out of the other.

    Raises `UsageError` if a count of a checkpoint does not fit its GGUF type.
    """
    if isinstance(a, Checkpoint) and isinstance(b, Checkpoint) and _same_layout(a, b):
        left, right = _by_path(a, "A", b), _by_path(b, "B", a)
    else:
        left, right = _by_gguf_name(a, "A"), _by_gguf_name(b, "B")
        for file, one, another, other in ((a, left, b, right), (b, right, a, left)):
            if isinstance(another, Checkpoint) and keys.RMS_EPSILON in one.fields:
                one.omit([keys.RMS_EPSILON], "no ggcp file states it")
            if _is_model(file) and not _is_model(another):
                _reduce_to_model(one, other)
    for file, one, other in ((a, left, right), (b, right, left)):
        if isinstance(file, Checkpoint) and file.damage is not None:
            known = one.fields.keys() | one.tensors.keys()
            other.omit(
                (name for name in (*other.fields, *other.tensors) if name not in known),
                f"hidden by {one.label}'s damage",
            )
    return left, right


def _same_layout(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether the optimizer blocks have one layout. Before the optimizer there is only one; damage may hide it."""
    layouts = {
        optimizer.get("layout") for optimizer in (a.fields.get("optimizer"), b.fields.get("optimizer")) if optimizer
    }
    return len(layouts - {None}) < 2


def _by_path(ckpt: Checkpoint, label: str, other: Checkpoint) -> Side:
    fields = {path: Field(span.kind, _value(span)) for path, span in ckpt.spans.items() if _is_field(span, ckpt)}
    both = (tensor for path, tensor in ckpt.tensors.items() if path in other.tensors)
    names = {f"{tensor.path}.name": Field("char", tensor.name) for tensor in both}
    return Side(label, fields | names, dict(ckpt.tensors))


def _is_field(span: Span, ckpt: Checkpoint) -> bool:
    """Whether the leaf is neither padding nor part of a tensor's record."""
    named = max(index for index, step in enumerate(span.steps) if isinstance(step, str))
    step = span.steps[named]
    return step != "padding" and not (step in RECORD and format_path((*span.steps[:named], "n_dims")) in ckpt.spans)


def _value(span: Span) -> Any:
    return span.text if span.kind == "char" else span.value


def _by_gguf_name(file: File, label: str) -> Side:
    if not isinstance(file, Checkpoint):
        fields = {key: Field(entry.type, entry.value) for key, entry in file.keys.items()}
        return Side(label, fields, dict(file.tensors))
    side = Side(label, {}, {})
    for item in listing(file):
        if item.gguf_name:
            side.tensors[item.gguf_name] = item.tensor
        elif not item.tensor.is_null:
            side.omit([item.name], "a GGUF checkpoint has no place for it")
    if file.damage is None:
        entries = key_values(resume_entries(file))
        side.fields |= {entry.key: Field(entry.type, entry.value) for entry in entries if entry.key != keys.RMS_EPSILON}
    return side


def _is_model(file: File) -> bool:
    return not isinstance(file, Checkpoint) and keys.OPTIMIZER_TYPE not in file.keys


def _reduce_to_model(model: Side, other: Side) -> None:
    other.omit((name for name in other.tensors if name.startswith("optimizer.")), f"{model.label} is a model")
    if keys.ROPE_FREQS in model.tensors:
        for side in (model, other):
            side.omit([keys.ROPE_DIMENSION_COUNT], f"the model rotates by {keys.ROPE_FREQS}")
    model.omit((name for name in model.tensors if keys.field_path(name) is None), "no checkpoint has it")
    for side, shared in ((model, set(other.fields)), (other, set(model.fields))):
        side.omit((key for key in side.fields if key not in shared), "the other file has no such key")


# What differs ----------------------------------------------------------------------------------------------


def _pairs(a: Mapping[str, T], b: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    for name in dict.fromkeys((*a, *b)):
        yield name, a.get(name), b.get(name)


def _verdict(a: object | None, b: object | None, *, same: bool) -> str:
    if a is None or b is None:
        return ONLY_B if a is None else ONLY_A
    return EQUAL if same else DIFFERENT


def _same_field(a: Field | None, b: Field | None, rtol: float, atol: float) -> bool:
    return a is not None and b is not None and a.type == b.type and _same_value(a.value, b.value, rtol, atol)


def _same_value(a: Any, b: Any, rtol: float, atol: float) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        if math.isfinite(a) and math.isfinite(b):
            return abs(a - b) <= atol + rtol * abs(b)
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same_value(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.type) == (b.shape, b.type)


def _distances(
    pairs: list[tuple[Tensor, Tensor]], rtol: float, atol: float, progress: Callable[[int], None] | None
) -> Iterator[tuple[int, float, float]]:
    """For each pair: the elements that differ, the largest difference, the root mean square of all."""
    if not pairs:
        return
    streams = [
        tensors[0].source.stream([(tensor.offset, tensor.nbytes) for tensor in tensors]) for tensors in zip(*pairs)
    ]
    for a, _ in pairs:
        if a.type != "F32":
            raise UsageError(f"{a.path}: holds {a.type}; only F32 is compared")
        differing, largest, squares, left = 0, 0.0, 0.0, a.nbytes
        while left:
            one, other = (np.frombuffer(next(stream), "<f4") for stream in streams)
            for at in range(0, len(one), BLOCK):
                block = _distance(one[at : at + BLOCK], other[at : at + BLOCK], rtol, atol)
                differing, largest, squares = differing + block[0], max(largest, block[1]), squares + block[2]
            left -= one.nbytes
            if progress:
                progress(one.nbytes + other.nbytes)
        yield differing, largest, math.sqrt(squares / max(1, a.n_elements))


def _distance(a: Floats, b: Floats, rtol: float, atol: float) -> tuple[int, float, float]:
    """The elements that differ, the largest difference, the sum of the squared differences."""
    same = a.view("<u4") == b.view("<u4")
    if same.all():
        return 0, 0.0, 0.0
    x, y = a[~same].astype(np.float64), b[~same].astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(x - y)
        apart[np.isnan(apart)] = math.inf
        close = (apart == 0) | ((apart < math.inf) & (apart <= atol + rtol * np.abs(y)))
    return int(np.count_nonzero(~close)), float(apart.max()), float(np.square(apart).sum())
