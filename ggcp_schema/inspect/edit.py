"""Write a copy of a file with some values changed, built by the schema that parsed it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from tempfile import NamedTemporaryFile
from typing import IO, Any, NamedTuple, cast

from construct import ConstructError, Container, ListContainer
from construct.expr import Path

from ggcp_schema.constructs import (
    LISTS,
    Chars,
    CopiedList,
    Extent,
    Field,
    FieldError,
    Hollow,
    NaN,
    Origin,
    PatchedExtent,
    expression_text,
    format_path,
)
from ggcp_schema.errors import FileError, MalformedError, PathError, UsageError
from ggcp_schema.files.atomic import atomic_output, check_output
from ggcp_schema.files.source import Source
from ggcp_schema.files.values import same_value
from ggcp_schema.formats.elements import Values, elements_at
from ggcp_schema.formats.existing import check_existing
from ggcp_schema.formats.file import File
from ggcp_schema.formats.parsing import Parse, open_source
from ggcp_schema.formats.paths import LAST_INDEX, parse_path
from ggcp_schema.formats.rules import Oddity
from ggcp_schema.inspect.fields import Fields
from ggcp_schema.inspect.set_values import elements_from, number_or_text, value_from
from ggcp_schema.inspect.validate import report_of, validate


class Assignment(NamedTuple):
    """A change as the command line gives it: the path of a leaf, and its value.

    `@FILE` is what a file holds: text, or an array of numpy for a tensor's data or elements of it; `@@` begins a text
    with an @. Several elements of a tensor are one number for all, or numbers with commas between them.
    """

    path: str
    text: str


class Change(NamedTuple):
    """A change that has been understood: the field, and its new value; None if the field, a key, is removed.

    A key that is added has no field, but its type, by number and by name. One whose type is changed has both. Of
    `elements` of a tensor's data, which the field is, the value is an array as they are stored. `name` is what the user
    called the field, if that is not its path.
    """

    field: Field | None
    value: Any
    key: str = ""
    type: tuple[int, str] | None = None
    elements: Values | None = None
    name: str = ""

    @property
    def path(self) -> str:
        """The path of the field or of the elements, or the key."""
        if self.elements is not None:
            return self.elements.path
        return self.key or (self.field.path if self.field else "")


class Edited(NamedTuple):
    """A copy with changes: its size in bytes, and what is odd in it that is not in the file itself."""

    size: int
    warnings: Sequence[Oddity]


def parse_assignment(text: str) -> Assignment:
    """Return the parts of `PATH=VALUE`. Raises `UsageError` if it has no `=`."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UsageError(f"{text!r} is not an assignment", "Write PATH=VALUE, such as train_its=0.")
    return Assignment(path, value)


def changes(file: File, assignments: Sequence[Assignment], removed: Sequence[str] = ()) -> list[Change]:
    """Return a change for each assignment, and one for each key that is removed.

    Raises `PathError` for an unknown path, and `UsageError` for a field that cannot be set or a value that its type
    cannot hold.
    """
    wanted: dict[str, Change] = {}
    for change in [_change(file, each) for each in assignments] + [_removal(file, key) for key in removed]:
        if change.path in wanted:
            raise UsageError(f"{change.path} is set twice")
        wanted[change.path] = change
    entries = {change.field.steps[:2]: change.key for change in wanted.values() if change.key and change.field}
    for change in wanted.values():
        key = None if change.key or change.field is None else entries.get(change.field.steps[:2])
        if key is not None:
            raise UsageError(
                f"{change.path} cannot be set: {key}, of which it is a part, is replaced or removed",
                "Make one of these changes only.",
            )
    parts = (change.elements for change in wanted.values() if change.elements is not None and change.elements.size)
    elements = sorted(parts, key=lambda part: part.offset)
    for one, other in pairwise(elements):
        if other.offset < one.offset + one.size:
            raise UsageError(f"{one.path} and {other.path} set the same element", "Make one of these changes only.")
    return list(wanted.values())


