"""The state of a training as its soundness is judged, in a file of whatever format, damaged or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from construct import Container

from ggcp_schema.errors import MalformedError, UnfitError, UsageError
from ggcp_schema.files.tensor import Tensor
from ggcp_schema.formats.file import File, Repairable
from ggcp_schema.llama import names
from ggcp_schema.llama.order import decide_order
from ggcp_schema.llama.state import RULES, Loss, State, Unsound

if TYPE_CHECKING:
    from ggcp_schema.llama.adam import AdamParams
    from ggcp_schema.llama.training import Study, Training

COUNT = "optimizer.iter"
LOSSES = ("optimizer.state.fx_best", "optimizer.state.fx_prev")
LOSS_KEYS = (names.ADAM_BEST_LOSS, names.ADAM_PREVIOUS_LOSS, names.LBFGS_BEST_LOSS)
SAMPLE = 1 << 16  # bytes of the largest tensor
LEAST_DIFFERENT = 64  # bytes in it, so that it is no chance that none has its highest bit


def state_of(file: File) -> State | None:
    """Return what can be examined of the training state in a file, damaged or not; None if it has no whole tensor.

    Tensors whose elements are not F32 are left out.
    """
    if not is_examinable(file):
        return None
    model, vectors = (dict(_examinable(tensors)) for tensors in (file.dense_tensors, file.state_tensors))
    iterations = iterations_of(file) or 0
    return State(
        model,
        vectors,
        max(model["norm"].shape[0], 1) if "norm" in model else 1,
        iterations,
        adam_of(file, iterations),
        [
            Loss(path, file.find(path).offset, value)
            for path in (LOSS_KEYS if file.key_values else LOSSES)
            if isinstance(value := _stated(file, path), float)
        ],
        partial(_proven_order, model, vectors),
    )


def is_examinable(file: File) -> bool:
    """Return True if a file has a training state of which `state_of` returns something."""
    is_training = any(_stated(file, path) is not None for path in (COUNT, "optimizer.nx"))
    return is_training and any(_examinable(file.dense_tensors))


def _examinable(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((path, tensor) for path, tensor in tensors.items() if tensor.type == "F32" and not tensor.is_null)


def unsound_fields(file: File) -> tuple[Unsound, ...]:
    """Return what is unsound outside of the tensors: holes in texts, and losses that no training leaves.

    Reads no values but the ends of L-BFGS's gradient.
    """
    return (*file.lost_texts(), *_impossible_losses(file))


def unsound_anyway(file: File) -> tuple[Unsound, ...]:
    """Return what is unsound in a file, whether it has a training state that can be examined or not."""
    return (*file.lost_texts(), *_of_seven_bits(file))


def _impossible_losses(file: File) -> list[Unsound]:
    stated = (_stated(file, path) for path in (*LOSSES, *LOSS_KEYS))
    state = state_of(file) if any(isinstance(value, float) and value <= 0 for value in stated) else None
    return [] if state is None else state.impossible_losses()


def _of_seven_bits(file: File) -> list[Unsound]:
    """Return that no byte has its highest bit, as after a line that carries texts of 7 bits; empty if one has it.

    Of the bytes of numbers that differ, every second has it.
    """
    tensor = max(file.tensors.values(), key=lambda tensor: tensor.nbytes, default=None)
    if tensor is None or tensor.type != "F32":
        return []
    data = file.source.read(tensor.offset, min(tensor.nbytes, SAMPLE))
    if not data.isascii() or len({*data}) < LEAST_DIFFERENT:
        return []
    text = f"{RULES['seven-bits']}: copy the original again in binary mode"
    return [Unsound(tensor.path, tensor.offset, tensor.offset + len(data), "seven-bits", text)]


def has_values_twice(file: File) -> bool:
    """Return True if `repair` takes back values of a file. Records are searched only if some can be taken back."""
    from ggcp_schema.llama.repair import value_patches

    state = state_of(file) if file.damage is None else None
    if state is None:
        return file.is_repairable
    return bool(value_patches(state)) and repairable_of(file) is not None


def repairable_of(file: File) -> Repairable | None:
    """Return what a file must hold; None if its format holds nothing twice, or its parts cannot be told."""
    try:
        return file.repairable(file.source)
    except UsageError:
        return None


def study_of(file: File) -> tuple[Training, Study] | tuple[None, None]:
    """Return the state of a training and what follows from it; None twice if it is damaged, or the file has none."""
    from ggcp_schema.llama.training import study

    try:
        training = file.training()
        return training, study(training)
    except (MalformedError, UnfitError, UsageError):
        return None, None


def _stated(file: File, path: str) -> Any:
    """Return the value at a path, or of a key; None if the file is of a format that has no such name."""
    return file.get(path) if file.field(path) else None


def _proven_order(model: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> str | None:
    decision = decide_order(model, vectors)
    return decision.order if decision.certainty == "proven" else None


def iterations_of(file: File) -> int | None:
    """Return the count of the optimizer's iterations; None if the file, or the whole part of it, does not tell."""
    count = _stated(file, COUNT)
    return count if isinstance(count, int) else None


def adam_of(file: File, iterations: int) -> AdamParams | None:
    """Return Adam's parameters; None if the file does not store them, or is one of L-BFGS."""
    params = File.get(file, "optimizer.params.adam")  # a checkpoint's own looks for the path in all layouts
    if not isinstance(params, Container):  # a key may have this name
        return None
    if file.get("optimizer.type") != "adam":  # with L-BFGS they are uninitialised memory
        return None
    from ggcp_schema.llama.adam import AdamParams  # it imports numpy, which a file without a training does not need

    return AdamParams.of(params, iterations)
