"""The headers of a file's tensor records, as they follow from the numbers in its head."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from ggcp_schema.constructs import Struct, expression_tree
from ggcp_schema.files.tensor import same_shape
from ggcp_schema.llama.names import STATE, llama_name, tensor_name
from ggcp_schema.schema.checkpoint import CHECKPOINT
from ggcp_schema.schema.ggml import GGML_TYPES, GgmlType, data_size
from ggcp_schema.schema.inference import ADAM, LBFGS, V0, V1, V1_RAW_PARAMS
from ggcp_schema.schema.model import tensors_of
from ggcp_schema.schema.optimizer import ADAM_STATE, ADAM_STATE_V0, LBFGS_STATE
from ggcp_schema.schema.tensor import ALIGNMENT, Tensor

COUNTS = range(8, 20)  # the bytes of the counts of iterations, samples and tokens, before the hyper-parameters
LEAST_LAYER = 9 * 12  # bytes: the headers of nine tensors


class Naming(Protocol):
    """How tensors are named in the files of a program."""

    def __call__(self, path: str, optimizer: str = "") -> str:
        """Return the name of the tensor at a path, with an optimizer of that type; empty if it has none."""


class Record(NamedTuple):
    """A tensor record: the path of the tensor, its shape, where it begins, its header, its data, and its type."""

    path: str
    shape: tuple[int, ...]
    start: int
    header: bytes
    data: int
    end: int
    type: int = 0


class Block(NamedTuple):
    """A layout of the optimizer block: where past, lbfgs_m, iter and the state are, and the bytes after the state."""

    layout: str
    version: int
    past: int
    lbfgs_m: int
    iter: int
    state: int
    fields: Struct
    tail: int

    @property
    def type(self) -> str:
        """The type of the optimizer."""
        return LBFGS if self.fields is LBFGS_STATE else ADAM


RAW = {"past": 12, "lbfgs_m": 64, "iter": 108, "state": 116}  # after the version, the C struct of 96 bytes, nx and iter
SMALL = {"past": 4, "lbfgs_m": 8, "iter": 20, "state": 28}
LAYOUTS = ((V0, 0, RAW, ADAM_STATE_V0), (V1_RAW_PARAMS, 1, RAW, ADAM_STATE), (V1, 1, SMALL, ADAM_STATE))
BLOCKS = tuple(
    Block(layout, version, **places, fields=fields, tail=tail)
    for layout, version, places, adam in LAYOUTS
    for fields, tail in ((adam, 12), (LBFGS_STATE, 24))
)


@dataclass(frozen=True)
class Kind:
    """What tells where the records of a format are.

    Attributes:
        schema: that of a file. Before its first tensor it has a magic, a version, three counts, and records of numbers.
        namings: how the tensors may be named.
        blocks: how the optimizer may be laid out.
    """

    schema: Struct
    namings: tuple[Naming, ...]
    blocks: tuple[Block, ...] = ()

    @cached_property
    def sizes(self) -> list[str]:
        """The paths of the numbers from the hyper-parameters on, in file order."""
        records = takewhile(lambda field: not isinstance(field[1], Tensor), self.schema.fields[COUNTS.stop // 4 :])
        return [f"{name}.{inner}" for name, record in records for inner, _ in record.fields]

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Where each of them is."""
        return {name: COUNTS.stop + 4 * index for index, name in enumerate(self.sizes)}

    @property
    def size(self) -> int:
        """The number of bytes before the first tensor."""
        return COUNTS.stop + 4 * len(self.sizes)

    def numbers(self, head: bytes) -> dict[str, int]:
        """Return the numbers from the hyper-parameters on, by path."""
        return dict(zip(self.sizes, struct.unpack_from(f"<{len(self.sizes)}I", head, COUNTS.stop), strict=True))

    def words(self, numbers: Mapping[str, int]) -> dict[int, bytes]:
        """Return the magic, the version and these numbers as they are stored, by offset."""
        first = {4 * index: field.value for index, (_, field) in enumerate(self.schema.fields[:2])}
        sizes = {at: numbers[name] for name, at in self.offsets.items()}
        return {at: struct.pack("<I", number) for at, number in {**first, **sizes}.items()}

    def tensors(self, n_layer: int) -> Iterator[tuple[str, list[Any]]]:
        """Yield the path of each tensor of the model, and the paths of the numbers that are its shape, or a number."""

        @cache  # each layer has the same fields
        def shape_of(field: Tensor) -> list[Any]:
            trees = map(expression_tree, field.shape)
            return [tree["field"].removeprefix("_root.") if isinstance(tree, dict) else tree for tree in trees]

        return ((path, shape_of(field)) for path, field in tensors_of(self.schema, n_layer))

    def shapes(self, numbers: Mapping[Any, int], n_layer: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the model's tensors by path, in file order."""
        return {path: same_shape(*(numbers.get(name, name) for name in shape)) for path, shape in self.tensors(n_layer)}


def _llama_name(path: str, optimizer: str = "") -> str:
    return llama_name(path) or ""


def _gguf_name(path: str, optimizer: str = "") -> str:
    return tensor_name(path) or ""


GGCP = Kind(CHECKPOINT, (_llama_name, _gguf_name), BLOCKS)


def tensor_fields(schema: Struct) -> list[str]:
    """Return the names of the fields that are tensors."""
    return [str(name) for name, field in schema.fields if isinstance(field, Tensor)]


def state_records(start: int, block: Block, naming: Naming, n_params: int, past: int, lbfgs_m: int) -> Iterator[Record]:
    """Yield the records of the state's tensors, in an optimizer block that begins at an offset."""
    scope = {"_": {"_": {"nx": n_params, "past": past, "lbfgs_m": lbfgs_m}}}
    fields = dict(block.fields.fields)
    shapes = {f"{STATE}{name}": tuple(fields[name].shape_in(scope)) for name in tensor_fields(block.fields)}
    return walk(start + block.state, shapes, lambda path: naming(path, block.type))


def walk(at: int, shapes: Mapping[str, tuple[int, ...]], name_of: Callable[[str], str]) -> Iterator[Record]:
    """Yield the records of tensors that follow each other from an offset."""
    for path, shape in shapes.items():
        record = record_at(at, path, shape, name_of(path) if shape else "")
        yield record
        at = record.end


def record_at(
    at: int,
    path: str,
    shape: tuple[int, ...],
    text: str,
    type: int = 0,
    types: Mapping[int, GgmlType] = GGML_TYPES,
    alignment: int = ALIGNMENT,
) -> Record:
    """Return the record of a tensor, at an offset."""
    name = text.encode()
    header = struct.pack(f"<{3 + len(shape)}I", len(shape), len(name), type, *shape) + name
    data = at + len(header)
    data += -data % alignment
    return Record(path, shape, at, header, data, data + data_size(types[type], list(shape)), type)
