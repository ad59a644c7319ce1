"""The layout of a hex dump: how many bytes fit a line, where they stand, and which field each belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ggcp_schema.constructs.tree import Field
    from ggcp_schema.formats.file import File

NAMES = 18  # the least width of the column with the fields' names


@dataclass(frozen=True)
class Layout:
    """Columns of a line: address, bytes in groups of 8 with a place for a bracket before each, text, names."""

    size: int
    width: int

    @property
    def digits(self) -> int:
        """The digits of an address."""
        return max(8, len(f"{max(self.size - 1, 0):x}"))

    @property
    def per_line(self) -> int:
        """The bytes of a line: 32, 16, 8 or 4."""
        for count in (32, 16):
            if self._taken(count) + NAMES <= self.width:
                return count
        return next((count for count in (16, 8) if self._taken(count) <= self.width), 4)

    def _taken(self, count: int) -> int:
        return self.digits + 1 + 3 * count + (count - 1) // 8 + 2 + count

    @property
    def names(self) -> int:
        """The width of the column with names; 0 if there is no room."""
        left = self.width - self._taken(self.per_line) - 2
        return left if left >= 8 else 0

    @property
    def lines(self) -> int:
        """The number of lines of the whole file."""
        return -(-self.size // self.per_line)

    def byte_column(self, index: int) -> int:
        """Return the column of a byte's first digit."""
        return self.digits + 2 + 3 * index + index // 8

    @property
    def text_column(self) -> int:
        """The column of the first character of the text."""
        return self._taken(self.per_line) - self.per_line

    def byte_at(self, column: int) -> int | None:
        """Return which byte of a line stands in that column, as digits or as text."""
        text = column - self.text_column
        if 0 <= text < self.per_line:
            return text
        for index in range(self.per_line):
            start = self.byte_column(index)
            if start <= column < start + 3:
                return index
        return None


class Piece(NamedTuple):
    """The bytes of one field; `field` is None for bytes that belong to none. `odd` alternates between neighbours."""

    start: int
    stop: int
    field: Field | None
    odd: bool


def pieces(file: File, start: int, stop: int, before: list[Piece]) -> list[Piece]:
    """Return the fields that hold the bytes from `start` to `stop`.

    `before` is what was returned for other bytes: pieces that are in both keep their shade.
    """
    found: list[Piece] = []
    at = start
    while at < stop:
        field = file.at(at)
        if field is not None and field.size > 0:
            first, last = field.offset, field.end
        else:
            field, first, last = None, at, file.size
        found.append(Piece(first, last, field, len(found) % 2 == 1))
        at = max(last, at + 1)
    shades = {piece.start: piece.odd for piece in before}
    if any(shades.get(piece.start, piece.odd) != piece.odd for piece in found):
        found = [piece._replace(odd=not piece.odd) for piece in found]
    return found
