"""Parse a file past its errors, with expected values in place of wrong ones if more of the file can be read so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import File, Format, malformed, tolerant_parse


@dataclass(frozen=True)
class Parse:
    """The values that were parsed, the errors that were passed over, and the error that ended the parse."""

    file: File
    errors: Sequence[FieldError]
    damage: FieldError | None

    @property
    def container(self) -> Container:
        return self.file.container

    @cached_property
    def located(self) -> list[tuple[str, FieldError]]:
        """The errors that were passed over, each with the path of its field before it."""
        found = []
        root = near = self.file.root
        for error in self.errors:
            within = near.offset <= error.offset < near.end  # errors often follow each other in one layer
            leaf = (near if within else root).at(error.offset)
            found.append(("file" if leaf is None else leaf.path, error))
            near = root if leaf is None else leaf
            while near.parent is not None and near.parent.parent is not None and near.parent.parent is not root:
                near = near.parent
        return found

    @property
    def badness(self) -> tuple[bool, int]:
        """What to compare attempts by: damage is worse than any number of errors."""
        return self.damage is not None, len(self.errors)

    @property
    def fits(self) -> bool:
        """True if the file was read to its end, and half of the records after the first bad one or fewer are bad."""
        if self.damage is not None:
            return False
        starts = [tensor.offset for tensor in self.file.tensors.values()]
        wrong = {bisect_right(starts, error.offset) for error in self.errors} - {len(starts)}
        return not wrong or 2 * (len(wrong) - 1) <= len(starts) - 1 - min(wrong)


def parse_past_errors(source: Source, format: Format) -> Parse:
    """Parse as far as the file allows.

    First continue with the values found, since a record may really have the odd shape that it states. If that fails,
    retry with the expected values, and keep the attempt with the fewest errors.
    """
    best = _attempt(source, format)
    if any(best.badness):
        for params in best.file.retries():
            best = _better(best, source, format, **params)
    kind = format.file_class or File
    error = best.damage or (None if best.errors else kind.doubt(source, best.container))
    if error is None and best.errors and not best.errors[0].offset:
        error = best.errors[0]  # the first bytes are lost, and values in them too
    recovered = None if error is None else kind.recovered(source, error)
    if recovered is None and error is None and _rest(best.container) and any(e.found == "0" for e in best.errors):
        found = kind.recovered(source, best.errors[0])  # in a hole of zeros a record looks like one of no tensor
        recovered = found if found is not None and _rest(found.container) < _rest(best.container) else None
    if recovered is not None:
        said = {error.offset: error for error in best.errors}
        errors = [said.get(error.offset, error) for error in recovered.errors]
        known = None if recovered.damage is None else malformed(recovered.damage, source, format)
        return Parse(kind(source, format, recovered.container, known), errors, recovered.damage)
    return best


def _rest(container: Container) -> int:
    """Return the number of bytes after the end of the file."""
    trailing = container.get("trailing")
    return 0 if trailing is None else int(trailing.nbytes)


def _better(best: Parse, source: Source, format: Format, **params: Any) -> Parse:
    """Return a parse that repairs wrong values if it is better than the best so far; otherwise return that."""
    attempt = _attempt(source, format, repair=True, **params)
    return attempt if attempt.fits and attempt.badness < best.badness else best


def _attempt(source: Source, format: Format, **params: Any) -> Parse:
    container, log, damage = tolerant_parse(source, format, **params)
    known = None if damage is None else malformed(damage, source, format)
    file = (format.file_class or File)(source, format, container, known)
    return Parse(file, log.errors, damage)
