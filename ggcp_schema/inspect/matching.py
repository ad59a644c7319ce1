"""The two sides of a comparison: the fields and tensors of both files, under names that both share.

This module imports numpy; only the command `diff` and the browser's view of two files import it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from construct import Container

from ggcp_schema.constructs import Field
from ggcp_schema.errors import UsageError
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Ahead
from ggcp_schema.files.tensor import LITTLE, Tensor, decode, stream_values
from ggcp_schema.files.tensor_entries import TensorEntry
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.adapters import compares_adapters, pairs_and_state
from ggcp_schema.inspect.facts import Summary, facts
from ggcp_schema.inspect.paths import is_long
from ggcp_schema.inspect.tensors import Listed, moments
from ggcp_schema.llama import names
from ggcp_schema.llama.keys import REQUIRED
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.order import OrderDecision
from ggcp_schema.llama.parameters import FLAT_FIELDS, RESUME_ORDER, permuted_extents
from ggcp_schema.llama.rotation import FREQ_BASE, n_rot_of
from ggcp_schema.llama.scale import divided
from ggcp_schema.mapping.resume import resume_keys, verbatim_recipe

Floats = npt.NDArray[np.float32]

MAX_OMISSIONS = 10_000  # of which the names are kept, for each reason
ROWS = re.compile(r"attn_[qk]\.weight\.lora_b$")  # that RoPE pairs
ROTATION = (names.ROPE_DIMENSION_COUNT, names.ROPE_FREQ_BASE, names.ROPE_FREQS)


class Operand(NamedTuple):
    """A tensor as it is compared: as it is stored, divided by a number, or with its elements in another order.

    `extents` are the bytes of the tensor in that order. `path` is its path in a ggcp file, if it is part of a vector or
    of a pair. `entry` is what the tensor becomes in GGUF, if that is compared.
    """

    tensor: Tensor
    path: str | None = None
    divisor: int = 1
    extents: list[tuple[int, int]] | None = None
    entry: TensorEntry | None = None

    @property
    def is_part(self) -> bool:
        """True for what a vector of the optimizer holds of one parameter."""
        return self.path is not None and self.entry is None

    def data(self, ahead: Ahead) -> bytes | None:
        """Return the data if it is compared as it is stored, and not much; None if `values` yields it."""
        as_stored = self.divisor == 1 and not self.extents and self.entry is None
        return self.tensor.small(ahead) if as_stored else None

    def values(self) -> Iterator[Any]:
        """Yield the elements in the order of the comparison; the bytes if they cannot be read, as of unknown types."""
        tensor = self.tensor
        if self.entry is not None:
            yield from (decode(chunk, self.entry.type, LITTLE) for chunk in self.entry.chunks())
            return
        if self.extents is not None or not tensor.is_readable:
            for chunk in tensor.source.stream(self.extents or [(tensor.offset, tensor.nbytes)]):
                known = tensor.is_readable
                yield decode(chunk, tensor.type, tensor.byte_order) if known else np.frombuffer(chunk, np.uint8)
            return
        for values in stream_values([tensor]):
            whole = self.divisor == 1
            yield values if whole else np.frombuffer(divided(values.data.cast("B"), self.divisor), "<f4")


Label = Literal["A", "B"]


Cause = Literal["hidden", "no-place", "not-stored", "of-training", "of-model", "one-file", "rotation"]


class Omission(NamedTuple):
    """Something that one file (`A` or `B`) contains and that was not compared, and why, as a code and in words."""

    name: str
    side: Label
    cause: Cause
    reason: str


class Omissions(list[Omission]):
    """What was not compared: for each side and reason at most MAX_OMISSIONS, but all are counted."""

    def __init__(self, found: Iterable[Omission] = ()) -> None:
        super().__init__(found)
        self.counts: Counter[tuple[Label, str]] = Counter()

    def note(self, name: str, side: Label, cause: Cause, reason: str) -> None:
        """Add one."""
        self.counts[side, reason] += 1
        if self.counts[side, reason] <= MAX_OMISSIONS:
            self.append(Omission(name, side, cause, reason))


@dataclass
class Side:
    """One side of the comparison, under names common to both files. Everything else is listed in `omitted`."""

    label: Label
    file: File
    summary: Summary
    fields: dict[str, KeyValue]
    tensors: dict[str, Operand]
    omitted: Omissions = field(default_factory=Omissions)

    def path_of(self, operand: Operand) -> str | None:
        """Return the path that the tensor has in a ggcp file; None if no ggcp file has it."""
        return operand.path or self.file.path_of(operand.tensor)

    def omit(self, unwanted: Iterable[str], cause: Cause, reason: str) -> None:
        """Leave out the fields and tensors of these names."""
        for name in list(unwanted):
            if any([self.fields.pop(name, None), self.tensors.pop(name, None)]):
                self.omitted.note(name, self.label, cause, reason)


# Common names ----------------------------------------------------------------------------------------------


def sides(a: File, b: File) -> tuple[Side, Side, list[str]]:
    """Return the two files under the names by which they can be compared, and notes on the optimizer's vectors.

    Checkpoints of one layout, and files of the model formats of 2023, are compared field by field, but for padding.
    Otherwise both files are compared as the GGUF checkpoints that they are or become, and what those have no place for
    is left out. If one file is a model without an optimizer, the model's tensors and the keys that both files have are
    compared. What the damage of one file hides is left out of the other.

    The optimizer's vectors are compared by parameter if the orders of both are known.

    LoRA adapters in files of other kinds are compared pair by pair, as GGUF adapters.

    Raises `UnfitError` if a count of a checkpoint is out of range for its GGUF type, `UsageError` if the files have
    nothing in common.
    """
    by_path = a.compares_by_field(b)
    by_pair = not by_path and compares_adapters(a, b)
    build = _by_path if by_path else _by_pair if by_pair else _by_gguf_name
    left, right = build(a, "A"), build(b, "B")
    if not by_path:
        _share_rotation(left, right)
        _share_keys(left, right)
    if by_pair:
        _share_pairs(left, right)
    for side, other in ((left, right), (right, left)):
        if side.file.damage is not None:
            names_of_other = (*other.fields, *other.tensors)
            hidden = (name for name in names_of_other if name not in side.fields and name not in side.tensors)
            other.omit(hidden, "hidden", f"hidden by {side.label}'s damage")
    if by_pair:
        scales = ((side.label, adapter.scale) for side in (left, right) if (adapter := side.summary.adapter))
        notes = [
            f"{label}: its pairs were compared with their scale, {scale:g}" for label, scale in scales if scale != 1
        ]
        return left, right, notes
    scaled = not by_path and not (a.key_values and b.key_values)  # then both count as checkpoints to resume from
    return left, right, _split_vectors(left, right, by_path=by_path, scaled=scaled)


def _by_path(file: File, label: Label) -> Side:
    fields = {path: KeyValue(path, found.type, found.value) for path, found in _fields(file.root)}
    for path, tensor in file.tensors.items():
        if file.path_of(tensor) == path:
            fields[f"{path}.name"] = KeyValue(f"{path}.name", "char", tensor.name)
    return Side(label, file, facts(file), fields, {path: Operand(tensor) for path, tensor in file.tensors.items()})


def _fields(record: Field) -> Iterator[tuple[str, Field]]:
    """Yield the leaves that are neither padding nor part of tensors' records, and long lists."""
    for child in record.children():
        first = child.value[0] if child.is_list and child.value else child.value
        if _is_of_tensors(first):
            continue
        if is_long(child):
            yield child.path, child
        elif not child.is_leaf:
            yield from _fields(child)
        elif child.type != "padding" and child.name != "inference":  # how the type was found, not what it is
            yield child.path, child


