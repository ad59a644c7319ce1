"""Check a file against every rule of its format, past the first error where that is possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from construct import Container, ListContainer

from ggcp_schema.constructs import Extent, Field, FieldError, LazyList, count_bytes, format_path
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import ELEMENT_SIZES, Tensor, stream_values
from ggcp_schema.formats import format_of
from ggcp_schema.formats.file import File
from ggcp_schema.formats.ggcp.extent import state_schemas
from ggcp_schema.formats.ggcp.oddities import MAX_NAME, not_finite, place_of, usual_names
from ggcp_schema.inspect.repair import Parse, parse_past_errors
from ggcp_schema.inspect.text import count_text, plain_text
from ggcp_schema.llama.names import ARCHITECTURE, LAYER_TENSORS, MODEL_TENSORS
from ggcp_schema.schema.ggml import GGML_TYPES, GGML_TYPES_UNTIL_V2, GgmlType
from ggcp_schema.schema.inference import ADAM, LBFGS
from ggcp_schema.schema.tensor import declared_shape

ALIGNMENT_KEY = "general.alignment"
STATE = "optimizer.state."
SQUARES = (
    "optimizer.state.g2",
    "optimizer.state.v",
    "optimizer.state.vh",
    "optimizer.adam.second_moments",
)
"""Averages of squares, which cannot be negative: Adam's second moments and, in v0, what they were made from."""


class Problem(NamedTuple):
    """A rule of the format that the file breaks.

    `missing` is the number of bytes that the field lacks, and `file_missing` those that the whole file lacks; None if
    the file is not too short, or if that is not known.
    """

    path: str
    offset: int
    expected: str
    found: str
    missing: int | None = None
    file_missing: int | None = None

    @property
    def message(self) -> str:
        """What was expected and what was found."""
        error = FieldError(self.offset, self.expected, self.found, missing=self.missing)
        error.file_missing = self.file_missing
        return error.message


class Oddity(NamedTuple):
    """Something that the format allows, but that is unusual or harmful."""

    path: str
    offset: int
    message: str


@dataclass(frozen=True)
class Report:
    """What was checked, and what was found.

    Attributes:
        file: the file, with the values that were parsed.
        checked, expected: tensors that were checked, and those that the file should have; None if damage hides that.
        fields: the number of fields that hold bytes, down to single numbers.
        errors: what breaks a rule, by offset.
        warnings: what is allowed but unusual, by offset.
        damage: the error after which nothing could be read; None if all was read.
    """

    file: File
    checked: int
    expected: int | None
    fields: int
    errors: tuple[Problem, ...]
    warnings: tuple[Oddity, ...]
    damage: Problem | None

    @property
    def valid(self) -> bool:
        """True if no rule is broken."""
        return not self.errors and self.damage is None

    @property
    def readable(self) -> list[Tensor]:
        """The tensors whose elements can be read."""
        return [tensor for tensor in self.file.tensors.values() if tensor.type in ELEMENT_SIZES]


def validate(source: Source) -> Report:
    """Check everything but the tensors' data, which is not read: `odd_values` does that.

    Raises `NotACheckpointError` if the format of the file is unknown.
    """
    parse = parse_past_errors(source, format_of(source))
    rules = RULES[parse.file.format.name](parse)
    problems = [_problem(error, path) for path, error in parse.located]
    return Report(
        file=parse.file,
        checked=rules.checked,
        expected=rules.expected,
        fields=count_fields(parse.file.root),
        errors=tuple(sorted([*problems, *rules.errors], key=lambda problem: problem.offset)),
        warnings=tuple(sorted(rules.warnings, key=lambda oddity: oddity.offset)),
        damage=None if parse.damage is None else _problem(parse.damage, format_path(parse.damage.steps)),
    )


def odd_values(report: Report, progress: Callable[[int], None] = lambda nbytes: None) -> Iterator[Oddity]:
    """Read the tensors' data, and yield those with a NaN, an infinity or a negative average of squares.

    `progress` is called with the number of bytes just read. Memory use is constant.
    """
    import numpy as np

    tensors = report.readable
    pieces = stream_values(tensors)
    for tensor in tensors:
        counts, first, at = dict.fromkeys(("NaN", "infinite", "negative"), 0), None, 0
        squares = tensor.path in SQUARES
        while at < tensor.n_elements:
            values = next(pieces)
            with np.errstate(invalid="ignore"):  # numpy warns of signalling NaNs
                low, high = float(values.min()), float(values.max())  # both NaN if there is one
                if not (math.isfinite(low) and math.isfinite(high)) or (squares and low < 0):
                    kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values)}
                    if squares:
                        kinds["negative"] = values < 0
                    for kind, mask in kinds.items():
                        counts[kind] += int(np.count_nonzero(mask))
                    if first is None:
                        first = at + int(np.argmax(np.logical_or.reduce(list(kinds.values()))))
            at += values.size
            progress(values.size * ELEMENT_SIZES[tensor.type])
        if first is not None:
            found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
            offset = tensor.offset + first * ELEMENT_SIZES[tensor.type]
            message = f"{found} of {count_text(tensor.n_elements, 'value')}; the first is here"
            yield Oddity(f"{tensor.path}.data", offset, message)


