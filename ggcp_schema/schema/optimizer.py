"""The optimizer block.

Three layouts exist: v0; v1; and v1-raw-params (v1 with v0's parameter struct, written on 15 June and 28 July 2023).
"""

from ggcp_schema.constructs import (
    Computed,
    Error,
    Float32l,
    If,
    IfThenElse,
    Int8ul,
    Int32sl,
    Int32ul,
    Int64sl,
    OneOf,
    Padding,
    Struct,
    Switch,
    this,
)
from ggcp_schema.schema.inference import (
    ADAM,
    LBFGS,
    TYPES,
    V0,
    V1,
    infer_optimizer_type,
    optimizer_layout,
    optimizer_type,
)
from ggcp_schema.schema.tensor import Tensor

NX = this._._.nx  # from a dimension of a tensor of the state: its tensor, the state, the optimizer
PAST = this._._.past
LBFGS_M = this._._.lbfgs_m

COUNT = range(1 << 31)
SIZE = range(1 << 63)

ADAM_PARAMS = Struct(
    "n_iter" / Int32sl,
    "sched" / Float32l,
    "decay" / Float32l,
    "alpha" / Float32l,
    "beta1" / Float32l,
    "beta2" / Float32l,
    "eps" / Float32l,
    "eps_f" / Float32l,
    "eps_g" / Float32l,
    type_name="adam_params",
)

LBFGS_PARAMS = Struct(
    "m" / Int32sl * "iterations remembered: lbfgs_m",
    "n_iter" / Int32sl,
    "max_linesearch" / Int32sl,
    "eps" / Float32l,
    "ftol" / Float32l,
    "wolfe" / Float32l,
    "min_step" / Float32l,
    "max_step" / Float32l,
    "linesearch" / Int32sl * "uninitialised memory in some files",
    type_name="lbfgs_params",
)

PARAMS = Struct(
    "type" / OneOf(Int32sl, TYPES),
    "n_threads" / Int32sl,
    "past" / OneOf(Int32sl, COUNT) * "past losses kept for the convergence test",
    "delta" / Float32l,
    "max_no_improvement" / Int32sl,
    "print_forward_graph" / Int8ul * "a C bool",
    "print_backward_graph" / Int8ul * "a C bool",
    "padding" / Padding(2) * "of the C struct; may hold anything",
    "adam" / ADAM_PARAMS * "uninitialised memory in some L-BFGS files",
    "lbfgs" / LBFGS_PARAMS * "uninitialised memory in some Adam files",
    type_name="params",
)

ADAM_STATE_V0 = Struct(
    "x" / Tensor(NX) * "parameters",
    "g1" / Tensor(NX) * "gradient",
    "g2" / Tensor(NX) * "gradient squared",
    "m" / Tensor(NX) * "first moments",
    "v" / Tensor(NX) * "second moments",
    "mh" / Tensor(NX) * "last step: alpha * sched * m / vh, bias-corrected",
    "vh" / Tensor(NX) * "root of v, bias-corrected, plus eps",
    "pf" / Tensor(PAST, null_if_zero=True) * "past losses",
    "fx_best" / Float32l * "best loss of the last run of iterations",
    "fx_prev" / Float32l * "previous loss",
    "n_no_improvement" / Int32sl,
    type_name="adam_state_v0",
)

ADAM_STATE = Struct(
    "m" / Tensor(NX) * "first moments",
    "v" / Tensor(NX) * "second moments",
    "pf" / Tensor(PAST, null_if_zero=True) * "past losses",
    "fx_best" / Float32l * "best loss of the last run of iterations",
    "fx_prev" / Float32l * "previous loss",
    "n_no_improvement" / Int32sl,
    type_name="adam_state",
)

LBFGS_STATE = Struct(
    "x" / Tensor(NX) * "current parameters",
    "xp" / Tensor(NX) * "previous parameters",
    "g" / Tensor(NX) * "current gradient",
    "gp" / Tensor(NX) * "previous gradient",
    "d" / Tensor(NX) * "search direction",
    "pf" / Tensor(PAST, null_if_zero=True) * "past losses",
    "lmal" / Tensor(LBFGS_M) * "memory: alpha",
    "lmys" / Tensor(LBFGS_M) * "memory: y dot s",
    "lms" / Tensor(NX, LBFGS_M) * "memory: s",
    "lmy" / Tensor(NX, LBFGS_M) * "memory: y",
    "fx_best" / Float32l * "best loss",
    "step" / Float32l * "line search",
    "j" / Int32sl * "line search",
    "k" / Int32sl * "line search: the number of steps so far, plus 1",
    "end" / Int32sl * "line search",
    "n_no_improvement" / Int32sl,
    type_name="lbfgs_state",
)

OPTIMIZER = Struct(
    "version" / OneOf(Int32ul, (0, 1)),
    "layout" / Computed(optimizer_layout) * "v0, v1 or v1-raw-params: from the version and the fields that follow",
    "params" / If(this.layout != V1, PARAMS) * "the C struct ggml_opt_params, 96 bytes, raw",
    "past" / IfThenElse(this.layout == V1, Int32ul, Computed(this.params.past)) * "past losses kept",
    "lbfgs_m" / IfThenElse(this.layout == V1, Int32ul, Computed(this.params.lbfgs.m)) * "0 in most v1 Adam files",
    "nx" / OneOf(Int64sl, SIZE) * "number of parameters: the elements of all the model's tensors",
    "iter" / Int32sl * "iterations of the optimizer",
    "just_initialized" / OneOf(Int32ul, (0, 1), critical=False),
    "inference"
    / If(this.layout == V1, Computed(infer_optimizer_type))
    * "v1 does not store the type: how it was found",
    "type" / Computed(optimizer_type) * "adam or lbfgs: params.type, or in v1 the inferred type",
    "state"
    / Switch(
        this.type,
        {ADAM: IfThenElse(this.layout == V0, ADAM_STATE_V0, ADAM_STATE), LBFGS: LBFGS_STATE},
        default=Error,
    ),
    type_name="optimizer",
)