def _is_of_tensors(value: Any) -> bool:
    """Return True for the record of a tensor, and for one in which all records are such: a layer."""
    if not isinstance(value, Container):
        return False
    return "n_dims" in value or all(map(_is_of_tensors, (item for name, item in value.items() if name[0] != "_")))


def _by_gguf_name(file: File, label: Label) -> Side:
    tensors, left_out = dict[str, Operand](), Omissions()
    for tensor in file.tensors.values():
        name = file.names_of(tensor)[1]
        if name is not None:
            tensors[name] = Operand(tensor)
        elif not tensor.is_null:
            left_out.note(tensor.path, label, "no-place", "not part of a GGUF checkpoint")
    return Side(label, file, facts(file), _keys(file), tensors, left_out)


def _by_pair(file: File, label: Label) -> Side:
    tensors = dict[str, Operand]()
    for tensor, entry in pairs_and_state(file):
        shown = replace(tensor, shape=entry.shape, nbytes=entry.nbytes, type=entry.type, byte_order=LITTLE)
        path = names.field_path(entry.name) or names.field_path(entry.name.rpartition(".")[0])
        tensors[entry.name] = Operand(shown, path, entry=entry)
    return Side(label, file, facts(file), _keys(file), tensors)


def _keys(file: File) -> dict[str, KeyValue]:
    """Return the keys that the file has, or gets in GGUF, except the epsilon; none if it is damaged."""
    if file.key_values or file.damage is not None:
        return dict(file.key_values)
    if (converted := file.converted()) is not None:
        keys = converted.keys
    else:
        try:
            training = file.training()
        except UsageError:
            return {}
        keys = resume_keys(training, verbatim_recipe(training))
    return {entry.key: entry for entry in keys if entry.key != names.RMS_EPSILON}


