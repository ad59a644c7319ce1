"""What a path that does not exist may have meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ggcp_schema.constructs import Field, counted
from ggcp_schema.errors import GgcpError, PathError, shell_word
from ggcp_schema.formats.elements import elements_at
from ggcp_schema.formats.paths import LAST_INDEX, parse_path
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.parameters import parse_part_path

if TYPE_CHECKING:
    from ggcp_schema.formats.parsed import ParsedFile

INDICES = re.compile(r"\[\d+\]")
SUGGESTIONS = 3
MAX_CANDIDATES = 2000  # names compared with a misspelt path


def unknown_path(file: ParsedFile, path: str) -> GgcpError:
    """Return the error for a path that does not exist: the damage that may hide it, or one with similar paths."""
    if file.damage is not None:
        return file.damage.again()
    message = f"{file.path} has no field {path!r}"
    part = parse_part_path(f"{STATE}{path}")
    if part is not None and part.field in file.state_tensors and part.parameter in file.model_tensors:
        return PathError(message, f"Did you mean {part}?")
    cell, part_of = re.sub(r"\]\[(-?\d+)\]$", r",\1]", path), re.sub(rf"^({STATE}\w+)\.(.+)$", r"\1[\2]", path)
    for other in {cell, part_of} - {path}:
        if _exists(file, other):
            return PathError(message, f"Did you mean {other}?")
    stem, index = path, ""
    if (match := LAST_INDEX.fullmatch(path)) and file.field(match["stem"]) is None:
        stem, index = match["stem"], f"[{match['index']}]"
    if (hint := _out_of_range(file, stem)) or (near := suggestions(file, stem)):
        names = [] if hint else _with_indices(file, near, stem)
        meant = [f"{name}{index}" if _exists(file, f"{name}{index}") else name for name in names]
        return PathError(message, hint or f"Did you mean {', '.join(dict.fromkeys(meant))}?")
    error = PathError(message, "keys() lists the fields of the file.")
    error.shell_hint = f"Run `ggcp-schema dump {shell_word(file.path)}` to list all fields."
    return error


def _exists(file: ParsedFile, path: str) -> bool:
    try:
        return file.field(path) is not None or elements_at(file, path) is not None
    except GgcpError:
        return False


def _with_indices(file: ParsedFile, near: list[str], path: str) -> Iterator[str]:
    """Yield these paths with the indices of the misspelt path in them, where there are such fields."""
    for other in near:
        indices = iter(INDICES.findall(path))
        indexed = INDICES.sub(lambda match: next(indices, match[0]), other)  # noqa: B023
        yield indexed if file.field(indexed) else other


def _out_of_range(file: ParsedFile, path: str) -> str:
    """Return how many elements a list has, if the path asks for one beyond its end; else nothing."""
    field: Field | None = file.root
    for step in parse_path(path.replace("[-", "[999999999")) or ():  # no list has either
        inner = None if field is None else field.child(step)
        if inner is None:
            break
        field = inner
    else:
        return ""
    if not isinstance(step, int) or field is None or field.type != "array":
        return ""
    count = len(field.value)
    return f"{field.path} has {counted(count, 'element')}" + (f", [0] to [{count - 1}]." if count else ".")


def suggestions(file: ParsedFile, path: str) -> list[str]:
    """Return the existing paths that end in `path`, or else mean its last word or resemble it most, at most three."""
    import difflib

    wanted, candidates = path.lower(), file.candidates()
    ending = [candidate for candidate in candidates if candidate.lower().endswith(f".{wanted}")]
    if ending:
        return ending[:SUGGESTIONS]
    known: dict[str, list[str]] = {}
    for candidate in candidates:
        known.setdefault(candidate.lower(), []).append(candidate)
        known.setdefault(candidate.rpartition(".")[2].lower(), []).append(candidate)
    near = difflib.get_close_matches(wanted, known, n=SUGGESTIONS, cutoff=0.6)
    inside, _, word = wanted.rpartition(".")
    if inside or not near:  # a word of what the schema says
        said = [field for field in sample(file) if word in field.docs.lower().split()]
        said = [field for field in said if field.path.startswith(inside)]
        if said:
            return [field.path for field in sorted(said, key=lambda field: len(field.docs))][:SUGGESTIONS]
    return list(dict.fromkeys(candidate for name in near for candidate in known[name]))[:SUGGESTIONS]


def sample(file: ParsedFile) -> Iterator[Field]:
    """Yield fields of all kinds, to compare a misspelt path with. Of a list they hold the first element only."""
    pending = list(file.root.children())
    for _ in range(MAX_CANDIDATES):
        if not pending:
            break
        field = pending.pop(0)
        yield field
        if not field.is_leaf:
            pending += field.children()[:1] if field.type == "array" else field.children()
