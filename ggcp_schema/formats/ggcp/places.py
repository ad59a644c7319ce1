"""Where the records of a damaged ggcp file are, and which tensors are whole.

All sizes, names and places follow from the hyper-parameters. So a record without its header is read by what the header
must be; and where bytes are missing or inserted, the headers that follow tell how many.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from math import prod

from ggcp_schema.files.source import Source
from ggcp_schema.formats.ggcp.headers import HEAD, LEAST_LAYER, OPTIMIZERS, Shape, state_shapes, walk
from ggcp_schema.formats.ggcp.joints import NEARBY, SEARCHED, Bytes, Joint, joint_of, shifts_of
from ggcp_schema.formats.ggcp.state import State
from ggcp_schema.llama.names import STATE, llama_name, tensor_name
from ggcp_schema.llama.training import model_shapes
from ggcp_schema.schema.inference import n_ff_by_formula
from ggcp_schema.schema.tensor import Place

MAGIC = b"pcgg" + bytes(4)  # and the version
SEARCHED_FIRST = 1 << 28  # bytes of a file that may be of another kind
MOST_MOVED = 16  # bytes by which the hyper-parameters may be moved


@dataclass
class Places:
    """The places of all records of a damaged file.

    Attributes:
        head: the first bytes of the file, with the hyper-parameters that the records have.
        n_ff: the width of the feed-forward layers.
        records: the places of the records, in file order.
        values: bytes of the optimizer's fields, as they must be, by their offsets.
        optimizer: its layout, where it begins, and where the state's records end in the whole file; None if that is
            not known.
        state: the shapes of the state's tensors.
        is_head_lost: True if hyper-parameters that no shape tells may be lost.
        is_head_moved: True if bytes were inserted or lost before the first record.
        is_optimizer_lost: True if its count of iterations may be lost.
        is_version_lost: True if two versions of the optimizer block fit, whose records are the same.
        wrong: the offsets of bytes that are not those expected, one for each header.
        moved: where bytes were inserted (how many) or lost (a negative number) before.
        found: the number of headers that were found.
        last: where the last of them is.
    """

    head: bytes
    n_ff: int
    records: list[Place] = field(default_factory=list)
    values: dict[int, bytes] = field(default_factory=dict)
    optimizer: tuple[Shape, int, int] | None = None
    state: list[tuple[int, ...]] = field(default_factory=list)
    is_head_lost: bool = False
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
        return self.found, -len(self.records)


class Search:
    """The search for the records of a file with these hyper-parameters."""

    def __init__(self, file: Bytes, n_vocab: int, n_embd: int, n_layer: int, n_mult: int) -> None:
        self.file, self.n_embd, self.n_layer = file, n_embd, n_layer
        self.name_of = self._names(n_vocab)
        self.n_ff = self._width(n_mult)
        records = walk(HEAD, model_shapes(n_vocab, n_embd, n_layer, self.n_ff), self.name_of)
        self.model = [joint_of(record, file) for record in records]
        self.shifts = shifts_of(self.model, 0)

    def _names(self, n_vocab: int) -> Callable[[str], str | None]:
        """Return the function that names the tensors: by the first record that is found under one of its names."""
        shapes = model_shapes(n_vocab, self.n_embd, min(self.n_layer, 1), 0)
        for path, shape in shapes.items():
            for name_of in (llama_name, tensor_name):
                (record,) = walk(0, {path: shape}, name_of)
                if 0 not in shape and self.file.find(record.header) >= 0:
                    return name_of
        return llama_name

    def _width(self, n_mult: int) -> int:
        """Return n_ff: by the first header of w1, w2 or w3 that is found, or by the formula."""
        for layer in range(self.n_layer):
            for name, index in {"w1": 1, "w2": 0, "w3": 1}.items():
                text = str(self.name_of(f"layers[{layer}].{name}")).encode()
                for shape in shapes_named(self.file, text, 2):
                    if shape[1 - index] == self.n_embd and shape[index]:
                        return shape[index]
        return n_ff_by_formula(self.n_embd, n_mult) or 0

    # The state ------------------------------------------------------------------------------------------------

    def places(self, head: bytes) -> Places:
        """Return the places of all records."""
        shift = next((shift for shift in reversed(self.shifts) if shift is not None), 0)
        best: State | None = None
        rivals: list[State] = []
        layouts = OPTIMIZERS if 4 * self.n_params <= self.file.size else ()
        for layout in sorted(layouts, key=lambda layout: not is_followed(self, shift, layout)):
            for past, lbfgs_m in self._counts(layout, shift):
                state = State(self.file, self.model[-1].record.end, self.n_params, layout, past, lbfgs_m, shift)
                if state.is_whole:
                    return _places(self, state, head)
                if best is None or state.score > best.score:
                    best, rivals = state, []
                elif state.score == best.score and state.layout != best.layout:
                    rivals.append(state)
        same = best is not None and all(rival.records == best.records for rival in rivals)
        known = best is not None and best.score[0] > 0 and same
        places = _places(self, best if known else None, head)
        places.is_version_lost = bool(known and rivals)
        return places

    def _counts(self, layout: Shape, shift: int) -> set[tuple[int, int]]:
        """Return what past and lbfgs_m may be: by their fields, and by the headers of pf and lmal."""
        end, n_params = self.model[-1].record.end, self.n_params
        first = walk(end + layout.state, {f"{STATE}x": (n_params,)}, lambda path: "")
        header = next(iter(first)).header
        at = self.file.find(header, end + shift - 64) if end + shift < self.file.size else -1
        starts = {end + shift, *([at - layout.state] if abs(at - layout.state - end - shift) < NEARBY else [])}
        found = set()
        for start in starts:
            found.add((self.file.integer(start + layout.past), self.file.integer(start + layout.lbfgs_m)))
            lengths = {"nx": n_params, "past": 0, "lbfgs_m": 0}
            for name, path in (("past", "pf"), ("lbfgs_m", "lmal")):
                records = walk(end + layout.state, state_shapes(layout.fields, **lengths), lambda path: "")
                places = (record.start + start - end for record in records if record.path == f"{STATE}{path}")
                place = next(places, -1)
                if self.file.integer(place) == 1:
                    lengths[name] = max(0, self.file.integer(place + 12))
            found.add((lengths["past"], lengths["lbfgs_m"]))
        return {counts for counts in found if min(counts) >= 0 and max(counts) <= self.file.size}

    @cached_property
    def n_params(self) -> int:
        """The number of parameters."""
        return sum(prod(joint.record.shape) for joint in self.model)


def find_places(source: Source, searched: int = SEARCHED) -> Places | None:
    """Return the places of the records of a ggcp file; None if too few headers are left to tell.

    At most so many bytes are searched.
    """
    file = Bytes(source, searched)
    if file.size < HEAD:
        return None
    found = file.read(0, HEAD)
    head = MAGIC + found[len(MAGIC) :]
    best = None
    for candidate in chain([head], _heads(file, head)):
        n_vocab, n_embd, n_mult, _, n_layer, _ = struct.unpack("<6I", candidate[20:])
        if n_layer > file.size // LEAST_LAYER or 4 * n_vocab * n_embd > file.size or not n_embd:
            continue
        places = Search(file, n_vocab, n_embd, n_layer, n_mult).places(candidate)
        if best is None or places.found > best.found or (best.head != head and places.rank > best.rank):
            best = places  # the file's own numbers, unless others find more
        if best.optimizer is not None and 2 * best.found > len(best.records):
            break
    if best is None or not best.found:
        return None
    wrong = [at for at in (0, 4, *range(20, HEAD, 4)) if found[at : at + 4] != best.head[at : at + 4]]
    best.is_head_moved = bool(best.moved) and best.moved[0][0] == best.records[0].start
    best.is_head_lost = len(wrong) > 1 and best.head[20:] not in file.read(0, HEAD + MOST_MOVED)
    best.wrong += [] if best.is_head_moved else wrong
    return best


def _heads(file: Bytes, head: bytes) -> Iterator[bytes]:
    """Yield the first bytes of the file with the hyper-parameters that the records have."""
    for name_of in (llama_name, tensor_name):
        for path in ("output", "tok_embeddings"):
            for n_embd, n_vocab in shapes_named(file, str(name_of(path)).encode(), 2):
                n_layer = 0
                while any(
                    file.find(str(name_of(f"layers[{n_layer}].{name}")).encode()) >= 0
                    for name in ("attention_norm", "ffn_norm", "wq")
                ):
                    n_layer += 1
                sizes = struct.pack("<2I", n_vocab, n_embd), struct.pack("<I", n_layer)
                for shift in range(-MOST_MOVED, MOST_MOVED):
                    moved = file.read(20 + shift, HEAD + shift)
                    if (moved[:8], moved[16:20]) == sizes:
                        yield head[:20] + moved
                yield head[:20] + sizes[0] + head[28:36] + sizes[1] + head[40:]


def shapes_named(file: Bytes, name: bytes, n_dims: int) -> Iterator[tuple[int, ...]]:
    """Yield the shapes in the headers of the records of that name."""
    for at in file.all(name):
        start = at - 4 * n_dims - 12
        if start >= 0 and file.read(start, start + 12) == struct.pack("<3I", n_dims, len(name), 0):
            yield struct.unpack(f"<{n_dims}I", file.read(start + 12, at))


def _places(search: Search, state: State | None, head: bytes) -> Places:
    """Return the places of the records, of which those of the state may not have been found."""
    found = Places(head, search.n_ff)
    joints = [*search.model, *(state.joints if state else [])]
    shifts = [*search.shifts, *(state.shifts if state else [])]
    before: list[int] = []
    for shift in shifts:
        before.append(shift if shift is not None else before[-1] if before else 0)
    for index, joint in enumerate(joints):
        record = joint.record
        sure = _proven_shift(search, state, joints, shifts, before, index)
        shift = before[index] if sure is None else sure
        if index + 1 < len(joints):
            stop = joints[index + 1].start + before[index + 1]
        else:
            stop = record.end + min(state.tails if state else (), key=abs, default=shift)
        start = record.start + (before[index] if joint.start == record.start else shift)
        found.records.append(
            Place(record.shape, record.header, start, record.data + shift, record.end + shift, stop, sure is not None)
        )
        if shifts[index] is not None:
            found.found, found.last = found.found + 1, record.start + before[index]
        elif wrong := joint.wrong(before[index]):
            found.wrong.append(joint.start + before[index] + wrong[0])
        moved = before[index] - (before[index - 1] if index else 0)
        if moved:
            found.moved.append((joint.start + before[index], moved))
    if state:
        _add_optimizer(found, state, before[len(search.model)], state.shifts[0] is None)
    return found


def _proven_shift(
    search: Search,
    state: State | None,
    joints: Sequence[Joint],
    shifts: Sequence[int | None],
    before: Sequence[int],
    index: int,
) -> int | None:
    """Return by how many bytes the data of a record is moved, if it is proven that all of it is there."""
    final = state.tails if state else set()
    later = joints[index + 1 :]
    known = [shift for shift, joint in zip(shifts[index + 1 :], later, strict=True) if shift is not None]
    zeros = bool(later) and later[0].is_null  # which may be found at several places
    candidates: set[int] = {before[index], *known[: 1 + zeros], *(final if len(later) <= zeros or not known else ())}
    record = joints[index].record
    for shift in candidates:
        others = candidates - {shift}
        if later:
            follows = later[0].begins(shift, others, record.end - record.data)
            if zeros and len(later) > 1 and shifts[index + 2] is None:  # all may be a hole
                last = record.end + shift
                follows = follows and search.file.read(last - 1, last) != b"\0"
            if others and all(joint.is_null for joint in later):
                follows = follows or (shift in final and not final & others)
        elif state:
            follows = shift in final and not final & others
        else:
            follows = False
        fits = record.start + before[index] <= record.data + shift and record.end + shift <= search.file.size
        if follows and fits and joints[index].ends(shift, others):
            return shift
    return None


def is_followed(search: Search, shift: int, layout: Shape) -> bool:
    """Return True if the optimizer's number of parameters is where it must be."""
    end = search.model[-1].record.end + shift + layout.iter
    return search.file.read(end - 8, end) == struct.pack("<q", search.n_params)


def _add_optimizer(found: Places, state: State, shift: int, is_lost: bool) -> None:
    found.optimizer = state.layout, state.start, state.end
    found.state = [joint.record.shape for joint in state.joints]
    if is_lost:
        first, counts = state.joints[0], state.layout.iter
        values = {**state.values, counts + 4: b"\0"}
        found.values = {state.start + shift + offset: value for offset, value in values.items()}
        found.is_optimizer_lost = any(counts - 8 <= index < counts + 12 for index in first.wrong(shift))
    if state.tails and state.shift not in state.tails:
        (final,) = state.tails
        found.moved.append((state.end + final, final - state.shift))
