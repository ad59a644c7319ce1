"""A copy of a damaged checkpoint in which everything is right again that the file holds twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Patch, Patched
from ggcp_schema.files.output import WHOLE, WriteOptions, placed_parts
from ggcp_schema.files.source import Source
from ggcp_schema.formats import format_of
from ggcp_schema.formats.file import File, Repairable
from ggcp_schema.llama.repair import value_patches
from ggcp_schema.llama.soundness import examine
from ggcp_schema.llama.state import Unsound


def patches(source: Source, progress: Callable[[int], None] | None = None) -> list[Patch]:
    """Return the patches that repair a file, in file order.

    Raises `UsageError` if the file is of a format that holds nothing twice, or if its parts cannot be told from its
    size; `NotACheckpointError` if its format is unknown.
    """
    state, found = _repairable(source)
    return sorted([*found, *value_patches(state, progress)], key=lambda patch: patch.offset)


def remaining(source: Source) -> list[Unsound]:
    """Return what is unsound in a file, in file order. The exceptions are those of `patches`."""
    state, _ = _repairable(source)
    return examine(state)


def write_repaired(
    source: Source, output: str | os.PathLike[str], patches: Sequence[Patch], *, force: bool = False, sync: bool = True
) -> list[Unsound]:
    """Write a copy of the file with the patches, completely or not at all. Return what is still unsound in it.

    Raises `FileError` if a file cannot be read or written.
    """
    with placed_parts(output, {WHOLE: Patched(source, patches)}, WriteOptions(force=force, sync=sync)):
        pass
    with closing(Source(output)) as written:
        return remaining(written)


def _repairable(source: Source) -> Repairable:
    kind = format_of(source)
    found = (kind.file_class or File).repairable(source)
    if found is None:
        raise UsageError(
            f"{source.path} cannot be repaired: it is a {kind.title}",
            "Only files of formats that hold values twice, as ggcp checkpoints do, can be repaired.",
        )
    return found
