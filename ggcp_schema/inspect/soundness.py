"""Whether the values of a checkpoint can be what its program wrote, whatever the format of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from ggcp_schema.errors import UnfitError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File
from ggcp_schema.llama import names
from ggcp_schema.llama.adam import AdamParams
from ggcp_schema.llama.order import decide_order
from ggcp_schema.llama.soundness import LEAST, examine
from ggcp_schema.llama.state import RULES, Loss, State, Unsound, place_text

HEADER = 16  # bytes of the shortest header of a vector
BLOCK = 1 << 16  # values read at a time
COUNTS = ("optimizer.iter", names.OPTIMIZER_ITERATION_COUNT)
LOSSES = (
    "optimizer.state.fx_best",
    "optimizer.state.fx_prev",
    names.ADAM_BEST_LOSS,
    names.ADAM_PREVIOUS_LOSS,
    names.LBFGS_BEST_LOSS,
)


def state_of(file: File) -> State | None:
    """Return what can be examined of the training state in a file, damaged or not; None if it has no whole tensor.

    Tensors whose elements are not F32 are left out.
    """
    model, vectors = {}, {}
    for path, tensor in file.tensors.items():
        field = names.field_path(path) or path
        if tensor.type != "F32" or tensor.is_null:
            continue
        if field.startswith(names.STATE):
            vectors[field.removeprefix(names.STATE)] = tensor
        elif names.tensor_name(field):
            model[field] = tensor
    is_training = any(file.get(path) is not None for path in (*COUNTS, "optimizer.nx"))
    if not is_training or not model:
        return None
    counts = (file.get(path) for path in COUNTS)
    iterations = next((count for count in counts if isinstance(count, int)), 0)
    return State(
        model,
        vectors,
        max(model["norm"].shape[0], 1) if "norm" in model else 1,
        iterations,
        _adam(file, iterations),
        [Loss(path, file.find(path).offset, value) for path in LOSSES if isinstance(value := file.get(path), float)],
        partial(_proven_order, model, vectors),
    )


def _proven_order(model: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> str | None:
    try:
        decision = decide_order(model, vectors)
    except UnfitError:  # the model is not whole
        return None
    return decision.order if decision.certainty == "proven" else None


def _adam(file: File, iterations: int) -> AdamParams | None:
    params = file.get("optimizer.params.adam")
    if params is None or file.get("optimizer.type") != "adam":  # with L-BFGS they are uninitialised memory
        return None
    return AdamParams(iterations, *(params[name] for name in ("alpha", "sched", "beta1", "beta2", "eps")))


def soundness(file: File, progress: Callable[[int], None] | None = None) -> list[Unsound]:
    """Return what is unsound in a file, in file order; nothing for a file without a training state.

    Reads the weights, m, v, mh, vh and x in pieces. Raises `FileError` if the file cannot be read.
    """
    state = state_of(file)
    return [] if state is None else [*examine(state, progress), *_hole(file)]


def _hole(file: File) -> Iterator[Unsound]:
    """Yield the zeros at the end of the last tensor before the damage, if only zeros follow where a header should."""
    if file.damage is None:
        return
    before = [tensor for tensor in file.tensors.values() if tensor.offset + tensor.nbytes <= file.damage.offset]
    last = max(before, key=lambda tensor: tensor.offset, default=None)
    if last is None or last.type != "F32" or not last.nbytes:
        return
    end = last.offset + last.nbytes
    header = file.source.read(end, min(HEADER, file.size - end))
    if file.damage.offset - end > HEADER or not header or any(header):
        return
    start = last.n_elements
    while start:
        block = file.source.read(last.offset + 4 * max(0, start - BLOCK), 4 * min(start, BLOCK))
        kept = -(-len(block.rstrip(b"\0")) // 4)
        start = max(0, start - BLOCK) + kept
        if kept:
            break
    if last.n_elements - start >= LEAST:
        first = last.offset + 4 * start
        text = f"{RULES['zeros-before-hole']}: {place_text(last, first, end)}"
        yield Unsound(last.path, first, end, "zeros-before-hole", text)
