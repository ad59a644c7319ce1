"""What the optimizer block does not state: which layout it has and, in v1, which optimizer it is."""

from construct import Container

from ggcp_schema.constructs import FieldError, Int64, Record, UInt32, end_of, lookup
from ggcp_schema.inference import ADAM, LBFGS, Inference, InferredType, infer_type
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
    """Whether nx and what follows can begin there; None where the file ends before it is contradicted."""
    stream.seek(offset)
    try:
        first, whole = FIRST_TENSOR.parse_stream(stream), True
    except FieldError as error:
        first, whole = error.partial, None
    expected = {"just_initialized": (0, 1), "n_dims": (1,), "ne": (first.get("nx"),)}
    return whole if all(first.get(name) in (None, *values) for name, values in expected.items()) else False


def optimizer_type(stream, optimizer) -> str:
    """The stored type, or the inferred one."""
    if optimizer["params"] is not None:
        return TYPES[optimizer["params"]["type"]]
    return InferredType.of(infer_optimizer(stream, optimizer))


def infer_optimizer(stream, optimizer: Container) -> Inference:
    """Infers the type of a v1 optimizer whose state begins at the stream's position."""
    start, shapes = stream.tell(), _shapes_ahead(stream, 4)
    remaining = end_of(stream, Container(_params=Container())) - start
    return infer_type(remaining, nx(optimizer), past(optimizer), lbfgs_m(optimizer), *shapes[2:])


def _shapes_ahead(stream, count: int) -> list[list[int] | None]:
    """The shapes of the tensors that follow, None from the first on that is not there. The last may lack data."""
    shapes: list[list[int] | None] = []
    try:
        while len(shapes) < count:
            shapes.append(TENSOR.parse_stream(stream)["ne"])
    except FieldError as error:
        shape = error.partial.get("ne", [])
        if len(shape) == error.partial.get("n_dims"):
            shapes.append(shape)
    return shapes + [None] * (count - len(shapes))


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
