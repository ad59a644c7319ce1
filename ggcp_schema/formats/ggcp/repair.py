"""What a damaged ggcp file must hold: where its weights and vectors are, and what its headers and numbers must be."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from functools import partial

from ggcp_schema.errors import UsageError
from ggcp_schema.files.contents import Patch
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import Repairable
from ggcp_schema.formats.parsing import how_altered
from ggcp_schema.formats.records.checkpoint import Remains, find_remains
from ggcp_schema.formats.records.headers import COUNTS, GGCP, RAW, Record
from ggcp_schema.formats.records.optimizer import Fit, is_certain_end
from ggcp_schema.llama.adam import AdamParams
from ggcp_schema.llama.names import STATE
from ggcp_schema.llama.state import Loss, State
from ggcp_schema.schema.inference import ADAM
from ggcp_schema.schema.optimizer import ADAM_PARAMS

NOT_TWICE = "Only what a whole file holds twice can be taken back. `ggcp-schema info` tells what can be saved."
TRUSTED = 3 / 4  # of the records must have the header that is expected of them
PARAMS = 28  # where Adam's part of the C struct begins in the optimizer block


def repairable(source: Source) -> Repairable:
    """Return what can be repaired. Raises `UsageError` if the file is not of the size that its header gives."""
    remains = find_remains(source, GGCP)
    if remains is None or remains.fit is None or not _is_trusted(source, remains, remains.fit):
        raise UsageError(
            f"{source.path} cannot be repaired: it is no ggcp file of the size that its hyper-parameters give",
            str(how_altered(source) or NOT_TWICE),
        )
    places = remains.places
    lost = [joint.record for joint, shift in zip(places.joints, places.known, strict=True) if shift is None]
    known = {joint.record.header for joint in places.joints} if lost else set()
    headers = (_header_patch(source, record, known) for record in lost)
    return _state(source, remains, remains.fit), [*_number_patches(remains), *filter(None, headers)]


def _is_trusted(source: Source, remains: Remains, fit: Fit) -> bool:
    """Return True if nearly all records are where they must be, and only bytes follow that are not of the file."""
    places = remains.places
    if places.moved or not remains.lost.keys().isdisjoint(("train_its", "optimizer.version")):
        return False
    end = fit.end + fit.block.tail
    ends = source.size == end or (source.size > end and is_certain_end(remains.file, fit.end, fit.block.tail))
    return ends and places.found >= TRUSTED * len(places.joints)


def _state(source: Source, remains: Remains, fit: Fit) -> State:
    start, block = fit.start, fit.block
    tensors = {
        joint.record.path: Tensor(
            joint.record.path, "", joint.record.shape, joint.record.data, joint.record.end - joint.record.data, source
        )
        for joint in remains.places.joints
        if not joint.is_null
    }
    iterations = int.from_bytes(source.read(start + block.iter, 4), "little", signed=True)
    adam = None
    if block.state == RAW["state"] and block.type == ADAM:
        adam = AdamParams.of(ADAM_PARAMS.parse(source.read(start + PARAMS, ADAM_PARAMS.sizeof())), iterations)
    losses = ("fx_best", "fx_prev") if block.type == ADAM else ("fx_best",)
    stored = struct.unpack_from(f"<{len(losses)}f", source.read(fit.end, 4 * len(losses)))
    return State(
        {path: tensor for path, tensor in tensors.items() if not path.startswith(STATE)},
        {path.removeprefix(STATE): tensor for path, tensor in tensors.items() if path.startswith(STATE)},
        max(remains.numbers["hparams.n_embd"], 1),
        iterations,
        adam,
        [Loss(STATE + name, fit.end + 4 * at, stored[at]) for at, name in enumerate(losses)],
    )


def _number_patches(remains: Remains) -> Iterator[Patch]:
    """Yield the patches of numbers that the headers of the records tell."""
    block = {} if "optimizer.iter" in remains.lost else remains.optimizer_values
    for at, wanted in (*GGCP.words(remains.numbers).items(), *block.items()):
        if remains.file.read(at, at + len(wanted)) != wanted:
            path = "optimizer" if at in block else ("magic", "version")[at // 4] if at < COUNTS.start else "hparams"
            yield Patch(path, at, len(wanted), "the headers of the records tell it", partial(iter, [wanted]))


def _header_patch(source: Source, record: Record, known: Collection[bytes]) -> Patch | None:
    """Return the change that writes the header of a record, and zeros as its padding; None if it is there.

    That of another record is left: nothing proves whether the names were exchanged, or the tensors with them.
    """
    if source.read(record.start, len(record.header)) in known:
        return None
    size = record.data - record.start
    reason = "the header, name and padding of this record follow from the hyper-parameters"
    return Patch(record.path, record.start, size, reason, partial(iter, [record.header.ljust(size, b"\0")]))
