"""A copy of a damaged checkpoint in which everything is right again that the file holds twice."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Change, Patched
from ggcp_schema.files.output import WHOLE, WriteOptions, placed_parts
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats import format_of
from ggcp_schema.formats.ggcp.headers import COUNTS, GGCP, RAW, Record
from ggcp_schema.formats.ggcp.joints import Bytes
from ggcp_schema.formats.ggcp.places import Places, find_places
from ggcp_schema.formats.ggcp.state import is_certain_end
from ggcp_schema.llama.adam import AdamParams
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.repair import value_changes
from ggcp_schema.llama.soundness import examine
from ggcp_schema.llama.state import Loss, State, Unsound
from ggcp_schema.schema.inference import ADAM
from ggcp_schema.schema.optimizer import ADAM_PARAMS

TRUSTED = 3 / 4  # of the records must have the header that is expected of them
PARAMS = 28  # where Adam's part of the C struct begins in the optimizer block


def changes(source: Source, progress: Callable[[int], None] | None = None) -> list[Change]:
    """Return the changes that repair a ggcp file, in file order.

    Raises `UsageError` if the file is no ggcp file whose parts can be told from its size, `NotACheckpointError` if its
    format is unknown.
    """
    places = _places(source)
    headers = (_header_change(source, joint.record) for joint in places.joints)
    found = [*_number_changes(source, places), *filter(None, headers), *value_changes(_state(source, places), progress)]
    return sorted(found, key=lambda change: change.offset)


def remaining(source: Source) -> list[Unsound]:
    """Return what is unsound in a ggcp file, in file order. The exceptions are those of `changes`."""
    return examine(_state(source, _places(source)))


def write_repaired(
    source: Source, output: str | os.PathLike[str], wanted: Sequence[Change], *, force: bool = False, sync: bool = True
) -> list[Unsound]:
    """Write a copy of the file with the changes, completely or not at all. Return what is still unsound in it.

    Raises `FileError` if a file cannot be read or written.
    """
    with placed_parts(output, {WHOLE: Patched(source, wanted)}, WriteOptions(force=force, sync=sync)):
        pass
    with closing(Source(output)) as written:
        return remaining(written)


def _places(source: Source) -> Places:
    places = find_places(source, GGCP)
    state = None if places is None else places.state
    if places is None or state is None or places.moved or places.is_head_lost or places.is_version_lost:
        fits = False
    else:
        end = state.end + state.block.tail
        added = source.size - end  # bytes after the end of the checkpoint
        ends = not added or (added > 0 and is_certain_end(Bytes(source), state.end, state.block.tail))
        fits = ends and places.found >= TRUSTED * len(places.joints)
    if places is None or not fits:
        kind = format_of(source)  # a file of no known format is named
        raise UsageError(
            f"{source.path} cannot be repaired: it is a {kind.title}, and no ggcp file of the size that its "
            "hyper-parameters give",
            "Only what a whole ggcp file holds twice can be taken back.",
        )
    return places


def _state(source: Source, places: Places) -> State:
    assert places.state is not None  # noqa: S101 - `_places` has checked it
    start, block = places.state.start, places.state.block
    tensors = {
        joint.record.path: Tensor(
            joint.record.path, "", joint.record.shape, joint.record.data, joint.record.end - joint.record.data, source
        )
        for joint in places.joints
        if not joint.is_null
    }
    iterations = int.from_bytes(source.read(start + block.iter, 4), "little", signed=True)
    adam = None
    if block.state == RAW["state"] and block.type == ADAM:
        adam = AdamParams.of(ADAM_PARAMS.parse(source.read(start + PARAMS, ADAM_PARAMS.sizeof())), iterations)
    losses = ("fx_best", "fx_prev") if block.type == ADAM else ("fx_best",)
    stored = struct.unpack_from(f"<{len(losses)}f", source.read(places.state.end, 4 * len(losses)))
    return State(
        {path: tensor for path, tensor in tensors.items() if not path.startswith(STATE)},
        {path.removeprefix(STATE): tensor for path, tensor in tensors.items() if path.startswith(STATE)},
        max(GGCP.numbers(places.head)["hparams.n_embd"], 1),
        iterations,
        adam,
        [Loss(STATE + name, places.state.end + 4 * at, stored[at]) for at, name in enumerate(losses)],
    )


def _number_changes(source: Source, places: Places) -> Iterator[Change]:
    """Yield the changes of numbers that the headers of the records tell."""
    head = {at: places.head[at : at + 4] for at in range(0, GGCP.size, 4) if at not in COUNTS}
    block = {} if places.is_optimizer_lost else places.values
    for at, wanted in (*head.items(), *block.items()):
        if source.read(at, len(wanted)) != wanted:
            path = "optimizer" if at in block else ("magic", "version")[at // 4] if at < COUNTS.start else "hparams"
            yield Change(path, at, len(wanted), "the headers of the records tell it", partial(iter, [wanted]))


def _header_change(source: Source, record: Record) -> Change | None:
    """Return the change that writes the header of a record, and zeros as its padding; None if it is there."""
    if source.read(record.start, len(record.header)) == record.header:
        return None

    def content() -> Iterator[bytes]:
        yield record.header.ljust(record.data - record.start, b"\0")

    reason = "the header, name and padding of this record follow from the hyper-parameters"
    return Change(record.path, record.start, record.data - record.start, reason, content)
