"""Compare two files, field by field and tensor by tensor, in constant memory.

This module imports numpy; only `diff` imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from construct import Container

from ggcp_schema.checkpoint import names
from ggcp_schema.checkpoint.checkpoint import is_optimizer
from ggcp_schema.checkpoint.order import FLAT_FIELDS, RESUME_ORDER, OrderDecision, permuted_extents
from ggcp_schema.constructs import Field
from ggcp_schema.files.file import File
from ggcp_schema.files.tensor import ELEMENT_SIZES, Tensor, decode, stream_values
from ggcp_schema.files.values import same_value
from ggcp_schema.gguf.entries import KeyValue
from ggcp_schema.inspect.facts import Summary, facts
from ggcp_schema.inspect.tensors import Listed, listing, model_of, moments, order_of
from ggcp_schema.mapping.losses import Losses
from ggcp_schema.mapping.resume import KEYS, verbatim_recipe
from ggcp_schema.mapping.rotation import FREQ_BASE, n_rot_of, stops_at_n_rot
from ggcp_schema.mapping.scale import divided
from ggcp_schema.mapping.training import training_of

Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None]
T = TypeVar("T")

EQUAL, DIFFERENT, ONLY_A, ONLY_B = "equal", "different", "only in A", "only in B"
BLOCK = 1 << 16  # elements compared at a time, which stay in a core's L2 cache
MAX_FACTORS = 1 << 16  # values of rope_freqs.weight that are read
GGML_FORMATS = frozenset({"ggjt", "ggmf", "ggml"})
ROTATION = (names.ROPE_DIMENSION_COUNT, names.ROPE_FREQ_BASE, names.ROPE_FREQS)


@dataclass(frozen=True)
class Value:
    """The value of a field in one file, and its type."""

    type: str
    value: Any


@dataclass(frozen=True)
class FieldRow:
    """A field in both files; `a` or `b` is None if only the other file has it."""

    name: str
    verdict: str
    a: Value | None
    b: Value | None


@dataclass(frozen=True)
class Operand:
    """A tensor as it is compared: `values` yields its elements as float32, in the order of the comparison.

    If they cannot be read, as those of a quantized tensor, it yields the bytes.
    """

    shape: tuple[int, ...]
    type: str
    nbytes: int
    values: Callable[[], Iterator[Any]]

    @property
    def n_elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape) if self.shape else 0


@dataclass(frozen=True)
class TensorRow:
    """A tensor in both files; `a` or `b` is None if only the other file has it.

    `differing` counts the elements that are neither equal nor close within the tolerance. `largest` is the largest
    absolute difference, `rms` the root of the mean square of all differences; both are infinite if an element is NaN or
    infinite in one file and something else in the other. `relative` is the length of the difference in units of the
    length of A's tensor. All four are None if shapes or types differ, so that the data was not compared, or if the
    elements cannot be read, so that only the bytes were.
    """

    name: str
    verdict: str
    a: Operand | None
    b: Operand | None
    differing: int | None = None
    largest: float | None = None
    rms: float | None = None
    relative: float | None = None


@dataclass(frozen=True)
class Omission:
    """Something that one file (`A` or `B`) contains and that was not compared, and why."""

    name: str
    side: str
    reason: str


@dataclass(frozen=True)
class Change:
    """What happened between two checkpoints: B's numbers minus A's; None for what is not known of both.

    Attributes:
        loss_a, loss_b: the latest loss of one token.
        ahead: the file with more iterations, or else samples or steps; None if neither has.
        weights: the relative change of the weights, which is the length of the difference in units of the length of A's
            weights: for each tensor outside of the layers, and for each layer.
    """

    iterations: int | None
    samples: int | None
    tokens: int | None
    loss_a: float | None
    loss_b: float | None
    ahead: str | None
    weights: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes for JSON."""
        return {**vars(self), "weights": dict(self.weights)}


