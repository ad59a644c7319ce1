"""The parts of a checkpoint as typed, read-only records.

They are written by hand. Generating them was tried, with the notes of the schema as comments: the fields came out as
readable, but Adam's state became two classes instead of one, and the sentences on the classes and the methods of
`Layer` had to stay here. A test compares each field, its name and its types, with the schema.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

from construct import Container

from ggcp_schema.constructs import counted
from ggcp_schema.errors import PathError
from ggcp_schema.files.source import Source
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.records.tensors import tensor_of_record
from ggcp_schema.schema.inference import Inference


class Hparams(NamedTuple):
    """The hyper-parameters of the model."""

    n_vocab: int
    n_embd: int
    n_mult: int
    n_head: int
    n_layer: int
    n_rot: int


class Layer(NamedTuple):
    """The tensors of a layer, by attribute, by name, or in file order."""

    attention_norm: Tensor
    wq: Tensor
    wk: Tensor
    wv: Tensor
    wo: Tensor
    ffn_norm: Tensor
    w1: Tensor
    w2: Tensor
    w3: Tensor

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return tuple.__getitem__(self, key)
        if key not in self._fields:
            raise PathError(f"a layer has no {key!r}", f"It has {', '.join(self._fields)}.")
        return getattr(self, key)

    def __repr__(self) -> str:
        return f"<{self.wq.path.rpartition('.')[0]}: {', '.join(self._fields)}>"


class Layers(list[Layer]):
    """The layers of a model."""

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'layer')}>"


class AdamParams(NamedTuple):
    """The part of `ggml_opt_params` that belongs to Adam."""

    n_iter: int
    sched: float
    decay: float
    alpha: float
    beta1: float
    beta2: float
    eps: float
    eps_f: float
    eps_g: float


class LbfgsParams(NamedTuple):
    """The part of `ggml_opt_params` that belongs to L-BFGS."""

    m: int
    n_iter: int
    max_linesearch: int
    eps: float
    ftol: float
    wolfe: float
    min_step: float
    max_step: float
    linesearch: int


class Params(NamedTuple):
    """The C struct `ggml_opt_params`, which the layouts v0 and v1-raw-params store."""

    type: int
    n_threads: int
    past: int
    delta: float
    max_no_improvement: int
    print_forward_graph: int
    print_backward_graph: int
    padding: bytes
    adam: AdamParams
    lbfgs: LbfgsParams


class AdamState(NamedTuple):
    """Adam's state. x, g1, g2, mh and vh are None unless the layout is v0."""

    m: Tensor
    v: Tensor
    pf: Tensor
    fx_best: float
    fx_prev: float
    n_no_improvement: int
    x: Tensor | None = None
    g1: Tensor | None = None
    g2: Tensor | None = None
    mh: Tensor | None = None
    vh: Tensor | None = None


class LbfgsState(NamedTuple):
    """The state of L-BFGS."""

    x: Tensor
    xp: Tensor
    g: Tensor
    gp: Tensor
    d: Tensor
    pf: Tensor
    lmal: Tensor
    lmys: Tensor
    lms: Tensor
    lmy: Tensor
    fx_best: float
    step: float
    j: int
    k: int
    end: int
    n_no_improvement: int


class Optimizer(NamedTuple):
    """The optimizer block. `params` is None and `inference` set if the layout is v1, else the reverse."""

    version: int
    layout: str
    params: Params | None
    past: int
    lbfgs_m: int
    nx: int
    iter: int
    just_initialized: int
    inference: Inference | None
    type: str
    state: AdamState | LbfgsState

    def __repr__(self) -> str:
        tensors = (
            name for name, value in zip(self.state._fields, self.state, strict=True) if isinstance(value, Tensor)
        )
        return f"<optimizer: {self.type} in layout {self.layout}, iteration {self.iter:,}: {', '.join(tensors)}>"


NESTED: dict[str, Any] = {"params": Params, "adam": AdamParams, "lbfgs": LbfgsParams}
Part = TypeVar("Part", bound=tuple[Any, ...])


def record_of(kind: type[Part], container: Container, path: str, source: Source) -> Part:
    """Return the parsed values of a whole record as its class. `path` is that of the record."""
    values, named_tuple = {}, cast("Any", kind)
    for name in named_tuple._fields:
        value = container.get(name)
        if isinstance(value, Container):
            where = f"{path}.{name}"
            if "ne" in value:
                value = tensor_of_record(value, where, source)
            elif name == "state":
                state = LbfgsState if "lmal" in value else AdamState
                value = record_of(state, value, where, source)
            else:
                value = record_of(NESTED[name], value, where, source)
        values[name] = value
    found: Part = named_tuple(**values)
    return found
