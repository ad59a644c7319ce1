"""Where the records of a damaged file are that has no list of them: of ggla, ggjt, ggmf and ggml files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, product, takewhile
from math import inf, prod
from typing import Any, NamedTuple

from construct import Container, ListContainer

from ggcp_schema.constructs import FieldError, Struct
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered
from ggcp_schema.formats.records.headers import Record, record_at
from ggcp_schema.formats.records.joints import EVIDENCE, Bytes, joint_of, shifts_of
from ggcp_schema.formats.records.places import MOST_MOVED, Places, placed
from ggcp_schema.formats.records.recovery import parsed_at
from ggcp_schema.schema.ggml import GgmlType
from ggcp_schema.schema.tensor import ALIGNMENT

LONGEST = 64  # bytes of a name
LEAST = 12 + 4  # bytes of a header
PRINTABLE = re.compile(rb"[ -~]*")
N_DIMS = re.compile(rb"[\1\2]\0\0\0")
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
MOST_LAID = 1 << 13  # records with the ranks and types that are tried
MOST_LOST = 4096  # records between two that are found: those of 200 layers
MOST_AT_END = 40  # records that may be lost there, two layers


@dataclass(frozen=True)
class Series:
    """What tells where the records of a file are.

    Attributes:
        head: the first bytes of each file.
        types: the element types, by number.
        name: what the names are like.
        sign: what is in each name, `after` bytes before its end.
        usual: returns the names and the shapes of the tensors of two layers in the usual order, for names that are
            found. The numbers in a shape have names too.
        numbers: those of the model, if they are known.
        alignment: of the data.
    """

    head: bytes
    types: Mapping[int, GgmlType]
    name: re.Pattern[bytes]
    sign: bytes
    after: int
    usual: Callable[[Iterable[str]], list[tuple[str, Sequence[Any]]]]
    numbers: Mapping[str, int] = field(default_factory=dict)
    alignment: int = ALIGNMENT

    def record(self, at: int, name: str, shape: Iterable[int], type: int) -> Record:
        """Return the record of a tensor at an offset."""
        return record_at(at, name, tuple(shape), name, type, self.types, self.alignment)

    def record_in(self, file: Bytes, at: int) -> Record | None:
        """Return the record whose header begins at an offset, if there is one."""
        n_dims, length, kind = (file.integer(at + offset) for offset in (0, 4, 8))
        if n_dims not in (1, 2) or not len(self.sign) < length < LONGEST or kind not in self.types:
            return None
        name = file.read(at + 12 + 4 * n_dims, at + 12 + 4 * n_dims + length)
        shape = [file.integer(at + 12 + 4 * index) for index in range(n_dims)]
        return self.record(at, name.decode(), shape, kind) if self.name.fullmatch(name) and min(shape) > 0 else None

    def records_in(self, file: Bytes, at: int) -> Iterator[Record]:
        """Yield the records whose headers are found from an offset on, where they are.

        Their data is where it is if nothing was inserted or lost.
        """
        after = at
        while at < file.size:
            record = self.record_in(file, at) or next(self._found(file, after), None)
            if record is None:
                break
            yield record
            at, after = record.end, record.start + len(record.header)

    def _found(self, file: Bytes, after: int) -> Iterator[Record]:
        for at in file.all(self.sign, after):
            end = at + len(self.sign) + self.after
            data = file.read(max(0, end - LONGEST - LEAST - 4), end)
            for match in N_DIMS.finditer(data):
                size = len(data) - match.start()
                length = int.from_bytes(data[match.start() + 4 : match.start() + 8], "little")
                record = self.record_in(file, end - size) if size == 12 + 4 * match[0][0] + length else None
                if record is not None:
                    yield record


class Part(NamedTuple):
    """What a tensor is in each layer: its name with `#` for the layer, and the layer; -1 outside of the layers."""

    name: str
    layer: int

    @classmethod
    def of(cls, name: str) -> Part:
        match = LAYER.search(name)
        return cls(name, -1) if match is None else cls(LAYER.sub("#", name, count=1), int(match[0]))

    @property
    def text(self) -> str:
        return self.name.replace("#", str(self.layer))


START = Part("", -1)


class Order:
    """What follows what in a file, and the shapes: as in the records that are found, or in the usual order."""

    def __init__(self, series: Series, found: Sequence[Record]) -> None:
        self.series = series
        tensors = [(Part.of(name), shape) for name, shape in series.usual(record.path for record in found)]
        known = [Part.of(record.path) for record in found]
        self.usual = {part.name: shape for part, shape in tensors}
        has_vectors = any(  # in place of matrices of a single row
            len(record.shape) == 1 and self.usual.get(part.name, [1])[-1:] == [1]
            for part, record in zip(known, found, strict=True)
        )
        self.shapes: dict[str, Sequence[Any]] = {
            name: shape[:-1] if has_vectors and shape[-1:] == [1] else shape for name, shape in self.usual.items()
        }
        self.shapes |= {part.name: record.shape for part, record in zip(known, found, strict=True)}
        self.types: dict[Any, set[int]] = defaultdict(set)  # of a part, and of all with so many dimensions
        for part, record in zip(known, found, strict=True):
            self.types[part.name].add(record.type)
            self.types[len(record.shape)].add(record.type)
        self.numbers = dict(series.numbers) | {
            number: length
            for part, record in zip(known, found, strict=True)
            for number, length in zip(self.usual.get(part.name, ()), record.shape, strict=False)
        }
        near = [
            (one, other)
            for (one, record), (other, after) in pairwise(zip(known, found, strict=True))
            if abs(record.end - after.start) < ALIGNMENT  # bytes may be inserted before them, which changes the padding
        ]
        self.following: dict[str, tuple[str, int]] = {}
        self.leaving: dict[str, Part] = {}  # what follows in the last layer
        self._learn(pairwise([START, *(part for part, _ in tensors)]))
        begins = next((two.name for one, two in near if two.layer == one.layer + 1 and one.layer >= 0), None)
        if begins is not None:  # the first layer begins as the others
            outer = [one for one, (other, _) in self.following.items() if "#" not in one and "#" in other]
            has_layers_only = all(part.layer >= 0 for part in known) and not series.numbers  # as an adapter may
            outer += [START.name] if has_layers_only else []
            self.following |= dict.fromkeys(outer, (begins, 1))
        self._learn(near)

    def _learn(self, pairs: Iterable[tuple[Part, Part]]) -> None:
        for one, other in pairs:
            if other.layer < 0 <= one.layer:
                self.leaving[one.name] = other
            else:
                self.following[one.name] = other.name, other.layer - one.layer

    def between(self, part: Part, target: Part | None, at: int, stop: int) -> list[Record] | None:
        """Return the records between two parts, `target` or the end of the file; None if that cannot be told.

        The first begins at an offset, and the target at about `stop`.
        """
        if abs(at - stop) <= MOST_MOVED or (target is None and at > stop):
            return []
        most = min(MOST_AT_END if target is None else MOST_LOST, max(0, stop - at) // LEAST + 1)
        parts = [*islice(takewhile(lambda other: other != target, self.chain(part)), most)]
        if target is None:
            chains = [parts[:count] for count in range(len(parts) + 1)]
        else:
            chains = [parts] if self.after(parts[-1] if parts else part) == target else []
        about: list[list[Record]] | None = None
        for level in range(1 if target is None else 3):
            fits = [
                records
                for parts in chains
                for records in self.laid(parts, at, level, stop + MOST_MOVED)
                if abs(records[-1].end - stop) <= MOST_MOVED
            ]
            exact = [records for records in fits if records[-1].end == stop]
            if len(exact) == 1:
                return exact[0]
            about = about or fits
        return about[0] if about and len(about) == 1 else None

    def before(self, target: Part, stop: int) -> Iterator[Record]:
        """Yield the records that may be the first of a file, in which the target begins at `stop`."""
        parts = [*takewhile(lambda part: part != target, islice(self.chain(START), MOST_AT_END))]
        for records in self.laid(parts, 0) if parts and self.after(parts[-1]) == target else ():
            for at in range(stop - records[-1].end - self.series.alignment, stop - records[-1].end + 1):
                yield from (laid[0] for laid in self.laid(parts, at) if laid[-1].end == stop)

    def chain(self, part: Part) -> Iterator[Part]:
        """Yield what should follow a part, as far as that is known."""
        following = self.after(part)
        while following is not None:
            yield following
            following = self.after(following)

    def after(self, part: Part) -> Part | None:
        """Return what should follow a part; None if that is not known."""
        name, layers = self.following.get(part.name, (None, 0))
        if name is None or part.layer + layers >= self.numbers.get("hparams.n_layer", MOST_LOST):
            return self.leaving.get(part.name)
        return Part(name, part.layer + layers)

    def laid(self, parts: Sequence[Part], at: int, level: int = 0, stop: float = inf) -> Iterator[list[Record]]:
        """Yield the records of these parts from an offset if they end before another.

        A rank that nothing tells may be any other. The type of a part is that of another layer; with level 1 also that
        of another part, and with level 2 any, except that of a vector.
        """
        shapes = {part.name: self.shapes.get(part.name, ()) for part in parts}
        unknown = {name for shape in shapes.values() for name in shape if isinstance(name, str)} - self.numbers.keys()
        ranks = {number for name, number in self.numbers.items() if str(name).startswith("n_rank.")}
        types: dict[str, Collection[int]] = {}
        for name, shape in shapes.items():
            seen = self.types.get(len(shape)) or {0}
            any_type = self.series.types if len(shape) > 1 else seen
            types[name] = [self.types.get(name) or seen, seen, any_type][level]
        options = [*(ranks for _ in unknown), *types.values()]
        if not all(shapes.values()) or prod(map(len, options)) * len(parts) > MOST_LAID:
            return
        for told in product(*options):
            numbers = self.numbers | dict(zip(unknown, told, strict=False))
            kinds = dict(zip(types, told[len(unknown) :], strict=True))
            records: list[Record] = []
            for part in parts:
                lengths = [numbers.get(length, length) for length in shapes[part.name]]
                start = records[-1].end if records else at
                if start > stop or lengths[0] % self.series.types[kinds[part.name]].block_size:
                    break  # no row ends inside of a block
                records.append(self.series.record(start, part.text, lengths, kinds[part.name]))
            else:
                if records:
                    yield records


class Names:
    """The search for the records of a file by their names, from an offset on.

    Attributes:
        found: the records whose headers are found, where they are.
    """

    def __init__(self, file: Bytes, series: Series, at: int) -> None:
        self.file, self.series, self.at = file, series, at
        self.found = list(series.records_in(file, at))
        self.order = Order(series, self.found)

    def is_first(self, first: int) -> bool:
        """Return True if it can be told what is between an offset and the first header that is found."""
        part = Part.of(self.found[0].path)
        return self.order.between(START, part, first, self.found[0].start) is not None

    def is_last(self, start: int) -> bool:
        """Return True if the record that begins there is the last that is found, and ends its layer or the file.

        What follows it is of no size that the records of other layers have.
        """
        last = self.found[-1] if self.found else None
        if last is None or last.start != start:
            return False
        part = Part.of(last.path)
        following = self.order.after(part)
        is_end = following is None or following.layer > max(Part.of(record.path).layer for record in self.found)
        return is_end and not self.order.between(part, None, last.end, self.file.size)

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
            joint = joint_of(record, self.file)
            return len(joint.expected) - max(joint.wrong(shift), default=-1) - joint.padding

        options = [record for record in self.order.before(Part.of(one.path), one.start) if record.start >= self.at]
        if len({record.type for record in options}) > 1:
            options = [record for record in options if evidence(record) > EVIDENCE]
        return max(options, key=evidence, default=one).start

    def _from(self, record: Record, shift: int) -> Record:
        return self.series.record(record.start + shift, record.path, record.shape, record.type)

    def places(self, first: int) -> Places | None:
        """Return the places of the records, of which the first begins at an offset; None if no header is found."""
        if not self.found:
            return None
        file, head = self.file, self.series.head
        records = self._records(first)
        joints = [joint_of(record, file) for record in records]
        final = file.size - records[-1].end
        shifts = shifts_of(joints, 0, final)
        last = next((shift for shift in reversed(shifts) if shift is not None), 0)
        rest = file.read(records[-1].end + last, file.size)
        if rest[:1] in {b"\1", b"\2"} and not rest[1:4].strip(b"\0"):
            final = last  # the next header is cut off
        ends = final >= last or joints[-1].explains(last, final)  # and is not cut off itself
        places = placed(joints, shifts, {final} if ends else set(), head)
        wrong = [at for at in range(0, len(head), 4) if file.read(at, at + 4) != head[at : at + 4]]
        gaps = [place.start for place in places.records if not place.header]
        places.wrong += *wrong, *gaps
        places.is_head_lost = bool(wrong)
        return places

    def _records(self, first: int) -> list[Record]:
        """Return the records that the whole file has, with one without a header in place of unknown ones."""
        records: list[Record] = []
        part, at, shift = START, first, 0
        for record in (*self.found, None):
            stop = (self.file.size if record is None else record.start) - shift
            missing = self.order.between(part, None if record is None else Part.of(record.path), at, stop)
            records += [Record("", (), at, b"", at, max(at, stop))] if missing is None else missing
            if record is None:
                break
            at = stop if missing is None else missing[-1].end if missing else at
            shift, part = record.start - at, Part.of(record.path)
            records.append(self._from(record, -shift))
            at = records[-1].end
        return records


def recover(
    source: Source, error: FieldError, schema: Struct, places: Places | None, kept: Container | None = None
) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error, with the records at these places.

    None is returned if that is no more. With `kept`, only the fields after those are read.
    """
    if places is None or not (places.wrong or places.moved or kept):
        return None
    if error.missing is not None and not places.moved and places.last < error.offset and not kept:
        return None  # the file ends too early
    return parsed_at(source, schema, places, error, {0: places.head}, kept)


def doubtful_name(source: Source, container: Container, series: Series, first: int) -> FieldError | None:
    """Return an error for the first tensor whose name is damaged; None if there is none, or nothing proves it."""
    records = container["tensors"]
    odd = next((index for index, record in enumerate(records) if not series.name.fullmatch(record["name"])), None)
    if odd is None:
        return None
    record = records[odd]
    places = Names(Bytes(source), series, first).places(first)
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
