"""`tensors`: the tensors of a file as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HEAD = ("tensor", "GGUF name", "shape", "offset", "bytes", "role")


def tensors(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ggcp checkpoint, or a GGUF file made from one.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON: an array of objects.")] = False,
) -> None:
    """List the tensors: path, GGUF name, shape, offset, bytes, role.

    Shapes are in ggml order: the first number is the fastest-varying. A tensor without a GGUF name is not converted.
    JSON keys: path, gguf_name, shape, offset, nbytes, type, role; null where there is no such thing.
    """
    from ggcp_schema.cli.output import print_json, raise_damage
    from ggcp_schema.cli.table import print_table
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.selection import listing

    with open_any(file, partial=True) as opened:
        found = listing(opened)
        if as_json:
            print_json([item.as_dict() for item in found])
        else:
            rows = [
                (
                    item.path or "-",
                    item.gguf_name or "-",
                    shape_text(item.tensor.shape),
                    f"{item.tensor.offset:,}",
                    f"{item.tensor.nbytes:,}",
                    item.role if item.tensor.type == "F32" else f"{item.role}, {item.tensor.type}",
                )
                for item in found
            ]
            print_table(HEAD, rows, right=("offset", "bytes"))
        raise_damage(getattr(opened, "damage", None))


def shape_text(shape: tuple[int, ...]) -> str:
    """`[48, 32]`; `NULL` for a tensor that the trainer did not have."""
    return str(list(shape)) if shape else "NULL"
