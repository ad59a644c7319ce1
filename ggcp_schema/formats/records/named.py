"""Where the records of a damaged file are that has no list of them: of ggla, ggjt, ggmf and ggml files."""

from __future__ import annotations

import re

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.records.headers import Record
from ggcp_schema.formats.records.joints import EVIDENCE, joint_of, last_of, shifts_of
from ggcp_schema.formats.records.places import MOST_MOVED, Places
from ggcp_schema.formats.records.search import Searched
from ggcp_schema.formats.records.series import Series
from ggcp_schema.formats.records.template import START, Part, Template

PRINTABLE = re.compile(rb"[ -~]*")


class Names:
    """The search for the records of a file by their names, from an offset on.

    Attributes:
        found: the records whose headers are found, where they are.
        template: what these tell of the others.
    """

    def __init__(self, file: Searched, series: Series, at: int) -> None:
        self.file, self.series, self.at = file, series, at
        self.found = list(series.records_in(file, at))
        self.template = Template(series, self.found)

    def is_first(self, first: int) -> bool:
        """Return True if it can be told what is between an offset and the first header that is found."""
        part = Part.of(self.found[0].path)
        return self.template.between(START, part, first, self.found[0].start) is not None

    def is_last(self, start: int) -> bool:
        """Return True if the record that begins there is the last that is found, and ends its layer or the file.

        What follows it is of no size that the records of other layers have.
        """
        last = self.found[-1] if self.found else None
        if last is None or last.start != start:
            return False
        part = Part.of(last.path)
        following = self.template.after(part)
        is_end = following is None or following.layer > max(Part.of(record.path).layer for record in self.found)
        return is_end and not self.template.between(part, None, last.end, self.file.size)

    def first(self) -> int:
        """Return where the first record should begin, judging by those found. Bytes may be inserted before them."""
        one = self.found[0]
        shift = 0
        for other in self.found[1:2]:
            shifts = sorted(range(-MOST_MOVED, MOST_MOVED), key=abs)
            shift = next((s for s in shifts if self._from(one, -s).end == other.start - s), 0)
        one = self._from(one, -shift)

        def evidence(record: Record) -> int:
            """Return how many bytes of the header, from its end on, are as they must be."""
            return len(record.header) - max(joint_of(record, self.file).wrong(shift), default=-1)

        options = [record for record in self.template.before(Part.of(one.path), one.start) if record.start >= self.at]
        if len({record.type for record in options}) > 1:
            options = [record for record in options if evidence(record) > EVIDENCE]
        return max(options, key=evidence, default=one).start

    def _from(self, record: Record, shift: int) -> Record:
        return self.series.record(record.start + shift, record.path, record.shape, record.type)

    def places(self, first: int) -> Places | None:
        """Return the places of the records, of which the first begins at an offset; None if no header is found."""
        if not self.found:
            return None
        joints = [joint_of(record, self.file) for record in self._records(first)]
        shifts = shifts_of(joints, 0)
        last, end = last_of(shifts, 0), joints[-1].record.end
        final = self.file.size - end
        rest = self.file.read(end + last, self.file.size)
        if rest[:1] in {b"\1", b"\2"} and not rest[1:4].strip(b"\0"):
            final = last  # the next header is cut off
        ends = final >= last or joints[-1].explains(last, final)  # and is not cut off itself
        places = Places(joints, shifts, {final} if ends else set())
        places.wrong += [place.start for place in places.records if not place.header]
        return places

    def _records(self, first: int) -> list[Record]:
        """Return the records that the whole file has, with one without a header in place of unknown ones."""
        records: list[Record] = []
        part, at, shift = START, first, 0
        for record in (*self.found, None):
            stop = (self.file.size if record is None else record.start) - shift
            missing = self.template.between(part, None if record is None else Part.of(record.path), at, stop)
            records += [Record("", (), at, b"", at, max(at, stop))] if missing is None else missing
            if record is None:
                break
            at = stop if missing is None else missing[-1].end if missing else at
            shift, part = record.start - at, Part.of(record.path)
            records.append(self._from(record, -shift))
            at = records[-1].end
        return records


def doubtful_name(source: Source, container: Container, series: Series, first: int) -> FieldError | None:
    """Return an error for the first tensor whose name is damaged; None if there is none, or nothing proves it."""
    records = container["tensors"]
    odd = next((index for index, record in enumerate(records) if not series.name.fullmatch(record["name"])), None)
    if odd is None:
        return None
    record = records[odd]
    places = Names(Searched(source), series, first).places(first)
    other = places and any(place.start == record["_offset"] and place.header for place in places.records)
    if not other and PRINTABLE.fullmatch(record["name"]):
        return None
    offset = record["_offset"] + 12 + 4 * record["n_dims"]
    return FieldError(
        offset,
        f"a name with {series.sign.decode()}",
        repr(record["name"])[1:],
        steps=["tensors", odd, "name"],
        partial=Container(container, tensors=ListContainer(records[:odd]), trailing=None),
    )
