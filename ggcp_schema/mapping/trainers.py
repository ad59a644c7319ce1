"""The commands of llama.cpp's trainers that resume from a GGUF checkpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ggcp_schema.llama.parameters import RESUME_ORDER
from ggcp_schema.schema.inference import ADAM

if TYPE_CHECKING:
    from ggcp_schema.llama.adapter import Adapter
    from ggcp_schema.llama.context import Context
    from ggcp_schema.llama.training import Study, Training


def is_resumed(training: Training, conclusions: Study) -> bool:
    """Return True if the trainer goes on from the state: it is Adam's, and the order is its own or does not matter.

    An order that is certain is rewritten to that of the trainer by `convert`.
    """
    order = conclusions.order
    return training.optimizer == ADAM and (order.is_certain or order.harmless or order.order == RESUME_ORDER)


def is_ready(training: Training, conclusions: Study) -> bool:
    """Return True for a GGUF checkpoint from which the trainer goes on without a conversion."""
    order = conclusions.order
    is_own = order.harmless or order.order == RESUME_ORDER
    return training.keys is not None and training.optimizer == ADAM and is_own and not conclusions.scale.summed


def resume_words(training: Training, checkpoint: str) -> tuple[str, ...]:
    """Return the command of the last trainer, that of July 2024, that resumes from a GGUF checkpoint."""
    numbers = {
        "--threads": os.cpu_count(),  # by default 6, which hardly move on fewer cores
        "--ctx": training.model.context.tokens,
        "--embd": training.model.n_embd,
        "--head": training.model.n_head,
        "--layer": training.model.n_layer,
        "--ff": training.model.n_ff,
        "--opt-past": training.past,  # it refuses a checkpoint with another number
    }
    return (
        "llama-train-text-from-scratch",
        *("--checkpoint-in", checkpoint, "--checkpoint-out", "chk-LATEST.gguf", "--model-out", "model.gguf"),
        *("--vocab-model", "VOCABULARY.gguf", "--train-data", "TEXT"),
        *(word for option, number in numbers.items() if number for word in (option, str(number))),
        *("--no-flash", "--use-checkpointing"),
    )


def has_mixed_ranks(adapter: Adapter) -> bool:
    """Return True if one option does not tell the ranks of an adapter."""
    ranks = {adapter.pairs[path].rank for path in adapter.matrices}
    return len(ranks) > 1 or {adapter.pairs[path].rank for path in adapter.norms} != {1}


def finetune_words(adapter: Adapter, context: Context, past: int, checkpoint: str) -> tuple[str, ...]:
    """Return the command of finetune that resumes from a GGUF checkpoint of an adapter."""
    ranks = {adapter.pairs[path].rank for path in adapter.matrices}
    return (
        *("finetune", "--model-base", "BASE.gguf", "--train-data", "TEXT", "--checkpoint-in", checkpoint),
        *("--checkpoint-out", "chk-LATEST.gguf", "--lora-out", "lora-LATEST.gguf"),
        *(("--ctx", str(context.tokens)) if context.tokens else ()),
        *(("--opt-past", str(past)) if past else ()),
        *(() if has_mixed_ranks(adapter) or ranks == {4} else ("--lora-r", str(*ranks))),
    )
