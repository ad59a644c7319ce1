"""Check a file against every rule of its format, past the first error where that is possible."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, NamedTuple

from construct import Container

from ggcp_schema.constructs import LISTS, Extent, FieldError, LazyList, format_path
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import format_of
from ggcp_schema.formats.file import File
from ggcp_schema.formats.parsing import Parse, malformed, parse_past_errors
from ggcp_schema.formats.rules import Found, Oddity, Problem
from ggcp_schema.formats.state import unsound_fields
from ggcp_schema.inspect.text import count_text
from ggcp_schema.llama.state import Unsound

Verdict = Literal["valid", "unsound", "invalid", "damaged", "unknown"]
SAID = {"not-finite", "negative-v"}  # rules of what is unsound for which no warning is needed too
SQUARES = "optimizer.state.g2", "optimizer.state.v", "optimizer.state.vh", "optimizer.adam.second_moments"
"""Averages of squares, which cannot be negative: Adam's second moments and, in v0, what they were made from."""


class Records(NamedTuple):
    """How many tensors were checked, and how many the file should have; None if damage hides that."""

    checked: int
    expected: int | None


class More(NamedTuple):
    """How many errors and warnings were left out after the first 1,000."""

    errors: int
    warnings: int


@json_keys(
    "file=file.path format=file.format.name verdict valid records fields data errors unsound warnings more damage"
)
@dataclass(frozen=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        file: the file, with the values that were parsed.
        errors: what breaks a rule, by offset; of very many the first ones.
        warnings: what is allowed but unusual, by offset; of very many the first ones.
        damage: the error after which nothing could be read; None if all was read.
        is_whole: True if all bytes are as the layout of the format has them; if not, other commands need --partial.
        is_unknown: True if it is not whole because it is of a later version, or a value is of a later type.
        unsound: what no training can have left.
        data: True if the tensors' data was read.
        strict: True if warnings count as errors.
    """

    file: File
    records: Records
    errors: Sequence[Problem]
    warnings: Sequence[Oddity]
    more: More
    damage: Problem | None
    is_whole: bool
    is_unknown: bool = False
    unsound: Sequence[Unsound] = ()
    data: bool = False
    strict: bool = False

    @property
    def fields(self) -> int:
        """The number of fields that hold bytes, down to single numbers; those with computed values do not."""
        root = self.file.root
        parents = [parent for parent in (root, root.child("optimizer")) if parent is not None]
        derived = sum(field.type == "derived" for parent in parents for field in parent.children())
        return _count(root.value) - derived

    @property
    def valid(self) -> bool:
        """True if no rule is broken, no value is unsound, and with `strict` nothing is warned of."""
        return self.verdict == "valid"

    @property
    def verdict(self) -> Verdict:
        """The result as a code."""
        if not self.is_whole:
            return "unknown" if self.is_unknown else "damaged"
        if self.errors or (self.strict and self.warnings):
            return "invalid"
        return "unsound" if self.unsound else "valid"

    @property
    def readable(self) -> list[Tensor]:
        """The tensors whose elements can be read."""
        return [tensor for tensor in self.file.tensors.values() if tensor.is_readable]


def validate(source: Source, *, strict: bool = False) -> Report:
    """Check everything but the tensors' data: `examine_data` reads that.

    Raises `NotACheckpointError` if the format of the file is unknown.
    """
    return report_of(parse_past_errors(source, format_of(source)), strict=strict)


def report_of(parse: Parse, *, strict: bool = False) -> Report:
    """Return what `validate` finds in a file that has been parsed."""
    rules, broken = parse.file.rules(parse), [*parse.errors, *([parse.damage] if parse.damage else [])]
    problems = (_problem(error, path) for path, error in parse.located)
    errors = Found.of(chain(problems, rules.errors), parse.file.root)
    warnings = Found.of(rules.warnings, parse.file.root)
    return Report(
        file=parse.file,
        records=Records(rules.checked, rules.expected),
        errors=errors,
        warnings=warnings,
        more=More(errors.more, warnings.more),
        damage=None if parse.damage is None else _problem(parse.damage, format_path(parse.damage.steps)),
        is_whole=not broken,
        is_unknown=bool(broken) and all(_is_unknown(error, parse.file) for error in broken),
        unsound=unsound_fields(parse.file),
        strict=strict,
    )


def examine_data(report: Report, progress: Callable[[int], None] = lambda nbytes: None) -> Report:
    """Read the tensors' data. Return the report with warnings of odd values, and with what no training can have left.

    There are warnings of NaN, infinities and negative averages of squares that are not unsound. `progress` is called
    with the number of bytes just read. Memory use is constant.
    """
    from ggcp_schema.inspect.soundness import look_once

    values = OddValues()
    unsound = look_once(report.file, report.readable, values.look, progress)
    said = [range(bad.start, bad.stop) for bad in unsound if bad.rule in SAID]
    odd = (oddity for oddity in values.findings() if not any(oddity.offset in places for places in said))
    return replace(report, warnings=(*report.warnings, *odd), unsound=unsound, data=True)


class OddValues:
    """Counts NaN, infinities and negative averages of squares in the values that it is shown."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Tensor, int, Counter[str]]] = {}  # the index of the first one, and how many

    def look(self, tensor: Tensor, at: int, values: Any) -> None:
        """Look at the next values of a tensor, of which the first is element `at`."""
        import numpy as np

        squares = tensor.path in SQUARES
        with np.errstate(invalid="ignore"):  # numpy warns of signalling NaNs
            low, high = float(values.min()), float(values.max())  # both NaN if there is one
            if math.isfinite(low) and math.isfinite(high) and not (squares and low < 0):
                return  # nothing is kept of it: there may be very many tensors
            kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values), "negative": squares & (values < 0)}
        first = at + int(np.argmax(np.logical_or.reduce([*kinds.values()])))
        _, _, counts = self.seen.setdefault(tensor.path, (tensor, first, Counter()))
        counts.update({kind: int(np.count_nonzero(mask)) for kind, mask in kinds.items()})

    def findings(self) -> Iterator[Oddity]:
        """Yield a warning for each tensor with such values, in file order."""
        for tensor, first, counts in sorted(self.seen.values(), key=lambda seen: seen[0].offset):
            length, nbytes = tensor.block
            found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
            message = f"{found} of {count_text(tensor.n_elements, 'value')}, the first at this offset"
            yield Oddity(f"{tensor.path}.data", tensor.offset + first // length * nbytes, message)


def _is_unknown(error: FieldError, file: File) -> bool:
    return error.is_unknown and malformed(error, file.source, file.format).is_unknown


def _problem(error: FieldError, path: str) -> Problem:
    return Problem(path, error.offset, error.expected, error.found, error.missing, error.file_missing)


# The fields ------------------------------------------------------------------------------------------------


def _count(value: Any) -> int:
    if isinstance(value, Container):
        return sum(1 if type(item) is int else _count(item) for name, item in value.items() if name[0] != "_")
    if isinstance(value, LISTS):
        is_plain = isinstance(value, LazyList) or not value or not isinstance(value[0], Container)
        return len(value) if is_plain else sum(map(_count, value))
    if isinstance(value, Extent):
        return value.nbytes > 0
    return value is not None and value != b""
