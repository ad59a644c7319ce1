"""A copy of a damaged checkpoint in which everything is right again that the file holds twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from ggcp_schema.errors import UsageError
from ggcp_schema.files.atomic import atomic_output
from ggcp_schema.files.source import Source
from ggcp_schema.formats import format_of
from ggcp_schema.formats.ggcp.headers import Record, Records, expected_records
from ggcp_schema.llama.adam import AdamParams
from ggcp_schema.llama.repair import Change, value_changes
from ggcp_schema.llama.soundness import examine
from ggcp_schema.llama.state import State, Unsound


def changes(source: Source, progress: Callable[[int], None] | None = None) -> list[Change]:
    """Return the changes that repair a ggcp file, in file order.

    Raises `UsageError` if the file is no ggcp file whose parts can be told from its size, `NotACheckpointError` if its
    format is unknown.
    """
    records = _records(source)
    headers = [_header_change(records, record) for record in records.wrong]
    return sorted([*headers, *value_changes(_state(records), progress)], key=lambda change: change.offset)


def remaining(source: Source) -> list[Unsound]:
    """Return what is unsound in a ggcp file, in file order. The exceptions are those of `changes`."""
    return examine(_state(_records(source)))


def write_repaired(
    source: Source, output: str | os.PathLike[str], wanted: Sequence[Change], *, force: bool = False, sync: bool = True
) -> list[Unsound]:
    """Write a copy of the file with the changes, completely or not at all. Return what is still unsound in it.

    Raises `FileError` if a file cannot be read or written.
    """
    with atomic_output(output, overwrite=force, sync=sync) as place:
        with open(place, "wb", buffering=1 << 20) as stream:
            stream.writelines(source.stream([(0, source.size)]))
            for change in wanted:
                stream.seek(change.offset)
                stream.writelines(change.content())
        source.check_unchanged()
        with closing(Source(place)) as written:
            return remaining(written)


def _records(source: Source) -> Records:
    records = expected_records(source)
    if records is None:
        format_of(source)  # a file of no known format is named
        raise UsageError(
            f"{source.path} cannot be repaired: it is not a ggcp file of the size that its hyper-parameters give",
            "Only what a whole ggcp file holds twice can be taken back.",
        )
    return records


def _state(records: Records) -> State:
    params = records.adam
    adam = None if params is None else AdamParams.of(params, records.iterations)
    return State(
        records.tensors(records.model), records.tensors(records.state), max(records.n_embd, 1), records.iterations, adam
    )


def _header_change(records: Records, record: Record) -> Change:
    """Return the change that writes the header of a record, and zeros as its padding."""

    def content() -> Iterator[bytes]:
        yield record.header.ljust(record.data - record.start, b"\0")

    reason = "the header, name and padding of this record follow from the hyper-parameters"
    return Change(record.path, record.start, record.data - record.start, reason, content)
