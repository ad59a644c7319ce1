"""Compare two files, field by field and tensor by tensor, in constant memory.

`sides` gives the parts of both files common names; this module compares the parts that have the same name. It imports
numpy; only the command `diff` imports it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Ahead
from ggcp_schema.files.tensor import decode
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.matching import Floats, Omissions, Operand, Side, sides
from ggcp_schema.inspect.training_change import Change, change_between
from ggcp_schema.inspect.words import Verdict
from ggcp_schema.llama.names import STATE

Progress = Callable[[int], None]

MAX_ROWS = 10_000  # that a comparison keeps
BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
BLOCK = 1 << 16  # elements compared at a time, which stay in a core's L2 cache


class FieldRow(NamedTuple):
    """A field in both files; `a` or `b` is None if only the other file has it."""

    name: str
    verdict: Verdict
    a: KeyValue | None
    b: KeyValue | None


@json_keys("name verdict a=a.tensor.shape b=b.tensor.shape differing largest rms relative")
class TensorRow(NamedTuple):
    """A tensor in both files; `a` or `b` is None if only the other file has it.

    `differing` counts the elements that are neither equal nor close within the tolerance. `largest` is the largest
    absolute difference, `rms` the root of the mean square of all differences; both are NaN if an element is NaN in one
    file and something else in the other, and infinite if it is infinite. `relative` is the length of the difference in
    units of the length of A's tensor, infinite in both cases. All four are None if shapes differ or the elements cannot
    be read, so that only the bytes were compared, or nothing.
    """

    name: str
    verdict: Verdict
    a: Operand | None
    b: Operand | None
    differing: int | None = None
    largest: float | None = None
    rms: float | None = None
    relative: float | None = None


T = TypeVar("T", FieldRow, TensorRow)


class Rows(list[T]):
    """The rows that differ, the largest changes first, then the equal ones; at most MAX_ROWS, but all are counted."""

    total = 0
    differing = 0

    @classmethod
    def of(cls, rows: Iterable[T], change: Callable[[T], float]) -> Rows[T]:
        """Return the rows in order. `change` is how much one of them differs."""
        found, equal = cls(), cls()
        for row in rows:
            found.total += 1
            if row.verdict == "equal":
                equal += [row] * (len(equal) < MAX_ROWS)
            else:
                found.differing += 1
                found.append(row)
                if len(found) > 2 * MAX_ROWS:
                    found._order(change)
        found._order(change)
        found += equal[: MAX_ROWS - len(found)]
        return found

    def _order(self, change: Callable[[T], float]) -> None:
        self.sort(key=lambda row: -change(row))
        del self[MAX_ROWS:]


@dataclass(frozen=True)
class Comparison:
    """The fields and tensors of both files.

    `notes` say how the optimizer's vectors were compared. `change` is None unless both files are checkpoints.
    `n_elements` were compared, and `largest` is the largest difference of two.
    """

    fields: Rows[FieldRow]
    tensors: Rows[TensorRow]
    omitted: Omissions
    notes: list[str]
    change: Change | None
    n_elements: int
    largest: float

    @property
    def equal(self) -> bool:
        """True if all that was compared is equal, and something was."""
        return self.fields.total + self.tensors.total > self.fields.differing + self.tensors.differing == 0


def compare(a: File, b: File, *, rtol: float = 0.0, atol: float = 0.0, progress: Progress | None = None) -> Comparison:
    """Compare two files that were opened with `partial=True`, under the names that `sides` gives their parts.

    Numbers are equal if `|a - b| <= atol + rtol * |b|`, as -0 and 0 are; NaNs are equal if their bits are, an infinity
    only to itself.
    `progress` is called with the number of bytes just read of both files. Raises `FileError` if a file is changed
    meanwhile.
    """
    left, right, notes = sides(a, b)
    groups: dict[str, Distance] = {}
    largest, n_elements = 0.0, 0

    def rows() -> Iterator[TensorRow]:
        nonlocal largest, n_elements
        for row, distance in tensor_rows(left, right, rtol=rtol, atol=atol, progress=progress):
            if row.a is not None:
                n_elements += row.a.tensor.n_elements
                if distance is not None:
                    largest = max(largest, distance.largest)
                    _add_weight(groups, left.path_of(row.a), distance)
            yield row

    tensors = Rows.of(rows(), lambda row: math.inf if row.largest is None or math.isnan(row.largest) else row.largest)
    for file in (a, b):
        file.source.check_unchanged()
    weights = {name: group.relative for name, group in groups.items()}
    change = change_between(left.summary, right.summary, weights if any(weights.values()) else {})
    fields = Rows.of(field_rows(left, right, rtol=rtol, atol=atol), lambda row: 0.0)
    omitted = Omissions([*left.omitted, *right.omitted])
    omitted.counts = left.omitted.counts + right.omitted.counts
    return Comparison(fields, tensors, omitted, notes, change, n_elements, largest)


def field_rows(left: Side, right: Side, *, rtol: float = 0.0, atol: float = 0.0) -> Iterator[FieldRow]:
    """Compare the fields of both sides, in the order of the left one; those of the right one alone come last."""
    for name in _names(left.fields, right.fields):
        a, b = left.field(name), right.field(name)
        same = a and b and a.type == b.type and same_value(a.value, b.value, rtol=rtol, atol=atol)
        yield FieldRow(name, _verdict(a, b, same=bool(same)), a, b)


def tensor_rows(
    left: Side, right: Side, *, rtol: float = 0.0, atol: float = 0.0, progress: Progress | None = None
) -> Iterator[tuple[TensorRow, Distance | None]]:
    """Compare the tensors of both sides one after the other, in the order of `field_rows`.

    Elements of two types are compared by their values. Without a tolerance, tensors of two types differ nevertheless.
    The distance is None if only the bytes were compared, or nothing. The parameters and exceptions are those of
    `compare`.
    """
    aheads = Ahead(), Ahead()
    for name in _names(left.tensors, right.tensors):
        a, b = left.operand(name), right.operand(name)
        if a is None or b is None:
            yield TensorRow(name, _verdict(a, b, same=False), a, b), None
            continue
        one, two = a.tensor, b.tensor
        readable = one.is_readable and two.is_readable
        if one.shape != two.shape or (one.type != two.type and not readable):
            yield TensorRow(name, "different", a, b), None
        elif not readable:
            same = all(np.array_equal(x, y) for x, y in aligned(a.values(), b.values()))
            yield TensorRow(name, _verdict(a, b, same=same), a, b), None
        else:
            distance = Distance()
            for x, y in _parts(a, b, aheads):
                distance.add(x, y, rtol, atol)
                if progress:
                    progress(len(x) * (one.nbytes + two.nbytes) // one.n_elements)
            row = distance.row(name, a, b)
            exact = one.type == two.type or rtol or atol
            yield row if exact else row._replace(verdict="different"), distance


def shared_bytes(a: File, b: File) -> int:
    """Return the number of bytes of both files that `compare` reads, at most."""
    return sum(tensor.nbytes for file in (a, b) for tensor in file.tensors.values())


def _names(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    yield from a
    yield from (name for name in b if name not in a)


def _verdict(a: object | None, b: object | None, *, same: bool) -> Verdict:
    if a is None or b is None:
        return "only-b" if a is None else "only-a"
    return "equal" if same else "different"


# The distance of tensors -----------------------------------------------------------------------------------


@dataclass
class Distance:
    """How far two tensors, or groups of tensors, are apart: sums over their elements."""

    differing: int = 0
    largest: float = 0.0
    squares: float = 0.0  # the sum of the squares of the differences
    length: float = 0.0  # the sum of the squares of A's elements

    def add(self, a: Floats, b: Floats, rtol: float, atol: float) -> None:
        """Add some elements of both tensors, which are one array if they are known to be equal."""
        with np.errstate(over="ignore", invalid="ignore"):
            wide = a if a.dtype == np.float32 else a.astype(np.float64)
            self.length += float(np.dot(wide, wide))
            if a is b:
                return
            same = a.view(BITS[a.itemsize]) == b.view(BITS[a.itemsize]) if a.dtype == b.dtype else a == b
            alike = np.count_nonzero(same)
            if alike == len(same):
                return
            x, y = (a[~same], b[~same]) if alike else (a, b)
            y = y.astype(np.float64)
            apart = np.abs(x - y)
            if a.dtype.kind == b.dtype.kind == "i":  # float64 does not hold all of I64
                apart = np.maximum(apart, 1)
            far = apart
            if rtol or atol:
                far = (apart != 0) & ~((apart < math.inf) & (apart <= atol + rtol * np.abs(y)))
            self.differing += int(np.count_nonzero(far))
            largest = float(np.maximum.reduce(apart))
            if largest > self.largest or math.isnan(largest):
                self.largest = largest
            self.squares += float(np.add.reduce(np.square(apart)))

    @property
    def relative(self) -> float:
        """The length of the difference in units of A's length: 0 if nothing differs, infinite if A's is 0 or NaN."""
        if self.squares == 0:
            return 0.0
        return math.sqrt(self.squares / self.length) if self.length > 0 and math.isfinite(self.squares) else math.inf

    def row(self, name: str, a: Operand, b: Operand) -> TensorRow:
        """Return the result for two tensors."""
        rms = math.sqrt(self.squares / max(1, a.tensor.n_elements))
        verdict: Verdict = "different" if self.differing else "equal"
        return TensorRow(name, verdict, a, b, self.differing, self.largest, rms, self.relative)


def _parts(a: Operand, b: Operand, aheads: tuple[Ahead, Ahead]) -> Iterator[tuple[Floats, Floats]]:
    """Yield the elements of both tensors in parts of the same length: one array, if they are few and equal."""
    one, two = a.data(aheads[0]), b.data(aheads[1])
    if one is not None and two is not None:
        s, t = a.tensor, b.tensor
        x = decode(one, s.type, s.byte_order)
        equal = one == two and s.type == t.type and s.byte_order == t.byte_order
        yield x, x if equal else decode(two, t.type, t.byte_order)
        return
    for x, y in aligned(a.values(), b.values()):
        for at in range(0, len(x), BLOCK):
            yield x[at : at + BLOCK], y[at : at + BLOCK]


def aligned(a: Iterator[Any], b: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
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


def _add_weight(groups: dict[str, Distance], path: str | None, distance: Distance) -> None:
    """Add the distance of a tensor of the model to that of its layer, or to its own outside of the layers."""
    if path is not None and not path.startswith(STATE):
        head, bracket, rest = path.partition("[")
        group = groups.setdefault(f"layer {rest.partition(']')[0]}" if bracket else head, Distance())
        group.squares += distance.squares
        group.length += distance.length
