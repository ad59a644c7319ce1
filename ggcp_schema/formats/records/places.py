"""Where the records of a damaged ggcp or ggcl file are, and which tensors are whole.

All sizes, names and places follow from the hyper-parameters. So a record without its header is read by what the header
must be; and where bytes are missing or inserted, the headers that follow tell how many.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from math import prod
from typing import Any

from ggcp_schema.files.source import Source
from ggcp_schema.formats.records.extent import LEAST_LAYER
from ggcp_schema.formats.records.headers import COUNTS, Block, Kind, Naming, record_at, state_records, walk
from ggcp_schema.formats.records.joints import NEARBY, SEARCHED, Bytes, Joint, joint_of, shifts_of
from ggcp_schema.formats.records.state import State
from ggcp_schema.schema.inference import LBFGS, n_ff_by_formula
from ggcp_schema.schema.tensor import Place

SEARCHED_FIRST = 1 << 29  # bytes of a file that may be of another kind
MOST_MOVED = 16  # bytes by which what follows an insertion or a loss may be moved
MOST_RANK = 256  # of an adapter, of which 4 is usual
UNTOLD = "hparams.n_mult", "hparams.n_head", "hparams.n_rot"  # by any shape
MOST_UNTOLD = 1 << 16
LAYERS = 4  # in whose headers the names of the tensors are looked for


@dataclass
class Places:
    """The places of all records of a damaged file.

    Attributes:
        joints: what stands before the data of each tensor, in file order: of the whole file.
        head: the first bytes of the file, as they must be.
        known: the bytes by which each joint is moved; None if it is not found.
        tails: the bytes by which what follows the last of them may be moved.
        n_ff: the width of the feed-forward layers.
        is_n_ff_told: False if no header tells it.
        shifts: what is `known`; a joint that is not found has the shift of the one before.
        state: the optimizer's part of them; None if that is not known.
        values: bytes of the optimizer's fields, as they must be, by their offsets.
        is_head_lost: True if numbers before the first record that no shape tells may be lost.
        untold: the values, by path, of numbers that no shape tells and that may be lost or moved; None for a lost one.
        is_head_moved: True if bytes were inserted or lost before the first record.
        is_optimizer_lost: True if its count of iterations may be lost.
        is_version_lost: True if two versions of the optimizer block fit, whose records are the same.
        wrong: the offsets of bytes that are not those expected, one for each header.
        moved: where bytes were inserted (how many) or lost (a negative number) before.
        found: the number of headers that were found.
        last: where the last of them is.
    """

    joints: Sequence[Joint]
    head: bytes
    known: Sequence[int | None]
    tails: set[int]
    n_ff: int | None = None
    is_n_ff_told: bool = True
    shifts: list[int] = field(default_factory=list)
    state: State | None = None
    values: dict[int, bytes] = field(default_factory=dict)
    is_head_lost: bool = False
    untold: dict[str, int | None] = field(default_factory=dict)
    is_head_moved: bool = False
    is_optimizer_lost: bool = False
    is_version_lost: bool = False
    wrong: list[int] = field(default_factory=list)
    moved: list[tuple[int, int]] = field(default_factory=list)
    found: int = 0
    last: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """What to compare places by: the more headers are found, and the fewer are not, the better."""
        return self.found, -len(self.joints)

    @cached_property
    def records(self) -> list[Place]:
        """The places of the records."""
        return [self._place(index, joint) for index, joint in enumerate(self.joints)]

    def _place(self, index: int, joint: Joint) -> Place:
        record, before = joint.record, self.shifts
        sure = _proven_shift(self.joints, self.known, before, self.tails, index)
        shift = before[index] if sure is None else sure
        if index + 1 < len(self.joints):
            stop = self.joints[index + 1].start + before[index + 1]
        else:
            stop = record.end + min(self.tails, key=abs, default=shift)
        start = record.start + (before[index] if joint.start == record.start else shift)
        data, end = record.data + shift, record.end + shift
        return Place(record.shape, record.header, start, data, end, stop, sure is not None, record.type)


class Search:
    """The search for the records of a file with these numbers before them."""

    def __init__(self, file: Bytes, kind: Kind, numbers: dict[str, int]) -> None:
        self.file, self.kind, self.numbers, self.n_layer = file, kind, numbers, numbers["hparams.n_layer"]
        self.naming = self._naming()
        self.is_width_told = True
        self.n_ff = self._width()
        shapes = kind.shapes({**numbers, "n_ff": self.n_ff}, self.n_layer)
        self.model = [joint_of(record, file) for record in walk(kind.size, shapes, lambda path: self.naming(path, ""))]
        self.shifts = shifts_of(self.model, 0)

    def _naming(self) -> Naming:
        """Return how the tensors are named: by the first record that is found under one of its names."""
        for path, shape in self.kind.shapes({**self.numbers, "n_ff": 0}, min(self.n_layer, LAYERS)).items():
            names = [str(naming(path, "")) for naming in self.kind.namings]
            for naming, name in zip(self.kind.namings, names, strict=True):
                is_told = names.count(name) == 1 and 0 not in shape
                if is_told and self.file.find(record_at(0, path, shape, name).header) >= 0:
                    return naming
        return self.kind.namings[0]

    def _width(self) -> int:
        """Return n_ff, which the first two headers that agree tell; else the first header found, else the formula."""
        widths: list[int] = []
        for path, shape in self.kind.tensors(self.n_layer):
            if "n_ff" in shape and (told := numbers_told(self.file, str(self.naming(path, "")), shape, self.numbers)):
                if told["n_ff"] in widths:
                    return told["n_ff"]
                widths.append(told["n_ff"])
        self.is_width_told = bool(widths)
        if widths:
            return widths[0]
        return n_ff_by_formula(self.numbers["hparams.n_embd"], self.numbers["hparams.n_mult"]) or 0

    def places(self, head: bytes) -> Places:
        """Return the places of all records."""
        shift = next((shift for shift in reversed(self.shifts) if shift is not None), 0)
        best: State | None = None
        rivals: list[State] = []
        blocks = self.kind.blocks if 4 * self.n_params <= self.file.size else ()
        for block in sorted(blocks, key=lambda block: not self._is_followed(shift, block)):
            for past, lbfgs_m in self._counts(block, shift):
                if block.type == LBFGS and not lbfgs_m:
                    continue
                end = self.model[-1].record.end
                state = State(self.file, end, self.n_params, block, past, lbfgs_m, shift, self.naming)
                if state.is_whole:
                    return self._places(head, state)
                if best is None or state.score > best.score:
                    best, rivals = state, []
                elif state.score == best.score and state.block != best.block:
                    rivals.append(state)
        same = best is not None and all(rival.records == best.records for rival in rivals)
        known = best is not None and best.score[0] > 0 and same
        places = self._places(head, best if known else None)
        places.is_version_lost = bool(known and rivals)
        return places

    def _counts(self, block: Block, shift: int) -> set[tuple[int, int]]:
        """Return what past and lbfgs_m may be: by their fields, and by the headers of pf and lmal."""
        end, n_params = self.model[-1].record.end, self.n_params
        first = next(state_records(end, block, self.naming, n_params, 0, 0))
        at = self.file.find(first.header, end + shift - 64) if end + shift < self.file.size else -1
        starts = {end + shift, *([at - block.state] if abs(at - block.state - end - shift) < NEARBY else [])}
        found = set()
        for start in starts:
            found.add((self.file.integer(start + block.past), self.file.integer(start + block.lbfgs_m)))
            past = lbfgs_m = 0
            for name in ("pf", "lmal"):
                records = state_records(end, block, self.naming, n_params, past, lbfgs_m)
                place = next((record.start + start - end for record in records if record.path.endswith(f".{name}")), -1)
                if self.file.integer(place) == 1:
                    length = max(0, self.file.integer(place + 12))
                    past, lbfgs_m = (length, lbfgs_m) if name == "pf" else (past, length)
            found.add((past, lbfgs_m))
        return {counts for counts in found if min(counts) >= 0 and max(counts) <= self.file.size}

    def _is_followed(self, shift: int, block: Block) -> bool:
        """Return True if the optimizer's number of parameters is where it must be."""
        end = self.model[-1].record.end + shift + block.iter
        return self.file.read(end - 8, end) == struct.pack("<q", self.n_params)

    def _places(self, head: bytes, state: State | None) -> Places:
        """Return the places of the records, of which those of the state may not have been found."""
        if state is None:
            return placed(self.model, self.shifts, set(), head)
        found = placed([*self.model, *state.joints], [*self.shifts, *state.shifts], state.tails, head)
        found.state = state
        if state.shifts[0] is None:
            shift, counts = found.shifts[len(self.model)], state.block.iter
            values = {**state.values, counts + 4: b"\0"}
            found.values = {state.start + shift + offset: value for offset, value in values.items()}
            wrong = state.joints[0].wrong(shift)
            found.is_optimizer_lost = any(counts - 8 <= index < counts + 12 for index in wrong)
        return found

    @cached_property
    def n_params(self) -> int:
        """The number of parameters."""
        return sum(prod(joint.record.shape) for joint in self.model)


