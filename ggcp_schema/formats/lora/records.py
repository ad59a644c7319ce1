"""Where the records of a damaged ggcl or ggla file are."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered
from ggcp_schema.formats.ggcp.headers import BLOCKS, Kind, Record, record_at
from ggcp_schema.formats.ggcp.joints import SEARCHED, Bytes, joint_of, shifts_of
from ggcp_schema.formats.ggcp.places import MOST_MOVED, SEARCHED_FIRST, Places, placed
from ggcp_schema.formats.ggcp.recovery import parsed_at
from ggcp_schema.formats.lora.ggcl import GGCL
from ggcp_schema.formats.lora.ggla import GGLA, TYPES
from ggcp_schema.llama.names import field_path, llama_field_path, llama_name, tensor_name
from ggcp_schema.schema.inference import V1

# ggcl ------------------------------------------------------------------------------------------------------


def _name(path: str, kind: str) -> str | None:
    """Return the name until 28 August 2023."""
    stem, _, part = path.rpartition("_")
    name = llama_name(stem)
    return None if name is None else f"{name}.lora{part.upper()}"


def _later_name(path: str, kind: str) -> str | None:
    """Return the name of 29 August 2023: without `layers.`, and the optimizer's tensors have one too."""
    name = _name(path, kind)
    return tensor_name(path, kind) if name is None else name.removeprefix("layers.")


def _gguf_name(path: str, kind: str) -> str | None:
    """Return the name in ggla files from 27 August 2023 on."""
    stem, _, part = path.rpartition("_")
    return f"{tensor_name(stem)}.lora{part.upper()}"


FINETUNE = Kind(GGCL, (_name, _later_name), tuple(block for block in BLOCKS if block.layout == V1))

# ggla ------------------------------------------------------------------------------------------------------

HEAD = struct.pack("<4sI", b"algg", 1)
FIRST = len(HEAD) + 8  # where the records begin, after r and alpha, which nothing else tells
MIDDLE = b".weight.lora"  # of all names, before an A or a B
NAME = re.compile(rb"[\w.]+\.weight\.lora[AB]")
LONGEST = 64  # bytes of a name
LEAST = 12 + 4  # bytes of a header
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


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


MOST_UNKNOWN = 2  # ranks that are tried
MOST_LOST = 4096  # records between two that are found: those of 200 layers
MOST_AT_END = 40  # records that may be lost there, two layers
START = Part("", -1)


