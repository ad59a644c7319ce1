"""Print aligned tables. A table that is too wide for the terminal loses columns, or becomes paragraphs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from ggcp_schema.cli.output import echo, output_width, paint
from ggcp_schema.inspect.text import cells, escape, padded, shorten

GAP = "  "
LEAST = 20  # cells of a column that is shortened


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]] | Callable[[], Iterable[Sequence[str]]],
    *,
    right: Collection[str] = (),
    optional: Sequence[str] = (),
    cut: str = "",
    width: int | None = None,
) -> list[str]:
    """Print the rows under their head, and return the columns that are shown. The cells may hold any text.

    Very many rows are not kept: what makes them is called twice.

    A column without any text is left out, and a table of such columns alone. The columns named in `right` are aligned
    to the right. If the table is wider than `width` (by default the terminal; a pipe has no limit), the columns named
    in `optional` are dropped, in this order, until it fits, and named after it, and the texts in the column `cut` are
    shortened. If it still does not fit, each row becomes a paragraph without its empty cells.
    """
    limit = output_width(width)

    def escaped() -> Iterator[Sequence[str]]:
        return (_escaped(row) for row in (rows() if callable(rows) else rows))

    most = [0] * len(head)
    for row in escaped():
        most = list(map(max, most, map(len if _is_plain(row) else cells, row)))
    filled = [name for name, most_cells in zip(head, most, strict=True) if most_cells]
    if not filled:
        return []
    widths = {name: max(cells(name), most_cells) for name, most_cells in zip(head, most, strict=True)}
    shown = filled if limit is None else _fitting(filled, widths, optional, cut, limit)
    if limit is not None and _total(shown, widths) > limit:
        for row in escaped():
            for line in _paragraph(head, row, limit):
                echo(line)
        return filled
    indices = [head.index(name) for name in shown]
    form = GAP.join(f"{{:{'>' if name in right else '<'}{widths[name]}}}" for name in shown)

    def aligned(row: Sequence[str]) -> str:
        texts = [row[index] for index in indices]
        if cut in shown:
            texts[shown.index(cut)] = shorten(texts[shown.index(cut)], widths[cut])
        if _is_plain(texts):
            return form.format(*texts).rstrip()
        return GAP.join(padded(text, widths[name], right=name in right) for name, text in zip(shown, texts)).rstrip()

    echo(paint(aligned(head), bold=True))
    for row in escaped():
        echo(aligned(row))
    if missing := [name for name in filled if name not in shown]:
        echo(paint(f"no room for {', '.join(missing)}", dim=True))
    return shown


def _escaped(row: Sequence[str]) -> Sequence[str]:
    return row if "".join(row).isprintable() else [escape(cell) for cell in row]


def _is_plain(row: Sequence[str]) -> bool:
    """Return True if each character of the cells takes one cell of the terminal."""
    return "".join(row).isascii()


def _fitting(filled: list[str], widths: dict[str, int], optional: Sequence[str], cut: str, limit: int) -> list[str]:
    """Return the columns without the optional ones that have no room, and give the column `cut` the room that is left.

    They need more than `limit` if no column that is left can go.
    """
    full = widths.get(cut, 0)
    if cut:
        widths[cut] = min(full, LEAST)
    shown = [*filled]
    for name in optional:
        if _total(shown, widths) > limit and name in shown:
            shown.remove(name)
    if cut:
        widths[cut] = min(full, widths[cut] + max(0, limit - _total(shown, widths)))
    return shown


def _total(names: Sequence[str], widths: dict[str, int]) -> int:
    """Return the cells that columns of these widths take, with the gaps between them."""
    return sum(widths[name] for name in names) + len(GAP) * (len(names) - 1)


def _paragraph(head: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """Yield the first cell, then the others with their names, indented and wrapped between cells."""
    title = [row[0]]
    if cells(row[0]) > width:
        from rich.cells import chop_cells  # takes time to import

        title = chop_cells(row[0], width)
    yield from (paint(part, bold=True) for part in title)
    line = ""
    for name, cell in zip(head[1:], row[1:], strict=True):
        item = f"{GAP}{name} {cell}"
        if line and cells(line) + cells(item) > width:
            yield line
            line = ""
        line += item if cell else ""
    if line:
        yield line