@dataclass(frozen=True)
class Comparison:
    """All fields and tensors of both files, in the order of A, with those that only B has at the end.

    `notes` say how the optimizer's vectors were compared. `change` is None unless both files are checkpoints.
    """

    fields: list[FieldRow]
    tensors: list[TensorRow]
    omitted: list[Omission]
    notes: list[str]
    change: Change | None

    @property
    def equal(self) -> bool:
        """True if all that was compared is equal."""
        return all(row.verdict == EQUAL for row in self.fields) and all(row.verdict == EQUAL for row in self.tensors)


@dataclass
class Side:
    """One side of the comparison, under names common to both files. Everything else is listed in `omitted`.

    `items` are the tensors of the file that `tensors` stand for, by the same names.
    """

    label: str
    file: File
    summary: Summary
    fields: dict[str, Value]
    tensors: dict[str, Operand]
    items: dict[str, Listed]
    omitted: list[Omission] = field(default_factory=list)

    def omit(self, unwanted: Iterable[str], reason: str) -> None:
        """Leave out the fields and tensors of these names."""
        for name in list(unwanted):
            if name in self.fields or name in self.tensors:
                self.fields.pop(name, None)
                self.tensors.pop(name, None)
                self.items.pop(name, None)
                self.omitted.append(Omission(name, self.label, reason))

    @property
    def names(self) -> list[str]:
        """The names of the fields and tensors, in file order."""
        return [*self.fields, *self.tensors]


def compare(a: File, b: File, *, rtol: float = 0.0, atol: float = 0.0, progress: Progress | None = None) -> Comparison:
    """Compare two files that were opened with `partial=True`, under the names that `sides` gives their parts.

    Numbers are equal if `|a - b| <= atol + rtol * |b|`; NaNs are equal if their bits are, an infinity only to itself.
    `progress` is called with the number of bytes just read of both files. Raises `FileError` if a file is changed
    meanwhile.
    """
    left, right, notes = sides(a, b)
    fields = [
        FieldRow(name, _verdict(one, other, same=_same_field(one, other, rtol, atol)), one, other)
        for name, one, other in _pairs(left.fields, right.fields)
    ]
    tensors, weights = [], Weights()
    for name, one, other in _pairs(left.tensors, right.tensors):
        if one is None or other is None or (one.shape, one.type) != (other.shape, other.type):
            tensors.append(TensorRow(name, _verdict(one, other, same=False), one, other))
            continue
        if one.type not in ELEMENT_SIZES:
            same = all(np.array_equal(x, y) for x, y in _aligned(one.values(), other.values()))
            tensors.append(TensorRow(name, _verdict(one, other, same=same), one, other))
            continue
        found = _distance(one, other, rtol, atol, progress)
        tensors.append(found.row(name, one, other))
        weights.add(left.items[name], found)
    for file in (a, b):
        file.source.check_unchanged()
    change = _change(left.summary, right.summary, weights.relative())
    return Comparison(fields, tensors, [*left.omitted, *right.omitted], notes, change)


def shared_bytes(a: File, b: File) -> int:
    """Return the number of bytes of both files that `compare` reads, at most."""
    return sum(tensor.nbytes for file in (a, b) for tensor in file.tensors.values())


# The names that both files share ---------------------------------------------------------------------------


def sides(a: File, b: File) -> tuple[Side, Side, list[str]]:
    """Return the two files under the names by which they can be compared, and notes on the optimizer's vectors.

    Checkpoints of one layout, and files of the model formats of 2023, are compared field by field, but for padding.
    Otherwise both files are compared as the GGUF checkpoints that they are or become, and what those have no place for
    is left out. If one file is a model without an optimizer, the model's tensors and the keys that both files have are
    compared. What the damage of one file hides is left out of the other.

    The optimizer's vectors are compared by parameter if the orders of both are known.

    Raises `UnfitError` if a count of a checkpoint is out of range for its GGUF type.
    """
    by_path = _same_layout(a, b)
    build = _by_path if by_path else _by_gguf_name
    left, right = build(a, "A"), build(b, "B")
    if not by_path:
        _share_rotation(left, right)
        _share_keys(left, right)
    for side, other in ((left, right), (right, left)):
        if side.file.damage is not None:
            hidden = [name for name in other.names if name not in side.fields and name not in side.tensors]
            other.omit(hidden, f"hidden by {side.label}'s damage")
    scaled = not by_path and "ggcp" in (a.format.name, b.format.name)  # then both count as checkpoints to resume from
    notes = _split_vectors(left, right, by_path=by_path, scaled=scaled)
    return left, right, notes


