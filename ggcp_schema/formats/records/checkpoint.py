"""What is left of a damaged ggcp or ggcl file: where its records are, and which of its numbers are lost.

All sizes, names and places follow from the hyper-parameters. So a record without its header is read by what the header
must be; and where bytes are missing or inserted, the headers that follow tell how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from ggcp_schema.files.source import Source
from ggcp_schema.formats.records.headers import COUNTS, Kind, tensor_fields, walk
from ggcp_schema.formats.records.joints import joint_of, last_of, shifts_of
from ggcp_schema.formats.records.numbers import (
    UNTOLD,
    Told,
    beside_odd,
    fit_in,
    impossible,
    moved_numbers,
    rank_told,
    told_by_headers,
)
from ggcp_schema.formats.records.optimizer import Fit, fits_after
from ggcp_schema.formats.records.places import MOST_MOVED, Places
from ggcp_schema.formats.records.search import SEARCHED, Searched
from ggcp_schema.llama.names import STATE
from ggcp_schema.schema.inference import n_ff_by_formula

TRAINED = "train_its", "train_samples", "train_tokens"


@dataclass
class Remains:
    """What is left of a ggcp or ggcl file.

    Attributes:
        file: its bytes.
        kind: what tells where the records are.
        numbers: those from the hyper-parameters on, by path, as the headers of the records tell them, and n_ff.
        is_n_ff_told: False if no header tells it.
        fits: the layouts of the optimizer block that fit, with the same records; none if nothing tells one.
        places: those of the records.
    """

    file: Searched
    kind: Kind
    numbers: Mapping[str, int]
    is_n_ff_told: bool
    fits: list[Fit]
    places: Places

    @property
    def fit(self) -> Fit | None:
        """How the optimizer block is laid out."""
        return self.fits[0] if self.fits else None

    @property
    def is_proven(self) -> bool:
        """True if most records, and the state of an optimizer, are where they must be."""
        return bool(self.fits) and self.places.is_likely

    @property
    def is_head_moved(self) -> bool:
        """True if bytes were inserted or lost before the first record."""
        return bool(self.places.moved) and self.places.moved[0][0] == self.places.records[0].start

    @cached_property
    def odd(self) -> set[int]:
        """The offsets of the bytes before the records that are not those of the numbers that the headers tell."""
        data = self.file.read(0, self.kind.size)
        words = self.kind.words(self.numbers).items()
        return {index for at, word in words for index, byte in enumerate(word, at) if data[index] != byte}

    @property
    def wrong(self) -> list[int]:
        """The offsets of those numbers."""
        return sorted({at - at % 4 for at in self.odd})

    @property
    def optimizer_values(self) -> dict[int, bytes]:
        """Fields of an optimizer block that is damaged before its first tensor, as they must be, by their offsets."""
        if self.fit is None or self.fit.shifts[0] is not None:
            return {}
        start = self.fit.start + self.places.shifts[-len(self.fit.joints)]
        return {start + at: value for at, value in {**self.fit.values, self.fit.block.iter + 4: b"\0"}.items()}

    @cached_property
    def lost(self) -> dict[str, int | None]:
        """Numbers, by path, that damage may have changed and no header tells. The value of a lost one is None."""
        return self._lost_in_head() | dict.fromkeys(self._lost_in_optimizer())

    def _lost_in_head(self) -> dict[str, int | None]:
        lost: dict[str, int | None] = {}
        is_moved, sizes = self.is_head_moved, b"".join([*self.kind.words(self.numbers).values()][2:])
        is_hole = len(self.wrong) > 1 and sizes not in self.file.read(0, self.kind.size + MOST_MOVED)
        if is_moved:
            lost = moved_numbers(self.file, self.kind, self.numbers, self.places.shifts[0])
        elif is_hole:
            lost = dict.fromkeys(UNTOLD)
        elif self.odd or self.places.known[0] is None:
            odd = self.odd | ({self.kind.size} & {*self.places.wrong})
            beside = beside_odd(self.kind, self.numbers, odd, is_n_ff_told=self.is_n_ff_told)
            lost = dict.fromkeys((*impossible(self.numbers), *beside))
        if is_moved or is_hole:
            lost |= dict.fromkeys(TRAINED)
        elif COUNTS.stop in self.odd:
            lost[TRAINED[-1]] = None  # which a hole may have reached that ends in n_vocab
        if not self.fits:  # whose size would tell them
            is_unknown = self.kind.offsets["hparams.n_layer"] in self.wrong or is_moved
            lost |= dict.fromkeys(["n_ff"] * (not self.is_n_ff_told) + ["hparams.n_layer"] * is_unknown)
        return lost

    def _lost_in_optimizer(self) -> Iterator[str]:
        if self.fit is None:
            return
        block, first = self.fit.block, self.fit.joints[0]
        if len(self.fits) > 1:
            yield from ("optimizer.version", "optimizer.layout")
        if self.fit.shifts[0] is None:
            wrong = first.wrong(self.places.shifts[-len(self.fit.joints)])
            if any(block.iter - 8 <= index < block.iter + 12 for index in wrong):
                yield from ("optimizer.iter", "optimizer.just_initialized")
        if self.fit.is_end_lost:
            tensors = tensor_fields(block.fields)
            yield from (f"{STATE}{name}" for name, _ in block.fields.fields if name not in tensors)


def find_remains(source: Source, kind: Kind, searched: int = SEARCHED) -> Remains | None:
    """Return what is left of a file; None if too few headers are left to tell. At most so many bytes are searched."""

    def evidence(remains: Remains) -> tuple[int, bool, int]:
        """Return what to compare by: the headers found, by the file's own numbers if others find no more."""
        is_own = all(at < COUNTS.stop for at in remains.wrong)
        return remains.places.found, is_own, -len(remains.places.joints)

    file = Searched(source, searched)
    best = max(_options(file, kind), key=evidence, default=None) if file.size >= kind.size else None
    if best is None or not best.places.found:
        return None
    best.places.wrong += [] if best.is_head_moved else best.wrong
    return best


def _options(file: Searched, kind: Kind) -> Iterator[Remains]:
    """Yield what is found with the file's own numbers, and then, unless that is proven, with those of the headers."""
    ours, told = kind.numbers(file.read(0, kind.size)), told_by_headers(file, kind)
    for numbers in (ours, {**ours, **told.numbers, **rank_told(file, kind, told)}):
        if fit_in(kind, numbers, file.size):
            remains = _remains_with(file, kind, numbers, told)
            yield remains
            if remains.is_proven:
                break


def _remains_with(file: Searched, kind: Kind, numbers: Mapping[str, int], told: Told) -> Remains:
    """Return what is found of a file with these numbers before the records."""
    n_ff = told.numbers.get("n_ff") or n_ff_by_formula(numbers["hparams.n_embd"], numbers["hparams.n_mult"]) or 0
    numbers = {**numbers, "n_ff": n_ff}
    shapes = kind.shapes(numbers, numbers["hparams.n_layer"])
    joints = [joint_of(record, file) for record in walk(kind.size, shapes, told.naming)]
    shifts = shifts_of(joints, 0)
    n_params = sum(map(prod, shapes.values()))
    fits: list[Fit] = []
    if 4 * n_params <= file.size:
        fits = fits_after(file, kind, told.naming, joints[-1].record.end, n_params, last_of(shifts, 0))
    for fit in fits[:1]:
        joints, shifts = [*joints, *fit.joints], [*shifts, *fit.shifts]
    return Remains(
        file, kind, numbers, "n_ff" in told.numbers, fits, Places(joints, shifts, fits[0].tails if fits else set())
    )
