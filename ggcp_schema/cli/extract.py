"""`extract`: tensors as .npy or .safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggcp_schema.cli.complete import complete_tensor

if TYPE_CHECKING:
    from ggcp_schema.inspect.selection import Listed


def extract(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ggcp checkpoint, or a GGUF file made from one.")],
    tensor: Annotated[
        str,
        typer.Argument(
            metavar="TENSOR",
            help="Which: a path, a GGUF name, or for .safetensors either with * and ?.",
            autocompletion=complete_tensor,
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: .npy or .safetensors.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Describe what is written as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless something is wrong.")] = False,
) -> None:
    """Write a tensor to a .npy file, or one or more to a .safetensors file.

    Arrays are float32 and have numpy's order of dimensions, the reverse of ggml's. In a .safetensors file a tensor has
    the name it has in FILE: its path, or its name in a GGUF file. A NULL tensor holds nothing to write.

    JSON keys: input, output, size (in bytes), tensors {path, gguf_name, shape (numpy's order), nbytes}.
    """
    from ggcp_schema.atomic import atomic_output, check_output
    from ggcp_schema.cli.output import echo, escape, print_json, progress, raise_damage, size
    from ggcp_schema.errors import UsageError
    from ggcp_schema.gguf.opening import open_any
    from ggcp_schema.inspect.selection import select

    writers = {".npy": write_npy, ".safetensors": write_safetensors}
    if output.suffix not in writers:
        raise UsageError(f"{output}: what format this should be is not clear", "Let it end in .npy or .safetensors.")
    with open_any(file, partial=True) as opened:
        chosen = extractable(select(opened, tensor))
        if output.suffix == ".npy" and len(chosen) > 1:
            raise UsageError(
                f"{tensor!r} means {len(chosen)} tensors, a .npy file holds one",
                "Name one of them, or let the output end in .safetensors.",
            )
        check_output(output, (file,), overwrite=force)
        with (
            progress(sum(item.tensor.nbytes for item in chosen), "Extracting", quiet=quiet) as advance,
            atomic_output(output, overwrite=force) as place,
        ):
            writers[output.suffix](Path(place), chosen, _advancing(chosen, advance))
        if as_json:
            described = [
                {
                    "path": item.path,
                    "gguf_name": item.gguf_name,
                    "shape": list(item.tensor.shape[::-1]),
                    "nbytes": item.tensor.nbytes,
                }
                for item in chosen
            ]
            written = output.stat().st_size
            print_json({"input": opened.path, "output": str(output), "size": written, "tensors": described})
        elif not quiet:
            what = (
                f"{len(chosen)} tensors"
                if len(chosen) > 1
                else f"{chosen[0].name} {list(chosen[0].tensor.shape[::-1])}"
            )
            echo(f"wrote {escape(str(output))}: {escape(what)}, {size(output.stat().st_size)}")
        raise_damage(getattr(opened, "damage", None))


def extractable(found: Sequence[Listed]) -> list[Listed]:
    """Those that hold something. Raises `UsageError` if none does, or one holds anything but F32."""
    from ggcp_schema.errors import UsageError

    for item in found:
        if item.tensor.type != "F32":
            raise UsageError(f"{item.name}: holds {item.tensor.type}; only F32 is read")
    chosen = [item for item in found if not item.tensor.is_null]
    if not chosen:
        names = ", ".join(item.name for item in found)
        raise UsageError(f"{names}: NULL, a tensor that the trainer did not have", "There is nothing to extract.")
    return chosen


def _advancing(chosen: Sequence[Listed], advance: Callable[[int], None]) -> Iterator[memoryview]:
    """The data of the tensors one after another."""
    for piece in chosen[0].tensor.source.stream([(item.tensor.offset, item.tensor.nbytes) for item in chosen]):
        yield piece
        advance(len(piece))


def write_npy(place: Path, chosen: Sequence[Listed], data: Iterator[memoryview]) -> None:
    """One tensor, under numpy's own header."""
    from numpy.lib import format as npy

    with place.open("wb") as file:
        shape = chosen[0].tensor.shape[::-1]
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.writelines(data)


def write_safetensors(place: Path, chosen: Sequence[Listed], data: Iterator[memoryview]) -> None:
    """Tensors by name. The library writes them only from memory, and under a name of its own choice; so this writes
    what the format says, and the library then reads it back. Raises `UsageError` if the library is missing."""
    import json

    from ggcp_schema.errors import FileError, UsageError

    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        hint = "pip install 'ggcp-schema[safetensors]'"
        raise UsageError("writing .safetensors needs the safetensors package", hint) from error

    header: dict[str, object] = {"__metadata__": {"format": "np", "source": Path(chosen[0].tensor.source.path).name}}
    end = 0
    for item in chosen:
        start, end = end, end + item.tensor.nbytes
        header[item.name] = {"dtype": "F32", "shape": item.tensor.shape[::-1], "data_offsets": [start, end]}
    with place.open("wb") as file:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data)
    try:
        with safe_open(place, framework="np") as written:
            found = {name: tuple(written.get_slice(name).get_shape()) for name in written.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(f"the file was not written as it should be: {error}", "Nothing was kept.") from error
    if found != {item.name: item.tensor.shape[::-1] for item in chosen}:
        raise FileError("the file was not written as it should be: its tensors are others", "Nothing was kept.")
