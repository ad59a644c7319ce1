"""What a plan says it changes and on what evidence: one sentence each, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ggcp_schema.llama.parameters import RESUME_ORDER
from ggcp_schema.llama.scale import COSTS
from ggcp_schema.schema.inference import ADAM

if TYPE_CHECKING:
    from ggcp_schema.errors import MalformedError
    from ggcp_schema.llama.training import Study, Training
    from ggcp_schema.mapping.model import Model
    from ggcp_schema.mapping.resume import Recipe
    from ggcp_schema.mapping.vocabulary import Vocabulary


def resume_notes(training: Training, conclusions: Study, recipe: Recipe, problem: str) -> Iterator[str]:
    """Yield what is changed in a checkpoint to resume from. `problem` is why its rotation stays as it is stored."""
    scale = conclusions.scale
    if recipe.fresh:
        adam = "" if training.optimizer == ADAM else " Adam, which replaces L-BFGS,"
        yield f"optimizer: written as one that has not started yet,{adam} with zeros and iteration counts of 0"
    else:
        yield _order_note(conclusions, recipe)
        if scale.summed:
            change = "m and v are copied as they are"
            if recipe.scale != 1:
                change = f"m is divided by {recipe.scale:,}, v by its square"
            yield f"scale: {scale.reason}; {change}"
            if scale.assumed or scale.s is None:
                yield f"batch: if you know it, state it: n_batch=N. {COSTS}"
        elif scale.gradient != "mean" and training.optimizer == ADAM:
            yield f"scale: {scale.reason}; m and v are copied as they are"
    if problem:
        yield f"rotation: {problem}; n_rot {training.n_rot} is kept as it is"
    else:
        yield from _rotation_note(training.n_rot, *recipe.rotation)


def model_notes(
    model: Model, vocabulary: Vocabulary, damage: MalformedError | None, context_length: int | None
) -> Iterator[str]:
    """Yield where the parts of a model are from; `context_length` is the one that the user states."""
    if damage is not None:
        yield f"damaged: only the model was read; lost: {damage.path} and what follows it"
    if context_length is None:
        yield f"context length: {model.context_length} tokens (stored in the file)"
    else:
        yield f"context length: {context_length} tokens (stated by the user)"
    yield from _rotation_note(model.n_rot, *model.rotation)
    if vocabulary.note:
        yield f"vocabulary: {vocabulary.note}"


def _order_note(conclusions: Study, recipe: Recipe) -> str:
    order = conclusions.order
    if recipe.permutes:
        change = f"from order {order.order} to order {RESUME_ORDER}"
        return f"order: the optimizer's vectors are rewritten {change} ({order.reason})"
    if order.is_certain:
        return f"order: the optimizer's vectors are in order {RESUME_ORDER} already ({order.reason})"
    if order.harmless:
        return f"order: the optimizer's vectors are copied as they are ({order.reason})"
    known = f"likely {order.order}" if order.order else "unknown"
    return (
        f"order: {known} ({order.reason}); the optimizer's vectors are copied as they are. "
        "If you know the order, state it: order=A, B or C"
    )


def _rotation_note(n_rot: int, dimension_count: int, freq_base: float | None) -> Iterator[str]:
    if n_rot != dimension_count:
        yield (
            f"rotation: n_rot {n_rot} of heads of {dimension_count} dimensions is written as "
            f"rope.dimension_count {dimension_count} and rope.freq_base {freq_base:g}"
        )
