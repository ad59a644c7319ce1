"""The layouts of the optimizer's flat vectors: where the values of each parameter lie, in each order there is.

The vectors hold one value for each parameter of the model, tensor after tensor, in the order in which the program
visited the graph of the forward pass. It depends on the program and its flags. `order` finds out which one a file has.

Model tensors are given by their paths in a ggcp file (`layers[0].wq`), the state's vectors by their fields (`m`). The
same names are used for GGUF files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Literal, NamedTuple

from ggcp_schema.errors import PathError, UnfitError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.llama.names import LAYER_TENSORS, MODEL_TENSORS, STATE, field_path

Order = Literal["A", "B", "C", "D"]

ORDERS: dict[Order, str] = {  # "up" is from layer 0, "down" from the last layer
    "A": "tok_embeddings; layers up: attention_norm wq wk wv wo ffn_norm w3 w1 w2; norm; output",
    "B": "output; norm; layers down: w2 w1 ffn_norm wo wq attention_norm; tok_embeddings; layers up: wk wv w3",
    "C": "output; norm; layers down: w2 w1 ffn_norm wo attention_norm; tok_embeddings; layers up: wv wk wq w3",
    "D": "tok_embeddings; layers up: wv attention_norm wk wq wo ffn_norm w3 w1 w2; norm; output",
}
CHECKPOINT_ORDERS: tuple[Order, ...] = ("A", "B", "C")  # of ggcp files; D occurs in GGUF checkpoints from November 2023
RESUME_ORDER: Order = "C"  # every trainer that resumes from GGUF uses it with --no-flash --use-checkpointing

MAX_TENSORS = 2048  # of a model: ggml's optimizers take fewer than GGML_MAX_PARAMS, which was never more

# State fields of n_params values, or in lms and lmy of n_params values for each of the steps they remember.
FLAT_FIELDS = ("x", "g1", "g2", "m", "v", "mh", "vh", "xp", "g", "gp", "d", "lms", "lmy")


@dataclass(frozen=True, slots=True)
class VectorPart:
    """The part of a flat vector that belongs to one tensor of the model: `start` and `count` in elements."""

    path: str
    start: int
    count: int

    def rows(self, n_embd: int) -> range:
        """Return the rows of n_embd values of the vector that are this part."""
        return range(self.start // n_embd, (self.start + self.count) // n_embd)

    def of(self, vector: Tensor, path: str, shape: tuple[int, ...], n_params: int) -> list[Tensor]:
        """Return the part of a vector as tensors of that path and shape.

        It is one, or in lms and lmy one for each of the steps they remember; none of a vector of another length.
        """
        if vector.shape[:1] != (n_params,):
            return []
        size = vector.nbytes // max(vector.n_elements, 1)
        starts = (column * n_params + self.start for column in range(prod(vector.shape[1:])))
        place = vector.source, vector.type, vector.byte_order
        return [Tensor(path, "", shape, vector.offset + start * size, self.count * size, *place) for start in starts]


def known_order(order: str) -> Order:
    """Return the order with that name. Raises `UsageError` if there is none."""
    for known in ORDERS:
        if known == order:
            return known
    raise UsageError(f"there is no order {order!r}", f"The orders are {', '.join(ORDERS)}.")


class Layout(list[VectorPart]):
    """The parts of a flat vector in an order, from its first element to its last; `by_path` has them by their tensors.

    `counts` are the elements of the tensors, by path outside of the layers, and by name in them. Raises `UsageError` if
    there is no such order.
    """

    def __init__(self, order: str, counts: Mapping[str, int], n_layer: int) -> None:
        self.n_params = 0
        for path, name in _paths(order, n_layer):
            self.append(VectorPart(path, self.n_params, counts[name]))
            self.n_params += counts[name]
        self.by_path = {part.path: part for part in self}

    @classmethod
    def of(cls, order: str, model_tensors: Mapping[str, Tensor]) -> Layout:
        """Return the layout for a model's tensors. Raises `UnfitError` if they are not those of a whole model."""
        return cls(order, *element_counts(model_tensors))

    def index_at(self, element: int) -> int:
        """Return the index of the part that holds an element."""
        return bisect_right(self, element, key=lambda part: part.start) - 1


def _paths(order: str, n_layer: int) -> Iterator[tuple[str, str]]:
    """Yield the paths of the model's tensors in an order, each with its name in the layer."""
    for part in ORDERS[known_order(order)].split("; "):
        head, _, names = part.partition(": ")
        if not names:
            yield head, head
        for layer in range(n_layer) if head == "layers up" else reversed(range(n_layer)):
            yield from ((f"layers[{layer}].{name}", name) for name in names.split())


