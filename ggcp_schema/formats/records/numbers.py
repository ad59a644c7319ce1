"""The numbers before the records of a damaged ggcp or ggcl file: told by the headers of the records, or lost."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from math import prod
from typing import NamedTuple

from ggcp_schema.formats.records.headers import COUNTS, LEAST_LAYER, Kind, Naming, walk
from ggcp_schema.formats.records.joints import joint_of
from ggcp_schema.formats.records.search import NAMED, Searched
from ggcp_schema.formats.records.series import Series
from ggcp_schema.schema.ggml import GGML_TYPES
from ggcp_schema.schema.inference import n_ff_by_formula

NAME = re.compile(rb"[\w.]+")
NUMBERED = re.compile(r"(?:^|\.)(\d+)\.")  # of a layer, in the name of a tensor
LAYER = re.compile(r"layers\[(\d+)\]")
SEARCHED_FOR_NAMES = 1 << 27  # bytes; the data of tensors that are found is passed over
MOST_RANK = 256  # of an adapter, of which 4 is usual
MOST_MULT = 1 << 16
UNTOLD = "hparams.n_mult", "hparams.n_head", "hparams.n_rot"  # by any shape


def fit_in(kind: Kind, numbers: Mapping[str, int], size: int) -> bool:
    """Return True if a model with these numbers may be in a file of this size."""
    largest = max(4 * prod(shape) for shape in kind.shapes(numbers, 0).values())
    return largest <= size and numbers["hparams.n_layer"] <= size // LEAST_LAYER and numbers["hparams.n_embd"] > 0


def impossible(numbers: Mapping[str, int]) -> list[str]:
    """Return which numbers that no shape tells are those of no model."""
    n_embd, n_head = numbers["hparams.n_embd"], numbers["hparams.n_head"]
    is_divisor = n_head > 0 and n_embd % n_head == 0
    most = {
        "hparams.n_mult": MOST_MULT,
        "hparams.n_head": n_head if is_divisor else 0,
        "hparams.n_rot": n_embd // n_head if is_divisor else n_embd,
    }
    return [name for name in UNTOLD if not 0 < numbers[name] <= most[name]]


class Told(NamedTuple):
    """What the headers that are found by their names tell of a file: how tensors are named, and numbers by path."""

    naming: Naming
    numbers: dict[str, int]


def told_by_headers(file: Searched, kind: Kind) -> Told:
    """Return what the headers tell; of a number, what most of them do."""
    name = kind.namings[0](next(path for path, _ in kind.tensors(0)))
    series = Series({0: GGML_TYPES[0]}, NAME, NAMED, len(name.partition(NAMED.decode())[2]))
    found = [*series.records_in(Searched(file.source, SEARCHED_FOR_NAMES), kind.size)]
    stated = (int(match[1]) for record in found if (match := NUMBERED.search(record.path)))
    n_layer = min(max(stated, default=-1) + 1, len(found))  # a number in a damaged name may be any
    options = []
    for naming in kind.namings:
        tensors = {naming(path): (path, shape) for path, shape in kind.tensors(n_layer)}
        options.append((naming, [(record, *tensors[record.path]) for record in found if record.path in tensors]))
    naming, known = max(options, key=lambda option: len(option[1]))
    layers = [int(match[1]) for _, path, _ in known if (match := LAYER.match(path))]
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for record, _, shape in known:
        for part, length in zip(shape, record.shape, strict=False):
            votes[part][length] += 1
    numbers = {part: lengths.most_common(1)[0][0] for part, lengths in votes.items() if isinstance(part, str)}
    return Told(naming, {**numbers, "hparams.n_layer": max(layers, default=-1) + 1})


def rank_told(file: Searched, kind: Kind, told: Told) -> dict[str, int]:
    """Return the rank that no header tells, if it is the only one: a header that is found tells how far it is moved."""
    unknown = {name for _, shape in kind.tensors(0) for name in shape if isinstance(name, str)} - told.numbers.keys()
    for rank in range(1, MOST_RANK + 1) if len(unknown) == 1 else ():
        ranks = dict.fromkeys(unknown, rank)
        records = walk(kind.size, kind.shapes({**told.numbers, **ranks}, 0), told.naming)
        if any(joint_of(record, file).matches(0) for record in records):
            return ranks
    return {}


def beside_odd(kind: Kind, numbers: Mapping[str, int], odd: Collection[int], *, is_n_ff_told: bool) -> list[str]:
    """Return which numbers that no shape tells a hole may have reached that left odd bytes at these offsets.

    It begins or ends in a number that is told, or in the first header. An n_mult that gives n_ff was not reached.
    """
    is_proven = (
        is_n_ff_told and n_ff_by_formula(numbers["hparams.n_embd"], numbers["hparams.n_mult"]) == numbers["n_ff"]
    )
    open_to = {*UNTOLD} - {"hparams.n_mult" if is_proven else ""}
    offsets = [*kind.offsets.items()]
    found: list[str] = []
    for order, beside in ((offsets, -1), (offsets[::-1], 4)):
        is_reached = False
        for name, at in order:
            is_reached = name in open_to and (is_reached or at + beside in odd)
            found += [name] * is_reached
    return found


def moved_numbers(file: Searched, kind: Kind, numbers: Mapping[str, int], shift: int) -> dict[str, int | None]:
    """Return the numbers that no shape tells, of a file with bytes inserted or lost before the first record.

    `numbers` has those that the shapes tell. The insertion or loss may be at any byte, so each is tried: numbers before
    it stay where they were, and later ones are moved by `shift`. A place fits if it gives the numbers that the shapes
    tell, and best if n_mult gives n_ff. The result is None for a number that is cut there, that has several values, or
    that has none that is possible.
    """
    here = kind.numbers(file.read(0, kind.size))
    there = kind.numbers(file.read(shift, kind.size + shift).rjust(kind.size, b"\0"))
    options: list[dict[str, int | None]] = []
    for place in range(COUNTS.stop, kind.size + 1):
        laid = {name: (here if at < place else there)[name] for name, at in kind.offsets.items()}
        cut = {name for name, at in kind.offsets.items() if at < place + max(0, -shift) and at + 4 > place}
        laid |= {name: 1 if name in UNTOLD else numbers[name] for name in cut}  # 1 allows any other
        is_told = all(laid[name] == numbers[name] for name in kind.sizes if name not in UNTOLD)
        if is_told and not impossible(laid):
            options.append({**laid, **dict.fromkeys(cut & {*UNTOLD})})

    def gives_n_ff(n_mult: int | None) -> bool:
        if n_mult is None:
            return abs(shift) >= 4  # another number may be in its place, and give n_ff by chance
        return n_ff_by_formula(numbers["hparams.n_embd"], n_mult) == numbers["n_ff"]

    best = [laid for laid in options if gives_n_ff(laid["hparams.n_mult"])] or options
    told = {name: {laid[name] for laid in best} for name in UNTOLD}
    return {name: found.pop() if len(found) == 1 else None for name, found in told.items()}