def _same_layout(a: File, b: File) -> bool:
    """Return whether the files can be compared field by field. Before the optimizer there is only one layout."""
    if {a.format.name, b.format.name} <= GGML_FORMATS:
        return True
    layouts = {file.get("optimizer.layout") for file in (a, b)} - {None}
    return a.format.name == b.format.name == "ggcp" and len(layouts) < 2


def _by_path(file: File, label: str) -> Side:
    fields = {path: Value(found.type, found.value) for path, found in _fields(file.root)}
    items = {item.name: item for item in listing(file)}
    fields |= {f"{name}.name": Value("char", item.tensor.name) for name, item in items.items() if item.path == name}
    return Side(label, file, facts(file), fields, _operands(items), items)


def _fields(record: Field) -> Iterator[tuple[str, Field]]:
    """Yield the leaves that are neither padding nor part of a tensor's record."""
    for child in record.children():
        if isinstance(child.value, Container) and "n_dims" in child.value:
            continue
        if not child.is_leaf:
            yield from _fields(child)
        elif child.type != "padding" and child.name != "inference":  # how the type was found, not what it is
            yield child.path, child


def _operands(items: Mapping[str, Listed]) -> dict[str, Operand]:
    return {name: _operand(item.tensor) for name, item in items.items()}


def _operand(tensor: Tensor, divisor: int = 1) -> Operand:
    return Operand(tensor.shape, tensor.type, tensor.nbytes, partial(_values, tensor, divisor))


def _values(tensor: Tensor, divisor: int) -> Iterator[Any]:
    if tensor.type not in ELEMENT_SIZES:
        for chunk in tensor.source.stream([(tensor.offset, tensor.nbytes)]):
            yield np.frombuffer(chunk, np.uint8)
        return
    for values in stream_values([tensor]):
        yield values if divisor == 1 else np.frombuffer(divided(values.data.cast("B"), divisor), "<f4")


def _by_gguf_name(file: File, label: str) -> Side:
    side = Side(label, file, facts(file), KEY_READERS[file.format.name](file), {}, {})
    for item in listing(file):
        if item.gguf_name:
            side.tensors[item.gguf_name] = _operand(item.tensor)
            side.items[item.gguf_name] = item
        elif not item.tensor.is_null:
            side.omitted.append(Omission(item.name, label, "a GGUF checkpoint has no place for it"))
    return side


def _keys_of_checkpoint(file: File) -> dict[str, Value]:
    """Return the keys that the checkpoint gets in GGUF, except the epsilon; none if it is damaged."""
    if file.damage is not None:
        return {}
    training = training_of(file)
    keys = KEYS[file.format.name](file, training, verbatim_recipe(training))
    return _fields_of_keys(entry for entry in keys if entry.key != names.RMS_EPSILON)


def _keys_of_gguf(file: Any) -> dict[str, Value]:
    return _fields_of_keys(file.keys.values())


def _fields_of_keys(keys: Iterable[KeyValue]) -> dict[str, Value]:
    return {entry.key: Value(entry.type, entry.value) for entry in keys}


def _keys_of_ggml(file: File) -> dict[str, Value]:
    counts = {
        names.VOCAB_SIZE: "n_vocab",
        names.EMBEDDING_LENGTH: "n_embd",
        names.HEAD_COUNT: "n_head",
        names.BLOCK_COUNT: "n_layer",
        names.ROPE_DIMENSION_COUNT: "n_rot",
    }
    hparams = file.get("hparams") or {}
    return {key: Value("UINT32", hparams[name]) for key, name in counts.items() if name in hparams}


