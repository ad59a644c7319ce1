"""Parse files: up to the first error, or past errors, with the records where they must be if more can be read so."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING

from construct import Container

from ggcp_schema.constructs import FieldError, format_path
from ggcp_schema.errors import MalformedError, NotACheckpointError, TruncatedError, shell_word
from ggcp_schema.files.later import Later
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import File, Format
from ggcp_schema.schema.ggml import LATER_VERSION

if TYPE_CHECKING:
    from ggcp_schema.files import altered, head, identify
    from ggcp_schema.files.altered import Alteration
else:
    altered, head, identify = Later("files.altered"), Later("files.head"), Later("files.identify")

PARTIAL = "Open it with partial=True to read what is whole."


def open_source(source: Source, format: Format, *, partial: bool) -> File:
    """Parse a file and return it as the class of its format. The exceptions are those of `read_container`."""
    container, damage = read_container(source, format, partial=partial)
    file = (format.file_class or File)(source, format, container, damage)
    file.check()
    return file


def open_path(path: str | os.PathLike[str], format: Callable[[Source], Format], *, partial: bool) -> File:
    """Open a file of the format that `format` returns for its bytes. The exceptions are those of `read_container`."""
    source = Source(path)
    try:
        return open_source(source, format(source), partial=partial)
    except BaseException:
        source.close()
        raise


def read_container(source: Source, format: Format, *, partial: bool) -> tuple[Container, MalformedError | None]:
    """Parse a file with the schema of its format. Return the values, and the damage if there is some.

    Raises `MalformedError` for a file that is not whole and well-formed, unless `partial`; and always
    `NotACheckpointError` for a file of another format. Raises `FileError` if the file cannot be read.
    """
    kind = format.file_class or File
    try:
        with source.reading() as stream:
            container = format.schema.parse_stream(stream)
        error = kind.doubt(source, container)
        if error is not None:
            raise error
        return container, None
    except FieldError as error:
        say_zeros(source, [error])
        damage = malformed(error, source, format)
        if isinstance(damage, NotACheckpointError):
            raise damage from error
        recovered = kind.recovered(source, format, error) if partial or error.is_unknown else None
        if recovered is not None and not all(one.is_unknown for one in recovered.errors):
            say_known(error)
        if partial and recovered is not None:
            say_zeros(source, recovered.errors[:1])
            return recovered.container, malformed(recovered.errors[0], source, format)
        damage = malformed(error, source, format)  # of what the recovery knows of the error now
        if partial:
            return error.partial, damage
        kind(source, format, error.partial, damage).check()
        if isinstance(damage, TruncatedError) and not how_altered(source):
            damage.shell_hint, damage.hint = damage.hint, PARTIAL
        raise damage from error


def say_zeros(source: Source, errors: Sequence[FieldError]) -> None:
    """Say in the first of these errors that lies in zeros up to the end of the file where the zeros begin."""
    start = source.zeros_at_end() if errors else 0
    words = f"; all bytes from offset {start} to the end are zeros"
    error = next((error for error in errors if start <= error.offset < source.size), None)
    if error is not None and not error.found.endswith(words):
        error.found += words


def say_known(error: FieldError) -> None:
    """Take back that a value may be right in a file of a later program: there is damage that may have made it."""
    error.found, error.is_unknown = error.found.removesuffix(LATER_VERSION), False


def malformed(error: FieldError, source: Source, format: Format) -> MalformedError:
    """Convert a FieldError into a MalformedError with a hint."""
    where = format_path(error.steps)
    file_class = format.file_class or File
    is_magic = where == "magic" and not is_proven(source, format)
    kind: type[MalformedError] = MalformedError
    hint, change = f"Run `ggcp-schema validate {shell_word(source.path)}` to list every problem.", None
    if error.missing is not None:
        kind = TruncatedError
        is_cut = file_class.is_cut(error)
        hint = "The file is truncated. Copy it again" if is_cut else "The file is truncated, or a number in it is wrong"
        hint += f"; `ggcp-schema info {shell_word(source.path)}` tells what is left."
        size = format.expected_size(error.partial)
        if size is not None and size > source.size:
            error.file_missing = size - source.size
    if error.is_unknown:
        hint = "A later release of ggcp-schema may know it."
    if is_magic:
        kind = NotACheckpointError
        hint = what_it_is(source) or f"This is no {format.title}."
    elif where == "magic":
        hint = f"Its first bytes are lost, but what follows proves that it is a {format.title}. {hint}"
    elif change := how_altered(source) or _with_returns(source, format):
        hint, error.is_unknown = str(change), False
    message = f"{source.path}: {error}"
    if is_magic and _is_known(source):
        message, hint = f"{source.path} is no {format.title}", f"{hint} Open it with open_file."
    result = kind(message, hint, path=where, offset=error.offset, expected=error.expected, found=error.found)
    result.is_unknown = error.is_unknown
    result.is_restorable = change is not None and change.is_restorable
    if isinstance(result, TruncatedError):
        result.missing, result.file_missing = error.missing or 0, error.file_missing
    return result


def is_proven(source: Source, format: Format) -> bool:
    """Return True if a file is of this format though it begins with other bytes, which are of no known kind of file."""
    return not what_it_is(source) and (format.file_class or File).is_proven(source, format)


def _is_known(source: Source) -> bool:
    from ggcp_schema.formats import format_of

    try:
        format_of(source)
    except NotACheckpointError:
        return False
    return True


def what_it_is(source: Source) -> str:
    """Return a hint that says what the file is instead; empty if that is not known."""
    if source.size < 4:
        return "The file is too short to identify." if source.size else "The file is empty."
    what, remedy = identify.identify(source.read(0, min(source.size, head.HEAD)), source.size)
    return " ".join((f"This is {what}.", *filter(None, [remedy]))) if what else ""


def how_altered(source: Source, start: int = 0) -> Alteration | None:
    """Return how a file was changed on its way, by the bytes from `start`; None if they do not prove it."""
    return altered.alteration(source.read(start, min(source.size - start, head.HEAD)))


def _with_returns(source: Source, format: Format) -> Alteration | None:
    """Return that line ends were changed, if a file that is read at once is whole without that; else None."""
    data = source.read(0, source.size) if source.size <= head.HEAD else b""
    if not data.count(b"\n") or data.count(b"\n") != data.count(b"\r\n"):
        return None
    try:
        whole = format.schema.parse_stream(BytesIO(data.replace(b"\r\n", b"\n")))
    except FieldError:
        return None
    return altered.RETURNS_ADDED if whole.get("trailing") is None else None


# Past errors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parse:
    """The values that were parsed, the errors that were passed over, and the error that ended the parse."""

    file: File
    errors: Sequence[FieldError]
    damage: FieldError | None

    @property
    def container(self) -> Container:
        return self.file.container

    def expected(self, checked: int) -> int | None:
        """Return how many tensors the file should have, of which so many were checked; None if that is not known."""
        if self.damage is not None:
            return None
        return len(self.file.expected_tensors() or ()) or None if self.errors else checked

    @cached_property
    def located(self) -> list[tuple[str, FieldError]]:
        """The errors that were passed over, each with the path of its field before it.

        Those that a tolerant parse reports have no path of their own.
        """
        found = []
        root = near = self.file.root
        for error in self.errors:
            if error.steps:
                found.append((format_path(error.steps), error))
                continue
            within = near.offset <= error.offset < near.end  # errors often follow each other in one layer
            leaf = (near if within else root).at(error.offset)
            found.append((format_path(error.steps) if leaf is None else leaf.path, error))
            near = root if leaf is None else leaf
            while near.parent is not None and near.parent.parent is not None and near.parent.parent is not root:
                near = near.parent
        return found

    @property
    def badness(self) -> tuple[bool, int, int]:
        """What to compare parses by: damage is worse than bytes that are left over, and those than wrong records."""
        trailing = self.container.get("trailing")
        starts = [tensor.offset for tensor in self.file.tensors.values()]
        wrong = {bisect_right(starts, error.offset) for error in self.errors}
        return self.damage is not None, 0 if trailing is None else int(trailing.nbytes), len(wrong)


def parse_past_errors(source: Source, format: Format) -> Parse:
    """Parse as far as the file allows.

    First continue with the values found, since a record may really have the odd shape that it states. If the records
    can be told from what else is known, and fewer of them are wrong then, they are.
    """
    log: list[FieldError] = []
    damage = None
    with source.reading() as stream:
        try:
            container = format.schema.parse_stream(stream, errors=log)
        except FieldError as ended:
            container, damage = ended.partial, ended.with_traceback(None)  # whose frames hold all values
    best = _parse_of(source, format, container, log, damage)
    kind = format.file_class or File
    doubt = None if best.damage or best.errors else kind.doubt(source, container)
    error = best.damage or (best.errors[0] if best.errors else doubt)
    recovered = None if error is None else kind.recovered(source, format, error)
    if recovered is not None and error is not None:
        said = {error.offset: error for error in best.errors}
        if not all(one.is_unknown for one in recovered.errors):
            say_known(error)
        passed = (error for error in recovered.errors if error is not recovered.damage)
        errors = [said.get(error.offset, error) for error in passed]
        other = _parse_of(source, format, recovered.container, errors, recovered.damage)
        if best.damage or not best.errors or not error.offset or other.badness < best.badness:
            best = other
    elif doubt is not None:
        best = _parse_of(source, format, doubt.partial, [], doubt)
    best.file.check()
    say_zeros(source, [*best.errors, *([best.damage] if best.damage else [])])
    return best


def _parse_of(
    source: Source, format: Format, container: Container, errors: Sequence[FieldError], damage: FieldError | None
) -> Parse:
    known = None if damage is None else malformed(damage, source, format)
    return Parse((format.file_class or File)(source, format, container, known), errors, damage)
