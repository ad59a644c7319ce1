"""`extract`: tensors as .npy, .safetensors or .csv, or a picture of one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import typer

from ggcp_schema.cli.complete import complete_tensor
from ggcp_schema.cli.errors import raise_damage
from ggcp_schema.cli.options import File, Force, Json, NoSync, Quiet
from ggcp_schema.cli.output import echo, print_json, progress
from ggcp_schema.cli.report import echo_replaced
from ggcp_schema.cli.tensors import Order, check_order
from ggcp_schema.errors import FileError, MalformedError, UsageError
from ggcp_schema.files.arrays import Writer, write_csv, write_npy, write_safetensors
from ggcp_schema.files.atomic import atomic_output, check_output, temporary_files
from ggcp_schema.files.atomic_folder import atomic_folder, check_folder
from ggcp_schema.files.source import Ahead
from ggcp_schema.files.tensor import Tensor, stream_values
from ggcp_schema.formats import open_file
from ggcp_schema.formats.existing import check_existing
from ggcp_schema.formats.file import File as OpenFile
from ggcp_schema.inspect.damage import missing_tensors
from ggcp_schema.inspect.plot import write_picture
from ggcp_schema.inspect.tensors import Listed, select
from ggcp_schema.inspect.text import escape, names_text, readable, size_text

MAX_NAMES = 3  # of missing tensors that an error lists
UNSAFE = re.compile(r"[^A-Za-z0-9._-]")  # in a file name made from a tensor's name


class Extracted(NamedTuple):
    """A tensor that was written, as JSON. The shape is in numpy's order."""

    path: str | None
    gguf_name: str | None
    shape: list[int]
    nbytes: int
    file: str


class JSON(NamedTuple):
    """What was written."""

    input: str
    output: str
    size: int
    tensors: list[Extracted]
    left_out: list[str]


def extract(
    file: File,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="TENSOR",
            help="A path, a GGUF name, or either with * and ?; VECTOR[PARAMETER] for moments.",
            autocompletion=complete_tensor,
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(metavar="OUTPUT", help="A .npy, .safetensors, .csv, .svg or .png file, or a FOLDER/ of .npy."),
    ],
    order: Order = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of a damaged file, write the tensors that are whole.")
    ] = False,
    force: Force = False,
    no_sync: NoSync = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write tensors to a .npy, .safetensors or .csv file, or a picture of one.

    Arrays are float32, but integers and F64 stay what they are, and have numpy's order of dimensions, the reverse of
    ggml's. A .npy or .csv file and a picture hold one tensor, a .safetensors file any number, under the names that they
    have in FILE. A .csv file has a row of the matrix on each line, and a vector one value. A picture is a histogram,
    and of a matrix also an image; it needs matplotlib. A folder gets a .npy file for each tensor. A NULL tensor is left
    out, and of several also those of types whose values cannot be read.

    If some of the selected tensors are damaged, nothing is written without --partial, which never replaces a file.

    Exit codes: 0 done; 2 no tensor matches, or a file cannot be read or written; 4 damage of FILE may have taken a part
    of what was asked for. Damage elsewhere is told on stderr.

    Example: ggcp-schema extract alice.ggcp 'layers[0]' layer0.safetensors
    """
    suffix = _suffix(output)
    is_folder = output.endswith("/") or os.path.isdir(output)
    if not is_folder and suffix not in WRITERS:
        raise UsageError(
            f"{output}: unknown output format",
            "The tensor comes before the output: ggcp-schema extract FILE TENSOR OUTPUT."
            if _suffix(pattern) in WRITERS
            else f"Use a name ending in {', '.join(WRITERS)}, or in / for a folder of .npy files.",
        )
    with open_file(file, partial=True) as opened:
        found = select(opened, pattern, order=order)
        if not quiet:
            check_order(order, lambda: found)
        missing = missing_tensors(opened, pattern) if opened.damage else []
        if missing and opened.damage:
            _check_partial(missing, opened.damage, output, partial=partial, is_folder=is_folder)
        chosen, left_out = extractable(found)
        if is_folder:
            places = _places(output, chosen)
        elif suffix != ".safetensors" and len(chosen) > 1:
            raise UsageError(
                f"{pattern!r} matches {len(chosen)} tensors, but a {suffix} file holds one",
                "Name one tensor, or write to a .safetensors file or a FOLDER/.",
            )
        else:
            places = {output: chosen}
        with progress(sum(item.tensor.nbytes for item in chosen), "Extracting", quiet=quiet) as advance:
            replaced = _write(opened, places, output if is_folder else None, advance, force=force, sync=not no_sync)
        size = sum(os.stat(place).st_size for place in places)
        if as_json:
            described = [_described(item, place) for place, items in places.items() for item in items]
            print_json(JSON(opened.path, output, size, described, [item.name for item in left_out]))
        elif not quiet:
            what = f"{len(chosen)} tensors"
            if len(chosen) == 1:
                what = f"{chosen[0].name}, numpy shape {chosen[0].tensor.shape[::-1]}"
            for place, was in replaced.items():
                echo_replaced(Path(place), was)
            written = output if len(places) > 1 else next(iter(places))
            echo(f"wrote {escape(written)}: {escape(what)}, {size_text(size)}")
            for item in left_out:
                echo(f"left out {escape(item.name)}: values of {item.tensor.type} cannot be read")
        raise_damage(opened.damage, is_whole=not missing)


def _check_partial(missing: list[str], damage: MalformedError, output: str, *, partial: bool, is_folder: bool) -> None:
    """Check that the tensors of a damaged file without the missing ones are enough."""
    if not partial:
        lost = "tensors may be" if missing == ["..."] else names_text(missing, MAX_NAMES)
        hint = f"Nothing was written: {lost} missing. Use --partial to write the tensors that are whole."
        raise damage.with_hint(hint)
    if not is_folder and os.path.lexists(output):
        raise FileError(f"{output} already exists; --partial does not replace files", "Choose another name.")


def extractable(found: Sequence[Listed]) -> tuple[list[Listed], list[Listed]]:
    """Return the tensors whose data can be read, and those whose data cannot.

    Raises `UsageError` if there is none of the first.
    """
    full = [item for item in found if not item.tensor.is_null]
    if not full:
        names = ", ".join(item.name for item in found)
        verb = "is a NULL tensor and has" if len(found) == 1 else "are NULL tensors and have"
        raise UsageError(f"{names} {verb} no data to extract")
    chosen = [item for item in full if item.tensor.is_readable]
    if not chosen:
        full[0].tensor.check_readable()
    return chosen, [item for item in full if not item.tensor.is_readable]


def _places(folder: str, chosen: Sequence[Listed]) -> dict[str, Sequence[Listed]]:
    """Return the tensors by the paths of their files in the folder: `layers[0].wq` goes to `layers.0.wq.npy`."""
    places: dict[str, Sequence[Listed]] = {}
    for item in chosen:
        name = UNSAFE.sub("_", re.sub(r"\[([^\[\]]*)\]", r".\1", item.name)).lstrip(".") or "_"
        place = os.path.join(folder, f"{name}.npy")
        if place in places:
            raise UsageError(f"{places[place][0].name} and {item.name} would both be written to {place}")
        places[place] = [item]
    return places


def _described(item: Listed, place: str) -> Extracted:
    shape = list(item.tensor.shape[::-1])
    nbytes = item.tensor.n_elements * np.dtype(item.tensor.dtype).itemsize
    return Extracted(item.path, item.gguf_name, shape, nbytes, place)


# Writing ---------------------------------------------------------------------------------------------------


def _suffix(name: str) -> str:
    """Return the end of a file's name, which says what it is to hold, in lower case."""
    return Path(name).suffix.lower()


