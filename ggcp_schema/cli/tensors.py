"""`tensors`: the tensors of a file as a table."""

from __future__ import annotations

from typing import Annotated

import typer

from ggcp_schema.cli.options import File, Json, Width
from ggcp_schema.cli.output import print_json_array, raise_damage
from ggcp_schema.cli.table import print_table
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.tensors import Listed, listing, moments, order_of
from ggcp_schema.inspect.text import shape_text

HEAD = ("tensor", "GGUF name", "shape", "type", "offset", "bytes", "role")
DROPPED = ("GGUF name", "role", "type")  # on a narrow terminal, in this order

Order = Annotated[
    str | None,
    typer.Option(
        "--order",
        metavar="A|B|C",
        help="The order of the parameters in the optimizer's vectors, if you know it. Default: decided from the bytes.",
    ),
]
Moments = Annotated[
    bool, typer.Option("--moments", help="List the parts of the optimizer's vectors, by parameter, instead.")
]


def tensors(
    file: File,
    by_parameter: Moments = False,
    order: Order = None,
    as_json: Json = False,
    width: Width = None,
) -> None:
    """List the tensors: path, GGUF name, shape, type, place and role.

    Shapes are in ggml order: the first number is the fastest-varying. A tensor without a GGUF name is not converted. On
    a narrow terminal some columns are left out.

    JSON keys: path, gguf_name, shape, offset, nbytes, type, role; null if not applicable.

    Exit code 0: done, 2: the file cannot be read, 4: it is damaged, and the tensors before the damage are listed.

    Example: ggcp-schema tensors alice.ggcp --moments
    """
    with open_file(file, partial=True) as opened:
        found = listing(opened)
        if by_parameter:
            found = list(moments(found, order_of(opened, found, order)))
        if as_json:
            print_json_array(item.as_dict() for item in found)
        else:
            print_table(
                HEAD, [_cells(item) for item in found], right=("offset", "bytes"), optional=DROPPED, width=width
            )
        raise_damage(opened.damage)


def _cells(item: Listed) -> tuple[str, ...]:
    tensor = item.tensor
    return (
        item.path or item.name,
        item.gguf_name or "-",
        shape_text(tensor.shape),
        tensor.type,
        f"{tensor.offset:,}",
        f"{tensor.nbytes:,}",
        item.role,
    )
