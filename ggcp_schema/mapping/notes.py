"""What a plan says it changes and on what evidence, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ggcp_schema.constructs import counted
from ggcp_schema.errors import TruncatedError
from ggcp_schema.llama.facts import Fact, Remedy
from ggcp_schema.llama.parameters import RESUME_ORDER
from ggcp_schema.llama.scale import COSTS, SAFER
from ggcp_schema.schema.inference import ADAM

if TYPE_CHECKING:
    from ggcp_schema.errors import MalformedError
    from ggcp_schema.llama.model import Model
    from ggcp_schema.llama.training import Study, Training
    from ggcp_schema.llama.vocabulary import Vocabulary
    from ggcp_schema.mapping.gguf import Gguf
    from ggcp_schema.mapping.resume import Recipe

AS_THEY_ARE = "m and v are copied as they are"


def resume_facts(training: Training, conclusions: Study, recipe: Recipe, problem: str) -> Iterator[Fact]:
    """Yield what is changed in a checkpoint to resume from. `problem` is why its rotation stays as it is stored."""
    scale = conclusions.scale
    if recipe.fresh:
        adam = "" if training.optimizer == ADAM else " Adam, which replaces L-BFGS,"
        yield Fact("optimizer", f"written as one that has not started yet,{adam} with zeros and iteration counts of 0")
    else:
        yield _order_fact(training, conclusions, recipe)
        if scale.summed:
            estimate = ", an estimate" * scale.assumed
            effect = (
                f"m is divided by {recipe.scale:,}{estimate}, v by its square" if recipe.scale != 1 else AS_THEY_ARE
            )
            yield Fact("scale", scale.reason, effect=effect, short=effect)
            if scale.assumed or scale.s is None:
                yield Fact("batch", SAFER, effect=COSTS, remedy=Remedy("n_batch", "N"), short=SAFER)
        elif scale.gradient != "mean" and training.optimizer == ADAM and not conclusions.order.harmless:
            yield Fact("scale", scale.reason, effect=AS_THEY_ARE, short=AS_THEY_ARE)
    if problem:
        yield Fact("rotation", problem, effect=f"n_rot {training.model.n_rot} is kept as it is")
    else:
        yield from _rotation_fact(training.model.n_rot, *recipe.rotation)


def change_facts(training: Training, content: Gguf, recipe: Recipe) -> Iterator[Fact]:
    """Yield what becomes of an input that is a GGUF checkpoint already."""
    if training.keys is None:
        return
    stored = {entry.key: (entry.type, entry.value) for entry in training.keys}
    changed = [entry.key for entry in content.keys if (entry.type, entry.value) != stored.get(entry.key)]
    if recipe.fresh or recipe.permutes or recipe.scale != 1:
        changed.append("the optimizer's vectors")
    done = f"changed are {', '.join(changed)}" if changed else "nothing had to be converted, and all is copied as it is"
    yield Fact("input", f"it is a GGUF checkpoint already; {done}")


def model_facts(
    model: Model, vocabulary: Vocabulary, damage: MalformedError | None, context_length: int | None
) -> Iterator[Fact]:
    """Yield where the parts of a model are from; `context_length` is what the user states."""
    yield from damage_facts(damage, "model")
    known = model.context
    if context_length is None:
        yield Fact("context length", f"{known.tokens} tokens", known.reason)
    else:
        differs = known.tokens is not None and known.tokens != context_length
        warning = f"but the file says {known.text}" if differs else ""
        yield Fact("context length", f"{context_length} tokens", "stated by the user", warning)
    yield from _rotation_fact(model.n_rot, *model.rotation)
    described = {
        "path": vocabulary.path,
        "kind": vocabulary.kind,
        "tokens": vocabulary.n_tokens,
        "note": vocabulary.note or None,
    }
    n_tokens = counted(vocabulary.n_tokens, "token")
    yield Fact("vocabulary", f"{vocabulary.path}, {vocabulary.kind}, {n_tokens}", value=described)
    if vocabulary.note:
        yield Fact("vocabulary", vocabulary.note)


def damage_facts(damage: MalformedError | None, part: str) -> Iterator[Fact]:
    """Yield that only a part of a damaged file was read."""
    if damage is not None:
        is_cut = isinstance(damage, TruncatedError)
        lost = "and what follows it" if is_cut else "or more; a number or a key that is lost counts as not stated"
        yield Fact("damaged", f"only the {part} was read; lost: {damage.path} {lost}")


def _order_fact(training: Training, conclusions: Study, recipe: Recipe) -> Fact:
    order = conclusions.order
    if recipe.permutes:
        text = f"the optimizer's vectors are rewritten from order {order.order} to order {RESUME_ORDER}"
        return Fact("order", text, order.reason, short=text)
    if order.is_certain:
        text = f"the optimizer's vectors are in order {RESUME_ORDER} already"
        return Fact("order", text, order.reason, short=text)
    copied = "the optimizer's vectors are copied as they are"
    if order.harmless:
        return Fact("order", copied, order.reason, short=copied)
    known = f"likely {order.order}" if order.order else "unknown"
    *others, last = training.orders
    remedy = Remedy("order", f"{', '.join(others)} or {last}")
    return Fact("order", known, order.reason, copied, remedy, short=f"{known}; {copied}")


def _rotation_fact(n_rot: int, dimension_count: int, freq_base: float | None) -> Iterator[Fact]:
    if n_rot != dimension_count:
        heads = f"n_rot {n_rot} of heads of {dimension_count} dimensions"
        keys = f"rope.dimension_count {dimension_count} and rope.freq_base {freq_base:g}"
        yield Fact("rotation", f"{heads} is written as {keys}")
