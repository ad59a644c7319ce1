"""What can be read of a damaged ggcp file: all fields at the places that follow from its hyper-parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, cast

from construct import Container

from ggcp_schema.constructs import Extent, FieldError, Steps, count_bytes, root_field
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered
from ggcp_schema.formats.ggcp.headers import OPTIMIZERS
from ggcp_schema.formats.ggcp.joints import Bytes
from ggcp_schema.formats.ggcp.places import MAGIC, Places, find_places
from ggcp_schema.formats.ggcp.state import are_losses_and_counts, numbers_after
from ggcp_schema.schema import CHECKPOINT
from ggcp_schema.schema.inference import V0, V1, V1_RAW_PARAMS

HPARAMS = 20  # where the hyper-parameters begin
SIZES = "n_mult", "n_head", "n_rot"  # which no shape tells
COUNTS = "train_its", "train_samples", "train_tokens"


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
    losses, counts = numbers_after(Bytes(source), trailing.offset - size, size)
    is_certain = optimizer["inference"] is None or optimizer["inference"].confirmed
    if is_certain and any(losses) and are_losses_and_counts(losses, counts):
        return None
    found = f"{count_bytes(trailing.nbytes)} more, which may belong before it"
    error = FieldError(trailing.offset, "the end of the file", found)
    error.partial = checkpoint
    return error


def recover(source: Source, error: FieldError) -> Recovered | None:
    """Return what can be read of a file whose parse ended with an error; None if that is no more."""
    places = find_places(source)
    if places is None or not (places.wrong or places.moved):
        return None
    if error.missing is not None and not places.moved and places.last < error.offset:
        return None  # the file ends too early
    values = {0: places.head[: len(MAGIC)], HPARAMS: places.head[HPARAMS:], **places.values}
    params: dict[str, Any] = {"n_ff": places.n_ff, "places": iter(places.records)}
    if places.optimizer is not None:
        layout, start, end = places.optimizer
        params["layout"] = (V0, V1_RAW_PARAMS, V1)[OPTIMIZERS.index(layout) // 2]
        params["state"] = end + layout.tail - start - layout.state, [list(shape) for shape in places.state]
    with source.reading() as stream:
        try:
            container, ended = CHECKPOINT.parse_stream(cast(IO[bytes], Mended(stream, values)), **params), None
        except FieldError as found:
            container, ended = found.partial, found.with_traceback(None)
    if places.is_head_lost and "hparams" in container:
        container["hparams"].update(dict.fromkeys(SIZES))
        container["hparams"].pop("_size", None)
    if places.is_head_moved or places.is_head_lost:
        container.update(dict.fromkeys(COUNTS))
    optimizer = container.get("optimizer")
    if places.is_optimizer_lost and optimizer:
        optimizer.update({"iter": None, "just_initialized": None})
        optimizer.pop("_size", None)
    if places.is_version_lost and optimizer:
        optimizer.update({"version": None, "layout": None})
        optimizer.pop("_size", None)
    errors = [error if found.offset == error.offset else found for found in _errors(source, container, places)]
    errors.sort(key=lambda error: error.offset)
    return Recovered(container, errors or [ended or error], ended)


def _errors(source: Source, container: Container, places: Places) -> Iterator[FieldError]:
    """Yield what the file has in place of the values that were taken, and where bytes were inserted or lost."""
    root = root_field(CHECKPOINT, container)
    for offset in places.wrong:
        field = root.at(offset)
        if field is not None and isinstance(field.value, Extent):  # of a tensor of which not all is there
            yield _placed(FieldError(offset, "a tensor's header", "other bytes"), field.steps)
        elif field is not None:
            found = source.read(field.offset, min(field.size, source.size - field.offset))
            number = field.size in {4, 8} and isinstance(field.value, int)
            words = str(int.from_bytes(found, "little", signed=field.size == 8)) if number else repr(found)[1:]
            if field.value is None:
                yield _placed(FieldError(field.offset, "a value that is lost", repr(found)[1:]), field.steps)
                continue
            expected = str(field.value) if number else repr(field.value).removeprefix("b")
            yield _placed(FieldError(field.offset, expected, words), field.steps)
    for offset, count in places.moved:
        field = root.at(offset)
        words = f"offset {offset}: {count_bytes(abs(count))} {'more' if count > 0 else 'fewer'} before it"
        yield _placed(FieldError(offset, f"offset {offset - count}", words), () if field is None else field.steps)


def _placed(error: FieldError, steps: Steps) -> FieldError:
    error.steps = list(steps)
    return error