def recover_adapter(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a ggla file whose parse ended with an error; None if that is no more."""
    places = find_adapter(source)
    if places is None or not (places.wrong or places.moved):
        return None
    if error.missing is not None and not places.moved and places.last < error.offset:
        return None  # the file ends too early
    found = parsed_at(source, GGLA, places, error, {0: HEAD})
    if places.is_head_lost:
        found.container.update(dict.fromkeys(("r", "alpha")))
    return found


def is_adapter(source: Source) -> bool:
    """Return True if most records of an adapter, and nothing else, are where they must be."""
    places = find_adapter(source, SEARCHED_FIRST)
    is_all = places is not None and all(place.header for place in places.records)  # no optimizer follows
    return places is not None and is_all and 2 * places.found > len(places.records)


def doubtful_name(source: Source, container: Container) -> FieldError | None:
    """Return an error if the name of a tensor is not the one that others prove; None if they prove nothing else."""
    odd = next((record for record in container["tensors"] if not NAME.fullmatch(record["name"])), None)
    places = None if odd is None else find_adapter(source)
    if odd is None or places is None or not places.wrong:
        return None
    offset = odd["_offset"] + 12 + 4 * odd["n_dims"]
    error = FieldError(offset, "a name that ends in .weight.loraA or .weight.loraB", repr(odd["name"])[1:])
    error.partial = container
    return error


def find_adapter(source: Source, searched: int = SEARCHED) -> Places | None:
    """Return the places of the records of a ggla file; None if it has no whole header."""
    file = Bytes(source, searched)
    records = _records(file)
    if not records:
        return None
    joints = [joint_of(record, file) for record in records]
    final = file.size - records[-1].end
    shifts = shifts_of(joints, 0, final)
    last = next((shift for shift in reversed(shifts) if shift is not None), 0)
    rest = file.read(records[-1].end + last, file.size)
    if rest[:1] in {b"\1", b"\2"} and not rest[1:4].strip(b"\0"):
        final = last  # the next header is cut off
    ends = final >= last or joints[-1].explains(last, final)  # and is not cut off itself
    places = placed(joints, shifts, {final} if ends else set(), HEAD)
    wrong = [at for at in (0, 4) if file.read(at, at + 4) != HEAD[at : at + 4]]
    gaps = [place.start for place in places.records if not place.header]
    places.wrong += *wrong, *gaps
    places.is_head_lost = bool(wrong)
    return places


def _records(file: Bytes) -> list[Record]:
    """Return the records that the whole file has, with one without a header in place of those that cannot be told."""
    found = list(_headers(file))
    order = Order(found)
    records: list[Record] = []
    part, at, shift = START, FIRST, 0
    for record in (*found, None):
        stop = (file.size if record is None else record.start) - shift
        missing = order.between(part, None if record is None else Part.of(record.path), at, stop)
        records += [Record("", (), at, b"", at)] if missing is None else missing
        if record is None:
            break
        at = stop if missing is None else missing[-1].end if missing else at
        shift, part = record.start - at, Part.of(record.path)
        records.append(record_at(at, record.path, record.shape, record.path, record.type))
        at = records[-1].end
    return records if found else []


def _headers(file: Bytes) -> Iterator[Record]:
    """Yield the headers that are found, where they are. Their data is where it is if nothing was inserted or lost."""
    at, after = FIRST, FIRST
    while at < file.size:
        record = _header_at(file, at)
        if record is None:
            names = (name + len(MIDDLE) + 1 for name in file.all(MIDDLE, after))
            starts = ((name, name - size) for name in names for size in range(LEAST, LEAST + 4 + LONGEST))
            headers = ((name, _header_at(file, start)) for name, start in starts)
            record = next((one for name, one in headers if one and one.start + len(one.header) == name), None)
        if record is None:
            break
        yield record
        at, after = record.end, record.start + len(record.header)


def _header_at(file: Bytes, at: int) -> Record | None:
    """Return the record whose header begins at an offset, if there is one."""
    n_dims, length, kind = (file.integer(at + offset) for offset in (0, 4, 8))
    if n_dims not in (1, 2) or not len(MIDDLE) < length < LONGEST or kind not in TYPES:
        return None
    name = file.read(at + 12 + 4 * n_dims, at + 12 + 4 * n_dims + length)
    shape = tuple(file.integer(at + 12 + 4 * index) for index in range(n_dims))
    if not NAME.fullmatch(name) or min(shape) < 1:
        return None
    return record_at(at, name.decode(), shape, name.decode(), kind)


class Order:
    """What follows what in an adapter, and the shapes: as in the headers that are found, or as finetune wrote them."""

    def __init__(self, found: Sequence[Record]) -> None:
        paths = [record.path.rpartition(".")[0] for record in found]
        is_later = any(field_path(path) and not llama_field_path(path) for path in paths)
        tensors = [(Part.of(str((_gguf_name if is_later else _name)(path, ""))), s) for path, s in FINETUNE.tensors(2)]
        known = [Part.of(record.path) for record in found]
        self.usual = {part.name: shape for part, shape in tensors}
        self.shapes = {part.name: (record.shape, record.type) for part, record in zip(known, found, strict=True)}
        self.numbers = {
            number: length
            for part, record in zip(known, found, strict=True)
            for number, length in zip(self.usual.get(part.name, ()), record.shape, strict=False)
        }
        self.has_vectors = any(len(record.shape) == 1 for record in found)
        pairs = pairwise([START, *(part for part, _ in tensors)])
        self.following = {one.name: (other.name, other.layer - one.layer) for one, other in pairs}
        near = pairwise(zip(known, found, strict=True))
        for (one, record), (other, after) in near:
            if record.end == after.start:
                self.following[one.name] = other.name, other.layer - one.layer
                if other.layer == one.layer + 1 and not any(part.layer < 0 for part in known):
                    self.following[START.name] = other.name, 1  # the first layer begins as the others

    def between(self, part: Part, target: Part | None, at: int, stop: int) -> list[Record] | None:
        """Return the records between two parts, `target` or the end of the file; None if that cannot be told.

        The first begins at an offset, and the target at about `stop`.
        """
        if abs(at - stop) <= MOST_MOVED or (target is None and at > stop):
            return []
        fits: list[list[Record]] = []
        parts: list[Part] = []
        while (following := self._after(part)) != target:
            if target is None:
                fits += self._fitting(parts, at, stop)
            most = MOST_AT_END if target is None else MOST_LOST
            if following is None or at + LEAST * len(parts) > stop or len(parts) > most:
                break
            part = following
            parts.append(part)
        else:
            fits += self._fitting(parts, at, stop)
        exact = [records for records in fits if records and records[-1].end == stop]
        (best,) = exact if len(exact) == 1 else fits if len(fits) == 1 else [None]
        return best

    def _after(self, part: Part) -> Part | None:
        name, layers = self.following.get(part.name, (None, 0))
        return None if name is None else Part(name, part.layer + layers)

    def _fitting(self, parts: Sequence[Part], at: int, stop: int) -> Iterator[list[Record]]:
        """Yield the records of these parts if they end at about `stop`. A rank that nothing tells may be any other."""
        names = [self.shapes.get(part.name, (self.usual.get(part.name, ()), 0)) for part in parts]
        unknown = {name for shape, _ in names for name in shape if name not in self.numbers and isinstance(name, str)}
        ranks = {number for name, number in self.numbers.items() if str(name).startswith("n_rank.")}
        if not all(shape for shape, _ in names) or len(unknown) > MOST_UNKNOWN:
            return
        for told in product(ranks, repeat=len(unknown)):
            numbers = dict(zip(unknown, told, strict=True))
            records, start = [], at
            for part, (shape, kind) in zip(parts, names, strict=True):
                lengths = tuple((self.numbers | numbers).get(length, length) for length in shape)
                if self.has_vectors and shape[-1:] == [1]:
                    lengths = lengths[:-1]
                records.append(record_at(start, part.text, lengths, part.text, kind))
                start = records[-1].end
            if abs(start - stop) <= MOST_MOVED:
                yield records