KEY_READERS: dict[str, Callable[[Any], dict[str, Value]]] = {
    "ggcp": _keys_of_checkpoint,
    "gguf": _keys_of_gguf,
    **dict.fromkeys(GGML_FORMATS, _keys_of_ggml),
}


def _share_keys(left: Side, right: Side) -> None:
    """Leave out what only one of the files can have."""
    for side, other in ((left, right), (right, left)):
        if side.file.format.name != "gguf" and names.RMS_EPSILON in other.fields:
            other.omit([names.RMS_EPSILON], f"no {side.file.format.name} file stores it")
    models = [side for side in (left, right) if side.summary.optimizer is None]
    if len(models) == 1:
        model, other = models[0], right if models[0] is left else left
        other.omit([name for name in other.tensors if is_optimizer(name)], f"{model.label} is a model")
        model.omit([name for name, item in model.items.items() if item.path is None], "no checkpoint has it")
    if models or left.file.format is not right.file.format:
        for side, other in ((left, right), (right, left)):
            required = set() if models else REQUIRED
            extra = side.fields.keys() - other.fields.keys() - required
            side.omit([key for key in side.fields if key in extra], "the other file has no such key")


REQUIRED = frozenset(  # keys without which a trainer does not resume
    {
        names.TRAINING_FILE_VERSION,
        names.TRAINING_TYPE,
        names.TRAINING_ITERATION_COUNT,
        names.TRAINING_SAMPLE_COUNT,
        names.TRAINING_TOKEN_COUNT,
        names.OPTIMIZER_FILE_VERSION,
        names.OPTIMIZER_TYPE,
        names.OPTIMIZER_PAST_COUNT,
        names.OPTIMIZER_PARAMETER_COUNT,
        names.OPTIMIZER_ITERATION_COUNT,
        names.OPTIMIZER_JUST_INITIALIZED,
        names.EMBEDDING_LENGTH,
        names.HEAD_COUNT,
        names.BLOCK_COUNT,
        names.FEED_FORWARD_LENGTH,
    }
)


def _share_rotation(left: Side, right: Side) -> None:
    """Compare the rotation as n_rot, if the files state the same in different ways or only one is a GGUF file."""
    if all(_stated(left, name) == _stated(right, name) for name in ROTATION):
        return
    rotations = [_n_rot(side) for side in (left, right)]
    if None in rotations or (rotations[0] != rotations[1] and left.file.format is right.file.format):
        return
    for side, n_rot in zip((left, right), rotations, strict=True):
        side.fields["n_rot"] = Value("derived", n_rot)
        side.omit(ROTATION, f"compared as n_rot {n_rot}")


def _stated(side: Side, name: str) -> Any:
    found = side.fields.get(name)
    return name in side.tensors if found is None else found.value


def _n_rot(side: Side) -> int | None:
    """Return the n_rot that the rotation of a side means; None if it is not a rotation of the trainers."""
    dimensions, base = (side.fields.get(name) for name in (names.ROPE_DIMENSION_COUNT, names.ROPE_FREQ_BASE))
    freqs = side.items.get(names.ROPE_FREQS)
    if side.file.format.name != "gguf":
        return None if dimensions is None else int(dimensions.value)
    if dimensions is None or not isinstance(dimensions.value, int):
        return None
    factors: list[float] = []
    if freqs is not None:
        if freqs.tensor.type not in ELEMENT_SIZES or freqs.tensor.n_elements > MAX_FACTORS:
            return None
        factors = [float(factor) for chunk in freqs.tensor.values() for factor in chunk]
    freq_base = FREQ_BASE if base is None else base.value
    if stops_at_n_rot(factors) or not isinstance(freq_base, float):
        return None
    return n_rot_of(dimensions.value, freq_base, factors)


# The optimizer's vectors -----------------------------------------------------------------------------------


