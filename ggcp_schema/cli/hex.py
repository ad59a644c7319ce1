"""`hex`: the bytes of the file, with the field that each belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggcp_schema.cli.complete import complete_path

if TYPE_CHECKING:
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.inspect.fields import Piece

ROW = 16
DEFAULT_LENGTH = 256
DATA_SHOWN = 64
COLOURS = ("green", "yellow", "cyan", "magenta", "blue")


def hex(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ggcp checkpoint.")],
    where: Annotated[
        str,
        typer.Argument(
            metavar="PATH|OFFSET[:LENGTH]",
            help="A field, or an offset in the file (decimal, or 0x…), and how many bytes.",
            autocompletion=complete_path,
        ),
    ],
    full: Annotated[bool, typer.Option("--full", help="All of every field, however long.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="An array of {path, offset, size, hex}.")] = False,
) -> None:
    """Show bytes in hex and ASCII with file offsets, a field to a row, each with its name.

    A field longer than 64 bytes is abridged, unless --full or a LENGTH asks for it. What lies behind damage
    belongs to no field, and has none. In JSON, hex holds the bytes that the rows would show.
    """
    from ggcp_schema.cli.output import print_json, raise_damage
    from ggcp_schema.inspect.fields import pieces, place, raw_bytes
    from ggcp_schema.reader import open_checkpoint

    with open_checkpoint(file, partial=True) as ckpt:
        offset, size = place(ckpt, where)
        found = list(pieces(ckpt, offset, DEFAULT_LENGTH if size is None else size))
        shown = None if full or ":" in where else DATA_SHOWN
        if as_json:
            print_json(
                [
                    {
                        "path": piece.path or None,
                        "offset": piece.offset,
                        "size": piece.size,
                        "hex": raw_bytes(ckpt.source, piece.offset, min(piece.size, shown or piece.size)).hex(),
                    }
                    for piece in found
                ]
            )
        else:
            for index, piece in enumerate(found):
                print_piece(ckpt, piece, COLOURS[index % len(COLOURS)], shown)
        raise_damage(ckpt.damage)


def print_piece(ckpt: Checkpoint, piece: Piece, colour: str, shown: int | None) -> None:
    """The rows of one field: its name stands at the first."""
    from ggcp_schema.cli.output import echo, paint
    from ggcp_schema.inspect.fields import raw_bytes

    size = piece.size if shown is None else min(piece.size, shown)
    name = piece.path or "(no field: behind the damage)"
    for start in range(0, size, ROW):
        offset = piece.offset + start
        row = raw_bytes(ckpt.source, offset, min(ROW, size - start))
        digits = " ".join(filter(None, (row[:8].hex(" "), " " if len(row) > 8 else "", row[8:].hex(" "))))
        ascii_ = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        label = f"  {paint(name, colour, bold=True)}" if start == 0 else ""
        echo(f"{offset:08x}  {paint(f'{digits:<49}', colour)} |{paint(ascii_, colour)}|{' ' * (ROW - len(row))}{label}")
    if size < piece.size:
        echo(f"          … {piece.size - size:,} more bytes of {name}; --full shows them")
