"""`search`: where words occur in the paths, names and texts of a file."""

from __future__ import annotations

from functools import partial
from typing import Annotated, NamedTuple

import typer

from ggcp_schema.cli import options
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.output import echo, paint, print_json
from ggcp_schema.cli.table import print_table
from ggcp_schema.files.json_keys import json_keys
from ggcp_schema.formats import open_file
from ggcp_schema.inspect.fields import Fields
from ggcp_schema.inspect.search import SHOWN, Hit, Index
from ggcp_schema.inspect.search import search as find
from ggcp_schema.inspect.text import count_text, readable, shape_text, value_text

HEAD = ("path", "offset", "bytes", "type", "content")
LONGEST = 200  # characters of a value


@json_keys("path offset size type content")
class Found(NamedTuple):
    """A tensor or a field in which the words occur: its path, its offset and size in bytes, its type, and its value.

    The value of a tensor is its shape, in ggml order; that of a record its name, if it has one; that of an array the
    number of its items.
    """

    path: str
    offset: int
    size: int
    type: str
    content: str


JSON = list[Found]


def search(
    file: options.File,
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="What is searched for, in any case and order.")],
    as_json: options.Json = False,
    width: options.Width = None,
) -> None:
    """Search the paths, names and texts of a file.

    The tensors, keys and fields are listed in whose path, name or text all the words occur, the best first, and at most
    100. All commands take these paths.

    Exit codes: 0 found; 1 nothing was found; 2 the file cannot be read; 4 it is damaged, and what can be read was
    searched.

    Example: ggcp-schema search model.gguf rope
    """
    with open_file(file, partial=True) as opened:
        hits = find(Index(opened), " ".join(words), lambda found: None, exact=True)
        found = [*{each.path: each for each in map(partial(_found, Fields(opened)), hits)}.values()]
        if as_json:
            print_json(found)
        elif found:
            rows = [(each.path, f"{each.offset:,}", f"{each.size:,}", each.type, each.content) for each in found]
            print_table(HEAD, rows, right=("offset", "bytes"), optional=("bytes", "type"), cut=HEAD[-1], width=width)
            if len(hits) == SHOWN:
                echo(paint(f"These are the best {SHOWN}; more words find fewer.", dim=True))
        else:
            echo("Nothing was found.")
        raise_damage(opened.damage)
    if not found:
        raise typer.Exit(1)


def _found(fields: Fields, hit: Hit) -> Found:
    """Return where a hit is, and what it says. In place of the name of a key or a tensor stands the whole of it."""
    tensor = fields.file.tensors.get(hit.path)
    if tensor is None:
        field = fields.file.find(hit.path)
        record = field.parent
        if record is not None and record.is_element and fields.name_of(record) == hit.text:
            tensor, field = fields.tensor_of(record), fields.value_of(record) or field
    if tensor is not None:
        other = "" if hit.text in (tensor.path, hit.path) else f" {readable(hit.text)}"
        return Found(tensor.path, tensor.offset, tensor.nbytes, tensor.type, f"{shape_text(tensor.shape)}{other}")
    content = value_text(field, LONGEST) if field.is_leaf else fields.name_of(field)
    if field.type == "array":
        content = count_text(len(field.children()), "item")
    return Found(fields.label(field), field.offset, field.size, field.type, content)