def _share_keys(left: Side, right: Side) -> None:
    """Leave out what only one of the files can have."""
    for side, other in ((left, right), (right, left)):
        if names.RMS_EPSILON not in side.fields and names.RMS_EPSILON in other.fields:
            alike = side.file.format is other.file.format
            reason = "the other file has no such key" if alike else f"no {side.file.format.name} file stores it"
            other.omit([names.RMS_EPSILON], "not-stored", reason)
    models = [side for side in (left, right) if side.summary.optimizer is None and not side.file.state_tensors]
    if len(models) == 1:
        model, other = models[0], right if models[0] is left else left
        other.omit(filter(names.is_optimizer, other.tensors), "of-training", f"{model.label} has no optimizer")
        unknown = (name for name, operand in model.tensors.items() if model.path_of(operand) is None)
        model.omit(unknown, "of-model", "not part of any checkpoint")
    if len(models) == 1 or left.file.format is not right.file.format:
        for side, other in ((left, right), (right, left)):
            required = set() if models else REQUIRED
            extra = (key for key in side.fields if key not in other.fields and key not in required)
            side.omit(extra, "one-file", "the other file has no such key")


def _share_pairs(left: Side, right: Side) -> None:
    """Leave out the pairs that only one of the adapters can have, and rows in an order that the other does not have."""
    for side, other in ((left, right), (right, left)):
        if not other.file.has_adapter:
            norms = (name for name in side.tensors if "_norm.weight.lora_" in name)
            reason = "llama.cpp ignores them in a GGUF adapter: the base that goes with it has them"
            side.omit(norms, "no-place", reason)
    reordered = [side for side in (left, right) if side.summary.adapter and side.summary.adapter.is_reordered]
    if len(reordered) == 1:
        reason = f"rows are as PEFT had them in {reordered[0].label}, and the number of heads is not known"
        for side in (left, right):
            side.omit(filter(ROWS.search, side.tensors), "no-place", reason)


