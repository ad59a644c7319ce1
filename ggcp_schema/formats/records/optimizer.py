"""The optimizer block that follows the model of a damaged ggcp or ggcl file: its layout, and where its records are."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cached_property

from ggcp_schema.formats.records.headers import RAW, Block, Kind, Naming, Record, state_records
from ggcp_schema.formats.records.joints import NEARBY, Joint, joint_of, last_of, shifts_of
from ggcp_schema.formats.records.search import Searched
from ggcp_schema.schema.inference import LBFGS

MOST_COUNT = 1 << 20  # of the counts after the state
LOSSES = 1e-7, 1e6
LOSSES_SIZE = 8  # bytes of two


class Fit:
    """How a layout of the optimizer block fits what follows the model.

    Attributes:
        block: the layout.
        start: where the block begins in the whole file.
        values: the fields that follow from others, by their offsets in the block.
        joints: what stands before the data of each tensor.
        shifts: by how many bytes each joint is moved; None if it is not found.
    """

    def __init__(
        self, file: Searched, block: Block, start: int, shift: int, records: Sequence[Record], values: dict[int, bytes]
    ) -> None:
        self.block, self.start, self.values = block, start, values
        self.joints = [self._first_joint(records[0], file), *(joint_of(record, file) for record in records[1:])]
        self._file, self._first = file, shift
        self.shifts = shifts_of(self.joints, shift, self._final if self._is_tail(self._final) else None)

    def _first_joint(self, record: Record, file: Searched) -> Joint:
        """Return the joint of the fields of the block and the first header."""
        fields, header = bytearray(self.block.state), joint_of(record, file).expected
        known: set[int] = set()
        for offset, value in self.values.items():
            fields[offset : offset + len(value)] = value
            known.update(range(offset, offset + len(value)))
        return Joint(self.start, bytes(fields) + header, record, file, frozenset({*range(len(fields))} - known))

    @property
    def records(self) -> list[Record]:
        """The records of the tensors."""
        return [joint.record for joint in self.joints]

    @property
    def end(self) -> int:
        """Where the tensors end in the whole file."""
        return self.joints[-1].record.end

    @property
    def _final(self) -> int:
        """The shift of the end of the file."""
        return self._file.size - self.end - self.block.tail

    @cached_property
    def shift(self) -> int:
        """That of the last joint that is found."""
        return last_of(self.shifts, self._first)

    @cached_property
    def tails(self) -> set[int]:
        """The bytes by which what follows the tensors may be moved."""
        last = self.joints[-1]
        is_last = self.shifts[-1] is not None or last.is_null or last.explains(self.shift, self._final)
        tails = {shift for shift in (self.shift, *([self._final] if is_last else [])) if self._is_tail(shift)}
        is_final = self.shift == self._final or (
            self._final in tails and is_certain_end(self._file, self._file.size - self.block.tail, self.block.tail)
        )
        return {self._final} if is_final else tails

    @property
    def is_end_lost(self) -> bool:
        """True if damage over the last header goes on: what follows the tensors can be no losses and counts."""
        return self.shifts[-1] is None and not self._is_tail(self.shift)

    @property
    def is_whole(self) -> bool:
        """True if all headers are where they must be, and the end of the file too. No other layout fits so then."""
        return {*self.shifts, self._final} == {self._first}

    @cached_property
    def score(self) -> tuple[int, int]:
        """How well the layout fits: more headers found, fewer missing, and shorter moves make a higher score."""
        known = [shift for shift in self.shifts if shift is not None]
        moves = {*known} - {self._first}
        lost = (joint for joint, shift in zip(self.joints, self.shifts, strict=True) if shift is None)
        missing = [joint for joint in lost if joint.data + self.shift <= self._file.zeros]
        score = 2 * len(known) - len(missing) - 3 * len(moves) + (self.shift == self._final)
        return score, -sum(abs(shift - self._first) for shift in moves)

    def _is_tail(self, shift: int) -> bool:
        """Return True if the numbers after the state, as far as the file has them, can be losses and counts."""
        start = self.end + shift
        if not self.start <= start <= self._file.size:
            return False
        is_cut = start < self._file.size < start + self.block.tail
        if (is_cut or shift != self._first) and not any(self._file.read(start, start + LOSSES_SIZE)):
            return False  # zeros are found at many places, and at the end of the whole file
        return are_losses_and_counts(self._file, start, self.block.tail)


def fits_after(file: Searched, kind: Kind, naming: Naming, start: int, n_params: int, shift: int) -> list[Fit]:
    """Return how the layouts of the optimizer block fit that fit best; none if nothing tells one.

    The model ends at `start` in the whole file, and by `shift` later in this one. Layouts may fit alike that have the
    same records.
    """

    def other_number(block: Block) -> bool:
        """Return True if the number of parameters is not where it must be."""
        at = start + shift + block.iter
        return file.read(at - 8, at) != struct.pack("<q", n_params)

    found: list[Fit] = []
    for block in sorted(kind.blocks, key=other_number):
        for past, lbfgs_m in _counts(file, block, naming, start, n_params, shift):
            if block.type == LBFGS and not lbfgs_m:
                continue
            records = list(state_records(start, block, naming, n_params, past, lbfgs_m))
            fit = Fit(file, block, start, shift, records, _values(block, past, lbfgs_m, n_params))
            if fit.is_whole:
                return [fit]
            found.append(fit)
    best = max(found, key=lambda fit: fit.score, default=None)
    if best is None or best.score[0] <= 0:
        return []
    equal = [best, *(fit for fit in found if fit.score == best.score and fit.block != best.block)]
    return equal if all(fit.records == best.records for fit in equal) else []


def _counts(
    file: Searched, block: Block, naming: Naming, end: int, n_params: int, shift: int
) -> Iterator[tuple[int, int]]:
    """Yield what past and lbfgs_m may be: by their fields, and by the headers of pf and lmal."""
    first = next(state_records(end, block, naming, n_params, 0, 0))
    at = file.find(first.header, end + shift - 64) if end + shift < file.size else -1
    moves = [shift, *([at - first.start] if abs(at - first.start - shift) < NEARBY else [])]
    found = set()
    for move in moves:
        found.add((file.integer(end + move + block.past), file.integer(end + move + block.lbfgs_m)))
        told = {"pf": 0, "lmal": 0}
        for name in told:
            records = state_records(end, block, naming, n_params, *told.values())
            place = next((record.start + move for record in records if record.path.endswith(f".{name}")), -1)
            if file.integer(place) == 1:
                told[name] = max(0, file.integer(place + 12))
        found.add((told["pf"], told["lmal"]))
    return (counts for counts in found if min(counts) >= 0 and max(counts) <= file.size)


def _values(block: Block, past: int, lbfgs_m: int, n_params: int) -> dict[int, bytes]:
    """Return the fields of the optimizer block that follow from others, by their offsets in it."""
    values = {0: block.version, block.past: past, block.lbfgs_m: lbfgs_m}
    if block.state == RAW["state"]:
        values[4] = block.type == LBFGS
    fields = {offset: struct.pack("<I", value) for offset, value in values.items()}
    return fields | {block.iter - 8: struct.pack("<q", n_params), block.iter + 5: bytes(3)}


def are_losses_and_counts(file: Searched, start: int, size: int) -> bool:
    """Return True if the numbers after the state's tensors, as far as the file has them, can be of a training."""
    data = file.read(start, start + size)
    losses, counts = data[:LOSSES_SIZE], data[LOSSES_SIZE : len(data) // 4 * 4]
    return all(loss == 0 or LOSSES[0] < loss < LOSSES[1] for loss in _losses(losses)) and all(
        0 <= count < MOST_COUNT for (count,) in struct.iter_unpack("<i", counts)
    )


def is_certain_end(file: Searched, start: int, size: int) -> bool:
    """Return True if the numbers after the state's tensors are losses and counts, which bytes of no other place are."""
    losses = _losses(file.read(start, start + LOSSES_SIZE))
    return len(losses) == 2 and all(losses) and are_losses_and_counts(file, start, size)


def _losses(data: bytes) -> tuple[float, ...]:
    return struct.unpack_from(f"<{len(data) // 4}f", data)
