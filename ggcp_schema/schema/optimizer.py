"""The optimizer block. It was written in three layouts: v0; v1; and, for one day, v1 with the params of v0."""

from ggcp_schema.constructs import F32, Choice, Derived, Expr, Hole, If, Int32, Int64, OneOf, Record, UInt8, UInt32
from ggcp_schema.inference import ADAM, LBFGS
from ggcp_schema.schema.lookahead import (
    LAYOUTS,
    TYPES,
    V0,
    V1,
    lbfgs_m,
    nx,
    optimizer_layout,
    optimizer_type,
    past,
)
from ggcp_schema.schema.tensor import Tensor

NX = Expr("nx", nx)
PAST = Expr("past", past)
LBFGS_M = Expr("lbfgs_m", lbfgs_m)
COUNT = range(1 << 31)
SIZE = range(1 << 63)

ADAM_PARAMS = Record(
    "n_iter" / Int32,
    "sched" / F32,
    "decay" / F32,
    "alpha" / F32,
    "beta1" / F32,
    "beta2" / F32,
    "eps" / F32,
    "eps_f" / F32,
    "eps_g" / F32,
)

LBFGS_PARAMS = Record(
    "m" / Int32 * "iterations remembered: lbfgs_m",
    "n_iter" / Int32,
    "max_linesearch" / Int32,
    "eps" / F32,
    "ftol" / F32,
    "wolfe" / F32,
    "min_step" / F32,
    "max_step" / F32,
    "linesearch" / Int32 * "uninitialised memory in some files",
)

PARAMS = Record(
    "type" / OneOf(Int32, TYPES),
    "n_threads" / Int32,
    "past" / OneOf(Int32, COUNT) * "past losses kept for the convergence test",
    "delta" / F32,
    "max_no_improvement" / Int32,
    "print_forward_graph" / UInt8 * "a C bool",
    "print_backward_graph" / UInt8 * "a C bool",
    "padding" / Hole(Expr("2", lambda params: 2)) * "of the C struct; may hold anything",
    "adam" / ADAM_PARAMS * "uninitialised memory in some L-BFGS files",
    "lbfgs" / LBFGS_PARAMS * "uninitialised memory in some Adam files",
)

ADAM_STATE_V0 = Record(
    "x" / Tensor(NX) * "parameters",
    "g1" / Tensor(NX) * "gradient",
    "g2" / Tensor(NX) * "gradient squared",
    "m" / Tensor(NX) * "first moments",
    "v" / Tensor(NX) * "second moments",
    "mh" / Tensor(NX) * "first moments, bias-corrected",
    "vh" / Tensor(NX) * "second moments, bias-corrected",
    "pf" / Tensor(PAST, null_if_zero=True) * "past losses",
    "fx_best" / F32 * "best loss",
    "fx_prev" / F32 * "previous loss",
    "n_no_improvement" / Int32,
)

ADAM_STATE = Record(
    "m" / Tensor(NX) * "first moments",
    "v" / Tensor(NX) * "second moments",
    "pf" / Tensor(PAST, null_if_zero=True) * "past losses",
    "fx_best" / F32 * "best loss",
    "fx_prev" / F32 * "previous loss",
    "n_no_improvement" / Int32,
)

LBFGS_STATE = Record(
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
    "fx_best" / F32 * "best loss",
    "step" / F32 * "line search",
    "j" / Int32 * "line search",
    "k" / Int32 * "line search",
    "end" / Int32 * "line search",
    "n_no_improvement" / Int32,
)

IS_V1 = Expr(f"layout = {V1}", lambda optimizer: optimizer["layout"] == V1)
HAS_PARAMS = Expr(f"layout <> {V1}", lambda optimizer: optimizer["layout"] != V1)
STATE = Expr("type, layout", lambda o: f"{ADAM}, {V0}" if (o["type"], o["layout"]) == (ADAM, V0) else o["type"])

OPTIMIZER = Record(
    "version" / OneOf(UInt32, {0: "", 1: ""}),
    "layout" / Derived(optimizer_layout) * f"{', '.join(LAYOUTS)}: from the version and a look ahead",
    "params" / If(HAS_PARAMS, PARAMS) * "the C struct ggml_opt_params, 96 bytes, raw",
    "past" / If(IS_V1, UInt32) * "past losses kept for the convergence test",
    "lbfgs_m" / If(IS_V1, UInt32) * "iterations that L-BFGS remembers; 0 in most Adam files",
    "nx" / OneOf(Int64, SIZE) * "number of parameters: the elements of all the model's tensors",
    "iter" / Int32 * "iterations of the optimizer",
    "just_initialized" / OneOf(UInt32, {0: "", 1: ""}, matters=False),
    "type" / Derived(optimizer_type) * "params.type; v1 forgot it: by size, and the third tensor's shape",
    "state" / Choice(STATE, {f"{ADAM}, {V0}": ADAM_STATE_V0, ADAM: ADAM_STATE, LBFGS: LBFGS_STATE}),
)