def find_places(source: Source, kind: Kind, searched: int = SEARCHED) -> Places | None:
    """Return the places of the records of a file; None if too few headers are left to tell.

    At most so many bytes are searched.
    """
    file = Bytes(source, searched)
    if file.size < kind.size:
        return None
    found = file.read(0, kind.size)
    best, ours = None, kind.numbers(found)
    for numbers in chain([ours], _told(file, kind, ours)):
        if not fits(kind, numbers, file.size):
            continue
        search = Search(file, kind, numbers)
        places = search.places(kind.head(found, numbers))
        places.n_ff, places.is_n_ff_told = search.n_ff, search.is_width_told
        other_sizes = best is not None and best.head[COUNTS.stop :] != found[COUNTS.stop :]
        if best is None or places.found > best.found or (other_sizes and places.rank > best.rank):
            best = places  # the file's own numbers, unless others find more
        if best.state is not None and 2 * best.found > len(best.joints):
            break
    if best is None or not best.found:
        return None
    words = (at for at in range(0, kind.size, 4) if at not in COUNTS)
    n_layer = COUNTS.stop + 4 * kind.sizes.index("hparams.n_layer")
    wrong = [at for at in words if found[at : at + 4] != best.head[at : at + 4]]
    best.is_head_moved = bool(best.moved) and best.moved[0][0] == best.records[0].start
    best.is_head_lost = len(wrong) > 1 and best.head[COUNTS.stop :] not in file.read(0, kind.size + MOST_MOVED)
    best.wrong += [] if best.is_head_moved else wrong
    if best.is_head_moved:
        best.untold = _untold(file, kind, kind.numbers(best.head), best.n_ff or 0, best.shifts[0])
    elif best.is_head_lost:
        best.untold = dict.fromkeys(UNTOLD)
    elif wrong or best.known[0] is None:
        best.untold = dict.fromkeys(impossible(kind.numbers(best.head)))
    if best.state is None:  # whose size would tell them
        is_unknown = n_layer in wrong or best.is_head_moved
        best.untold |= dict.fromkeys(["n_ff"] * (not best.is_n_ff_told) + ["hparams.n_layer"] * is_unknown)
    return best


