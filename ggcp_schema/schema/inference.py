"""Values that ggcp files do not store, computed exactly as the programs of 2023 did: n_ff, layout, optimizer type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import IO, Any, Final, Literal, NamedTuple

from construct import Container

from ggcp_schema.constructs import FieldError, Int32ul, Int64sl, Struct, kaitai, stream_end
from ggcp_schema.schema.tensor import TENSOR

OptimizerType = Literal["adam", "lbfgs"]
Layout = Literal["v0", "v1", "v1-raw-params"]

ADAM: Final = "adam"
LBFGS: Final = "lbfgs"
TYPES = {0: ADAM, 1: LBFGS}
OPTIMIZERS = {ADAM: "Adam", LBFGS: "L-BFGS"}
V0, V1, V1_RAW_PARAMS = "v0", "v1", "v1-raw-params"

Shape = Sequence[int]

TENSOR_AHEAD = {
    "doc": "A tensor that is looked at before it is read, as far as the file has it.",
    "params": [{"id": "start", "type": "u8"}],
    "instances": {
        "has_header": {"value": "start + 12 <= _io.size"},
        "n_dims": {"pos": "start", "type": "u4", "if": "has_header"},
        "name_len": {"pos": "start + 4", "type": "u4", "if": "has_header"},
        "type": {"pos": "start + 8", "type": "u4", "if": "has_header"},
        "is_valid": {"value": "has_header and n_dims <= 4 and name_len <= 65535 and type == 0"},
        "has_shape": {"value": "is_valid and start + 12 + 4 * n_dims <= _io.size"},
        "ne": {"pos": "start + 12", "type": "u4", "repeat": "expr", "repeat-expr": "n_dims", "if": "has_shape"},
        "nbytes": {
            "value": "4 * (n_dims > 0 ? ne[0] : 0) * (n_dims > 1 ? ne[1] : 1) * (n_dims > 2 ? ne[2] : 1) * "
            "(n_dims > 3 ? ne[3] : 1)"
        },
        "end": {"value": "has_shape ? (start + 12 + 4 * n_dims + name_len + 31) / 32 * 32 + nbytes : _io.size"},
    },
}
"""The type by which Kaitai looks ahead: see `shapes_ahead`."""


def optimizer_text(kind: str) -> str:
    """Return the name of an optimizer for people; a GGUF file may name another one."""
    return OPTIMIZERS.get(kind, kind)


def tensors_ahead(start: str, count: int) -> dict[str, Any]:
    """Return the keys of an instance that has the next `count` tensors in Kaitai's language."""
    first = f"tensor_ahead(_index == 0 ? {start} : tensors[_index - 1].end)"
    return {"type": first, "repeat": "expr", "repeat-expr": count}


def width_ahead(tensor: int) -> dict[str, Any]:
    """Return what `kaitai` needs for the width of the feed-forward layers, the second dimension of a tensor ahead."""
    return {
        "seq": {"type": "width_ahead(_io.pos)"},
        "types": {
            "width_ahead": {
                "params": [{"id": "start", "type": "u8"}],
                "instances": {
                    "tensors": tensors_ahead("start", tensor + 1),
                    "is_known": {"value": "tensors.last.has_shape and tensors.last.n_dims == 2"},
                    "width": {"value": "is_known ? tensors.last.ne[1] : 0"},
                },
            },
            "tensor_ahead": TENSOR_AHEAD,
        },
    }


# n_ff ------------------------------------------------------------------------------------------------------

BEFORE_W1 = 6  # tensors of a layer that precede w1


@kaitai(
    "hparams.n_layer > 0 and n_ff_ahead.is_known ? n_ff_ahead.width : "
    "hparams.n_mult > 0 ? (2 * (4 * hparams.n_embd) / 3 + hparams.n_mult - 1) / hparams.n_mult * hparams.n_mult : 0",
    **width_ahead(BEFORE_W1),
)
def n_ff(checkpoint: Container) -> int | None:
    """Return the width of the feed-forward layers: the second dimension of layers[0].w1.

    It lies ahead: after the headers and the data of 6 tensors. For a model without layers the width is computed from
    its hyper-parameters: `n_ff = ceil((2 * (4 * n_embd) // 3) / n_mult) * n_mult`, in integers, or none if n_mult is 0.
    The trainers up to 24 August 2023 followed this formula. A later writer stored n_mult 256 whatever the width was, so
    the shape of w1 counts.
    """
    width, hparams = width_of(checkpoint, "w1", BEFORE_W1), checkpoint["hparams"]
    return n_ff_by_formula(hparams["n_embd"], hparams["n_mult"]) if width is None else width


