"""The numbers before the records of a damaged ggcp or ggcl file: told by the headers of the records, or lost."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from ggcp_schema.formats.records.headers import LEAST_LAYER, Kind, Naming, record_at, walk
from ggcp_schema.formats.records.joints import joint_of
from ggcp_schema.formats.records.search import Searched
from ggcp_schema.schema.inference import n_ff_by_formula

LAYERS = 4  # in whose headers the names of the tensors are looked for
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


def told_by_headers(file: Searched, kind: Kind, ours: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield the numbers that the headers of the records tell, and ours in place of the others."""
    for naming in kind.namings:
        some = [path for path, _ in kind.tensors(1) if path.startswith("layers")]
        some = some[:: len(some) // 3]
        n_layer = 0
        while any(file.find(naming(path.replace("0", str(n_layer), 1)).encode()) >= 0 for path in some):
            n_layer += 1
        tensors = list(kind.tensors(min(n_layer, LAYERS)))
        for first in reversed(list(kind.tensors(0))):
            if "hparams.n_vocab" not in first[1]:
                continue
            told = {"hparams.n_layer": n_layer}
            for path, shape in (first, *tensors):
                if not told.keys() >= {*shape}:
                    told |= told_by_header(file, naming(path), shape, told)
            if {"hparams.n_vocab", "hparams.n_embd"} <= told.keys():
                yield {**ours, **told, **_rank_told(file, kind, naming, told)}


def told_by_header(file: Searched, name: str, shape: Sequence[Any], known: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers in the header of the tensor of that name. A header that contradicts those known is skipped."""
    for at in file.all(name.encode()):
        start = at - 4 * len(shape) - 12
        if start < 0 or file.read(start, start + 12) != struct.pack("<3I", len(shape), len(name), 0):
            continue
        told: dict[str, int] = {}
        for part, number in zip(shape, struct.unpack(f"<{len(shape)}I", file.read(start + 12, at)), strict=True):
            if not number or number != {**known, **told}.get(part, number if isinstance(part, str) else part):
                break
            if isinstance(part, str):
                told[part] = number
        else:
            return told
    return {}


def _rank_told(file: Searched, kind: Kind, naming: Naming, told: Mapping[str, int]) -> dict[str, int]:
    """Return the rank that no header tells, if it is the only one: a header that is found tells how far it is moved."""
    unknown = {name for _, shape in kind.tensors(0) for name in shape if isinstance(name, str)} - told.keys()
    for rank in range(1, MOST_RANK + 1) if len(unknown) == 1 else ():
        ranks = dict.fromkeys(unknown, rank)
        records = walk(kind.size, kind.shapes({**told, **ranks}, 0), naming)
        if any(joint_of(record, file).matches(0) for record in records):
            return ranks
    return {}


def naming_told(file: Searched, kind: Kind, numbers: Mapping[str, int]) -> Naming:
    """Return how the tensors are named: by the first record that is found under one of its names."""
    for path, shape in kind.shapes({**numbers, "n_ff": 0}, min(numbers["hparams.n_layer"], LAYERS)).items():
        names = [naming(path) for naming in kind.namings]
        for naming, name in zip(kind.namings, names, strict=True):
            is_told = names.count(name) == 1 and 0 not in shape
            if is_told and file.find(record_at(0, path, shape, name).header) >= 0:
                return naming
    return kind.namings[0]


def width_told(file: Searched, kind: Kind, naming: Naming, numbers: Mapping[str, int]) -> int | None:
    """Return n_ff, which the first two headers that agree tell; else the first header found."""
    widths: list[int] = []
    for path, shape in kind.tensors(numbers["hparams.n_layer"]):
        if "n_ff" in shape and (told := told_by_header(file, naming(path), shape, numbers)):
            if told["n_ff"] in widths:
                return told["n_ff"]
            widths.append(told["n_ff"])
    return widths[0] if widths else None


def moved_numbers(file: Searched, kind: Kind, numbers: Mapping[str, int], shift: int) -> dict[str, int | None]:
    """Return the numbers that no shape tells, of a file with bytes inserted or lost before the first record.

    `numbers` are those that the shapes tell. The insertion or loss is tried in each: numbers before it
    stay where they were, and those after it are moved by `shift`. A place fits if it gives the numbers that the shapes
    tell, and best if n_mult gives n_ff. The result is None for a number that is cut in two, or of which there is more
    than one value, or none that a model has.
    """
    here = kind.numbers(file.read(0, kind.size))
    there = kind.numbers(file.read(shift, kind.size + shift).rjust(kind.size, b"\0"))
    options: list[dict[str, int | None]] = []
    for place in range(-1, len(kind.sizes) + 1):
        laid = {name: (here if index < place else there)[name] for index, name in enumerate(kind.sizes)}
        split = kind.sizes[place] if 0 <= place < len(kind.sizes) else ""
        laid |= {split: numbers[split]} if split else {}
        is_told = all(laid[name] == numbers[name] for name in kind.sizes if name not in UNTOLD)
        if is_told and not {*impossible(laid)} - {split}:
            options.append({**laid, **({split: None} if split in UNTOLD else {})})
    n_embd = numbers["hparams.n_embd"]
    best = [
        laid for laid in options if n_ff_by_formula(n_embd, laid["hparams.n_mult"] or 0) == numbers["n_ff"]
    ] or options
    told = {name: {laid[name] for laid in best} for name in UNTOLD}
    return {name: found.pop() if len(found) == 1 else None for name, found in told.items()}