def _change(file: File, assignment: Assignment) -> Change:
    path, text = assignment
    key, _, name = path.rpartition(":")
    if key and file.field(path) is None and (key_type := file.key_type(name)):
        field = file.key_field(key)
        return Change(field, number_or_text(key, key_type[1], text), key, key_type)
    try:
        field = file.find(path)
    except PathError as error:
        elements = elements_at(file, path)
        if elements is not None:
            return _change_of_elements(file, elements, text)
        add = " To add a key, write KEY:TYPE=VALUE, such as x:u32=1 or x:string=text." if file.key_type("u32") else ""
        raise error.with_hint((error.shell_hint or error.hint) + add) from None
    name = "" if field.path == path else path
    field = field.child("data") or field  # a tensor means its data
    if not field.is_leaf:
        names = ", ".join(child.name for child in field.children()[:8])
        raise UsageError(f"{field.path} is not a single value", f"It consists of {names}." if names else "")
    if field.type == "derived":
        raise UsageError(f"{field.path} follows from other fields, so it cannot be set", field.docs)
    return Change(field, value_from(file, field, text, name), name=name)


def _change_of_elements(file: File, elements: Values, text: str) -> Change:
    """Return the change of elements of a tensor's data, or of an element of a list."""
    field = file.at(elements.offset)
    match = LAST_INDEX.fullmatch(elements.path)
    if match is not None and (field is None or not isinstance(field.value, Extent)):
        if not elements.single:
            raise UsageError(f"{elements.path} is a part of a list", f"Set one at a time, as {match['stem']}[0].")
        index = int(match["index"]) % len(file.find(match["stem"]).children())
        return _change(file, Assignment(f"{match['stem']}[{index}]", text))
    assert field is not None  # noqa: S101 - the elements lie in it
    return Change(field, elements_from(file, field, elements, text), elements=elements)


def _removal(file: File, key: str) -> Change:
    field = file.key_field(key)
    if field is None:
        is_gguf = file.key_type("u32") is not None
        only = "Only the keys of a GGUF file can be removed."
        unknown = file.unknown_path(key)
        hint = (unknown.shell_hint or unknown.hint) if is_gguf and file.field(key) is None else only
        raise UsageError(f"{file.path} has no key {key!r}", hint)
    return Change(field, None, key)


def edit(
    file: File, output: str | os.PathLike[str], wanted: Sequence[Change], *, force: bool = False, sync: bool = True
) -> Edited:
    """Write the file with these changes, completely or not at all, and return what was written.

    Computed values, the lengths of names and the lengths of paddings follow from the rest. The result is validated
    before it gets its name. Raises `UsageError` if the schema does not allow a value, or the result has an error that
    the file does not have, and `FileError` if a file cannot be read or written.
    """
    check_output(output, (file.path,))
    check_existing(output, overwrite=force)
    container = changed(file, wanted)
    with atomic_output(output, overwrite=force, sync=sync) as place:
        with open(place, "wb", buffering=1 << 20) as stream:
            _build(file, container, stream, wanted)
        file.source.check_unchanged()
        return Edited(os.stat(place).st_size, _check_result(file, place, wanted))


def check(file: File, wanted: Sequence[Change]) -> Edited:
    """Check that the changes can be made, and return what would be written.

    The headers are built as a temporary file with holes for the data, of which none is read. Raises `UsageError`.
    """
    container = changed(file, wanted)
    with NamedTemporaryFile(prefix="ggcp-schema-") as stream:
        _build(file, container, cast("IO[bytes]", Hollow(cast("IO[bytes]", stream))), wanted)
        stream.flush()
        return Edited(stream.tell(), _check_result(file, stream.name, wanted))


def changed(file: File, wanted: Sequence[Change]) -> Container:
    """Return the parsed values of a file with the changes. The file's own values stay as they are."""
    if file.damage is not None:
        raise file.damage.again()
    container = _copy(file.container)
    for field, value, key, _, elements, _ in wanted:
        if key or field is None:
            continue
        record = container
        *steps, last = field.steps
        for step in steps:
            record[step] = _copy(record[step])
            record = record[step]
        old = record[last]
        if elements is not None and not isinstance(old, Extent):
            raise UsageError(f"{elements.path} cannot be set: {field.path}, of which it is a part, is set as a whole")
        place = 0 if elements is None else elements.offset - field.offset
        record[last] = value if elements is None else PatchedExtent(old, place, value.tobytes())
        if isinstance(field.construct, Chars) and isinstance(field.construct.length, Path):
            record[expression_text(field.construct.length)] = len(value)
    keys = {change.key: change.type and (change.type[0], change.value) for change in wanted if change.key}
    file.set_keys(container, keys)
    changed_fields = {name for name, value in container.items() if value is not file.container.get(name)}
    for name, others in file.copied_lists.items():
        field = file.root.child(name)
        if field is not None and changed_fields <= {*others}:
            extent = Extent(field.offset, field.size, Origin(file.source.file))
            container[name] = CopiedList(container[name], extent)
    return container


