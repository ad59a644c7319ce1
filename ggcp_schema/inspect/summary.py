"""What a checkpoint is, in numbers and in words."""

from __future__ import annotations

from typing import Any

from ggcp_schema.checkpoint import Checkpoint


def optimizer_summary(ckpt: Checkpoint) -> dict[str, Any]:
    """The optimizer's type and how it is known. `confirmed` is None where the type was stored."""
    inference = ckpt.inference
    return {
        "type": ckpt.optimizer.type,
        "inferred": inference is not None,
        "by_size": inference and inference.by_size,
        "by_records": inference and inference.by_records,
        "confirmed": inference and inference.confirmed,
    }


def describe_optimizer(ckpt: Checkpoint) -> str:
    """The same in words: `adam (inferred from the size of its state; the third tensor confirms it)`."""
    inference = ckpt.inference
    if inference is None:
        return f"{ckpt.optimizer.type} (stored in the file)"
    if inference.confirmed:
        return f"{inference.type} (inferred from the size of its state; the shape of its third tensor confirms it)"
    if inference.by_records:
        return f"{inference.type} (inferred from the shape of its third tensor; by its size it would be {inference.by_size})"
    return f"{inference.type} (inferred from the size of its state; its third tensor would fit either type)"
