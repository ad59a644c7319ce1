"""What can be read of a damaged file: all fields at the places that follow from the numbers before its tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import IO, Any, cast

from construct import Container

from ggcp_schema.constructs import Extent, Field, FieldError, Struct, count_bytes, root_field
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.records.headers import COUNTS, Kind
from ggcp_schema.formats.records.joints import Bytes
from ggcp_schema.formats.records.places import SEARCHED_FIRST, Places, find_places, fits, impossible
from ggcp_schema.formats.records.state import is_certain_end
from ggcp_schema.formats.trailing import may_belong_before

CHECKPOINTS = b"pcgg\0\0\0\0", b"lcgg\0\0\0\0"  # the first bytes of ggcp and ggcl files
TRAINED = "train_its", "train_samples", "train_tokens"


class Mended:
    """A stream in which some bytes are replaced."""

    def __init__(self, stream: IO[bytes], values: dict[int, bytes]) -> None:
        self._stream, self._values = stream, values

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        start = self._stream.tell()
        data = bytearray(self._stream.read(size))
        for offset, value in self._values.items():
            for at, byte in enumerate(value, offset - start):
                if 0 <= at < len(data):
                    data[at] = byte
        return bytes(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def doubt(source: Source, checkpoint: Container) -> FieldError | None:
    """Return an error if bytes follow the end, and may belong before it; None if they do not."""
    trailing = checkpoint["trailing"]
    if trailing is None:
        return None
    optimizer = checkpoint["optimizer"]
    size = 24 if "lmal" in optimizer["state"] else 12
    inference = optimizer["inference"]
    # Another checkpoint ends as this one does, and its size, or that of zeros, may suggest another optimizer.
    is_followed = source.read(trailing.offset, min(8, trailing.nbytes)) in CHECKPOINTS
    is_added = is_followed or source.zeros_at_end(least=1) <= trailing.offset
    is_certain = inference is None or inference.confirmed or (is_added and inference.by_records is not None)
    here, there = (is_certain_end(Bytes(source), end - size, size) for end in (trailing.offset, source.size))
    if is_certain and here and (is_followed or not there):
        return None
    return may_belong_before(checkpoint)


def is_proven(source: Source, kind: Kind) -> bool:
    """Return True if most records of a checkpoint, and the state of an optimizer, are where they must be."""
    places = find_places(source, kind, SEARCHED_FIRST)
    return places is not None and places.state is not None and 2 * places.found > len(places.joints)


def recover(source: Source, error: FieldError, kind: Kind) -> Recovered | None:
    """Return what can be read of a checkpoint whose parse ended with an error; None if that is no more."""
    places, partial = find_places(source, kind), error.partial or Container()
    if places is None:
        return _without_numbers(source, error, kind)
    state = places.state
    is_end_odd = state is not None and not state.tails and state.end + state.shift <= source.size
    if not places.wrong and not places.moved and not is_end_odd:
        is_unproven = state is None and error.missing is None and "state" in partial.get("optimizer", ())
        if not is_unproven:
            return None
        optimizer = until(partial["optimizer"], "inference")  # the names of the state's tensors are not proven
        return Recovered(Container(partial, optimizer=optimizer), [error], error)
    is_followed = state and any(state.end + state.block.tail + shift <= source.size for shift in state.tails)
    is_at_end = not places.moved and not is_followed and places.last < error.offset
    if error.missing is not None and is_at_end and not is_end_odd:
        return None  # the file ends too early
    values = {0: places.head[: COUNTS.start], COUNTS.stop: places.head[COUNTS.stop :], **places.values}
    params: dict[str, Any] = {"n_ff": places.n_ff}
    if state is not None:
        params["layout"] = state.block.layout
        size = state.end + state.block.tail - state.start - state.block.state
        params["state"] = size, [list(record.shape) for record in state.records]
    found = parsed_at(source, kind.schema, places, error, values, **params)
    container = found.container
    _replace_untold(container, places.untold)
    if places.is_head_moved or places.is_head_lost:
        container.update(dict.fromkeys(TRAINED))
    optimizer = container.get("optimizer")
    if state is None and optimizer is not None:
        return _without_optimizer(found)
    if places.is_optimizer_lost and optimizer:
        optimizer.update({"iter": None, "just_initialized": None})
        optimizer.pop("_size", None)
    if places.is_version_lost and optimizer:
        optimizer.update({"version": None, "layout": None})
        optimizer.pop("_size", None)
    if optimizer and state is not None and state.is_end_lost:
        numbers = optimizer.get("state", {})
        numbers.update(
            {name: None for name, value in numbers.items() if name[0] != "_" and not isinstance(value, dict)}
        )
        numbers.pop("_size", None)
    return found


def _replace_untold(container: Container, untold: Mapping[str, int | None]) -> None:
    """Replace numbers before the records; a record of which one is lost is not whole."""
    for path, number in untold.items():
        place, _, name = path.rpartition(".")
        part = container.get(place) if place else container
        if part is not None and name in part:
            part[name] = number
            if number is None and place:
                part.pop("_size", None)


def _without_numbers(source: Source, error: FieldError, kind: Kind) -> Recovered | None:
    """Return what is read without numbers that no model in such a file has; None if they can be right."""
    if error.missing is not None or error.offset < kind.size or "hparams" not in (error.partial or ()):
        return None  # they are not read
    kept = until(error.partial, "hparams")
    numbers = kind.numbers(source.read(0, kind.size))
    has_ranks = all(number for name, number in numbers.items() if not name.startswith("hparams."))
    if has_ranks and fits(kind, numbers, source.size) and not impossible(numbers):
        return None
    return Recovered(Container(kept, **dict.fromkeys(TRAINED)), [error], error)


def _without_optimizer(found: Recovered) -> Recovered:
    """Return what was read before the optimizer, of which nothing is proven: what is there may be of anything else."""
    offset = found.container["optimizer"]["_offset"]
    error = next((one for one in found.errors if one.offset >= offset), found.damage)
    if error is None:
        error = FieldError(offset, "the optimizer", "other bytes", steps=["optimizer"])
    errors = [*(one for one in found.errors if one.offset < offset), error]
    return Recovered(until(found.container, "optimizer"), errors, error)


def parsed_at(
    source: Source,
    schema: Struct,
    places: Places,
    error: FieldError,
    values: dict[int, bytes],
    kept: Container | None = None,
    **params: Any,
) -> Recovered:
    """Return what is read of a file whose records are at these places, with other values in it.

    `error` is that of the parse without them. With `kept`, only the fields after those are read.
    """
    log: list[FieldError] = []
    ended = None
    params |= {"places": iter(places.records), "errors": log}
    with source.reading() as stream:
        mended = cast(IO[bytes], Mended(stream, values))
        try:
            container = schema.resume(mended, kept, **params) if kept else schema.parse_stream(mended, **params)
        except FieldError as found:
            container, ended = found.partial, found.with_traceback(None)
    root = root_field(schema, container)
    known = {one.offset: _placed(one, root.at(one.offset)) for one in log}
    lost = {place.start for place in places.records if not place.header}
    known |= {one.offset: one for one in filter(None, (_wrong(source, root, at, lost) for at in places.wrong))}
    known |= {one.offset: one for one in (_moved(root, *move) for move in places.moved)}
    errors = [error if offset == error.offset else known[offset] for offset in sorted(known)]
    return Recovered(container, errors or [ended or error], ended)


def _wrong(source: Source, root: Field, offset: int, lost: Collection[int]) -> FieldError | None:
    """Return what the file has in place of the value at an offset; None if no field is there.

    `lost` is where records begin of which nothing is known.
    """
    field = root.at(offset)
    if field is None:
        return None
    if offset in lost or isinstance(field.value, Extent):  # of a tensor of which not all is there
        return _placed(FieldError(offset, "a tensor's header", "other bytes"), field)
    found = source.read(field.offset, min(field.size, source.size - field.offset))
    expected, words = repr(field.value).removeprefix("b"), repr(found)[1:]
    if field.value is None:
        expected = "a value that is lost"
    elif field.size in {4, 8} and isinstance(field.value, int):
        expected, words = str(field.value), str(int.from_bytes(found, "little", signed=field.size == 8))
    return _placed(FieldError(field.offset, expected, words), field)


def _moved(root: Field, offset: int, count: int) -> FieldError:
    """Return that bytes were inserted or lost before an offset."""
    words = f"offset {offset}: {count_bytes(abs(count))} {'more' if count > 0 else 'fewer'} before it"
    return _placed(FieldError(offset, f"offset {offset - count}", words), root.at(offset))


def _placed(error: FieldError, field: Field | None) -> FieldError:
    error.steps = [] if field is None else list(field.steps)
    return error