def _copy(value: Any) -> Any:
    """Return a copy of a record or a list, which shares its elements."""
    return ListContainer(value) if isinstance(value, LISTS) else value.copy()


def _build(file: File, container: Container, stream: IO[bytes], wanted: Sequence[Change]) -> None:
    try:
        file.format.schema.build_stream(container, stream, recompute=True)
    except FieldError as error:
        why = f": expected {error.expected}, found {error.found}"
        raise _refused(file, wanted, format_path(error.steps), why) from error
    except ConstructError as error:  # the file has changed since it was parsed
        raise FileError(f"{file.path}: {error}", "Nothing was written.") from error


def _refused(file: File, wanted: Sequence[Change], path: str, why: str) -> UsageError:
    """Return the error for a field of the result, which has the name of its key or tensor if the user used names."""
    is_moved = any(change.key and change.type is None for change in wanted)  # what follows a removed key
    if not is_moved and any(change.name or change.key for change in wanted):
        field, added = file.field(path), [change.key for change in wanted if change.field is None]
        steps = parse_path(path) or ()
        if field and field.steps:
            path = Fields(file).label(field)
        elif (keys := file.root.find(steps[:1])) and keys.is_list and isinstance(steps[1], int):
            place = steps[1] - len(keys.children())  # the keys that are added stand after those of the file
            path = added[place] if 0 <= place < len(added) else path
    return UsageError(f"{path}{why}", "The format does not allow this value. Nothing was written.")


def _check_result(file: File, place: str, wanted: Sequence[Change]) -> list[Oddity]:
    """Check that the file just built has the values that were wanted, and no error that the input does not have.

    Return the warnings that the input does not have.
    """
    with closing(Source(place)) as source:
        try:
            report = validate(source)
            built = report.file
            if not report.is_whole:
                built = open_source(source, file.format, partial=False)
        except MalformedError as error:
            why = f": expected {error.expected}, found {error.found}"
            raise _refused(file, wanted, error.path, why) from error
        for change in wanted:
            if not _is_made(built, change, wanted):
                raise _refused(
                    file, wanted, change.path, f" would not have the value {change.value!r:.100} in the result"
                )
    if not (report.errors or report.warnings):
        return []
    before = report_of(Parse(file, (), None))  # it has been parsed without an error
    known = {(error.expected, error.found) for error in before.errors}
    for problem in report.errors:
        if (problem.expected, problem.found) not in known:
            raise _refused(file, wanted, problem.path, f": {problem.message}")
    odd = {warning.message for warning in before.warnings}
    return [warning for warning in report.warnings if warning.message not in odd]


def _is_made(built: File, change: Change, wanted: Sequence[Change]) -> bool:
    """Return True if a file that was built has a change."""
    if change.key:
        entry = built.key_values.get(change.key)
        return entry is None if change.type is None else entry is not None and _has(entry.value, change.value)
    assert change.field is not None  # noqa: S101 - it is not a key's
    steps = list(change.field.steps)
    removed = [other.field.steps for other in wanted if other.key and other.type is None and other.field]
    for name, index, *_ in removed:  # elements after a removed one have moved
        if steps[0] == name and int(steps[1]) > int(index):
            steps[1] = int(steps[1]) - 1
    found = built.root.find(steps)
    return found is not None and (change.elements is not None or _has(found.value, change.value))


def _has(found: Any, wanted: Any) -> bool:
    """Return True if a field that was set to `wanted` has the value `found` after parsing."""
    if isinstance(wanted, memoryview):
        return isinstance(found, Extent)
    if isinstance(wanted, float) and math.isnan(wanted):
        return isinstance(found, NaN)
    return same_value(found, wanted)
