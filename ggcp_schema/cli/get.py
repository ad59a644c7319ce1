"""`get`: one value, plain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggcp_schema.cli.complete import complete_path

if TYPE_CHECKING:
    from ggcp_schema.gguf.reader import GgufFile


def get(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ggcp checkpoint, or a GGUF file made from one.")],
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A field, as in `dump`; or a GGUF key.", autocompletion=complete_path),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: path, type, offset, size, value.")] = False,
) -> None:
    """Print one value, plain, for scripts.

    Elements of tensor data count in ggml order, which is the order of the file: layers[0].wq.data[0:4] are the
    first four of the first row. [i] and [a:b] are as in Python, negative ones too; each value has its line.
    In a GGUF file a key or TENSOR[0:4] is meant; a tensor's ggcp path will do as well.
    """
    from ggcp_schema.checkpoint import Checkpoint
    from ggcp_schema.cli.output import print_json
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.fields import value_at

    with open_any(file, partial=True) as opened:
        if isinstance(opened, Checkpoint):
            span, value = value_at(opened, path)
            found = {"path": path, "type": span.kind, "offset": span.offset, "size": span.size, "value": value}
        else:
            found = in_gguf(opened, path)
        if as_json:
            print_json(found)
        else:
            print_plain(found["value"])


def in_gguf(gguf: GgufFile, path: str) -> dict[str, Any]:
    """A key's value, or data of a tensor by its GGUF name or ggcp path."""
    from ggcp_schema.checkpoint import unknown_path
    from ggcp_schema.constructs import Extent
    from ggcp_schema.gguf import keys
    from ggcp_schema.inspect.fields import SLICE, data_slice, element_or_slice

    if path in gguf.keys:
        entry = gguf.keys[path]
        return {"path": path, "type": entry.type, "offset": None, "size": None, "value": entry.value}
    match = SLICE.fullmatch(path)
    for name, sliced in ((path, False), (match["path"] if match else "", True)):
        stem = name.removesuffix(".data")
        tensor = gguf.tensors.get(stem) or gguf.tensors.get(keys.tensor_name(stem, gguf.optimizer_type) or "")
        if tensor is not None:
            extent = Extent(tensor.offset, tensor.nbytes, gguf.source.file)
            value = (
                element_or_slice(gguf.source, extent, match)
                if sliced and match
                else data_slice(gguf.source, extent, slice(None))
            )
            return {"path": path, "type": tensor.type, "offset": tensor.offset, "size": tensor.nbytes, "value": value}
    raise unknown_path(path, {**gguf.keys, **gguf.tensors})


def print_plain(value: Any) -> None:
    """A value on a line, a list as a line each; bytes of padding as hex, text escaped if it goes to a terminal."""
    import sys

    from ggcp_schema.cli.output import echo, escape, float32

    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float):
            echo(float32(item))
        elif isinstance(item, bytes):
            echo(item.hex())
        elif isinstance(item, bool):
            echo(str(item).lower())
        else:
            echo(escape(str(item)) if sys.stdout.isatty() else str(item))
