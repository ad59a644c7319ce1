"""Write a file or a folder, whole or not at all, and read it back before it gets its name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from construct import ConstructError

from ggcp_schema.errors import FileError, MalformedError
from ggcp_schema.files.atomic import atomic_output, check_output
from ggcp_schema.files.atomic_folder import atomic_folder, check_folder
from ggcp_schema.files.contents import Content, Inspect
from ggcp_schema.files.tensor_entries import Progress, sources

Parts = Mapping[str, Content]
"""What is written: the contents by file name, or of the one file that is the output if the name is empty."""

WHOLE = ""


class WriteOptions(NamedTuple):
    """How an output is written: the parameters that `convert` and the exports share, which `convert` describes."""

    strict: bool = False
    force: bool = False
    verify: bool = False
    sync: bool = True
    progress: Progress | None = None


def check_parts(
    output: str | os.PathLike[str],
    inputs: tuple[str | os.PathLike[str], ...],
    parts: Parts,
    optional: Collection[str] = (),
) -> None:
    """Check that the parts can be written to `output`, as `check_output` and `check_folder` do. Raises `FileError`.

    A folder that is replaced may also have files of the `optional` names.
    """
    if WHOLE in parts:
        check_output(output, inputs)
    else:
        check_folder(output, inputs, {*parts, *optional})


@contextmanager
def placed_parts(
    output: str | os.PathLike[str],
    parts: Parts,
    options: WriteOptions,
    inspect: Inspect | None = None,
    optional: Collection[str] = (),
) -> Iterator[int]:
    """Write a file or a folder, completely or not at all, and yield its size in bytes.

    It gets its name at the end of the `with` block, if that succeeds.

    Data is streamed in constant memory. Before the output gets its name, each file is opened again and what precedes
    its data is compared with the content; with `verify` every byte of data as well. The files that the data comes from
    must not have changed meanwhile. `inspect` is called with each chunk of a tensor's data; `optional` is that of
    `check_parts`. Raises `FileError`.
    """
    is_file = WHOLE in parts
    made = (
        atomic_output(output, overwrite=options.force, sync=options.sync)
        if is_file
        else atomic_folder(output, {*parts, *optional}, overwrite=options.force, sync=options.sync)
    )
    with made as place:
        places = {name: place if is_file else os.path.join(place, name) for name in parts}
        try:
            for name, content in parts.items():
                content.write(places[name], progress=options.progress, inspect=inspect)
            for source in sources([tensor for content in parts.values() for tensor in content.tensors]):
                source.check_unchanged()
            for name, content in parts.items():
                found = content.differences(places[name], data=options.verify, progress=options.progress)
                try:
                    difference = str(next(found, ""))
                except MalformedError as error:
                    difference = f"expected {error.expected}, found {error.found}"
                if difference:
                    raise FileError(
                        f"{os.path.join(os.fsdecode(output), name) if name else os.fsdecode(output)}: "
                        f"verification failed: {difference}",
                        "The output was discarded. Either the disk is failing or another program modified the input.",
                    )
        except ConstructError as error:  # an array of the input is read again, and the file has changed
            raise FileError(f"{os.fsdecode(output)} was not written: {error}", "Try again.") from error
        yield sum(os.stat(place).st_size for place in places.values())
