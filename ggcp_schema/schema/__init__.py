"""The layouts of the files. The fields are named as in the programs and specifications that define them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ggcp_schema.schema.checkpoint import CHECKPOINT
    from ggcp_schema.schema.ggml_model import GGJT, GGMF, GGML
    from ggcp_schema.schema.gguf import GGUF
    from ggcp_schema.schema.model import HPARAMS, LAYER
    from ggcp_schema.schema.optimizer import OPTIMIZER
    from ggcp_schema.schema.tensor import TENSOR, Tensor

_HOMES = {
    "CHECKPOINT": "checkpoint",
    **dict.fromkeys(("GGJT", "GGMF", "GGML"), "ggml_model"),
    "GGUF": "gguf",
    **dict.fromkeys(("HPARAMS", "LAYER"), "model"),
    "OPTIMIZER": "optimizer",
    **dict.fromkeys(("TENSOR", "Tensor"), "tensor"),
}
__all__ = ["CHECKPOINT", "GGJT", "GGMF", "GGML", "GGUF", "HPARAMS", "LAYER", "OPTIMIZER", "TENSOR", "Tensor"]


def __getattr__(name: str) -> Any:
    """Import a page when it is first used: a command needs those of its files only."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
