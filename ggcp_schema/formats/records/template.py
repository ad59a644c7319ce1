"""Which tensors follow each other in a file, and their shapes and types: as in the records that are found."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, pairwise, product, takewhile
from math import inf, prod
from typing import Any, NamedTuple

from ggcp_schema.formats.records.headers import Record
from ggcp_schema.formats.records.places import MOST_MOVED
from ggcp_schema.formats.records.series import LEAST, Series
from ggcp_schema.schema.tensor import ALIGNMENT

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
MOST_LAID = 1 << 13  # records with the ranks and types that are tried
MOST_LOST = 4096  # records between two that are found: those of 200 layers
MOST_AT_END = 40  # records that may be lost there, two layers


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


class Template:
    """What follows what in a file, as in the records that are found, or in the usual order.

    Attributes:
        series: what the records are like.
        shapes: the shape of each part, by name. It has the names of numbers that are not known.
        numbers: the known numbers by these names.
        types: the element types of a part by its name, and of all tensors with so many dimensions.
    """

    def __init__(self, series: Series, found: Sequence[Record]) -> None:
        self.series, self.numbers = series, dict(series.numbers)
        usual = [(Part.of(name), shape) for name, shape in series.usual(record.path for record in found)]
        self.shapes: dict[str, Sequence[Any]] = {part.name: shape for part, shape in usual}
        self.types: dict[Any, set[int]] = defaultdict(set)
        known = [(Part.of(record.path), record) for record in found]
        for part, record in known:
            self.numbers |= zip(self.shapes.get(part.name, ()), record.shape, strict=False)
            self.types[part.name].add(record.type)
            self.types[len(record.shape)].add(record.type)
        if any(len(record.shape) < len(self.shapes.get(part.name, ())) for part, record in known):
            self.shapes = {name: shape[:-1] if shape[-1:] == [1] else shape for name, shape in self.shapes.items()}
        self.shapes |= {part.name: record.shape for part, record in known}
        self._following: dict[str, tuple[str, int]] = {}
        self._leaving: dict[str, Part] = {}  # what follows in the last layer
        self._learn(pairwise([START, *(part for part, _ in usual)]))
        near = [
            (one, other)
            for (one, record), (other, after) in pairwise(known)
            if abs(record.end - after.start) < ALIGNMENT  # bytes may be inserted before them, which changes the padding
        ]
        begins = next((two.name for one, two in near if two.layer == one.layer + 1 and one.layer >= 0), None)
        if begins is not None:  # the first layer begins as the others
            outer = [one for one, (other, _) in self._following.items() if "#" not in one and "#" in other]
            has_layers_only = all(part.layer >= 0 for part, _ in known) and not series.numbers  # as an adapter may
            outer += [START.name] if has_layers_only else []
            self._following |= dict.fromkeys(outer, (begins, 1))
        self._learn(near)

    def _learn(self, pairs: Iterable[tuple[Part, Part]]) -> None:
        for one, other in pairs:
            if other.layer < 0 <= one.layer:
                self._leaving[one.name] = other
            else:
                self._following[one.name] = other.name, other.layer - one.layer

    def after(self, part: Part) -> Part | None:
        """Return what should follow a part; None if that is not known."""
        name, layers = self._following.get(part.name, (None, 0))
        if name is None or part.layer + layers >= self.numbers.get("hparams.n_layer", MOST_LOST):
            return self._leaving.get(part.name)
        return Part(name, part.layer + layers)

    def chain(self, part: Part) -> Iterator[Part]:
        """Yield what should follow a part, as far as that is known."""
        following = self.after(part)
        while following is not None:
            yield following
            following = self.after(following)

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
        about: list[list[Record]] = []
        for level in range(1 if target is None else 3):
            laid = (records for parts in chains for records in self.laid(parts, at, level, stop + MOST_MOVED))
            fits = [records for records in laid if abs(records[-1].end - stop) <= MOST_MOVED]
            exact = [records for records in fits if records[-1].end == stop]
            if len(exact) == 1:
                return exact[0]
            about = about or fits
        return about[0] if len(about) == 1 else None

    def before(self, target: Part, stop: int) -> Iterator[Record]:
        """Yield the records that may be the first of a file, in which the target begins at `stop`."""
        parts = [*takewhile(lambda part: part != target, islice(self.chain(START), MOST_AT_END))]
        for records in self.laid(parts, 0) if parts and self.after(parts[-1]) == target else ():
            for at in range(stop - records[-1].end - self.series.alignment, stop - records[-1].end + 1):
                yield from (laid[0] for laid in self.laid(parts, at) if laid[-1].end == stop)

    def laid(self, parts: Sequence[Part], at: int, level: int = 0, stop: float = inf) -> Iterator[list[Record]]:
        """Yield the records of these parts from an offset if they end before another.

        A rank that nothing tells may be any other. The type of a part is that of another layer; with level 1 also that
        of another part, and with level 2 any, except that of a vector.
        """
        shapes = {part.name: self.shapes.get(part.name, ()) for part in parts}
        unknown = {name for shape in shapes.values() for name in shape if isinstance(name, str)} - self.numbers.keys()
        ranks = {number for name, number in self.numbers.items() if str(name).startswith("n_rank.")}
        options = [*(ranks for _ in unknown), *(self._types(name, shape, level) for name, shape in shapes.items())]
        if not all(shapes.values()) or prod(map(len, options)) * len(parts) > MOST_LAID:
            return
        for told in product(*options):
            numbers = self.numbers | dict(zip(unknown, told, strict=False))
            types = dict(zip(shapes, told[len(unknown) :], strict=True))
            records: list[Record] = []
            for part in parts:
                lengths = [numbers.get(length, length) for length in shapes[part.name]]
                start = records[-1].end if records else at
                if start > stop or lengths[0] % self.series.types[types[part.name]].block_size:
                    break  # no row ends inside of a block
                records.append(self.series.record(start, part.text, lengths, types[part.name]))
            else:
                if records:
                    yield records

    def _types(self, name: str, shape: Sequence[Any], level: int) -> Collection[int]:
        seen = self.types.get(len(shape)) or {0}
        any_type = self.series.types if len(shape) > 1 else seen
        return [self.types.get(name) or seen, seen, any_type][level]
