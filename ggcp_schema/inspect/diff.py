"""Compare two files, field by field and tensor by tensor, in constant memory.

`sides` gives the parts of both files common names; this module compares the parts that have the same name. It imports
numpy; only the command `diff` and the browser's view of two files import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.key_values import KeyValue
from ggcp_schema.files.source import Ahead
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.file import File
from ggcp_schema.inspect.matching import Floats, Omissions, Operand, Side, sides
from ggcp_schema.inspect.training_change import TrainingChange, change_between
from ggcp_schema.inspect.words import Verdict
from ggcp_schema.llama.names import STATE

Progress = Callable[[int], None]

MAX_ROWS = 10_000  # that a comparison keeps
BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
AT_MOST = 512  # small tensors that are compared together
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

    @property
    def is_part(self) -> bool:
        """True for what a vector of the optimizer holds of one parameter."""
        return any(side is not None and side.is_part for side in (self.a, self.b))


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
    """The fields and tensors of both files. A vector of the optimizer that is compared by parameter is many tensors.

    `notes` say how the optimizer's vectors were compared. `change` is None unless both files are checkpoints.
    `n_elements` were compared, and `largest` is the largest difference of two. `n_parts` of the tensors are parts of
    the optimizer's vectors, and `n_different_parts` of these differ.
    """

    fields: Rows[FieldRow]
    tensors: Rows[TensorRow]
    omitted: Omissions
    notes: list[str]
    change: TrainingChange | None
    n_elements: int
    largest: float
    n_parts: int
    n_different_parts: int

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
    largest, n_elements, n_parts, n_different_parts = 0.0, 0, 0, 0

    def rows() -> Iterator[TensorRow]:
        nonlocal largest, n_elements, n_parts, n_different_parts
        for row, distance in tensor_rows(left, right, rtol=rtol, atol=atol, progress=progress):
            if row.is_part:
                n_parts += 1
                n_different_parts += row.verdict != "equal"
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
    return Comparison(fields, tensors, omitted, notes, change, n_elements, largest, n_parts, n_different_parts)


def field_rows(left: Side, right: Side, *, rtol: float = 0.0, atol: float = 0.0) -> Iterator[FieldRow]:
    """Compare the fields of both sides, in the order of the left one; those of the right one alone come last."""
    for name in _names(left.fields, right.fields):
        a, b = left.fields.get(name), right.fields.get(name)
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
    aheads, small = (Ahead(), Ahead()), list[Small]()
    for name in _names(left.tensors, right.tensors):
        a, b = left.tensors.get(name), right.tensors.get(name)
        pair = None if a is None or b is None else Small.of(name, a, b, aheads)
        if pair is not None:
            small.append(pair)
        if pair is None or len(small) == AT_MOST:
            yield from _small_rows(small, rtol, atol, progress)
            small = []
        if pair is None:
            yield _row(name, a, b, rtol, atol, progress)
    yield from _small_rows(small, rtol, atol, progress)


def _row(
    name: str, a: Operand | None, b: Operand | None, rtol: float, atol: float, progress: Progress | None
) -> tuple[TensorRow, Distance | None]:
    """Compare two tensors of any size and type."""
    if a is None or b is None:
        return TensorRow(name, _verdict(a, b, same=False), a, b), None
    one, two = a.tensor, b.tensor
    readable = one.is_readable and two.is_readable
    if one.shape != two.shape or (one.type != two.type and not readable):
        return TensorRow(name, "different", a, b), None
    if not readable:
        same = all(np.array_equal(x, y) for x, y in aligned(a.values(), b.values()))
        return TensorRow(name, _verdict(a, b, same=same), a, b), None
    distance = Distance()
    for x, y in aligned(a.values(), b.values()):
        for at in range(0, len(x), BLOCK):
            (apart,) = distances(x[at : at + BLOCK], y[at : at + BLOCK], [0], rtol, atol)
            distance.add(apart)
        if progress:
            progress(len(x) * (one.nbytes + two.nbytes) // one.n_elements)
    row = distance.row(name, a, b)
    exact = one.type == two.type or rtol or atol
    return row if exact else row._replace(verdict="different"), distance


class Small(NamedTuple):
    """Two small tensors of little-endian F32, of which very many are compared together."""

    name: str
    a: Operand
    b: Operand
    data: tuple[bytes, bytes]

    @classmethod
    def of(cls, name: str, a: Operand, b: Operand, aheads: tuple[Ahead, Ahead]) -> Small | None:
        """Return the pair with its data; None if it is to be compared alone."""
        one, two = a.tensor, b.tensor
        if one.shape != two.shape or not (one.is_mapped and two.is_mapped):
            return None
        x, y = a.data(aheads[0]), b.data(aheads[1])
        return None if x is None or y is None else cls(name, a, b, (x, y))


def _small_rows(
    pairs: Sequence[Small], rtol: float, atol: float, progress: Progress | None
) -> Iterator[tuple[TensorRow, Distance]]:
    """Compare small tensors together."""
    if not pairs:
        return
    x, y = (np.frombuffer(b"".join(parts), "<f4") for parts in zip(*(pair.data for pair in pairs), strict=True))
    starts = [0, *accumulate(pair.a.tensor.n_elements for pair in pairs[:-1])]
    if progress:
        progress(x.nbytes + y.nbytes)
    for pair, distance in zip(pairs, distances(x, y, starts, rtol, atol), strict=True):
        yield distance.row(pair.name, pair.a, pair.b), distance


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

    def add(self, other: Distance) -> None:
        """Add the distance of more elements."""
        self.differing += other.differing
        self.squares += other.squares
        self.length += other.length
        if other.largest > self.largest or math.isnan(other.largest):
            self.largest = other.largest

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


def distances(a: Floats, b: Floats, starts: Sequence[int], rtol: float, atol: float) -> list[Distance]:
    """Return how far the tensors are apart whose elements begin at `starts` in both arrays."""

    def sums(values: npt.NDArray[Any]) -> list[Any]:
        found: list[Any] = np.add.reduceat(values, starts).tolist()
        return found

    with np.errstate(over="ignore", invalid="ignore"):
        lengths = [_length(a)] if len(starts) == 1 else sums(np.square(a, dtype=np.float64))
        same = a.view(BITS[a.itemsize]) == b.view(BITS[a.itemsize]) if a.dtype == b.dtype else a == b
        if same.all():
            return [Distance(length=length) for length in lengths]
        are_left_out = len(starts) == 1 and same.any()  # in a large tensor often few elements differ
        if are_left_out:
            a, b = a[~same], b[~same]
        y = b.astype(np.float64)
        apart = np.abs(a - y)
        if a.dtype.kind == b.dtype.kind == "i":  # float64 does not hold all of I64
            apart = np.maximum(apart, 1)
        if not are_left_out:
            apart[same] = 0
        far = apart != 0
        if rtol or atol:
            far &= ~((apart < math.inf) & (apart <= atol + rtol * np.abs(y)))
        largest = np.maximum.reduceat(apart, starts).tolist()
        return [*map(Distance, sums(far.astype(np.int64)), largest, sums(np.square(apart)), lengths)]


def _length(values: Floats) -> float:
    """Return the sum of the squares: of F32 in float32, which is much faster, unless its range is too small for it."""
    found = float(np.dot(values, values)) if values.dtype == np.float32 else math.nan
    if not 1e-30 < found < math.inf:
        wide = values.astype(np.float64)
        found = float(np.dot(wide, wide))
    return found


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