def _problem(error: FieldError, path: str) -> Problem:
    return Problem(path, error.offset, error.expected, error.found, error.missing, error.file_missing)


# The rules -------------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """What the rules of a format find that its schema does not state, and the numbers of tensors."""

    checked: int
    expected: int | None
    errors: list[Problem]
    warnings: list[Oddity]


def _checkpoint_rules(parse: Parse) -> Rules:
    warnings = [*_findings(parse), *_odd_tensors(parse.file), *_odd_params(parse.file)]
    return Rules(len(parse.file.tensors), _expected_records(parse), [], warnings)


def _expected_records(parse: Parse) -> int | None:
    """Return the number of tensor records in the file; None if damage hides it."""
    optimizer = parse.container.get("optimizer") or {}
    if "state" not in optimizer:
        return None
    schemas = state_schemas(optimizer)
    if len(schemas) > 1 and parse.damage is not None:
        return None
    state = schemas[optimizer["type"]]
    layers = len(LAYER_TENSORS) * int(parse.container["hparams"]["n_layer"])
    return len(MODEL_TENSORS) + layers + sum(declared_shape(field) is not None for _, field in state.fields)


def _findings(parse: Parse) -> Iterator[Oddity]:
    """Yield what is odd in the values, unless an error takes away the evidence."""
    doubtful = parse.damage is not None or any(path.startswith(STATE) for path, _ in parse.located)
    for finding in parse.file.findings:
        if not (doubtful and finding.path == "optimizer.type"):
            yield Oddity(finding.path, parse.file.find(finding.path).offset, finding.message)


def _odd_tensors(file: File) -> Iterator[Oddity]:
    for path, tensor in file.tensors.items():
        if tensor.padding:
            padding = file.source.read(tensor.offset - tensor.padding, tensor.padding)
            yield from _odd_padding(f"{path}.padding", padding, tensor.offset)
        usual = usual_names(path)
        if tensor.name in usual or (not path.startswith(STATE) and place_of(tensor.name.encode()) is not None):
            continue  # the name of another tensor is among the findings
        text = tensor.name[:MAX_NAME] + "…" * (len(tensor.name) > MAX_NAME)
        trainers = " or ".join(map(repr, usual)) if any(usual) else "no name"
        name = file.find(f"{path}.name")
        yield Oddity(name.path, name.offset, f"is {text!r}; the trainers wrote {trainers}")


def _odd_padding(path: str, padding: bytes | Extent, end: int) -> Iterator[Oddity]:
    """Yield a warning if padding that ends at the offset `end` is not zero."""
    if isinstance(padding, bytes) and padding.strip(b"\0"):
        size = len(padding)
        dirty = size - padding.count(0)
        verb = "is" if dirty == 1 else "are"
        yield Oddity(path, end - size, f"{dirty} of {count_bytes(size)} of padding {verb} not zero")


def _odd_params(file: File) -> Iterator[Oddity]:
    """Yield odd values of the C struct; that of the other optimizer may hold anything."""
    params = file.root.find(("optimizer", "params"))
    kind = file.get("optimizer.type")
    for field in params.leaves() if params is not None else ():
        unused = field.steps[2] in {ADAM, LBFGS} and field.steps[2] != kind
        if field.type == "f32" and not unused and not math.isfinite(field.value):
            yield Oddity(field.path, field.offset, not_finite(field.value))
        elif field.type == "u8" and field.value not in {0, 1}:
            yield Oddity(field.path, field.offset, f"is {field.value}, but a bool is 0 or 1")


