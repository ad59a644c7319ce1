"""Tab completion of what is in the file on the command line, one level of the path at a time.

Nothing here may fail or print: whatever goes wrong, there is nothing to propose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from ggcp_schema.constructs import Field
from ggcp_schema.formats import known_formats, open_file
from ggcp_schema.formats.file import File
from ggcp_schema.formats.paths import parse_path
from ggcp_schema.llama.parameters import parse_part_path

FILE_ARGUMENTS = ("file", "files", "a", "checkpoint", "input")  # their names in the commands
MOST = 100  # proposals


def complete_path(ctx: Any, incomplete: str) -> list[str]:
    """Propose the fields of the file whose path begins so, and the keys and tensors whose name does."""
    return _complete(
        ctx,
        lambda file: [*_fields(file, incomplete), *_next_level(_names(file), incomplete), *_moments(file, incomplete)],
    )


def complete_tensor(ctx: Any, incomplete: str) -> list[str]:
    """Propose the tensors of the file whose path or name begins so."""
    return _complete(ctx, lambda file: [*_next_level(file.tensors, incomplete), *_moments(file, incomplete)])


def complete_format(ctx: Any, incomplete: str) -> list[str]:
    """Propose the names of the file formats."""
    return [name for name in known_formats() if name.startswith(incomplete)]


def _complete(ctx: Any, propose: Callable[[File], Iterable[str]]) -> list[str]:
    """Return at most `MOST` proposals for the file that is already on the command line."""
    try:
        given = next(value for name in FILE_ARGUMENTS if (value := ctx.params.get(name)))
        with open_file(given[0] if isinstance(given, list | tuple) else given, partial=True) as file:
            printable = (text for text in propose(file) if text.isprintable())
            return list(islice(dict.fromkeys(printable), MOST))
    except Exception:  # an exception would be printed between the words of the command line
        return []


def _fields(file: File, incomplete: str) -> Iterator[str]:
    """Yield the paths of the fields of the innermost record or list that `incomplete` names, if they begin so."""
    stem = incomplete[: max(incomplete.rfind("."), incomplete.rfind("["), 0)]
    parent = file.root.find(parse_path(stem) or ())
    if parent is None or parent.is_leaf or (stem and parent is file.root):
        return
    found = list(islice(_paths_in(parent, stem, incomplete), MOST))
    yield from found
    if len(found) == 1:
        only = file.root.find(parse_path(found[0]) or ())
        if only is not None and not only.is_leaf:  # go on, or the shell would end the word with a space
            yield from _paths_in(only, found[0], "")


def _paths_in(parent: Field, path: str, start: str) -> Iterator[str]:
    if parent.is_list:
        texts: Iterable[str] = (f"{path}[{index}]" for index in range(len(parent.children())))
    else:
        texts = (f"{path}.{field.name}".removeprefix(".") for field in parent.children())
    return (text for text in texts if text.startswith(start))


def _moments(file: File, incomplete: str) -> Iterator[str]:
    """Yield the moments of parameters, `optimizer.state.m[layers[0].wq]`, if `incomplete` has the first bracket."""
    vector, bracket, start = incomplete.partition("[")
    if bracket and parse_part_path(f"{vector}[a]"):
        for name in _next_level(map("{}]".format, file.model_tensors), start):
            yield f"{vector}[{name}"


def _names(file: File) -> Iterator[str]:
    """Yield the names of fields that are not their paths: keys, and tensors by name."""
    return (name for name in file.candidates() if file.root.find(parse_path(name) or ("",)) is None)


def _next_level(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin so, each cut after its first step that is not in `incomplete` yet."""
    matching = [name for name in names if name.startswith(incomplete)]
    while True:
        steps = dict.fromkeys(_cut(name, len(incomplete)) for name in matching)
        if len(steps) != 1 or next(iter(steps)) in matching:
            return list(steps)
        incomplete = next(iter(steps))


def _cut(name: str, start: int) -> str:
    """Return the name up to the end of its first step after `start`, with the dot or bracket that follows it."""
    ends = (name.find(mark, start) for mark in ".[")
    end = min((end for end in ends if end >= 0), default=len(name) - 1)
    return name[: end + 1]
