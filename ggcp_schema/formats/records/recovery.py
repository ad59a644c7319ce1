"""What can be read of a damaged ggcp or ggcl file: all fields at the places that follow from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from construct import Container

from ggcp_schema.constructs import FieldError
from ggcp_schema.files.source import Source
from ggcp_schema.formats.file import Recovered, until
from ggcp_schema.formats.records.checkpoint import TRAINED, find_remains
from ggcp_schema.formats.records.headers import Kind
from ggcp_schema.formats.records.numbers import fit_in, impossible
from ggcp_schema.formats.records.optimizer import is_certain_end
from ggcp_schema.formats.records.reading import read_at
from ggcp_schema.formats.records.search import SEARCHED_FIRST, Searched
from ggcp_schema.formats.trailing import may_belong_before

CHECKPOINTS = b"pcgg\0\0\0\0", b"lcgg\0\0\0\0"  # the first bytes of ggcp and ggcl files


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
    here, there = (is_certain_end(Searched(source), end - size, size) for end in (trailing.offset, source.size))
    if is_certain and here and (is_followed or not there):
        return None
    return may_belong_before(checkpoint)


def is_proven(source: Source, kind: Kind) -> bool:
    """Return True if most records of a checkpoint, and the state of an optimizer, are where they must be."""
    remains = find_remains(source, kind, SEARCHED_FIRST)
    return remains is not None and remains.is_proven


def recover(source: Source, error: FieldError, kind: Kind) -> Recovered | None:
    """Return what can be read of a checkpoint whose parse ended with an error; None if that is no more."""
    remains = find_remains(source, kind)
    if remains is None:
        return _without_numbers(source, error, kind)
    places, fit = remains.places, remains.fit
    is_end_odd = fit is not None and not fit.tails and fit.end + fit.shift <= source.size
    if not (places.wrong or places.moved or is_end_odd):
        return _without_state(error) if fit is None else None
    is_followed = fit and any(fit.end + fit.block.tail + shift <= source.size for shift in fit.tails)
    if places.end_before(error) and not (is_followed or is_end_odd):
        return None
    params: dict[str, Any] = {"n_ff": remains.numbers["n_ff"]}
    if fit is not None:
        params["layout"] = fit.block.layout
        size = fit.end + fit.block.tail - fit.start - fit.block.state
        params["state"] = size, [list(record.shape) for record in fit.records]
    values = kind.words(remains.numbers) | remains.optimizer_values
    found = read_at(source, kind.schema, places, error, values, **params)
    _replace(found.container, remains.lost)
    return _without_optimizer(found) if fit is None and "optimizer" in found.container else found


def _replace(container: Container, lost: Mapping[str, int | None]) -> None:
    """Replace numbers that are lost; a record of which one is not known is not whole."""
    for path, number in lost.items():
        *steps, name = path.split(".")
        part = container
        for step in steps:
            part = part.get(step) or Container()
        if name in part:
            part[name] = number
            if number is None and steps:
                part.pop("_size", None)


def _without_numbers(source: Source, error: FieldError, kind: Kind) -> Recovered | None:
    """Return what is read without numbers that no model in such a file has; None if they can be right."""
    if error.missing is not None or error.offset < kind.size or "hparams" not in (error.partial or ()):
        return None  # they are not read
    numbers = kind.numbers(source.read(0, kind.size))
    has_ranks = all(number for name, number in numbers.items() if not name.startswith("hparams."))
    if has_ranks and fit_in(kind, numbers, source.size) and not impossible(numbers):
        return None
    return Recovered(Container(until(error.partial, "hparams"), **dict.fromkeys(TRAINED)), [error], error)


def _without_state(error: FieldError) -> Recovered | None:
    """Return what is read without the state, the names of whose tensors are not proven; None if it is not read."""
    partial = error.partial or Container()
    if error.missing is not None or "state" not in partial.get("optimizer", ()):
        return None
    return Recovered(Container(partial, optimizer=until(partial["optimizer"], "inference")), [error], error)


def _without_optimizer(found: Recovered) -> Recovered:
    """Return what was read before the optimizer, of which nothing is proven: what is there may be of anything else."""
    offset = found.container["optimizer"]["_offset"]
    error = next((one for one in found.errors if one.offset >= offset), found.damage)
    if error is None:
        error = FieldError(offset, "the optimizer", "other bytes", steps=["optimizer"])
    errors = [*(one for one in found.errors if one.offset < offset), error]
    return Recovered(until(found.container, "optimizer"), errors, error)