def _gguf_rules(parse: Parse) -> Rules:
    container, root = parse.container, parse.file.root
    infos = [info for info in container.get("tensor_infos") or () if "_size" in info]
    datas = [data for data in container.get("tensor_data") or () if "_size" in data]
    keys = [item for item in container.get("metadata_kv") or () if "_size" in item]
    alignment = container.get("alignment", 1)
    errors = [
        *_repeated("metadata_kv", "key", keys),
        *_repeated("tensor_infos", "name", infos),
        *_broken_rows("tensor_infos", "dimensions", infos, GGML_TYPES, root),
    ]
    for index, item in enumerate(keys):
        value = item["value"]
        if item["key"] == ALIGNMENT_KEY and not (isinstance(value, int) and value.bit_count() == 1 and value > 0):
            field = root.find(("metadata_kv", index, "value"))
            errors.append(_broken_field(field, "a power of two", plain_text(value)))
    for index, info in enumerate(infos):
        if info["offset"] % alignment:
            field = root.find(("tensor_infos", index, "offset"))
            errors.append(_broken_field(field, f"a multiple of {alignment} (alignment)", str(info["offset"])))
    warnings: list[Oddity] = []
    for path in ("padding", "end_padding"):
        padding = root.child(path)
        if padding is not None:
            warnings += _odd_padding(path, padding.value, padding.end)
    if not any(item["key"] == ARCHITECTURE for item in keys) and parse.damage is None:
        warnings.append(Oddity("metadata_kv", 0, f"the key {ARCHITECTURE} is missing"))
    for index, data in enumerate(datas):
        path, extent, padding = f"tensor_data[{index}].padding", data["data"], data["padding"]
        warnings += _odd_padding(path, padding, extent.offset)
        start: int = data["_offset"]
        if extent.offset - start != -start % alignment:
            text = f"{count_bytes(extent.offset - start)} of padding, where {-start % alignment} would do"
            warnings.append(Oddity(path, start, text))
    return Rules(len(datas), container.get("tensor_count"), errors, warnings)


def _ggml_rules(parse: Parse) -> Rules:
    root, version = parse.file.root, parse.container.get("version")
    records = [record for record in parse.container.get("tensors") or () if "_size" in record]
    types = GGML_TYPES if version == 3 else GGML_TYPES_UNTIL_V2
    errors = [*_repeated("tensors", "name", records), *_broken_rows("tensors", "ne", records, types, root)]
    warnings: list[Oddity] = []
    for index, record in enumerate(records):
        warnings += _odd_padding(f"tensors[{index}].padding", record.get("padding", b""), record["data"].offset)
    return Rules(len(records), None if parse.damage else len(records), errors, warnings)


RULES: dict[str, Callable[[Parse], Rules]] = {
    "ggcp": _checkpoint_rules,
    "gguf": _gguf_rules,
    "ggjt": _ggml_rules,
    "ggmf": _ggml_rules,
    "ggml": _ggml_rules,
}


def _repeated(path: str, name: str, records: Sequence[Container]) -> Iterator[Problem]:
    """Yield an error for each record with a name that an earlier one has."""
    seen: set[Any] = set()
    for index, record in enumerate(records):
        if record[name] in seen:
            text = record[name] if isinstance(record[name], str) else record[name].decode("utf-8", "backslashreplace")
            yield Problem(f"{path}[{index}].{name}", record["_offset"], "a name that is not used before", repr(text))
        seen.add(record[name])


def _broken_rows(
    path: str, name: str, records: Sequence[Container], types: dict[int, GgmlType], root: Field
) -> Iterator[Problem]:
    """Yield an error for each quantized tensor whose rows are not a whole number of blocks."""
    for index, record in enumerate(records):
        kind, shape = types[record["type"]], record[name]
        if shape and shape[0] % kind.block_size:
            field = root.find((path, index, name, 0))
            yield _broken_field(
                field, f"a multiple of {kind.block_size} (the block size of {kind.name})", str(shape[0])
            )


def _broken_field(field: Field | None, expected: str, found: str) -> Problem:
    assert field is not None  # noqa: S101 - the record was parsed
    return Problem(field.path, field.offset, expected, found)


# The fields ------------------------------------------------------------------------------------------------


def count_fields(root: Field) -> int:
    """Return the number of fields that hold bytes, down to single numbers; those with computed values do not."""
    optimizer = root.child("optimizer")
    derived = [
        field
        for parent in (root, optimizer)
        if parent is not None
        for field in parent.children()
        if field.type == "derived"
    ]
    return _count(root.value) - len(derived)


def _count(value: Any) -> int:
    if isinstance(value, Container):
        return sum(1 if type(item) is int else _count(item) for name, item in value.items() if name[0] != "_")
    if isinstance(value, ListContainer | LazyList):
        return sum(map(_count, value)) if value and isinstance(value[0], Container) else len(value)
    if isinstance(value, Extent):
        return value.nbytes > 0
    return value is not None and value != b""
