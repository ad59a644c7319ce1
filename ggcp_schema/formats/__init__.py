"""The known formats, and what opens their files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, cast

from ggcp_schema.constructs import Struct
from ggcp_schema.errors import MalformedError, NotACheckpointError, UsageError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import File, Format
from ggcp_schema.formats.parsing import is_proven, open_path, what_it_is

if TYPE_CHECKING:
    from ggcp_schema.formats.ggcp.checkpoint import Checkpoint

LONGEST_MAGIC = 512

HOMES = {
    "ggcp": "ggcp.checkpoint",
    "gguf": "gguf.file",
    **dict.fromkeys(("ggjt", "ggmf", "ggml"), "ggml.file"),
    **dict.fromkeys(("ggla", "ggcl"), "lora"),
}
"""The modules that have the formats of this package. To add a format, write its folder and a line here."""


class _Formats(Mapping[str, Format]):
    """The formats of this package by name. The module of one is imported when it is asked for."""

    def __getitem__(self, name: str) -> Format:
        module = import_module(f"{__name__}.{HOMES[name]}")
        found: Format = next(known for known in module.FORMATS if known.name == name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)

    def __repr__(self) -> str:
        return f"<formats: {', '.join(HOMES)}>"


FORMATS = _Formats()

GROUP = "ggcp_schema.formats"
"""The group of entry points by which other packages add formats: each is a `Format`."""


@cache
def known_formats() -> dict[str, Format]:
    """Return the formats of this package and of other packages' entry points, by name.

    Raises `UsageError` for an entry point that is no format.
    """
    from importlib.metadata import entry_points

    found = dict(FORMATS)
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # another package may fail in any way
            message = f"the format {entry.name!r} ({entry.value}) cannot be loaded: {error}"
            raise UsageError(message, "Mend or uninstall the package that has it.") from error
        if not isinstance(loaded, Format):
            raise UsageError(f"the entry point {entry.name!r} ({entry.value}) is no Format, but {loaded!r:.40}")
        name, magic, schema = loaded[:3]
        if not (isinstance(name, str) and isinstance(magic, bytes) and magic and isinstance(schema, Struct)):
            lacks = "a name, the bytes that its files begin with, or a Struct"
            raise UsageError(f"the format {entry.name!r} ({entry.value}) lacks {lacks}")
        found.setdefault(loaded.name, loaded)
    return found


def open_file(path: str | os.PathLike[str], *, partial: bool = False) -> File:
    """Open a file of any known format; use it in a `with` block, or close it.

    The parameters and exceptions are those of `open_checkpoint`.
    """
    return open_path(path, format_of, partial=partial)


def open_checkpoint(path: str | os.PathLike[str], *, partial: bool = False) -> Checkpoint:
    """Open a ggcp checkpoint; use it in a `with` block, or close it.

    Headers are parsed; no tensor data is read. Raises `FileError` if the file cannot be read, `MalformedError` if it is
    not a whole, well-formed checkpoint, and `NotACheckpointError` if it is another kind of file. With `partial`, a
    damaged file opens with what precedes the damage, and the error is its `damage`.
    """
    return cast("Checkpoint", open_path(path, lambda source: FORMATS["ggcp"], partial=partial))


def format_of(source: Source) -> Format:
    """Return the format of an open file. Raises `NotACheckpointError` if it is unknown."""
    head = source.read(0, min(LONGEST_MAGIC, source.size))
    likely = {head[:4].lower(), head[3::-1]}  # its name, so that others are not imported
    names = sorted(FORMATS, key=lambda name: name.encode() not in likely)
    for known in chain(map(FORMATS.__getitem__, names), _others()):
        if head.startswith(known.magic):
            known.check(source)
            return known
    for known in FORMATS.values():
        if is_proven(source, known):
            return known
    from ggcp_schema.files.identify import LLAMA_ONLY

    head, what = head[:4], what_it_is(source)
    error = NotACheckpointError(
        f"{source.path}: unknown file format" + (f"; it begins with the bytes {head.hex(' ')}" if head else ""),
        what or f"The formats that can be read are {', '.join(FORMATS)}.",
        path="magic",
        offset=0,
        expected="a known magic number",
        found=head.hex(" ") or "the end of the file",
    )
    if what.endswith(LLAMA_ONLY):
        error.exit_code = MalformedError.exit_code  # as that of all files of this family
    raise error


def _others() -> Iterator[Format]:
    """Yield the formats of other packages; they are looked for only if no format of this package fits."""
    yield from (known for name, known in known_formats().items() if name not in FORMATS)
