"""Checks a file against every rule of the format, and goes on behind an error where that is possible."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from construct import Container

from ggcp_schema.checkpoint import Finding
from ggcp_schema.constructs import Extent, FieldError, PaddingTo, Record, Span, Trace, format_path
from ggcp_schema.errors import NotACheckpointError
from ggcp_schema.gguf.keys import tensor_name
from ggcp_schema.inference import Inference, n_ff_by_formula
from ggcp_schema.reader import checkpoint_of, inference_of, malformed
from ggcp_schema.schema import CHECKPOINT, LAYER, OPTIMIZER
from ggcp_schema.schema.optimizer import STATE
from ggcp_schema.schema.tensor import TensorRecord
from ggcp_schema.source import Source, Tensor

NAME_GROUPS = dict.fromkeys(("wq", "wk", "wv", "wo"), "attention.") | dict.fromkeys(("w1", "w2", "w3"), "feed_forward.")
MAX_NAME = 80  # bytes of an odd name that are shown
NON_NEGATIVE = ("optimizer.state.g2", "optimizer.state.v", "optimizer.state.vh")
"""Averages of squares: Adam's second moments and, in v0, what they were made from."""


class Broken(NamedTuple):
    """A rule of the format that the file breaks. `missing` is the number of bytes that a field lacks, else None."""

    path: str
    offset: int
    expected: str
    found: str
    missing: int | None


class Odd(NamedTuple):
    """Something that the format allows, but no trainer wrote."""

    path: str
    offset: int
    message: str


@dataclass(frozen=True)
class Report:
    """What was checked, and what came of it.

    `checked` and `expected` count tensor records; `expected` is None where damage hides the total. `fields`
    counts what holds bytes, down to single numbers. `damage` is the error behind which nothing could be read.
    """

    source: Source
    tensors: tuple[Tensor, ...]
    expected: int | None
    fields: int
    errors: tuple[Broken, ...]
    warnings: tuple[Odd, ...]
    damage: Broken | None

    @property
    def checked(self) -> int:
        return len(self.tensors)

    @property
    def valid(self) -> bool:
        return not self.errors and self.damage is None


def validate(source: Source) -> Report:
    """Checks all but the values of the tensors' data, which is not read: `odd_values` does that.

    Raises `NotACheckpointError` if the file is something else.
    """
    parse = _parse(source)
    ckpt = checkpoint_of(parse.root, source, _trusted_inference(parse))
    return Report(
        source,
        tuple(ckpt.tensors.values()),
        _expected_records(parse),
        sum(span.size > 0 for span in parse.trace.spans),
        tuple(map(_broken, parse.trace.errors)),
        tuple(sorted(_odd(parse, ckpt.findings), key=lambda odd: odd.offset)),
        _broken(parse.damage) if parse.damage else None,
    )


def odd_values(report: Report, progress: Callable[[int], None] | None = None) -> Iterator[Odd]:
    """Reads the tensors' data, in constant memory, for what no training should give: a NaN, an infinity, a negative
    average of squares. `progress` is called with the number of bytes just read."""
    import numpy as np

    pieces = report.source.stream([(tensor.offset, tensor.nbytes) for tensor in report.tensors])
    for tensor in report.tensors:
        counts, first, at = dict.fromkeys(("NaN", "infinite", "negative"), 0), None, tensor.offset
        while at < tensor.offset + tensor.nbytes:
            values = np.frombuffer(next(pieces), "<f4")
            low, high = float(values.min()), float(values.max())  # both NaN, if there is one
            if not (math.isfinite(low) and math.isfinite(high)) or (low < 0 and tensor.path in NON_NEGATIVE):
                kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values)}
                if tensor.path in NON_NEGATIVE:
                    kinds["negative"] = values < 0
                for kind, mask in kinds.items():
                    counts[kind] += int(np.count_nonzero(mask))
                if first is None:
                    first = at + 4 * int(np.argmax(np.logical_or.reduce(list(kinds.values()))))
            at += values.nbytes
            if progress:
                progress(values.nbytes)
        if first is not None:
            found = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
            yield Odd(f"{tensor.path}.data", first, f"{found} of {tensor.n_elements} values; the first is here")


# The parse -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parse:
    source: Source
    root: Container
    trace: Trace
    damage: FieldError | None

    @cached_property
    def spans(self) -> dict[str, Span]:
        return {span.path: span for span in self.trace.spans}

    def fits(self) -> bool:
        """Whether it went on well to the end: behind the first wrong record at most half are wrong."""
        data = [span.offset for span in self.trace.spans if isinstance(span.value, Extent)]
        wrong = {bisect_right(data, error.offset) for error in self.trace.errors} - {len(data)}
        return self.damage is None and (not wrong or 2 * (len(wrong) - 1) <= len(data) - 1 - min(wrong))


