"""Where the records of a damaged file are, and which tensors are whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise

from ggcp_schema.constructs import FieldError
from ggcp_schema.formats.records.joints import Joint
from ggcp_schema.schema.tensor import Place

MOST_MOVED = 16  # bytes by which what follows an insertion or a loss may be moved


class Places:
    """The places of the records of a damaged file, of which some headers are found.

    Attributes:
        joints: what stands before the data of each tensor, in file order: of the whole file.
        known: the bytes by which each joint is moved; None if it is not found.
        tails: the bytes by which what follows the last of them may be moved.
        shifts: what is `known`; a joint that is not found has the shift of the one before.
        wrong: the offsets of bytes that are not those expected, one for each header.
    """

    def __init__(self, joints: Sequence[Joint], known: Sequence[int | None], tails: set[int]) -> None:
        self.joints, self.known, self.tails = joints, known, tails
        shifts = accumulate(known, lambda before, shift: before if shift is None else shift, initial=0)
        self.shifts: list[int] = [*shifts][1:]
        lost = [(joint, shift) for joint, shift, one in zip(joints, self.shifts, known, strict=True) if one is None]
        self.wrong = [joint.start + shift + wrong[0] for joint, shift in lost if (wrong := joint.wrong(shift))]

    @property
    def found(self) -> int:
        """The number of headers that were found."""
        return len(self.known) - self.known.count(None)

    @property
    def is_likely(self) -> bool:
        """True if most headers were found."""
        return 2 * self.found > len(self.joints)

    @cached_property
    def moved(self) -> list[tuple[int, int]]:
        """Where bytes were inserted (how many) or lost (a negative number) before."""
        starts = [joint.start + shift for joint, shift in zip(self.joints, self.shifts, strict=True)]
        shifts = [0, *self.shifts]
        if self.tails and shifts[-1] not in self.tails:
            (final,) = self.tails
            starts.append(self.joints[-1].record.end + final)
            shifts.append(final)
        moves = ((start, after - before) for start, (before, after) in zip(starts, pairwise(shifts), strict=True))
        return [move for move in moves if move[1]]

    def end_before(self, error: FieldError) -> bool:
        """Return True if the file only ends too early: nothing is found from the offset of an error on."""
        found = (n for n, shift in enumerate(self.known) if shift is not None)
        last = max((self.joints[n].record.start + self.shifts[n] for n in found), default=0)
        return error.missing is not None and not self.moved and last < error.offset

    @cached_property
    def records(self) -> list[Place]:
        """The places of the records."""
        return [self._place(index) for index in range(len(self.joints))]

    def _place(self, index: int) -> Place:
        joint, before, sure = self.joints[index], self.shifts[index], self._proven_shift(index)
        record, shift = joint.record, before if sure is None else sure
        if index + 1 < len(self.joints):
            stop = self.joints[index + 1].start + self.shifts[index + 1]
        else:
            stop = record.end + min(self.tails, key=abs, default=shift)
        start = record.start + (before if joint.start == record.start else shift)
        data, end = record.data + shift, record.end + shift
        return Place(record.shape, record.header, start, data, end, stop, sure is not None, record.type)

    def _proven_shift(self, index: int) -> int | None:
        """Return by how many bytes the data of a record is moved, if it is proven that all of it is there."""
        joint, later, before = self.joints[index], range(index + 1, len(self.joints)), self.shifts[index]
        known = next((shift for at in later if (shift := self.known[at]) is not None), None)
        candidates = {before} if known is None else {before, known}
        if known is None or (
            len(later) == 1 and self.joints[index + 1].is_null
        ):  # which may be found at several places
            candidates |= self.tails
        for shift in candidates:
            others = candidates - {shift}
            fits = joint.record.start + before <= joint.data + shift and joint.record.end + shift <= joint.file.size
            if fits and self._ends(index, shift, others) and joint.ends(shift, others):
                return shift
        return None

    def _ends(self, index: int, shift: int, others: set[int]) -> bool:
        """Return True if it is proven that the data of a record ends with a shift, and with none of the others."""
        joint, later = self.joints[index], range(index + 1, len(self.joints))
        is_last = not later or (bool(others) and all(self.joints[at].is_null for at in later))
        if is_last and shift in self.tails and not self.tails & others:
            return True
        if not later or not self.joints[index + 1].begins(shift, others, joint.record.end - joint.data):
            return False
        end = joint.record.end + shift
        may_be_hole = self.joints[index + 1].is_null and len(later) > 1 and self.known[index + 2] is None
        return not may_be_hole or joint.file.read(end - 1, end) != b"\0"