def _write(
    opened: OpenFile,
    places: dict[str, Sequence[Listed]],
    folder: str | None,
    advance: Callable[[int], None],
    *,
    force: bool,
    sync: bool,
) -> dict[str, str]:
    """Write the files, each completely or not at all. If one cannot be written, the others that are new are removed.

    A new folder gets its name when all of its files are in it. Return what the files were that are replaced, by path.
    """
    replaced = {}
    values = partial(_values, advance=advance, ahead=Ahead())
    if folder is not None and not os.path.isdir(folder):
        names = {os.path.basename(place): items for place, items in places.items()}
        path = folder.rstrip("/")
        check_folder(path, (opened.source.path,), names)
        with atomic_folder(path, names, overwrite=False, sync=sync) as made:
            for name, items in names.items():
                write_npy(os.path.join(made, name), _named(items), values)
            opened.source.check_unchanged()
        return {}
    with ExitStack() as undo:
        for place in places:
            check_output(place, (opened.source.path,))
            replaced[place] = check_existing(place, overwrite=force)
        left = None if folder is None else temporary_files(folder)
        for place, items in places.items():
            is_new = not os.path.lexists(place)
            with atomic_output(place, overwrite=force, sync=sync, left=left) as temporary:
                WRITERS[_suffix(place)](temporary, _named(items), values)
                opened.source.check_unchanged()
            if is_new and folder is not None:
                undo.callback(os.unlink, place)
        undo.pop_all()
    return replaced


def _values(tensor: Tensor, advance: Callable[[int], None], ahead: Ahead) -> Iterator[npt.NDArray[Any]]:
    for values in stream_values([tensor], ahead):
        yield values
        advance(values.nbytes)


def _named(items: Sequence[Listed]) -> dict[str, Tensor]:
    """Return the tensors of a file by the names that they get in it."""
    named: dict[str, Tensor] = {}
    for item in items:
        name = readable(item.name)
        if named.setdefault(name, item.tensor) is not item.tensor:
            message = f"two tensors would be named {name} in a .safetensors file"
            raise UsageError(message, "Extract one of them, or all to a FOLDER/.")
    return named


WRITERS: dict[str, Writer] = {
    ".npy": write_npy,
    ".safetensors": write_safetensors,
    ".csv": write_csv,
    ".svg": partial(write_picture, format="svg"),
    ".png": partial(write_picture, format="png"),
}