def fits(kind: Kind, numbers: Mapping[str, int], size: int) -> bool:
    """Return True if a model with these numbers may be in a file of this size."""
    largest = max(4 * prod(shape) for shape in kind.shapes(numbers, 0).values())
    return largest <= size and numbers["hparams.n_layer"] <= size // LEAST_LAYER and numbers["hparams.n_embd"] > 0


def impossible(numbers: Mapping[str, int]) -> list[str]:
    """Return which numbers that no shape tells are those of no model."""
    n_embd, n_head = numbers["hparams.n_embd"], numbers["hparams.n_head"]
    is_divisor = n_head > 0 and n_embd % n_head == 0
    most = {
        "hparams.n_mult": MOST_UNTOLD,
        "hparams.n_head": n_head if is_divisor else 0,
        "hparams.n_rot": n_embd // n_head if is_divisor else n_embd,
    }
    return [name for name in UNTOLD if not 0 < numbers[name] <= most[name]]


def _told(file: Bytes, kind: Kind, ours: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield the numbers before the records that the headers of the records tell."""
    for naming in kind.namings:

        def name_of(path: str, naming: Naming = naming) -> str:
            return str(naming(path, ""))

        some = [path for path, _ in kind.tensors(1) if path.startswith("layers")]
        some = some[:: len(some) // 3]
        n_layer = 0
        while any(file.find(name_of(path.replace("0", str(n_layer), 1)).encode()) >= 0 for path in some):
            n_layer += 1
        tensors = list(kind.tensors(min(n_layer, LAYERS)))
        for first in reversed(list(kind.tensors(0))):
            if "hparams.n_vocab" not in first[1]:
                continue
            told = {"hparams.n_layer": n_layer}
            for path, shape in (first, *tensors):
                if not told.keys() >= {*shape}:
                    told |= numbers_told(file, name_of(path), shape, told)
            if {"hparams.n_vocab", "hparams.n_embd"} <= told.keys():
                told |= _rank_told(file, kind, name_of, told)
                for shift in range(-MOST_MOVED, MOST_MOVED):
                    moved = kind.numbers(file.read(shift, kind.size + shift).rjust(kind.size, b"\0"))
                    if all(moved.get(name, number) == number for name, number in told.items()):
                        yield moved
                yield {**ours, **told}


def numbers_told(file: Bytes, name: str, shape: Sequence[Any], known: dict[str, int]) -> dict[str, int]:
    """Return the numbers in the header of the tensor of that name. A header that contradicts those known is skipped."""
    for at in file.all(name.encode()):
        start = at - 4 * len(shape) - 12
        if start < 0 or file.read(start, start + 12) != struct.pack("<3I", len(shape), len(name), 0):
            continue
        told: dict[str, int] = {}
        for part, number in zip(shape, struct.unpack(f"<{len(shape)}I", file.read(start + 12, at)), strict=True):
            if not number or number != (known | told).get(part, number if isinstance(part, str) else part):
                break
            if isinstance(part, str):
                told[part] = number
        else:
            return told
    return {}


def _untold(file: Bytes, kind: Kind, numbers: Mapping[str, int], n_ff: int, shift: int) -> dict[str, int | None]:
    """Return the numbers that no shape tells, of a file with bytes inserted or lost before the first record.

    `numbers` are those that the shapes tell, as they do n_ff. The insertion or loss is tried at each place: numbers
    before it stay where they were, and those after it are moved by `shift`. A place fits if it gives the numbers that
    the shapes tell, and best if n_mult gives n_ff. A number that is cut in two there is each that it may have been. The
    result is None for a number of which there is more than one value, or none that a model has.
    """
    here = kind.numbers(file.read(0, kind.size))
    there = kind.numbers(file.read(shift, kind.size + shift).rjust(kind.size, b"\0"))
    options: list[dict[str, int | None]] = []
    for place in range(-1, len(kind.sizes) + 1):
        laid = {name: (here if index < place else there)[name] for index, name in enumerate(kind.sizes)}
        split = kind.sizes[place] if 0 <= place < len(kind.sizes) else ""
        laid |= {split: numbers[split]} if split else {}
        is_told = all(laid[name] == numbers[name] for name in kind.sizes if name not in UNTOLD)
        if not is_told or any(name != split for name in impossible(laid)):
            continue
        if split not in UNTOLD:
            options.append({**laid})
            continue
        start = COUNTS.stop + 4 * place
        cut = file.read(start, start + 4 + shift)
        values = range(1, min(max(laid["hparams.n_embd"], n_ff) + 1, MOST_UNTOLD))
        found = [value for value in values if _differs(value.to_bytes(4, "little"), cut)]
        fits: list[int | None] = [value for value in found if not impossible({**laid, split: value})]
        options += [{**laid, split: value} for value in fits or [None]]
    widths = [n_ff_by_formula(numbers["hparams.n_embd"], one["hparams.n_mult"] or 0) for one in options]
    options = [one for one, width in zip(options, widths, strict=True) if width == n_ff] or options
    told = {name: {laid[name] for laid in options} for name in UNTOLD}
    return {name: found.pop() if len(found) == 1 else None for name, found in told.items()}


def _differs(whole: bytes, cut: bytes) -> bool:
    """Return True if one of two is the other with some bytes inserted at one place."""
    short, long = sorted((whole, cut), key=len)
    return any(long.startswith(short[:at]) and long.endswith(short[at:]) for at in range(len(short) + 1))


def _rank_told(file: Bytes, kind: Kind, name_of: Callable[[str], str], told: Mapping[str, int]) -> dict[str, int]:
    """Return the rank that no header tells, if it is the only one: a header that is found tells how far it is moved."""
    unknown = {name for _, shape in kind.tensors(0) for name in shape if isinstance(name, str)} - told.keys()
    for rank in range(1, MOST_RANK + 1) if len(unknown) == 1 else ():
        ranks = dict.fromkeys(unknown, rank)
        records = walk(kind.size, kind.shapes({**told, **ranks}, 0), name_of)
        if any(joint_of(record, file).matches(0) for record in records):
            return ranks
    return {}


def placed(joints: Sequence[Joint], shifts: Sequence[int | None], tails: set[int], head: bytes) -> Places:
    """Return the places of the records of these joints, of which some were found.

    `tails` are the shifts that what follows the last of them may have.
    """
    found = Places(joints, head, shifts, tails)
    before = found.shifts
    for shift in shifts:
        before.append(shift if shift is not None else before[-1] if before else 0)
    for index, joint in enumerate(joints):
        if shifts[index] is not None:
            found.found, found.last = found.found + 1, joint.record.start + before[index]
        elif wrong := joint.wrong(before[index]):
            found.wrong.append(joint.start + before[index] + wrong[0])
        moved = before[index] - (before[index - 1] if index else 0)
        if moved:
            found.moved.append((joint.start + before[index], moved))
    if tails and before[-1] not in tails:
        (final,) = tails
        found.moved.append((joints[-1].record.end + final, final - before[-1]))
    return found


def _proven_shift(
    joints: Sequence[Joint], shifts: Sequence[int | None], before: Sequence[int], tails: set[int], index: int
) -> int | None:
    """Return by how many bytes the data of a record is moved, if it is proven that all of it is there."""
    file, record, later = joints[index].file, joints[index].record, range(index + 1, len(joints))
    following = joints[index + 1] if later else None
    zeros = following is not None and following.is_null  # which may be found at several places
    known = [*islice((shift for at in later if (shift := shifts[at]) is not None), 1 + zeros)]
    candidates: set[int] = {before[index], *known, *(tails if len(later) <= zeros or not known else ())}
    for shift in candidates:
        others = candidates - {shift}
        if following is not None:
            follows = following.begins(shift, others, record.end - record.data)
            if zeros and len(later) > 1 and shifts[index + 2] is None:  # all may be a hole
                last = record.end + shift
                follows = follows and file.read(last - 1, last) != b"\0"
            if others and all(joints[at].is_null for at in later):
                follows = follows or (shift in tails and not tails & others)
        else:
            follows = shift in tails and not tails & others
        fits = record.start + before[index] <= record.data + shift and record.end + shift <= file.size
        if follows and fits and joints[index].ends(shift, others):
            return shift
    return None
