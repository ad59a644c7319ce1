"""`hex`: bytes, each with the field it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, TypedDict

import typer

from ggcp_schema.cli import options
from ggcp_schema.cli.complete import complete_path
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.output import echo, json_text, output_width, paint, until_closed, write_array
from ggcp_schema.files.source import Source
from ggcp_schema.formats import open_file
from ggcp_schema.formats.elements import elements_at
from ggcp_schema.formats.file import File as OpenFile
from ggcp_schema.inspect.fields import Fields
from ggcp_schema.inspect.paths import Piece, pieces, place, reading
from ggcp_schema.inspect.text import cells, count_text, escape

DEFAULT_LENGTH = 256
DATA_SHOWN = 64  # bytes of a field
ROWS = {104: 16, 70: 8, 0: 4}  # bytes in a row, from this width on: names have at least 24 characters
COLOURS = ("green", "yellow", "cyan", "magenta", "blue")


def hex(
    file: options.File,
    where: Annotated[
        str,
        typer.Argument(
            metavar="PATH|OFFSET[:LENGTH]",
            help="A field, a slice such as norm.data[0:4], or an offset (decimal, or 0x…); and the number of bytes.",
            autocompletion=complete_path,
        ),
    ],
    full: Annotated[bool, typer.Option("--full", help="Show every byte of long fields.")] = False,
    width: options.Width = None,
    as_json: options.Json = False,
) -> None:
    """Print bytes, each with the field it belongs to.

    Each row has the offset in the file, the bytes in hex and in ASCII, and the field. Fields longer than 64 bytes are
    shortened unless --full, a LENGTH or a slice is given. Without a LENGTH, 256 bytes from an OFFSET are shown. What
    belongs to a key or a tensor is shown under its name, as general.name.value_type, which all commands take. Bytes
    after damage belong to no field.

    In JSON, path is the field, null after damage; hex are the bytes that the rows would show; size is the number of
    bytes of the field.

    Exit code 4 if damage of the file may have taken a part of what was asked for. Damage elsewhere is told on stderr.

    Example: ggcp-schema hex checkpoint.ggcp 0x28:40
    """
    with open_file(file, partial=True) as opened, reading(opened):
        offset, length = place(opened, where)
        size = DEFAULT_LENGTH if length is None else length
        found = pieces(opened, offset, size)
        limit = None if full or ":" in where else DATA_SHOWN
        with until_closed():
            if as_json:
                print_json_pieces(opened.source, found, limit)
            else:
                columns = output_width(width)
                row = 16 if columns is None else next(count for least, count in ROWS.items() if columns >= least)
                printer = Printer(opened, row, columns)
                for index, piece in enumerate(found):
                    printer.print(piece, COLOURS[index % len(COLOURS)], limit)
        meant = opened.field(where) or elements_at(opened, where)
        is_whole = offset + size <= opened.root.end and (meant is None or meant.is_whole)
        raise_damage(opened.damage, is_whole=is_whole)


class Printer:
    """Prints pieces in rows of `row` bytes. Names are cut at the left to fit into `width` columns."""

    def __init__(self, file: OpenFile, row: int, width: int | None) -> None:
        self.source, self.fields, self.row = file.source, Fields(file), row
        self.digits = max(8, len(f"{file.size:x}"))
        self.hex_width = 3 * row - 1 + (2 if row > 8 else 0)
        self.room = None if width is None else max(1, width - self.digits - self.hex_width - row - 7)

    def print(self, piece: Piece, colour: str, limit: int | None) -> None:
        """Print the rows of a piece, its name in the first. At most `limit` bytes are shown."""
        size = piece.size if limit is None else min(piece.size, limit)
        name = "" if piece.field is None else escape(self.fields.label(piece.field))
        label = f"  {paint(self._fitted(name), colour, bold=True)}" if name else ""
        offset = piece.offset
        for chunk in self.source.stream([(offset, size)]):
            for start in range(0, len(chunk), self.row):
                data = chunk[start : start + self.row]
                digits = paint(f"{self._digits(data):<{self.hex_width}}", colour)
                text = paint("".join(chr(byte) if 32 <= byte < 127 else "." for byte in data), colour)
                blank = " " * (self.row - len(data)) if label else ""
                echo(f"{offset:0{self.digits}x}  {digits} |{text}|{blank}{label}")
                offset += len(data)
                label = ""
        if size < piece.size:
            more = count_text(piece.size - size, "more byte")
            of = f" of {self._fitted(name)}" if name else ""
            echo(f"{' ' * self.digits}  … {more}{of}; --full shows them")

    def _digits(self, data: memoryview) -> str:
        if self.row <= 8 or len(data) <= 8:
            return data.hex(" ")
        return f"{data[:8].hex(' ')}   {data[8:].hex(' ')}"

    def _fitted(self, name: str) -> str:
        if self.room is None or cells(name) <= self.room:
            return name
        last = name[-self.room :]
        while cells(last) >= self.room:
            last = last[1:]
        return "…" + (last.partition(".")[2] or last)


class PieceJson(TypedDict):
    """A piece as JSON."""

    path: str | None
    offset: int
    size: int
    hex: str


JSON = list[PieceJson]


def print_json_pieces(source: Source, found: Iterator[Piece], limit: int | None) -> None:
    """Print the pieces as a JSON array. Only a part of a long one is in memory at a time."""

    def parts(piece: Piece) -> Iterator[str]:
        head = json_text({"path": piece.path or None, "offset": piece.offset, "size": piece.size})
        yield f'{head[:-1]}, "hex": "'
        size = piece.size if limit is None else min(piece.size, limit)
        yield from (chunk.hex() for chunk in source.stream([(piece.offset, size)]))
        yield '"}'

    write_array(map(parts, found))