def _share_rotation(left: Side, right: Side) -> None:
    """Compare the rotation as n_rot, if the files state the same in different ways or only one is a GGUF file."""
    if all(_stated(left, name) == _stated(right, name) for name in ROTATION):
        return
    rotations = [_n_rot(side) for side in (left, right)]
    if None in rotations or (rotations[0] != rotations[1] and left.file.format is right.file.format):
        return
    for side, n_rot in zip((left, right), rotations, strict=True):
        side.fields["n_rot"] = KeyValue("n_rot", "derived", n_rot)
        side.omit(ROTATION, "rotation", f"compared as n_rot {n_rot}")


def _stated(side: Side, name: str) -> Any:
    found = side.fields.get(name)
    return name in side.tensors if found is None else found.value


def _n_rot(side: Side) -> int | None:
    """Return the n_rot that the rotation of a side means; None if it is not a rotation of the trainers."""
    dimensions, base = (side.fields.get(name) for name in (names.ROPE_DIMENSION_COUNT, names.ROPE_FREQ_BASE))
    if dimensions is None or not isinstance(dimensions.value, int):
        return None
    if base is None and names.ROPE_FREQS not in side.tensors:
        return dimensions.value
    freq_base = FREQ_BASE if base is None else base.value
    if names.ROPE_FREQS in side.tensors or not isinstance(freq_base, float):
        return None
    return n_rot_of(dimensions.value, freq_base)


# The optimizer's vectors -----------------------------------------------------------------------------------


def _split_vectors(left: Side, right: Side, *, by_path: bool, scaled: bool) -> list[str]:
    """Replace the flat vectors that both files have by their parts, if both orders are known. Return notes on it.

    With `scaled`, moments of summed gradients are divided, as `convert` does.
    """
    shared = [
        name
        for name, one in left.tensors.items()
        if names.is_optimizer(name) and (left.path_of(one) or "").removeprefix(STATE) in FLAT_FIELDS
        if (other := right.tensors.get(name)) and other.tensor.shape == one.tensor.shape
    ]
    if not shared:
        return []
    decisions = [side.summary.order or side.file.order for side in (left, right)]
    orders = [decision.order for decision in decisions]
    sure = all(decision.is_certain for decision in decisions)
    if None in orders or not (sure or orders[0] == orders[1]):
        return [] if orders == [None, None] else ["the optimizer's vectors were compared as they are stored"]
    divisors = [_divisors(side, other) if scaled and sure else {} for side, other in ((left, right), (right, left))]
    notes = []
    for side, decision, divisor in zip((left, right), decisions, divisors, strict=True):
        for name in shared:
            _split(side, name, decision, divisor, by_path=by_path)
        scale = f", and m divided by {divisor['m']:,}, v by its square" if divisor else ""
        if orders[0] != orders[1] or scale:
            notes.append(f"{side.label}: the optimizer's vectors are in order {decision.order}{scale}")
    return [*notes, "the optimizer's vectors were compared by parameter"] if notes else []


def _divisors(side: Side, other: Side) -> dict[str, int]:
    """Return what m and v are to be divided by; nothing if the gradients were not summed."""
    scale = side.summary.scale
    if scale is None or not scale.summed:
        return {}
    recorded = other.fields.get(names.CONVERTED_SCALE)  # the other side may have been divided by a stated number
    s = recorded.value if recorded is not None else scale.s
    return {"m": s, "v": s * s} if s else {}


def _split(side: Side, name: str, decision: OrderDecision, divisors: Mapping[str, int], *, by_path: bool) -> None:
    """Replace a vector by its parts; the columns of lms and lmy by those in order C."""
    vector = Listed.of(side.file, side.tensors[name].tensor)
    divisor = divisors.get(vector.moment or "", 1)
    parts = {str(part.path if by_path else part.gguf_name): part for part in moments(side.file, decision, [vector])}
    if not parts:
        extents = permuted_extents(vector.tensor, str(decision.order), RESUME_ORDER, side.file.model_tensors)
        side.tensors[name] = Operand(vector.tensor, extents=extents)
        return
    del side.tensors[name]
    side.tensors.update((key, Operand(part.tensor, part.path, divisor)) for key, part in parts.items())
