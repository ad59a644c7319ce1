"""A table as text: aligned where it fits, and never cut."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence

from ggcp_schema.cli.output import echo, escape, paint

GAP = "  "


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """Prints the rows under their head; the columns named in `right` are aligned to the right.

    On a terminal too narrow for that each row becomes a paragraph, its empty cells left out. In a pipe the table is
    as wide as it has to be. The cells may hold any text.
    """
    rows = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    terminal = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if terminal is not None and sum(widths) + len(GAP) * (len(widths) - 1) > terminal:
        for row in rows:
            for line in _paragraph(head, row, terminal):
                echo(line)
        return

    def aligned(row: Sequence[str]) -> str:
        cells = zip(head, row, widths, strict=True)
        return GAP.join(cell.rjust(w) if name in right else cell.ljust(w) for name, cell, w in cells).rstrip()

    echo(paint(aligned(head), bold=True))
    for row in rows:
        echo(aligned(row))


def _paragraph(head: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """The first cell, then the others with their names, indented and wrapped between cells."""
    yield paint(row[0], bold=True)
    line = ""
    for name, cell in zip(head[1:], row[1:], strict=True):
        item = f"{GAP}{name} {cell}"
        if line and len(line) + len(item) > width:
            yield line
            line = ""
        line += item if cell else ""
    if line:
        yield line
