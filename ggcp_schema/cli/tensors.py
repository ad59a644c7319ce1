"""`tensors`: the tensors of a file as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated

import typer

from ggcp_schema.cli.complete import complete_tensor
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.options import File, Json, Width, one_of
from ggcp_schema.cli.output import echo, print_json, say
from ggcp_schema.cli.table import print_table
from ggcp_schema.formats import open_file
from ggcp_schema.formats.file import File as OpenFile
from ggcp_schema.inspect.tensors import Listed, moments, moments_of, select
from ggcp_schema.inspect.text import shape_text
from ggcp_schema.llama.parameters import ORDERS, known_order

OTHER_NAME = {True: "GGUF name", False: "ggcp path"}  # of files that name tensors by paths, and of others
HEAD = ("ggml shape", "type", "offset", "bytes", "role")
JSON = list[Listed]
DROPPED = ("role", "type")  # on a narrow terminal, after the other name, in this order

Order = Annotated[
    str | None,
    typer.Option(
        "--order",
        metavar="|".join(ORDERS),
        autocompletion=one_of(*ORDERS),
        callback=lambda order: order and known_order(order),
        help="The order of the parameters in the optimizer's vectors, if you know it: see `convert --help`. "
        "Default: decided from the bytes.",
    ),
]
Pattern = Annotated[
    str | None,
    typer.Argument(
        metavar="[PATTERN]",
        help="A path, a GGUF name, or either with * and ?; VECTOR[PARAMETER] for moments. Default: all tensors.",
        autocompletion=complete_tensor,
        show_default=False,
    ),
]
Moments = Annotated[
    bool, typer.Option("--moments", help="Of the optimizer's vectors take the part of each parameter, instead.")
]


def tensors(
    file: File,
    pattern: Pattern = None,
    by_parameter: Moments = False,
    order: Order = None,
    as_json: Json = False,
    width: Width = None,
) -> None:
    """List the tensors: name, shape, type, place and role.

    The name that FILE has for a tensor comes first; the second is its GGUF name, or its path in a ggcp file, as the
    head says. Shapes are in ggml order: the first number is the fastest-varying. A tensor without a GGUF name is not
    converted. On a narrow terminal some columns are left out.

    Exit codes: 0 done; 2 the file cannot be read or no tensor matches; 4 it is damaged, and the tensors before the
    damage are listed.

    Example: ggcp-schema tensors alice.ggcp 'layers[*].w?'
    """
    with open_file(file, partial=True) as opened:
        found: Callable[[], Iterable[Listed]]
        if pattern is not None:
            selected = select(opened, pattern, order=order)
            found = partial(moments_of, opened, selected, order) if by_parameter else partial(iter, selected)
        elif by_parameter:
            found = partial(moments, opened, opened.order_or(order))
        else:
            found = partial(map, partial(Listed.of, opened), opened.tensors.values())  # of which there may be very many
        check_order(order, found)
        if as_json:
            print_json(found())
        elif (first := next(iter(found()), None)) is None:
            echo(none_text(opened, by_parameter=by_parameter))
        else:
            is_path = first.path in (first.name, None) and first.name != first.gguf_name
            head = ("tensor", OTHER_NAME[is_path], *HEAD)
            optional = head[1], *DROPPED
            print_table(head, lambda: map(_cells, found()), right=("offset", "bytes"), optional=optional, width=width)
        raise_damage(opened.damage)


def check_order(order: str | None, found: Callable[[], Iterable[Listed]]) -> None:
    """Say so if an order is stated and no part of the optimizer's vectors is found, which alone it is for."""
    if order is not None and not any(item.order for item in found()):
        say("--order changes nothing here: none of these tensors is a part of the optimizer's vectors")


def none_text(file: OpenFile, *, by_parameter: bool) -> str:
    """Return that there is no tensor to show, in a sentence."""
    if by_parameter and file.tensors:
        return "No vector of the optimizer has parts for these."
    return "The file has no tensors." if file.damage is None else "No tensor is known to be whole."


def _cells(item: Listed) -> tuple[str, ...]:
    tensor = item.tensor
    return (
        item.name,
        next((name for name in item.names if name != item.name), "-"),
        shape_text(tensor.shape),
        tensor.type,
        f"{tensor.offset:,}",
        f"{tensor.nbytes:,}",
        item.description,
    )