def element_counts(model_tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], int]:
    """Return the elements of a model's tensors, by path outside of the layers and by name in them, and the layers.

    Raises `UnfitError` if the tensors are not those of a whole model.
    """
    if len(model_tensors) >= MAX_TENSORS:
        raise UnfitError(f"the model has {len(model_tensors):,} tensors, more than a program of ggml could train")
    counts: dict[str, int] = {}
    n_layer = (len(model_tensors) - len(MODEL_TENSORS)) // len(LAYER_TENSORS)
    in_layers = ((f"layers[{layer}].{name}", name) for layer in range(n_layer) for name in LAYER_TENSORS)
    for path, name in (*((name, name) for name in MODEL_TENSORS), *in_layers):
        tensor = model_tensors.get(path)
        if tensor is None:
            raise UnfitError(f"the model has no tensor {path}, so the order of its parameters is unknown")
        if counts.setdefault(name, tensor.n_elements) != tensor.n_elements:
            raise UnfitError(f"{path} has {tensor.n_elements} elements, but layers[0].{name} has {counts[name]}")
    return counts, n_layer


def vector_part(order: str, model_tensors: Mapping[str, Tensor], path: str) -> VectorPart:
    """Return the part of a flat vector that belongs to one parameter, given by its path.

    In column j of lms or lmy, shape `[n_params, lbfgs_m]`, the part starts `j * n_params` elements later. Raises
    `PathError` for an unknown path, `UsageError` for an unknown order.
    """
    part = Layout.of(order, model_tensors).by_path.get(path)
    if part is not None:
        return part
    import difflib

    near = difflib.get_close_matches(path, list(islice(model_tensors, 1000)), n=3, cutoff=0.5)
    raise PathError(f"the model has no parameter {path!r}", f"Did you mean {', '.join(near)}?" if near else "")


class PartPath(NamedTuple):
    """A state field (`m`) and the ggcp path of the parameter (`layers[0].wq`) of which it holds the values."""

    field: str
    parameter: str

    def __str__(self) -> str:
        return f"{STATE}{self.field}[{self.parameter}]"


def parse_part_path(path: str) -> PartPath | None:
    """Return what a path in this notation means, None if it is not in this notation.

    GGUF names are understood for both parts: `optimizer.adam.first_moments[blk.0.attn_q.weight]`. Whether the model has
    the parameter is not checked here, but by `vector_part`. None for an index: `optimizer.state.m[3]`.
    """
    vector, bracket, parameter = path.partition("[")
    if not bracket or not parameter.endswith("]"):
        return None
    parameter = parameter[:-1]
    vector = vector if vector.startswith(STATE) else field_path(vector) or ""
    name = vector.removeprefix(STATE)
    if name not in FLAT_FIELDS or not parameter[:1].isalpha():
        return None
    return PartPath(name, field_path(parameter) or parameter)


def permuted_extents(
    tensor: Tensor, from_order: str, to_order: str, model_tensors: Mapping[str, Tensor]
) -> list[tuple[int, int]]:
    """Return the (offset, size) extents in the file that, read one after the other, are the tensor in `to_order`.

    The tensor is a flat vector `[n_params]`, or columns `[n_params, lbfgs_m]` of which each is permuted, in
    `from_order`. Adjacent extents are joined: if the orders are the same, there is one. With the orders exchanged the
    extents are those of the inverse. Raises `UnfitError` if the tensor is not a flat vector of this model's parameters.
    """
    counts, n_layer = element_counts(model_tensors)
    sources, targets = (Layout(order, counts, n_layer) for order in (from_order, to_order))
    n_params = sources.n_params
    if not tensor.shape or tensor.shape[0] != n_params:
        raise UnfitError(f"{tensor.path} has the shape {list(tensor.shape)}; the model has {n_params} parameters")
    if not tensor.nbytes:
        return []
    size = tensor.nbytes // tensor.n_elements
    found = (sources.by_path[part.path] for part in targets)
    column = _joined((part.start * size, part.count * size) for part in found)
    starts = range(tensor.offset, tensor.offset + tensor.nbytes, n_params * size)
    return _joined((start + offset, length) for start in starts for offset, length in column)


def _joined(extents: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the (offset, size) extents without empty ones, and with each run of adjacent ones as one."""
    joined: list[tuple[int, int]] = []
    for offset, size in extents:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        elif size:
            joined.append((offset, size))
    return joined