def _parse(source: Source) -> _Parse:
    """Parses as far as the file allows. A wrong number in a header is believed, since the record may really be of that
    shape; unless with the number that should be there the rest of the file fits better."""
    believing = _attempt(source, Trace(tolerant=True))
    if believing.damage is not None:
        error = malformed(believing.damage, source)
        if isinstance(error, NotACheckpointError):
            raise error from believing.damage
    elif not believing.trace.errors:
        return believing
    attempts = [_attempt(source, Trace(tolerant=True, mends=True))]
    hparams = believing.root.get("hparams") or {}
    if hparams.get("n_mult"):  # the first record that states n_ff may be the wrong one
        n_ff = n_ff_by_formula(hparams["n_embd"], hparams["n_mult"])
        attempts.append(_attempt(source, Trace(tolerant=True, mends=True), n_ff=n_ff))
    good = [attempt for attempt in attempts if attempt.fits()]
    return min([believing, *good], key=lambda attempt: (attempt.damage is not None, len(attempt.trace.errors)))


def _attempt(source: Source, trace: Trace, **params: Any) -> _Parse:
    source.file.seek(0)
    try:
        return _Parse(source, CHECKPOINT.parse_stream(source.file, trace=trace, **params), trace, None)
    except FieldError as error:
        return _Parse(source, error.partial, trace, error)


def _broken(error: FieldError) -> Broken:
    return Broken(format_path(error.steps), error.offset, error.expected, error.found, error.missing)


def _expected_records(parse: _Parse) -> int | None:
    """The number of tensor records in the file; None where damage hides it."""
    optimizer = parse.root.get("optimizer") or {}
    if "type" not in optimizer:
        return None
    inference = inference_of(parse.root)
    if parse.damage and inference and not inference.by_records:
        return None  # the size of a file that is cut short says nothing
    n_layer: int = parse.root["hparams"]["n_layer"]
    state = dict(OPTIMIZER.fields)["state"].cases[STATE(optimizer)]
    return _records_in(CHECKPOINT) + _records_in(LAYER) * n_layer + _records_in(state)


def _records_in(record: Record) -> int:
    return sum(isinstance(field, TensorRecord) for _, field in record.fields)


def _trusted_inference(parse: _Parse) -> Inference | None:
    """How the type was found, where neither damage nor an error in the state makes its evidence void."""
    wrong_state = parse.damage or any(error.steps[:2] == ["optimizer", "state"] for error in parse.trace.errors)
    return None if wrong_state else inference_of(parse.root)


# What is odd -----------------------------------------------------------------------------------------------


def _odd(parse: _Parse, findings: tuple[Finding, ...]) -> Iterator[Odd]:
    root = parse.root
    if "hparams" in root and "n_rot" in root["hparams"]:
        yield from _odd_hparams(parse)
    for finding in findings:
        yield Odd(finding.path, parse.spans[finding.path].offset, finding.message)
    for span in parse.trace.spans:
        message = _odd_leaf(span, root)
        if message:
            yield Odd(span.path, span.offset, message)


def _odd_hparams(parse: _Parse) -> Iterator[Odd]:
    hparams = parse.root["hparams"]
    n_embd, n_head, n_rot = hparams["n_embd"], hparams["n_head"], hparams["n_rot"]
    found = {name: "is 0" for name in hparams if hparams[name] == 0}
    if n_head and n_embd % n_head:
        found["n_head"] = f"{n_head} heads do not divide n_embd {n_embd}"
    elif n_head and n_rot > n_embd // n_head:
        found["n_rot"] = f"rotates {n_rot} dimensions of heads that have {n_embd // n_head}"
    elif n_rot % 2:
        found["n_rot"] = f"is {n_rot}, but dimensions are rotated in pairs"
    for name, message in found.items():
        path = f"hparams.{name}"
        yield Odd(path, parse.spans[path].offset, message)


def _odd_leaf(span: Span, root: Container) -> str | None:
    value, name = span.value, span.steps[-1]
    if isinstance(span.field, PaddingTo):
        dirty = len(value) - value.count(0)
        return f"{dirty} of {len(value)} bytes of padding are not zero" if dirty else None
    if name == "name":
        usual = usual_names(span.steps[:-1])
        text = value[:MAX_NAME].decode("utf-8", "backslashreplace") + "…" * (len(value) > MAX_NAME)
        return None if text in usual else f"is named '{text}', where {' or '.join(map(repr, usual))} was usual"
    if span.kind == "f32":
        return None if math.isfinite(value) or _unused(span, root) else f"is {value}"
    if span.kind == "u8":
        return None if value in (0, 1) else f"is {value}, but a bool is 0 or 1"
    if name in ("iter", "n_no_improvement"):
        return f"is {value}; a negative count cannot be converted" if value < 0 else None
    return None


def _unused(span: Span, root: Container) -> bool:
    """Whether the leaf lies in the half of the raw params that is the other optimizer's, which may hold anything."""
    kind = root["optimizer"].get("type")
    return span.steps[:2] == ("optimizer", "params") and span.steps[2] in ("adam", "lbfgs") and span.steps[2] != kind


def usual_names(record: tuple[Any, ...]) -> tuple[str, ...]:
    """The names that the trainers gave to the tensor at that path: until July 2023, and from late August on."""
    if record[0] == "optimizer":
        return ("",)
    *layer, field = record
    prefix = f"layers.{layer[1]}.{NAME_GROUPS.get(field, '')}" if layer else ""
    return tuple(dict.fromkeys([f"{prefix}{field}.weight", tensor_name(format_path(record)) or ""]))