def _split_vectors(left: Side, right: Side, *, by_path: bool, scaled: bool) -> list[str]:
    """Replace the flat vectors that both files have by their parts, if both orders are known. Return notes on it.

    With `scaled`, moments of summed gradients are divided, as `convert` does.
    """
    shared = [
        name
        for name, item in left.items.items()
        if item.moment in FLAT_FIELDS and name in right.items and right.items[name].tensor.shape == item.tensor.shape
    ]
    if not shared:
        return []
    decisions = [_order(side) for side in (left, right)]
    orders = [decision.order for decision in decisions]
    sure = all(decision.is_certain for decision in decisions)
    divisors = [_divisors(side, other) if scaled and sure else {} for side, other in ((left, right), (right, left))]
    if None in orders or not (sure or orders[0] == orders[1]):
        return [] if orders == [None, None] else ["the optimizer's vectors were compared as they are stored"]
    for name in shared:
        for side, decision, divisor in zip((left, right), decisions, divisors, strict=True):
            _split(side, name, decision, divisor, by_path=by_path)
    notes = []
    for side, decision, divisor in zip((left, right), decisions, divisors, strict=True):
        scale = f", and m divided by {divisor['m']:,}, v by its square" if divisor else ""
        if orders[0] != orders[1] or scale:
            notes.append(f"{side.label}: the optimizer's vectors are in order {decision.order}{scale}")
    return [*notes, "the optimizer's vectors were compared by parameter"] if notes else []


def _order(side: Side) -> OrderDecision:
    return side.summary.order or order_of(list(side.items.values()))


def _divisors(side: Side, other: Side) -> dict[str, int]:
    """Return what m and v are to be divided by; nothing if the gradients were not summed."""
    scale = side.summary.scale
    recorded = other.fields.get(names.CONVERTED_SCALE)  # the other side may have been divided by a stated number
    if scale is None or not scale.summed:
        return {}
    s = recorded.value if recorded is not None else scale.s
    return {"m": s, "v": s * s} if s else {}


def _split(side: Side, name: str, decision: OrderDecision, divisors: Mapping[str, int], *, by_path: bool) -> None:
    """Replace a vector by its parts; the columns of lms and lmy by those in order C."""
    vector, items = side.items[name], list(side.items.values())
    divisor = divisors.get(vector.moment or "", 1)
    parts = {str(part.path if by_path else part.gguf_name): part for part in moments(items, decision, [vector])}
    if not parts:
        extents = permuted_extents(vector.tensor, str(decision.order), RESUME_ORDER, model_of(items))
        side.tensors[name] = replace(side.tensors[name], values=partial(_permuted, vector.tensor, extents))
        return
    del side.tensors[name], side.items[name]
    side.items |= parts
    side.tensors |= {key: _operand(part.tensor, divisor) for key, part in parts.items()}


def _permuted(tensor: Tensor, extents: list[tuple[int, int]]) -> Iterator[Floats]:
    for chunk in tensor.source.stream(extents):
        yield decode(chunk, tensor.type, tensor.byte_order)


# What differs ----------------------------------------------------------------------------------------------


