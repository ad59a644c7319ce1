"""The state of an optimizer as it may follow the model in a damaged ggcp or ggcl file."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cached_property

from ggcp_schema.formats.records.headers import RAW, Block, Naming, Record, state_records
from ggcp_schema.formats.records.joints import Bytes, Joint, joint_of, shifts_of
from ggcp_schema.schema.inference import LBFGS

MOST_COUNT = 1 << 20  # of the counts after the state
LOSSES = 1e-7, 1e6
LOSSES_SIZE = 8  # bytes of two


class State:
    """A layout of the optimizer block, as it may follow the model."""

    def __init__(
        self, file: Bytes, start: int, n_params: int, block: Block, past: int, lbfgs_m: int, shift: int, naming: Naming
    ) -> None:
        self.file, self.block, self.first, self.start = file, block, shift, start
        records = list(state_records(start, block, naming, n_params, past, lbfgs_m))
        self.values = _values(block, past, lbfgs_m, n_params)
        self.joints = [joint_of(record, file) for record in records]
        self.joints[0] = self._with_fields(self.joints[0])
        self.end = records[-1].end
        final = file.size - self.end - block.tail
        self.shifts = shifts_of(self.joints, shift, final if self._is_tail(final) else None)
        self.shift = next((shift for shift in reversed(self.shifts) if shift is not None), shift)
        last = self.joints[-1]
        is_last = self.shifts[-1] is not None or last.is_null or last.explains(self.shift, final)
        ends = {self.shift, *([final] if is_last else [])}
        self.tails = {shift for shift in ends if self._is_tail(shift)}
        if self.shift == final or (final in self.tails and is_certain_end(file, file.size - block.tail, block.tail)):
            self.tails = {final}

    @property
    def records(self) -> list[Record]:
        """The records of the tensors."""
        return [joint.record for joint in self.joints]

    @property
    def is_end_lost(self) -> bool:
        """True if damage over the last header goes on: what follows the tensors can be no losses and counts."""
        return self.shifts[-1] is None and not self._is_tail(self.shift)

    @property
    def is_whole(self) -> bool:
        """True if all headers are where they must be, and the end of the file too. No other layout fits so then."""
        return {*self.shifts} == {self.first} and self.end + self.block.tail + self.first == self.file.size

    @cached_property
    def score(self) -> tuple[int, int, bool]:
        """How well the layout fits: more headers found, fewer missing, and shorter moves make a higher score."""
        known = [shift for shift in self.shifts if shift is not None]
        moves = {self.first, *known} - {self.first}
        missing = [
            joint
            for joint, shift in zip(self.joints, self.shifts, strict=True)
            if shift is None and joint.record.data + self.shift <= self.file.zeros
        ]
        is_whole = self.end + self.block.tail + self.shift == self.file.size
        score = 2 * len(known) - len(missing) - 3 * len(moves) + is_whole
        moved = sum(abs(shift - self.first) for shift in moves)
        return score, -moved, self.joints[0].explains(self.first, self.shift)

    def _with_fields(self, first: Joint) -> Joint:
        """Return the joint of the fields of the optimizer and its first header."""
        expected, mask = bytearray(self.block.state), bytearray(self.block.state)
        for offset, value in self.values.items():
            expected[offset : offset + len(value)] = value
            mask[offset : offset + len(value)] = b"\1" * len(value)
        return Joint(
            self.start,
            bytes(expected) + first.expected,
            bytes(mask) + first.mask,
            first.padding,
            first.record,
            first.file,
        )

    def _is_tail(self, shift: int) -> bool:
        """Return True if the numbers after the state, as far as the file has them, can be losses and counts."""
        start = self.end + shift
        losses, counts = numbers_after(self.file, start, self.block.tail)
        if start < self.start or start > self.file.size:
            return False
        is_cut = start < self.file.size < start + self.block.tail
        if (is_cut or shift != self.first) and not any(self.file.read(start, start + LOSSES_SIZE)):
            return False  # zeros are found at many places, and at the end of the whole file
        return are_losses_and_counts(losses, counts)


def numbers_after(file: Bytes, start: int, size: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the losses and counts that follow the state's tensors, as far as the file has them."""
    data = file.read(start, start + size)
    n_numbers = len(data) // 4
    losses = struct.unpack_from(f"<{min(2, n_numbers)}f", data)
    return losses, struct.unpack_from(f"<{max(0, n_numbers - 2)}i", data, 4 * len(losses))


def are_losses_and_counts(losses: Sequence[float], counts: Sequence[int]) -> bool:
    """Return True if the numbers can be losses and counts of a training."""
    return all(loss == 0 or LOSSES[0] < loss < LOSSES[1] for loss in losses) and all(
        0 <= count < MOST_COUNT for count in counts
    )


def is_certain_end(file: Bytes, start: int, size: int) -> bool:
    """Return True if the numbers after the state's tensors are losses and counts, which bytes of no other place are."""
    losses, counts = numbers_after(file, start, size)
    return len(losses) == 2 and all(losses) and are_losses_and_counts(losses, counts)


def _values(block: Block, past: int, lbfgs_m: int, n_params: int) -> dict[int, bytes]:
    """Return the fields of the optimizer block that follow from others, by their offsets in it."""
    values = {0: block.version, block.past: past, block.lbfgs_m: lbfgs_m}
    if block.state == RAW["state"]:
        values[4] = block.type == LBFGS
    fields = {offset: struct.pack("<I", value) for offset, value in values.items()}
    return fields | {block.iter - 8: struct.pack("<q", n_params), block.iter + 5: bytes(3)}
