"""What a damaged checkpoint had when it was whole: its size, and its tensors."""

from __future__ import annotations

from construct import Container

from ggcp_schema.constructs import Struct
from ggcp_schema.formats.file import File
from ggcp_schema.formats.records.headers import GGCP, LEAST_LAYER, record_at, tensor_fields, walk
from ggcp_schema.llama import names
from ggcp_schema.llama.training import model_shapes
from ggcp_schema.schema.inference import ADAM, LBFGS, V0
from ggcp_schema.schema.model import tensors_of
from ggcp_schema.schema.optimizer import ADAM_STATE, ADAM_STATE_V0, LBFGS_STATE
from ggcp_schema.schema.tensor import Tensor

LENGTHS = range(1 << 32)  # what a field of `ne` can hold
PLAUSIBLE_LAYERS = 1000  # a larger n_layer is taken for damaged, unless the file could hold as many
STATE_SCHEMAS = {ADAM: ADAM_STATE_V0, LBFGS: LBFGS_STATE}  # ADAM_STATE_V0 has all fields that other layouts have


def expected_size(checkpoint: Container) -> int | None:
    """Return the size in bytes that the whole file had; None if the values that were parsed do not tell it.

    The size is known once all of the optimizer's fields before the state have been parsed. In a
    file that is not damaged it is the size of the file.
    """
    sizes = expected_sizes(checkpoint)
    return next(iter(sizes.values())) if len(sizes) == 1 else None


def expected_sizes(checkpoint: Container) -> dict[str, int]:
    """Return the sizes in bytes that the whole file can have had, by the type of the optimizer.

    There is one size if the type is known, and none if the file ends before the state. The size of a truncated file
    does not tell the type, but its records may; and a v1 file with lbfgs_m 0 is Adam's.
    """
    optimizer = checkpoint.get("optimizer") or Container()
    if "state" not in optimizer:
        return {}
    sizes = {kind: _end_of_state(optimizer, schema) for kind, schema in state_schemas(optimizer).items()}
    return {kind: size for kind, size in sizes.items() if size is not None}


def state_schemas(optimizer: Container) -> dict[str, Struct]:
    """Return the schemas that the optimizer's state can have, by the type of the optimizer."""
    schemas = {ADAM: ADAM_STATE_V0 if optimizer.get("layout") == V0 else ADAM_STATE, LBFGS: LBFGS_STATE}
    inference = optimizer.get("inference")
    if inference is None or inference.by_records:
        known = optimizer["type"]
    elif not optimizer["lbfgs_m"]:
        known = ADAM
    else:
        return schemas
    return {known: schemas[known]}


def _end_of_state(optimizer: Container, schema: Struct) -> int | None:
    """Return the offset of the first byte after the state; None if a tensor of it cannot have the shape it should."""
    state = optimizer["state"]
    scope = {"_": {"_": optimizer}}
    at: int = state["_offset"]
    for name, field in schema.fields:
        record = state.get(name)
        if isinstance(record, Container) and "_size" in record:
            at += record["_size"]
        elif not isinstance(field, Tensor):
            at += field.sizeof()
        else:
            shape = field.shape_in(scope)
            if not all(length in LENGTHS for length in shape):
                return None
            at = record_at(at, "", tuple(shape), "").end
    return at


def expected_tensors(file: File) -> list[str] | None:
    """Return the paths of the tensors that the whole file had; None if that cannot be known.

    If the type of the optimizer is not known, those of all types are returned.
    """
    n_layer = n_layer_of(file)
    if n_layer is None:
        return None
    optimizer = file.get("optimizer") or {}
    schemas = state_schemas(optimizer) if "type" in optimizer else STATE_SCHEMAS
    state = dict.fromkeys(f"{names.STATE}{name}" for schema in schemas.values() for name in tensor_fields(schema))
    return [*(path for path, _ in tensors_of(file.format.schema, n_layer)), *state]


def n_layer_of(file: File) -> int | None:
    """Return the number of layers; None if the file ends before, or if it can hardly be true."""
    hparams = file.get("hparams") or {}
    n_layer: int | None = hparams.get("n_layer") if "n_rot" in hparams else None
    return None if n_layer is None or n_layer > max(PLAUSIBLE_LAYERS, file.size // LEAST_LAYER) else n_layer


def model_end(file: File) -> int | None:
    """Return the offset of the first byte after the model; None if n_ff or the length of the names is unknown."""
    n_layer, hparams, first = n_layer_of(file), file.get("hparams"), file.get("tok_embeddings.name")
    naming = next((naming for naming in GGCP.namings if naming("tok_embeddings").encode() == first), None)
    if n_layer is None or naming is None:
        return None
    if naming is not GGCP.namings[0] and len(file.get("layers[0].w1.ne") or ()) < 2:
        return None  # n_ff by n_mult is right only in files with llama's names
    shapes = model_shapes(hparams["n_vocab"], hparams["n_embd"], n_layer, file.get("n_ff") or 0)
    *_, last = walk(file.find("hparams").end, shapes, naming)
    return last.end
