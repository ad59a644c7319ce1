"""The headers of a ggcp file's tensor records, as they follow from its hyper-parameters and its size."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import NamedTuple

from ggcp_schema.constructs import Struct
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.ggcp.extent import end_of_tensor
from ggcp_schema.llama.names import STATE, llama_name, tensor_name
from ggcp_schema.llama.training import model_shapes
from ggcp_schema.schema.inference import n_ff_by_formula
from ggcp_schema.schema.optimizer import ADAM_PARAMS, ADAM_STATE, ADAM_STATE_V0, LBFGS_STATE
from ggcp_schema.schema.tensor import ALIGNMENT
from ggcp_schema.schema.tensor import Tensor as TensorRecord

HEAD = 44  # bytes before the first tensor
LEAST_LAYER = 9 * 12  # bytes
TRUSTED = 3 / 4  # of the records must have the header that is expected of them


class Record(NamedTuple):
    """A tensor record: the path of the tensor, its shape, where it begins, its header, and where its data begins."""

    path: str
    shape: tuple[int, ...]
    start: int
    header: bytes
    data: int

    @property
    def end(self) -> int:
        """The first byte after the data."""
        return self.data + 4 * prod(self.shape) if self.shape else self.data


class Shape(NamedTuple):
    """A layout of the optimizer: where past, lbfgs_m and iter are, where the state begins, and what comes after it."""

    version: int
    past: int
    lbfgs_m: int
    iter: int
    state: int
    fields: Struct
    tail: int


RAW = {"past": 12, "lbfgs_m": 64, "iter": 108, "state": 116}  # after the version, the C struct of 96 bytes, nx and iter
ADAM = 28  # where Adam's part of the C struct begins
OPTIMIZERS = (
    Shape(0, **RAW, fields=ADAM_STATE_V0, tail=12),
    Shape(0, **RAW, fields=LBFGS_STATE, tail=24),
    Shape(1, **RAW, fields=ADAM_STATE, tail=12),
    Shape(1, **RAW, fields=LBFGS_STATE, tail=24),
    Shape(1, past=4, lbfgs_m=8, iter=20, state=28, fields=ADAM_STATE, tail=12),
    Shape(1, past=4, lbfgs_m=8, iter=20, state=28, fields=LBFGS_STATE, tail=24),
)


@dataclass
class Records:
    """The tensor records of a ggcp file that has the size which follows from its hyper-parameters.

    Attributes:
        model, state: the records, in file order.
        optimizer: the offset of the optimizer block, and `shape` its layout.
    """

    source: Source
    n_embd: int
    model: list[Record]
    state: list[Record] = field(default_factory=list)
    optimizer: int = 0
    shape: Shape = OPTIMIZERS[0]

    @property
    def wrong(self) -> list[Record]:
        """The records whose headers are not those expected."""
        return [record for record in (*self.model, *self.state) if self.found(record) != record.header]

    def found(self, record: Record) -> bytes:
        """Return the bytes in the file where a record's header should be."""
        return self.source.read(record.start, len(record.header))

    @property
    def iterations(self) -> int:
        """The count of iterations, as stored."""
        return _integer(self.source, self.optimizer + self.shape.iter)

    @property
    def adam(self) -> Mapping[str, float] | None:
        """Adam's parameters, if the file stores them and they are Adam's."""
        if self.shape.state != RAW["state"] or self.shape.fields is LBFGS_STATE:
            return None
        data = self.source.read(self.optimizer + ADAM, ADAM_PARAMS.sizeof())
        params: Mapping[str, float] = ADAM_PARAMS.parse(data)
        return params

    def tensors(self, records: list[Record]) -> dict[str, Tensor]:
        """Return the tensors by path, of the state by field; NULL tensors are left out."""
        return {
            record.path.removeprefix(STATE): Tensor(
                record.path, "", record.shape, record.data, record.end - record.data, self.source
            )
            for record in records
            if record.shape
        }


def expected_records(source: Source) -> Records | None:
    """Return the records that a ggcp file must have; None if they are not certain.

    They are if the file has exactly the size that follows, and three quarters of the records the headers.
    """
    if source.size < HEAD or source.read(0, 8) != b"pcgg\0\0\0\0":
        return None
    n_vocab, n_embd, n_mult, _, n_layer, _ = struct.unpack("<6I", source.read(20, 24))
    if n_layer > source.size // LEAST_LAYER or 4 * n_vocab * n_embd > source.size:
        return None
    for name_of in (llama_name, tensor_name):
        for n_ff in _widths(source, n_vocab, n_embd, n_layer, n_mult, name_of):
            model = list(walk(HEAD, model_shapes(n_vocab, n_embd, n_layer, n_ff), name_of))
            if model[-1].end + 4 > source.size:
                continue
            for shape in OPTIMIZERS:
                found = _with_state(Records(source, n_embd, model), shape)
                if found is not None:
                    return found
    return None


def _widths(
    source: Source, n_vocab: int, n_embd: int, n_layer: int, n_mult: int, name_of: Callable[[str], str | None]
) -> set[int]:
    """Return what n_ff may be: by the formula, and by the header of the first w1, whose place does not depend on it."""
    by_formula = n_ff_by_formula(n_embd, n_mult)
    widths = set() if by_formula is None else {by_formula}
    if n_layer:
        w1 = next(record for record in walk(HEAD, model_shapes(n_vocab, n_embd, 1, 0), name_of) if ".w1" in record.path)
        if w1.start + 20 <= source.size:
            widths.add(_integer(source, w1.start + 16))
    return {width for width in widths if 0 <= 12 * width * n_embd * n_layer <= source.size}


def _with_state(records: Records, shape: Shape) -> Records | None:
    source, at = records.source, records.model[-1].end
    if at + shape.state > source.size or _integer(source, at) != shape.version:
        return None
    optimizer = {
        "nx": sum(prod(record.shape) for record in records.model),
        "past": _integer(source, at + shape.past),
        "lbfgs_m": _integer(source, at + shape.lbfgs_m),
    }
    if min(optimizer.values()) < 0 or max(optimizer["past"], optimizer["lbfgs_m"]) > source.size:
        return None
    state = list(walk(at + shape.state, state_shapes(shape.fields, **optimizer), lambda path: ""))
    found = Records(source, records.n_embd, records.model, state, at, shape)
    total = len(found.model) + len(found.state)
    if state[-1].end + shape.tail != source.size or len(found.wrong) > (1 - TRUSTED) * total:
        return None
    return found


@lru_cache(16)
def state_shapes(fields: Struct, nx: int, past: int, lbfgs_m: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the state's tensors by path, for an optimizer's nx, past and lbfgs_m."""
    scope = {"_": {"_": {"nx": nx, "past": past, "lbfgs_m": lbfgs_m}}}
    records = ((name, record) for name, record in fields.fields if isinstance(record, TensorRecord))
    return {f"{STATE}{name}": tuple(record.shape_in(scope)) for name, record in records}


def walk(at: int, shapes: Mapping[str, tuple[int, ...]], name_of: Callable[[str], str | None]) -> Iterator[Record]:
    """Yield the records of tensors that follow each other from an offset."""
    for path, shape in shapes.items():
        name = (name_of(path) or "").encode()
        header = struct.pack(f"<{3 + len(shape)}I", len(shape), len(name), 0, *shape) + name
        start = at + len(header)
        record = Record(path, shape, at, header, start + -start % ALIGNMENT)
        at = end_of_tensor(at, shape, len(name)) if shape else record.data
        yield record


def _integer(source: Source, offset: int) -> int:
    return int.from_bytes(source.read(offset, 4), "little", signed=True)
