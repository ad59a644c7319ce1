"""What the optimizer block does not state: which layout it has and, in v1, which optimizer it is."""

from construct import Container

from ggcp_schema.constructs import FieldError, Int64, Record, UInt32, end_of, lookup
from ggcp_schema.inference import ADAM, LBFGS, Inference, infer_type
from ggcp_schema.schema.tensor import TENSOR

LAYOUTS = V0, V1, V1_RAW_PARAMS = "v0", "v1", "v1-raw-params"
TYPES = {0: ADAM, 1: LBFGS}

V1_PARAMS_SIZE = 8
RAW_PARAMS_SIZE = 96
FIRST_TENSOR = Record(
    "nx" / Int64,
    "iter" / UInt32,
    "just_initialized" / UInt32,
    "n_dims" / UInt32,
    "name_len" / UInt32,
    "type" / UInt32,
    "ne" / UInt32,
)


def optimizer_layout(stream, optimizer) -> str:
    """Version 0 is v0. Version 1 is v1 if its first tensor, `[nx]`, begins 24 bytes after the version, as it must
    in v1; it is v1-raw-params if that tensor begins after the 96 bytes of params and 16 more.

    Where the file ends too early to tell, it is the layout that the file contradicts least.
    """
    if optimizer["version"] == 0:
        return V0
    start = stream.tell()
    if _first_tensor_fits(stream, start + V1_PARAMS_SIZE) is not False:
        return V1
    return V1 if _first_tensor_fits(stream, start + RAW_PARAMS_SIZE) is False else V1_RAW_PARAMS


def _first_tensor_fits(stream, offset: int) -> bool | None:
    stream.seek(offset)
    try:
        first = FIRST_TENSOR.parse_stream(stream)
    except FieldError:
        return None
    return first["n_dims"] == 1 and first["ne"] == first["nx"]


def optimizer_type(stream, optimizer) -> str:
    """The stored type, or the inferred one."""
    if optimizer["params"] is not None:
        return TYPES[optimizer["params"]["type"]]
    return infer_optimizer(stream, optimizer).type


def infer_optimizer(stream, optimizer: Container) -> Inference:
    """Infers the type of a v1 optimizer whose state begins at the stream's position."""
    start = stream.tell()
    third = None
    try:
        for _ in range(3):
            third = TENSOR.parse_stream(stream)["ne"]
    except FieldError:
        third = None
    remaining = end_of(stream, Container(_params=Container())) - start
    return infer_type(remaining, nx(optimizer), past(optimizer), lbfgs_m(optimizer), third)


def nx(context: Container) -> int:
    """The number of parameters that the optimizer holds."""
    return lookup(context, "nx")


def past(context: Container) -> int:
    """The number of past losses, from wherever this layout keeps it."""
    params = lookup(context, "params")
    return lookup(context, "past") if params is None else params["past"]


def lbfgs_m(context: Container) -> int:
    """The iterations that L-BFGS remembers, from wherever this layout keeps them."""
    params = lookup(context, "params")
    return lookup(context, "lbfgs_m") if params is None else params["lbfgs"]["m"]