def _pairs(a: Mapping[str, T], b: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    for name in dict.fromkeys((*a, *b)):
        yield name, a.get(name), b.get(name)


def _verdict(a: object | None, b: object | None, *, same: bool) -> str:
    if a is None or b is None:
        return ONLY_B if a is None else ONLY_A
    return EQUAL if same else DIFFERENT


def _same_field(a: Value | None, b: Value | None, rtol: float, atol: float) -> bool:
    return a is not None and b is not None and a.type == b.type and same_value(a.value, b.value, rtol=rtol, atol=atol)


@dataclass
class Distance:
    """How far two tensors are apart: sums over their elements."""

    differing: int = 0
    largest: float = 0.0
    squares: float = 0.0
    length: float = 0.0  # the sum of the squares of A's elements

    def add(self, a: Floats, b: Floats, rtol: float, atol: float) -> None:
        """Add some elements of both tensors."""
        with np.errstate(over="ignore", invalid="ignore"):
            self.length += float(np.dot(a, a))
            same = a.view(np.uint32) == b.view(np.uint32)
            if same.all():
                return
            x, y = a[~same].astype(np.float64), b[~same].astype(np.float64)
            apart = np.abs(x - y)
            apart[np.isnan(apart)] = math.inf
            close = (apart == 0) | ((apart < math.inf) & (apart <= atol + rtol * np.abs(y)))
        self.differing += int(np.count_nonzero(~close))
        self.largest = max(self.largest, float(apart.max()))
        self.squares += float(np.square(apart).sum())

    def row(self, name: str, a: Operand, b: Operand) -> TensorRow:
        """Return the result for two tensors."""
        rms = math.sqrt(self.squares / max(1, a.n_elements))
        verdict = DIFFERENT if self.differing else EQUAL
        return TensorRow(name, verdict, a, b, self.differing, self.largest, rms, ratio(self.squares, self.length))


def _distance(a: Operand, b: Operand, rtol: float, atol: float, progress: Progress | None) -> Distance:
    found = Distance()
    for x, y in _aligned(a.values(), b.values()):
        for at in range(0, len(x), BLOCK):
            found.add(x[at : at + BLOCK], y[at : at + BLOCK], rtol, atol)
        if progress:
            progress(2 * len(x) * ELEMENT_SIZES[a.type])
    return found


def _aligned(a: Iterator[Any], b: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the elements of both tensors in parts of the same length."""
    x = y = np.empty(0)
    while True:
        try:
            x = x if len(x) else next(a)
            y = y if len(y) else next(b)
        except StopIteration:
            return
        count = min(len(x), len(y))
        yield x[:count], y[:count]
        x, y = x[count:], y[count:]


def ratio(squares: float, length: float) -> float:
    """Return the square root of the quotient: 0 for 0 / 0, and infinite if only the divisor is 0 or is not a number."""
    if squares == 0:
        return 0.0
    return math.sqrt(squares / length) if length > 0 and math.isfinite(squares) else math.inf


# What happened in between ----------------------------------------------------------------------------------


class Weights:
    """Sums over the tensors of the model: by layer, and by tensor outside of the layers."""

    def __init__(self) -> None:
        self.groups: dict[str, tuple[float, float]] = {}

    def add(self, item: Listed, found: Distance) -> None:
        """Add the distance of a tensor."""
        if item.path is None or item.moment is not None:
            return
        head, bracket, rest = item.path.partition("[")
        group = f"layer {rest.partition(']')[0]}" if bracket else head
        squares, length = self.groups.get(group, (0.0, 0.0))
        self.groups[group] = squares + found.squares, length + found.length

    def relative(self) -> dict[str, float]:
        """Return the relative change by group; empty if nothing changed."""
        found = {group: ratio(*sums) for group, sums in self.groups.items()}
        return found if any(found.values()) else {}


def _change(a: Summary, b: Summary, weights: Mapping[str, float]) -> Change | None:
    if a.optimizer is None or b.optimizer is None:
        return None
    counts = [
        None if one is None or other is None else other - one
        for one, other in (
            (a.train_its, b.train_its),
            (a.train_samples, b.train_samples),
            (a.train_tokens, b.train_tokens),
            (a.optimizer.iter, b.optimizer.iter),
            (_steps(a), _steps(b)),
        )
    ]
    first = next((count for count in counts if count), 0)
    ahead = "B" if first > 0 else "A" if first < 0 else None
    return Change(counts[0], counts[1], counts[2], *_comparable_losses(a, b), ahead, weights)


def _comparable_losses(a: Summary, b: Summary) -> tuple[float | None, float | None]:
    """Return the latest losses if they are known to be of one kind: a token's loss, or else the same stored number."""
    if a.losses is None or b.losses is None:
        return None, None
    if a.losses.divisor and b.losses.divisor:
        return a.loss, b.loss
    if a.losses.meaning == b.losses.meaning or _latest(a.losses) == _latest(b.losses):
        return _latest(a.losses), _latest(b.losses)
    return None, None


def _latest(losses: Losses) -> float:
    return losses.best if losses.previous is None else losses.previous


def _steps(summary: Summary) -> int | None:
    return None if summary.losses is None else summary.losses.steps