def width_of(file: Container, tensor: str, before: int) -> int | None:
    """Return the second dimension of a tensor of the first layer, after so many others; None if there is none.

    The parse of a damaged file is told it: `n_ff`.
    """
    forced: int | None = file["_params"].get("n_ff")
    if forced is not None:
        return forced
    if file["_building"]:
        try:
            built: Shape = file["layers"][0][tensor]["ne"]
            return built[1]
        except (LookupError, TypeError):
            return None
    shape = shapes_ahead(file["_io"], before + 1)[before] if file["hparams"]["n_layer"] else None
    return shape[1] if shape is not None and len(shape) == 2 else None


def n_ff_by_formula(n_embd: int, n_mult: int) -> int | None:
    """Return the width that the hyper-parameters give, in integers; None if n_mult is 0: see `n_ff`."""
    return -(-(2 * (4 * n_embd) // 3) // n_mult) * n_mult if n_mult else None


# The layout of the optimizer block -------------------------------------------------------------------------

V1_PARAMS_SIZE = 8
RAW_PARAMS_SIZE = 96
FIRST_TENSOR = Struct(
    "nx" / Int64sl,
    "iter" / Int32ul,
    "just_initialized" / Int32ul,
    "n_dims" / Int32ul,
    "name_len" / Int32ul,
    "type" / Int32ul,
    "ne" / Int32ul,
)


@kaitai(
    'version == 0 ? "v0" : layout_ahead.is_raw ? "v1-raw-params" : "v1"',
    seq={"type": "layout_ahead(_io.pos)"},
    types={
        "layout_ahead": {
            "params": [{"id": "start", "type": "u8"}],
            "instances": {
                "v1": {"type": f"first_tensor(start + {V1_PARAMS_SIZE})"},
                "v1_raw_params": {"type": f"first_tensor(start + {RAW_PARAMS_SIZE})"},
                "is_raw": {"value": "v1.is_wrong and not v1_raw_params.is_wrong"},
            },
        },
        "first_tensor": {
            "doc": "What follows the parameters in a layout, as far as the file has it.",
            "params": [{"id": "start", "type": "u8"}],
            "instances": {
                "nx": {"pos": "start", "type": "s8", "if": "start + 8 <= _io.size"},
                "just_initialized": {"pos": "start + 12", "type": "u4", "if": "start + 16 <= _io.size"},
                "n_dims": {"pos": "start + 16", "type": "u4", "if": "start + 20 <= _io.size"},
                "ne": {"pos": "start + 28", "type": "u4", "if": "start + 32 <= _io.size"},
                "is_wrong": {
                    "value": "(start + 16 <= _io.size and just_initialized > 1) or "
                    "(start + 20 <= _io.size and n_dims != 1) or (start + 32 <= _io.size and ne != nx)"
                },
            },
        },
    },
)
def optimizer_layout(optimizer: Container) -> str:
    """Return the layout of the optimizer block, whose version has just been parsed: v0, v1 or v1-raw-params.

    Version 0 is v0. In version 1, nx, iter, just_initialized and a tensor of the shape [nx] begin 8 bytes from here in
    v1, and 96 bytes from here in v1-raw-params. The file contradicts a layout if just_initialized would be neither 0
    nor 1, the tensor's n_dims not 1, or its ne[0] not nx. The layout is v1-raw-params if the file contradicts v1 and
    not v1-raw-params; otherwise it is v1.
    """
    forced: str | None = optimizer["_params"].get("layout")
    if forced is not None or optimizer["version"] == 0:
        return forced or V0
    if optimizer["_building"]:
        return V1 if optimizer.get("params") is None else V1_RAW_PARAMS
    stream = optimizer["_io"]
    start = stream.tell()
    if _first_tensor_fits(stream, start + V1_PARAMS_SIZE) is not False:
        return V1
    return V1 if _first_tensor_fits(stream, start + RAW_PARAMS_SIZE) is False else V1_RAW_PARAMS


def _first_tensor_fits(stream: IO[bytes], offset: int) -> bool | None:
    """Return whether `nx` could start at `offset`; None if the file ends before the fields rule it out."""
    stream.seek(offset)
    try:
        first, whole = FIRST_TENSOR.parse_stream(stream), True
    except FieldError as error:
        first, whole = error.partial, None
    expected = {"just_initialized": (0, 1), "n_dims": (1,), "ne": (first.get("nx"),)}
    return whole if all(first.get(name) in (None, *values) for name, values in expected.items()) else False


def shapes_ahead(stream: IO[bytes], count: int) -> list[Shape | None]:
    """Return the shapes of the next `count` tensors. Missing tensors are None; the last one may lack its data."""
    shapes: list[Shape | None] = []
    try:
        while len(shapes) < count:
            shapes.append(TENSOR.parse_stream(stream)["ne"])
    except FieldError as error:
        shape = error.partial.get("ne", [])
        if len(shape) == error.partial.get("n_dims"):
            shapes.append(shape)
    return shapes + [None] * (count - len(shapes))


# The type of the optimizer ---------------------------------------------------------------------------------


class Inference(NamedTuple):
    """How the optimizer's type was found in a v1 file, which does not store it.

    `remaining` is the size of the state, and the bounds are the sizes it would have, in bytes. `by_records` is the type
    implied by the shape of the third tensor, or None if inconclusive: Adam has pf there (`[past]` or NULL), L-BFGS g
    (`[nx]`). The records are the stronger evidence: the size of a truncated L-BFGS file can be nearer to Adam's.
    """

    remaining: int
    adam_bound: int
    lbfgs_bound: int
    by_size: OptimizerType
    by_records: OptimizerType | None

    @property
    def type(self) -> OptimizerType:
        return self.by_records or self.by_size

    @property
    def confirmed(self) -> bool:
        return self.by_records == self.by_size

    def __str__(self) -> str:
        name = optimizer_text(self.type)
        if self.confirmed:
            return f"{name}: inferred from the size of the state, confirmed by the shape of its third tensor"
        if self.by_records:
            other = optimizer_text(self.by_size)
            return f"{name}: inferred from the shape of its third tensor; its size suggests {other}"
        return f"{name}: inferred from the size of the state only; its third tensor is inconclusive"


@kaitai('layout == "v1" ? inference.type : params.type == params_type::adam ? "adam" : "lbfgs"')
def optimizer_type(optimizer: Container) -> str | None:
    """Return the type of the optimizer: adam or lbfgs.

    v0 and v1-raw-params store it as params.type. In v1 it is inferred: see infer_optimizer_type.
    """
    if optimizer.get("params") is not None:
        return TYPES[optimizer["params"]["type"]]
    if not optimizer["_building"]:
        inference: Inference = optimizer["inference"]
        return inference.type
    given: str | None = optimizer.get("type")
    state: Mapping[str, Any] = optimizer["state"]
    return given or (LBFGS if "lmal" in state else ADAM)


@kaitai(
    seq={"type": "inference(_io.pos, nx, past, lbfgs_m)"},
    types={
        "inference": {
            "params": [
                {"id": "start", "type": "u8"},
                {"id": "nx", "type": "s8"},
                {"id": "past", "type": "s8"},
                {"id": "lbfgs_m", "type": "s8"},
            ],
            "instances": {
                "tensors": tensors_ahead("start", 4),
                "third": {"value": "tensors[2]"},
                "fourth": {"value": "tensors[3]"},
                "remaining": {"value": "_io.size - start"},
                "bound_of_past": {"value": "past > 0 ? 99 + 4 * past : 0"},
                "adam_bound": {"value": "12 + 2 * (99 + 4 * nx) + bound_of_past"},
                "lbfgs_bound": {
                    "value": "24 + 5 * (99 + 4 * nx) + 99 + 4 * past + 2 * (99 + 4 * lbfgs_m) + "
                    "2 * (107 + 4 * nx * lbfgs_m) + bound_of_past"
                },
                "far_from_adam": {"value": "remaining > adam_bound ? remaining - adam_bound : adam_bound - remaining"},
                "far_from_lbfgs": {
                    "value": "remaining > lbfgs_bound ? remaining - lbfgs_bound : lbfgs_bound - remaining"
                },
                "by_size": {"value": 'far_from_adam < far_from_lbfgs ? "adam" : "lbfgs"'},
                "as_adam": {
                    "value": "third.has_shape and "
                    "(past == 0 ? third.n_dims == 0 : third.n_dims == 1 and third.ne[0] == past)"
                },
                "as_lbfgs": {"value": "third.has_shape and third.n_dims == 1 and third.ne[0] == nx"},
                "goes_on": {"value": "fourth.has_shape and fourth.n_dims == 1 and fourth.ne[0] == nx"},
                "by_records": {
                    "value": 'as_adam and as_lbfgs ? (goes_on ? "lbfgs" : "") : '
                    'as_adam ? "adam" : as_lbfgs ? "lbfgs" : ""',
                    "doc": "Empty if the tensors do not tell.",
                },
                "type": {"value": 'by_records != "" ? by_records : by_size'},
            },
        },
        "tensor_ahead": TENSOR_AHEAD,
    },
)
def infer_optimizer_type(optimizer: Container) -> Inference | None:
    """Infer the type of the optimizer, which v1 does not store.

    Let `remaining` be the number of bytes from here, the beginning of the state, to the end of the file, and
    `bound(ne) = 12 + 8 * n_dims + 48 + 31 + 4 * prod(ne)` an upper bound of the size of a tensor record. The state
    has at most these sizes, in which the last summand counts only if past > 0:
      Adam    `12 + 2 * bound([nx])` + `bound([past])`
      L-BFGS  `24 + 5 * bound([nx]) + bound([past]) + 2 * bound([lbfgs_m]) + 2 * bound([nx, lbfgs_m])` + `bound([past])`
    By size it is Adam if remaining is nearer to the first number, else L-BFGS. By the records it is Adam if the third
    tensor ahead has the shape [past], or is NULL if past is 0, and L-BFGS if it has the shape [nx]; if the two shapes
    are equal, it is L-BFGS if a fourth tensor of shape [nx] follows. The records decide unless they are inconclusive.
    """
    if optimizer["_building"]:
        given: Inference | None = optimizer.get("inference")
        return given
    stream, forced = optimizer["_io"], optimizer["_params"].get("state")
    remaining = stream_end(stream, optimizer) - stream.tell() if forced is None else forced[0]
    third, fourth = (shapes_ahead(stream, 4) if forced is None else [*forced[1], None])[2:4]
    return infer_type(remaining, optimizer["nx"], optimizer["past"], optimizer["lbfgs_m"], third, fourth)


def infer_type(
    remaining: int, nx: int, past: int, lbfgs_m: int, third: Shape | None, fourth: Shape | None = None
) -> Inference:
    """Return the optimizer's type in a v1 file, and how it was found: see `infer_optimizer_type`.

    `third` and `fourth` are the shapes of these tensors of the state: `[]` for NULL, None if the file ends before them.
    """
    adam, lbfgs = adam_bound(nx, past), lbfgs_bound(nx, past, lbfgs_m)
    by_records: OptimizerType | None
    by_size: OptimizerType = ADAM if abs(remaining - adam) < abs(remaining - lbfgs) else LBFGS
    as_adam = third is not None and list(third) == ([past] if past else [])
    as_lbfgs = third is not None and list(third) == [nx]
    if as_adam and as_lbfgs:
        by_records = LBFGS if fourth is not None and list(fourth) == [nx] else None
    else:
        by_records = ADAM if as_adam else LBFGS if as_lbfgs else None
    return Inference(remaining, adam, lbfgs, by_size, by_records)


def record_bound(*ne: int) -> int:
    """Return an upper bound of the size of a tensor record, in bytes."""
    return 12 + 8 * len(ne) + 48 + 31 + 4 * prod(ne)


def adam_bound(nx: int, past: int) -> int:
    """Return an upper bound of the size of Adam's state in a v1 file, in bytes."""
    return 12 + 2 * record_bound(nx) + (record_bound(past) if past > 0 else 0)


def lbfgs_bound(nx: int, past: int, lbfgs_m: int) -> int:
    """Return an upper bound of the size of L-BFGS's state in a v1 file, in bytes."""
    state = 5 * record_bound(nx) + 2 * record_bound(lbfgs_m) + 2 * record_bound(nx, lbfgs_m)
    return 24 + state + record_bound(past) * (2 if past > 0 else 1)
